package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary be the shop, for the tests that need a process.
func TestMain(m *testing.M) {
	if os.Getenv("SHOP_TEST_BE_SHOP") != "" {
		main()
	}
	os.Exit(m.Run())
}

// TestShutdownLosesNoRequest plays the part of a Service: requests come until readiness fails, and all must be answered.
func TestShutdownLosesNoRequest(t *testing.T) {
	t.Parallel()
	g := newGraph(t, map[string]string{"catalog DRAIN": "2s", "CALL_TIMEOUT": "10s"})
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: 10 * time.Second}
	var answered atomic.Int64
	var closing, unready atomic.Bool
	var load sync.WaitGroup
	for range 16 {
		load.Go(func() {
			for !unready.Load() {
				res, err := client.Get(g.url["catalog"] + "/products")
				if err != nil {
					t.Errorf("lost: %v", err)
					return
				}
				if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
					t.Errorf("lost: %d %v", res.StatusCode, err)
				}
				res.Body.Close()
				if res.Close {
					closing.Store(true)
				}
				answered.Add(1)
			}
		})
	}
	for answered.Load() < 200 && !t.Failed() {
		time.Sleep(time.Millisecond)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- g.stop["catalog"]() }()
	for g.ask("GET", g.url["catalog"]+"/readyz", "").Status == http.StatusOK {
	}
	before := answered.Load()
	for answered.Load() < before+50 && !t.Failed() { // proxies are slower to notice than readiness is to fail
		time.Sleep(time.Millisecond)
	}
	unready.Store(true)
	load.Wait()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if !closing.Load() {
		t.Error("no answer asked its caller to open the next connection elsewhere")
	}
	if res, err := client.Get(g.url["catalog"] + "/healthz"); err == nil {
		res.Body.Close()
		t.Error("catalog still answers after it has stopped")
	}
}

func TestRequestInFlightIsFinished(t *testing.T) {
	t.Parallel()
	arrived, release := make(chan struct{}), make(chan struct{})
	slow := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-release
		fmt.Fprint(w, `{"answered_by":{"service":"stock"},"levels":{"dew":7}}`)
	})}
	l := listen(t)
	go slow.Serve(l)
	defer slow.Close()
	g := newGraph(t, map[string]string{"STOCK_URL": "http://" + l.Addr().String(), "CALL_TIMEOUT": "10s"})

	got := make(chan answer, 1)
	go func() { got <- g.ask("GET", g.url["catalog"]+"/products/dew", "") }()
	<-arrived
	stopped := make(chan error, 1)
	go func() { stopped <- g.stop["catalog"]() }()
	for { // until the listener is closed, which comes after draining
		res, err := http.Get(g.url["catalog"] + "/healthz")
		if err != nil {
			break
		}
		res.Body.Close()
	}
	close(release)
	if a := <-got; a.Status != http.StatusOK || !strings.Contains(a.Body, `"stock": 7`) {
		t.Errorf("got %d %s", a.Status, a.Body)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestSIGTERMEndsTheProcessWell(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no SIGTERM")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "catalog")
	cmd.Env = append(os.Environ(), "SHOP_TEST_BE_SHOP=1", "PORT=0", "ADMIN_PORT=0", "DRAIN=0s", "LOG_FORMAT=json")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var messages []string
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		var line struct{ Msg, Service, Version, Address string }
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil || line.Service != "catalog" || line.Version != "v1" {
			t.Errorf("log line %q: %v", lines.Text(), err)
		}
		messages = append(messages, line.Msg)
		if len(messages) == 2 { // both ports are open
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the process ended with %v", err)
	}
	if got, want := strings.Join(messages, ", "), "listening, listening, draining, stopped"; got != want {
		t.Errorf("it logged %q, want %q", got, want)
	}
}
