package stage

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestReportsOfTests(t *testing.T) {
	t.Parallel()
	write := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var got Tests
	for _, path := range []string{
		write("nested.xml", `<?xml version="1.0"?><testsuites><testsuite name="a"><testsuite name="b">
			<testcase classname="shop" name="buys"/><testcase classname="shop" name="pays"><failure message="no">trace</failure></testcase>
			<testcase name="later"><skipped/></testcase></testsuite></testsuite></testsuites>`),
		write("alone.xml", `<testsuite><testcase name="breaks"><error/><system-out>x</system-out></testcase></testsuite>`),
	} {
		if err := got.ReadJUnit(path); err != nil {
			t.Error(err)
		}
	}
	if got.Passed != 1 || got.Failed != 2 || got.Skipped != 1 || !slices.Equal(got.Names, []string{"shop.pays", "breaks"}) {
		t.Errorf("%+v", got)
	}
	if got.String() != "1 tests passed, 2 failed, 1 skipped" {
		t.Error(got.String())
	}
	for what, path := range map[string]string{"no such file": "nowhere.xml", "cut off": write("cut.xml", `<testsuite><testcase name="a">`), "no XML": write("no.xml", "<<<")} {
		if err := new(Tests).ReadJUnit(path); err == nil || !strings.Contains(err.Error(), filepath.Base(path)) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
