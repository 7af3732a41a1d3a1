package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
)

const maxAnswer = 1 << 20 // bytes of a downstream's answer

// downstream is a service that this one asks.
type downstream struct {
	name    string
	base    *url.URL
	http    *http.Client
	timeout time.Duration
}

// callError says why a downstream gave nothing to work with.
type callError struct {
	Service string
	Status  int // 0: no answer at all
	Timeout bool
	Message string
}

func (e *callError) Error() string {
	if e.Refused() {
		return e.Message
	}
	return e.Service + " " + e.Message
}

// Refused says that the downstream works and the request was wrong.
func (e *callError) Refused() bool { return e.Status >= 400 && e.Status < 500 }

// newHTTPClient passes baggage, traceparent and the session header on. A Transport that comes first in the chain sees
// the request first: OpenTelemetry opens the span, then the session is added, then it goes out.
func newHTTPClient(cfg config, tel telemetry) *http.Client {
	transport := &http.Transport{
		// No Proxy: services of a graph talk to one another directly, also on a laptop behind a company's proxy.
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     cfg.KeepAlive,
		DisableKeepAlives:   cfg.KeepAlive == 0,
	}
	return &http.Client{
		Transport: otelhttp.NewTransport(passSession{transport}, tel.options()...),
		// A service of the shop never redirects; whoever answers so is not one.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// call asks the downstream and decodes its answer into out, in JSON both ways. The Hop says who answered, and is worth
// showing even when there is an error, which is always a *callError.
func (d downstream) call(ctx context.Context, method, path string, in, out any) (Hop, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	status, body, err := d.roundTrip(ctx, method, path, in)
	if err != nil {
		e := &callError{Service: d.name, Message: "does not answer: " + d.explain(err)}
		e.Timeout = errors.Is(err, context.DeadlineExceeded)
		return Hop{Service: d.name, Error: d.explain(err)}, e
	}
	var r reply
	if err := json.Unmarshal(body, &r); err != nil || r.AnsweredBy.Service == "" {
		msg := fmt.Sprintf("answered %d without saying who it is", status)
		return Hop{Service: d.name, Error: msg}, &callError{Service: d.name, Status: http.StatusBadGateway, Message: msg}
	}
	if status >= 300 {
		if status < 400 || status >= 500 {
			r.AnsweredBy.Error = fmt.Sprintf("answered %d", status)
			r.Error = fmt.Sprintf("answered %d: %s", status, r.Error)
		}
		return r.AnsweredBy, &callError{Service: d.name, Status: status, Message: r.Error}
	}
	if err := json.Unmarshal(body, out); err != nil {
		r.AnsweredBy.Error = "answered in another shape than expected"
		return r.AnsweredBy, &callError{Service: d.name, Status: http.StatusBadGateway, Message: r.AnsweredBy.Error}
	}
	return r.AnsweredBy, nil
}

func (d downstream) roundTrip(ctx context.Context, method, path string, in any) (status int, body []byte, err error) {
	var send io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return 0, nil, fmt.Errorf("encoding the request: %w", err)
		}
		send = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, d.base.JoinPath(path).String(), send)
	if err != nil {
		return 0, nil, err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := d.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	body, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err == nil && len(body) > maxAnswer {
		err = fmt.Errorf("its answer is larger than %d bytes", maxAnswer)
	}
	return res.StatusCode, body, err
}

// explain says in few words, for the page, what went wrong with a connection.
func (d downstream) explain(err error) string {
	var dns *net.DNSError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "nothing within " + d.timeout.String()
	case errors.Is(err, context.Canceled):
		return "the caller has gone"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused by " + d.base.Host
	case errors.As(err, &dns):
		return "no such host: " + d.base.Hostname()
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return err.Error()
}

func (s *service) downstream(name string, base *url.URL) downstream {
	return downstream{name: name, base: base, http: s.client, timeout: s.cfg.CallTimeout}
}
