package main

import (
	"flag"
	"os"
	"testing"

	"dayfly.dev/dayfly/test/script"
	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "write what was printed into the scripts")

// The test binary is dayfly when a script runs it.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"dayfly": main})
}

// What needs no cluster: help, completion, flags, install --dry-run, and clusters that are not there.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", UpdateScripts: *update, RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			e.Vars = append(e.Vars, "HOME="+e.WorkDir, "XDG_STATE_HOME="+e.WorkDir+"/state", "KUBECONFIG="+e.WorkDir+"/kubeconfig", "TZ=UTC")
			return os.MkdirAll(e.WorkDir+"/state", 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": script.Exits, "objects": objects},
	})
}
