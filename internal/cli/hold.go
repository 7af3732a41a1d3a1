package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/session"
	"dayfly.dev/dayfly/internal/usererr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// held is an intercept that this process has asked for and will end.
type held struct {
	*interceptOptions
	c    *kube.Cluster
	kept *laptopSession
	want v1alpha1.Intercept

	before *v1alpha1.Intercept // what want replaces, and
	by     *served             // the process of this laptop that answers it; nil if there is none
}

// runHere answers requests until the command ends, ^C, or the session is closed, then ends the intercept.
func (h *held) runHere(ctx context.Context) error {
	server := newServing(h.app, h.c, h.kept, []v1alpha1.Intercept{h.want})
	sctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	go server.run(sctx)
	err := h.untilEnd(ctx, server)
	cancel() // no new requests come here; those that are being answered go on
	defer func() { <-server.done }()
	if h.takenOver() {
		h.app.say("another dayfly process of this laptop answers %s from now on", session.Route(h.want))
		return err
	}
	if exit, ok := errors.AsType[*exitError](err); err != nil && !ok {
		return h.giveUp(err)
	} else if endErr := h.end(); endErr != nil {
		if exit == nil {
			return endErr
		}
		h.app.warn("%s", endErr)
	}
	return err
}

func (h *held) untilEnd(ctx context.Context, server *serving) error {
	s, err := h.awaitArmed(ctx)
	if err != nil {
		return err
	}
	h.replace()
	h.hint(s)
	if len(h.command) > 0 {
		return h.runCommand(ctx, s, server.ended)
	}
	h.app.say("until ^C")
	select {
	case <-ctx.Done():
		return nil
	case err := <-server.ended:
		return err
	}
}

// replace tells the process whose intercept this one replaces to end.
func (h *held) replace() {
	if h.by != nil && h.by.alive() {
		h.app.say("replacing what process %d answered for %s", h.by.PID, session.Route(h.want))
		_ = syscall.Kill(h.by.PID, syscall.SIGTERM)
	}
}

// takenOver says whether another process of this laptop answers the route by now.
func (h *held) takenOver() bool {
	now, err := readSession(h.kept.path)
	if err != nil || now == nil {
		return false
	}
	by := now.serving(session.Route(h.want))
	return by != nil && by.PID != os.Getpid()
}

// runCommand runs the user's command and returns its exit code as an error.
func (h *held) runCommand(ctx context.Context, s *v1alpha1.Session, ended <-chan error) error {
	cmd := exec.Command(h.command[0], h.command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "DAYFLY_SESSION="+s.Name, "DAYFLY_ROUTING_KEY="+s.Spec.RoutingKey)
	started, finished := make(chan error), make(chan error, 1)
	go func() {
		dieTogether(cmd)
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		finished <- cmd.Wait()
	}()
	if err := <-started; err != nil {
		return cannotStart(err)
	}
	select {
	case err := <-finished:
		return exitOf(err)
	case <-ctx.Done():
		return exitOf(h.stopCommand(cmd, finished, toldByTerminal(ctx)))
	case err := <-ended:
		_ = h.stopCommand(cmd, finished, false)
		return err
	}
}

func cannotStart(err error) error {
	return usererr.New(usererr.Usage, "check the command after --", "the command cannot be started").Because(err)
}

// How long a command may take to end once it was told to, and after what time of that the user is told.
const (
	commandGrace    = 10 * time.Second
	commandPatience = 2 * time.Second
)

// stopCommand ends the user's command: politely, then not. told says that it was told already. If it does not end at once,
// another ^C is impolite.
func (h *held) stopCommand(cmd *exec.Cmd, finished <-chan error, told bool) error {
	if !told {
		_ = cmd.Process.Signal(syscall.SIGTERM)
	}
	select {
	case err := <-finished:
		return err
	case <-time.After(commandPatience):
	}
	h.app.say("waiting for %s to end; ^C again kills it", cmd.Args[0])
	again := make(chan os.Signal, 1)
	signal.Notify(again, os.Interrupt)
	defer signal.Stop(again)
	term, kill := time.After(commandGrace), time.After(2*commandGrace)
	if !told {
		term, kill = nil, term
	}
	for {
		select {
		case err := <-finished:
			return err
		case <-term:
			_ = cmd.Process.Signal(syscall.SIGTERM)
		case <-again:
			_ = cmd.Process.Kill()
		case <-kill:
			_ = cmd.Process.Kill()
		}
	}
}

// toldByTerminal says whether ctx was ended by a ^C that the command has been sent as well.
func toldByTerminal(ctx context.Context) bool {
	return strings.HasPrefix(context.Cause(ctx).Error(), syscall.SIGINT.String()) && inForeground()
}

func exitOf(err error) error {
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return err
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return &exitError{128 + int(ws.Signal())}
	}
	return &exitError{exit.ExitCode()}
}

// hint tells how to reach the laptop.
func (h *held) hint(s *v1alpha1.Session) {
	if h.app.quiet {
		return
	}
	var w io.Writer = h.app.Out
	if len(h.command) > 0 {
		w = h.app.Err // standard output is the command's
	}
	h.app.say("from a pod, or by way of services that pass the header on:")
	fmt.Fprintln(w, curlLine(s, h.want))
}

// curlLine is a request that the intercept sends to the laptop.
func curlLine(s *v1alpha1.Session, i v1alpha1.Intercept) string {
	if session.PortOf(i).UDP {
		return fmt.Sprintf("nc -u %s.%s %d", i.Service, s.Namespace, i.Port)
	}
	if i.Rule != nil && i.Rule.SNI != "" {
		name := strings.Replace(i.Rule.SNI, "*", "any", 1)
		return fmt.Sprintf("curl --connect-to %s:%d:%s.%s:%d https://%s:%d/", name, i.Port, i.Service, s.Namespace, i.Port, name, i.Port)
	}
	var out strings.Builder
	out.WriteString("curl ")
	header := func(format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		fmt.Fprintf(&out, "-H '%s' ", strings.ReplaceAll(text, "'", `'\''`))
	}
	switch {
	case i.All:
	case i.Rule != nil:
		for _, l := range i.Rule.Headers {
			header("%s: %s", l.Name, l.Value)
		}
		for _, l := range i.Rule.Baggage {
			header("baggage: %s=%s", l.Key, escapeBaggage(l.Value))
		}
	default:
		header("baggage: %s=%s", v1alpha1.BaggageRoutingKey, s.Spec.RoutingKey)
	}
	fmt.Fprintf(&out, "http://%s.%s:%d/", i.Service, s.Namespace, i.Port)
	return out.String()
}

// end takes the intercept out of the session, closes a session that is left empty, and says what was restored.
func (h *held) end() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt) // a second ^C ends the waiting, not the restoring
	defer stop()
	closed, err := h.takeOut(ctx, nil)
	if err == nil && closed != nil && !h.app.quiet {
		printProof(h.app.Err, *closed)
	}
	return err
}

// giveUp ends an intercept that could not be put in force, or that was ended by someone else, and returns why. What it
// was to replace is put back.
func (h *held) giveUp(why error) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	back := h.before
	if back != nil && !h.by.alive() {
		back = nil
	}
	if _, err := h.takeOut(ctx, back); err != nil && usererr.CodeOf(err) != usererr.CodeOf(why) {
		h.app.warn("%s", err)
	}
	return why
}

// takeOut takes the intercept out of the session, or puts back in its place. It closes a session that is left empty and
// then waits until everything is restored. The cluster is told in any case; ctx ends the waiting.
func (h *held) takeOut(ctx context.Context, back *v1alpha1.Intercept) (*closedView, error) {
	rctx, cancel := uncancelled(ctx)
	defer cancel()
	for {
		s := &v1alpha1.Session{}
		err := h.c.Get(rctx, h.kept.objectKey(), s)
		if apierrors.IsNotFound(err) {
			h.kept.remove()
			return nil, nil
		}
		if err != nil {
			return nil, kube.Explain(err)
		}
		rest := without(s.Spec.Intercepts, h.want)
		if back != nil {
			rest = append(rest, *back)
		}
		if len(rest) == 0 {
			proofs, err := closeSession(ctx, h.app, h.c, s, client.Preconditions{UID: &s.UID, ResourceVersion: &s.ResourceVersion}, 2*time.Minute)
			if apierrors.IsConflict(err) {
				continue // it changed: another process may have joined it
			}
			return &closedView{s.Namespace, s.Name, proofs}, err
		}
		s.Spec.Intercepts = rest
		if s.Spec.Owner, err = h.c.Whoami(rctx); err != nil { // groups change; admission wants today's
			return nil, err
		}
		if err = h.c.Update(rctx, s); apierrors.IsConflict(err) {
			continue
		}
		if err != nil {
			return nil, kube.Explain(err)
		}
		return nil, h.note(back)
	}
}

// note records on this laptop that the session goes on, without the intercept or with back.
func (h *held) note(back *v1alpha1.Intercept) error {
	if back == nil {
		h.app.say("service %s port %s is the cluster's again; session %s goes on", h.want.Service, session.PortOf(h.want), h.kept.Name)
	}
	if !h.kept.onDisk() {
		return nil
	}
	return h.kept.change(func(k *laptopSession) {
		k.drop(session.Route(h.want))
		if back != nil {
			k.Serving = append(k.Serving, *h.by)
		}
	})
}
