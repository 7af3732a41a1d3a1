package control

import (
	"testing"
	"time"

	"dayfly.dev/dayfly/internal/intercept"
)

// A drain lasts as long on a router whose clock is hours off: what is open is not cut off at once, nor kept for hours.
func TestDrainsLastAsLongByAnyClock(t *testing.T) {
	t.Parallel()
	here := time.Now()
	for _, off := range []time.Duration{0, 5 * time.Hour, -5 * time.Hour} {
		there := here.Add(off) // the controller's clock
		table := Table{Sent: there, Listeners: []intercept.Listener{{Port: 1}, {Port: 2, DrainUntil: new(there.Add(3 * time.Second))}}}
		got := table.Here(here)
		if left := got.Listeners[1].DrainUntil.Sub(here); left != 3*time.Second {
			t.Errorf("%s off: drains for %s", off, left)
		}
		if got.Listeners[0].DrainUntil != nil || !table.Listeners[1].DrainUntil.Equal(there.Add(3*time.Second)) {
			t.Errorf("%s off: another listener, or the table that was sent, was changed", off)
		}
	}
	old := Table{Listeners: []intercept.Listener{{Port: 2, DrainUntil: &here}}} // of a controller that does not say
	if got := old.Here(here.Add(time.Hour)); !got.Listeners[0].DrainUntil.Equal(here) {
		t.Error("a table without a time was moved")
	}
}
