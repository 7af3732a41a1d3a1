package cluster

import (
	"fmt"
	"io"
	"time"
)

// Progress tells a person what is being done and how long it took.
type Progress struct {
	W io.Writer
}

// Step does f. What ends quickly is one line; of what takes long, the beginning is told too, and every ten seconds that
// it goes on.
func (p *Progress) Step(what string, f func() error) error {
	began := time.Now()
	elapsed := func() time.Duration { return time.Since(began).Round(100 * time.Millisecond) }
	done := make(chan error, 1)
	go func() { done <- f() }()
	for wait := time.Second; ; wait = 10 * time.Second {
		select {
		case err := <-done:
			if err == nil {
				fmt.Fprintf(p.W, "%6s  %s\n", elapsed(), what)
			}
			return err
		case <-time.After(wait):
			fmt.Fprintf(p.W, "%6s  %s …\n", elapsed().Round(time.Second), what)
		}
	}
}

// Note tells something that is worth knowing.
func (p *Progress) Note(text string) { fmt.Fprintf(p.W, "        note: %s\n", text) }
