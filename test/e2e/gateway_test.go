package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/environment"
	"dayfly.dev/dayfly/internal/forward"
	"dayfly.dev/dayfly/internal/share"
	"github.com/chromedp/chromedp"
	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// domain is the one that the test cluster's dayfly is installed with.
const domain = "env.test"

// visitor is somebody outside the cluster, for whom every name under the domain leads to the gateway, and who trusts its authority.
type visitor struct {
	*http.Client
	t       *testing.T
	address string // of the gateway
	roots   *x509.CertPool
	spki    string // of the gateway's certificate, hashed as browsers do
}

func newVisitor(t *testing.T) *visitor {
	t.Helper()
	f, err := forward.Open(t.Context(), cluster.Config, 0, systemNamespace, "gateway", "https")
	must(t, err)
	var secret corev1.Secret
	must(t, cluster.Get(t.Context(), client.ObjectKey{Namespace: systemNamespace, Name: "gateway-tls"}, &secret))
	v := &visitor{t: t, address: f.Address, roots: x509.NewCertPool()}
	if !v.roots.AppendCertsFromPEM(secret.Data["ca.crt"]) {
		t.Fatal("the gateway's authority cannot be read")
	}
	block, _ := pem.Decode(secret.Data["tls.crt"])
	leaf, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	v.spki = base64.StdEncoding.EncodeToString(sum[:])
	jar, err := cookiejar.New(nil)
	must(t, err)
	transport := &http.Transport{DialContext: v.dial, TLSClientConfig: &tls.Config{RootCAs: v.roots}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	v.Client = &http.Client{Transport: transport, Jar: jar, Timeout: 4 * time.Minute}
	return v
}

func (v *visitor) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, v.address)
}

// get asks with headers, as name and value in turn, and returns status and body.
func (v *visitor) get(url string, headers ...string) (int, string) {
	v.t.Helper()
	code, body, err := v.try(http.MethodGet, url, nil, headers...)
	must(v.t, err)
	return code, body
}

func (v *visitor) try(method, url string, body io.Reader, headers ...string) (int, string, error) {
	r, err := http.NewRequestWithContext(v.t.Context(), method, url, body)
	if err != nil {
		return 0, "", err
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return answer(v.Client, r)
}

// answer is the status and the body that a request is answered with.
func answer(c *http.Client, r *http.Request) (int, string, error) {
	resp, err := c.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data), err
}

// shared makes a share and returns its token and its links by component.
func shared(t *testing.T, l *laptop, args ...string) (token string, links map[string]string) {
	t.Helper()
	var out struct {
		Items []struct {
			Links []struct{ Component, URL string }
		}
	}
	must(t, json.Unmarshal([]byte(l.dayfly(append([]string{"env", "share", "-o", "json"}, args...)...)), &out))
	links = map[string]string{}
	for _, link := range out.Items[0].Links {
		links[link.Component] = link.URL
		_, token, _ = strings.Cut(link.URL, share.Parameter+"=")
	}
	return token, links
}

func addressOf(t *testing.T, home, name, component string) string {
	t.Helper()
	for _, a := range getEnv(t, home, name).Status.Addresses {
		if a.Component == component {
			return a.URL
		}
	}
	t.Fatalf("component %s of %s has no address", component, name)
	return ""
}

// An environment answers at its address those who have a link, by a real certificate, and nobody else; the environment never sees
// the link's token; and a link that is revoked is none.
func TestEnvironmentAnswersAtItsAddress(t *testing.T) {
	t.Parallel()
	home, l := newHome(t)
	l.dayfly("env", "create", "pr-1", "-f", webFolder(t, ""))
	v := newVisitor(t)
	at := addressOf(t, home, "pr-1", "web")
	if want := "https://web--pr-1--" + home + "." + domain; at != want {
		t.Errorf("its address is %s, want %s", at, want)
	}
	if out := l.dayfly("env", "show", "pr-1"); !strings.Contains(out, at) || !strings.Contains(out, "open to      nobody") {
		t.Errorf("show:\n%s", out)
	}
	code, refusal := v.get(at)
	nowhere, same := v.get("https://nobody--pr-1--" + home + "." + domain)
	if code != http.StatusUnauthorized || nowhere != code || same != refusal {
		t.Errorf("without a link: %d\n%s\nwhere there is nothing: %d\n%s", code, refusal, nowhere, same)
	}
	token, links := shared(t, l, "pr-1", "--as", "review")
	var seen struct {
		Path   string
		Header http.Header
	}
	for what, ask := range map[string]func() (int, string){
		"by header": func() (int, string) { return v.get(at+"/a?b=c", share.Header, token) },
		"by link":   func() (int, string) { return v.get(strings.Replace(links["web"], "/?", "/a?b=c&", 1)) },
	} {
		code, body := ask()
		if err := json.Unmarshal([]byte(body), &seen); err != nil {
			t.Fatalf("%s: %d, %v:\n%s", what, code, err, body)
		}
		if code != http.StatusOK || seen.Path != "/a?b=c" && seen.Path != "/a" || strings.Contains(body, token) || seen.Header.Get("X-Forwarded-Proto") != "https" {
			t.Errorf("%s: %d\n%s", what, code, body)
		}
	}
	if code, body := v.get(at+"/later", "Accept", "text/html"); code != http.StatusOK || strings.Contains(body, token) {
		t.Errorf("by the link's cookie: %d\n%s", code, body)
	}
	if strings.Contains(kubectlOutput("-n", home, "get", "environments", "-o", "yaml"), token) {
		t.Error("the token is in the cluster")
	}
	if logs := kubectlOutput("-n", systemNamespace, "logs", "deploy/gateway", "--tail=-1"); strings.Contains(logs, token) {
		t.Error("the token is in a log")
	}
	l.dayfly("env", "share", "pr-1", "--revoke", "review")
	await(t, promise(2*time.Second), "a revoked link opens nothing", func() error {
		if code, _ := v.get(at, share.Header, token); code != http.StatusUnauthorized {
			return fmt.Errorf("status %d", code)
		}
		return nil
	})
	l.dayfly("env", "update", "pr-1", "--public")
	await(t, promise(2*time.Second), "a public one is open to all", func() error {
		if code, _ := newVisitor(t).get(at); code != http.StatusOK {
			return fmt.Errorf("status %d", code)
		}
		return nil
	})
	l.dayfly("env", "delete", "pr-1")
	if code, body := v.get(at); code != http.StatusUnauthorized || body != refusal {
		t.Errorf("once it is gone: %d\n%s", code, body)
	}
}

// slowestPod is when the last pod of an environment was ready.
func slowestPod(t *testing.T, lives string) time.Time {
	t.Helper()
	var pods corev1.PodList
	must(t, cluster.List(t.Context(), &pods, client.InNamespace(lives)))
	var last time.Time
	for _, p := range pods.Items {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && c.LastTransitionTime.After(last) {
				last = c.LastTransitionTime.Time
			}
		}
	}
	return last
}

// Requests of every kind to an environment that sleeps wake it, wait, and are answered: GET, POST with its body, WebSocket.
func TestRequestsWakeAnEnvironment(t *testing.T) {
	t.Parallel()
	home, l := newHome(t)
	l.dayfly("env", "create", "pr-1", "-f", "../../examples/shop/deploy", "--public")
	lives := "env-" + home + "-pr-1"
	v := newVisitor(t)
	at := addressOf(t, home, "pr-1", "storefront")
	for round := range 3 {
		l.dayfly("env", "sleep", "pr-1")
		if n := getEnv(t, home, "pr-1").Status.Replicas; n != 0 {
			t.Errorf("asleep with status.replicas %d", n)
		}
		asked := time.Now()
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if code, body, err := v.try(http.MethodGet, at+"/api/shop", nil); err != nil || code != http.StatusOK || !strings.Contains(body, "products") {
					t.Errorf("round %d: GET: %d %v\n%.300s", round, code, err, body)
				}
			})
			wg.Go(func() {
				order := `{"product":"nothing"}`
				if code, body, err := v.try(http.MethodPost, at+"/api/orders", strings.NewReader(order), "Content-Type", "application/json"); err != nil || code >= 500 {
					t.Errorf("round %d: POST: %d %v\n%.300s", round, code, err, body)
				}
			})
		}
		wg.Wait()
		took, pods := time.Since(asked), slowestPod(t, lives).Sub(asked)
		t.Logf("round %d: answered after %v; the slowest pod was ready after %v, as Kubernetes says to the second", round, took.Round(10*time.Millisecond), pods.Round(time.Second))
		if took > promise(pods+1300*time.Millisecond) {
			t.Errorf("round %d: answered %v after the slowest pod was ready", round, took-pods)
		}
		await(t, promise(5*time.Second), "it is ready", func() error {
			if e := getEnv(t, home, "pr-1"); e.Status.Replicas != 1 {
				return fmt.Errorf("%+v", e.Status.Revisions)
			}
			return nil
		})
	}
	events := l.dayfly("env", "events", "pr-1")
	if !strings.Contains(events, environment.ReasonAsleep) {
		t.Errorf("events:\n%s", events)
	}
}

// grpcFolder is grpcapp, and testapp for WebSocket, as two components.
func grpcFolder(t *testing.T) string {
	t.Helper()
	return folder(t, map[string]string{
		"calls.yaml": appManifest("calls", ", appProtocol: kubernetes.io/h2c", "command: [/grpcapp, serve], readinessProbe: {grpc: {port: 8080}, periodSeconds: 1}"),
		"web.yaml":   appManifest("web", "", "command: [/testapp, serve], readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}"),
	})
}

// appManifest is a Service and a Deployment of one pod of the test image; port adds to the Service's port, container to the container.
func appManifest(name, port, container string) string {
	return `
apiVersion: v1
kind: Service
metadata: {name: ` + name + `}
spec: {selector: {app: ` + name + `}, ports: [{name: http, port: 80, targetPort: 8080` + port + `}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: ` + name + `}
spec:
  selector: {matchLabels: {app: ` + name + `}}
  template:
    metadata: {labels: {app: ` + name + `}}
    spec:
      enableServiceLinks: false
      terminationGracePeriodSeconds: 1
      containers: [{name: app, image: ` + testappImage + `, ports: [{containerPort: 8080}], ` + container + `}]
`
}

// gRPC and WebSocket wake an environment as well, and one that nobody asks falls asleep by itself; an open stream keeps it awake.
func TestStreamsWakeAnEnvironmentAndKeepItAwake(t *testing.T) {
	t.Parallel()
	home, l := newHome(t)
	l.dayfly("env", "create", "pr-1", "-f", grpcFolder(t), "--public", "--sleep-after", "10s")
	v := newVisitor(t)
	asleep := func() error {
		if c := l.dayfly("env", "list"); !strings.Contains(c, "Asleep") {
			return fmt.Errorf("%s", c)
		}
		return nil
	}
	await(t, promise(25*time.Second), "it falls asleep by itself", asleep)
	if events := l.dayfly("env", "events", "pr-1"); !strings.Contains(events, "nobody has asked for 10s") {
		t.Errorf("events:\n%s", events)
	}
	conn, err := grpc.NewClient("passthrough:///"+strings.TrimPrefix(addressOf(t, home, "pr-1", "calls"), "https://"),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: v.roots})),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return v.dial(ctx, "tcp", "") }))
	must(t, err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), promise(30*time.Second))
	defer cancel()
	begin := time.Now()
	if _, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatalf("a call to one that sleeps: %v", err)
	}
	t.Logf("a call to one that sleeps is answered after %v", time.Since(begin).Round(10*time.Millisecond))
	watch, err := healthpb.NewHealthClient(conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	must(t, err)
	if first, err := watch.Recv(); err != nil || first.Status != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("a stream: %v %v", first, err)
	}
	time.Sleep(16 * time.Second) // longer than it takes to fall asleep
	if asleep() == nil {
		t.Error("it sleeps while a stream is open")
	}
	must(t, watch.CloseSend())
	conn.Close()
	await(t, promise(30*time.Second), "it falls asleep again", asleep)
	begin = time.Now()
	ws, _, err := websocket.Dial(ctx, strings.Replace(addressOf(t, home, "pr-1", "web"), "https", "wss", 1)+"/ws", &websocket.DialOptions{HTTPClient: v.Client})
	must(t, err)
	defer ws.CloseNow()
	must(t, ws.Write(ctx, websocket.MessageText, []byte("hello")))
	if _, data, err := ws.Read(ctx); err != nil || string(data) != "hello" {
		t.Errorf("a WebSocket says %q %v", data, err)
	}
	t.Logf("a WebSocket to one that sleeps is answered after %v", time.Since(begin).Round(10*time.Millisecond))
}

// An environment falls asleep and wakes under a client, again and again: no request fails.
func TestNoRequestFailsWhileItSleepsAndWakes(t *testing.T) {
	t.Parallel()
	home, l := newHome(t)
	l.dayfly("env", "create", "pr-1", "-f", grpcFolder(t), "--public", "--only", "web")
	v := newVisitor(t)
	at := addressOf(t, home, "pr-1", "web")
	cycles := 6
	if n, err := strconv.Atoi(os.Getenv("CYCLES")); err == nil {
		cycles = n
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var done, slow atomic.Int64
	var quiet atomic.Bool // nobody asks
	var asking atomic.Int64
	for i := range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				asking.Add(1)
				if quiet.Load() {
					asking.Add(-1)
					time.Sleep(5 * time.Millisecond)
					continue
				}
				method, body := http.MethodGet, []byte(nil)
				if i%2 == 1 {
					method, body = http.MethodPost, bytes.Repeat([]byte("x"), 10_000)
				}
				begin := time.Now()
				code, says, err := v.try(method, at, bytes.NewReader(body))
				if err != nil || code != http.StatusOK || method == http.MethodPost && !strings.Contains(says, `"bodyBytes":10000`) {
					t.Errorf("%s at %v: %d %v\n%.300s", method, begin, code, err, says)
				}
				asking.Add(-1)
				done.Add(1)
				if took := time.Since(begin).Milliseconds(); took > slow.Load() {
					slow.Store(took)
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	slept := 0
	for i := range cycles {
		// In turn: asked all the time; asked again at some moment of its falling asleep; asked again once it is asleep.
		quiet.Store(i%3 > 0)
		for quiet.Load() && asking.Load() > 0 {
			time.Sleep(time.Millisecond)
		}
		l.dayfly("env", "sleep", "pr-1", "--wait="+strconv.FormatBool(i%3 == 2))
		if i%3 == 1 {
			time.Sleep(time.Duration(rand.IntN(4000)) * time.Millisecond)
		}
		if e := getEnv(t, home, "pr-1"); e.Status.Replicas == 0 && strings.HasSuffix(e.Status.Revisions.Ready, v1alpha1.SuffixAsleep) {
			slept++
		}
		quiet.Store(false)
		await(t, promise(20*time.Second), "it is awake", func() error {
			if e := getEnv(t, home, "pr-1"); e.Spec.Asleep() || e.Status.Replicas != 1 {
				return fmt.Errorf("%+v", e.Status.Revisions)
			}
			return nil
		})
		time.Sleep(300 * time.Millisecond) // of requests
	}
	stop()
	wg.Wait()
	t.Logf("%d times told to sleep, %d times asleep; %d requests, the slowest in %d ms", cycles, slept, done.Load(), slow.Load())
	if done.Load() < 100 || slept < cycles/3 {
		t.Errorf("%d requests, %d times asleep", done.Load(), slept)
	}
}

// A browser that follows a link to an environment which sleeps sees that it wakes, and then the application.
func TestBrowserSeesAnEnvironmentWake(t *testing.T) {
	t.Parallel()
	home, l := newHome(t)
	l.dayfly("env", "create", "pr-1", "-f", "../../examples/shop/deploy")
	v := newVisitor(t)
	_, links := shared(t, l, "pr-1")
	l.dayfly("env", "sleep", "pr-1")
	_, port, err := net.SplitHostPort(v.address)
	must(t, err)
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.ExecPath("chromium"),
		chromedp.Flag("host-resolver-rules", "MAP *."+domain+" 127.0.0.1:"+port),
		chromedp.Flag("ignore-certificate-errors-spki-list", v.spki), chromedp.UserDataDir(t.TempDir()))
	allocator, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	defer cancel()
	browser, cancel := chromedp.NewContext(allocator)
	defer cancel()
	ctx, cancel := context.WithTimeout(browser, 2*time.Minute)
	defer cancel()
	must(t, chromedp.Do(ctx, chromedp.Navigate(links["storefront"])))
	waking, err := chromedp.Run(ctx, chromedp.Text(chromedp.CSS("h1")))
	must(t, err)
	begin := time.Now()
	must(t, chromedp.Do(ctx, chromedp.WaitVisible(chromedp.CSS(".panels"))))
	shop, err := chromedp.Run(ctx, chromedp.Text(chromedp.CSS("h1")))
	must(t, err)
	url, err := chromedp.Run(ctx, chromedp.Location())
	must(t, err)
	if waking != "Waking up" || shop != "The Dayfly Shop" || strings.Contains(url, share.Parameter) || !strings.Contains(url, addressOf(t, home, "pr-1", "storefront")) {
		t.Errorf("the page says %q, and then at %s:\n%.300s", waking, url, shop)
	}
	t.Logf("the shop is seen %v after the page that it wakes", time.Since(begin).Round(100*time.Millisecond))
}

// The gateway's account can wake environments and say when one was asked, and change nothing else of any; the controller's cannot wake.
func TestGatewayMayOnlyWake(t *testing.T) {
	t.Parallel()
	home, l := newHome(t)
	l.dayfly("env", "create", "pr-1", "-f", webFolder(t, ""))
	e := getEnv(t, home, "pr-1")
	merge := func(text string) client.Patch { return client.RawPatch(types.MergePatchType, []byte(text)) }
	scale := func(c client.Client, n int) error {
		return c.SubResource("scale").Patch(t.Context(), e.DeepCopy(), merge(fmt.Sprintf(`{"spec":{"replicas":%d}}`, n)), client.WithSubResourceBody(&autoscalingv1.Scale{}), client.DryRunAll)
	}
	status := func(c client.Client, text string) error {
		return c.Status().Patch(t.Context(), e.DeepCopy(), merge(`{"status":`+text+`}`), client.DryRunAll)
	}
	gateway, controller := roleClient(t, "gateway"), roleClient(t, "controller")
	for what, c := range map[string]struct {
		err     error
		allowed bool
	}{
		"gateway wakes":                  {scale(gateway, 1), true},
		"gateway puts to sleep":          {scale(gateway, 0), false},
		"controller puts to sleep":       {scale(controller, 0), true},
		"controller wakes":               {scale(controller, 1), false},
		"gateway says when it was asked": {status(gateway, `{"lastRequest":"2026-01-02T03:04:05Z"}`), true},
		"gateway moves an environment":   {status(gateway, `{"namespace":"kube-system"}`), false},
		"gateway claims an address":      {status(gateway, `{"addresses":[{"component":"x","url":"https://x","service":"y"}]}`), false},
		"gateway says it is ready":       {status(gateway, `{"revisions":{"ready":"x"}}`), false},
		"gateway changes what is asked":  {gateway.Patch(t.Context(), e.DeepCopy(), merge(`{"spec":{"public":true}}`), client.DryRunAll), false},
		"gateway reads a Secret":         {gateway.Get(t.Context(), client.ObjectKey{Namespace: systemNamespace, Name: "gateway-ca"}, &corev1.Secret{}), false},
		"gateway reads its certificate":  {gateway.Get(t.Context(), client.ObjectKey{Namespace: systemNamespace, Name: "gateway-tls"}, &corev1.Secret{}), true},
	} {
		if c.allowed && c.err != nil || !c.allowed && !apierrors.IsForbidden(c.err) {
			t.Errorf("%s: %v, want allowed: %t", what, c.err, c.allowed)
		}
	}
	l.dayfly("env", "delete", "pr-1")
}
