package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/environment"
	"dayfly.dev/dayfly/internal/forward"
	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/stage"
	"dayfly.dev/dayfly/internal/usererr"
	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func newStageCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{Use: "stage", Short: "Run a stage of a pipeline in an environment of its own"}
	group(cmd)
	cmd.AddCommand(newStageRunCmd(app))
	return cmd
}

// The exit codes of a stage.
const (
	stagePassed      = 0
	stageFailed      = 1 // the command did
	environmentFails = 2 // the environment did not come up, or went
	teardownUnproven = 3 // it may be that something of the environment is left
)

// resultOf is an exit code in words.
func resultOf(code int) string {
	return []string{"passed", "failed", "environment failed", "teardown not verified"}[code]
}

// What a stage may take, unless somebody says otherwise.
const (
	stageTTL      = 2 * time.Hour
	stageReady    = 10 * time.Minute
	stageTimeout  = time.Hour
	stageTeardown = 2 * time.Minute
	stageCollect  = 2 * time.Minute // the API server may be away for one
)

const (
	stageLease = 45 * time.Second // without a sign of this process the environment ends
	renewEvery = 10 * time.Second
	hurry      = time.Second // for what is done when a signal has ended the stage
)

type stageOptions struct {
	envSpecOptions
	app *App

	name      string
	command   []string
	ttl       time.Duration
	ready     time.Duration
	timeout   time.Duration
	teardown  time.Duration
	keepFor   time.Duration
	junit     string
	artifacts string
	matrix    []string
	parallel  int
	output    format
	cell      cell // of the matrix; none if there is no matrix
}

func newStageRunCmd(app *App) *cobra.Command {
	o := &stageOptions{app: app}
	cmd := &cobra.Command{
		Use: "run NAME -f DIR -- COMMAND…", Short: "Bring an environment up, run a command beside it, take it down",
		Long: `Bring an environment up from a folder, run a command on this machine once it is ready, and take the environment down: whether the
command passes, fails, is interrupted, or this machine is gone. The command finds in its environment

  DAYFLY_URL_<COMPONENT>   http://127.0.0.1:PORT, which leads to the component's Service
  DAYFLY_ENVIRONMENT       the environment's name, and
  DAYFLY_NAMESPACE         the namespace in which it lives
  KUBECONFIG               the caller's own, in that namespace

Exit codes: 0 the command passed, 1 it failed, 2 the environment did, 3 it is not proved that nothing of it is left.`,
		Example: `  dayfly stage run test -f ./deploy -n ci -- npm test
  dayfly stage run e2e -f ./deploy --junit 'reports/*.xml' --artifacts out --keep-on-failure 2h -- ./e2e.sh
  dayfly stage run e2e -f ./deploy --matrix database=15,16,17 --matrix mode=fast,safe --parallel 3 -- ./e2e.sh`,
		Args: func(cmd *cobra.Command, args []string) error {
			if dash := cmd.ArgsLenAtDash(); dash != 1 || len(args) < 2 {
				return usererr.New(usererr.Usage, "dayfly stage run NAME -f DIR -- COMMAND", "a stage has one name, and a command after --")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name, o.command = args[0], args[1:]
			o.ready = o.patience(cmd, "ready-timeout", o.ready)
			return o.run(cmd.Context())
		},
	}
	o.envSpecOptions.flags(cmd)
	o.source.flags(cmd)
	f := cmd.Flags()
	f.DurationVar(&o.ttl, "ttl", stageTTL, "how long the environment may live at most, 1m-720h")
	f.DurationVar(&o.ready, "ready-timeout", stageReady, "how long the environment may take to be ready")
	f.DurationVar(&o.timeout, "timeout", stageTimeout, "how long the command may run")
	f.DurationVar(&o.teardown, "teardown-timeout", stageTeardown, "how long to wait until nothing of the environment is left")
	f.DurationVar(&o.keepFor, "keep-on-failure", 0, "keep the environment for so long if the command fails")
	f.StringVar(&o.junit, "junit", "", "`GLOB` of the command's reports in JUnit's form: they are summed up, and kept with the artifacts")
	f.StringVar(&o.artifacts, "artifacts", "", "`DIR` for the pods' logs, events and reports (default: kept only if something fails, in dayfly-artifacts)")
	f.StringArrayVar(&o.matrix, "matrix", nil, "`PARAMETER=A,B,…`: a stage for each value, of each combination if repeated; the command finds it in DAYFLY_MATRIX_<PARAMETER>, --junit takes {PARAMETER}")
	f.IntVar(&o.parallel, "parallel", 4, "how many stages of a matrix at once")
	outputFlag(cmd, &o.output)
	_ = cmd.MarkFlagDirname("artifacts")
	return cmd
}

// stageView is the result of a stage as -o json and -o yaml show it.
type stageView struct {
	APIVersion  string       `json:"apiVersion"`
	Kind        string       `json:"kind"`
	Stage       string       `json:"stage"`
	Matrix      cell         `json:"matrix,omitempty"`
	Environment string       `json:"environment"`
	Namespace   string       `json:"namespace"`
	Result      string       `json:"result"` // passed, failed, environment failed, or teardown not verified
	ExitCode    int          `json:"exitCode"`
	Command     *int         `json:"commandExitCode,omitempty"`
	Ready       float64      `json:"readySeconds"`
	Ran         float64      `json:"commandSeconds"`
	Teardown    float64      `json:"teardownSeconds"`
	Kept        bool         `json:"kept"`
	Tests       *stage.Tests `json:"tests,omitempty"`
	Artifacts   string       `json:"artifacts,omitempty"`
}

// running is a stage under way.
type running struct {
	*stageOptions
	cluster *kube.Cluster
	env     *v1alpha1.Environment
	gone    chan struct{} // closed when the environment is deleted by somebody else, or its time is over
	view    stageView
}

func (o *stageOptions) run(ctx context.Context) error {
	if o.dir == "" && !o.source.given() {
		return usererr.New(usererr.Usage, "name a folder: dayfly stage run "+o.name+" -f DIR -- "+o.command[0]+"; or a source: --git URL, --oci REF", "there is nothing to make an environment from")
	}
	if _, err := exec.LookPath(o.command[0]); err != nil {
		return cannotStart(err)
	}
	if len(o.matrix) > 0 {
		return o.runMatrix(ctx)
	}
	r, err := o.one(ctx)
	if err != nil {
		return err
	}
	if err := o.app.print(o.output, r.view, func(io.Writer) error { return nil }); err != nil || r.view.ExitCode == 0 {
		return err
	}
	return &exitError{r.view.ExitCode}
}

// one runs one stage to its end. The error is for what is not a result: a wrong command line, a signal.
func (o *stageOptions) one(ctx context.Context) (*running, error) {
	sweepStages()
	c, err := o.app.open()
	if err != nil {
		return nil, err
	}
	r := &running{stageOptions: o, cluster: c, env: &v1alpha1.Environment{}, gone: make(chan struct{})}
	r.env.Namespace, r.env.Name = c.Namespace, fmt.Sprintf("%s-%05d", o.name, rand.N(100000))
	r.env.Labels = map[string]string{"dayfly.dev/stage": o.name}
	r.env.Annotations = map[string]string{v1alpha1.AnnotationRenewed: "0"}
	r.env.Spec.TTL.Duration, r.env.Spec.Lease = o.ttl, &metav1.Duration{Duration: stageLease}
	r.view = stageView{APIVersion: viewVersion, Kind: "Stage", Stage: o.name, Matrix: o.cell, Environment: r.env.Name, Namespace: environment.NamespaceOf(r.env)}
	if err := o.make(ctx, o.app, c, r.env); err != nil {
		if r.env.UID != "" {
			_ = r.remove() // its lease ends it otherwise
		}
		return nil, err
	}
	o.app.say("stage %s runs in environment %s, in namespace %s", o.name, r.env.Name, r.view.Namespace)
	renewing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	go r.renew(renewing)
	code := r.work(ctx)
	if ctx.Err() != nil {
		r.leave()
		return r, ctx.Err()
	}
	return r, r.end(ctx, code) // its lease is renewed to the end: to keep what is to be kept may take longer
}

// renew shows that this process is there, and notices when the environment is not.
func (r *running) renew(ctx context.Context) {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:"%d"}}}`, v1alpha1.AnnotationRenewed, n)
		e := &v1alpha1.Environment{ObjectMeta: metav1.ObjectMeta{Namespace: r.env.Namespace, Name: r.env.Name}}
		err := r.cluster.Patch(ctx, e, client.RawPatch(types.MergePatchType, patch))
		if apierrors.IsNotFound(err) || err == nil && (!e.DeletionTimestamp.IsZero() || e.UID != r.env.UID) {
			close(r.gone)
			return
		}
	}
}

// work waits for the environment and runs the command.
func (r *running) work(ctx context.Context) int {
	began := time.Now()
	wait := &envWaitOptions{app: r.app, wait: true, timeout: r.ready, output: "table", ours: true}
	err := wait.await(ctx, r.cluster, r.env)
	r.view.Ready = time.Since(began).Seconds()
	if err != nil {
		if ctx.Err() == nil {
			r.app.warn("%s", err)
		}
		return environmentFails
	}
	until, stop := context.WithCancel(ctx)
	defer stop()
	vars, err := r.patientVars(ctx, until)
	if err != nil {
		if ctx.Err() == nil {
			r.app.warn("%s", err)
		}
		return environmentFails
	}
	defer os.Remove(vars.kubeconfig)
	began = time.Now()
	err = r.runCommand(ctx, append(os.Environ(), vars.env...))
	r.view.Ran = time.Since(began).Seconds()
	exit, exited := errors.AsType[*exitError](exitOf(err))
	switch {
	case err == nil:
		r.view.Command = new(0)
		return stagePassed
	case exited:
		r.view.Command = new(exit.code)
		r.app.say("the command ended with exit code %d", exit.code)
	case ctx.Err() == nil:
		r.app.warn("%s", err)
	}
	if errors.Is(err, errGone) {
		return environmentFails
	}
	return stageFailed
}

type stageVars struct {
	env        []string
	kubeconfig string
}

// patientVars are the vars, though the API server may be away for a while. What they open is open until the second context ends.
func (r *running) patientVars(ctx, until context.Context) (v stageVars, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.ready)
	defer cancel()
	err = r.whenThere(ctx, func() (err error) {
		v, err = r.vars(until)
		return err
	})
	return v, err
}

// whenThere does something, and again if the API server was away meanwhile.
func (r *running) whenThere(ctx context.Context, do func() error) error {
	for {
		err := do()
		if !kube.Away(err) || ctx.Err() != nil {
			return err
		}
		if r.cluster.Ping(ctx) == nil { // it is back, or another than the API server is away, such as a node
			return do()
		}
		pause(ctx, lookEvery)
	}
}

// vars are what the command finds in its environment.
func (r *running) vars(ctx context.Context) (v stageVars, err error) {
	e := &v1alpha1.Environment{}
	if err := r.cluster.Get(ctx, client.ObjectKeyFromObject(r.env), e); err != nil {
		return v, kube.Explain(err)
	}
	v.env = append([]string{"DAYFLY_ENVIRONMENT=" + e.Name, "DAYFLY_NAMESPACE=" + r.view.Namespace}, r.cell.env()...)
	services, err := forward.Services(ctx, r.cluster.Config, r.view.Namespace, e.Status.Inventory)
	if err != nil {
		return v, kube.Explain(err)
	}
	for _, s := range services {
		f, err := forward.Open(ctx, r.cluster.Config, 0, r.view.Namespace, s.Name, s.Port)
		if err != nil {
			return v, err
		}
		v.env = append(v.env, "DAYFLY_URL_"+variable(s.Component)+"=http://"+f.Address)
	}
	if v.kubeconfig, err = stageFile(e.Name); err != nil {
		return v, err
	}
	written, err := kube.WriteKubeconfig(r.app.kube, r.view.Namespace, v.kubeconfig)
	if err != nil {
		os.Remove(v.kubeconfig)
		return v, err
	}
	if written {
		v.env = append(v.env, "KUBECONFIG="+v.kubeconfig)
	}
	return v, nil
}

// variable is a component's name as names of variables can have it.
func variable(component string) string {
	return strings.Map(func(c rune) rune {
		if c == '-' || c == '.' {
			return '_'
		}
		return c
	}, strings.ToUpper(component))
}

var errGone = errors.New("the environment is being deleted, by somebody else or because its time is over")

// runCommand runs the command with all that it starts in a group of their own, and ends them when ctx ends or it takes too long.
func (r *running) runCommand(ctx context.Context, env []string) error {
	cmd := exec.Command(r.command[0], r.command[1:]...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, os.Stdin, r.app.Out, r.app.Err
	if r.output != "table" {
		cmd.Stdout = r.app.Err // standard output is the result's
	}
	if _, several := r.app.Out.(*prefixed); several {
		cmd.Stdin = nil // it is nobody's more than another's
	}
	cmd.WaitDelay = hurry    // for what the command leaves behind, which may hold its output
	alone := !inForeground() // of a terminal, which sends ^C to all that is there
	started, finished := make(chan error), make(chan error, 1)
	go func() {
		dieTogether(cmd)
		if alone {
			ownGroup(cmd)
		}
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		err := cmd.Wait()
		if errors.Is(err, exec.ErrWaitDelay) { // it has ended well; what it left behind has not
			err = nil
		}
		finished <- err
	}()
	if err := <-started; err != nil {
		return cannotStart(err)
	}
	timeout := time.NewTimer(r.timeout)
	defer timeout.Stop()
	grace, why := commandGrace, fmt.Errorf("the command did not end within %s", r.timeout)
	select {
	case err := <-finished:
		return err
	case <-timeout.C:
	case <-r.gone:
		why = errGone
	case <-ctx.Done():
		grace, why = hurry, ctx.Err()
	}
	signalAll(cmd, alone, syscall.SIGTERM)
	select {
	case <-finished:
	case <-time.After(grace):
	}
	signalAll(cmd, alone, syscall.SIGKILL)
	return why
}

// collect keeps what is to be kept. Of a stage that passed, nothing is unless somebody says where.
func (r *running) collect(ctx context.Context, code int) {
	dir := r.artifacts
	if dir == "" && code != stagePassed {
		dir = filepath.Join("dayfly-artifacts", r.env.Name)
	}
	if r.junit != "" {
		tests := &stage.Tests{}
		found, err := filepath.Glob(r.junit)
		if dir != "" {
			found, err = stage.Keep(r.junit, filepath.Join(dir, "junit"))
		}
		for _, path := range found {
			err = errors.Join(err, tests.ReadJUnit(path))
		}
		if err != nil {
			r.app.warn("%s", err)
		}
		r.view.Tests = tests
		r.app.say("%s", tests)
		for _, name := range tests.Names {
			r.app.say("  failed: %s", name)
		}
	}
	if dir == "" {
		return
	}
	err := r.whenThere(ctx, func() error { return stage.Collect(ctx, r.cluster.Config, r.view.Namespace, dir) })
	if err != nil && ctx.Err() == nil {
		r.app.warn("not all could be kept: %s", kube.Explain(err))
	}
	r.view.Artifacts = dir
	r.app.say("logs and events are in %s", dir)
}

// leave is what is done when a signal has ended the stage: the cluster does the rest without this process.
func (r *running) leave() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(context.Background(), hurry/2)
		defer cancel()
		r.collect(ctx, stageFailed)
	}()
	select {
	case <-done:
	case <-time.After(hurry / 2):
	}
	if err := r.remove(); err != nil {
		r.app.warn("environment %s ends by itself within two minutes: %s", r.env.Name, err)
		return
	}
	r.app.say("the cluster takes environment %s down", r.env.Name)
}

// remove asks the cluster to take the environment down, in a hurry.
func (r *running) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), hurry/2)
	defer cancel()
	return client.IgnoreNotFound(r.cluster.Delete(ctx, r.env.DeepCopy(), client.PropagationPolicy(metav1.DeletePropagationBackground)))
}

// end keeps what is to be kept, takes the environment down, and says how the stage went.
func (r *running) end(ctx context.Context, code int) error {
	collecting, cancel := context.WithTimeout(ctx, stageCollect)
	r.collect(collecting, code)
	cancel()
	if code == stageFailed && r.keepFor > 0 {
		if err := r.keep(ctx); err != nil {
			r.app.warn("the environment is not kept: %s", kube.Explain(err))
		} else {
			r.view.Kept = true
		}
	}
	if !r.view.Kept {
		began := time.Now()
		if err := r.down(ctx); err != nil {
			if ctx.Err() != nil {
				r.app.say("the cluster goes on taking environment %s down", r.env.Name)
				return ctx.Err()
			}
			r.app.warn("%s", kube.Explain(err))
			code = teardownUnproven
		}
		r.view.Teardown = time.Since(began).Seconds()
	}
	r.tell(code)
	return nil
}

// keep lets the environment live without this process.
func (r *running) keep(ctx context.Context) error {
	e := &v1alpha1.Environment{}
	if err := r.cluster.Get(ctx, client.ObjectKeyFromObject(r.env), e); err != nil {
		return err
	}
	before := e.DeepCopy()
	e.Spec.Lease, e.Spec.TTL.Duration = nil, time.Since(e.CreationTimestamp.Time).Round(time.Second)+r.keepFor
	if err := r.cluster.Patch(ctx, e, client.MergeFrom(before)); err != nil {
		return err
	}
	r.app.say("environment %s is kept for %s: dayfly env show %s -n %s; end it: dayfly env delete %s -n %s", e.Name, r.keepFor, e.Name, e.Namespace, e.Name, e.Namespace)
	return nil
}

// down deletes the environment and waits until nothing of it is left.
func (r *running) down(ctx context.Context) error {
	d := &envDeleteOptions{app: r.app, wait: true, timeout: r.teardown}
	ctx, cancel := context.WithTimeout(ctx, r.teardown)
	defer cancel()
	for {
		err := client.IgnoreNotFound(r.cluster.Delete(ctx, r.env.DeepCopy(), client.PropagationPolicy(metav1.DeletePropagationBackground)))
		if err == nil {
			return d.gone(ctx, r.cluster, r.env)
		}
		if !kube.Away(err) || ctx.Err() != nil {
			return err
		}
		pause(ctx, lookEvery)
	}
}

func (r *running) tell(code int) {
	r.view.ExitCode, r.view.Result = code, resultOf(code)
	parts := []string{fmt.Sprintf("environment %.1fs", r.view.Ready)}
	if slices.Contains([]int{stagePassed, stageFailed}, code) {
		parts = append(parts, fmt.Sprintf("command %.1fs", r.view.Ran))
	}
	if !r.view.Kept {
		parts = append(parts, fmt.Sprintf("teardown %.1fs", r.view.Teardown))
	}
	r.app.say("stage %s: %s (%s)", r.name, r.view.Result, strings.Join(parts, ", "))
}
