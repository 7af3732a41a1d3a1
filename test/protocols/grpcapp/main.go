// Command grpcapp is a gRPC service that says who it is, and clients that call it without end; both with gRPC's own library.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
)

func main() {
	run := map[string]func([]string) error{"serve": serve, "load": load, "hammer": hammer}
	if len(os.Args) < 2 || run[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: grpcapp serve [-name NAME] [-addr :8080] | load -addr HOST:PORT [-key KEY] [-clients N] | hammer -addr HOST:PORT [-c N] [-key KEY]")
		os.Exit(2)
	}
	if err := run[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "grpcapp:", err)
		os.Exit(1)
	}
}

// serve answers until it is told to stop, and then lets its calls end.
func serve(args []string) error {
	f := flag.NewFlagSet("serve", flag.ExitOnError)
	host, _ := os.Hostname()
	name := f.String("name", host, "what to say in x-name")
	addr := f.String("addr", ":8080", "address to listen on")
	if err := f.Parse(args); err != nil {
		return err
	}
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	sign := metadata.Pairs("x-name", *name)
	server := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			_ = grpc.SetHeader(ctx, sign)
			return h(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			_ = ss.SetHeader(sign)
			return h(srv, ss)
		}))
	testgrpc.RegisterTestServiceServer(server, interop.NewTestServer())
	healthpb.RegisterHealthServer(server, health.NewServer())
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	go func() {
		<-ctx.Done()
		server.GracefulStop()
	}()
	return server.Serve(l)
}

// sample is one call as its client saw it. Times are microseconds since the epoch.
type sample struct {
	Client string `json:"c"`
	Opened int64  `json:"o"` // when the connection was asked for
	Dials  int64  `json:"n"` // how many there have been by the end of the call
	Sent   int64  `json:"s"`
	Done   int64  `json:"d"`
	Key    bool   `json:"k,omitempty"`
	By     string `json:"by,omitempty"`
	Error  string `json:"err,omitempty"`
}

type loader struct {
	addr, key string
	mu        sync.Mutex
	out       *json.Encoder
}

// load prints a sample as one line of JSON for each call, until its input ends. Every second call carries the key.
// Half of the clients make short calls, half hold streams on which they talk for a second or so. Each opens a connection of its
// own from time to time.
func load(args []string) error {
	f := flag.NewFlagSet("load", flag.ExitOnError)
	l := &loader{out: json.NewEncoder(os.Stdout)}
	f.StringVar(&l.addr, "addr", "", "host:port to call")
	f.StringVar(&l.key, "key", "", "routing key of every second call")
	clients := f.Int("clients", 16, "how many")
	if err := f.Parse(args); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	var wg sync.WaitGroup
	for i := range *clients {
		call, name := l.unary, fmt.Sprintf("unary-%d", i)
		if i%2 == 1 {
			call, name = l.stream, fmt.Sprintf("stream-%d", i)
		}
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := l.connection(ctx, name, call); err != nil {
					l.print(sample{Client: name, Sent: micros(), Done: micros(), Error: err.Error()})
				}
			}
		})
	}
	wg.Wait()
	return nil
}

// connection makes calls for a while, some at the same time, on one connection for as long as gRPC keeps it.
func (l *loader) connection(ctx context.Context, name string, call func(context.Context, testgrpc.TestServiceClient) (string, error)) error {
	var opened, dials atomic.Int64
	cc, err := grpc.NewClient("passthrough:///"+l.addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			opened.CompareAndSwap(0, micros())
			dials.Add(1)
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		return err
	}
	defer cc.Close()
	tc := testgrpc.NewTestServiceClient(cc)
	until := time.Now().Add(time.Second + rand.N(3*time.Second))
	var wg sync.WaitGroup
	for _, key := range []bool{false, true} {
		wg.Go(func() {
			for ctx.Err() == nil && time.Now().Before(until) {
				s := sample{Client: name, Sent: micros(), Key: key}
				out, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
				if key {
					out = metadata.AppendToOutgoingContext(out, "x-dayfly-session", l.key)
				}
				by, err := call(out, tc)
				cancel()
				if s.By = by; err != nil {
					s.Error = err.Error()
				}
				s.Opened, s.Dials, s.Done = opened.Load(), dials.Load(), micros()
				l.print(s)
				time.Sleep(rand.N(100 * time.Millisecond))
			}
		})
	}
	wg.Wait()
	return nil
}

// hammer makes empty unary calls for a while, one at a time on each of a number of connections, and prints how fast they were
// answered, as testapp does.
func hammer(args []string) error {
	f := flag.NewFlagSet("hammer", flag.ExitOnError)
	addr := f.String("addr", "", "host:port to call")
	key := f.String("key", "", "routing key of every call")
	conns := f.Int("c", 1, "connections")
	most := f.Duration("d", 2*time.Second, "how long")
	if err := f.Parse(args); err != nil {
		return err
	}
	ctx := context.Background()
	if *key != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "x-dayfly-session", *key)
	}
	var clients []testgrpc.TestServiceClient
	for range *conns {
		cc, err := grpc.NewClient("passthrough:///"+*addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer cc.Close()
		tc := testgrpc.NewTestServiceClient(cc)
		if _, err := tc.EmptyCall(ctx, &testgrpc.Empty{}); err != nil { // it is connected
			return err
		}
		clients = append(clients, tc)
	}
	var mu sync.Mutex
	var all []time.Duration
	failed := 0
	var wg sync.WaitGroup
	start := time.Now()
	for _, tc := range clients {
		wg.Go(func() {
			var took []time.Duration
			var err error
			for time.Since(start) < *most && err == nil {
				sent := time.Now()
				if _, err = tc.EmptyCall(ctx, &testgrpc.Empty{}); err == nil {
					took = append(took, time.Since(sent))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			if err != nil {
				failed++
			}
		})
	}
	wg.Wait()
	if len(all) == 0 {
		return errors.New("nothing was answered")
	}
	slices.Sort(all)
	at := func(q float64) float64 { return float64(all[int(q*float64(len(all)-1))].Nanoseconds()) / 1000 }
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"perSecond": float64(len(all)) / time.Since(start).Seconds(), "p50Micros": at(0.5), "p99Micros": at(0.99), "errors": failed})
}

func (l *loader) unary(ctx context.Context, tc testgrpc.TestServiceClient) (string, error) {
	var head metadata.MD
	res, err := tc.UnaryCall(ctx, &testgrpc.SimpleRequest{ResponseSize: 2000, Payload: &testgrpc.Payload{Body: make([]byte, 3000)}}, grpc.Header(&head))
	if err == nil && len(res.GetPayload().GetBody()) != 2000 {
		err = fmt.Errorf("%d bytes came back", len(res.GetPayload().GetBody()))
	}
	return nameOf(head), err
}

func (l *loader) stream(ctx context.Context, tc testgrpc.TestServiceClient) (string, error) {
	s, err := tc.FullDuplexCall(ctx)
	if err != nil {
		return "", err
	}
	by := ""
	for i := range 20 {
		req := &testgrpc.StreamingOutputCallRequest{ResponseParameters: []*testgrpc.ResponseParameters{{Size: 5000}}, Payload: &testgrpc.Payload{Body: make([]byte, 5000)}}
		if err := s.Send(req); err != nil && err != io.EOF {
			return by, fmt.Errorf("message %d: %w", i, err)
		}
		if _, err := s.Recv(); err != nil {
			return by, fmt.Errorf("answer %d: %w", i, err)
		}
		head, _ := s.Header()
		by = nameOf(head)
		time.Sleep(50 * time.Millisecond)
	}
	if err := s.CloseSend(); err != nil {
		return by, err
	}
	if _, err := s.Recv(); err != io.EOF {
		return by, fmt.Errorf("the end: %v", err)
	}
	return by, nil
}

func nameOf(md metadata.MD) string {
	if v := md.Get("x-name"); len(v) == 1 {
		return v[0]
	}
	return ""
}

func micros() int64 { return time.Now().UnixMicro() }

func (l *loader) print(s sample) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.out.Encode(s)
}
