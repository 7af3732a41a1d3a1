package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/libp2p/go-yamux/v5"
)

const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 1500 * time.Millisecond // at most, and half as much again at random
)

// ClientOptions configure a laptop's end.
type ClientOptions struct {
	Version string
	Session string        // ID of the session
	TLS     *tls.Config   // identity.SessionKey.ClientTLS
	Routers []string      // a connection is kept to each
	Serves  []string      // the routes that this process answers
	Drain   time.Duration // how long Run lets open streams go on when its context ends

	// Dial makes the byte stream to one router.
	Dial func(ctx context.Context, router string) (net.Conn, error)
	// Answer connects to the process that answers a route. Of a route for datagrams each Read and Write is one.
	Answer func(ctx context.Context, route string) (net.Conn, error)
	// Notify is told of every change, from one goroutine per router; it must not block. Nil tells nobody.
	Notify func(Event)
}

// Event is a change of the connection to one router, or a request that this laptop refused.
type Event struct {
	Router    string
	Connected bool
	Err       error  // why it is not connected; or why a request was refused
	Refused   string // the route of a refused request
}

// Client keeps a connection to every router.
type Client struct {
	opts ClientOptions

	mu    sync.Mutex
	reach chan struct{} // closed and replaced when a router is connected
}

// NewClient returns a client that is not connected.
func NewClient(opts ClientOptions) *Client {
	if opts.Notify == nil {
		opts.Notify = func(Event) {}
	}
	return &Client{opts: opts, reach: make(chan struct{})}
}

// Run keeps the connections until ctx ends, calling again with growing pauses whenever one is lost. Then it takes no more
// streams, lets those end that are open, and returns when all it started is gone.
func (c *Client) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, router := range c.opts.Routers {
		wg.Go(func() { c.keep(ctx, router) })
	}
	wg.Wait()
}

func (c *Client) keep(ctx context.Context, router string) {
	var wg sync.WaitGroup
	defer wg.Wait()
	pause := firstRetry
	for ctx.Err() == nil {
		start := time.Now()
		moved := make(chan struct{})
		ended := make(chan error, 1)
		wg.Go(func() { ended <- c.connect(ctx, router, sync.OnceFunc(func() { close(moved) })) })
		select {
		case <-moved: // goes on by itself until the router closes it
			pause = firstRetry
			continue
		case err := <-ended:
			if ctx.Err() != nil {
				return
			}
			c.opts.Notify(Event{Router: router, Err: err})
		}
		if time.Since(start) > lastRetry {
			pause = firstRetry // it had worked
		}
		jitter := time.Duration(rand.Int64N(int64(pause)/2 + 1))
		select {
		case <-ctx.Done():
			return
		case <-c.reached(): // another router is: whatever was in the way of all is gone
			pause = firstRetry
		case <-time.After(pause + jitter):
			pause = min(pause*2, lastRetry)
		}
	}
}

// reached returns a channel that is closed when the next router is connected.
func (c *Client) reached() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reach
}

func (c *Client) tellReached() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.reach)
	c.reach = make(chan struct{})
}

// connect makes one connection and serves it until it ends. It calls moved when the router asks to be called anew.
func (c *Client) connect(ctx context.Context, router string, moved func()) error {
	hctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	raw, err := c.opts.Dial(hctx, router)
	if err != nil {
		return fmt.Errorf("reaching %s: %w", router, err)
	}
	live := newLiveConn(raw)
	defer live.Close()
	conn := tls.Client(live, c.opts.TLS)
	if err := conn.HandshakeContext(hctx); err != nil {
		return fmt.Errorf("greeting %s: %w", router, err)
	}
	cfg := muxConfig(maxStreams)
	cfg.InitialStreamWindowSize = laptopWindow
	mux, err := yamux.Server(conn, cfg, nil)
	if err != nil {
		return fmt.Errorf("greeting %s: %w", router, err)
	}
	defer mux.Close()
	stopGreeting := context.AfterFunc(hctx, func() { live.Close() })
	control, err := greet(hctx, mux, hello{Version: c.opts.Version, Session: c.opts.Session, Serves: c.opts.Serves})
	if err != nil {
		return fmt.Errorf("greeting %s: %w", router, err)
	}
	if !stopGreeting() {
		return fmt.Errorf("greeting %s: %w", router, context.Cause(hctx))
	}
	c.opts.Notify(Event{Router: router, Connected: true})
	c.tellReached()

	var wg sync.WaitGroup
	defer wg.Wait()
	defer live.Close() // before Wait: ends the streams
	wg.Go(func() { c.accept(ctx, &wg, router, mux) })
	stop := make(chan struct{})
	defer context.AfterFunc(ctx, func() { time.AfterFunc(c.opts.Drain, func() { close(stop) }) })()
	return keepBeating(live, control, control, stop, ctx.Done(), func() string { return "the laptop closed the session" }, moved)
}

func greet(ctx context.Context, mux *yamux.Session, h hello) (*yamux.Stream, error) {
	control, err := mux.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	if err := writeBlock(control, h); err != nil {
		return nil, err
	}
	var w welcome
	if err := readBlock(control, &w); err != nil {
		return nil, err
	}
	if w.Error != "" {
		return nil, errors.New(w.Error)
	}
	return control, nil
}

func (c *Client) accept(ctx context.Context, wg *sync.WaitGroup, router string, mux *yamux.Session) {
	for {
		stream, err := mux.AcceptStream()
		if err != nil {
			return
		}
		wg.Go(func() {
			if err := c.answer(ctx, stream); err != nil {
				c.opts.Notify(*err)
			}
		})
	}
}

// answer serves one stream: it connects to the laptop's process and copies both ways.
func (c *Client) answer(ctx context.Context, stream *yamux.Stream) *Event {
	_ = stream.SetDeadline(time.Now().Add(handshakeTime))
	var o opening
	if err := readBlock(stream, &o); err != nil {
		_ = stream.Reset()
		return nil
	}
	dctx, cancel := context.WithTimeout(ctx, answerTime/2)
	local, err := c.opts.Answer(dctx, o.Route)
	cancel()
	if err != nil {
		_, _ = stream.Write([]byte{1})
		_ = writeBlock(stream, err.Error())
		_ = stream.Close()
		if ctx.Err() != nil { // leaving: no news
			return nil
		}
		return &Event{Connected: true, Refused: o.Route, Err: err}
	}
	if _, err := stream.Write([]byte{0}); err != nil {
		local.Close()
		_ = stream.Reset()
		return nil
	}
	_ = stream.SetDeadline(time.Time{})
	if o.Datagrams {
		joinDatagrams(datagrams(stream), local)
		return nil
	}
	Join(stream, local)
	return nil
}

// Join copies both ways until both ends are done, passing on half-closes; an error on either side resets both. It closes
// a and b.
func Join(a, b net.Conn) {
	var wg sync.WaitGroup
	wg.Go(func() { pass(a, b) })
	pass(b, a)
	wg.Wait()
	a.Close()
	b.Close()
}

var copyBuffers = sync.Pool{New: func() any { return new([maxFrame - frameHeader]byte) }}

// pass copies from src to dst, then tells dst that nothing more comes, or breaks both if the copy broke.
func pass(dst, src net.Conn) {
	buf := copyBuffers.Get().(*[maxFrame - frameHeader]byte)
	defer copyBuffers.Put(buf)
	// Hidden are the ways around buf: each would move less at once.
	if _, err := io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, buf[:]); err != nil {
		reset(dst)
		reset(src)
		return
	}
	if w, ok := dst.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite()
	}
}

func reset(c net.Conn) {
	switch c := c.(type) {
	case *yamux.Stream:
		_ = c.Reset()
	case *net.TCPConn:
		_ = c.SetLinger(0)
		_ = c.Close()
	default:
		_ = c.Close()
	}
}
