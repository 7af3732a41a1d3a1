//go:build unix

package cli

import (
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// What --detach leaves behind holds nothing of its caller's: a pipe that the caller gave ends although the process stays.
func TestAProcessThatStaysHoldsNothingOfItsCallers(t *testing.T) {
	var pipe [2]int
	if err := syscall.Pipe(pipe[:]); err != nil { // as a shell gives it: open in every child
		t.Fatal(err)
	}
	defer syscall.Close(pipe[0])
	bequeathNothing()
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = detached()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	_ = syscall.Close(pipe[1])
	ended := make(chan int, 1)
	go func() {
		n, _ := syscall.Read(pipe[0], make([]byte, 1))
		ended <- n
	}()
	select {
	case n := <-ended:
		if n != 0 {
			t.Errorf("read %d", n)
		}
	case <-time.After(10 * time.Second):
		t.Error("the process that stays holds the pipe")
	}
}
