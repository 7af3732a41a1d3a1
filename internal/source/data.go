package source

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"dayfly.dev/dayfly/internal/usererr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
)

// Annotations by which data are told.
const (
	// StepKey, of a Job, says which step of its component's data it is.
	StepKey = "dayfly.dev/data-step"
	// CloneKey, of a Secret, says what its component's data are a clone of: a [Clone], as JSON.
	CloneKey = "dayfly.dev/data-clone"
)

// The steps that data are brought by, in their order.
const (
	Seed    = "seed"    // once in the life of the data
	Mask    = "mask"    // likewise: takes out what is personal
	Migrate = "migrate" // with every revision
)

// Steps are all of them, in their order.
var Steps = []string{Seed, Mask, Migrate}

// The classes of data.
const (
	Synthetic = "synthetic" // made up
	Masked    = "masked"    // of real people once, none of whom can be found any more
	Personal  = "pii"       // of real people
)

// Data is what a component keeps, and how it comes there.
type Data struct {
	Class   string    `json:"class"`
	Clone   *Clone    `json:"clone,omitempty"`
	Seed    *DataStep `json:"seed,omitempty"`
	Mask    *DataStep `json:"mask,omitempty"`
	Migrate *DataStep `json:"migrate,omitempty"`
}

// Clone is a copy of a database, on the PostgreSQL that has it. The component has no database of its own then, but a Secret of its
// name, with a login to the copy.
type Clone struct {
	Database string `json:"database"` // that is copied
	Secret   string `json:"secret"`   // in the environment's home, which opens the server
}

// CloneOf is what the data that an object opens are a clone of; nil if it opens none.
func CloneOf(u *unstructured.Unstructured) *Clone {
	if u == nil || u.GetKind() != "Secret" || u.GetAnnotations()[CloneKey] == "" {
		return nil
	}
	c := &Clone{}
	if json.Unmarshal([]byte(u.GetAnnotations()[CloneKey]), c) != nil {
		return nil
	}
	return c
}

// DataStep is done by a Job of the source, or by SQL that PostgreSQL's own client runs, in the component's own image.
type DataStep struct {
	Job string `json:"job,omitempty"` // its name
	SQL string `json:"sql,omitempty"` // a file of the source, beside dayfly.yaml or below
}

func (d *Data) steps() map[string]*DataStep {
	return map[string]*DataStep{Seed: d.Seed, Mask: d.Mask, Migrate: d.Migrate}
}

// maxSQL is what a ConfigMap holds, in bytes.
const maxSQL = 900 << 10

// data makes the Jobs of components' data, and marks them.
func (r *rendering) data() error {
	r.steps = map[string]step{}
	for _, o := range r.objects { // only dayfly.yaml says what is a step, and what a clone
		unstructured.RemoveNestedField(o.Object, "metadata", "annotations", StepKey)
		unstructured.RemoveNestedField(o.Object, "metadata", "annotations", CloneKey)
	}
	for _, component := range sortedKeys(r.blueprint.Spec.Components) {
		d := r.blueprint.Spec.Components[component].Data
		if d == nil {
			continue
		}
		if !slices.Contains([]string{Synthetic, Masked, Personal}, d.Class) {
			return usererr.New(usererr.Refused, fmt.Sprintf("say class: %s, %s or %s", Synthetic, Masked, Personal), "%s: the data of %s have the class %q", BlueprintFile, component, d.Class)
		}
		if d.Clone != nil {
			if err := r.clone(component, d); err != nil {
				return err
			}
		}
		for _, name := range Steps {
			s := d.steps()[name]
			if s == nil {
				continue
			}
			if (s.Job == "") == (s.SQL == "") {
				return usererr.New(usererr.Refused, "", "%s: %s of the data of %s is either a job or a file of sql", BlueprintFile, name, component)
			}
			job := s.Job
			if s.SQL != "" {
				made, err := r.sqlJob(component, name, s.SQL)
				if err != nil {
					return err
				}
				job = made
			}
			if err := r.mark(component, name, job); err != nil {
				return err
			}
		}
	}
	return nil
}

// clone makes the Secret that opens a clone, but for what is in it: that is known once there is one.
func (r *rendering) clone(component string, d *Data) error {
	refuse := func(fix, format string, args ...any) error {
		return usererr.New(usererr.Refused, fix, BlueprintFile+": the data of "+component+" are a clone, "+format, args...)
	}
	switch {
	case d.Clone.Database == "" || d.Clone.Secret == "":
		return refuse("write clone: {database: NAME, secret: NAME}", "which needs a database and a Secret")
	case d.Seed != nil:
		return refuse("leave out the seed", "which is their seed")
	}
	for _, o := range r.objects {
		if o.GetKind() == "Secret" && o.GetName() == component {
			return refuse("leave it out, or rename one of them", "for which there is to be a Secret %s: %s has one", component, o.from)
		}
		if w, err := workloadOf(o); err != nil {
			return err
		} else if w != nil && w.component == component && o.GetKind() != "Job" {
			return refuse("leave it out for environments", "on a server elsewhere: it has no %s", o)
		}
	}
	what, err := json.Marshal(d.Clone)
	if err != nil {
		return err
	}
	r.objects = append(r.objects, object{&unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Secret",
		"metadata": map[string]any{"name": component, "annotations": map[string]any{ComponentKey: component, CloneKey: string(what)}}}}, BlueprintFile})
	return nil
}

// step says what a Job is for.
type step struct{ component, name string }

// mark makes a Job a step of a component's data. It stays when it is done: that is how one knows.
func (r *rendering) mark(component, name, job string) error {
	var jobs []string
	for _, o := range r.objects {
		if o.GroupVersionKind().Group != "batch" || o.GetKind() != "Job" {
			continue
		}
		if jobs = append(jobs, o.GetName()); o.GetName() != job {
			continue
		}
		if other, ok := r.steps[job]; ok {
			return usererr.New(usererr.Refused, "", "%s: job/%s is %s of the data of %s, and %s of those of %s", BlueprintFile, job, other.name, other.component, name, component)
		}
		annotations := o.GetAnnotations()
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[StepKey] = name
		o.SetAnnotations(annotations)
		unstructured.RemoveNestedField(o.Object, "spec", "ttlSecondsAfterFinished")
		r.steps[job] = step{component, name}
		return nil
	}
	return usererr.New(usererr.Refused, "", "%s: %s of the data of %s is job/%s, which does not exist%s", BlueprintFile, name, component, job, nearest(job, jobs))
}

// psql runs a file with the settings that the images of PostgreSQL are configured by.
const psql = `PATH="$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -n 1):$PATH"
export PGUSER="${PGUSER:-${POSTGRES_USER:-postgres}}"
export PGPASSWORD="${PGPASSWORD:-${POSTGRES_PASSWORD:-}}"
export PGDATABASE="${PGDATABASE:-${POSTGRES_DB:-$PGUSER}}"
exec psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --single-transaction --file "$1"`

// sqlJob makes a Job that has a component, a PostgreSQL, run a file, and the ConfigMap with the file.
func (r *rendering) sqlJob(component, name, file string) (string, error) {
	fix := "name a job that does it"
	text, ok := r.folder[path.Clean(file)]
	if !ok {
		return "", usererr.New(usererr.Refused, "", "%s: %s of the data of %s: there is no file %s%s", BlueprintFile, name, component, file, nearest(file, sortedKeys(r.folder)))
	}
	if len(text) > maxSQL {
		return "", usererr.New(usererr.Refused, fix, "%s: %s has %d KiB, and %d are allowed", BlueprintFile, file, len(text)>>10, maxSQL>>10)
	}
	w, service, port := r.databaseOf(component)
	if w == nil || service == "" || len(w.pod.Containers) == 0 {
		return "", usererr.New(usererr.Refused, fix, "%s: the sql of %s is for a component with one workload, and a Service that leads to it", BlueprintFile, component)
	}
	of := w.pod.Containers[0]
	sum := sha256.Sum256(text)
	job := component + "-" + name
	const at = "/dayfly"
	pod := corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever, SecurityContext: w.pod.SecurityContext, ImagePullSecrets: w.pod.ImagePullSecrets,
		AutomountServiceAccountToken: new(false), EnableServiceLinks: new(false),
		Containers: []corev1.Container{{
			Name: "psql", Image: of.Image, ImagePullPolicy: of.ImagePullPolicy, SecurityContext: of.SecurityContext,
			Command: []string{"sh", "-ec", psql, "psql", at + "/" + name + ".sql"},
			EnvFrom: of.EnvFrom, Env: append(slices.Clone(of.Env), corev1.EnvVar{Name: "PGHOST", Value: service}, corev1.EnvVar{Name: "PGPORT", Value: fmt.Sprint(port)}),
			VolumeMounts: []corev1.VolumeMount{{Name: "sql", MountPath: at, ReadOnly: true}},
		}},
		Volumes: []corev1.Volume{{Name: "sql", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: job}}}}},
	}
	template, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&corev1.PodTemplateSpec{Spec: pod})
	if err != nil {
		return "", fmt.Errorf("making job/%s: %w", job, err)
	}
	unstructured.RemoveNestedField(template, "metadata", "creationTimestamp")
	_ = unstructured.SetNestedField(template, hex.EncodeToString(sum[:6]), "metadata", "annotations", "dayfly.dev/sql") // other SQL is another Job
	meta := func() map[string]any {
		return map[string]any{"name": job, "annotations": map[string]any{ComponentKey: component}}
	}
	for _, u := range []map[string]any{
		{"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(), "data": map[string]any{name + ".sql": string(text)}},
		{"apiVersion": "batch/v1", "kind": "Job", "metadata": meta(), "spec": map[string]any{"backoffLimit": int64(2), "template": template}},
	} {
		r.objects = append(r.objects, object{&unstructured.Unstructured{Object: u}, BlueprintFile})
	}
	return job, nil
}

// databaseOf is the one workload of a component that is no Job, and the Service, with its first port, that leads to it.
func (r *rendering) databaseOf(component string) (found *workload, service string, port int32) {
	for _, o := range r.objects {
		w, err := workloadOf(o)
		if err != nil || w == nil || w.component != component || o.GetKind() == "Job" {
			continue
		}
		if found != nil {
			return nil, "", 0
		}
		found = w
	}
	if found == nil {
		return nil, "", 0
	}
	for _, o := range r.objects {
		s := &corev1.Service{}
		if o.GetKind() != "Service" || runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, s) != nil || len(s.Spec.Selector) == 0 || len(s.Spec.Ports) == 0 {
			continue
		}
		if labels.SelectorFromSet(s.Spec.Selector).Matches(found.labels) {
			return found, s.Name, s.Spec.Ports[0].Port
		}
	}
	return found, "", 0
}

// Stricter is the class of data of which two are told.
func Stricter(a, b string) string {
	order := []string{"", Synthetic, Masked, Personal}
	if slices.Index(order, a) > slices.Index(order, b) {
		return a
	}
	return b
}

// class is how what a component keeps is to be treated once its steps are done; "" if dayfly.yaml says nothing of it.
func (d *Data) class() string {
	switch {
	case d == nil:
		return ""
	case d.Class == Personal && d.Mask != nil:
		return Masked
	}
	return d.Class
}

// isStep says whether a workload is a step of its component's data. Its image follows that of the component whose label it has.
func (w *workload) isStep() bool { return strings.TrimSpace(w.GetAnnotations()[StepKey]) != "" }
