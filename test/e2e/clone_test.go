package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/share"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// databaseServer is a PostgreSQL outside of environments, whose databases are cloned.
type databaseServer struct {
	t  *testing.T
	ns string
}

func newDatabaseServer(t *testing.T) *databaseServer {
	t.Helper()
	s := &databaseServer{t, newNamespace(t)}
	labels := map[string]string{"app": "database"}
	ready := []string{"sh", "/database.sh", "ready"}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "database"}}
	d.Spec = appsv1.DeploymentSpec{Replicas: new(int32(1)), Selector: &metav1.LabelSelector{MatchLabels: labels}}
	d.Spec.Template.Labels = labels
	d.Spec.Template.Spec = corev1.PodSpec{
		TerminationGracePeriodSeconds: new(int64(0)), EnableServiceLinks: new(false), SecurityContext: &corev1.PodSecurityContext{FSGroup: new(int64(999))},
		Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
		Containers: []corev1.Container{{
			Name: "postgresql", Image: "docker.io/dayfly/shop-database:dev", ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"sh", "/database.sh"},
			Env: []corev1.EnvVar{{Name: "POSTGRES_USER", Value: "golden"}, {Name: "POSTGRES_DB", Value: "shop"}, {Name: "POSTGRES_PASSWORD", Value: sourcePassword},
				{Name: "PGDATA", Value: "/data/postgresql"}},
			VolumeMounts:   []corev1.VolumeMount{{Name: "data", MountPath: "/data"}},
			ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: ready}}, PeriodSeconds: 1},
		}},
	}
	must(t, cluster.Create(t.Context(), d))
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "database"}}
	svc.Spec = corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Name: "postgresql", Port: 5432, TargetPort: intstr.FromInt32(5432)}}}
	must(t, cluster.Create(t.Context(), svc))
	awaitDeployment(t, s.ns, "database")
	return s
}

// sql has a login do something in a database, and returns what that prints.
func (s *databaseServer) sql(login, database, text string) string {
	s.t.Helper()
	cmd := testcluster("kubectl", "-n", s.ns, "exec", "-i", "deploy/database", "--", "sh", "-ec",
		`PATH="$(ls -d /usr/lib/postgresql/*/bin):$PATH" psql --no-psqlrc --host /tmp --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 "$@"`, "psql", "--username", login, "--dbname", database)
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%s: %v", out, err)
	}
	return strings.TrimSpace(string(out))
}

// made are the databases and logins that were made for environments.
func (s *databaseServer) made() string {
	s.t.Helper()
	return s.sql("golden", "postgres", "select datname from pg_database where datname like 'env%' union select rolname from pg_roles where rolname like 'env%'")
}

// secret opens the server, from a home; the controller may read it once it is let.
func (s *databaseServer) secret(home, name, class string) {
	must(s.t, cluster.Create(s.t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: home, Name: name},
		StringData: map[string]string{"host": "database." + s.ns + ".svc", "username": "golden", "password": sourcePassword, "sslmode": "disable", "class": class}}))
}

// shopWithClone is the shop, whose orders are a clone of the database shop.
func shopWithClone(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.CopyFS(dir, os.DirFS("../../examples/shop")))
	for name, changes := range map[string][]string{
		"dayfly.yaml":                      {"seed: {sql: with-database/seed.sql} # once", "clone: {database: shop, secret: databases}"},
		"with-database/kustomization.yaml": {"  - database.yaml\n", ""},
		"with-database/migrate.yaml":       {"value: postgres://shop@orders-database/shop", "valueFrom: {secretKeyRef: {name: orders-database, key: DATABASE_URL}}", "key: password", "key: PGPASSWORD"},
		"with-database/orders.yaml":        {"value: postgres://shop@orders-database/shop", "valueFrom: {secretKeyRef: {name: orders-database, key: DATABASE_URL}}", "key: password", "key: PGPASSWORD"},
	} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		for i := 0; i < len(changes); i += 2 {
			if !strings.Contains(string(text), changes[i]) {
				t.Fatalf("%s has no %q", name, changes[i])
			}
		}
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(strings.NewReplacer(changes...).Replace(string(text))), 0o600))
	}
	return dir
}

// Environments have databases of their own on a server that is there, copies of one that is kept for it: who may not read the Secret
// that opens the server gets none, what one does no other sees, what is personal is not public, and at their end nothing is left on
// the server.
func TestEnvironmentsCloneADatabase(t *testing.T) {
	t.Parallel()
	home, l := newHome(t)
	v := newVisitor(t)
	s := newDatabaseServer(t)
	seed, err := os.ReadFile("../../examples/shop/with-database/seed.sql")
	must(t, err)
	if out := s.sql("golden", "shop", string(seed)); out != "" {
		t.Fatal(out)
	}
	s.secret(home, "databases", "pii")
	newPolicy(t, home, v1alpha1.EnvironmentPolicySpec{Guards: &v1alpha1.PolicyGuards{Egress: []v1alpha1.EgressRule{
		{Namespaces: map[string]string{corev1.LabelMetadataName: s.ns}, Ports: []v1alpha1.EgressPort{{Port: 5432}}}}}})
	dir := shopWithClone(t)

	if _, says, code := l.try("env", "create", "pr-1", "-f", dir, "--only", "orders", "--data-secret", "databases"); code != 5 || !strings.Contains(says, "may not have data cloned with the Secrets databases") {
		t.Errorf("with a Secret that one may not read: exit code %d: %s", code, says)
	}
	l.dayfly("env", "create", "pr-1", "-f", dir, "--only", "orders", "--public", "--wait=false")
	awaitState(t, home, "pr-1", "Failing", "which the environment does not name: dayfly env update pr-1 --data-secret databases")
	bindRules(t, home, user{name: l.who()}, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get"}, ResourceNames: []string{"databases"}})
	l.dayfly("env", "update", "pr-1", "--data-secret", "databases", "--wait=false")
	awaitState(t, home, "pr-1", "Failing", "kubectl create role dayfly-source-databases -n "+home)
	if made := s.made(); made != "" {
		t.Errorf("before the controller may read the Secret, there are %s", made)
	}
	(&sourceServer{t: t, ns: home}).let("databases")
	start := time.Now()
	l.dayfly("env", "update", "pr-1", "--data-secret", "databases")
	t.Logf("ready with a clone of its own %s after dayfly was let", time.Since(start).Round(10*time.Millisecond))
	l.dayfly("env", "create", "pr-2", "-f", dir, "--only", "orders", "--data-secret", "databases")

	opened := func(name string) (string, []string) {
		token, _ := shared(t, l, name)
		return addressOf(t, home, name, "orders") + "/orders", []string{share.Header, token}
	}
	one, first := opened("pr-1")
	two, second := opened("pr-2")
	checkTotal(t, "cloned", 100_000, v, one, first...)
	if code, text, err := v.try("POST", one, strings.NewReader(`{"product": "dew", "quantity": 2}`), append(first, "Content-Type", "application/json")...); err != nil || code != 201 {
		t.Fatalf("ordering: %d %s, %v", code, text, err)
	}
	checkTotal(t, "after an order", 100_001, v, one, first...)
	checkTotal(t, "the other one", 100_000, v, two, second...)
	if n := s.sql("golden", "shop", "select count(*) from orders"); n != "100000" {
		t.Errorf("the database that was cloned has %s orders", n)
	}
	own, others := getEnv(t, home, "pr-1").Status.Clones[0], getEnv(t, home, "pr-2").Status.Clones[0]
	if out := s.sql(own.Name, others.Name, "select 1"); !strings.Contains(out, "permission denied for database") {
		t.Errorf("the login of one opens the database of another: %s", out)
	}
	if code, text := v.get(one); code != 401 {
		t.Errorf("personal data are public: %d %s", code, text)
	}

	l.dayfly("env", "sleep", "pr-1")
	checkTotal(t, "after a sleep", 100_001, v, one, first...)
	l.dayfly("env", "delete", "pr-1")
	if made := s.made(); made != others.Name {
		t.Errorf("after the end of one there are %s", made)
	}
	kubectl(t, "-n", home, "delete", "rolebinding", "dayfly-source-databases")
	l.dayfly("env", "delete", "pr-2", "--wait=false")
	awaitState(t, home, "pr-2", "Blocked", "database "+others.Name+" on database."+s.ns+".svc:5432: the data of orders-database: dayfly may not read Secret databases")
	kubectl(t, "-n", home, "create", "rolebinding", "dayfly-source-databases", "--role", "dayfly-source-databases", "--serviceaccount", systemNamespace+":controller")
	l.dayfly("env", "delete", "pr-2")
	if made := s.made(); made != "" {
		t.Errorf("after the end of all there are %s", made)
	}
}
