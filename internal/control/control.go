// Package control is what controller and routers say to each other: HTTPS with certificates on both sides, JSON inside.
//
//	router → controller   POST /enrol     a token proves the router's pod; the answer is its certificate
//	controller → router   PUT  /table     the whole table; the answer is the acknowledgement
//	controller → router   GET  /status    what the router sees; waits until it differs from what the caller knows
//	controller → router   POST /settle    waits until the router's node follows a generation of the marker Service
//	controller → router   POST /reach     waits until the router can connect to the pods behind one of its ports
//	router → router       GET  /alive     whether it serves by a table
package control

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"dayfly.dev/dayfly/internal/identity"
	"dayfly.dev/dayfly/internal/intercept"
)

// Ports of the roles. They are the same in every installation: pods have addresses of their own.
const (
	ConnectPort   = 8443  // router: laptops, through the API server
	ControlPort   = 9443  // router and controller: each other
	HealthPort    = 8081  // both: the kubelet
	MarkerPort    = 19000 // router: the first of MarkerPorts
	MarkerPorts   = 16
	maxTableBytes = 64 << 20
	maxSmallBytes = 64 << 10
)

// Table is all that a router must know. It is immutable and replaced whole.
type Table struct {
	// Term and Version order tables: a router refuses a table of an earlier term, or an earlier one of the same term, so
	// that a controller which has lost the lead without noticing changes nothing.
	Term    int64 `json:"term"`
	Version int64 `json:"version"`

	// Sent is when the table was sent, by the controller's clock; the times in it are by that clock too.
	Sent time.Time `json:"sent,omitzero"`

	Listeners []intercept.Listener `json:"listeners"`
	Laptops   []Laptop             `json:"laptops"`
	Peers     []Peer               `json:"peers"`
	// Marker is the ClusterIP:port of the marker Service, or "".
	Marker string `json:"marker,omitempty"`
}

// Here returns the table with its times by the clock of whoever has just received it: clocks disagree.
func (t Table) Here(now time.Time) Table {
	if t.Sent.IsZero() {
		return t
	}
	ahead := now.Sub(t.Sent)
	t.Listeners = slices.Clone(t.Listeners)
	for i := range t.Listeners {
		if l := &t.Listeners[i]; l.DrainUntil != nil {
			l.DrainUntil = new(l.DrainUntil.Add(ahead))
		}
	}
	t.Sent = now
	return t
}

// Laptop is what a router must know to greet the laptop of one session.
type Laptop struct {
	Session   string   `json:"session"` // ID, never used again
	Name      string   `json:"name"`    // namespace/name, for people
	PublicKey string   `json:"publicKey"`
	Routes    []string `json:"routes"` // that it may answer

	Drain time.Duration `json:"drain"` // how long its open requests may go on when the session closes
}

// Peer is another router.
type Peer struct {
	Name    string     `json:"name"`
	Address netip.Addr `json:"address"`
}

// Status is what a router sees.
type Status struct {
	Seq     int64  `json:"seq"` // grows with every change worth waking for
	Name    string `json:"name"`
	Version string `json:"version"`
	Leaving bool   `json:"leaving,omitempty"` // it serves what it has and wants no more
	Term    int64  `json:"term"`              // of the table in force; 0: none
	Table   int64  `json:"table"`             // version of the table in force

	// AsksCallers says that the router serves a port to its Callers only; one of an earlier version knows nothing of them.
	AsksCallers bool `json:"asksCallers"`

	Finds     []int                `json:"finds"`         // router ports whose original pods it knows; nil: it does not say
	Connected map[string][]string  `json:"connected"`     // routes that connected laptops answer, by session
	Open      map[int]int          `json:"open"`          // open connections by router port
	Met       map[int][]netip.Addr `json:"met,omitempty"` // the first callers of each router port
	Flows     map[string]Flow      `json:"flows"`         // by route ID, those that had a request, also for a while after they ended
}

// Flow counts one route.
type Flow struct {
	Requests  uint64 `json:"requests"`  // and raw connections
	Fallbacks uint64 `json:"fallbacks"` // of those that should have gone to the laptop
	Sent      uint64 `json:"sent"`      // bytes to the laptop
	Received  uint64 `json:"received"`  // bytes from the laptop
}

// Add returns the sum of two flows, as of two routers.
func (f Flow) Add(g Flow) Flow {
	return Flow{f.Requests + g.Requests, f.Fallbacks + g.Fallbacks, f.Sent + g.Sent, f.Received + g.Received}
}

// Node is what a router does when it is told.
type Node interface {
	Apply(ctx context.Context, t Table) error
	Status() Status
	// Changed returns a channel that is closed when Status has another Seq than after.
	Changed(after int64) <-chan struct{}
	Settle(ctx context.Context, generation int) error
	Reach(ctx context.Context, port int) error
}

// StaleError says that a router has heard from a newer leader.
type StaleError struct{ Term, Version int64 }

func (e *StaleError) Error() string {
	return fmt.Sprintf("the router has a newer table (term %d, version %d)", e.Term, e.Version)
}

// RouterHandler serves the control port of a router. Who may call what is decided by the role in the certificate.
func RouterHandler(n Node, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	controller := func(pattern string, h func(w http.ResponseWriter, r *http.Request) error) {
		mux.HandleFunc(pattern, only(identity.RoleController, log, h))
	}
	controller("PUT /table", func(w http.ResponseWriter, r *http.Request) error {
		var t Table
		if err := decode(w, r, maxTableBytes, &t); err != nil {
			return err
		}
		if err := n.Apply(r.Context(), t); err != nil {
			return err
		}
		return encode(w, n.Status())
	})
	controller("GET /status", func(w http.ResponseWriter, r *http.Request) error {
		after, err := strconv.ParseInt(r.URL.Query().Get("after"), 10, 64)
		if err == nil {
			select {
			case <-n.Changed(after):
			case <-time.After(StatusWait):
			case <-r.Context().Done():
			}
		}
		return encode(w, n.Status())
	})
	controller("POST /settle", func(w http.ResponseWriter, r *http.Request) error {
		generation, err := strconv.Atoi(r.URL.Query().Get("generation"))
		if err != nil {
			return &httpError{http.StatusBadRequest, "generation is no number"}
		}
		if err := n.Settle(r.Context(), generation); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
	controller("POST /reach", func(w http.ResponseWriter, r *http.Request) error {
		port, err := strconv.Atoi(r.URL.Query().Get("port"))
		if err != nil {
			return &httpError{http.StatusBadRequest, "port is no number"}
		}
		if err := n.Reach(r.Context(), port); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
	mux.HandleFunc("GET /alive", only(identity.RoleRouter, log, func(w http.ResponseWriter, _ *http.Request) error {
		if n.Status().Term == 0 {
			return &httpError{http.StatusServiceUnavailable, "no table yet"} // started again: it serves no captured port
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}))
	return mux
}

// StatusWait is how long a router lets the controller wait for news; how soon its death is noticed depends on it.
const StatusWait = 500 * time.Millisecond

type httpError struct {
	code int
	text string
}

func (e *httpError) Error() string { return e.text }

// only admits callers whose certificate has the role.
func only(role identity.Role, log *slog.Logger, h func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		got, name, err := identity.PeerOf(*r.TLS)
		if err != nil || got != role {
			log.Warn("refused a caller", "path", r.URL.Path, "role", got, "name", name)
			http.Error(w, "not for your role", http.StatusForbidden)
			return
		}
		answer(w, r, log, h)
	}
}

func answer(w http.ResponseWriter, r *http.Request, log *slog.Logger, h func(http.ResponseWriter, *http.Request) error) {
	err := h(w, r)
	if err == nil || r.Context().Err() != nil {
		return
	}
	code := http.StatusInternalServerError
	if e, ok := errors.AsType[*httpError](err); ok {
		code = e.code
	} else if _, ok := errors.AsType[*StaleError](err); ok {
		code = http.StatusConflict
	}
	log.Warn("answered with an error", "path", r.URL.Path, "code", code, "reason", err)
	http.Error(w, err.Error(), code)
}

func decode(w http.ResponseWriter, r *http.Request, limit int64, v any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit))
	if err := d.Decode(v); err != nil {
		return &httpError{http.StatusBadRequest, "reading the request: " + err.Error()}
	}
	return nil
}

func encode(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(v)
}

// Client calls one router.
type Client struct {
	http *http.Client
	base string
}

// NewClient returns a client for the router at addr. Every connection is made with the credentials that certs holds then.
func NewClient(addr netip.Addr, certs *identity.Holder) *Client {
	transport := &http.Transport{
		MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute,
		DialTLSContext: func(ctx context.Context, network, hostport string) (net.Conn, error) {
			cfg, err := certs.ClientTLS(identity.RoleRouter)
			if err != nil {
				return nil, err
			}
			d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 2 * time.Second}, Config: cfg}
			return d.DialContext(ctx, network, hostport)
		},
	}
	return &Client{&http.Client{Transport: transport}, "https://" + netip.AddrPortFrom(addr, ControlPort).String()}
}

// Close ends the client's idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Push hands the router a table; when it returns the table is in force there.
func (c *Client) Push(ctx context.Context, t Table) (Status, error) {
	data, err := json.Marshal(t)
	if err != nil {
		return Status{}, fmt.Errorf("encoding the table: %w", err)
	}
	var s Status
	return s, c.call(ctx, http.MethodPut, "/table", data, &s)
}

// Status returns what the router sees: at once if after is negative, else when it differs from what had that Seq, or after
// StatusWait.
func (c *Client) Status(ctx context.Context, after int64) (Status, error) {
	path := "/status"
	if after >= 0 {
		path += "?after=" + strconv.FormatInt(after, 10)
	}
	var s Status
	return s, c.call(ctx, http.MethodGet, path, nil, &s)
}

// Settle returns when the router's node follows the generation of the marker.
func (c *Client) Settle(ctx context.Context, generation int) error {
	return c.call(ctx, http.MethodPost, "/settle?generation="+strconv.Itoa(generation), nil, nil)
}

// Reach returns when the router can connect to the pods behind one of its ports.
func (c *Client) Reach(ctx context.Context, port int) error {
	return c.call(ctx, http.MethodPost, "/reach?port="+strconv.Itoa(port), nil, nil)
}

// Alive returns nil if the router answers.
func (c *Client) Alive(ctx context.Context) error {
	return c.call(ctx, http.MethodGet, "/alive", nil, nil)
}

func (c *Client) call(ctx context.Context, method, path string, body []byte, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
		return fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(text))
	}
	if into == nil {
		_, err := io.Copy(io.Discard, resp.Body)
		return err
	}
	return json.NewDecoder(io.LimitReader(resp.Body, maxTableBytes)).Decode(into)
}
