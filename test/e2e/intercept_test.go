package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// The main story: my requests reach my laptop, everyone else's do not, and afterwards everything is as it was.
func TestInterceptReachesTheLaptopAndCloseRestores(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployWeb(t, ns, 2)
	deployClient(t, ns)
	before := snapshot(t, ns)
	l := newLaptop(t, ns)
	port := l.answer("laptop")
	out := l.dayfly("intercept", "service", "web", "-r", "http", "-l", fmt.Sprint(port), "--session", "ada", "--drain", "5s", "--detach")
	if !strings.Contains(out, "curl -H 'baggage: dayfly=ada' http://web."+ns+":80/") {
		t.Errorf("no curl line that reaches the laptop in:\n%s", out)
	}
	for _, h := range []string{"baggage: a=b,dayfly=ada;p=1", "x-dayfly-session: ada"} {
		if r := get(t, ns, "http://web/", h); r.ServedBy != "laptop" {
			t.Errorf("%s: served by %s", h, r.ServedBy)
		}
	}
	for _, h := range []string{"baggage: dayfly=bob", "x-other: ada"} {
		if r := get(t, ns, "http://web/", h); !strings.HasPrefix(r.ServedBy, "web-") {
			t.Errorf("%s: served by %s", h, r.ServedBy)
		}
	}
	out = l.dayfly("session", "close", "ada")
	if !strings.Contains(out, "service/web: as it was") {
		t.Errorf("no proof in:\n%s", out)
	}
	if r := get(t, ns, "http://web/", "x-dayfly-session: ada"); !strings.HasPrefix(r.ServedBy, "web-") {
		t.Errorf("after the close: served by %s", r.ServedBy)
	}
	checkRestored(t, ns, before)
}

// One connection of a caller has one connection to the laptop's process, however many requests it carries.
func TestKeptConnectionsAreKeptToTheLaptop(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	deployClient(t, ns)
	l := newLaptop(t, ns)
	l.intercept("ada", "web", l.answer("laptop"))
	inPod(t, ns, "hammer", "-c", "1", "-d", "500ms", "-H", "x-dayfly-session: ada", "http://web:80/")
	r := get(t, ns, "http://web/", "x-dayfly-session: ada")
	if r.ServedBy != "laptop" || r.Connection > 10 { // the command, the test and the load have made a few
		t.Errorf("after many requests on one connection the next is on connection %d of %s", r.Connection, r.ServedBy)
	}
}

// A dead laptop takes nothing down: matching requests are answered by the original within 15 s.
func TestKilledLaptopFallsBackToTheOriginal(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	deployClient(t, ns)
	before := snapshot(t, ns)
	l := newLaptop(t, ns)
	port := l.answer("laptop")
	cmd := l.command("intercept", "service", "web", "-r", "80", "-l", fmt.Sprint(port), "--session", "ada", "--drain", "2s")
	must(t, cmd.Start())
	await(t, time.Minute, "the laptop answers", func() error {
		if r := get(t, ns, "http://web/", "x-dayfly-session: ada"); r.ServedBy != "laptop" {
			return fmt.Errorf("served by %s", r.ServedBy)
		}
		return nil
	})
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	await(t, promise(15*time.Second), "the original answers", func() error {
		if r := get(t, ns, "http://web/", "x-dayfly-session: ada"); r.ServedBy == "laptop" {
			return fmt.Errorf("still the laptop")
		}
		return nil
	})
	// The next dayfly command on that laptop ends what the killed one left behind.
	l.dayfly("session", "list")
	await(t, promise(6*time.Second), "no session left", func() error {
		if left := sessions(t, ns); len(left) > 0 {
			return fmt.Errorf("%d sessions", len(left))
		}
		return nil
	})
	checkRestored(t, ns, before)
}
