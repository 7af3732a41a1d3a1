package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/environment"
	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/source"
	"dayfly.dev/dayfly/internal/usererr"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// envSpecOptions are what an environment consists of.
type envSpecOptions struct {
	source      sourceOptions
	dir         string
	set         []string
	images      []string
	replicas    []string
	only        []string
	data        []string
	awaitImages time.Duration
}

func (o *envSpecOptions) flags(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.dir, "file", "f", "", "folder to make it from: a kustomization, a Helm chart, or manifests, with an optional dayfly.yaml")
	cmd.Flags().StringArrayVar(&o.set, "set", nil, "`NAME=VALUE` of a parameter, or of one below it (image.tag=v2); can be repeated")
	cmd.Flags().StringArrayVar(&o.images, "image", nil, "`COMPONENT=IMAGE` to run, or only a tag (:v2) or a digest (@sha256:…); can be repeated")
	cmd.Flags().StringArrayVar(&o.replicas, "replicas", nil, "`COMPONENT=N`; can be repeated")
	cmd.Flags().DurationVar(&o.awaitImages, "await-images", 0, "how long to wait for images that are not in their registry yet, 1s-24h (default: that is a failure)")
	cmd.Flags().StringSliceVar(&o.only, "only", nil, "these components, and what they need (default all)")
	cmd.Flags().StringSliceVar(&o.data, "data-secret", nil, "`SECRETS` of the home that data of components may be cloned with, as dayfly.yaml says; '' for none")
	_ = cmd.MarkFlagDirname("file")
}

// into puts what was given into a spec. What was not given stays.
func (o *envSpecOptions) into(s *v1alpha1.EnvironmentSpec) error {
	params := map[string]any{}
	if s.Parameters != nil {
		if err := json.Unmarshal(s.Parameters.Raw, &params); err != nil {
			return fmt.Errorf("reading the environment's parameters: %w", err)
		}
	}
	for _, text := range o.set {
		name, value, err := pair("--set", text)
		if err != nil {
			return err
		}
		var v any
		if err := yaml.Unmarshal([]byte(value), &v); err != nil {
			v = value // it is text, then
		}
		if err := unstructured.SetNestedField(params, v, strings.Split(name, ".")...); err != nil {
			return usererr.New(usererr.Usage, "", "--set %s: what is above it is already something else", text).Because(err)
		}
	}
	if len(params) > 0 {
		data, err := json.Marshal(params)
		if err != nil {
			return fmt.Errorf("writing parameters: %w", err)
		}
		s.Parameters = &runtime.RawExtension{Raw: data}
	}
	for _, text := range o.images {
		name, image, err := pair("--image", text)
		if err != nil {
			return err
		}
		override(s, name).Image = image
	}
	for _, text := range o.replicas {
		name, value, err := pair("--replicas", text)
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(value, 10, 32)
		if err != nil || n < 0 {
			return usererr.New(usererr.Usage, "use a number, such as --replicas "+name+"=2", "--replicas %s: %q is no number of replicas", text, value)
		}
		override(s, name).Replicas = new(int32(n))
	}
	if o.only != nil {
		s.Only = o.only
	}
	if o.data != nil {
		s.DataSecrets = o.data
	}
	if o.awaitImages != 0 {
		s.AwaitImages = &metav1.Duration{Duration: o.awaitImages}
	}
	return nil
}

// patience is how long a command waits that was not told: images have their own time.
func (o *envSpecOptions) patience(cmd *cobra.Command, flag string, timeout time.Duration) time.Duration {
	if cmd.Flags().Changed(flag) {
		return timeout
	}
	return timeout + o.awaitImages
}

func pair(flag, text string) (name, value string, err error) {
	name, value, ok := strings.Cut(text, "=")
	if !ok || name == "" || value == "" {
		return "", "", usererr.New(usererr.Usage, "write "+flag+" NAME=VALUE", "%s %s: there is no name and value", flag, text)
	}
	return name, value, nil
}

// override is what differs in a component of a spec.
func override(s *v1alpha1.EnvironmentSpec, name string) *v1alpha1.ComponentSpec {
	i := slices.IndexFunc(s.Components, func(c v1alpha1.ComponentSpec) bool { return c.Name == name })
	if i < 0 {
		s.Components = append(s.Components, v1alpha1.ComponentSpec{Name: name})
		i = len(s.Components) - 1
	}
	return &s.Components[i]
}

// blueprint packs the folder for an environment that has everything else already, once this laptop has seen that it can be
// rendered: what is wrong with it is told before the cluster is asked.
func (o *envSpecOptions) blueprint(ctx context.Context, app *App, e *v1alpha1.Environment) (*v1alpha1.Blueprint, error) {
	folder, packed, err := o.read()
	if err != nil {
		return nil, err
	}
	digest := folder.Digest()
	b := &v1alpha1.Blueprint{ObjectMeta: metav1.ObjectMeta{Namespace: e.Namespace, Name: e.Name + "-" + strings.TrimPrefix(digest, "sha256:")[:12]},
		Spec: v1alpha1.BlueprintSpec{Digest: digest, Folder: packed}}
	return b, tryRender(ctx, app, folder, e)
}

// read reads the folder and packs it.
func (o *envSpecOptions) read() (source.Folder, []byte, error) {
	info, err := os.Stat(o.dir)
	if err != nil || !info.IsDir() {
		return nil, nil, usererr.New(usererr.Usage, "name a folder that holds a kustomization, a Helm chart, or manifests", "-f %s is no folder", o.dir)
	}
	folder, err := source.ReadFolder(os.DirFS(o.dir))
	if err != nil {
		return nil, nil, err
	}
	packed, err := folder.PackStored()
	return folder, packed, err
}

// tryRender renders as the controller will.
func tryRender(ctx context.Context, app *App, folder source.Folder, e *v1alpha1.Environment) error {
	r, err := source.Render(ctx, folder, environment.RenderOptions(e))
	if err != nil {
		return err
	}
	for _, w := range r.Warnings {
		app.warn("%s", w)
	}
	return environment.Check(r.Components)
}

// keep stores a Blueprint as a part of an environment: it goes with it.
func keep(ctx context.Context, c *kube.Cluster, b *v1alpha1.Blueprint, e *v1alpha1.Environment) error {
	b.OwnerReferences = []metav1.OwnerReference{{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Environment", Name: e.Name, UID: e.UID}}
	for {
		err := c.Create(ctx, b.DeepCopy())
		if !apierrors.IsAlreadyExists(err) {
			return kube.Explain(err)
		}
		have := &v1alpha1.Blueprint{}
		if err := c.Get(ctx, client.ObjectKeyFromObject(b), have); client.IgnoreNotFound(err) != nil {
			return kube.Explain(err)
		} else if err == nil {
			if slices.ContainsFunc(have.OwnerReferences, func(r metav1.OwnerReference) bool { return r.UID == e.UID }) {
				return nil // the same folder as before
			}
			// Left over from another environment of this name, and about to go with it.
			if err := c.Delete(ctx, have, client.Preconditions{UID: &have.UID}); client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
				return kube.Explain(err)
			}
		}
		if pause(ctx, lookEvery); ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// envAccessOptions are who may come in from outside, when an environment sleeps by itself, and who goes first.
type envAccessOptions struct {
	public     bool
	sleepAfter time.Duration
	ttlFrom    ttlFrom
	priority   int32
}

// ttlFrom is the value of --ttl-from.
type ttlFrom v1alpha1.TTLFrom

func (f *ttlFrom) String() string { return strings.ToLower(string(*f)) }
func (*ttlFrom) Type() string     { return "WHAT" }

func (f *ttlFrom) Set(text string) error {
	for _, v := range []v1alpha1.TTLFrom{v1alpha1.TTLFromCreation, v1alpha1.TTLFromRevision, v1alpha1.TTLFromActivity} {
		if strings.EqualFold(text, string(v)) {
			*f = ttlFrom(v)
			return nil
		}
	}
	return errors.New("use creation, revision or activity")
}

func (o *envAccessOptions) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.public, "public", false, "whoever can reach its addresses may see it; otherwise that takes a link (dayfly env share)")
	cmd.Flags().DurationVar(&o.sleepAfter, "sleep-after", 0, "fall asleep when no address was asked for so long, 10s-720h; 0: as its policy says, or only when told to")
	cmd.Flags().Var(&o.ttlFrom, "ttl-from", "from when its time counts: creation, revision (the last change), or activity (the last request, too) (default creation)")
	cmd.Flags().Int32Var(&o.priority, "priority", 0, "among those that wait for a place, -10-10: below 0 lets others go first; above it takes a policy that allows it")
}

// into puts what was given into a spec. What was not given stays.
func (o *envAccessOptions) into(s *v1alpha1.EnvironmentSpec, cmd *cobra.Command) {
	if cmd.Flags().Changed("public") {
		s.Public = o.public
	}
	if cmd.Flags().Changed("sleep-after") {
		s.SleepAfter = nil
		if o.sleepAfter != 0 {
			s.SleepAfter = &metav1.Duration{Duration: o.sleepAfter}
		}
	}
	if cmd.Flags().Changed("ttl-from") {
		s.TTLFrom = v1alpha1.TTLFrom(o.ttlFrom)
	}
	if cmd.Flags().Changed("priority") {
		s.Priority = o.priority
	}
}

type envCreateOptions struct {
	envSpecOptions
	envWaitOptions
	envAccessOptions
	name string
	ttl  time.Duration
}

func newEnvCreateCmd(app *App) *cobra.Command {
	o := &envCreateOptions{envWaitOptions: envWaitOptions{app: app}}
	cmd := &cobra.Command{
		Use: "create NAME (-f DIR | --git URL | --oci REF)", Short: "Make an environment from a folder and wait until it is ready",
		Long: `Make an environment from a folder, in a namespace of its own, and wait until every component of it is ready. The folder is of this
laptop (-f), or fetched by the cluster from a Git repository (--git) or an OCI artifact (--oci).

The folder is stored in the cluster: what becomes of it does not depend on this laptop. ^C ends the waiting, nothing else.`,
		Example: `  dayfly env create pr-1 -f ./deploy -n team
  dayfly env create pr-1 -f ./deploy --image catalog=:pr-1 --only storefront --ttl 2h
  dayfly env create pr-1 --git https://git.example.com/team/shop --ref main --path deploy -n team
  dayfly env create pr-1 --oci registry.example.com/team/shop:v1 -n team`,
		Args: takes(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = args[0]
			return o.run(cmd)
		},
	}
	o.envSpecOptions.flags(cmd)
	o.source.flags(cmd)
	o.envAccessOptions.flags(cmd)
	o.envWaitOptions.flags(cmd, 10*time.Minute)
	cmd.Flags().DurationVar(&o.ttl, "ttl", 0, "how long it lives, 1m-720h (default: as its policy says, or 8h)")
	return cmd
}

func (o *envCreateOptions) run(cmd *cobra.Command) error {
	ctx := cmd.Context()
	o.timeout = o.patience(cmd, "timeout", o.timeout)
	if o.dir == "" && !o.source.given() {
		return usererr.New(usererr.Usage, "name a folder: dayfly env create "+o.name+" -f DIR; or a source: --git URL, --oci REF", "there is nothing to make it from")
	}
	c, err := o.app.open()
	if err != nil {
		return err
	}
	e := &v1alpha1.Environment{ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: o.name}}
	e.Spec.TTL.Duration = o.ttl
	o.envAccessOptions.into(&e.Spec, cmd)
	if err := o.make(ctx, o.app, c, e); err != nil {
		return err
	}
	defer o.app.after("waiting for the cluster (%s)", c.Config.Host)()
	now := observed(ctx, c, e)
	o.app.say("environment %s lives in namespace %s until %s", e.Name, environment.NamespaceOf(e), viewEnvironment(now).endsAt())
	o.app.warnOfPolicy(now)
	return o.await(ctx, c, e)
}

// make asks the cluster for an environment that has its name and its time: from the folder or the source, as the caller's.
func (o *envSpecOptions) make(ctx context.Context, app *App, c *kube.Cluster, e *v1alpha1.Environment) error {
	if err := o.into(&e.Spec); err != nil {
		return err
	}
	if err := o.source.into(&e.Spec, o.dir); err != nil {
		return err
	}
	var b *v1alpha1.Blueprint
	var err error
	if e.Spec.Source == nil {
		if b, err = o.blueprint(ctx, app, e); err != nil {
			return err
		}
		e.Spec.Blueprint = b.Name
	}
	defer app.after("waiting for the cluster (%s)", c.Config.Host)()
	if e.Spec.Owner, err = c.Whoami(ctx); err != nil {
		return err
	}
	if b != nil {
		if err := c.Create(ctx, b.DeepCopy(), client.DryRunAll); err != nil && !apierrors.IsAlreadyExists(err) {
			return kube.Explain(err) // before there is an environment that waits for it
		}
	}
	err = c.Create(ctx, e)
	switch {
	case apierrors.IsAlreadyExists(err):
		return usererr.New(usererr.Conflict, "choose another name, or change it: dayfly env update "+e.Name, "there is an environment %s in namespace %s already", e.Name, c.Namespace)
	case err != nil:
		return kube.Explain(err)
	case b == nil:
		return nil
	}
	return keep(ctx, c, b, e)
}

type envUpdateOptions struct {
	envSpecOptions
	envWaitOptions
	envAccessOptions
	name    string
	refresh bool
}

func newEnvUpdateCmd(app *App) *cobra.Command {
	o := &envUpdateOptions{envWaitOptions: envWaitOptions{app: app}}
	cmd := &cobra.Command{
		Use: "update NAME", Short: "Change an environment in place and wait until it is ready",
		Long: `Change an environment in place and wait until every component is ready and what it no longer has is gone. What you do not name stays
as it is. Where a branch or a tag leads is looked up when the source is named, and with --refresh, never by itself.`,
		Example: `  dayfly env update pr-1 --image catalog=:pr-1-b
  dayfly env update pr-1 -f ./deploy
  dayfly env update pr-1 --refresh`,
		Args: takes(cobra.ExactArgs(1)), ValidArgsFunction: app.completeEnvironment,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = args[0]
			return o.run(cmd)
		},
	}
	o.envSpecOptions.flags(cmd)
	o.source.flags(cmd)
	o.envAccessOptions.flags(cmd)
	o.envWaitOptions.flags(cmd, 10*time.Minute)
	cmd.Flags().BoolVar(&o.refresh, "refresh", false, "fetch its source again: where a branch or a tag leads now")
	return cmd
}

func (o *envUpdateOptions) run(cmd *cobra.Command) error {
	ctx := cmd.Context()
	o.timeout = o.patience(cmd, "timeout", o.timeout)
	c, err := o.app.open()
	if err != nil {
		return err
	}
	defer o.app.after("waiting for the cluster (%s)", c.Config.Host)()
	e, err := getEnvironment(ctx, c, o.name)
	if err != nil {
		return err
	}
	o.app.warnOfEnd(e)
	before := e.DeepCopy()
	o.envAccessOptions.into(&e.Spec, cmd)
	if err := o.envSpecOptions.into(&e.Spec); err != nil {
		return err
	}
	if err := o.source.into(&e.Spec, o.dir); err != nil {
		return err
	}
	switch {
	case o.dir != "":
		b, err := o.blueprint(ctx, o.app, e)
		if err != nil {
			return err
		}
		if err := keep(ctx, c, b, e); err != nil {
			return err
		}
		e.Spec.Blueprint, e.Spec.Source = b.Name, nil
	case o.refresh || o.source.given() || environment.BlueprintOf(e) == "": // what it will be made from, this laptop does not know
	default:
		if err := o.tryStored(ctx, c, e); err != nil {
			return err
		}
	}
	if o.refresh {
		if e.Spec.Source == nil {
			return usererr.New(usererr.Usage, "name the folder: dayfly env update "+o.name+" -f DIR", "environment %s has no source that could be fetched again", o.name)
		}
		setRefresh(e, time.Now().UTC().Format(time.RFC3339Nano))
	}
	if err := changeEnvironment(ctx, c, before, e); err != nil {
		return err
	}
	if e.Spec.Source != nil { // which Blueprint it needs is known once it is ready
		if err := o.await(ctx, c, e); err != nil {
			return err
		}
		return forgetBlueprints(ctx, c, e)
	}
	if err := forgetBlueprints(ctx, c, e); err != nil {
		return err
	}
	return o.await(ctx, c, e)
}

// changeEnvironment writes what was changed, unless somebody else was faster.
func changeEnvironment(ctx context.Context, c *kube.Cluster, before, e *v1alpha1.Environment) error {
	wanted, refresh := e.Spec, e.Annotations[v1alpha1.AnnotationRefresh]
	refreshes := refresh != before.Annotations[v1alpha1.AnnotationRefresh]
	for {
		err := c.Patch(ctx, e, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
		if !apierrors.IsConflict(err) {
			return kube.Explain(err)
		}
		now, err := getEnvironment(ctx, c, e.Name)
		if err != nil {
			return err
		}
		was := before.Spec
		was.Replicas = now.Spec.Replicas // it may have woken or fallen asleep
		if now.UID != e.UID || !equality.Semantic.DeepEqual(now.Spec, was) {
			return usererr.New(usererr.Conflict, "run it again", "environment %s was changed by somebody else meanwhile", e.Name)
		}
		if wanted.Asleep() == before.Spec.Asleep() {
			wanted.Replicas = now.Spec.Replicas
		}
		before, *e = now.DeepCopy(), *now // only what the cluster says of it is new
		e.Spec = wanted
		if refreshes {
			setRefresh(e, refresh)
		}
	}
}

// setRefresh has an environment's source looked up again if it is another value than before.
func setRefresh(e *v1alpha1.Environment, value string) {
	if e.Annotations == nil {
		e.Annotations = map[string]string{}
	}
	e.Annotations[v1alpha1.AnnotationRefresh] = value
}

// tryStored renders the folder that the cluster has with what is new.
func (o *envUpdateOptions) tryStored(ctx context.Context, c *kube.Cluster, e *v1alpha1.Environment) error {
	folder, err := storedFolder(ctx, c, e)
	if err != nil {
		return err
	}
	return tryRender(ctx, o.app, folder, e)
}

// forgetBlueprints deletes those that were kept for this environment and are neither what it is made from nor in its history.
func forgetBlueprints(ctx context.Context, c *kube.Cluster, e *v1alpha1.Environment) error {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("BlueprintList"))
	if err := c.List(ctx, list, client.InNamespace(e.Namespace)); err != nil {
		return kube.Explain(err)
	}
	if e.Spec.Source != nil { // looked at after the list: what was fetched meanwhile is not in that
		now, err := getEnvironment(ctx, c, e.Name)
		if err != nil || now.UID != e.UID || !slices.Contains([]string{environment.ReasonReady, environment.ReasonAsleep}, viewEnvironment(now).State) {
			return err
		}
		e = now
	}
	for _, b := range list.Items {
		past := slices.ContainsFunc(e.Status.History, func(p v1alpha1.PastRevision) bool { return p.Blueprint == b.Name })
		if b.Name == environment.BlueprintOf(e) || past || !slices.ContainsFunc(b.OwnerReferences, func(r metav1.OwnerReference) bool { return r.UID == e.UID }) {
			continue
		}
		if err := c.Delete(ctx, &v1alpha1.Blueprint{ObjectMeta: metav1.ObjectMeta{Namespace: b.Namespace, Name: b.Name}}); client.IgnoreNotFound(err) != nil {
			return kube.Explain(err)
		}
	}
	return nil
}
