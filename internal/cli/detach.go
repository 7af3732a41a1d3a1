package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/session"
	"dayfly.dev/dayfly/internal/usererr"
	"github.com/spf13/cobra"
)

// runDetached leaves a process behind that answers until the session is closed, and returns once it is in force.
func (h *held) runDetached(ctx context.Context) error {
	cmd, err := h.startServing()
	if err != nil {
		return h.giveUp(err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
		cancel(errServerEnded)
	}()
	s, err := h.awaitArmed(ctx)
	if err != nil {
		if context.Cause(ctx) == errServerEnded && errors.Is(err, context.Canceled) {
			err = usererr.New(usererr.Failed, "see its log: "+h.kept.log(), "the process that answers requests has ended")
		}
		_ = cmd.Process.Kill()
		<-exited
		return h.giveUp(err)
	}
	h.replace()
	h.app.say("session %s answers %s on port %d of this laptop until: dayfly session close %s -n %s",
		s.Name, session.Route(h.want), h.want.LaptopPort, s.Name, s.Namespace)
	h.hint(s)
	return nil
}

var errServerEnded = errors.New("the process that answers requests has ended")

// startServing starts the process that stays, and notes it.
func (h *held) startServing() (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding myself: %w", err)
	}
	log, err := os.OpenFile(h.kept.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the log: %w", err)
	}
	defer log.Close()
	args := []string{"session", "serve", h.kept.Name, "--route", session.Route(h.want), "--port", strconv.Itoa(int(h.want.LaptopPort)), "-n", h.kept.Namespace}
	if h.app.kube.Context != "" {
		args = append(args, "--context", h.app.kube.Context)
	}
	if h.app.kube.Kubeconfig != "" {
		args = append(args, "--kubeconfig", h.app.kube.Kubeconfig)
	}
	cmd := exec.Command(self, args...)
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, detached()
	bequeathNothing()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the process that answers: %w", err)
	}
	if err := h.kept.serve(session.Route(h.want), h.want.LaptopPort, cmd.Process.Pid); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, err
	}
	return cmd, nil
}

// newSessionServeCmd is the process that --detach leaves behind.
func newSessionServeCmd(app *App) *cobra.Command {
	var route string
	var port int32
	cmd := &cobra.Command{
		Use: "serve NAME", Hidden: true, Args: takes(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return serveRoute(cmd.Context(), app, args[0], route, port)
		},
	}
	cmd.Flags().StringVar(&route, "route", "", "service:port")
	cmd.Flags().Int32Var(&port, "port", 0, "port on this laptop")
	return cmd
}

func serveRoute(ctx context.Context, app *App, name, route string, port int32) error {
	c, err := app.open()
	if err != nil {
		return err
	}
	l, err := openLaptop(c)
	if err != nil {
		return err
	}
	kept, err := l.get(c.Namespace, name)
	if err != nil || kept == nil {
		return errors.Join(err, usererr.New(usererr.NotFound, "", "this laptop has no key of session %s", name))
	}
	service, number, _ := strings.Cut(route, ":")
	p, ok := session.ParsePort(number)
	if !ok {
		return usererr.New(usererr.Usage, "", "%q is no route", route)
	}
	s := newServing(app, c, kept, []v1alpha1.Intercept{{Service: service, Port: p.Number, Protocol: string(p.Protocol()), LaptopPort: port}})
	s.run(ctx)
	select {
	case err := <-s.ended:
		return err
	default:
		return nil
	}
}
