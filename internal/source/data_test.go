package source

import (
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

const database = `apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      securityContext: {runAsUser: 999}
      containers:
        - name: db
          image: postgres:15
          env: [{name: POSTGRES_USER, value: ada}, {name: POSTGRES_PASSWORD, valueFrom: {secretKeyRef: {name: db, key: password}}}]
---
apiVersion: v1
kind: Service
metadata: {name: database}
spec: {selector: {app: db}, ports: [{port: 5433}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: change, labels: {dayfly.dev/component: app}, annotations: {dayfly.dev/data-step: seed}}
spec:
  ttlSecondsAfterFinished: 5
  template: {spec: {restartPolicy: Never, containers: [{name: change, image: app:1, env: [{name: URL, value: "http://app"}]}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec: {containers: [{name: app, image: app:1, env: [{name: DB, value: "postgres://database:5433/x"}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: app}
spec: {selector: {app: app}, ports: [{port: 80}]}
`

func blueprintWith(data string) Folder {
	return files("all.yaml", database, "seed.sql", "select 1;", "dayfly.yaml", "apiVersion: dayfly.dev/v1alpha1\nkind: Blueprint\nspec: {components: {db: {data: "+data+"}}}\n")
}

// A step is of the component whose data it brings; its image follows the component whose label it has.
func TestDataStepsAreOfTheirComponent(t *testing.T) {
	t.Parallel()
	o := here
	o.Images = map[string]string{"app": ":2", "db": ":16"}
	r := must(t, blueprintWith("{class: pii, seed: {sql: seed.sql}, mask: {sql: ./seed.sql}, migrate: {job: change}}"), o)
	if got, want := strings.Join(outline(r), "\n"), "app: Service/app Deployment/app needs db\n"+
		"db: ConfigMap/db-mask ConfigMap/db-seed Service/database StatefulSet/db Job/change Job/db-mask Job/db-seed"; got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if len(r.Warnings) > 0 || r.Components[1].Data != Masked {
		t.Errorf("data are %q, warnings %q", r.Components[1].Data, r.Warnings)
	}
	jobs := map[string]*batchv1.Job{}
	for _, o := range r.Components[1].Objects {
		if o.GetKind() == "Job" {
			j := &batchv1.Job{}
			if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, j, true); err != nil {
				t.Fatal(err)
			}
			jobs[j.Name] = j
		}
	}
	seed, change := jobs["db-seed"], jobs["change"]
	if c := seed.Spec.Template.Spec.Containers[0]; c.Image != "postgres:16" || len(c.Env) != 4 || c.Env[2].Value != "database" || c.Env[3].Value != "5433" || *seed.Spec.Template.Spec.SecurityContext.RunAsUser != 999 {
		t.Errorf("the seed is %+v", seed.Spec.Template.Spec)
	}
	if change.Spec.Template.Spec.Containers[0].Image != "app:2" || change.Annotations[StepKey] != Migrate || change.Spec.TTLSecondsAfterFinished != nil {
		t.Errorf("the migration is %+v", change)
	}
	other := blueprintWith("{class: pii, seed: {sql: seed.sql}}")
	before := must(t, other, here).Digest()
	other["seed.sql"] = []byte("select 2;")
	if must(t, other, here).Digest() == before {
		t.Error("other SQL is the same Job")
	}
}

func TestWrongDataAreRefusedByName(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]string{
		"{seed: {job: change}}":                                     `the data of db have the class ""`,
		"{class: secret}":                                           `the class "secret"`,
		"{class: pii, seed: {job: chnge}}":                          `job/chnge, which does not exist: is it change?`,
		"{class: pii, seed: {}}":                                    "either a job or a file of sql",
		"{class: pii, seed: {job: change, sql: seed.sql}}":          "either a job or a file of sql",
		"{class: pii, seed: {sql: sed.sql}}":                        "there is no file sed.sql",
		"{class: pii, seed: {sql: ../seed.sql}}":                    "there is no file ../seed.sql",
		"{class: pii, seed: {job: change}, migrate: {job: change}}": "job/change is seed of the data of db, and migrate",
		"{class: pii, seeds: {job: change}}":                        `unknown field "seeds"`,
		"{class: pii}}, app: {data: {class: pii, seed: {job: app}}": "job/app, which does not exist",
	} {
		if got := refused(t, blueprintWith(data), here); !strings.Contains(got, want) {
			t.Errorf("%s:\n%s\nwant %q", data, got, want)
		}
	}
	f := blueprintWith("{class: pii, seed: {sql: seed.sql}}")
	f["seed.sql"] = make([]byte, maxSQL+1)
	if got := refused(t, f, here); !strings.Contains(got, "900 are allowed") {
		t.Error(got)
	}
	f = blueprintWith("{class: pii, seed: {sql: seed.sql}}")
	f["all.yaml"] = []byte(strings.ReplaceAll(database, "{app: db}, ports", "{app: none}, ports"))
	if got := refused(t, f, here); !strings.Contains(got, "a Service that leads to it") {
		t.Error(got)
	}
}

// A health check asks the pod whose address it is given, whatever its path says.
func TestAHealthCheckAsksNobodyElse(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/healthz": "http://10.0.0.1:80/healthz", "/a?b=c": "http://10.0.0.1:80/a?b=c", "//other/x": "http://10.0.0.1:80//other/x",
		"@169.254.169.254/latest": "", ":8080/x": "", "http://other/": "", "": "", "x": "", "/%zz": "", "*": "",
	} {
		got, err := (&Health{Path: path}).URL("10.0.0.1:80")
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v", path, got, err)
		}
	}
}

const cloned = `apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec: {containers: [{name: app, image: app:1, envFrom: [{secretRef: {name: db}}]}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: change}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: change, image: app:1, envFrom: [{secretRef: {name: db}}]}]}}}
---
apiVersion: v1
kind: Secret
metadata: {name: other, annotations: {dayfly.dev/data-clone: "{}"}}
`

func cloneWith(data, more string) Folder {
	return files("all.yaml", cloned+more, "dayfly.yaml", "apiVersion: dayfly.dev/v1alpha1\nkind: Blueprint\nspec: {components: {db: {data: "+data+"}}}\n")
}

// A clone is a component of its own, which whatever opens it needs.
func TestAClonesSecretIsOfItsComponent(t *testing.T) {
	t.Parallel()
	r := must(t, cloneWith("{class: masked, clone: {database: shop, secret: goldens}, migrate: {job: change}}", ""), here)
	if got, want := strings.Join(outline(r), "\n"), "(shared): Secret/other\napp: Deployment/app needs db\ndb: Secret/db Job/change"; got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	for _, c := range r.Components {
		for _, o := range c.Objects {
			clone := CloneOf(o)
			if o.GetName() == "db" && (clone == nil || *clone != Clone{"shop", "goldens"}) || o.GetName() != "db" && clone != nil {
				t.Errorf("%s opens a clone of %v", o.GetName(), clone)
			}
		}
	}
}

func TestWrongClonesAreRefusedByName(t *testing.T) {
	t.Parallel()
	const good = "{class: masked, clone: {database: shop, secret: goldens}}"
	for _, c := range []struct{ data, more, want string }{
		{"{class: masked, clone: {database: shop}}", "", "needs a database and a Secret"},
		{"{class: masked, clone: {template: shop, secret: goldens}}", "", `unknown field "template"`},
		{"{class: masked, clone: {database: shop, secret: goldens}, seed: {job: change}}", "", "which is their seed"},
		{"{class: masked, clone: {database: shop, secret: goldens}, migrate: {sql: dayfly.yaml}}", "", "the sql of db is for a component with one workload"},
		{good, "---\napiVersion: v1\nkind: Secret\nmetadata: {name: db}\n", "for which there is to be a Secret db: all.yaml"},
		{good, "---\n" + database, "it has no StatefulSet/db"},
	} {
		if got := refused(t, cloneWith(c.data, c.more), here); !strings.Contains(got, c.want) {
			t.Errorf("%s:\n%s\nwant %q", c.data, got, c.want)
		}
	}
}
