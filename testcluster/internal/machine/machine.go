// Package machine runs one machine of the cluster: a process tree in pid, mount, network, host name and IPC namespaces of
// its own, whose death takes everything of the machine with it. It knows nothing of Kubernetes.
package machine

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Spec says what a machine consists of. Paths on the left of Files are the host's, those on the right the machine's.
type Spec struct {
	Name string
	// Dir holds what the machine keeps when it loses power: var (its /var), logs (its /var/log) and etc (its
	// /etc/kubernetes).
	Dir string
	// Binds maps paths inside the machine to files and folders of the host. Those in ReadOnly cannot be written to.
	Binds    map[string]string
	ReadOnly []string
	// Cgroups are created before anything starts, in every hierarchy.
	Cgroups []string
	// Links are `ip` commands run inside the machine; the uplink's network namespace is /proc/self/fd/3 to them. Uplink
	// are `ip` commands run there.
	Links, Uplink []string
	Sysctls       map[string]string
	// Pretend covers kernel settings that are not the machine's own but the whole host's: programs in the machine see
	// these values, and what they write does not reach the kernel.
	Pretend    map[string]string
	Nameserver string
	Components []Component
}

// Component is a program that the machine keeps running. They start in order, each when all before it are ready.
type Component struct {
	Name    string
	Command []string
	Env     []string
	// Ready is where to ask whether it is ready: unix:PATH can be connected to, http(s)://… answers 200. Empty: at once.
	Ready string
	// Once: it is ready when it has ended well; it is not kept running.
	Once bool
}

// Pid returns the process id of the machine's init, 0 when the machine is off. The kernel keeps it: it is who holds the
// lock on the machine's folder.
func Pid(dir string) (int, error) {
	f, err := os.Open(lockPath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lock); err != nil {
		return 0, fmt.Errorf("asking who holds %s: %w", f.Name(), err)
	}
	if lock.Type == unix.F_UNLCK {
		return 0, nil
	}
	return int(lock.Pid), nil
}

// Since returns when the machine was last turned on.
func Since(dir string) (time.Time, error) {
	info, err := os.Stat(lockPath(dir))
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// Start turns a machine on and returns when its namespaces, mounts and network are there; its components start meanwhile.
// uplink is the path of the network namespace that the machine's cables are plugged into.
func Start(spec Spec, uplink string) error {
	log, err := openLog(filepath.Join(spec.Dir, "logs", "machine.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	ns, err := os.Open(uplink)
	if err != nil {
		return fmt.Errorf("opening the network that %s is plugged into: %w", spec.Name, err)
	}
	defer ns.Close()
	reports, reporter, err := os.Pipe()
	if err != nil {
		return err
	}
	defer reports.Close()

	init := exec.Command("/proc/self/exe", "machine", spec.Dir)
	init.Args[0] = "testcluster"
	init.Dir = "/"
	init.Stdout, init.Stderr = log, log
	init.ExtraFiles = []*os.File{reporter, ns} // fds 3 and 4 of Init
	init.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	stdin, err := init.StdinPipe()
	if err != nil {
		return err
	}
	err = init.Start()
	reporter.Close()
	if err != nil {
		return fmt.Errorf("starting machine %s: %w", spec.Name, err)
	}
	go init.Wait() // it outlives us; should it end first, it is not left a zombie
	return introduce(spec, stdin, bufio.NewReader(reports))
}

// introduce hands the spec to an init that holds the machine's lock, and waits until the machine is there. The order
// matters: an init whose parent was killed either has no spec, and ends, or can be found by its lock.
func introduce(spec Spec, stdin io.WriteCloser, reports *bufio.Reader) error {
	defer stdin.Close()
	await := func(word string) error {
		line, err := reports.ReadString('\n')
		if line = strings.TrimSpace(line); line == word {
			return nil
		}
		if line == "" {
			return fmt.Errorf("machine %s ended before it was %s (%v): see %s/logs/machine.log", spec.Name, word, err, spec.Dir)
		}
		return fmt.Errorf("machine %s: %s", spec.Name, line)
	}
	if err := await(reportLocked); err != nil {
		return err
	}
	if err := json.NewEncoder(stdin).Encode(spec); err != nil {
		return fmt.Errorf("handing machine %s its spec: %w", spec.Name, err)
	}
	return await(reportReady)
}

// Kill cuts the power of a machine: its init and with it every process in the machine, at once, and whatever was started
// in its network from outside. It returns when they are gone.
func Kill(dir string) error {
	pid, err := Pid(dir)
	if err != nil || pid == 0 {
		return err
	}
	guests, err := inNetworkOf(pid)
	if err != nil {
		return err
	}
	for _, p := range append([]int{pid}, guests...) {
		if err := unix.Kill(p, unix.SIGKILL); err != nil && err != unix.ESRCH {
			return fmt.Errorf("killing process %d of %s: %w", p, dir, err)
		}
	}
	return await(20*time.Second, func() (bool, error) {
		pid, err := Pid(dir)
		return pid == 0, err
	}, "the machine in "+dir+" is still running, though killed")
}

// NetworkPath is where the network namespace of the process is to be opened.
func NetworkPath(pid int) string { return fmt.Sprintf("/proc/%d/ns/net", pid) }

// inNetworkOf lists the processes, other than pid, outside of the machine that live in its network.
func inNetworkOf(pid int) ([]int, error) {
	own, err := os.Readlink(NetworkPath(pid))
	if err != nil {
		return nil, nil // it is gone already
	}
	if host, err := os.Readlink(NetworkPath(os.Getpid())); err != nil || own == host {
		return nil, err // not a machine's network: no one in there is ours
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []int
	for _, p := range procs {
		n, err := strconv.Atoi(p.Name())
		if err != nil || n == pid || n == os.Getpid() {
			continue
		}
		if ns, err := os.Readlink(NetworkPath(n)); err == nil && ns == own {
			found = append(found, n)
		}
	}
	return found, nil
}

func await(limit time.Duration, done func() (bool, error), complaint string) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		ok, err := done()
		if err != nil || ok {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New(complaint)
		}
	}
}

func lockPath(dir string) string { return filepath.Join(dir, "lock") }

// openLog opens a log to append to, and puts it aside when it has grown large.
func openLog(path string) (*os.File, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > 32<<20 {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
}
