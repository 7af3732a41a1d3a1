package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	reportLocked = "locked"
	reportReady  = "ready"
	fdReports    = 3
	fdUplink     = 4
)

// Init is the first process of a machine. It returns only when the machine could not be set up.
func Init(dir string) error {
	unix.CloseOnExec(fdReports)
	unix.CloseOnExec(fdUplink)
	reports := os.NewFile(fdReports, "reports")
	err := boot(dir, reports)
	fmt.Fprintln(reports, err)
	return err
}

func boot(dir string, reports *os.File) error {
	lock, err := takeLock(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	fmt.Fprintln(reports, reportLocked)
	var spec Spec
	if err := json.NewDecoder(os.Stdin).Decode(&spec); err != nil {
		return fmt.Errorf("reading what to be: %w", err)
	}
	if err := unix.Sethostname([]byte(spec.Name)); err != nil {
		return fmt.Errorf("setting the host name: %w", err)
	}
	for _, step := range []func() error{spec.enterRoot, spec.connect, spec.tune, spec.makeCgroups} {
		if err := step(); err != nil {
			return err
		}
	}
	fmt.Fprintln(reports, reportReady)
	reports.Close()
	supervise(spec.Components)
	return nil
}

// takeLock shows to everyone that the machine is on, for as long as this process lives. It is a POSIX lock, so that the
// kernel tells who holds it; the file must never be opened a second time in this process, which would release it.
func takeLock(dir string) (*os.File, error) {
	f, err := os.OpenFile(lockPath(dir), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		return nil, errors.New("the machine is on already")
	}
	// The time of this change is when the machine was turned on.
	_, err = f.WriteAt([]byte(time.Now().Format(time.RFC3339Nano)+"\n"), 0)
	return f, err
}

// makeCgroups makes the machine's cgroups, and removes those of its last life: kubelet would wait seconds for each of the
// containers that they were of.
func (s Spec) makeCgroups() error {
	for _, path := range s.Cgroups {
		if err := RemoveCgroup(path); err != nil {
			return err
		}
		if err := MakeCgroup(path); err != nil {
			return err
		}
	}
	return nil
}

// tune sets the kernel parameters that belong to the machine's namespaces and covers those that do not.
func (s Spec) tune() error {
	for _, name := range slices.Sorted(maps.Keys(s.Sysctls)) {
		if err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(s.Sysctls[name]), 0); err != nil {
			return fmt.Errorf("setting the kernel parameter %s: %w", name, err)
		}
	}
	for name, value := range s.Pretend {
		path := filepath.Join("/proc/sys", name)
		if _, err := os.Stat(path); err != nil {
			continue // this kernel has no such parameter
		}
		cover := filepath.Join("/run/pretend", name)
		if err := writeFile(cover, value+"\n"); err != nil {
			return err
		}
		if err := bind(cover, path); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(path, content string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o644)
}
