package cli

import (
	"os/exec"
	"runtime"
	"syscall"
)

// dieTogether has the kernel end cmd when this process is killed, which then cannot end it itself. The kernel goes by the
// thread that starts cmd, so the calling goroutine keeps its own for good and must not end before cmd does.
func dieTogether(cmd *exec.Cmd) {
	runtime.LockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
}
