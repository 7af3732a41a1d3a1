package intercept

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
)

var byName = []Route{{ID: "s/cart:443", Session: "ada", Match: Match{SNI: "pr-7.example.test"}}}

// deaf takes down what a TLS client says first, and never answers.
type deaf struct {
	net.Conn
	said bytes.Buffer
}

func (d *deaf) Write(p []byte) (int, error) { return d.said.Write(p) }
func (d *deaf) Read([]byte) (int, error)    { return 0, io.EOF }
func (d *deaf) Close() error                { return nil }

// helloOf is the ClientHello that crypto/tls sends with a configuration.
func helloOf(t testing.TB, cfg *tls.Config) string {
	t.Helper()
	d := &deaf{}
	if err := tls.Client(d, cfg).HandshakeContext(context.Background()); !errors.Is(err, io.EOF) {
		t.Fatalf("the client did not wait for an answer: %v", err)
	}
	return d.said.String()
}

// longList makes a hello of about n bytes.
func longList(n int) (out []string) {
	for i := 0; i < n; i += 251 {
		out = append(out, strings.Repeat("p", 250))
	}
	return out
}

// greased is a hello with the values that RFC 8701 reserves, wherever they may stand, as browsers send them.
func greased(name string) string {
	var b, ext []byte
	grease := []byte{0x5a, 0x5a}
	extension := func(typ uint16, body []byte) {
		ext = binary.BigEndian.AppendUint16(ext, typ)
		ext = append(binary.BigEndian.AppendUint16(ext, uint16(len(body))), body...)
	}
	extension(0x5a5a, nil)
	entry := append(binary.BigEndian.AppendUint16([]byte{0}, uint16(len(name))), name...)
	extension(0, append(binary.BigEndian.AppendUint16(nil, uint16(len(entry))), entry...))
	extension(10, append([]byte{0, 4}, 0x5a, 0x5a, 0, 29))
	extension(43, []byte{4, 0x5a, 0x5a, 3, 4})
	extension(0xcaca, []byte{0})
	b = append(b, 3, 3)
	b = append(b, make([]byte, 32)...)
	b = append(b, 0)                       // no session
	b = append(append(b, 0, 4), grease...) // ciphers
	b = append(b, 0x13, 0x01, 1, 0)
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(ext))), ext...)
	b = append([]byte{1, 0, byte(len(b) >> 8), byte(len(b))}, b...)
	return string(append([]byte{22, 3, 1, byte(len(b) >> 8), byte(len(b))}, b...))
}

// echConfigs is an ECHConfigList (RFC 9849) whose public name is what everybody sees.
func echConfigs(t testing.TB, public string) []byte {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub := key.PublicKey().Bytes()
	body := append([]byte{1, 0, 0x20, 0, byte(len(pub))}, pub...) // id, X25519
	body = append(body, 0, 4, 0, 1, 0, 1)                         // HKDF-SHA256, AES-128-GCM
	body = append(append(body, 64, byte(len(public))), public...) // room for names
	body = append(body, 0, 0)
	one := append([]byte{0xfe, 0x0d, 0, byte(len(body))}, body...)
	return append([]byte{0, byte(len(one))}, one...)
}

// hellos are ClientHellos by why they are here, all for pr-7.example.test.
func hellos(t testing.TB) map[string]string {
	const name = "pr-7.example.test"
	plain := &tls.Config{ServerName: name}
	old := &tls.Config{ServerName: name, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS12}
	small := &tls.Config{ServerName: name, CurvePreferences: []tls.CurveID{tls.X25519}}
	long := &tls.Config{ServerName: name, NextProtos: longList(20_000)}
	ech := &tls.Config{ServerName: "inner.example.test", MinVersion: tls.VersionTLS13, EncryptedClientHelloConfigList: echConfigs(t, name)}
	return map[string]string{
		"post-quantum key share": helloOf(t, plain), "TLS 1.2": helloOf(t, old), "small": helloOf(t, small),
		"over 16 KiB, so in two records": helloOf(t, long), "ECH shows its outer name": helloOf(t, ech),
		"GREASE": greased(name), "upper case": greased("PR-7.Example.Test"),
	}
}

// refragmented puts the handshake message of a hello into records of n bytes.
func refragmented(hello string, n int) string {
	var msg, out strings.Builder
	for len(hello) > 0 {
		size := int(hello[3])<<8 | int(hello[4])
		msg.WriteString(hello[5 : 5+size])
		hello = hello[5+size:]
	}
	for rest := msg.String(); rest != ""; {
		piece := rest[:min(n, len(rest))]
		rest = rest[len(piece):]
		out.WriteString(string([]byte{22, 3, 1, byte(len(piece) >> 8), byte(len(piece))}) + piece)
	}
	return out.String()
}

func TestServerNameIsFoundHoweverTheHelloIsCut(t *testing.T) {
	t.Parallel()
	for why, hello := range hellos(t) {
		check := func(how string, r io.Reader) {
			t.Helper()
			if name, err := serverName(r); err != nil || !strings.EqualFold(name, "pr-7.example.test") {
				t.Errorf("%s, %s: %q, %v", why, how, name, err)
			}
		}
		check("byte by byte", iotest.OneByteReader(strings.NewReader(hello)))
		check("with more behind it", strings.NewReader(hello+"\x14\x03\x03\x00\x01\x01more"))
		step := 1 + len(hello)/500
		for at := 1; at < len(hello); at += step {
			check("in two segments", io.MultiReader(strings.NewReader(hello[:at]), strings.NewReader(hello[at:])))
		}
		for _, n := range []int{16, 100, 1000, 16384} {
			check("in small records", strings.NewReader(refragmented(hello, n)))
		}
		for at := 0; at < len(hello); at += step {
			if name, err := serverName(strings.NewReader(hello[:at])); err == nil {
				t.Errorf("%s: %q was read of the first %d of %d bytes", why, name, at, len(hello))
			}
		}
	}
}

func FuzzServerName(f *testing.F) {
	for _, hello := range hellos(f) {
		f.Add([]byte(hello), uint16(3))
		f.Add([]byte(refragmented(hello, 200)), uint16(300))
	}
	f.Fuzz(func(t *testing.T, b []byte, at uint16) {
		whole, err := serverName(bytes.NewReader(b))
		cut := min(int(at), len(b))
		pieces, pieceErr := serverName(io.MultiReader(bytes.NewReader(b[:cut]), bytes.NewReader(b[cut:])))
		if whole != pieces || (err == nil) != (pieceErr == nil) {
			t.Fatalf("whole: %q, %v; cut at %d: %q, %v", whole, err, cut, pieces, pieceErr)
		}
		if err != nil && whole != "" {
			t.Fatalf("both a name %q and %v", whole, err)
		}
	})
}

func TestServerNamesAreMatchedAsCertificatesDo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"a.test", "a.test", true},
		{"a.test", "b.test", false},
		{"a.test", "", false},
		{"a.test", "x.a.test", false},
		{"*.a.test", "x.a.test", true},
		{"*.a.test", "x.y.a.test", false}, // one label
		{"*.a.test", "a.test", false},
		{"*.a.test", ".a.test", false},
		{"*.a.test", "xa.test", false},
	} {
		if got := holdsSNI(c.pattern, c.name); got != c.want {
			t.Errorf("%s matches %q: %v", c.pattern, c.name, got)
		}
	}
}

func TestTablesWithImpossibleServerNamesAreRefused(t *testing.T) {
	t.Parallel()
	g := newRig(t, Options{Endpoints: endpoints()})
	for _, m := range []Match{
		{SNI: "A.test"}, {SNI: "a..test"}, {SNI: "*"}, {SNI: "*."}, {SNI: "a.*.test"}, {SNI: "a b"}, {SNI: strings.Repeat("a.", 127) + "a"},
		{SNI: strings.Repeat("a", 64)}, {SNI: "a.test", Headers: []HeaderMatch{{"a", "b"}}}, {AnyOf: []Match{{SNI: "a.test"}}},
	} {
		table := Table{Listeners: []Listener{{Port: 1, Service: "a/b", ServicePort: 443, Routes: []Route{{ID: "r", Match: m}}}}}
		if g.Apply(context.Background(), table) == nil {
			t.Errorf("%+v was taken", m)
		}
	}
}

// Whatever comes on a connection reaches exactly one side, byte for byte and in order.
func TestTLSReachesTheLaptopOfItsServerNameByteForByte(t *testing.T) {
	t.Parallel()
	p := newPair(t, true)
	p.apply("1", Listener{Routes: byName})
	for why, hello := range hellos(t) {
		for _, cut := range []int{1, 5, 6, len(hello) / 2, len(hello) - 1} {
			c := p.dial()
			c.send(hello[:cut])
			c.send(hello[cut:] + "early data")
			l := p.atLaptop()
			l.expect(hello + "early data")
			pass(l, c, "answer")
			_ = c.CloseWrite()
			l.expectEnd()
			l.send("more")
			_ = l.Close()
			c.expect("more")
			c.expectEnd()
			if t.Failed() {
				t.Fatalf("%s, cut at %d", why, cut)
			}
		}
	}
	expectNobody(t, p.origin.TCPListener)
}

func TestEverythingThatIsNoTLSOfTheRuleIsAWire(t *testing.T) {
	t.Parallel()
	hello := helloOf(t, &tls.Config{ServerName: "pr-7.example.test"})
	for why, text := range map[string]string{
		"another name":             helloOf(t, &tls.Config{ServerName: "web.example.test"}),
		"no name":                  helloOf(t, &tls.Config{InsecureSkipVerify: true}),
		"begins like TLS":          "\x16",
		"a record that never ends": "\x16\x03\x01\xff\xff\x01\x00\x10\x00",
		"half a hello":             hello[:200],
		"not a hello in a record":  "\x16\x03\x01\x00\x04\x02\x00\x00\x00",
		"an old SSL":               "\x16\x02\x00\x00\x04\x01\x00\x00\x00",
		"more than a hello may be": "\x16\x03\x01\x40\x00\x01\x02\x00\x00" + strings.Repeat("x", 100_000),
		"a request":                get,
	} {
		t.Run(why, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, false)
			p.apply("1", Listener{Routes: byName})
			c := p.dial()
			c.send(text)
			o := p.atOrigin()
			o.expect(text)
			if text == get {
				pass(o, c, ok)
			} else {
				pass(o, c, "answer")
			}
			expectNobody(t, p.laptop.TCPListener)
		})
	}
}

func TestTLSFallsBackToTheOriginWithoutALaptop(t *testing.T) {
	t.Parallel()
	origin := newDoor(t)
	g := newRig(t, Options{Endpoints: endpoints(origin)})
	g.apply("1", Listener{Routes: byName})
	c := dialPeer(t, g.addr(1))
	hello := greased("pr-7.example.test")
	c.send(hello)
	origin.speaker(t, "origin").expect(hello)
	s := g.status()
	if s.Fallbacks != 1 || s.Wired != 1 || s.Routes[0].Requests != 1 || s.Routes[0].Fallbacks != 1 {
		t.Errorf("counted %+v", s)
	}
}

// Real clients, real servers: each is told by its certificate who answered.
func TestRealTLSClientsReachTheServerOfTheirName(t *testing.T) {
	t.Parallel()
	server := func(name string) *httptest.Server {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, name+" "+r.Proto)
		}))
		s.EnableHTTP2 = true
		s.StartTLS()
		t.Cleanup(s.Close)
		return s
	}
	origin, laptop := server("origin"), server("laptop")
	roots := x509.NewCertPool()
	roots.AddCert(origin.Certificate())
	roots.AddCert(laptop.Certificate())
	g := newRig(t, Options{Endpoints: endpoints(origin.Listener), DialTunnel: tunnelTo(laptop.Listener, true)})
	g.apply("1", Listener{Routes: []Route{{ID: "r", Match: Match{SNI: "*.example.com"}}}})
	for name, want := range map[string]string{"pr-7.example.com": "laptop", "example.com": "origin"} {
		for _, cfg := range []*tls.Config{
			{}, {MaxVersion: tls.VersionTLS12}, {NextProtos: append([]string{"h2", "http/1.1"}, longList(17_000)...)},
		} {
			cfg.RootCAs, cfg.ServerName = roots, name
			tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "tcp", g.addr(1))
			}}
			resp, err := (&http.Client{Transport: tr, Timeout: patience}).Get("https://" + name + "/")
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			tr.CloseIdleConnections()
			if err != nil || string(body) != want+" HTTP/2.0" {
				t.Errorf("%s: %q, %v; want %s", name, body, err, want)
			}
		}
	}
}
