package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/session"
	"dayfly.dev/dayfly/internal/usererr"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func headers(pairs ...string) (out []v1alpha1.HeaderLine) {
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, v1alpha1.HeaderLine{Name: pairs[i], Value: pairs[i+1]})
	}
	return out
}

func TestParseRule(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		why   string
		lines []string
		want  *v1alpha1.Rule
		wrong bool
	}{
		{why: "no rule: the routing key decides", lines: nil},
		{why: "as curl writes it", lines: []string{"x-user: ada"}, want: &v1alpha1.Rule{Headers: headers("x-user", "ada")}},
		{why: "as Codezero writes it", lines: []string{"X-C6O-INTERCEPT:yes"}, want: &v1alpha1.Rule{Headers: headers("X-C6O-INTERCEPT", "yes")}},
		{why: "a value may hold colons", lines: []string{"host: web:80"}, want: &v1alpha1.Rule{Headers: headers("host", "web:80")}},
		{why: "an empty value is a value", lines: []string{"x-user:"}, want: &v1alpha1.Rule{Headers: headers("x-user", "")}},
		{why: "several lines, in order", lines: []string{"b: 2", "a: 1"}, want: &v1alpha1.Rule{Headers: headers("b", "2", "a", "1")}},
		{why: "baggage is matched by member", lines: []string{"Baggage: team=a"}, want: &v1alpha1.Rule{Baggage: []v1alpha1.BaggageLine{{Key: "team", Value: "a"}}}},
		{why: "as a request carries it", lines: []string{"baggage: team=a%20b , user=c"}, want: &v1alpha1.Rule{Baggage: []v1alpha1.BaggageLine{{Key: "team", Value: "a b"}, {Key: "user", Value: "c"}}}},
		{why: "no colon", lines: []string{"x-user"}, wrong: true},
		{why: "no name", lines: []string{": ada"}, wrong: true},
		{why: "a blank in the name", lines: []string{"x user: ada"}, wrong: true},
		{why: "a line break would be another header", lines: []string{"x-user: ada\r\nx-admin: yes"}, wrong: true},
		{why: "not ASCII", lines: []string{"x-user: ädä"}, wrong: true},
		{why: "the name of a TLS server", lines: []string{"SNI: PR-7.example.test"}, want: &v1alpha1.Rule{SNI: "pr-7.example.test"}},
		{why: "any name below", lines: []string{"sni: *.example.test"}, want: &v1alpha1.Rule{SNI: "*.example.test"}},
		{why: "TLS hides its headers", lines: []string{"sni: a.test", "a: b"}, wrong: true},
		{why: "in whatever order", lines: []string{"a: b", "sni: a.test"}, wrong: true},
		{why: "a pattern elsewhere", lines: []string{"sni: a.*.test"}, wrong: true},
		{why: "no name", lines: []string{"sni:"}, wrong: true},
		{why: "a port is not part of the name", lines: []string{"sni: a.test:443"}, wrong: true},
		{why: "baggage without a value", lines: []string{"baggage: team"}, wrong: true},
		{why: "baggage with properties", lines: []string{"baggage: team=a;p=1"}, wrong: true},
		{why: "broken encoding", lines: []string{"baggage: team=%zz"}, wrong: true},
		{why: "one wrong line spoils all", lines: []string{"a: 1", "b"}, wrong: true},
	} {
		got, err := parseRule(c.lines)
		if (err != nil) != c.wrong || c.wrong && (usererr.CodeOf(err) != usererr.Usage || usererr.FixOf(err) == "") {
			t.Errorf("%s: %q: error %v", c.why, c.lines, err)
		}
		if diff := cmp.Diff(c.want, got); !c.wrong && diff != "" {
			t.Errorf("%s: %q (-want +got):\n%s", c.why, c.lines, diff)
		}
	}
}

func TestChoosePort(t *testing.T) {
	t.Parallel()
	service := func(ports ...corev1.ServicePort) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{Ports: ports}}
	}
	http := corev1.ServicePort{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}
	admin := corev1.ServicePort{Name: "admin", Port: 81}
	dnsTCP := corev1.ServicePort{Name: "dns-tcp", Port: 53}
	sctp := corev1.ServicePort{Name: "sig", Port: 99, Protocol: corev1.ProtocolSCTP}
	dns := corev1.ServicePort{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}
	for _, c := range []struct {
		why  string
		svc  *corev1.Service
		name string
		want int32
		udp  bool
		code usererr.Code
		fix  string
	}{
		{why: "its only port", svc: service(http), want: 80},
		{why: "its only TCP port", svc: service(dns, admin), want: 81},
		{why: "by name", svc: service(http, admin), name: "admin", want: 81},
		{why: "by number", svc: service(http, admin), name: "80", want: 80},
		{why: "ambiguous", svc: service(http, admin, dns), code: usererr.Usage, fix: "choose one with --service-port: 80 http, 81 admin, 53/udp dns"},
		{why: "not there", svc: service(http), name: "8080", code: usererr.NotFound, fix: "it has 80 http"},
		{why: "UDP by name", svc: service(dnsTCP, dns), name: "dns", want: 53, udp: true},
		{why: "UDP by number and protocol", svc: service(dnsTCP, dns), name: "53/UDP", want: 53, udp: true},
		{why: "TCP goes before UDP", svc: service(dns, dnsTCP), name: "53", want: 53},
		{why: "TCP by protocol", svc: service(dns, dnsTCP), name: "53/tcp", want: 53},
		{why: "a number that only UDP has", svc: service(dns, http), name: "53", want: 53, udp: true},
		{why: "of the other protocol", svc: service(dns), name: "53/tcp", code: usererr.NotFound, fix: "it has 53/udp dns"},
		{why: "UDP only", svc: service(dns), want: 53, udp: true},
		{why: "SCTP cannot be captured", svc: service(sctp), code: usererr.Refused},
		{why: "an ExternalName is refused for a better reason", svc: &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName}}},
	} {
		got, err := choosePort(c.svc, c.name)
		if usererr.CodeOf(err) != c.code || usererr.FixOf(err) != c.fix {
			t.Errorf("%s: %v (%d), fix %q", c.why, err, usererr.CodeOf(err), usererr.FixOf(err))
		}
		if err == nil && (got.Port != c.want || (got.Protocol == corev1.ProtocolUDP) != c.udp) {
			t.Errorf("%s: port %d, want %d", c.why, got.Port, c.want)
		}
	}
}

func TestDefaultName(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ user, host, want string }{
		{"ada", "laptop", "ada-laptop"},
		{"Ada.Lovelace@example.com", "laptop.example.com", "ada-lovelace-laptop"},
		{"system:serviceaccount:ci:builder", "runner-1", "builder-runner-1"},
		{"arn:aws:iam::1:user/ada", "l", "ada-l"},
		{"ädä", "ü", "d"},
		{"", "", "laptop"},
		{strings.Repeat("a", 80), strings.Repeat("b", 80), strings.Repeat("a", 30) + "-" + strings.Repeat("b", 20)},
	} {
		got := defaultName(c.user, c.host)
		if c.user == "ädä" { // whatever it is, it has to be a name
			got = strings.Trim(strings.ReplaceAll(got, "--", ""), "-")
			if got != c.want {
				t.Errorf("%q at %q: %q", c.user, c.host, got)
			}
			continue
		}
		if got != c.want {
			t.Errorf("%q at %q: %q, want %q", c.user, c.host, got, c.want)
		}
	}
}

// What a rule is called, and the request that it takes, say the same.
func TestRulesAsPeopleReadThem(t *testing.T) {
	t.Parallel()
	s := &v1alpha1.Session{ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}, Spec: v1alpha1.SessionSpec{RoutingKey: "ada"}}
	for _, c := range []struct {
		i          v1alpha1.Intercept
		text, curl string
	}{
		{v1alpha1.Intercept{All: true}, "all", "curl http://web.shop:80/"},
		{v1alpha1.Intercept{All: true, Protocol: "UDP"}, "all", "nc -u web.shop 80"},
		{v1alpha1.Intercept{}, "routing key ada", "curl -H 'baggage: dayfly=ada' http://web.shop:80/"},
		{v1alpha1.Intercept{Rule: &v1alpha1.Rule{Headers: headers("X-User", "it's ada")}}, "x-user: it's ada", `curl -H 'X-User: it'\''s ada' http://web.shop:80/`},
		{v1alpha1.Intercept{Rule: &v1alpha1.Rule{SNI: "*.a.test"}}, "sni: *.a.test", "curl --connect-to any.a.test:80:web.shop:80 https://any.a.test:80/"},
		{v1alpha1.Intercept{Rule: &v1alpha1.Rule{Baggage: []v1alpha1.BaggageLine{{Key: "team", Value: "a b"}}}}, "baggage: team=a b", "curl -H 'baggage: team=a%20b' http://web.shop:80/"},
	} {
		c.i.Service, c.i.Port = "web", 80
		if got := session.RuleText("ada", c.i); got != c.text {
			t.Errorf("text %q, want %q", got, c.text)
		}
		if got := curlLine(s, c.i); got != c.curl {
			t.Errorf("curl %q, want %q", got, c.curl)
		}
	}
}

func TestVersionsThatFit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		laptop, cluster string
		fits            bool
	}{{"v1.2.3", "v1.2.9", true}, {"v1.2.3", "v1.3.0", false}, {"v1.2.3", "", true}, {"v1.2.3-dev", "v1.2.0", true}, {"v2.2.0", "v1.2.0", false}, {"dev", "dev", true}} {
		o := &interceptOptions{app: &App{Version: c.laptop}}
		err := o.checkVersion(&v1alpha1.Session{Status: v1alpha1.SessionStatus{Version: c.cluster}})
		if (err == nil) != c.fits || err != nil && usererr.CodeOf(err) != usererr.NotInstalled {
			t.Errorf("%s with %s: %v", c.laptop, c.cluster, err)
		}
	}
}

func TestTheWorstOfARefusalIsItsCode(t *testing.T) {
	t.Parallel()
	for reason, want := range map[string]usererr.Code{"Forbidden": usererr.Forbidden, "NotFound": usererr.NotFound, "NoSuchPort": usererr.NotFound,
		"Conflict": usererr.Conflict, "Headless": usererr.Refused, "NetworkPolicy": usererr.Refused} {
		if got := usererr.CodeOf(refusal(v1alpha1.InterceptStatus{Reason: reason, Message: "m"})); got != want {
			t.Errorf("%s: %d, want %d", reason, got, want)
		}
	}
}

// Many writers of one file lose nothing, and a reader sees a whole file at any moment.
func TestTheLaptopsFileIsAlwaysWhole(t *testing.T) {
	t.Parallel()
	l := &laptop{dir: t.TempDir(), server: "https://cluster"}
	kept, err := l.create("shop", "ada")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var readers, writers sync.WaitGroup
	readers.Go(func() {
		for ctx.Err() == nil {
			if s, err := l.get("shop", "ada"); err != nil || s == nil || s.Key != kept.Key {
				t.Errorf("read %+v: %v", s, err)
				return
			}
		}
	})
	const n = 20
	for i := range n {
		writers.Go(func() {
			mine, err := l.get("shop", "ada")
			if err == nil {
				err = mine.serve(fmt.Sprintf("web:%d", i), 1, os.Getpid())
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	writers.Wait()
	cancel()
	readers.Wait()
	now, err := l.get("shop", "ada")
	if err != nil || len(now.Serving) != n || now.serving("web:0") == nil {
		t.Errorf("%d routes are noted, want %d: %v", len(now.Serving), n, err)
	}
	if info, err := os.Stat(now.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v: %v: others can read the key", info.Mode(), err)
	}
	// A write that was killed half-way is not seen, and in nobody's way.
	if err := os.WriteFile(now.path+".tmp", []byte(`{"half`), 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := l.all(); err != nil || len(all) != 1 {
		t.Errorf("%d sessions: %v", len(all), err)
	}
	if err := now.change(func(s *laptopSession) { s.drop("web:0") }); err != nil {
		t.Error(err)
	}
	now.remove()
	if left, _ := filepath.Glob(filepath.Join(l.dir, "[^.]*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// The key of a session that a live process is about to use is not swept away.
func TestOnlyWhatNobodyServesIsRemoved(t *testing.T) {
	t.Parallel()
	l := &laptop{dir: t.TempDir()}
	for _, c := range []struct {
		name  string
		pid   int
		stays bool
	}{{"live", os.Getpid(), true}, {"dead", 1 << 30, false}} {
		kept, err := l.create("shop", c.name)
		if err == nil {
			err = kept.serve("web:80", 1, c.pid)
		}
		if err == nil {
			err = kept.removeUnlessServing()
		}
		if err != nil {
			t.Fatal(err)
		}
		if now, err := l.get("shop", c.name); err != nil || (now != nil) != c.stays {
			t.Errorf("%s: kept %t, want %t: %v", c.name, now != nil, c.stays, err)
		}
	}
}

func TestALockIsWaitedForUntilInterrupted(t *testing.T) {
	t.Parallel()
	l := &laptop{dir: t.TempDir()}
	unlock, err := l.lock(t.Context(), "join")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := l.lock(ctx, "join"); err == nil {
		t.Error("two hold the lock")
	}
	unlock()
	again, err := l.lock(t.Context(), "join")
	if err != nil {
		t.Fatal(err)
	}
	again()
}
