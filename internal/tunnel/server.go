package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"dayfly.dev/dayfly/internal/identity"
	"github.com/libp2p/go-yamux/v5"
)

const (
	maxTunnels           = 4096 // of one router
	maxTunnelsPerSession = 8
	maxLeave             = 15 * time.Minute // a laptop that leaves is more patient with itself than anybody should be
)

// ServerOptions configure a router's end.
type ServerOptions struct {
	Name    string                               // of this router, told to laptops
	Version string                               // of this router, told to laptops
	TLS     *tls.Config                          // identity.Holder.TunnelTLS
	HasKey  func(session, publicKey string) bool // whether there is this session, and the key is its key
	Allowed func(session, route string) bool     // whether the session may answer the route
	Changed func()                               // called when a laptop connected or left; must not block
	Logger  *slog.Logger
}

// Server holds the laptops' connections of one router.
type Server struct {
	opts    ServerOptions
	windows memory

	mu    sync.Mutex
	conns map[string][]*laptop // by session, newest first
	count int
	left  bool // Leave was called
}

type laptop struct {
	session string
	serves  []string
	mux     *yamux.Session
	since   time.Time
	stop    chan struct{}
	reason  string
	once    sync.Once
	leaving atomic.Bool   // no more streams are opened to it
	leave   chan struct{} // closed when this router leaves

	opening sync.Mutex
	config  *yamux.Config // of mux, which takes a stream's first window from it
}

func (l *laptop) close(reason string) {
	l.once.Do(func() { l.reason = reason; close(l.stop) })
}

const lookForStreams = 50 * time.Millisecond

// retire opens no more streams to a laptop and closes its connection once none is open, or after a while. It returns at
// once; what it starts ends with the connection.
func (l *laptop) retire(grace time.Duration, reason string) {
	if l.leaving.Swap(true) {
		return
	}
	go func() {
		deadline := time.After(grace)
		tick := time.NewTicker(lookForStreams)
		defer tick.Stop()
		for l.mux.NumStreams() > 1 { // one is the control stream
			select {
			case <-l.stop:
				return
			case <-deadline:
				l.close(reason)
				return
			case <-tick.C:
			}
		}
		l.close(reason)
	}()
}

// NewServer returns a server without connections.
func NewServer(opts ServerOptions) *Server {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Changed == nil {
		opts.Changed = func() {}
	}
	return &Server{opts: opts, conns: map[string][]*laptop{}}
}

// Serve holds one laptop's connection until it ends or ctx does. It closes raw.
func (s *Server) Serve(ctx context.Context, raw net.Conn) error {
	live := newLiveConn(raw)
	defer live.Close()
	conn := tls.Server(live, s.opts.TLS)
	hctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	if err := conn.HandshakeContext(hctx); err != nil {
		return fmt.Errorf("greeting a laptop: %w", err)
	}
	key, err := identity.PublicKeyOf(conn.ConnectionState())
	if err != nil {
		return err
	}
	l := &laptop{since: time.Now(), stop: make(chan struct{}), leave: make(chan struct{}), config: muxConfig(maxFromLaptop)}
	if l.mux, err = yamux.Client(conn, l.config, s.windows.span); err != nil { // the router opens the streams
		return fmt.Errorf("greeting a laptop: %w", err)
	}
	defer l.mux.Close()
	return s.hold(ctx, hctx, live, l, key)
}

// hold greets the laptop and keeps its connection.
func (s *Server) hold(ctx, hctx context.Context, live *liveConn, l *laptop, key string) error {
	stopGreeting := context.AfterFunc(hctx, func() { live.Close() })
	control, err := l.mux.AcceptStream()
	if err != nil {
		return fmt.Errorf("awaiting a laptop's hello: %w", err)
	}
	var h hello
	if err := readBlock(control, &h); err != nil {
		return fmt.Errorf("reading a laptop's hello: %w", err)
	}
	session := h.Session
	if !s.opts.HasKey(session, key) {
		return fmt.Errorf("greeting a laptop: its key is not that of session %q", session)
	}
	if !stopGreeting() {
		return fmt.Errorf("greeting session %s: %w", session, context.Cause(hctx))
	}
	l.session = session
	for _, route := range h.Serves {
		if s.opts.Allowed(session, route) {
			l.serves = append(l.serves, route)
		}
	}
	if err := s.add(l); err != nil {
		_ = writeBlock(control, welcome{Version: s.opts.Version, Router: s.opts.Name, Error: err.Error()})
		return err
	}
	defer s.remove(l)
	defer l.close("the connection ended")
	if err := writeBlock(control, welcome{Version: s.opts.Version, Router: s.opts.Name}); err != nil {
		return fmt.Errorf("welcoming session %s: %w", session, err)
	}
	s.opts.Logger.Info("laptop connected", "session", session, "serves", h.Serves)
	stopWatch := context.AfterFunc(ctx, func() { l.close("the router is going away") })
	defer stopWatch()
	leave := func() {
		l.retire(maxLeave, "the laptop is leaving")
		s.opts.Changed()
	}
	err = keepBeating(live, control, control, l.stop, l.leave, func() string { return l.reason }, leave)
	s.opts.Logger.Info("laptop left", "session", session, "reason", err)
	return err
}

func (s *Server) add(l *laptop) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left {
		return errors.New("this router is leaving")
	}
	if s.count >= maxTunnels {
		return fmt.Errorf("this router holds %d laptops already", s.count)
	}
	if n := len(s.conns[l.session]); n >= maxTunnelsPerSession {
		s.conns[l.session][n-1].close("a newer connection of the same session took its place")
	}
	s.conns[l.session] = append([]*laptop{l}, s.conns[l.session]...)
	s.count++
	s.opts.Changed()
	return nil
}

func (s *Server) remove(l *laptop) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rest := slices.DeleteFunc(slices.Clone(s.conns[l.session]), func(o *laptop) bool { return o == l })
	if len(rest) == 0 {
		delete(s.conns, l.session)
	} else {
		s.conns[l.session] = rest
	}
	s.count--
	s.opts.Changed()
}

// Leave asks every laptop to call this router's successor, and takes no more of them. Those that are connected are served
// on until Serve's context ends.
func (s *Server) Leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left {
		return
	}
	s.left = true
	for _, ls := range s.conns {
		for _, l := range ls {
			close(l.leave)
		}
	}
}

// Keep closes the connections of every session for which keep is false, as soon as no stream of theirs is open: after
// grace at the latest.
func (s *Server) Keep(keep func(session string) bool, grace func(session string) time.Duration, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for session, ls := range s.conns {
		if keep(session) {
			continue
		}
		for _, l := range ls {
			l.retire(grace(session), reason)
		}
	}
}

// Connected returns, by session, the routes that a connected laptop answers.
func (s *Server) Connected() map[string][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string][]string, len(s.conns))
	for session, ls := range s.conns {
		routes := []string{}
		staying := false
		for _, l := range ls {
			if !l.leaving.Load() {
				routes, staying = append(routes, l.serves...), true
			}
		}
		if !staying {
			continue
		}
		slices.Sort(routes)
		out[session] = slices.Compact(routes)
	}
	return out
}

// Open counts the laptops' connections and the streams that are open in them.
func (s *Server) Open() (tunnels, streams int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ls := range s.conns {
		for _, l := range ls {
			streams += max(l.mux.NumStreams()-1, 0) // one is the control stream
		}
	}
	return s.count, streams
}

// Dial opens a connection to the laptop's process for a route. The error is ErrNoTunnel or a RefusedError when the
// original should answer instead. A read or write that exceeds a deadline fails with os.ErrDeadlineExceeded, and the
// connection can still be used.
func (s *Server) Dial(ctx context.Context, session, route string, client net.Addr) (net.Conn, error) {
	return accepted(s.DialEarly(ctx, session, route, client))
}

// DialEarly is Dial that does not wait for the process: what is written reaches it once it has accepted, or nobody. Accepted must be
// called before the first Read. An earlier deadline of ctx bounds writes and Accepted.
func (s *Server) DialEarly(ctx context.Context, session, route string, client net.Addr) (*Stream, error) {
	return s.open(ctx, session, opening{Route: route, Client: client.String()})
}

// DialDatagrams opens a stream for the datagrams between one client and the laptop's process; see Datagrams.
func (s *Server) DialDatagrams(ctx context.Context, session, route string, client net.Addr) (net.Conn, error) {
	return accepted(s.open(ctx, session, opening{Route: route, Client: client.String(), Datagrams: true}))
}

func accepted(stream *Stream, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	if err := stream.Accepted(); err != nil {
		return nil, err
	}
	return stream, nil
}

func (s *Server) open(ctx context.Context, session string, o opening) (*Stream, error) {
	l := s.find(session, o.Route)
	if l == nil {
		return nil, ErrNoTunnel
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	stream, err := s.openStream(ctx, l)
	if err != nil {
		return nil, fmt.Errorf("opening a stream to the laptop: %w", err)
	}
	deadline, _ := ctx.Deadline()
	_ = stream.SetDeadline(deadline)
	if err := writeBlock(stream, o); err != nil {
		_ = stream.Reset()
		return nil, fmt.Errorf("asking the laptop: %w", err)
	}
	return stream, nil
}

// openStream makes the first window of the stream as wide as there is room. The multiplexer reads it from its configuration
// while it makes a stream; besides OpenStream it does so for streams of the laptop's, which this end resets.
func (s *Server) openStream(ctx context.Context, l *laptop) (*Stream, error) {
	wider := s.windows.widen()
	narrow := sync.OnceFunc(func() { s.windows.narrow(wider) })
	l.opening.Lock()
	l.config.InitialStreamWindowSize = firstWindow + uint32(wider)
	stream, err := l.mux.OpenStream(ctx)
	l.opening.Unlock()
	if err != nil {
		narrow()
		return nil, err
	}
	return &Stream{stream, narrow}, nil
}

// Stream is a connection to a laptop's process. Its deadlines end reads and writes with the error that they have everywhere
// else.
type Stream struct {
	*yamux.Stream
	ended func()
}

// Accepted waits until the laptop's process has accepted the connection. An error ends the stream: a RefusedError if nothing of
// it reached the process, and any other if that is not known.
func (s *Stream) Accepted() error {
	var status [1]byte
	if _, err := s.Read(status[:]); err != nil {
		_ = s.Reset()
		return fmt.Errorf("awaiting the laptop's answer: %w", err)
	}
	if status[0] == 0 {
		return s.SetDeadline(time.Time{})
	}
	var reason string
	err := readBlock(s, &reason)
	_ = s.Reset()
	if err != nil {
		return fmt.Errorf("reading why the laptop refused: %w", err)
	}
	return &RefusedError{reason}
}

func (s *Stream) Read(b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	return n, overdue(err)
}

func (s *Stream) Write(b []byte) (int, error) {
	n, err := s.Stream.Write(b)
	return n, overdue(err)
}

// Quiet reports whether the stream is open and has nothing to read. Nobody may be reading, and no read deadline set.
func (s *Stream) Quiet() bool {
	var b [1]byte
	_ = s.SetReadDeadline(time.Unix(1, 0))
	_, err := s.Stream.Read(b[:])
	return errors.Is(err, yamux.ErrTimeout) && s.SetReadDeadline(time.Time{}) == nil
}

// Close ends the stream in both directions.
func (s *Stream) Close() error {
	defer s.ended()
	return s.Stream.Close()
}

// Reset ends the stream such that the process sees its connection reset.
func (s *Stream) Reset() error {
	defer s.ended()
	return s.Stream.Reset()
}

func overdue(err error) error {
	if errors.Is(err, yamux.ErrTimeout) {
		return os.ErrDeadlineExceeded
	}
	return err
}

func (s *Server) find(session, route string) *laptop {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.conns[session] {
		if slices.Contains(l.serves, route) && !l.leaving.Load() && !l.mux.IsClosed() {
			return l
		}
	}
	return nil
}
