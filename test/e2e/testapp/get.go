package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

type headerFlags []string

func (h *headerFlags) String() string     { return strings.Join(*h, "; ") }
func (h *headerFlags) Set(s string) error { *h = append(*h, s); return nil }

// get makes one request on a connection of its own and prints the body.
func get(args []string) error {
	f := flag.NewFlagSet("get", flag.ExitOnError)
	var headers headerFlags
	f.Var(&headers, "H", "'name: value'; can be repeated")
	connect := f.String("connect", "", "host:port to connect to instead of the URL's")
	timeout := f.Duration("timeout", 10*time.Second, "for everything")
	if err := f.Parse(args); err != nil {
		return err
	}
	req, err := http.NewRequest(http.MethodGet, f.Arg(0), nil)
	if err != nil {
		return err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ":")
		req.Header.Add(name, strings.TrimSpace(value))
	}
	transport := &http.Transport{
		DisableKeepAlives: true, ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // who answered is what the test asks, and reads in the body
	}
	if *connect != "" {
		transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, *connect)
		}
	}
	c := &http.Client{Timeout: *timeout, Transport: transport}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(os.Stdout, io.LimitReader(resp.Body, 1<<20)); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}
