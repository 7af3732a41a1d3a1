package gateway

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/share"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const host = "web--pr-1--team.env.test"

// A link opens from the moment that it was made, also where the gateway hears of it later: it is waited for, by so many at once
// and for so long.
func TestALinkIsWaitedFor(t *testing.T) {
	token := share.NewToken()
	g, e, slice := open(t, nil)
	pod := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") }))
	defer pod.Close()
	slice = lead(t, slice, pod.Listener.Addr().String())
	shows := func(r *http.Request) { r.Header.Set(share.Header, token) }
	hears := func(made *v1alpha1.Environment) {
		made.Spec.Shares = []v1alpha1.Share{{Name: "a", Hash: share.Hash(token), Until: metav1.NewTime(time.Now().Add(time.Hour))}}
		for range 1000 { // until somebody waits, or nobody does
			if len(g.unheard) > 0 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		g.table.putSlice(slice) // wakes it, and is no news to it
		g.table.putEnvironment(made)
	}

	g.unheard = make(chan struct{}, 1)
	go hears(e.DeepCopy())
	if resp := ask(t, g, shows); resp.StatusCode != http.StatusOK {
		t.Errorf("of a share that is heard of later: %s", resp.Status)
	}
	g.table.dropEnvironment(e)
	go hears(e.DeepCopy())
	if resp := ask(t, g, shows); resp.StatusCode != http.StatusOK {
		t.Errorf("of an environment that is heard of later: %s", resp.Status)
	}
	began := time.Now()
	if resp := ask(t, g, func(r *http.Request) { r.Header.Set(share.Header, "wrong") }); resp.StatusCode != http.StatusUnauthorized || time.Since(began) < hearTime {
		t.Errorf("a wrong token: %s after %s", resp.Status, time.Since(began))
	}
	if len(g.unheard) > 0 {
		t.Error("a place is not given back")
	}
	g.unheard <- struct{}{} // all places are taken
	began = time.Now()
	if resp := ask(t, g, func(r *http.Request) { r.Header.Set(share.Header, "wrong") }); resp.StatusCode != http.StatusUnauthorized || time.Since(began) >= hearTime {
		t.Errorf("one more wrong token: %s after %s", resp.Status, time.Since(began))
	}
}

// open is a gateway that knows one environment, whose only pod is a server of this test. It wakes nothing.
func open(t *testing.T, change func(*v1alpha1.Environment)) (*Gateway, *v1alpha1.Environment, *discoveryv1.EndpointSlice) {
	t.Helper()
	g := &Gateway{opts: Options{Logger: slog.New(slog.DiscardHandler)}, table: newTable()}
	g.metrics = newMetrics(g.table)
	e := &v1alpha1.Environment{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "pr-1", UID: "1"}}
	e.Status.Namespace, e.Status.Replicas = "env-team-pr-1", 1
	e.Status.Addresses = []v1alpha1.Address{{Component: "web", URL: "https://" + host, Service: "web", Port: "http"}}
	if change != nil {
		change(e)
	}
	g.table.putEnvironment(e)
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "env-team-pr-1", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}}}
	return g, e, slice
}

// lead has a slice lead to an address.
func lead(t *testing.T, s *discoveryv1.EndpointSlice, address string) *discoveryv1.EndpointSlice {
	t.Helper()
	ip, text, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	s = s.DeepCopy()
	s.AddressType = discoveryv1.AddressTypeIPv4
	s.Ports = []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(port)), Protocol: new(corev1.ProtocolTCP)}}
	s.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)}}}
	return s
}

func public(e *v1alpha1.Environment) { e.Spec.Public, e.Status.Public = true, true }

func ask(t *testing.T, g *Gateway, change func(*http.Request)) *http.Response {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+host+"/a?b=c", nil)
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	g.handler().ServeHTTP(w, r)
	return w.Result()
}

func text(t *testing.T, r *http.Response) string {
	t.Helper()
	data, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// Who has no good token learns nothing, not even whether there is such an environment; who has one is let in, by link, cookie or
// header, and the environment sees none of it.
func TestOnlyTokensOpen(t *testing.T) {
	token := share.NewToken()
	g, _, slice := open(t, func(e *v1alpha1.Environment) {
		e.Spec.Shares = []v1alpha1.Share{
			{Name: "a", Hash: share.Hash(token), Until: metav1.NewTime(time.Now().Add(time.Hour))},
			{Name: "old", Hash: share.Hash("old"), Until: metav1.NewTime(time.Now().Add(-time.Second))},
		}
	})
	var seen *http.Request
	pod := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { seen = r; fmt.Fprint(w, "hello") }))
	defer pod.Close()
	g.table.putSlice(lead(t, slice, pod.Listener.Addr().String()))

	nowhere := text(t, ask(t, g, func(r *http.Request) { r.Host = "other.env.test" }))
	for name, change := range map[string]func(*http.Request){
		"nothing":         nil,
		"a wrong token":   func(r *http.Request) { r.Header.Set(share.Header, "wrong") },
		"the hash":        func(r *http.Request) { r.Header.Set(share.Header, share.Hash(token)) },
		"an empty token":  func(r *http.Request) { r.URL.RawQuery = share.Parameter + "=" },
		"one that ended":  func(r *http.Request) { r.URL.RawQuery = share.Parameter + "=old" },
		"an endless one":  func(r *http.Request) { r.Header.Set(share.Header, strings.Repeat("a", 60<<10)) },
		"another cookie":  func(r *http.Request) { r.AddCookie(&http.Cookie{Name: "dayfly", Value: token}) },
		"a wrong cookie":  func(r *http.Request) { r.AddCookie(&http.Cookie{Name: tokenCookie, Value: "x"}) },
		"a token as path": func(r *http.Request) { r.URL.Path = "/" + token },
	} {
		if resp := ask(t, g, change); resp.StatusCode != http.StatusUnauthorized || text(t, resp) != nowhere || seen != nil {
			t.Errorf("%s: %d, or it says more than of no environment", name, resp.StatusCode)
		}
	}
	for name, change := range map[string]func(*http.Request){
		"header": func(r *http.Request) { r.Header.Set(share.Header, token) },
		"cookie": func(r *http.Request) {
			r.Header["Cookie"] = []string{"a=b; " + tokenCookie + "=" + token, tokenCookie + "=second; c=d"}
		},
		"link": func(r *http.Request) { r.URL.RawQuery = "b=c&" + share.Parameter + "=" + token },
	} {
		seen = nil
		resp := ask(t, g, change)
		if resp.StatusCode != http.StatusOK || text(t, resp) != "hello" || seen == nil {
			t.Fatalf("%s: %s", name, resp.Status)
		}
		if strings.Contains(fmt.Sprint(seen.Header, seen.URL), token) || seen.URL.RawQuery != "b=c" || seen.Host != host {
			t.Errorf("%s: the environment sees %s %v", name, seen.URL, seen.Header)
		}
		if name == "cookie" && seen.Header.Get("Cookie") != "a=b; c=d" {
			t.Errorf("cookies: %q", seen.Header.Get("Cookie"))
		}
	}
	// A browser is sent to where it wanted to go, on this host and no other, without the token.
	for _, path := range []string{"/a", "//evil.example/a", "/\\evil.example"} {
		resp := ask(t, g, func(r *http.Request) {
			r.URL.Path, r.URL.RawQuery = path, "x=y&"+share.Parameter+"="+token
			r.Header.Set("Accept", "text/html,*/*")
		})
		at := resp.Header.Get("Location")
		if resp.StatusCode != http.StatusSeeOther || strings.HasPrefix(at, "//") || strings.HasPrefix(at, "/\\") || strings.Contains(at, token) || !strings.HasSuffix(at, "?x=y") {
			t.Errorf("%s: %s to %q", path, resp.Status, at)
		}
		cookies := resp.Cookies()
		if len(cookies) != 1 || !cookies[0].Secure || !cookies[0].HttpOnly || cookies[0].Value != token || cookies[0].Domain != "" || cookies[0].Path != "/" {
			t.Errorf("cookies: %v", cookies)
		}
	}
}

// A request for what does not run yet waits for it, however long its body, and is answered once.
func TestHeldUntilAPodIsReady(t *testing.T) {
	g, e, slice := open(t, public)
	bodies := make(chan string, 1)
	pod := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		bodies <- string(data)
	}))
	defer pod.Close()
	answered := make(chan int, 1)
	go func() {
		answered <- ask(t, g, func(r *http.Request) {
			r.Method, r.Body, r.ContentLength = http.MethodPost, io.NopCloser(strings.NewReader("once")), 4
		}).StatusCode
	}()
	waits := func() bool {
		g.table.mu.RLock()
		u := g.table.envs[types.UID("1")].use
		g.table.mu.RUnlock()
		u.mu.Lock()
		defer u.mu.Unlock()
		return u.held == 1
	}
	for deadline := time.Now().Add(5 * time.Second); !waits(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the request does not wait")
		}
	}
	// A pod that is said to be ready and takes no connections is no reason to fail.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	g.table.putSlice(lead(t, slice, address))
	time.Sleep(8 * retryTime) // more often than a request is sent that a pod may have seen
	select {
	case code := <-answered:
		t.Fatalf("answered with %d by nobody", code)
	default:
	}
	// What changes of the environment does not lose who waits.
	changed := e.DeepCopy()
	changed.Spec.SleepAfter = &metav1.Duration{Duration: time.Hour}
	g.table.putEnvironment(changed)
	pod.Start()
	g.table.putSlice(lead(t, slice, pod.Listener.Addr().String()))
	if code := <-answered; code != http.StatusOK {
		t.Errorf("answered with %d", code)
	}
	if body := <-bodies; body != "once" {
		t.Errorf("the pod got %q", body)
	}
	if waits() {
		t.Error("it still counts as waiting")
	}
}

// A request that a pod may have begun to carry out is not sent again; one that changes nothing is.
func TestSentAgainOnlyWhatHarmsNobody(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		g, _, slice := open(t, public)
		tries := 0
		pod := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if tries++; tries == 1 {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err == nil {
					conn.Close()
				}
			}
		}))
		g.table.putSlice(lead(t, slice, pod.Listener.Addr().String()))
		resp := ask(t, g, func(r *http.Request) { r.Method = method })
		want, times := http.StatusOK, 2
		if method == http.MethodPost {
			want, times = http.StatusBadGateway, 1
		}
		if resp.StatusCode != want || tries != times {
			t.Errorf("%s: %s after %d tries", method, resp.Status, tries)
		}
		pod.Close()
	}
}

// An environment that ends while requests wait for it answers them at once; one that is not ready answers browsers with a page
// that asks again; and no more wait than may.
func TestWhatDoesNotRun(t *testing.T) {
	g, e, _ := open(t, public)
	page := ask(t, g, func(r *http.Request) { r.Header.Set("Sec-Fetch-Dest", "document") })
	if says := text(t, page); page.StatusCode != http.StatusServiceUnavailable || !strings.Contains(says, `http-equiv="refresh"`) || !strings.Contains(says, "pr-1") ||
		page.Header.Get("Content-Security-Policy") == "" {
		t.Errorf("%s\n%s", page.Status, says)
	}
	g.table.envs["1"].use.held = mostHeld
	if resp := ask(t, g, nil); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("more wait than may: %s", resp.Status)
	}
	g.table.envs["1"].use.held = 0
	answered := make(chan int, 1)
	go func() { answered <- ask(t, g, nil).StatusCode }()
	time.Sleep(50 * time.Millisecond)
	g.table.dropEnvironment(e)
	if code := <-answered; code != http.StatusUnauthorized {
		t.Errorf("of an environment that is gone: %d", code)
	}
	if len(g.table.hosts) != 0 {
		t.Errorf("hosts are left: %v", g.table.hosts)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	g.table.putEnvironment(e)
	if _, err := g.hold(ctx, route{g.table.envs["1"], e.Status.Addresses[0]}, map[string]bool{}, time.Now().Add(time.Minute)); err == nil {
		t.Error("it waits for a visitor who has gone")
	}
}

// Of two that claim a host the older has it, in whatever order they are heard of.
func TestAHostIsTheOldest(t *testing.T) {
	for _, first := range []string{"old", "new"} {
		tb := newTable()
		for _, name := range map[string][]string{"old": {"old", "new"}, "new": {"new", "old"}}[first] {
			e := &v1alpha1.Environment{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(time.Unix(map[string]int64{"old": 1, "new": 2}[name], 0))}}
			e.Status.Addresses = []v1alpha1.Address{{URL: "https://" + host}}
			tb.putEnvironment(e)
			tb.putEnvironment(e)
		}
		for _, asked := range []string{host, strings.ToUpper(host), host + ":443", host + "."} {
			if r, ok := tb.find(asked); !ok || r.env.Name != "old" {
				t.Errorf("%s: %v %t", asked, r.env, ok)
			}
		}
		if _, ok := tb.find(""); ok {
			t.Error("a request without a host finds one")
		}
	}
}

// A share that is revoked, or ends, ends what it let in; a program's link is exchanged for a cookie, whatever comes before its answer.
func TestRevokedSharesEndWhatIsOpen(t *testing.T) {
	token := share.NewToken()
	shares := []v1alpha1.Share{{Name: "a", Hash: share.Hash(token), Until: metav1.NewTime(time.Now().Add(time.Hour))}}
	for _, how := range []string{"revoked", "gone", "over"} {
		g, e, slice := open(t, func(e *v1alpha1.Environment) {
			e.Spec.Shares = shares
			if how == "over" {
				e.Spec.Shares = []v1alpha1.Share{{Name: "a", Hash: share.Hash(token), Until: metav1.NewTime(time.Now().Add(time.Second))}}
			}
		})
		began, ended := make(chan struct{}), make(chan struct{})
		pod := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			fmt.Fprint(w, "first")
			_ = http.NewResponseController(w).Flush()
			close(began)
			<-r.Context().Done()
			close(ended)
		}))
		front := httptest.NewServer(g.handler())
		g.table.putSlice(lead(t, slice, pod.Listener.Addr().String()))
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, front.URL+"/?"+share.Parameter+"="+token, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		resp, err := front.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if c := resp.Cookies(); len(c) != 1 || c[0].Name != tokenCookie {
			t.Errorf("cookies: %v", c)
		}
		<-began
		changed := e.DeepCopy()
		changed.Spec.Shares = nil
		switch how {
		case "revoked":
			g.table.putEnvironment(changed)
		case "gone":
			g.table.dropEnvironment(e)
		}
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Errorf("%s: it goes on", how)
		}
		resp.Body.Close()
		front.Close()
		pod.Close()
	}
}

// What reaches an environment is what was asked, but for what is the gateway's; what comes back concerns this host alone.
func TestForwardedAsItCame(t *testing.T) {
	g, _, slice := open(t, public)
	var seen *http.Request
	pod := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r
		w.Header().Add("Set-Cookie", "a=b; Domain=env.test; Path=/; Secure")
		w.Header().Add("Set-Cookie", "domain=kept; domain=.env.test")
		w.Header().Set("Clear-Site-Data", `"cookies"`)
	}))
	defer pod.Close()
	g.table.putSlice(lead(t, slice, pod.Listener.Addr().String()))
	for _, query := range []string{"q=50%&x=1", "z=1;2&a=3", "a=%u00e9&b=2", "a=+&b=%20&a=1&"} {
		resp := ask(t, g, func(r *http.Request) {
			r.URL.RawQuery = query
			r.Header.Set("Referer", "https://"+host+"/x?c=d&"+share.Parameter+"=secret")
			r.Header.Set("X-Real-Ip", "1.2.3.4")
			r.Header.Set("X-Forwarded-For", "1.2.3.4")
			r.Header.Set("Connection", "Upgrade, HTTP2-Settings")
			r.Header.Set("Upgrade", "h2c")
			r.Header.Set("HTTP2-Settings", "AAMAAABkAAQAAP__")
			r.Header.Set("Cookie", tokenCookie+" =secret; a=b")
		})
		if seen.URL.RawQuery != query {
			t.Errorf("?%s arrives as ?%s", query, seen.URL.RawQuery)
		}
		if all := fmt.Sprint(seen.Header); strings.Contains(all, "secret") || strings.Contains(all, "1.2.3.4") || seen.Header.Get("Upgrade") != "" {
			t.Errorf("the environment sees %s", all)
		}
		if got := fmt.Sprint(resp.Header["Set-Cookie"], resp.Header["Clear-Site-Data"]); got != "[a=b; Path=/; Secure domain=kept] []" {
			t.Errorf("the visitor gets %s", got)
		}
	}
}

// A proxy of the cluster's, which comes without TLS, says whom it leads here; who comes by TLS says so for nobody else.
func TestAProxyIsBelieved(t *testing.T) {
	g, _, slice := open(t, public)
	var seen http.Header
	pod := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r.Header }))
	defer pod.Close()
	g.table.putSlice(lead(t, slice, pod.Listener.Addr().String()))
	for name, c := range map[string]struct {
		secure bool
		said   string
		want   string
	}{
		"by the proxy":            {false, "https", "203.0.113.7, 192.0.2.1 https"},
		"by the proxy, in clear":  {false, "http", "203.0.113.7, 192.0.2.1 http"},
		"something else":          {false, "https, evil", "203.0.113.7, 192.0.2.1 http"},
		"who comes by themselves": {true, "http", "192.0.2.1 https"},
	} {
		ask(t, g, func(r *http.Request) {
			if !c.secure {
				r.TLS = nil
			}
			r.Header.Set("X-Forwarded-For", "203.0.113.7")
			r.Header.Set("X-Forwarded-Proto", c.said)
			r.Header.Set("X-Forwarded-Host", "elsewhere.example.com")
		})
		if got := seen.Get("X-Forwarded-For") + " " + seen.Get("X-Forwarded-Proto"); got != c.want || seen.Get("X-Forwarded-Host") != host {
			t.Errorf("%s: %s for %s, want %s", name, got, seen.Get("X-Forwarded-Host"), c.want)
		}
	}
}

// One that is made anew under its name, of whose end nothing was heard, is another.
func TestMadeAnewUnseen(t *testing.T) {
	g, e, _ := open(t, public)
	anew := e.DeepCopy()
	anew.UID = "2"
	handlerOf(g.table.putEnvironment, g.table.dropEnvironment).OnUpdate(e, anew)
	if r, ok := g.table.find(host); !ok || r.env.UID != "2" || len(g.table.envs) != 1 {
		t.Errorf("the host is that of %v, of %d", r.env, len(g.table.envs))
	}
}

// A visitor who takes no answer, or sends what nobody reads, is not waited for.
func TestRefusedVisitorsAreNotWaitedFor(t *testing.T) {
	g, _, _ := open(t, nil)
	front := httptest.NewServer(g.handler())
	defer front.Close()
	conn, err := net.Dial("tcp", front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 10\r\n\r\n", host)
	_ = conn.SetReadDeadline(time.Now().Add(refuseTime + 10*time.Second))
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Errorf("the connection stays: %v", err)
	}
}
