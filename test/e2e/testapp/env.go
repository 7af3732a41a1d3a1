package main

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
)

// env runs a command with more environment, NAME=VALUE… -- COMMAND ARG…, for as long as standard input is open: so that it
// ends with the `kubectl exec -i` that started it.
func env(args []string) error {
	at := slices.Index(args, "--")
	if at < 0 || at+1 == len(args) {
		return errors.New("no command after --")
	}
	cmd := exec.Command(args[at+1], args[at+2:]...)
	cmd.Env = append(os.Environ(), args[:at]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = cmd.Process.Kill()
	}()
	return cmd.Wait()
}
