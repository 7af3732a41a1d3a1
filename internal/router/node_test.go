package router

import (
	"slices"
	"testing"
	"time"

	"dayfly.dev/dayfly/internal/intercept"
)

// A port that leaves the table is served on for a while.
func TestPortsThatVanishLinger(t *testing.T) {
	now := time.Now()
	at := func(d time.Duration) *time.Time { return new(now.Add(d)) }
	open := intercept.Listener{Port: 20000, Service: "a/web", Routes: []intercept.Route{{ID: "s/web:80", All: true}}}
	drained := intercept.Listener{Port: 20001, Service: "a/api", DrainUntil: at(-time.Second)}
	for _, c := range []struct {
		name                 string
		had, lingering, next []intercept.Listener
		want                 []int
	}{
		{"kept", []intercept.Listener{open}, nil, []intercept.Listener{open}, nil},
		{"vanished", []intercept.Listener{open}, nil, nil, []int{20000}},
		{"vanished after its drain", []intercept.Listener{drained}, nil, nil, []int{20001}},
		{"lingers on", nil, []intercept.Listener{{Port: 20000, DrainUntil: at(time.Second)}}, nil, []int{20000}},
		{"its time is over", nil, []intercept.Listener{{Port: 20000, DrainUntil: at(-time.Second)}}, nil, nil},
		{"captured again", nil, []intercept.Listener{{Port: 20000, DrainUntil: at(time.Second)}}, []intercept.Listener{open}, nil},
		{"vanished again", []intercept.Listener{open}, []intercept.Listener{{Port: 20000, DrainUntil: at(time.Second)}}, nil, []int{20000}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := linger(c.had, c.lingering, c.next, now)
			var ports []int
			for _, l := range got {
				ports = append(ports, l.Port)
				if l.DrainUntil == nil || len(l.Routes) > 0 {
					t.Errorf("port %d drains until %v with %d routes", l.Port, l.DrainUntil, len(l.Routes))
				}
			}
			if !slices.Equal(ports, c.want) {
				t.Errorf("linger: %v, want %v", ports, c.want)
			}
		})
	}
	if open.DrainUntil != nil || open.Routes == nil {
		t.Error("the table itself was changed")
	}
}
