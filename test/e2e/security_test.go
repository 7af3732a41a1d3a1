package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

const system = "dayfly-system"

// intercept runs dayfly intercept in the background of a laptop and returns once it is in force.
func (l *laptop) intercept(session, service string, port int, more ...string) {
	l.t.Helper()
	l.dayfly(append([]string{"intercept", "service", service, "-r", "80", "-l", fmt.Sprint(port), "--session", session, "--drain", "1s", "--detach"}, more...)...)
	l.t.Cleanup(func() { _, _, _ = l.try("session", "close", session) })
}

// The role dayfly-developer in one namespace is enough for everything there, and for nothing elsewhere.
func TestDeveloperRoleReachesOneNamespaceAndNoOther(t *testing.T) {
	t.Parallel()
	ns, other := newNamespace(t), newNamespace(t)
	deployWeb(t, ns, 1)
	deployClient(t, ns)
	alice := newUser(t, "alice")
	bind(t, ns, "dayfly-developer", alice)
	before := snapshot(t, ns)

	l := newLaptop(t, ns).as(alice.kubeconfig)
	l.intercept("ada", "web", l.answer("laptop"))
	if r := get(t, ns, "http://web/", "x-dayfly-session: ada"); r.ServedBy != "laptop" {
		t.Errorf("served by %s", r.ServedBy)
	}
	for _, args := range [][]string{{"session", "list"}, {"session", "show", "ada"}} {
		if out := l.dayfly(args...); !strings.Contains(out, alice.name) {
			t.Errorf("%s does not name the owner:\n%s", args, out)
		}
	}
	must(t, filepath.WalkDir(l.state, func(path string, d fs.DirEntry, err error) error {
		if err == nil && path != l.state {
			checkMode(t, path) // the session's key is in there
		}
		return err
	}))
	if out := l.dayfly("session", "close", "ada"); !strings.Contains(out, "service/web: as it was") {
		t.Errorf("no proof in:\n%s", out)
	}
	checkRestored(t, ns, before)

	elsewhere := newLaptop(t, other).as(alice.kubeconfig)
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"intercept", "service", "web", "-l", "1"}, `cannot get resource "services"`},
		{[]string{"intercept", "service", "web", "--explain"}, `cannot get resource "services"`},
		{[]string{"session", "list"}, `cannot list resource "sessions"`},
		{[]string{"session", "list", "-A"}, `cannot list resource "sessions"`},
		{[]string{"session", "show", "x"}, `cannot get resource "sessions"`},
		{[]string{"session", "close", "x"}, `cannot get resource "sessions"`},
		{[]string{"session", "close", "--all"}, `cannot list resource "sessions"`},
	} {
		_, text, code := elsewhere.try(c.args...)
		if code != 5 || !strings.Contains(text, c.says) || !strings.Contains(text, "fix:") {
			t.Errorf("dayfly %s: exit code %d, want 5 and %q:\n%s", strings.Join(c.args, " "), code, c.says, text)
		}
	}
	web := v1alpha1.Intercept{Service: "web", Port: 80, LaptopPort: 1}
	s, _ := newSession(t, other, "ada", alice, web)
	checkDenied(t, "session elsewhere", alice.api.Create(t.Context(), s), `cannot create resource "sessions"`)
	for _, list := range []client.ObjectList{&corev1.SecretList{}, &corev1.ConfigMapList{}, &corev1.PodList{}, &corev1.ServiceList{}, &v1alpha1.SessionList{}} {
		for _, in := range []string{other, system, ""} {
			checkDenied(t, fmt.Sprintf("list %T in %q", list, in), alice.api.List(t.Context(), list, client.InNamespace(in)), "cannot list resource")
		}
	}
	checkDenied(t, "list secrets", alice.api.List(t.Context(), &corev1.SecretList{}, client.InNamespace(ns)), `cannot list resource "secrets"`)
	checkDenied(t, "the authority's key", alice.api.Get(t.Context(), client.ObjectKey{Namespace: system, Name: "dayfly-ca"}, &corev1.Secret{}), `cannot get resource "secrets"`)
	checkDenied(t, "change a service", alice.api.Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "x"}}), `cannot create resource "services"`)
}

// All that anybody may do in dayfly's namespace is to knock at the routers.
func TestAnybodyMayKnockAtRoutersAndNothingElse(t *testing.T) {
	t.Parallel()
	u := newUser(t, "nobody")
	cs, err := kubernetes.NewForConfig(u.api.Config)
	must(t, err)
	review := &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: system}}
	review, err = cs.AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(), review, metav1.CreateOptions{})
	must(t, err)
	for _, r := range review.Status.ResourceRules {
		text, _ := json.Marshal(r)
		self := strings.Contains(string(text), `"selfsubject`)
		knock := strings.HasPrefix(string(text), `{"verbs":["get"],"apiGroups":[""],"resources":["services/proxy"],"resourceNames":["https:router-0:connect"`)
		if !self && !knock {
			t.Errorf("a user without any role may: %s", text)
		}
	}
	checkDenied(t, "get service", u.api.Get(t.Context(), client.ObjectKey{Namespace: system, Name: "router-0"}, &corev1.Service{}))
	for _, name := range []string{"router-0", "router-0:connect", "http:router-0:connect", "https:router-0:", "https:router-0:8443", "https:controller:control", "marker"} {
		err := cs.CoreV1().RESTClient().Get().Namespace(system).Resource("services").Name(name).SubResource("proxy").Suffix("tunnel").Do(t.Context()).Error()
		checkDenied(t, "proxy to "+name, err, "services/proxy")
	}
	for _, verb := range []string{"POST", "PUT", "DELETE"} {
		err := cs.CoreV1().RESTClient().Verb(verb).Namespace(system).Resource("services").Name("https:router-0:connect").SubResource("proxy").Do(t.Context()).Error()
		checkDenied(t, verb+" through the proxy", err, "services/proxy")
	}
}

// A role can name one Service: that one can be intercepted, no other, and not all of it.
func TestRoleForOneServiceInterceptsOnlyThat(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	deployClient(t, ns)
	must(t, cluster.Create(t.Context(), serviceFor(ns, "second", "web")))
	bob := newUser(t, "bob")
	bindRules(t, ns, bob,
		rbacv1.PolicyRule{APIGroups: []string{"dayfly.dev"}, Resources: []string{"sessions"}, Verbs: []string{"get", "list", "watch", "create", "update", "delete"}},
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"services"}, Verbs: []string{"get", "list"}},
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"services/intercept"}, ResourceNames: []string{"web"}, Verbs: []string{"create"}})
	l := newLaptop(t, ns).as(bob.kubeconfig)
	port := l.answer("laptop")
	l.intercept("bob", "web", port)
	if r := get(t, ns, "http://web/", "x-dayfly-session: bob"); r.ServedBy != "laptop" {
		t.Errorf("served by %s", r.ServedBy)
	}
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"second", "--session", "bob"}, bob.name + " may not intercept one of these services: the verb create on services/intercept is missing"},
		{[]string{"second", "--session", "new"}, bob.name + " may not intercept one of these services: the verb create on services/intercept is missing"},
		{[]string{"web", "-r", "9090", "--all", "--session", "bob"}, bob.name + " may not take all traffic of one of these services: the verb create on services/interceptall is missing"},
		{[]string{"web", "-r", "9090", "--all", "--session", "new"}, bob.name + " may not take all traffic of one of these services: the verb create on services/interceptall is missing"},
	} {
		_, text, code := l.try(append([]string{"intercept", "-l", fmt.Sprint(port), "--detach"}, c.args...)...)
		if code != 5 || !strings.Contains(text, c.says) {
			t.Errorf("%s: exit code %d, want 5 and %q:\n%s", c.args, code, c.says, text)
		}
	}
	if all := sessions(t, ns); len(all) != 1 || len(all[0].Spec.Intercepts) != 1 {
		t.Errorf("sessions: %+v", all)
	}
}

// One session may take as many services as the schema allows, by a rule or wholly, and each is asked for.
func TestASessionTakesManyServices(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	whole := newUser(t, "whole")
	bind(t, ns, "dayfly-developer", whole)
	const most = 16
	var rules, all []v1alpha1.Intercept
	for i := range most {
		rules = append(rules, v1alpha1.Intercept{Service: fmt.Sprint("s", i), Port: 80, LaptopPort: 1})
		all = append(all, v1alpha1.Intercept{Service: fmt.Sprint("s", i), Port: 80, LaptopPort: 1, All: true})
	}
	one := newUser(t, "one") // may take all but the last
	verbs := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"services/intercept", "services/interceptall"}, Verbs: []string{"create"}}
	for i := range most - 1 {
		verbs.ResourceNames = append(verbs.ResourceNames, fmt.Sprint("s", i))
	}
	bindRules(t, ns, one, verbs, rbacv1.PolicyRule{APIGroups: []string{"dayfly.dev"}, Resources: []string{"sessions"}, Verbs: []string{"get", "create", "delete"}})
	for right, list := range map[string][]v1alpha1.Intercept{"services/intercept": rules, "services/interceptall": all} {
		s, _ := newSession(t, ns, "all-of-them", whole, list...)
		must(t, whole.api.Create(t.Context(), s))
		must(t, whole.api.Delete(t.Context(), s))
		s, _ = newSession(t, ns, "but-the-last", one, list[:most-1]...)
		must(t, one.api.Create(t.Context(), s))
		must(t, one.api.Delete(t.Context(), s))
		s, _ = newSession(t, ns, "too-many", one, list...)
		checkDenied(t, "one that may not be taken", one.api.Create(t.Context(), s), "the verb create on "+right+" is missing")
		await(t, promise(10*time.Second), "the sessions are gone", func() error {
			if left := sessions(t, ns); len(left) > 0 {
				return fmt.Errorf("%s", left[0].Name)
			}
			return nil
		})
	}
}

func serviceFor(ns, name, app string) *corev1.Service {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	svc.Spec = corev1.ServiceSpec{Selector: map[string]string{"app": app}, Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("http")}}}
	return svc
}

// A colleague with the same role can neither make a session in my name, nor change, take or delete mine; an admin may
// delete it, and not even a right to everything in the namespace makes it theirs.
func TestNobodyTouchesTheSessionOfAnother(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	alice, mallory, admin, broad := newUser(t, "alice", "team"), newUser(t, "mallory"), newUser(t, "admin"), newUser(t, "broad")
	bind(t, ns, "dayfly-developer", alice)
	bind(t, ns, "dayfly-developer", mallory)
	bind(t, ns, "dayfly-admin", admin)
	everything := rbacv1.PolicyRule{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}}
	bindRules(t, ns, broad, everything)
	hers, _ := newSession(t, ns, "hers", alice)
	must(t, alice.api.Create(t.Context(), hers))
	_, malloryKey := newSession(t, ns, "x", mallory)
	malloryPublic, err := malloryKey.Public()
	must(t, err)

	for what, change := range map[string]func(*v1alpha1.Session){
		"in alice's name":              func(s *v1alpha1.Session) { s.Spec.Owner = hers.Spec.Owner },
		"in alice's name, own groups":  func(s *v1alpha1.Session) { s.Spec.Owner.Username = alice.name },
		"with a group that is not his": func(s *v1alpha1.Session) { s.Spec.Owner.Groups = append(s.Spec.Owner.Groups, "system:masters") },
		"with a group left out":        func(s *v1alpha1.Session) { s.Spec.Owner.Groups = nil },
	} {
		s, _ := newSession(t, ns, "his", mallory)
		change(s)
		checkDenied(t, "create "+what, mallory.api.Create(t.Context(), s), "spec.owner must be the caller, name and groups: "+mallory.name)
	}
	for what, change := range map[string]func(*v1alpha1.Session){
		"the owner":     func(s *v1alpha1.Session) { s.Spec.Owner.Username, s.Spec.Owner.Groups = mallory.name, nil },
		"owner and key": func(s *v1alpha1.Session) { s.Spec.Owner.Username, s.Spec.PublicKey = mallory.name, malloryPublic },
		"the key":       func(s *v1alpha1.Session) { s.Spec.PublicKey = malloryPublic },
		"the lease":     func(s *v1alpha1.Session) { s.Spec.Lease.Duration = 10 * time.Second },
		"the intercepts": func(s *v1alpha1.Session) {
			s.Spec.Intercepts = []v1alpha1.Intercept{{Service: "web", Port: 80, LaptopPort: 1}}
		},
		"finalizers": func(s *v1alpha1.Session) { s.Finalizers = append(s.Finalizers, "example.test/stuck") },
		"labels":     func(s *v1alpha1.Session) { s.Labels = map[string]string{"a": "b"} },
		"an owner to follow": func(s *v1alpha1.Session) {
			s.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "gone", UID: "00000000-0000-0000-0000-000000000000"}}
		},
	} {
		for how, try := range map[string]func(changed, live *v1alpha1.Session) error{
			"update": func(changed, _ *v1alpha1.Session) error { return mallory.api.Update(t.Context(), changed) },
			"patch": func(changed, live *v1alpha1.Session) error {
				return mallory.api.Patch(t.Context(), changed, client.MergeFrom(live))
			},
			"apply": func(changed, _ *v1alpha1.Session) error {
				changed.ManagedFields, changed.APIVersion, changed.Kind = nil, v1alpha1.GroupVersion.String(), "Session"
				return mallory.api.Patch(t.Context(), changed, client.Apply, client.FieldOwner("m"), client.ForceOwnership) //nolint:staticcheck
			},
		} {
			await(t, 10*time.Second, how+" "+what, func() error { // the controller writes meanwhile
				live := &v1alpha1.Session{}
				must(t, mallory.api.Get(t.Context(), client.ObjectKeyFromObject(hers), live))
				changed := live.DeepCopy()
				change(changed)
				if err := try(changed, live); apierrors.IsConflict(err) {
					return err
				} else {
					checkDenied(t, how+" "+what, err)
				}
				return nil
			})
		}
	}
	live := &v1alpha1.Session{}
	must(t, cluster.Get(t.Context(), client.ObjectKeyFromObject(hers), live))
	checkDenied(t, "delete", mallory.api.Delete(t.Context(), live.DeepCopy()), "this session belongs to "+alice.name)
	for _, u := range []user{mallory, alice, broad} { // alice neither: the laptop trusts the routers that the status names
		status := live.DeepCopy()
		status.Status.Tunnel = &v1alpha1.Tunnel{Namespace: ns, Routers: []string{"evil"}, CA: "evil"}
		checkDenied(t, "status as "+u.name, u.api.Status().Patch(t.Context(), status, client.MergeFrom(live)))
	}
	taken := live.DeepCopy()
	taken.Spec.Owner, err = broad.api.Whoami(t.Context())
	must(t, err)
	taken.Spec.PublicKey = malloryPublic
	checkDenied(t, "take it with a right to everything", broad.api.Patch(t.Context(), taken, client.MergeFrom(live)), "this session belongs to "+alice.name)

	// What mallory may not intercept herself does not come with an update either.
	carol := newUser(t, "carol")
	bindRules(t, ns, carol, rbacv1.PolicyRule{APIGroups: []string{"dayfly.dev"}, Resources: []string{"sessions"}, Verbs: []string{"get", "create", "update", "patch", "delete", "deletecollection"}})
	own, _ := newSession(t, ns, "carols", carol)
	must(t, carol.api.Create(t.Context(), own))
	more := own.DeepCopy()
	more.Spec.Intercepts = []v1alpha1.Intercept{{Service: "web", Port: 80, LaptopPort: 1}}
	checkDenied(t, "add an intercept", carol.api.Patch(t.Context(), more, client.MergeFrom(own)), "the verb create on services/intercept is missing")
	checkDenied(t, "delete all", carol.api.DeleteAllOf(t.Context(), &v1alpha1.Session{}, client.InNamespace(ns)), "this session belongs to")
	if s := (&v1alpha1.Session{}); cluster.Get(t.Context(), client.ObjectKeyFromObject(hers), s) != nil || !s.DeletionTimestamp.IsZero() {
		t.Errorf("alice's session was deleted")
	}

	must(t, admin.api.Delete(t.Context(), live.DeepCopy()))
	await(t, promise(6*time.Second), "the admin closed it", func() error {
		if err := cluster.Get(t.Context(), client.ObjectKeyFromObject(hers), &v1alpha1.Session{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("still there: %v", err)
		}
		return nil
	})
}

// The record of what is altered is the controller's: a right to everything in the namespace is not enough to write it.
func TestOnlyTheControllerWritesAlterations(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	alice, broad := newUser(t, "alice"), newUser(t, "broad")
	bind(t, ns, "dayfly-developer", alice)
	bindRules(t, ns, broad, rbacv1.PolicyRule{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}})
	l := newLaptop(t, ns).as(alice.kubeconfig)
	l.intercept("ada", "web", l.answer("laptop"))
	var list v1alpha1.AlterationList
	must(t, alice.api.List(t.Context(), &list, client.InNamespace(ns))) // people may read it
	if len(list.Items) != 1 {
		t.Fatalf("%d alterations", len(list.Items))
	}
	const says = "only dayfly's controller writes the record of what is altered"
	have := &list.Items[0]
	evil := have.DeepCopy()
	evil.ObjectMeta = metav1.ObjectMeta{Namespace: ns, Name: "service-evil"}
	evil.Spec.Target.Name = "evil"
	checkDenied(t, "create", broad.api.Create(t.Context(), evil), says)
	changed := have.DeepCopy()
	changed.Spec.Ports[0].Before = intstr.FromInt32(22)
	checkDenied(t, "patch", broad.api.Patch(t.Context(), changed, client.MergeFrom(have)), says)
	changed = have.DeepCopy()
	changed.Finalizers = nil
	checkDenied(t, "take the finalizer off", broad.api.Patch(t.Context(), changed, client.MergeFrom(have)), says)
	changed = have.DeepCopy()
	changed.Status.Ports = nil
	checkDenied(t, "status", broad.api.Status().Patch(t.Context(), changed, client.MergeFrom(have)), says)
	checkDenied(t, "delete", broad.api.Delete(t.Context(), have.DeepCopy()), says)
	checkDenied(t, "delete all", broad.api.DeleteAllOf(t.Context(), &v1alpha1.Alteration{}, client.InNamespace(ns)), says)
	checkDenied(t, "delete with alice's role", alice.api.Delete(t.Context(), have.DeepCopy()), `cannot delete resource "alterations"`)
}

// A right that is taken away ends what was done with it: the controller asks again every 30 s.
func TestRightTakenAwayEndsTheIntercept(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	deployClient(t, ns)
	alice := newUser(t, "alice")
	binding := bind(t, ns, "dayfly-developer", alice)
	before := snapshot(t, ns)
	l := newLaptop(t, ns).as(alice.kubeconfig)
	cmd := l.command("intercept", "service", "web", "-r", "80", "-l", fmt.Sprint(l.answer("laptop")), "--session", "ada", "--drain", "1s")
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	await(t, time.Minute, "the laptop answers", func() error {
		if r := get(t, ns, "http://web/", "x-dayfly-session: ada"); r.ServedBy != "laptop" {
			return fmt.Errorf("served by %s", r.ServedBy)
		}
		return nil
	})
	must(t, cluster.Delete(t.Context(), binding))
	start := time.Now()
	checkRefused(t, ns, "ada", promise(35*time.Second), "Forbidden", "may not create services/intercept for service web")
	t.Logf("refused after %s", time.Since(start).Round(time.Second))
	await(t, promise(5*time.Second), "the original answers", func() error {
		if r := get(t, ns, "http://web/", "x-dayfly-session: ada"); r.ServedBy == "laptop" {
			return fmt.Errorf("still the laptop")
		}
		return nil
	})
	// Nothing is altered any more; the session itself, which does nothing, can still be closed by an admin.
	must(t, cluster.DeleteAllOf(t.Context(), &v1alpha1.Session{}, client.InNamespace(ns)))
	for k := range before {
		if strings.HasPrefix(k, "RoleBinding/") {
			delete(before, k)
		}
	}
	checkRestored(t, ns, before)
}

// checkRefused waits until the first intercept of a session is refused, for this reason and with this message.
func checkRefused(t *testing.T, ns, session string, within time.Duration, reason, message string) {
	t.Helper()
	await(t, within, "refused: "+reason, func() error {
		s := &v1alpha1.Session{}
		if err := cluster.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: session}, s); err != nil {
			return err
		}
		if st := s.Status.Intercepts; len(st) == 0 || st[0].State != v1alpha1.StateRefused || st[0].Reason != reason || !strings.Contains(st[0].Message, message) {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
}

// Whoever may delete a namespace can, whatever sessions others have in it.
func TestDeletionOfANamespaceIsNotHeldUp(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	alice, owner := newUser(t, "alice"), newUser(t, "owner")
	bind(t, ns, "dayfly-developer", alice)
	bindRules(t, ns, owner, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"namespaces"}, Verbs: []string{"get", "delete"}})
	l := newLaptop(t, ns).as(alice.kubeconfig)
	l.intercept("ada", "web", l.answer("laptop"))
	must(t, owner.api.Delete(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}))
	await(t, promise(30*time.Second), "namespace gone", func() error {
		err := cluster.Get(t.Context(), client.ObjectKey{Name: ns}, &corev1.Namespace{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("still there (%v)", err)
	})
}

// Garbage collection is not held up either: a session that belongs to an object goes with it.
func TestGarbageCollectionOfASessionIsNotHeldUp(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	alice := newUser(t, "alice")
	bind(t, ns, "dayfly-developer", alice)
	parent := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "parent"}}
	must(t, cluster.Create(t.Context(), parent))
	s, _ := newSession(t, ns, "child", alice)
	s.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: parent.Name, UID: parent.UID, BlockOwnerDeletion: new(false)}}
	must(t, alice.api.Create(t.Context(), s))
	must(t, cluster.Delete(t.Context(), parent, client.PropagationPolicy(metav1.DeletePropagationForeground)))
	await(t, promise(10*time.Second), "the session is gone", func() error {
		if err := cluster.Get(t.Context(), client.ObjectKeyFromObject(s), s); !apierrors.IsNotFound(err) {
			return fmt.Errorf("still there: %v", err)
		}
		return nil
	})
}

// A network policy that a capture would break ends it, whichever comes first: what binds the callers is theirs, and not added to.
func TestNetworkPolicyRefusesOrEndsACapture(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	alice := newUser(t, "alice")
	bind(t, ns, "dayfly-developer", alice)
	before := snapshot(t, ns)
	l := newLaptop(t, ns).as(alice.kubeconfig)
	port := l.answer("laptop")
	policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "strict"}}
	policy.Spec = networkingv1.NetworkPolicySpec{PodSelector: *app("client"), PolicyTypes: []networkingv1.PolicyType{"Egress"},
		Egress: []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{PodSelector: app("web")}}}}}
	const says = "lets pods out to service web but not to dayfly's routers"

	must(t, cluster.Create(t.Context(), policy.DeepCopy()))
	_, text, code := l.try("intercept", "service", "web", "-r", "80", "-l", fmt.Sprint(port), "--session", "ada", "--detach")
	if code != 7 || !strings.Contains(text, says) || !strings.Contains(text, "strict") {
		t.Errorf("policy first: exit code %d, want 7 and %q:\n%s", code, says, text)
	}
	must(t, cluster.Delete(t.Context(), policy.DeepCopy()))
	l.intercept("late", "web", port)
	must(t, cluster.Create(t.Context(), policy.DeepCopy()))
	start := time.Now()
	checkRefused(t, ns, "late", promise(5*time.Second), "NetworkPolicy", says)
	await(t, promise(5*time.Second), "the port leads to its own pods", func() error {
		svc := &corev1.Service{}
		if err := cluster.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "web"}, svc); err != nil {
			return err
		}
		if svc.Spec.Ports[0].TargetPort.String() != "http" {
			return fmt.Errorf("targetPort %s", svc.Spec.Ports[0].TargetPort.String())
		}
		return nil
	})
	t.Logf("released %s after the policy", time.Since(start).Round(100*time.Millisecond))
	must(t, cluster.Delete(t.Context(), policy.DeepCopy()))
	l.intercept("again", "web", port)
	for _, left := range sessions(t, ns) {
		l.dayfly("session", "close", left.Name)
	}
	checkRestored(t, ns, before)
}

// What merely looks like dayfly's is neither used, changed nor deleted.
func TestForeignObjectsAreNeitherAdoptedNorDeleted(t *testing.T) {
	t.Parallel()
	slice := func(ns, name string, labels map[string]string) *discoveryv1.EndpointSlice {
		s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: labels}, AddressType: discoveryv1.AddressTypeIPv4}
		s.Ports = []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080)), Protocol: new(corev1.ProtocolTCP)}}
		s.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{"203.0.113.7"}}}
		return s
	}
	for name, c := range map[string]struct {
		object func(ns string) client.Object
		says   string
	}{
		"a service of the origin's name": {func(ns string) client.Object { return serviceFor(ns, "web-dayfly-origin", "web") }, "service web-dayfly-origin is in the way"},
		"a service with our label": {func(ns string) client.Object {
			s := serviceFor(ns, "web-dayfly-origin", "web")
			s.Labels = map[string]string{"dayfly.dev/managed": "dayfly", "dayfly.dev/origin-of": "web"}
			return s
		}, "service web-dayfly-origin is in the way"},
		"a slice that says we manage it": {func(ns string) client.Object {
			return slice(ns, "theirs", map[string]string{"kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": "dayfly.dev"})
		}, "endpoint slice theirs of service web says that dayfly manages it"},
		"a slice made by hand": {func(ns string) client.Object {
			return slice(ns, "theirs", map[string]string{"kubernetes.io/service-name": "web"})
		}, "endpoint slice theirs of service web is not made from its selector"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			deployWeb(t, ns, 1)
			l := newLaptop(t, ns)
			port := l.answer("laptop")
			foreign := c.object(ns)
			must(t, cluster.Create(t.Context(), foreign))
			before := snapshot(t, ns)
			_, text, code := l.try("intercept", "service", "web", "-r", "80", "-l", fmt.Sprint(port), "--session", "ada", "--detach")
			if code != 7 || !strings.Contains(text, c.says) {
				t.Errorf("exit code %d, want 7 and %q:\n%s", code, c.says, text)
			}
			checkRestored(t, ns, before)

			// The same while captured: released, left alone, and the session can be closed.
			must(t, cluster.Delete(t.Context(), foreign))
			await(t, promise(5*time.Second), "gone", func() error {
				if err := cluster.Get(t.Context(), client.ObjectKeyFromObject(foreign), foreign.DeepCopyObject().(client.Object)); !apierrors.IsNotFound(err) {
					return fmt.Errorf("still there: %v", err)
				}
				return nil
			})
			l.intercept("late", "web", port)
			again := c.object(ns)
			if strings.Contains(again.GetName(), "origin") {
				must(t, client.IgnoreNotFound(cluster.Delete(t.Context(), c.object(ns)))) // ours
			}
			if err := cluster.Create(t.Context(), again); err != nil && !apierrors.IsAlreadyExists(err) {
				t.Fatal(err) // AlreadyExists: the controller was quicker
			}
			out := l.dayfly("session", "close", "late")
			if !strings.Contains(out, "service/web: as it was") {
				t.Errorf("no proof in:\n%s", out)
			}
			left := cluster.Get(t.Context(), client.ObjectKeyFromObject(again), again)
			if again.GetUID() != "" && left != nil {
				t.Errorf("what is not dayfly's was deleted: %v", left)
			}
		})
	}
}

// A Service that somebody labelled as dayfly's is left alone, and says why.
func TestServiceLabelledAsOursIsRefused(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	svc := serviceFor(ns, "web", "web")
	svc.Labels = map[string]string{"dayfly.dev/managed": "dayfly"}
	must(t, cluster.Create(t.Context(), svc))
	_, text, code := newLaptop(t, ns).try("intercept", "service", "web", "-l", "1")
	if code != 7 || !strings.Contains(text, "is made by dayfly") {
		t.Errorf("exit code %d:\n%s", code, text)
	}
	must(t, cluster.Get(t.Context(), client.ObjectKeyFromObject(svc), svc))
}

// Even the accounts of dayfly itself may not do what RBAC alone would let them.
func TestAdmissionBindsTheAccountsOfDayfly(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	l := newLaptop(t, ns)
	l.intercept("ada", "web", l.answer("laptop"))
	const account = "system:serviceaccount:" + system + ":"
	groups := []string{"system:serviceaccounts", "system:serviceaccounts:" + system, "system:authenticated"}
	router, controller := impersonate(t, account+"router", groups...), impersonate(t, account+"controller", groups...)
	ctx := t.Context()

	list, err := router.DiscoveryV1().EndpointSlices(ns).List(ctx, metav1.ListOptions{})
	must(t, err)
	for i := range list.Items {
		s := &list.Items[i]
		ours := s.Labels["endpointslice.kubernetes.io/managed-by"] == "dayfly.dev"
		for what, change := range map[string]func(*discoveryv1.EndpointSlice){
			"add an endpoint": func(s *discoveryv1.EndpointSlice) {
				s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{"203.0.113.7"}})
			},
			"replace an endpoint": func(s *discoveryv1.EndpointSlice) {
				s.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{"203.0.113.7"}}}
			},
			"remove every endpoint": func(s *discoveryv1.EndpointSlice) { s.Endpoints = []discoveryv1.Endpoint{} },
			"another port":          func(s *discoveryv1.EndpointSlice) { s.Ports[0].Port = new(int32(22)) },
			"another label":         func(s *discoveryv1.EndpointSlice) { s.Labels["kubernetes.io/service-name"] = "evil" },
			"an owner that is gone": func(s *discoveryv1.EndpointSlice) {
				s.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: "gone", UID: "00000000-0000-0000-0000-000000000000"}}
			},
		} {
			if len(s.Ports) == 0 || len(s.Endpoints) == 0 {
				continue
			}
			changed := s.DeepCopy()
			change(changed)
			_, err := router.DiscoveryV1().EndpointSlices(ns).Update(ctx, changed, metav1.UpdateOptions{DryRun: []string{"All"}})
			checkDenied(t, "router: "+what+" in "+s.Name, err, "a router may only take endpoints out of dayfly's slices")
		}
		if len(s.Endpoints) > 1 {
			changed := s.DeepCopy()
			changed.Endpoints = changed.Endpoints[1:]
			_, err := router.DiscoveryV1().EndpointSlices(ns).Update(ctx, changed, metav1.UpdateOptions{DryRun: []string{"All"}})
			if ours {
				must(t, err)
			} else {
				checkDenied(t, "router: remove one of "+s.Name, err)
			}
		}
		checkDenied(t, "router: delete", router.DiscoveryV1().EndpointSlices(ns).Delete(ctx, s.Name, metav1.DeleteOptions{}))
		if !ours && s.Labels["dayfly.dev/origin-of"] == "" {
			checkDenied(t, "controller: delete", controller.DiscoveryV1().EndpointSlices(ns).Delete(ctx, s.Name, metav1.DeleteOptions{DryRun: []string{"All"}}))
		}
	}
	_, err = router.CoreV1().Services(ns).List(ctx, metav1.ListOptions{})
	checkDenied(t, "router: list services", err)
	_, err = router.CoreV1().Secrets(system).Get(ctx, "dayfly-ca", metav1.GetOptions{})
	checkDenied(t, "router: the authority's key", err)

	const says = "of objects that are not its own, dayfly's controller changes nothing but where a Service's ports lead"
	must(t, cluster.Create(ctx, serviceFor(ns, "plain", "web")))
	plain, err := controller.CoreV1().Services(ns).Get(ctx, "plain", metav1.GetOptions{})
	must(t, err)
	for what, change := range map[string]func(*corev1.Service){
		"selector":     func(s *corev1.Service) { s.Spec.Selector = map[string]string{"app": "evil"} },
		"type":         func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort },
		"external IPs": func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"203.0.113.7"} },
		"affinity":     func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP },
		"unready":      func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true },
		"labels":       func(s *corev1.Service) { s.Labels = map[string]string{"dayfly.dev/managed": "dayfly"} },
		"annotations":  func(s *corev1.Service) { s.Annotations = map[string]string{"a": "b"} },
		"finalizers":   func(s *corev1.Service) { s.Finalizers = []string{"example.test/stuck"} },
		"owner": func(s *corev1.Service) {
			s.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: "gone", UID: "00000000-0000-0000-0000-000000000000"}}
		},
		"one more port": func(s *corev1.Service) { s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "x", Port: 81}) },
		"port number":   func(s *corev1.Service) { s.Spec.Ports[0].Port = 81 },
	} {
		changed := plain.DeepCopy()
		change(changed)
		_, err := controller.CoreV1().Services(ns).Update(ctx, changed, metav1.UpdateOptions{DryRun: []string{"All"}})
		checkDenied(t, "controller: "+what, err, says)
	}
	changed := plain.DeepCopy()
	changed.Spec.Ports[0].TargetPort = intstr.FromString("elsewhere")
	_, err = controller.CoreV1().Services(ns).Update(ctx, changed, metav1.UpdateOptions{DryRun: []string{"All"}})
	must(t, err) // this is what it is for
	checkDenied(t, "controller: delete", controller.CoreV1().Services(ns).Delete(ctx, "plain", metav1.DeleteOptions{DryRun: []string{"All"}}), says)
	_, err = controller.CoreV1().Services(ns).Create(ctx, serviceFor(ns, "new", "web"), metav1.CreateOptions{DryRun: []string{"All"}})
	checkDenied(t, "controller: create", err, says)
	labelled := serviceFor(ns, "new", "web")
	labelled.Labels = map[string]string{"dayfly.dev/managed": "dayfly"}
	_, err = controller.CoreV1().Services(ns).Create(ctx, labelled, metav1.CreateOptions{DryRun: []string{"All"}})
	checkDenied(t, "controller: create one with a cluster IP", err, "are headless")
	checkPoliciesOfTheController(t, ns, controller)
	for _, in := range []string{ns, "kube-system", system} {
		_, err := controller.CoreV1().Secrets(in).List(ctx, metav1.ListOptions{})
		checkDenied(t, "controller: list secrets", err)
	}
	// A controller that was taken over cannot rewrite what people asked for.
	var s v1alpha1.Session
	must(t, cluster.Get(ctx, client.ObjectKey{Namespace: ns, Name: "ada"}, &s))
	err = controller.RESTClient().Patch(types.MergePatchType).AbsPath("/apis/dayfly.dev/v1alpha1/namespaces/" + ns + "/sessions/ada").
		Body([]byte(`{"spec":{"intercepts":[]}}`)).Do(ctx).Error()
	checkDenied(t, "controller: change a session", err, "this session belongs to "+s.Spec.Owner.Username)
}

// checkPoliciesOfTheController tries to make, change and delete network policies that are not what the controller makes them for.
func checkPoliciesOfTheController(t *testing.T, ns string, controller *kubernetes.Clientset) {
	t.Helper()
	api, dry := controller.NetworkingV1().NetworkPolicies(ns), []string{"All"}
	good := strict(ns)
	good.Name, good.Labels = "ours", map[string]string{"dayfly.dev/managed": "dayfly"}
	good.OwnerReferences = []metav1.OwnerReference{{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy", Name: "strict", UID: "00000000-0000-0000-0000-000000000000"}}
	good.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{Ports: []networkingv1.NetworkPolicyPort{{Port: new(intstr.FromInt32(8080))}}, From: []networkingv1.NetworkPolicyPeer{{
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": system}},
		PodSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{"app.kubernetes.io/name": "dayfly", "app.kubernetes.io/component": "router"}},
	}}}}
	_, err := api.Create(t.Context(), good, metav1.CreateOptions{DryRun: dry})
	must(t, err) // this is what it is for
	for what, change := range map[string]func(*networkingv1.NetworkPolicy){
		"without the label":  func(p *networkingv1.NetworkPolicy) { p.Labels = nil },
		"of no other policy": func(p *networkingv1.NetworkPolicy) { p.OwnerReferences = nil },
		"of every pod":       func(p *networkingv1.NetworkPolicy) { p.Spec.PodSelector = metav1.LabelSelector{} },
		"for every port":     func(p *networkingv1.NetworkPolicy) { p.Spec.Ingress[0].Ports = nil },
		"from everybody":     func(p *networkingv1.NetworkPolicy) { p.Spec.Ingress[0].From = nil },
		"from one more": func(p *networkingv1.NetworkPolicy) {
			p.Spec.Ingress[0].From = append(p.Spec.Ingress[0].From, networkingv1.NetworkPolicyPeer{PodSelector: app("evil")})
		},
		"from every pod of dayfly's namespace": func(p *networkingv1.NetworkPolicy) { p.Spec.Ingress[0].From[0].PodSelector = nil },
		"from another namespace": func(p *networkingv1.NetworkPolicy) {
			p.Spec.Ingress[0].From[0].NamespaceSelector = &metav1.LabelSelector{}
		},
		"for what leaves": func(p *networkingv1.NetworkPolicy) {
			p.Spec.PolicyTypes = []networkingv1.PolicyType{"Ingress", "Egress"}
		},
	} {
		bad := good.DeepCopy()
		change(bad)
		_, err := api.Create(t.Context(), bad, metav1.CreateOptions{DryRun: dry})
		checkDenied(t, "controller: a network policy "+what, err)
	}
	theirs := strict(ns, "client")
	theirs.Spec.PodSelector = *app("nobody")
	must(t, cluster.Create(t.Context(), theirs))
	checkDenied(t, "controller: delete another's network policy", api.Delete(t.Context(), "strict", metav1.DeleteOptions{DryRun: dry}))
	_, err = api.Update(t.Context(), theirs, metav1.UpdateOptions{DryRun: dry})
	checkDenied(t, "controller: change a network policy", err)
}

// Every rule of the kinds' schemas refuses its example, in words that say what is wrong.
func TestInvalidSessionsAreRejected(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	me, err := cluster.Whoami(t.Context())
	must(t, err)
	files, err := filepath.Glob("testdata/invalid/*.yaml")
	must(t, err)
	if len(files) == 0 {
		t.Fatal("no examples")
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		must(t, err)
		first, _, _ := strings.Cut(string(data), "\n")
		want, ok := strings.CutPrefix(first, "# ")
		if !ok {
			t.Errorf("%s: the first line is not the expected message", file)
			continue
		}
		var object map[string]any
		must(t, yaml.Unmarshal(data, &object))
		if spec := object["spec"].(map[string]any); spec["owner"] == "me" { // what is rejected is not the owner
			spec["owner"] = me
		}
		body, err := json.Marshal(object)
		must(t, err)
		at := "/apis/dayfly.dev/v1alpha1/namespaces/" + ns + "/" + strings.ToLower(object["kind"].(string)) + "s"
		if object["kind"] == "EnvironmentPolicy" {
			at = "/apis/dayfly.dev/v1alpha1/environmentpolicies"
		}
		err = clients(t).RESTClient().Post().AbsPath(at).Body(body).Do(t.Context()).Error()
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want Invalid and %q", file, err, want)
		}
	}
}

// The logs of controller and routers hold no key, no token, and nothing of the requests that pass.
func TestLogsHoldNoSecrets(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	deployClient(t, ns)
	l := newLaptop(t, ns)
	l.intercept("ada", "web", l.answer("laptop"))
	get(t, ns, "http://web/?q=s3cret-query", "x-dayfly-session: ada", "authorization: Bearer s3cret-header", "cookie: id=s3cret-cookie")
	var secret corev1.Secret
	must(t, cluster.Get(context.Background(), client.ObjectKey{Namespace: system, Name: "dayfly-ca"}, &secret))
	key := strings.Split(string(secret.Data["tls.key"]), "\n")[1]
	logs := kubectl(t, "-n", system, "logs", "-l", "app.kubernetes.io/name=dayfly", "--tail=-1", "--prefix")
	for _, text := range []string{"PRIVATE KEY", "Bearer ", "eyJhbGciOi", "s3cret", key} {
		if i := strings.Index(logs, text); i >= 0 {
			t.Errorf("the logs hold %q: %.200s", text, logs[max(0, i-100):])
		}
	}
}

// A namespace that is closed by its label has no intercepts: those in force end, new ones are refused, and Kubernetes' own role
// admin in it does not open it.
func TestClosedNamespaceRefusesAndEndsIntercepts(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	alice, admin := newUser(t, "alice"), newUser(t, "admin")
	bind(t, ns, "dayfly-developer", alice)
	bind(t, ns, "admin", admin)
	before := snapshot(t, ns)
	l := newLaptop(t, ns).as(alice.kubeconfig)
	port := l.answer("laptop")
	l.intercept("ada", "web", port)

	label(t, ns, "dayfly.dev/intercept", "disabled")
	const says = "is closed to intercepts by its label dayfly.dev/intercept=disabled: whoever may update the namespace itself can take it off"
	start := time.Now()
	checkRefused(t, ns, "ada", promise(3*time.Second), "NamespaceClosed", says)
	t.Logf("ended %s after the label", time.Since(start).Round(time.Millisecond))
	_, text, code := l.try("intercept", "service", "web", "-r", "9090", "-l", fmt.Sprint(port), "--session", "new", "--detach")
	if code != 5 || !strings.Contains(text, says) {
		t.Errorf("exit code %d, want 5 and %q:\n%s", code, says, text)
	}
	s, _ := newSession(t, ns, "bare", alice, v1alpha1.Intercept{Service: "web", Port: 80, LaptopPort: 1})
	checkDenied(t, "create", alice.api.Create(t.Context(), s), says)
	open := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}
	checkDenied(t, "open it with the role admin", admin.api.Patch(t.Context(), open, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"dayfly.dev/intercept":null}}}`))))
	var live v1alpha1.Session // what is there may still be changed, as long as nothing is added
	must(t, cluster.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "ada"}, &live))
	fewer := live.DeepCopy()
	fewer.Spec.Intercepts = nil
	must(t, alice.api.Patch(t.Context(), fewer, client.MergeFrom(&live)))
	l.dayfly("session", "close", "ada")
	checkRestored(t, ns, before)

	label(t, ns, "dayfly.dev/intercept", "")
	l.intercept("again", "web", port)
}

func label(t *testing.T, ns, key, value string) {
	t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%q}}}`, key, value)
	must(t, cluster.Patch(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, client.RawPatch(types.MergePatchType, []byte(patch))))
}

// Sessions beyond the bounds stand refused, with the numbers; nothing is altered for them, also if they come all at once.
func TestSessionsBeyondTheBoundsAlterNothing(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	alice := newUser(t, "alice")
	bind(t, ns, "dayfly-developer", alice)
	const most, more = 50, 10
	errs := make(chan error, most+more)
	for i := range most + more {
		s, _ := newSession(t, ns, fmt.Sprintf("s-%02d", i), alice, v1alpha1.Intercept{Service: "web", Port: 80, LaptopPort: 1})
		go func() { errs <- alice.api.Create(t.Context(), s) }()
	}
	for range most + more {
		must(t, <-errs)
	}
	await(t, promise(5*time.Second), "those beyond the bound are refused", func() error {
		refused := 0
		for _, s := range sessions(t, ns) {
			if st := s.Status.Intercepts; len(st) == 1 && st[0].Reason == "TooMany" {
				refused++
				if want := fmt.Sprintf("%s has %d sessions in namespace %s already, and may have %d", alice.name, most, ns, most); !strings.Contains(st[0].Message, want) {
					t.Fatalf("%q does not say %q", st[0].Message, want)
				}
			}
		}
		if refused != more {
			return fmt.Errorf("%d refused, want %d", refused, more)
		}
		return nil
	})
	var all v1alpha1.AlterationList
	must(t, cluster.List(t.Context(), &all, client.InNamespace(ns)))
	if len(all.Items) > 0 {
		t.Errorf("%d alterations", len(all.Items))
	}
}
