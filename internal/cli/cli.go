// Package cli is the dayfly command: one file per command, each an options struct, a constructor that reads the command
// line, and a run method that works.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/usererr"
	"github.com/spf13/cobra"
	"k8s.io/client-go/transport"
	"k8s.io/klog/v2"
	"sigs.k8s.io/yaml"
)

// App is what every command shares.
type App struct {
	Version string
	Out     io.Writer // results
	Err     io.Writer // progress, warnings, errors
	In      io.Reader
	Wrap    transport.WrapperFunc // around every connection to the API server; nil: none

	kube  kube.Options
	quiet bool
	color bool
}

// NewCommand returns the dayfly command. roles are further commands, for inside a cluster, which users are not shown.
func NewCommand(app *App, roles ...*cobra.Command) *cobra.Command {
	klog.SetOutput(io.Discard) // client-go's own remarks are not for people
	klog.LogToStderr(false)
	root := &cobra.Command{
		Use:   "dayfly",
		Short: "Short-lived environments on Kubernetes",
		Long: `dayfly gives every change its own environment on a Kubernetes cluster that people share.

With an intercept, requests that carry your routing key are answered by a process on your laptop; everybody else's are not.
A session records every alteration of the cluster; closing it puts everything back exactly as it was.`,
		SilenceErrors: true, SilenceUsage: true, Version: app.Version,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
	}
	group(root)
	root.SetOut(app.Out)
	root.SetErr(app.Err)
	flags := root.PersistentFlags()
	flags.StringVarP(&app.kube.Namespace, "namespace", "n", "", "namespace to act in (default: the context's)")
	flags.StringVar(&app.kube.Context, "context", "", "kubeconfig context to use")
	flags.StringVarP(&app.kube.Kubeconfig, "kubeconfig", "k", "", "path of the kubeconfig file")
	flags.BoolVarP(&app.quiet, "quiet", "q", false, "print nothing but results and errors")
	root.AddCommand(newInterceptCmd(app), newSessionCmd(app), newEnvCmd(app), newStageCmd(app), newPipelineCmd(app), newInstallCmd(app), newUninstallCmd(app), newGraphCmd(app), newStatusCmd(app), newDoctorCmd(app), newVersionCmd(app))
	for _, r := range roles {
		r.Hidden = true
		root.AddCommand(r)
	}
	root.SetFlagErrorFunc(flagError)
	strict(root)
	_ = root.RegisterFlagCompletionFunc("namespace", app.completeNamespaces)
	_ = root.RegisterFlagCompletionFunc("context", app.completeContexts)
	return root
}

// Main runs the command and returns the exit code of the process.
func Main(ctx context.Context, app *App, root *cobra.Command, args []string) int {
	app.color = isTerminal(app.Err) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	app.kube.UserAgent, app.kube.Wrap = "dayfly/"+app.Version, app.Wrap
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if exit, ok := errors.AsType[*exitError](err); ok {
		return exit.code
	}
	if err == nil {
		return 0
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return interrupted(ctx)
	}
	err = kube.Explain(err)
	fmt.Fprintf(app.Err, "%s %s\n", app.paint(red, "error:"), err)
	if fix := usererr.FixOf(err); fix != "" {
		fmt.Fprintf(app.Err, "%s %s\n", app.paint(green, "fix:"), fix)
	}
	return int(usererr.CodeOf(err))
}

// interrupted is the exit code of a command that a signal ended, as a shell gives it.
func interrupted(ctx context.Context) int {
	if strings.HasPrefix(context.Cause(ctx).Error(), syscall.SIGTERM.String()) {
		return 128 + int(syscall.SIGTERM)
	}
	return 128 + int(syscall.SIGINT)
}

// exitError carries the exit code of the command that dayfly ran for the user.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

const red, green, yellow, dim = "31", "32", "33", "2"

func (a *App) paint(color, text string) string {
	if !a.color {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// say prints progress.
func (a *App) say(format string, args ...any) {
	if !a.quiet {
		fmt.Fprintf(a.Err, format+"\n", args...)
	}
}

// warn prints what went wrong without stopping the command.
func (a *App) warn(format string, args ...any) {
	fmt.Fprintf(a.Err, "%s %s\n", a.paint(yellow, "warning:"), fmt.Sprintf(format, args...))
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && f.Name() != os.DevNull
}

// open reads the kubeconfig.
func (a *App) open() (*kube.Cluster, error) { return kube.Open(a.kube) }

// after calls say once if what it waits for takes longer than a second; stop ends that.
func (a *App) after(format string, args ...any) (stop func()) {
	t := time.AfterFunc(time.Second, func() { a.say(format, args...) })
	return func() { t.Stop() }
}

// print writes a result in the form that -o asks for.
func (a *App) print(f format, v any, table func(io.Writer) error) error {
	switch f {
	case "json":
		e := json.NewEncoder(a.Out)
		e.SetIndent("", "  ")
		return e.Encode(v)
	case "yaml":
		data, err := yaml.Marshal(v)
		if err != nil {
			return err
		}
		_, err = a.Out.Write(data)
		return err
	}
	return table(a.Out)
}

func newVersionCmd(app *App) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of dayfly on this laptop", Args: takes(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(app.Out, app.Version)
			return err
		},
	}
}
