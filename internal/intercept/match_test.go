package intercept

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// parsed parses a request that must be well-formed.
func parsed(t testing.TB, raw string) *request {
	t.Helper()
	var q request
	q.reset()
	if p := q.parse([]byte(raw)); p != complete {
		t.Fatalf("parsing %q: %d", raw, p)
	}
	return &q
}

func TestMatches(t *testing.T) {
	key := Match{AnyOf: []Match{{Baggage: []BaggageMatch{{"dayfly", "k 1"}}}, {Headers: []HeaderMatch{{"X-Dayfly-Session", "k 1"}}}}}
	both := Match{Headers: []HeaderMatch{{"a", "1"}, {"b", "2"}}, Baggage: []BaggageMatch{{"c", ""}}}
	tests := []struct {
		why     string
		match   Match
		headers string
		want    bool
	}{
		{"baggage alone", key, "baggage: dayfly=k%201\r\n", true},
		{"header alone", key, "x-dayfly-session: k 1\r\n", true},
		{"neither", key, "x-other: k 1\r\n", false},
		{"name in any case, spaces around the value", key, "X-DAYFLY-session:\t k 1 \t\r\n", true},
		{"value in its case only", key, "x-dayfly-session: K 1\r\n", false},
		{"no prefix", key, "x-dayfly-session: k 12\r\n", false},
		{"a repeated header, one of which has it", key, "x-dayfly-session: z\r\nx-dayfly-session: k 1\r\n", true},
		{"headers are not lists", key, "x-dayfly-session: z, k 1\r\n", false},
		{"among other members", key, "baggage: a=1,\tdayfly =\tk%201 , b=2\r\n", true},
		{"with properties", key, "baggage: dayfly=k%201;p=1;q , b=2\r\n", true},
		{"a property is no member", key, "baggage: a=1;dayfly=k%201\r\n", false},
		{"in the second header", key, "baggage: a=1\r\nBaggage: dayfly=k%201\r\n", true},
		{"malformed members are skipped", key, "baggage: ,,=,x,dayfly,dayfly=k%2,dayfly=k 1,dayfly=\"k\",dayfly=k%zz,dayfly=k%201\r\n", true},
		{"keys have a case", key, "baggage: Dayfly=k%201\r\n", false},
		{"keys are not decoded", key, "baggage: dayfl%79=k%201\r\n", false},
		{"plus is plus", key, "baggage: dayfly=k+1\r\n", false},
		{"the last member within 8192 bytes", key, "baggage: " + strings.Repeat("a", 8192-len(",dayfly=k%201")) + ",dayfly=k%201\r\n", true},
		{"the first beyond", key, "baggage: " + strings.Repeat("a", 8193-len(",dayfly=k%201")) + ",dayfly=k%201\r\n", false},
		{"member 180", key, "baggage: " + strings.Repeat("a=1,", 179) + "dayfly=k%201\r\n", true},
		{"member 181", key, "baggage: " + strings.Repeat("a=1,", 180) + "dayfly=k%201\r\n", false},
		{"all hold", both, "a: 1\r\nb: 2\r\nbaggage: c=\r\n", true},
		{"one does not", both, "a: 1\r\nb: 3\r\nbaggage: c=\r\n", false},
		{"no baggage", both, "a: 1\r\nb: 2\r\n", false},
	}
	for _, tt := range tests {
		raw := "GET / HTTP/1.1\r\n" + tt.headers + "\r\n"
		m := tt.match.lowered()
		if got := m.holds(parsed(t, raw).fields, []byte(raw)); got != tt.want {
			t.Errorf("%s: %.80q: got %v", tt.why, tt.headers, got)
		}
	}
}

// reference evaluates m the plain way.
func (m Match) reference(h http.Header) bool {
	for _, c := range m.Headers {
		if !slices.Contains(h.Values(c.Name), c.Value) {
			return false
		}
	}
	for _, c := range m.Baggage {
		found := false
		for _, kv := range baggageReference(strings.Join(h.Values("Baggage"), ",")) {
			found = found || kv == [2]string{c.Key, c.Value}
		}
		if !found {
			return false
		}
	}
	any := len(m.AnyOf) == 0
	for _, a := range m.AnyOf {
		any = any || a.reference(h)
	}
	return any
}

func baggageReference(s string) (members [][2]string) {
	size := -1
	for i, member := range strings.Split(s, ",") {
		if size += 1 + len(member); size > 8192 || i >= 180 {
			break
		}
		member, _, _ = strings.Cut(member, ";")
		key, value, ok := strings.Cut(member, "=")
		key, value = strings.Trim(key, " \t"), strings.Trim(value, " \t")
		if decoded, valid := decodeReference(value); ok && valid {
			members = append(members, [2]string{key, decoded})
		}
	}
	return members
}

func decodeReference(s string) (string, bool) {
	var out strings.Builder
	for s != "" {
		c := s[0]
		if c < 0x21 || c > 0x7e || strings.ContainsRune(`",;\`, rune(c)) {
			return "", false
		}
		if c != '%' {
			out.WriteByte(c)
			s = s[1:]
			continue
		}
		if len(s) < 3 {
			return "", false
		}
		b, err := hex.DecodeString(s[1:3])
		if err != nil {
			return "", false
		}
		out.Write(b)
		s = s[3:]
	}
	return out.String(), true
}

// Random requests made of what matters to matching, against a reference on net/http.
func TestMatchingAgreesWithANaiveReference(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	pick := func(of ...string) string { return of[rnd.IntN(len(of))] }
	value := func() string {
		var b strings.Builder
		for range rnd.IntN(8) {
			b.WriteString(pick("a", "k", "k", "=", ",", ";", " ", "\t", "%6b", "%6B", "%20", "%", "%zz", "\"", "\\", "ä", "a=k", "b=k"))
		}
		return b.String()
	}
	var match func(depth int) Match
	match = func(depth int) (m Match) {
		for range rnd.IntN(2) {
			m.Headers = append(m.Headers, HeaderMatch{pick("x-a", "X-B", "baggage"), strings.Trim(value(), " \t")})
		}
		for range rnd.IntN(2) {
			m.Baggage = append(m.Baggage, BaggageMatch{pick("a", "b"), pick("k", "", "a", "k k", "kk")})
		}
		for range rnd.IntN(3 - depth) {
			m.AnyOf = append(m.AnyOf, match(depth+1))
		}
		return m
	}
	held := 0
	for range 50_000 {
		m := match(0)
		raw := "GET / HTTP/1.1\r\nHost: a\r\n"
		for range rnd.IntN(4) {
			raw += pick("X-A", "x-b", "Baggage", "BAGGAGE", "X-AB") + ":" + value() + "\r\n"
		}
		raw += "\r\n"
		q, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
		if err != nil {
			t.Fatalf("%q: %v", raw, err)
		}
		low := m.lowered()
		got, want := low.holds(parsed(t, raw).fields, []byte(raw)), m.reference(q.Header)
		if got != want {
			t.Fatalf("seed %d: %+v on %q: got %v, want %v", seed, m, raw, got, want)
		}
		if want && !m.empty() {
			held++
		}
	}
	if held < 1000 {
		t.Errorf("only %d of the matches held: the requests say little", held)
	}
}

func FuzzBaggage(f *testing.F) {
	for _, s := range []string{"dayfly=k", "a=1, dayfly = k;p=1", "dayfly=%6B", "dayfly=%6", "dayfly=k k,,=", "dayfly=", "\tdayfly=k\t"} {
		f.Add(s, "k")
	}
	f.Fuzz(func(t *testing.T, v, want string) {
		raw := "GET / HTTP/1.1\r\nbaggage: " + v + "\r\n\r\n"
		var q request
		q.reset()
		if q.parse([]byte(raw)) != complete || q.size != len(raw) || len(q.fields) != 1 {
			return
		}
		m := BaggageMatch{"dayfly", want}
		expected := Match{Baggage: []BaggageMatch{m}}.reference(http.Header{"Baggage": {strings.Trim(v, " \t")}})
		if got := m.holds(q.fields, []byte(raw)); got != expected {
			t.Errorf("%q in %q: got %v", want, v, got)
		}
	})
}

func BenchmarkChoose(b *testing.B) {
	raw := []byte("GET /cart?a=1 HTTP/1.1\r\nHost: shop\r\nUser-Agent: Go-http-client/1.1\r\nAccept: application/json\r\n" +
		"Accept-Encoding: gzip\r\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n" +
		"Baggage: userId=alice,serverNode=DF%2028,isProduction=false\r\nX-Request-Id: 8c5a0e1c\r\nCookie: a=b; c=d\r\n\r\n")
	for _, n := range []int{0, 1, 10, 100} {
		b.Run(fmt.Sprint(n, " routes"), func(b *testing.B) {
			l := &listener{}
			for i := range n {
				key := fmt.Sprint("k", i)
				m := Match{AnyOf: []Match{{Baggage: []BaggageMatch{{"dayfly", key}}}, {Headers: []HeaderMatch{{"x-dayfly-session", key}}}}}
				l.rules = append(l.rules, &route{Route: Route{Match: m}})
			}
			var q request
			b.ReportAllocs()
			for b.Loop() {
				q.reset()
				if q.parse(raw) != complete || l.choose(&q, raw) != nil {
					b.Fatal("matched")
				}
			}
		})
	}
}
