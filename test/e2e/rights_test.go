package e2e

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// rightsTable is testdata/rights.yaml.
type rightsTable struct {
	May []struct {
		Verbs, Resource, Name, Namespace, Who string
	} `json:"may"`
	Does []struct{ Deed, Who string } `json:"does"`
}

// subject is somebody whose rights are asked for, and tried.
type subject struct {
	rest.ImpersonationConfig
	api  client.Client
	core *kubernetes.Clientset
}

// subjectsOf are all those of the table, with their roles in ns.
func subjectsOf(t *testing.T, ns string) map[string]subject {
	t.Helper()
	authenticated := []string{"system:authenticated"}
	out := map[string]subject{}
	for name, who := range map[string]rest.ImpersonationConfig{
		"nobody": {Groups: authenticated}, "viewer": {Groups: authenticated}, "developer": {Groups: authenticated}, "one": {Groups: authenticated},
		"admin": {Groups: authenticated}, "namespace-admin": {Groups: authenticated}, "maker": {Groups: authenticated},
		"cluster-admin": {Groups: []string{"system:authenticated", "system:masters"}},
		"pod":           {UserName: "system:serviceaccount:" + ns + ":default", Groups: []string{"system:authenticated", "system:serviceaccounts", "system:serviceaccounts:" + ns}},
	} {
		if who.UserName == "" {
			who.UserName = name + "-of-" + ns
		}
		config := rest.CopyConfig(cluster.Config)
		config.Impersonate = who
		api, err := client.New(config, client.Options{Scheme: cluster.Scheme()})
		must(t, err)
		out[name] = subject{who, api, impersonate(t, who.UserName, who.Groups...)}
	}
	for name, role := range map[string]string{"viewer": "dayfly-viewer", "developer": "dayfly-developer", "admin": "dayfly-admin", "namespace-admin": "admin", "maker": "dayfly-environments"} {
		bind(t, ns, role, user{name: out[name].UserName})
	}
	var developer rbacv1.ClusterRole // of one Service: as deploy/developer.yaml says how
	must(t, cluster.Get(t.Context(), client.ObjectKey{Name: "dayfly-developer"}, &developer))
	var rules []rbacv1.PolicyRule
	for _, r := range developer.Rules {
		if slices.Contains(r.Resources, "services/interceptall") {
			continue
		}
		if slices.Contains(r.Resources, "services/intercept") {
			r.ResourceNames = []string{"web"}
		}
		rules = append(rules, r)
	}
	bindRules(t, ns, user{name: out["one"].UserName}, rules...)
	return out
}

// Every verb of every kind, for everybody: as the table says, both when the API server is asked and when it is tried.
func TestRightsAreAsTheTableSays(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	data, err := os.ReadFile("testdata/rights.yaml")
	must(t, err)
	var table rightsTable
	must(t, yaml.UnmarshalStrict(data, &table))
	subjects := subjectsOf(t, ns)
	asked := 0
	for _, row := range table.May {
		resource, sub, _ := strings.Cut(row.Resource, "/")
		for verb := range strings.FieldsSeq(row.Verbs) {
			what := authorizationv1.ResourceAttributes{Namespace: ns, Verb: verb, Resource: resource, Subresource: sub, Name: row.Name}
			if row.Namespace != "" {
				what.Namespace = row.Namespace
			}
			if resource != "services" {
				what.Group = "dayfly.dev"
			}
			for name, s := range subjects {
				asked++
				want := slices.Contains(strings.Fields(row.Who), name)
				if got := others(t, s, what); got != want {
					t.Errorf("SubjectAccessReview: %s may %s %s %q: %v, want %v", name, verb, row.Resource, row.Name, got, want)
				}
				if got := self(t, s, what); got != want {
					t.Errorf("SelfSubjectAccessReview: %s may %s %s %q: %v, want %v", name, verb, row.Resource, row.Name, got, want)
				}
			}
		}
	}
	deeds := deedsIn(t, ns)
	for _, row := range table.Does {
		do := deeds[row.Deed]
		if do == nil {
			t.Errorf("nobody knows how to: %s", row.Deed)
			continue
		}
		delete(deeds, row.Deed)
		for name, s := range subjects {
			err := do(s)
			if want := slices.Contains(strings.Fields(row.Who), name); want && err != nil || !want && !apierrors.IsForbidden(err) {
				t.Errorf("%s: %s: %v, want allowed: %v", row.Deed, name, err, want)
			}
		}
	}
	for left := range deeds {
		t.Errorf("the table does not say who may: %s", left)
	}
	t.Logf("%d questions, each asked twice; %d deeds", asked, len(table.Does)*len(subjects))
}

func others(t *testing.T, s subject, what authorizationv1.ResourceAttributes) bool {
	t.Helper()
	r := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: s.UserName, Groups: s.Groups, ResourceAttributes: &what}}
	must(t, cluster.Create(t.Context(), r))
	return r.Status.Allowed
}

func self(t *testing.T, s subject, what authorizationv1.ResourceAttributes) bool {
	t.Helper()
	r := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &what}}
	must(t, s.api.Create(t.Context(), r))
	return r.Status.Allowed
}

// deedsIn are what is tried, on a session of alice's and its alteration. They pass authorization and admission and then leave
// no trace.
func deedsIn(t *testing.T, ns string) map[string]func(subject) error {
	t.Helper()
	alice := newUser(t, "alice")
	bind(t, ns, "dayfly-developer", alice)
	l := newLaptop(t, ns).as(alice.kubeconfig)
	l.intercept("hers", "web", l.answer("laptop"))
	hers := &v1alpha1.Session{}
	must(t, cluster.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "hers"}, hers))
	var alterations v1alpha1.AlterationList
	must(t, cluster.List(t.Context(), &alterations, client.InNamespace(ns)))
	alteration := &alterations.Items[0]
	ctx := t.Context()
	merge := func(text string) client.Patch { return client.RawPatch(types.MergePatchType, []byte(text)) }
	create := func(s subject, i v1alpha1.Intercept, change func(*v1alpha1.Session)) error {
		mine, _ := newSession(t, ns, "his", alice, i)
		mine.Spec.Owner = v1alpha1.Owner{Username: s.UserName, Groups: s.Groups}
		change(mine)
		return s.api.Create(ctx, mine, client.DryRunAll)
	}
	nothing := func(*v1alpha1.Session) {}
	hersOr := func(owner string) *v1alpha1.Environment {
		e := &v1alpha1.Environment{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "e"}}
		e.Spec.Owner.Username, e.Spec.Blueprint, e.Spec.TTL.Duration = owner, "e-000000000000", time.Hour
		return e
	}
	made := hersOr(whoAmI(t))
	made.Name = "hers"
	must(t, cluster.Create(ctx, made))
	clones := hersOr(made.Spec.Owner.Username)
	clones.Name, clones.Spec.DataSecrets = "clones", []string{"databases"}
	must(t, cluster.Create(ctx, clones))
	fresh := alteration.DeepCopy()
	fresh.ObjectMeta = metav1.ObjectMeta{Namespace: ns, Name: "service-evil"}
	return map[string]func(subject) error{
		"intercept web by rule": func(s subject) error {
			return create(s, v1alpha1.Intercept{Service: "web", Port: 80, LaptopPort: 1}, nothing)
		},
		"intercept other by rule": func(s subject) error {
			return create(s, v1alpha1.Intercept{Service: "other", Port: 80, LaptopPort: 1}, nothing)
		},
		"intercept all of web": func(s subject) error {
			return create(s, v1alpha1.Intercept{Service: "web", Port: 80, LaptopPort: 1, All: true}, nothing)
		},
		"make a session in the name of another": func(s subject) error {
			return create(s, v1alpha1.Intercept{Service: "web", Port: 80, LaptopPort: 1}, func(x *v1alpha1.Session) { x.Spec.Owner = hers.Spec.Owner })
		},
		"change the session of another": func(s subject) error {
			return s.api.Patch(ctx, hers.DeepCopy(), merge(`{"spec":{"host":"evil"}}`), client.DryRunAll)
		},
		"label the session of another": func(s subject) error {
			return s.api.Patch(ctx, hers.DeepCopy(), merge(`{"metadata":{"labels":{"a":"b"}}}`), client.DryRunAll)
		},
		"delete the session of another": func(s subject) error { return s.api.Delete(ctx, hers.DeepCopy(), client.DryRunAll) },
		"delete all sessions": func(s subject) error {
			return s.api.DeleteAllOf(ctx, &v1alpha1.Session{}, client.InNamespace(ns), client.DryRunAll)
		},
		"write the status of a session": func(s subject) error {
			return s.api.Status().Patch(ctx, hers.DeepCopy(), merge(`{"status":{"summary":"evil"}}`), client.DryRunAll)
		},
		"make an alteration": func(s subject) error { return s.api.Create(ctx, fresh.DeepCopy(), client.DryRunAll) },
		"change an alteration": func(s subject) error {
			return s.api.Patch(ctx, alteration.DeepCopy(), merge(`{"spec":{"origin":"evil"}}`), client.DryRunAll)
		},
		"write the status of an alteration": func(s subject) error {
			return s.api.Status().Patch(ctx, alteration.DeepCopy(), merge(`{"status":{"summary":"evil"}}`), client.DryRunAll)
		},
		"have a source opened with a Secret": func(s subject) error {
			e := hersOr(s.UserName)
			e.Spec.Blueprint, e.Spec.Source = "", &v1alpha1.Source{Git: &v1alpha1.GitSource{URL: "https://example.com/x", SourceFolder: v1alpha1.SourceFolder{SecretName: "git"}}}
			return s.api.Create(ctx, e, client.DryRunAll)
		},
		"have the source of another opened with a Secret": func(s subject) error {
			return s.api.Patch(ctx, made.DeepCopy(), merge(`{"spec":{"blueprint":null,"source":{"oci":{"ref":"example.com/x:v1","secretName":"registry"}}}}`), client.DryRunAll)
		},
		"have data cloned with a Secret": func(s subject) error {
			e := hersOr(s.UserName)
			e.Spec.DataSecrets = []string{"databases"}
			return s.api.Create(ctx, e, client.DryRunAll)
		},
		"change what an environment that clones data consists of": func(s subject) error {
			return s.api.Patch(ctx, clones.DeepCopy(), merge(`{"spec":{"blueprint":"evil-000000000000"}}`), client.DryRunAll)
		},
		"change when an environment that clones data sleeps": func(s subject) error {
			return s.api.Patch(ctx, clones.DeepCopy(), merge(`{"spec":{"sleepAfter":"1h"}}`), client.DryRunAll)
		},
		"delete an alteration": func(s subject) error { return s.api.Delete(ctx, alteration.DeepCopy(), client.DryRunAll) },
		"delete all alterations": func(s subject) error {
			return s.api.DeleteAllOf(ctx, &v1alpha1.Alteration{}, client.InNamespace(ns), client.DryRunAll)
		},
		"make an environment": func(s subject) error { return s.api.Create(ctx, hersOr(s.UserName), client.DryRunAll) },
		"make an environment in the name of another": func(s subject) error {
			return s.api.Create(ctx, hersOr("somebody"), client.DryRunAll)
		},
		"take the environment of another": func(s subject) error {
			err := s.api.Patch(ctx, made.DeepCopy(), merge(`{"spec":{"owner":{"username":"evil"}}}`), client.DryRunAll)
			if apierrors.IsInvalid(err) { // the owner does not change, whoever asks
				return apierrors.NewForbidden(schema.GroupResource{}, made.Name, err)
			}
			return err
		},
		"write the status of an environment": func(s subject) error {
			return s.api.Status().Patch(ctx, made.DeepCopy(), merge(`{"status":{"namespace":"evil"}}`), client.DryRunAll)
		},
		"knock at a router": func(s subject) error {
			err := s.core.CoreV1().RESTClient().Get().Namespace(system).Resource("services").Name("https:router-0:connect").SubResource("proxy").Suffix("tunnel").
				Do(ctx).Error()
			if answer, ok := errors.AsType[*apierrors.StatusError](err); ok && answer.ErrStatus.Code == http.StatusUpgradeRequired {
				return nil // the router has answered: that it wants a WebSocket
			}
			return err
		},
	}
}

// What the table calls dayfly's roles are aggregated as their names say: whoever may look, or rules, in a namespace need not be given more.
func TestRolesOfDayflyAreAggregated(t *testing.T) {
	t.Parallel()
	for role, has := range map[string][]string{"view": {"sessions", "alterations", "environments"}, "admin": {"sessions/others"}} {
		var r rbacv1.ClusterRole
		must(t, cluster.Get(t.Context(), client.ObjectKey{Name: role}, &r))
		data, err := json.Marshal(r.Rules)
		must(t, err)
		for _, resource := range has {
			if !strings.Contains(string(data), `"`+resource+`"`) {
				t.Errorf("role %s has nothing about %s", role, resource)
			}
		}
		if strings.Contains(string(data), "services/intercept") {
			t.Errorf("role %s may intercept: this is to be given, not to come with another right", role)
		}
	}
}
