//go:build faults

package main

import (
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"dayfly.dev/dayfly/internal/identity"
	"k8s.io/client-go/transport"
)

// faultPoint kills this process, as kill -9 would, at the n-th request to the API server that DAYFLY_DIE counts:
//
//	DAYFLY_DIE=before:N   instead of sending the N-th request
//	DAYFLY_DIE=after:N    once the N-th request has been carried out, before the answer is seen; a write that was refused is none
//
// With DAYFLY_DIE_WRITES=true only writes count that change anything outside dayfly's own namespace.
func faultPoint() transport.WrapperFunc {
	when, text, ok := strings.Cut(os.Getenv("DAYFLY_DIE"), ":")
	n, err := strconv.ParseInt(text, 10, 64)
	if !ok || err != nil {
		return nil
	}
	return func(rt http.RoundTripper) http.RoundTripper {
		return &dying{rt, when == "before", n, os.Getenv("DAYFLY_DIE_WRITES") == "true", &count}
	}
}

var count atomic.Int64 // of the whole process, whatever number of clients it has

type dying struct {
	http.RoundTripper
	before bool
	n      int64
	writes bool
	count  *atomic.Int64
}

func (d *dying) RoundTrip(r *http.Request) (*http.Response, error) {
	if d.writes && !isWrite(r) {
		return d.RoundTripper.RoundTrip(r)
	}
	now := d.count.Add(1)
	if d.before && now == d.n {
		die()
	}
	resp, err := d.RoundTripper.RoundTrip(r)
	if !d.before && d.writes && err == nil && resp.StatusCode >= http.StatusMultipleChoices {
		d.count.Add(-1) // it has changed nothing
		return resp, err
	}
	if !d.before && now >= d.n {
		die()
	}
	return resp, err
}

func isWrite(r *http.Request) bool {
	if r.Method == http.MethodGet || strings.Contains(r.URL.Path, "/namespaces/dayfly-system/") {
		return false
	}
	return strings.Contains(r.URL.Path+"/", "/namespaces/") && !strings.Contains(r.URL.Path, "/events")
}

// faultAt kills this process the n-th time that a router comes to a point: DAYFLY_DIE_AT=POINT:N.
func faultAt() func(string) {
	point, text, ok := strings.Cut(os.Getenv("DAYFLY_DIE_AT"), ":")
	n, err := strconv.ParseInt(text, 10, 64)
	if !ok || err != nil {
		return nil
	}
	var seen atomic.Int64
	return func(at string) {
		if at == point && seen.Add(1) == n {
			die()
		}
	}
}

// faultClock is a clock that is off by DAYFLY_CLOCK.
func faultClock() func() time.Time {
	off := duration("DAYFLY_CLOCK")
	return func() time.Time { return time.Now().Add(off) }
}

// faultValidity has certificates last for DAYFLY_CERTIFICATES, and hardly longer.
func faultValidity() identity.Validity {
	v := identity.Validity{Lifetime: duration("DAYFLY_CERTIFICATES"), Now: faultClock()}
	if v.Lifetime > 0 {
		v.Tolerance = 2 * time.Second
	}
	return v
}

func duration(name string) time.Duration {
	d, err := time.ParseDuration(os.Getenv(name))
	if err != nil {
		return 0
	}
	return d
}

func die() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}
