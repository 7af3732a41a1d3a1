package e2e

import (
	"fmt"
	"os"
	"time"
)

// stoodStill is how late a timer must be for the machine to have stood still, rather than been busy: dayfly's own timers
// that end something are longer than this.
const stoodStill = 2 * time.Second

// watchMachine notes in the file that DAYFLY_STOOD_STILL names when the machine stood still, and for how long: no process of it
// ran then, and what was promised within seconds could not be kept.
func watchMachine() {
	const every = 100 * time.Millisecond
	for last := time.Now().Round(0); ; {
		time.Sleep(every)
		now := time.Now().Round(0) // the clock that goes on meanwhile
		if late := now.Sub(last) - every; late > stoodStill {
			note(fmt.Sprintf("%s for %s\n", last.UTC().Format(time.TimeOnly), late.Round(100*time.Millisecond)))
		}
		last = now
	}
}

func note(line string) {
	path := os.Getenv("DAYFLY_STOOD_STILL")
	if path == "" {
		fmt.Fprint(os.Stderr, "the machine stood still at ", line)
		return
	}
	if f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
		defer f.Close()
		_, _ = f.WriteString(line)
	}
}
