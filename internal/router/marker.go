package router

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"dayfly.dev/dayfly/internal/control"
)

// marker answers the question whether this node follows the endpoints that the API server has. The controller gives the
// marker Service, which is of no other use, a new target port for each question; a node handles changes of endpoints in
// their order, so once it sends connections to the new port, it has followed every change that was made before.
//
// Every router listens on all of the marker's ports and says on each connection which one it is.
type marker struct {
	log *slog.Logger

	mu      sync.Mutex
	service string // ClusterIP:port
}

func newMarker(log *slog.Logger) *marker { return &marker{log: log} }

func (m *marker) watch(service string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.service = service
}

func (m *marker) run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range control.MarkerPorts {
		l, err := net.Listen("tcp", ":"+strconv.Itoa(control.MarkerPort+i))
		if err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { l.Close() })
		defer stop()
		wg.Go(func() { sayNumber(l, byte(i)) })
	}
	<-ctx.Done()
	return nil
}

func sayNumber(l net.Listener, number byte) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_ = c.SetDeadline(time.Now().Add(time.Second))
		_, _ = c.Write([]byte{number})
		c.Close()
	}
}

const askMarker = 10 * time.Millisecond

func (m *marker) await(ctx context.Context, generation int) error {
	m.mu.Lock()
	service := m.service
	m.mu.Unlock()
	if service == "" {
		return fmt.Errorf("the marker service is not known")
	}
	want := byte(generation % control.MarkerPorts)
	var last error
	for {
		got, err := askNumber(ctx, service)
		if err == nil && got == want {
			return nil
		}
		last = err
		select {
		case <-ctx.Done():
			if last == nil {
				last = fmt.Errorf("the node still follows generation %d of 16, not %d", got, want)
			}
			return fmt.Errorf("asking the marker service: %w", last)
		case <-time.After(askMarker):
		}
	}
}

func askNumber(ctx context.Context, service string) (byte, error) {
	d := net.Dialer{Timeout: 300 * time.Millisecond}
	c, err := d.DialContext(ctx, "tcp", service)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(300 * time.Millisecond))
	var b [1]byte
	_, err = c.Read(b[:])
	return b[0], err
}
