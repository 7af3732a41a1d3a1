// Package forward leads ports of this machine to Services in a cluster, by way of the API server.
package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
)

// Forward is a port of this machine that leads to a Service in the cluster, by way of the API server.
type Forward struct {
	Address string // host:port to connect to

	client    kubernetes.Interface
	config    *rest.Config
	namespace string
	service   string
	port      string // name of the Service's port
	listener  net.Listener
	until     <-chan struct{}

	mu    sync.Mutex
	ahead *ahead // the pod that connections go to; nil: none yet
}

// ahead is one pod's forwarding.
type ahead struct {
	address string
	ended   chan struct{}
}

// Open listens on a port of 127.0.0.1, any if it is 0, until ctx ends. Each connection goes to a ready pod behind the Service's port
// of that name.
func Open(ctx context.Context, config *rest.Config, local int, namespace, service, port string) (*Forward, error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(local)))
	if err != nil {
		return nil, err
	}
	f := &Forward{Address: l.Addr().String(), client: client, config: config, namespace: namespace, service: service, port: port, listener: l, until: ctx.Done()}
	context.AfterFunc(ctx, func() { l.Close() })
	go f.serve(ctx)
	return f, nil
}

func (f *Forward) serve(ctx context.Context) {
	for {
		c, err := f.listener.Accept()
		if err != nil {
			return
		}
		go f.carry(ctx, c)
	}
}

// connectTime is how long a connection waits for a pod.
const connectTime = 10 * time.Second

func (f *Forward) carry(ctx context.Context, near net.Conn) {
	defer near.Close()
	end := context.AfterFunc(ctx, func() { near.Close() })
	defer end()
	far, err := f.dial(ctx)
	if err != nil {
		return
	}
	defer far.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(far, near)
		closeWrite(far)
	}()
	_, _ = io.Copy(near, far)
	closeWrite(near)
	<-done
}

func closeWrite(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.CloseWrite()
	}
}

// dial connects to a pod, another one if the last has gone.
func (f *Forward) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	for {
		a, err := f.current(ctx)
		if err == nil {
			var c net.Conn
			if c, err = net.Dial("tcp", a.address); err == nil {
				return c, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(err, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// current is the forwarding in use, a new one if that has ended.
func (f *Forward) current(ctx context.Context) (*ahead, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ahead != nil {
		select {
		case <-f.ahead.ended:
		default:
			return f.ahead, nil
		}
	}
	pod, port, err := f.choose(ctx)
	if err != nil {
		return nil, err
	}
	f.ahead, err = f.open(ctx, pod, port)
	return f.ahead, err
}

// choose finds a ready pod, and its port.
func (f *Forward) choose(ctx context.Context) (pod string, port int32, err error) {
	list, err := f.client.DiscoveryV1().EndpointSlices(f.namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + f.service})
	if err != nil {
		return "", 0, err
	}
	for _, s := range list.Items {
		for _, p := range s.Ports {
			if p.Name == nil || *p.Name != f.port || p.Port == nil {
				continue
			}
			for _, e := range s.Endpoints {
				if e.TargetRef != nil && e.TargetRef.Kind == "Pod" && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
					return e.TargetRef.Name, *p.Port, nil
				}
			}
		}
	}
	return "", 0, fmt.Errorf("service %s has no ready pod", f.service)
}

// open starts to forward to a pod, which goes on until the connection to it ends.
func (f *Forward) open(ctx context.Context, pod string, port int32) (*ahead, error) {
	url := f.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(f.namespace).Name(pod).SubResource("portforward").URL()
	dialer, err := portforward.NewSPDYOverWebsocketDialerForStreaming(url, f.config)
	if err != nil {
		return nil, err
	}
	ready := make(chan struct{})
	pf, err := portforward.NewOnAddressesForStreaming(dialer, []string{"127.0.0.1"}, []string{"0:" + strconv.Itoa(int(port))}, f.until, ready, nil, nil)
	if err != nil {
		return nil, err
	}
	a := &ahead{ended: make(chan struct{})}
	failed := make(chan error, 1)
	go func() {
		defer close(a.ended)
		failed <- pf.ForwardPorts()
	}()
	select {
	case <-ready:
	case err := <-failed:
		return nil, fmt.Errorf("forwarding to pod %s: %w", pod, err)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	ports, err := pf.GetPorts()
	if err != nil {
		return nil, err
	}
	a.address = net.JoinHostPort("127.0.0.1", strconv.Itoa(int(ports[0].Local)))
	return a, nil
}
