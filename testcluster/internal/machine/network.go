package machine

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// connect makes the machine's cables and plugs them in. Both ends are made in one go and die with the machine's network
// namespace, so nothing is ever left in the uplink's. This process never enters the uplink itself, not for a moment and
// not with one thread: Kill ends all that lives in the network which this process is seen in.
func (s Spec) connect() error {
	uplink := os.NewFile(fdUplink, "uplink")
	defer uplink.Close()
	if err := ipHere(uplink, s.Links); err != nil {
		return err
	}
	return ipThere(uplink, s.Uplink)
}

// IP runs commands of ip(8) in the network namespace at path.
func IP(path string, commands ...string) error {
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	return ipThere(ns, commands)
}

// ipHere runs commands of ip(8) here; the network namespace that is its fd 3 can be given as /proc/self/fd/3.
func ipHere(ns *os.File, commands []string) error {
	return runIP(exec.Command("ip", "-batch", "-"), ns, commands)
}

// ipThere runs commands of ip(8) in a network namespace.
func ipThere(ns *os.File, commands []string) error {
	return runIP(exec.Command("nsenter", "--net=/proc/self/fd/3", "ip", "-batch", "-"), ns, commands)
}

func runIP(cmd *exec.Cmd, ns *os.File, commands []string) error {
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	cmd.Env = []string{"PATH=" + searchPath}
	cmd.ExtraFiles = []*os.File{ns}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("connecting the network: %w: %s", err, strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", "; "))
	}
	return nil
}

// InNetwork calls f on a thread that is in the network namespace at path meanwhile.
func InNetwork(path string, f func() error) error {
	there, err := os.Open(path)
	if err != nil {
		return err
	}
	defer there.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer here.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering the network at %s: %w", path, err)
	}
	defer func() {
		if err := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET); err != nil {
			panic(fmt.Sprintf("a thread cannot return to its network: %v", err))
		}
	}()
	return f()
}
