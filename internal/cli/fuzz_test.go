package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dayfly.dev/dayfly/internal/session"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"dayfly.dev/dayfly/api/v1alpha1"
)

// A rule that is understood can be written as headers again, one to a line, and is then understood in the same way.
func FuzzRule(f *testing.F) {
	for _, s := range []string{"x-user: ada", "x-user:ada", "baggage: a=1,b=%41", "baggage: a", "host: web:80", "x-user:", ": x", "x: a\nb", "baggage:a=%", "baggage: k=a;b", "a b: c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		rule, err := parseRule([]string{line})
		if err != nil {
			return
		}
		var lines []string
		for _, h := range rule.Headers {
			if !isToken(h.Name) || strings.ContainsAny(h.Value, "\r\n\x00") || strings.TrimSpace(h.Value) != h.Value {
				t.Errorf("%q is taken for header %q with value %q", line, h.Name, h.Value)
			}
			lines = append(lines, h.Name+": "+h.Value)
		}
		for _, b := range rule.Baggage {
			if !isToken(b.Key) {
				t.Errorf("%q is taken for baggage member %q", line, b.Key)
			}
			lines = append(lines, "baggage: "+b.Key+"="+escapeMember(b.Value))
		}
		again, err := parseRule(lines)
		if diff := cmp.Diff(rule, again); err != nil || diff != "" {
			t.Errorf("%q: written as %q: %v\n%s", line, lines, err, diff)
		}
		if text := session.RuleText("k", v1alpha1.Intercept{Rule: rule}); text == "" || text == "all" {
			t.Errorf("%q is shown as %q", line, text)
		}
	})
}

// escapeMember is escapeBaggage for the commas and semicolons that end a member, too.
func escapeMember(value string) string {
	return strings.NewReplacer(",", "%2C", ";", "%3B").Replace(escapeBaggage(value))
}

// A session's file that can be read is written and read again as the same; whatever it holds names no other file.
func FuzzSessionFile(f *testing.F) {
	f.Add([]byte(`{"server":"https://a","namespace":"shop","name":"ada","key":"-----BEGIN","serving":[{"route":"web:80","laptopPort":3000,"pid":1,"started":"2"}]}`))
	f.Add([]byte(`{"serving":[{"pid":-1,"started":"x"}]}`))
	f.Add([]byte(`{"path":"/etc/passwd","namespace":"../..","name":"x"}`))
	f.Add([]byte(`null`))
	f.Add([]byte(`{`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(dir, "shop.ada.json")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := readSession(path)
		if err != nil {
			return
		}
		if s == nil || s.path != path {
			t.Fatalf("read as %+v", s)
		}
		for _, o := range s.Serving {
			if o.PID <= 0 && o.alive() {
				t.Errorf("%+v is taken for a live process", o)
			}
		}
		if err := s.save(); err != nil {
			t.Fatal(err)
		}
		again, err := readSession(path)
		if diff := cmp.Diff(s, again, cmp.AllowUnexported(laptopSession{}), cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Errorf("%v\n%s", err, diff)
		}
	})
}
