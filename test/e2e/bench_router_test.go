//go:build bench

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const proxyImage = "docker.io/dayfly/bench:dev"

// What people would put in the way instead of a router: each sends requests with the header to another Service.
const nginxConf = `load_module /usr/lib/nginx/modules/ngx_stream_module.so; daemon off; worker_processes 2; pid /tmp/nginx.pid; error_log stderr warn;
worker_rlimit_nofile 20000; events { worker_connections 8192; }
stream { server { listen 8084; proxy_pass stream:80; } }
http {
  access_log off; proxy_max_temp_file_size 0; keepalive_requests 1000000;
  client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
  map $http_x_dayfly_session $to { default spare; bench other; }
  map $http_x_dayfly_session $calls { default calls-spare; bench other; }
  upstream spare { server spare:80; keepalive 64; }
  upstream calls-spare { server calls-spare:80; keepalive 64; }
  upstream other { server web:9090; }
  server { listen 8082 http2; location / { grpc_pass grpc://$to; } }
  server { listen 8083 http2; location / { grpc_pass grpc://$calls; } }
  server { listen 8080; location / { proxy_pass http://$to; proxy_http_version 1.1; proxy_set_header Connection ""; } }
}
`

const haproxyConf = `global
  maxconn 2048
  nbthread 2
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend in
  bind :8080
  use_backend other if { req.hdr(x-dayfly-session) bench }
  default_backend spare
frontend in2
  bind :8082 proto h2
  use_backend other if { req.hdr(x-dayfly-session) bench }
  default_backend spare2
frontend calls
  bind :8083 proto h2
  use_backend other if { req.hdr(x-dayfly-session) bench }
  default_backend calls-spare
frontend wire
  mode tcp
  bind :8084
  default_backend stream
backend stream
  mode tcp
  server s stream:80
backend spare
  server s spare:80
backend spare2
  server s spare:80 proto h2
backend calls-spare
  server s calls-spare:80 proto h2
backend other
  server o web:9090
`

func deployProxies(t *testing.T, ns string) {
	t.Helper()
	deployProxy(t, ns, "stream", testappImage, "/testapp", "stream", "-addr", ":8080", "-bytes", strconv.Itoa(big))
	addService(t, ns, "stream", "stream") // the others look for it when they start
	deploy(t, ns, "goproxy", 1, []string{"reverseproxy", "http://spare"})
	must(t, cluster.Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "proxies"}, Data: map[string]string{"nginx.conf": nginxConf, "haproxy.cfg": haproxyConf},
	}))
	deployProxy(t, ns, "nginx", proxyImage, "/usr/sbin/nginx", "-c", "/etc/bench/nginx.conf")
	deployProxy(t, ns, "haproxy", proxyImage, "/usr/sbin/haproxy", "-f", "/etc/bench/haproxy.cfg")
	for _, name := range []string{"goproxy", "nginx", "haproxy"} {
		addService(t, ns, name, name)
	}
	for _, name := range []string{"goproxy", "nginx", "haproxy", "stream"} {
		awaitDeployment(t, ns, name)
	}
	addService(t, ns, "stream-captured", "stream")
	for name, port := range map[string]int{"h2": 8082, "calls": 8083, "tcp": 8084} {
		for _, proxy := range []string{"nginx", "haproxy"} {
			addServiceTo(t, ns, proxy+"-"+name, proxy, intstr.FromInt(port))
		}
	}
}

// deployProxy runs a program of an image on port 8080.
func deployProxy(t *testing.T, ns, name, image string, command ...string) {
	t.Helper()
	labels := map[string]string{"app": name}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	d.Spec = appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Replicas: new(int32(1))}
	d.Spec.Template.Labels = labels
	d.Spec.Template.Spec = corev1.PodSpec{
		TerminationGracePeriodSeconds: new(int64(1)),
		Containers: []corev1.Container{{
			Name: "proxy", Image: image, ImagePullPolicy: corev1.PullIfNotPresent, Command: command,
			Ports:          []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
			ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromString("http")}}, PeriodSeconds: 1},
			VolumeMounts:   []corev1.VolumeMount{{Name: "conf", MountPath: "/etc/bench"}, {Name: "tmp", MountPath: "/tmp"}},
		}},
		Volumes: []corev1.Volume{
			{Name: "conf", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "proxies"}}}},
			{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		},
	}
	must(t, cluster.Create(t.Context(), d))
}

type rateOf struct {
	PerSecond, P50Micros, P99Micros float64
	Errors                          int
}

// hammer measures small requests from the client pod.
func hammer(t *testing.T, ns, host string, args ...string) rateOf {
	t.Helper()
	var r rateOf
	out := inPod(t, ns, append(append([]string{"hammer", "-d", "1500ms"}, args...), "http://"+host+":80/")...)
	must(t, json.Unmarshal([]byte(out), &r))
	if r.Errors > 0 {
		t.Errorf("%s %v: %d errors", host, args, r.Errors)
	}
	return r
}

// hammerGRPC measures unary calls from the client pod.
func hammerGRPC(t *testing.T, ns, host string, args ...string) rateOf {
	t.Helper()
	var r rateOf
	cmd := testcluster(append([]string{"kubectl", "-n", ns, "exec", "deploy/client", "--", "/grpcapp", "hammer", "-d", "1500ms", "-addr", host + ":80"}, args...)...)
	must(t, json.Unmarshal([]byte(printed(t, cmd)), &r))
	if r.Errors > 0 {
		t.Errorf("%s %v: %d errors", host, args, r.Errors)
	}
	return r
}

// hammerAll runs the ways in turn and gives each one's medians.
func hammerAll(ways ...func() rateOf) []rateOf {
	got := make([][]rateOf, len(ways))
	for range rounds {
		for i, w := range ways {
			got[i] = append(got[i], w())
		}
	}
	out := make([]rateOf, len(ways))
	for i, rs := range got {
		pick := func(f func(rateOf) float64) float64 {
			var xs []float64
			for _, r := range rs {
				xs = append(xs, f(r))
			}
			return median(xs)
		}
		out[i] = rateOf{PerSecond: pick(func(r rateOf) float64 { return r.PerSecond }),
			P50Micros: pick(func(r rateOf) float64 { return r.P50Micros }), P99Micros: pick(func(r rateOf) float64 { return r.P99Micros })}
	}
	return out
}

func rows(what, against string, a, b rateOf) {
	row(what+": requests per second", against, a.PerSecond, b.PerSecond, "/s")
	row(what+": p50", against, a.P50Micros, b.P50Micros, "µs")
	row(what+": p99", against, a.P99Micros, b.P99Micros, "µs")
}

// benchRouter: what the router costs those whose requests do not match.
func benchRouter(t *testing.T, l *laptop, ns string, port int) {
	for svc, session := range map[string]string{"web": "bench", "stream-captured": "bench", "calls": "calls"} {
		l.dayfly("-q", "intercept", "service", svc, "-r", "80", "-l", strconv.Itoa(port), "--session", session, "--drain", "0s", "--detach")
	}
	hosts := []string{"web", "spare", "nginx", "haproxy", "goproxy"} // through the routers; direct; through others
	names := []string{"", "direct", "nginx", "HAProxy", "Go's ReverseProxy"}
	for _, how := range [][]string{{"-c", "1"}, {"-c", "32"}, {"-c", "256"}, {"-c", "1", "-new"}, {"-c", "32", "-new"}} {
		var ways []func() rateOf
		for _, h := range hosts {
			ways = append(ways, func() rateOf { return hammer(t, ns, h, how...) })
		}
		got := hammerAll(ways...)
		what := fmt.Sprintf("router, not matching, %s kept connections", how[1])
		if len(how) > 2 {
			what = fmt.Sprintf("router, not matching, %s at once, each on a new connection", how[1])
		}
		for i := 1; i < len(hosts); i++ {
			rows(what, names[i], got[0], got[i])
		}
	}
	benchHTTP2(t, ns, "")
	path := fmt.Sprintf("/bytes/%d", big)
	var ways []func() float64
	for _, h := range hosts {
		ways = append(ways, func() float64 { return number(t, inPod(t, ns, "fetch", "http://"+h+path)) })
	}
	m := measure(t, ways...)
	for i := 1; i < len(hosts); i++ {
		row("router, not matching, one response of 512 MiB", names[i], m[0], m[i], "MB/s")
	}
	benchTCP(t, ns, "router, TCP, 512 MiB")
	widen := narrow(t, ns, "1gbit")
	benchTCP(t, ns, "router, TCP, 512 MiB to a pod with 1 Gbit/s")
	widen()
	l.dayfly("-q", "session", "close", "bench")
	l.dayfly("-q", "session", "close", "calls")
}

func benchTCP(t *testing.T, ns, what string) {
	t.Helper()
	names := []string{"", "direct", "nginx", "HAProxy"}
	var ways []func() float64
	for _, h := range []string{"stream-captured", "stream", "nginx-tcp", "haproxy-tcp"} {
		ways = append(ways, func() float64 { return number(t, inPod(t, ns, "fetch", "-stream", h+":80")) })
	}
	m := measure(t, ways...)
	for i := 1; i < len(ways); i++ {
		row(what, names[i], m[0], m[i], "MB/s")
	}
}

// narrow lets no more than rate into the client pod, until widen is called.
func narrow(t *testing.T, ns, rate string) (widen func()) {
	t.Helper()
	var pods corev1.PodList
	must(t, cluster.List(t.Context(), &pods, client.InNamespace(ns), client.MatchingLabels{"app": "client"}))
	pod := pods.Items[0]
	route := strings.Fields(printed(t, testcluster("exec", pod.Spec.NodeName, "--", "ip", "route", "get", pod.Status.PodIP)))
	device := route[slices.Index(route, "dev")+1]
	inMachine(t, pod.Spec.NodeName, "tc", "qdisc", "add", "dev", device, "root", "tbf", "rate", rate, "burst", "256kb", "latency", "20ms")
	return func() { inMachine(t, pod.Spec.NodeName, "tc", "qdisc", "del", "dev", device, "root") }
}

// benchHTTP2 compares HTTP/2 without TLS, and gRPC's unary calls. The proxies have connections of HTTP/2 to the original, too.
func benchHTTP2(t *testing.T, ns, key string) {
	kinds := []struct {
		name, captured, spare, port string
		hammer                      func(t *testing.T, ns, host string, args ...string) rateOf
	}{{"HTTP/2", "web", "spare", "h2", hammer}, {"gRPC", "calls", "calls-spare", "calls", hammerGRPC}}
	for _, k := range kinds {
		for _, conns := range []string{"1", "32", "256"} {
			args := []string{"-c", conns}
			if k.name == "HTTP/2" {
				args = append(args, "-h2")
			}
			hosts, names := []string{k.captured, k.spare, "nginx-" + k.port, "haproxy-" + k.port}, []string{"", "direct", "nginx", "HAProxy"}
			what := "router, not matching"
			if key != "" {
				hosts, names, what = hosts[:2], names[:2], "answered by the laptop"
			}
			var ways []func() rateOf
			for i, h := range hosts {
				with := slices.Clone(args)
				switch {
				case i > 0 || key == "":
				case k.name == "HTTP/2":
					with = append(with, "-H", "x-dayfly-session: "+key)
				default:
					with = append(with, "-key", key)
				}
				ways = append(ways, func() rateOf { return k.hammer(t, ns, h, with...) })
			}
			got := hammerAll(ways...)
			for i := 1; i < len(hosts); i++ {
				rows(fmt.Sprintf("%s, %s, %s connections", what, k.name, conns), names[i], got[0], got[i])
			}
		}
	}
}
