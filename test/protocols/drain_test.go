package protocols

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dayfly.dev/dayfly/internal/intercept"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
)

// TestGRPCNoCallFailsWhenACaptureEnds has clients, calls and streams cross the end of a capture again and again. New
// connections lead where the Service would.
func TestGRPCNoCallFailsWhenACaptureEnds(t *testing.T) {
	origin, laptop := grpcServer(t, "origin"), grpcServer(t, "laptop")
	var to atomic.Value
	to.Store(origin)
	var tc atomic.Pointer[testgrpc.TestServiceClient]
	connect := func() {
		cc, err := grpc.NewClient("passthrough:///service", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "tcp", to.Load().(string))
			}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cc.Close() })
		c := testgrpc.NewTestServiceClient(cc)
		tc.Store(&c)
	}
	connect()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var atLaptop, calls atomic.Int64
	for i := range 16 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				ctx := way{}.context(t)
				if i%2 == 0 {
					ctx = metadata.AppendToOutgoingContext(ctx, "x-key", "ada")
				}
				by, err := talk(ctx, *tc.Load(), i%4 < 2)
				if err != nil {
					t.Error(err)
				}
				if calls.Add(1); by == "laptop" {
					atLaptop.Add(1)
				}
				if by == "laptop" && i%2 == 1 {
					t.Error("the laptop has answered others")
				}
			}
		})
	}
	for range 3 {
		addr, r := route(t, origin, laptop, forLaptop)
		to.Store(addr)
		connect()
		time.Sleep(time.Second)
		until := time.Now().Add(time.Minute)
		to.Store(origin)
		l := intercept.Listener{Port: 1, Service: "shop/cart", ServicePort: 80, Origin: "cart", DrainUntil: &until}
		if err := r.Apply(context.Background(), intercept.Table{Version: "2", Listeners: []intercept.Listener{l}}); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(20 * time.Second); r.Status().Listeners[0].Open > 0; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("not drained: %+v", r.Status().Listeners[0])
			}
		}
		if s := r.Status().Listeners[0]; s.Resets > 0 {
			t.Errorf("counted %+v", s)
		}
	}
	close(stop)
	wg.Wait()
	if atLaptop.Load() < 100 {
		t.Error("too few calls to tell")
	}
	t.Logf("%d calls, %d at the laptop", calls.Load(), atLaptop.Load())
}

// talk makes a call, or a stream of a second, and says who answered.
func talk(ctx context.Context, tc testgrpc.TestServiceClient, stream bool) (string, error) {
	var head metadata.MD
	if !stream {
		_, err := tc.EmptyCall(ctx, &testgrpc.Empty{}, grpc.Header(&head))
		time.Sleep(2 * time.Millisecond)
		return first(head), err
	}
	s, err := tc.FullDuplexCall(ctx)
	for range 20 {
		if err == nil {
			err = s.Send(&testgrpc.StreamingOutputCallRequest{ResponseParameters: []*testgrpc.ResponseParameters{{Size: 3000}}})
		}
		if err == nil {
			_, err = s.Recv()
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		return "", err
	}
	_ = s.CloseSend()
	if _, err := s.Recv(); err != io.EOF {
		return "", err
	}
	head, _ = s.Header()
	return first(head), nil
}

func first(md metadata.MD) string {
	if v := md.Get("x-name"); len(v) > 0 {
		return v[0]
	}
	return ""
}
