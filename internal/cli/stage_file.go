package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A stage's command has a kubeconfig of its own, in a file that says in its name whose it is: what a runner that was killed has left
// is deleted by the next one.

// stageFile is where this process keeps the kubeconfig of one of its stages.
func stageFile(environment string) (string, error) {
	state, err := stateDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(state, "stages")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	return filepath.Join(dir, fmt.Sprintf("%d.%s.%s.kubeconfig", os.Getpid(), processStart(os.Getpid()), environment)), nil
}

// sweepStages deletes the files of processes that are no more.
func sweepStages() {
	state, err := stateDir()
	if err != nil {
		return
	}
	paths, _ := filepath.Glob(filepath.Join(state, "stages", "*.kubeconfig"))
	for _, path := range paths {
		parts := strings.SplitN(filepath.Base(path), ".", 3)
		pid, err := strconv.Atoi(parts[0])
		if err == nil && len(parts) == 3 && !(served{PID: pid, Started: parts[1]}).alive() {
			_ = os.Remove(path)
		}
	}
}
