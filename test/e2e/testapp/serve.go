package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coder/websocket"
)

// reply is what the server says to every HTTP request.
type reply struct {
	ServedBy   string      `json:"servedBy"`
	Connection int64       `json:"connection"` // counts the server's connections
	Method     string      `json:"method"`
	Path       string      `json:"path"`
	Peer       string      `json:"peer"`
	Header     http.Header `json:"header"`
	BodyBytes  int64       `json:"bodyBytes"`
}

type connKey struct{}

// serve answers HTTP on one port and echoes TCP on another until it is told to stop; then it goes on for as long as the
// cluster may still send connections.
func serve(args []string) error {
	f := flag.NewFlagSet("serve", flag.ExitOnError)
	host, _ := os.Hostname()
	name := f.String("name", host, "what to say as servedBy")
	httpAddr := f.String("http", ":8080", "address to answer HTTP on")
	echoAddr := f.String("echo", ":9090", "address to echo TCP on; empty: none")
	udpAddr := f.String("udp", "", "address to echo UDP on; empty: none")
	tlsAddr := f.String("tls", "", "address to answer HTTPS on; empty: none")
	linger := f.Duration("linger", 0, "how long to go on after SIGTERM")
	if err := f.Parse(args); err != nil {
		return err
	}
	var count atomic.Int64
	server := &http.Server{
		Addr: *httpAddr, Handler: handler(*name), ReadHeaderTimeout: 10 * time.Second,
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, count.Add(1))
		},
	}
	server.Protocols = new(http.Protocols)
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	server.Protocols.SetHTTP2(true)
	if *echoAddr != "" {
		l, err := net.Listen("tcp", *echoAddr)
		if err != nil {
			return err
		}
		go echo(l, *name)
	}
	if *udpAddr != "" {
		c, err := net.ListenPacket("udp", *udpAddr)
		if err != nil {
			return err
		}
		go echoUDP(c.(*net.UDPConn), *name)
	}
	if *tlsAddr != "" {
		cert, err := selfSigned()
		if err != nil {
			return err
		}
		l, err := net.Listen("tcp", *tlsAddr)
		if err != nil {
			return err
		}
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
		go server.ServeTLS(l, "", "") // ends with the server
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	go func() {
		<-stop
		time.Sleep(*linger)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(ctx)
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func handler(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
			echoMessages(w, r)
			return
		}
		n, err := io.Copy(io.Discard, io.LimitReader(r.Body, 1<<30))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if size, ok := strings.CutPrefix(r.URL.Path, "/bytes/"); ok {
			sendBytes(w, size)
			return
		}
		conn, _ := r.Context().Value(connKey{}).(int64)
		w.Header().Set("Served-By", name)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(reply{
			ServedBy: name, Connection: conn, Method: r.Method, Path: r.URL.RequestURI(), Peer: r.RemoteAddr, Header: r.Header, BodyBytes: n,
		})
	})
}

// echoMessages is a WebSocket that sends back what it gets.
func echoMessages(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // whoever asks may
	if err != nil {
		return
	}
	defer ws.CloseNow()
	for {
		kind, data, err := ws.Read(r.Context())
		if err != nil || ws.Write(r.Context(), kind, data) != nil {
			return
		}
	}
}

// echo says who it is, then sends back what it gets, and half-closes when the client has.
func echo(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			if _, err := io.WriteString(c, name+"\n"); err != nil {
				return
			}
			_, _ = io.Copy(c, c)
		}()
	}
}

// sendBytes answers /bytes/N with N bytes.
func sendBytes(w http.ResponseWriter, size string) {
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil || n < 0 || n > 4<<30 {
		http.Error(w, "a number of bytes up to 4 GiB", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", size)
	_, _ = io.Copy(w, io.LimitReader(zeros{}, n))
}
