package router

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"dayfly.dev/dayfly/internal/identity"
	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/tunnel"
	"github.com/go-logr/logr"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

// BenchmarkWayToTheLaptop moves bytes from a laptop's process to a router the whole way on loopback: its own TLS, a WebSocket, TLS
// to a proxy in the API server's place, TLS to the router. It reports the processor time of all of them together.
func BenchmarkWayToTheLaptop(b *testing.B) {
	for _, c := range []struct {
		name string
		each time.Duration // of the line to the API server, one way
		size int64
	}{{"512MiB", 0, 512 << 20}, {"32MiB-at-20ms", 10 * time.Millisecond, 32 << 20}, {"32MiB-at-100ms", 50 * time.Millisecond, 32 << 20}} {
		b.Run(c.name, func(b *testing.B) {
			server := benchWay(b, c.each, c.size)
			b.SetBytes(c.size)
			before := processorTime()
			for b.Loop() {
				if err := fetchOnce(b.Context(), server, c.size); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric((processorTime()-before).Seconds()*1000/float64(b.N)/(float64(c.size)/(1<<30)), "cpu-ms/GiB")
		})
	}
}

func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// fetchOnce asks the laptop on a new stream, and reads its answer to the end.
func fetchOnce(ctx context.Context, server *tunnel.Server, size int64) error {
	c, err := server.DialEarly(ctx, "s", "web:80", &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1})
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	if err := c.Accepted(); err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(c, size), make([]byte, 64<<10))
	return err
}

// benchWay is a router's end with a laptop connected to it whose process answers one byte with size bytes.
func benchWay(b *testing.B, each time.Duration, size int64) *tunnel.Server {
	ca, _, _, err := identity.NewCA()
	check(b, err)
	key, err := identity.NewSessionKey()
	check(b, err)
	public, err := key.Public()
	check(b, err)
	r := &Router{}
	own, csr, err := identity.Request()
	check(b, err)
	cert, err := ca.Issue(csr, identity.RoleRouter, "router-0")
	check(b, err)
	credentials, err := identity.NewCredentials(own, cert, ca.CertificatePEM())
	check(b, err)
	r.certs.Set(credentials)
	connected := make(chan struct{}, 100)
	r.tunnels = tunnel.NewServer(tunnel.ServerOptions{
		TLS:    r.certs.TunnelTLS(func(k string) bool { return k == public }),
		HasKey: func(_, k string) bool { return k == public }, Allowed: func(string, string) bool { return true },
		Changed: func() { connected <- struct{}{} },
	})
	ctx, cancel := context.WithCancel(context.Background())
	b.Cleanup(cancel)
	router := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { r.serveLaptop(ctx, w, req) }))
	router.StartTLS()
	b.Cleanup(router.Close)
	u, err := url.Parse(router.URL)
	check(b, err)
	proxy := httputil.NewSingleHostReverseProxy(u)
	proxy.Transport = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}}
	proxy.Rewrite, proxy.Director = func(p *httputil.ProxyRequest) { p.SetURL(u); p.Out.URL.Path = "/tunnel" }, nil
	api := httptest.NewUnstartedServer(proxy)
	api.StartTLS()
	b.Cleanup(api.Close)

	local, err := net.Listen("tcp", "127.0.0.1:0")
	check(b, err)
	b.Cleanup(func() { local.Close() })
	go func() {
		for {
			c, err := local.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				var first [1]byte
				if _, err := io.ReadFull(c, first[:]); err != nil {
					return
				}
				chunk := make([]byte, 64<<10)
				for n := int64(0); n < size; n += int64(len(chunk)) {
					if _, err := c.Write(chunk); err != nil {
						return
					}
				}
			}()
		}
	}()
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: api.URL, InsecureSkipTLSVerify: true}
	config.Contexts["c"] = &clientcmdapi.Context{Cluster: "c"}
	config.CurrentContext = "c"
	path := filepath.Join(b.TempDir(), "kubeconfig")
	check(b, clientcmd.WriteToFile(*config, path))
	log.SetLogger(logr.Discard())
	cluster, err := kube.Open(kube.Options{Kubeconfig: path, Namespace: "shop"})
	check(b, err)
	if each > 0 {
		cluster.Config.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return far(c, each)
		}
	}
	cfg, err := key.ClientTLS(ca.CertificatePEM())
	check(b, err)
	client := tunnel.NewClient(tunnel.ClientOptions{
		Session: "s", TLS: cfg, Routers: []string{"router-0"}, Serves: []string{"web:80"},
		Dial: func(ctx context.Context, router string) (net.Conn, error) {
			return cluster.DialRouter(ctx, "dayfly-system", router)
		},
		Answer: func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", local.Addr().String())
		},
		Notify: func(e tunnel.Event) {
			if e.Err != nil {
				b.Log(e.Err)
			}
		},
	})
	done := make(chan struct{})
	go func() { defer close(done); client.Run(ctx) }()
	b.Cleanup(func() { cancel(); <-done })
	select {
	case <-connected:
	case <-time.After(10 * time.Second):
		b.Fatal("not connected")
	}
	time.Sleep(4*each + 50*time.Millisecond) // it has measured the line
	return r.tunnels
}

func check(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// far makes a connection long: what is written to it, or read from it, is held back.
func far(c net.Conn, each time.Duration) (net.Conn, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	end, err := l.Accept()
	if err != nil {
		return nil, err
	}
	go hold(end, c, each)
	go hold(c, end, each)
	return near, nil
}

// held is what was read at once, and when it may go on.
type held struct {
	due  time.Time
	data []byte
}

func hold(dst, src net.Conn, by time.Duration) {
	line := make(chan held, 2048)
	go func() {
		defer close(line)
		for {
			buf := make([]byte, 64<<10)
			n, err := src.Read(buf)
			if n > 0 {
				line <- held{time.Now().Add(by), buf[:n:n]}
			}
			if err != nil {
				return
			}
		}
	}()
	defer dst.Close()
	for h := range line {
		time.Sleep(time.Until(h.due))
		if _, err := dst.Write(h.data); err != nil {
			src.Close()
		}
	}
}
