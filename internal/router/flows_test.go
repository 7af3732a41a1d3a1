package router

import (
	"io"
	"net"
	"testing"

	"dayfly.dev/dayfly/internal/control"
	"dayfly.dev/dayfly/internal/intercept"
	"github.com/google/go-cmp/cmp"
)

func statusOf(routes ...intercept.RouteStatus) intercept.Status {
	return intercept.Status{Listeners: []intercept.ListenerStatus{{Port: 20000, Routes: routes}}}
}

// What a laptop was sent is known until the controller has surely heard it: also of a route that has ended, also what went
// through its streams after that. A route that is made again begins anew.
func TestFlowsOfEndedRoutesAreStillTold(t *testing.T) {
	f := newFlows()
	router, laptop := net.Pipe()
	stream := f.count("ada/web:80", router)
	exchange := func() {
		t.Helper()
		go func() {
			_, _ = io.ReadFull(laptop, make([]byte, 5))
			_, _ = laptop.Write([]byte("hey"))
		}()
		if _, err := stream.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(stream, make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string, now intercept.Status, want map[string]control.Flow) {
		t.Helper()
		if diff := cmp.Diff(want, f.told(now)); diff != "" {
			t.Errorf("%s (-want +told):\n%s", when, diff)
		}
	}
	ada := intercept.RouteStatus{ID: "ada/web:80", Requests: 2, Fallbacks: 1}
	exchange()
	check("in force", statusOf(ada, intercept.RouteStatus{ID: "bob/web:80"}), map[string]control.Flow{
		"ada/web:80": {Requests: 2, Fallbacks: 1, Sent: 5, Received: 3}})
	f.leave(statusOf(ada), nil)
	exchange()
	check("ended", statusOf(), map[string]control.Flow{"ada/web:80": {Requests: 2, Fallbacks: 1, Sent: 10, Received: 6}})
	f.leave(statusOf(), []intercept.Listener{{Routes: []intercept.Route{{ID: "ada/web:80"}}}})
	check("made again", statusOf(intercept.RouteStatus{ID: "ada/web:80", Requests: 1}), map[string]control.Flow{"ada/web:80": {Requests: 1}})
	if f.sent.Load() != 10 || f.received.Load() != 6 || f.opened.Load() != 1 {
		t.Errorf("all: sent %d, received %d in %d streams", f.sent.Load(), f.received.Load(), f.opened.Load())
	}
}

// Half-close and reset pass through, which the engine needs to end a stream as the caller ended it.
func TestCountedStreamsEndAsTheyAreToldTo(t *testing.T) {
	var said []string
	s := &countedStream{&ender{said: &said}, &flow{}, newFlows()}
	_, _ = s.CloseWrite(), s.Reset()
	if diff := cmp.Diff([]string{"CloseWrite", "Reset"}, said); diff != "" {
		t.Error(diff)
	}
}

// ender says how it was ended.
type ender struct {
	net.Conn
	said *[]string
}

func (e *ender) CloseWrite() error { *e.said = append(*e.said, "CloseWrite"); return nil }
func (e *ender) Reset() error      { *e.said = append(*e.said, "Reset"); return nil }
