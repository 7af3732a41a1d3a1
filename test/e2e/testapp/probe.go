package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"dayfly.dev/dayfly/internal/identity"
	"github.com/coder/websocket"
)

// found is what one address offers: its open ports, and what was said there in every way we know.
type found struct {
	Address string     `json:"address"`
	Open    []int      `json:"open"`
	Said    []exchange `json:"said"`
}

type exchange struct {
	Port   int    `json:"port"`
	How    string `json:"how"`
	Status int    `json:"status,omitempty"` // of HTTP
	Answer string `json:"answer,omitempty"` // its beginning
	Error  string `json:"error,omitempty"`
}

// probe connects to every port of the addresses, and speaks to the low ones that are open as everybody who might be let in.
func probe(args []string) error {
	f := flag.NewFlagSet("probe", flag.ExitOnError)
	from := f.Int("from", 1, "first port")
	to := f.Int("to", 65535, "last port")
	wait := f.Duration("wait", 250*time.Millisecond, "how long a connection may take")
	if err := f.Parse(args); err != nil {
		return err
	}
	log.SetOutput(io.Discard) // what net/http thinks of ports that do not speak HTTP
	var out []found
	for _, addr := range f.Args() {
		r := found{Address: addr, Open: scan(addr, *from, *to, *wait), Said: []exchange{}}
		for _, port := range r.Open {
			if port < 20000 || port > 29999 { // captured ports speak whatever the captured service speaks
				r.Said = append(r.Said, speak(addr, port)...)
			}
		}
		out = append(out, r)
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

func scan(addr string, from, to int, wait time.Duration) []int {
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := []int{}
	ports := make(chan int)
	for range 400 {
		wg.Go(func() {
			for p := range ports {
				c, err := net.DialTimeout("tcp", net.JoinHostPort(addr, strconv.Itoa(p)), wait)
				if err != nil {
					continue
				}
				c.Close()
				mu.Lock()
				open = append(open, p)
				mu.Unlock()
			}
		})
	}
	for p := from; p <= to; p++ {
		ports <- p
	}
	close(ports)
	wg.Wait()
	slices.Sort(open)
	return open
}

// forged is what a front proxy would say of an administrator.
var forged = http.Header{
	"X-Remote-User": {"system:serviceaccount:dayfly-system:controller"}, "X-Remote-Group": {"system:masters"}, "X-Forwarded-For": {"127.0.0.1"},
	"X-Forwarded-Client-Cert": {`Subject="O=controller"`}, "Impersonate-User": {"system:admin"},
}

// speak tries everything on one port.
func speak(addr string, port int) []exchange {
	target := net.JoinHostPort(addr, strconv.Itoa(port))
	_, csr, err := identity.Request()
	if err != nil {
		return []exchange{{Port: port, Error: err.Error()}}
	}
	enrolment, _ := json.Marshal(map[string][]byte{"request": csr})
	var certs []tls.Certificate
	for _, role := range []identity.Role{identity.RoleController, identity.RoleRouter} {
		if c, err := selfMade(role); err == nil {
			certs = append(certs, c)
		}
	}
	var out []exchange
	ask := func(how, scheme string, cert []tls.Certificate, method, path, token string, body []byte) {
		e := exchange{Port: port, How: how + " " + method + " " + path}
		c := &http.Client{Timeout: 4 * time.Second, Transport: &http.Transport{
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: cert}, DisableKeepAlives: true, //nolint:gosec // the attacker does not care who answers
		}}
		req, err := http.NewRequest(method, scheme+"://"+target+path, bytes.NewReader(body))
		if err == nil {
			if strings.HasPrefix(how, "front-proxy") {
				req.Header = forged.Clone()
			}
			if token != "" {
				req.Header.Set("Authorization", "Bearer "+token)
			}
			var resp *http.Response
			if resp, err = c.Do(req); err == nil {
				text, _ := io.ReadAll(io.LimitReader(resp.Body, 400))
				resp.Body.Close()
				e.Status, e.Answer = resp.StatusCode, string(text)
			}
		}
		if err != nil {
			e.Error = err.Error()
		}
		out = append(out, e)
	}
	asks := []struct{ method, path string }{
		{"GET", "/"}, {"GET", "/table"}, {"PUT", "/table"}, {"GET", "/status"}, {"POST", "/settle?generation=1"}, {"POST", "/reach?port=20000"}, {"GET", "/alive"},
		{"POST", "/enrol"}, {"GET", "/tunnel"}, {"GET", "/metrics"}, {"GET", "/debug/pprof/"},
	}
	for _, a := range asks {
		ask("plain", "http", nil, a.method, a.path, "", []byte("{}"))
		ask("front-proxy headers", "https", nil, a.method, a.path, "", []byte("{}"))
		ask("TLS without a certificate", "https", nil, a.method, a.path, "", []byte("{}"))
		for i := range certs {
			ask("TLS with a self-made certificate", "https", certs[i:i+1], a.method, a.path, "", []byte("{}"))
		}
	}
	ask("enrol without a token", "https", nil, "POST", "/enrol", "", enrolment)
	ask("enrol with a made-up token", "https", nil, "POST", "/enrol", "a.b.c", enrolment)
	for how, path := range map[string]string{
		"its own token":                       "/var/run/secrets/kubernetes.io/serviceaccount/token",
		"its own token for dayfly's audience": "/var/run/probe/token",
	} {
		if token, err := os.ReadFile(path); err == nil {
			ask("enrol with "+how, "https", nil, "POST", "/enrol", strings.TrimSpace(string(token)), enrolment)
		}
	}
	ask("a header of a megabyte", "https", nil, "GET", "/"+strings.Repeat("x", 1<<20), "", nil)
	return append(out, tunnelTo(port, target))
}

// tunnelTo greets as a laptop with a key of its own.
func tunnelTo(port int, target string) exchange {
	e := exchange{Port: port, How: "tunnel with a key of its own"}
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
	defer cancel()
	err := func() error {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // as above
		ws, _, err := websocket.Dial(ctx, "wss://"+target+"/tunnel", &websocket.DialOptions{HTTPClient: client})
		if err != nil {
			return err
		}
		defer ws.CloseNow()
		cert, err := selfMade(identity.RoleRouter)
		if err != nil {
			return err
		}
		conn := tls.Client(websocket.NetConn(ctx, ws, websocket.MessageBinary), &tls.Config{
			InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}, NextProtos: []string{"dayfly-tunnel/1"}, //nolint:gosec // as above
		})
		if err := conn.HandshakeContext(ctx); err != nil {
			return err
		}
		_, err = conn.Read(make([]byte, 1)) // TLS 1.3: the server's verdict comes after the client's handshake
		return err
	}()
	if err != nil {
		e.Error = err.Error()
	}
	return e
}

func selfMade(role identity.Role) (tls.Certificate, error) {
	ca, _, _, err := identity.NewCA()
	if err != nil {
		return tls.Certificate{}, err
	}
	key, csr, err := identity.Request()
	if err != nil {
		return tls.Certificate{}, err
	}
	cert, err := ca.Issue(csr, role, "evil")
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("issuing: %w", err)
	}
	c, err := identity.NewCredentials(key, cert, ca.CertificatePEM())
	if err != nil {
		return tls.Certificate{}, err
	}
	return c.Certificate, nil
}
