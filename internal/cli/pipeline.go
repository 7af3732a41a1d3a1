package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"dayfly.dev/dayfly/internal/usererr"
	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// pipelineFile is a file of stages.
type pipelineFile struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Stages     []pipelineStep `json:"stages"`
}

// pipelineStep is one stage of a file: the flags of dayfly stage run, under their names.
type pipelineStep struct {
	Name     string   `json:"name"`
	Needs    []string `json:"needs,omitempty"` // stages that must have passed before
	File     string   `json:"file,omitempty"`  // folder of the environment, from where the pipeline's file is; or else
	Git      string   `json:"git,omitempty"`   // where the cluster fetches it from
	OCI      string   `json:"oci,omitempty"`
	Run      string   `json:"run"` // for sh -c, where dayfly was started
	Set      []string `json:"set,omitempty"`
	Image    []string `json:"image,omitempty"`
	Replicas []string `json:"replicas,omitempty"`
	Only     []string `json:"only,omitempty"`
	JUnit    string   `json:"junit,omitempty"`

	Ref       string `json:"ref,omitempty"`
	Path      string `json:"path,omitempty"`
	GitSecret string `json:"git-secret,omitempty"`
	OCISecret string `json:"oci-secret,omitempty"`

	DataSecret []string `json:"data-secret,omitempty"`

	Timeout       metav1.Duration `json:"timeout,omitempty"`
	AwaitImages   metav1.Duration `json:"await-images,omitempty"`
	ReadyTimeout  metav1.Duration `json:"ready-timeout,omitempty"`
	TTL           metav1.Duration `json:"ttl,omitempty"`
	KeepOnFailure metav1.Duration `json:"keep-on-failure,omitempty"`
}

func newPipelineCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{Use: "pipeline", Short: "Run several stages, each in an environment of its own"}
	group(cmd)
	cmd.AddCommand(newPipelineRunCmd(app))
	return cmd
}

type pipelineOptions struct {
	app       *App
	file      string
	artifacts string
	parallel  int
	output    format
}

func newPipelineRunCmd(app *App) *cobra.Command {
	o := &pipelineOptions{app: app}
	cmd := &cobra.Command{
		Use: "run -f FILE", Short: "Run the stages of a file, each in an environment of its own",
		Long: `Run the stages of a file, each in an environment of its own, as soon as those that it needs have passed. A stage whose needs have
not passed is skipped. A file looks like this; the keys of a stage are the flags of dayfly stage run:

  apiVersion: cli.dayfly.dev/v1
  kind: Pipeline
  stages:
    - {name: unit, file: deploy, run: make test, junit: 'reports/*.xml'}
    - {name: load, file: deploy, run: make load, needs: [unit], replicas: [catalog=3], timeout: 20m}

The exit code is that of the worst stage, as dayfly stage run gives it.`,
		Example: "  dayfly pipeline run -f pipeline.yaml -n ci --artifacts out", Args: takes(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	cmd.Flags().StringVarP(&o.file, "file", "f", "", "file of stages")
	cmd.Flags().StringVar(&o.artifacts, "artifacts", "", "`DIR` for the pods' logs, events and reports, a folder for each stage")
	cmd.Flags().IntVar(&o.parallel, "parallel", 4, "how many stages at once")
	outputFlag(cmd, &o.output)
	_ = cmd.MarkFlagFilename("file", "yaml", "yml")
	_ = cmd.MarkFlagDirname("artifacts")
	return cmd
}

// mostStages are in one file.
const mostStages = 64

// readPipeline reads a file of stages and checks all that can be checked without running them.
func readPipeline(path string) (*pipelineFile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, usererr.New(usererr.Usage, "name a file of stages: dayfly pipeline run -f FILE", "-f %s cannot be read", path).Because(err)
	}
	p := &pipelineFile{}
	if err := yaml.UnmarshalStrict(data, p); err != nil {
		return nil, usererr.New(usererr.Usage, "see: dayfly pipeline run --help", "%s is no file of stages", path).Because(err)
	}
	wrong := func(format string, args ...any) error {
		return usererr.New(usererr.Usage, "see: dayfly pipeline run --help", "%s: %s", path, fmt.Sprintf(format, args...))
	}
	switch {
	case p.APIVersion != viewVersion || p.Kind != "Pipeline":
		return nil, wrong("it is a %s of %s, not a Pipeline of %s", p.Kind, p.APIVersion, viewVersion)
	case len(p.Stages) == 0 || len(p.Stages) > mostStages:
		return nil, wrong("it has %d stages, not 1 to %d", len(p.Stages), mostStages)
	}
	names := map[string]bool{}
	for i, s := range p.Stages {
		switch {
		case s.Name == "":
			return nil, wrong("stage %d has no name", i+1)
		case names[s.Name]:
			return nil, wrong("there are two stages %s", s.Name)
		case s.File+s.Git+s.OCI == "" || s.Run == "":
			return nil, wrong("stage %s must say what its environment is made of (file, git or oci) and what runs beside it (run)", s.Name)
		}
		names[s.Name] = true
	}
	done := map[string]bool{}
	for range p.Stages { // as many rounds as the longest chain has
		for _, s := range p.Stages {
			done[s.Name] = done[s.Name] || !slices.ContainsFunc(s.Needs, func(n string) bool { return !done[n] })
		}
	}
	for _, s := range p.Stages {
		for _, n := range s.Needs {
			if !names[n] {
				return nil, wrong("stage %s needs %s, which there is none of", s.Name, n)
			}
		}
		if !done[s.Name] {
			return nil, wrong("stage %s needs itself, by way of %s", s.Name, strings.Join(s.Needs, ", "))
		}
	}
	return p, nil
}

func (s pipelineStep) source() sourceOptions {
	return sourceOptions{git: s.Git, ref: s.Ref, gitSecret: s.GitSecret, oci: s.OCI, ociSecret: s.OCISecret, path: s.Path}
}

// options are a stage's, as dayfly stage run would have them.
func (o *pipelineOptions) options(s pipelineStep, writing *sync.Mutex) *stageOptions {
	given := func(d metav1.Duration, otherwise time.Duration) time.Duration {
		if d.Duration > 0 {
			return d.Duration
		}
		return otherwise
	}
	one := &stageOptions{
		name: s.Name, command: []string{"sh", "-c", s.Run}, junit: s.JUnit, output: "table",
		envSpecOptions: envSpecOptions{source: s.source(), set: s.Set, images: s.Image, replicas: s.Replicas, only: s.Only, data: s.DataSecret, awaitImages: s.AwaitImages.Duration},
		ttl:            given(s.TTL, stageTTL), ready: given(s.ReadyTimeout, stageReady+s.AwaitImages.Duration), timeout: given(s.Timeout, stageTimeout), teardown: stageTeardown,
		keepFor: s.KeepOnFailure.Duration,
	}
	if s.File != "" {
		one.dir = filepath.Join(filepath.Dir(o.file), s.File)
	}
	if o.artifacts != "" {
		one.artifacts = filepath.Join(o.artifacts, s.Name)
	}
	one.app = o.app.prefixed(s.Name, writing, o.output != "table")
	return one
}

func (o *pipelineOptions) run(ctx context.Context) error {
	p, err := readPipeline(o.file)
	if err != nil {
		return err
	}
	if o.parallel < 1 {
		return usererr.New(usererr.Usage, "use a number from 1", "--parallel %d: nothing would run", o.parallel)
	}
	var writing sync.Mutex
	ended := map[string]chan struct{}{}
	for _, s := range p.Stages {
		ended[s.Name] = make(chan struct{})
	}
	results := make([]stageView, len(p.Stages))
	at := func(name string) *stageView {
		return &results[slices.IndexFunc(p.Stages, func(s pipelineStep) bool { return s.Name == name })]
	}
	places := make(chan struct{}, o.parallel)
	var wg sync.WaitGroup
	for i, s := range p.Stages {
		wg.Go(func() {
			defer close(ended[s.Name])
			for _, n := range s.Needs {
				<-ended[n]
				if r := at(n); r.Result != resultOf(stagePassed) {
					results[i] = stageView{APIVersion: viewVersion, Kind: "Stage", Stage: s.Name, Result: "skipped: " + n + " has not passed"}
					return
				}
			}
			places <- struct{}{}
			defer func() { <-places }()
			one := o.options(s, &writing)
			defer one.app.flush()
			r, err := one.one(ctx)
			if r != nil {
				results[i] = r.view
			}
			if err != nil && ctx.Err() == nil {
				one.app.warn("%s", err)
				results[i] = stageView{APIVersion: viewVersion, Kind: "Stage", Stage: s.Name, Result: resultOf(environmentFails), ExitCode: environmentFails}
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	worst := stagePassed
	for _, r := range results {
		worst = max(worst, r.ExitCode)
	}
	if err := o.app.print(o.output, stageList{viewVersion, "StageList", results}, func(io.Writer) error { return o.summary(results) }); err != nil || worst == 0 {
		return err
	}
	return &exitError{worst}
}

func (o *pipelineOptions) summary(results []stageView) error {
	t := tabwriter.NewWriter(o.app.Err, 2, 8, 2, ' ', 0)
	fmt.Fprintln(t, "STAGE\tRESULT\tENVIRONMENT\tCOMMAND\tTEARDOWN")
	for _, r := range results {
		fmt.Fprintf(t, "%s\t%s\t%.1fs\t%.1fs\t%.1fs\n", r.Stage, r.Result, r.Ready, r.Ran, r.Teardown)
	}
	return t.Flush()
}
