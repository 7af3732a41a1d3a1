package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// graph is the shop, its services in this process, on loopback ports of their own.
type graph struct {
	t    *testing.T
	url  map[string]string // by service, and "catalog admin"
	stop map[string]func() error
	env  map[string]string
}

// newGraph starts all four services. env holds settings for all of them, or for one as "catalog PRICE_FACTOR".
func newGraph(t *testing.T, env map[string]string) *graph {
	t.Helper()
	g := &graph{t: t, url: map[string]string{}, stop: map[string]func() error{}, env: env}
	for _, service := range []string{"stock", "orders", "catalog", "storefront"} {
		g.start(service)
	}
	return g
}

func (g *graph) getenv(service string) func(string) string {
	return func(name string) string {
		for _, key := range []string{service + " " + name, name} {
			if v, set := g.env[key]; set {
				return v
			}
		}
		switch name {
		case "STOCK_URL", "CATALOG_URL", "ORDERS_URL":
			return g.url[strings.ToLower(strings.TrimSuffix(name, "_URL"))]
		case "DRAIN":
			return "0s"
		}
		return ""
	}
}

func (g *graph) start(service string) {
	g.t.Helper()
	cfg, err := readConfig(service, g.getenv(service))
	if err != nil {
		g.t.Fatal(err)
	}
	main, admin := listen(g.t), net.Listener(nil)
	g.url[service] = "http://" + main.Addr().String()
	if cfg.AdminPort != "" {
		admin = listen(g.t)
		g.url[service+" admin"] = "http://" + admin.Addr().String()
	}
	ctx, cancel := context.WithCancel(g.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serveOn(ctx, cfg, slog.New(slog.DiscardHandler), main, admin) }()
	g.stop[service] = sync.OnceValue(func() error { cancel(); return <-ended })
	g.t.Cleanup(func() {
		if err := g.stop[service](); err != nil {
			g.t.Errorf("stopping %s: %v", service, err)
		}
	})
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// answer is what a test looks at.
type answer struct {
	Status int
	Header http.Header
	Body   string
}

// ask sends a request with headers given as "name: value". It follows no redirects.
func (g *graph) ask(method, url, body string, headers ...string) answer {
	g.t.Helper()
	req, err := http.NewRequestWithContext(g.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	if strings.HasPrefix(body, "{") {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       10 * time.Second,
	}
	res, err := client.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, string(b)}
}

// decode reads an answer's JSON, strictly.
func decode[T any](t *testing.T, a answer) T {
	t.Helper()
	var v T
	dec := json.NewDecoder(bytes.NewReader([]byte(a.Body)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("decoding %d %s: %v", a.Status, a.Body, err)
	}
	return v
}
