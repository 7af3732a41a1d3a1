package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// rate is what hammer prints.
type rate struct {
	PerSecond float64 `json:"perSecond"`
	P50       float64 `json:"p50Micros"`
	P99       float64 `json:"p99Micros"`
	Errors    int     `json:"errors"`
}

// hammer sends small GETs for a while on a number of connections and prints how fast they were answered.
func hammer(args []string) error {
	f := flag.NewFlagSet("hammer", flag.ExitOnError)
	conns := f.Int("c", 1, "connections")
	most := f.Duration("d", 2*time.Second, "how long")
	header := f.String("H", "", "'name: value' to send")
	fresh := f.Bool("new", false, "open a connection for each request, and ask the server to close it")
	h2 := f.Bool("h2", false, "speak HTTP/2 without TLS, one request at a time on each connection")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *conns < 1 || *conns > 256 || *most > time.Minute {
		return errors.New("1 to 256 connections, a minute at most")
	}
	u, err := url.Parse(f.Arg(0))
	if err != nil {
		return err
	}
	addr, err := net.ResolveTCPAddr("tcp", u.Host) // the name is resolved once
	if err != nil {
		return err
	}
	head := "GET " + u.RequestURI() + " HTTP/1.1\r\nHost: " + u.Host + "\r\n"
	if *header != "" {
		head += *header + "\r\n"
	}
	if *fresh { // a client that closes first runs out of ports, the sooner the faster it is answered
		head += "Connection: close\r\n"
	}
	loop := func(until time.Time) ([]time.Duration, int) {
		return ask(addr.String(), []byte(head+"\r\n"), until, *fresh)
	}
	if *h2 {
		loop = func(until time.Time) ([]time.Duration, int) {
			return askH2(u.Scheme+"://"+addr.String()+u.RequestURI(), u.Host, *header, until)
		}
	}
	var mu sync.Mutex
	var all []time.Duration
	var failed int
	var wg sync.WaitGroup
	start := time.Now()
	for range *conns {
		wg.Go(func() {
			took, errs := loop(start.Add(*most))
			mu.Lock()
			defer mu.Unlock()
			all, failed = append(all, took...), failed+errs
		})
	}
	wg.Wait()
	if len(all) == 0 {
		return errors.New("nothing was answered")
	}
	slices.Sort(all)
	at := func(q float64) float64 { return float64(all[int(q*float64(len(all)-1))].Nanoseconds()) / 1000 }
	return json.NewEncoder(os.Stdout).Encode(rate{float64(len(all)) / time.Since(start).Seconds(), at(0.5), at(0.99), failed})
}

// ask sends the request again and again, on one connection or each on one of its own, until the time is over or one fails.
func ask(addr string, request []byte, until time.Time, fresh bool) (took []time.Duration, failed int) {
	var c net.Conn
	var r *bufio.Reader
	defer func() {
		if c != nil {
			c.Close()
		}
	}()
	for time.Now().Before(until) {
		start := time.Now()
		if c == nil || fresh {
			var err error
			if c, err = net.Dial("tcp", addr); err != nil {
				return took, failed + 1
			}
			r = bufio.NewReader(c)
		}
		if err := once(c, r, request); err != nil {
			return took, failed + 1
		}
		took = append(took, time.Since(start))
		if fresh {
			_, _ = io.Copy(io.Discard, c) // its end
			c.Close()
		}
	}
	return took, failed
}

// askH2 does so in HTTP/2, on a connection of its own.
func askH2(url, host, header string, until time.Time) (took []time.Duration, failed int) {
	t := &http.Transport{Protocols: new(http.Protocols)}
	t.Protocols.SetUnencryptedHTTP2(true)
	defer t.CloseIdleConnections()
	for time.Now().Before(until) {
		req, err := http.NewRequest(http.MethodGet, url, nil)
		if err != nil {
			return took, failed + 1
		}
		req.Host = host
		if name, value, ok := strings.Cut(header, ":"); ok {
			req.Header.Set(name, strings.TrimSpace(value))
		}
		start := time.Now()
		resp, err := t.RoundTrip(req)
		if err != nil {
			return took, failed + 1
		}
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil || resp.ProtoMajor != 2 {
			return took, failed + 1
		}
		took = append(took, time.Since(start))
	}
	return took, failed
}

func once(c net.Conn, r *bufio.Reader, request []byte) error {
	if _, err := c.Write(request); err != nil {
		return err
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// fetch downloads a URL, or all that a `testapp stream` sends, and prints megabytes per second.
func fetch(args []string) error {
	f := flag.NewFlagSet("fetch", flag.ExitOnError)
	header := f.String("H", "", "'name: value' to send")
	streamed := f.String("stream", "", "host:port of a testapp stream to read from instead")
	encrypted := f.Bool("tls", false, "the stream is encrypted")
	if err := f.Parse(args); err != nil {
		return err
	}
	start := time.Now()
	var n int64
	var err error
	if *streamed != "" {
		n, err = readStream(*streamed, *encrypted)
	} else {
		n, err = readHTTP(f.Arg(0), *header)
	}
	if err != nil {
		return err
	}
	fmt.Printf("%.1f\n", float64(n)/1e6/time.Since(start).Seconds())
	return nil
}

func readHTTP(url, header string) (int64, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	if name, value, ok := strings.Cut(header, ":"); ok {
		req.Header.Set(name, strings.TrimSpace(value))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && n != resp.ContentLength {
		err = fmt.Errorf("%d of %d bytes", n, resp.ContentLength)
	}
	return n, err
}

func readStream(addr string, encrypted bool) (int64, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if encrypted {
		c = tls.Client(c, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}) // measures, proves nothing
	}
	return io.Copy(io.Discard, c)
}

// stream sends a number of bytes to everyone who connects, without being asked.
func stream(args []string) error {
	f := flag.NewFlagSet("stream", flag.ExitOnError)
	addr := f.String("addr", ":8444", "address to listen on")
	size := f.Int64("bytes", 1<<30, "bytes to send")
	encrypted := f.Bool("tls", false, "encrypt")
	if err := f.Parse(args); err != nil {
		return err
	}
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	if *encrypted {
		cert, err := selfSigned()
		if err != nil {
			return err
		}
		l = tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}})
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, io.LimitReader(zeros{}, *size))
		}()
	}
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// reverseproxy is Go's ReverseProxy with a pool that is large enough, as people would write it.
func reverseproxy(args []string) error {
	f := flag.NewFlagSet("reverseproxy", flag.ExitOnError)
	addr := f.String("addr", ":8080", "address to listen on")
	if err := f.Parse(args); err != nil {
		return err
	}
	target, err := url.Parse(f.Arg(0))
	if err != nil {
		return err
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: &http.Transport{MaxIdleConns: 1024, MaxIdleConnsPerHost: 1024, DisableCompression: true},
	}
	return http.ListenAndServe(*addr, proxy)
}
