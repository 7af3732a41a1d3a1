package protocols

import (
	"context"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// grpcServer runs gRPC's interop server, whose every response says who it is.
func grpcServer(t testing.TB, name string) string {
	t.Helper()
	ln := listen(t)
	sign := metadata.Pairs("x-name", name)
	srv := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			_ = grpc.SetHeader(ctx, sign)
			return h(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			_ = ss.SetHeader(sign)
			return h(srv, ss)
		}))
	testgrpc.RegisterTestServiceServer(srv, interop.NewTestServer())
	go srv.Serve(ln)
	t.Cleanup(srv.Stop)
	return ln.Addr().String()
}

func grpcDial(t testing.TB, addr string) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

// ways are a direct connection, a call that matches no rule, one that goes to a laptop, and one
// that would if there were one.
func ways(t testing.TB) []way {
	origin, laptop := grpcServer(t, "origin"), grpcServer(t, "laptop")
	routed, _ := route(t, origin, laptop, forLaptop)
	alone, _ := route(t, origin, "", forLaptop)
	return []way{{"direct", origin, "", "origin"}, {"passed", routed, "", "origin"}, {"intercepted", routed, "ada", "laptop"}, {"fallback", alone, "ada", "origin"}}
}

type way struct{ name, addr, key, answers string }

func (w way) context(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	if w.key != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "x-key", w.key)
	}
	return ctx
}

// TestGRPCInterop runs gRPC's tests of its own implementations; they end the process if one fails.
func TestGRPCInterop(t *testing.T) {
	for _, w := range ways(t) {
		cc := grpcDial(t, w.addr)
		tc := testgrpc.NewTestServiceClient(cc)
		for name, do := range map[string]func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption){
			"empty unary": interop.DoEmptyUnaryCall, "large unary": interop.DoLargeUnaryCall,
			"client streaming": interop.DoClientStreaming, "server streaming": interop.DoServerStreaming,
			"ping pong": interop.DoPingPong, "empty stream": interop.DoEmptyStream,
			"timeout": interop.DoTimeoutOnSleepingServer, "cancel after begin": interop.DoCancelAfterBegin,
			"cancel after first response": interop.DoCancelAfterFirstResponse,
			"status":                      interop.DoStatusCodeAndMessage, "special status": interop.DoSpecialStatusMessage,
		} {
			t.Run(w.name+"/"+name, func(t *testing.T) { do(w.context(t), tc) })
		}
		t.Run(w.name+"/custom metadata", func(t *testing.T) {
			if w.key == "" { // it makes its own context
				interop.DoCustomMetadata(w.context(t), tc)
			}
		})
		t.Run(w.name+"/unimplemented", func(t *testing.T) {
			_, err := testgrpc.NewUnimplementedServiceClient(cc).UnimplementedCall(w.context(t), &testgrpc.Empty{})
			if status.Code(err) != codes.Unimplemented {
				t.Error(err)
			}
		})
		t.Run(w.name+"/who", func(t *testing.T) {
			var head metadata.MD
			if _, err := tc.EmptyCall(w.context(t), &testgrpc.Empty{}, grpc.Header(&head)); err != nil {
				t.Fatal(err)
			}
			if got := head.Get("x-name"); len(got) != 1 || got[0] != w.answers {
				t.Errorf("%v answers, want %s", got, w.answers)
			}
		})
	}
}

// TestGRPCManyStreams has ten thousand calls on one connection, all open at once.
func TestGRPCManyStreams(t *testing.T) {
	const n = 10_000
	for _, w := range ways(t)[1:3] {
		t.Run(w.name, func(t *testing.T) {
			tc := testgrpc.NewTestServiceClient(grpcDial(t, w.addr))
			ctx := w.context(t)
			streams := make([]testgrpc.TestService_FullDuplexCallClient, n)
			for i := range streams {
				s, err := tc.FullDuplexCall(ctx)
				if err != nil {
					t.Fatal(err)
				}
				streams[i] = s
			}
			var wg sync.WaitGroup
			for i, s := range streams {
				wg.Go(func() {
					req := &testgrpc.StreamingOutputCallRequest{ResponseParameters: []*testgrpc.ResponseParameters{{Size: int32(i % 512)}}}
					err := s.Send(req)
					if err == nil {
						_, err = s.Recv()
					}
					if err == nil {
						err = s.CloseSend()
					}
					if err == nil {
						if _, err = s.Recv(); err == io.EOF {
							err = nil
						}
					}
					if err != nil {
						t.Error(i, err)
					}
				})
			}
			wg.Wait()
		})
	}
}

// TestGRPCStalledStreamStallsOnlyItself leaves the answers of one call unread while others go on.
func TestGRPCStalledStreamStallsOnlyItself(t *testing.T) {
	for _, w := range ways(t) {
		t.Run(w.name, func(t *testing.T) {
			tc := testgrpc.NewTestServiceClient(grpcDial(t, w.addr))
			ctx := w.context(t)
			stalled, err := tc.FullDuplexCall(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for range 100 {
				if err := stalled.Send(&testgrpc.StreamingOutputCallRequest{ResponseParameters: []*testgrpc.ResponseParameters{{Size: 60_000}}}); err != nil {
					t.Fatal(err)
				}
			}
			for range 20 {
				interop.DoLargeUnaryCall(ctx, tc)
			}
			for i := range 100 {
				res, err := stalled.Recv()
				if err != nil || len(res.GetPayload().GetBody()) != 60_000 {
					t.Fatal(i, err)
				}
			}
		})
	}
}

// TestGRPCLaptopDies: what it had fails, and nothing else.
func TestGRPCLaptopDies(t *testing.T) {
	origin, ln := grpcServer(t, "origin"), listen(t)
	laptop := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(laptop, interop.NewTestServer())
	go laptop.Serve(ln)
	addr, r := route(t, origin, ln.Addr().String(), forLaptop)
	tc := testgrpc.NewTestServiceClient(grpcDial(t, addr))
	ctx := way{}.context(t)
	mine := metadata.AppendToOutgoingContext(ctx, "x-key", "ada")
	atLaptop, err := tc.FullDuplexCall(mine)
	if err != nil {
		t.Fatal(err)
	}
	atOrigin, err := tc.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	talk := func(s testgrpc.TestService_FullDuplexCallClient) error {
		if err := s.Send(&testgrpc.StreamingOutputCallRequest{ResponseParameters: []*testgrpc.ResponseParameters{{Size: 10}}}); err != nil {
			return err
		}
		_, err := s.Recv()
		return err
	}
	for _, s := range []testgrpc.TestService_FullDuplexCallClient{atLaptop, atOrigin} {
		if err := talk(s); err != nil {
			t.Fatal(err)
		}
	}
	laptop.Stop()
	if _, err := atLaptop.Recv(); err == nil {
		t.Error("the laptop's stream goes on")
	}
	for range 10 {
		if err := talk(atOrigin); err != nil {
			t.Fatal(err)
		}
		if _, err := tc.EmptyCall(mine, &testgrpc.Empty{}); err != nil {
			t.Errorf("with the laptop gone: %v", err)
		}
	}
	if s := r.Status().Listeners[0]; s.Accepted != 1 || s.Fallbacks != 10 {
		t.Errorf("counted %+v", s)
	}
}

func BenchmarkUnary(b *testing.B) {
	for _, w := range ways(b)[:3] {
		for _, conns := range []int{1, 32} {
			b.Run(fmt.Sprintf("%s/%d", w.name, conns), func(b *testing.B) { benchUnary(b, w, conns) })
		}
	}
}

func benchUnary(b *testing.B, w way, conns int) {
	tcs := make([]testgrpc.TestServiceClient, conns)
	for i := range tcs {
		tcs[i] = testgrpc.NewTestServiceClient(grpcDial(b, w.addr))
		if _, err := tcs[i].EmptyCall(w.context(b), &testgrpc.Empty{}); err != nil {
			b.Fatal(err)
		}
	}
	ctx := w.context(b)
	b.ResetTimer()
	var wg sync.WaitGroup
	for i, tc := range tcs {
		wg.Go(func() {
			for range b.N/conns + min(1, i%conns) {
				if _, err := tc.EmptyCall(ctx, &testgrpc.Empty{}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
}
