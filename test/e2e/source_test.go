package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/environment"
	"dayfly.dev/dayfly/internal/kube"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	sourceserverImage = "docker.io/dayfly/sourceserver:dev"
	sourcePassword    = "s3cret-of-the-source"
)

// sourceServer is a pod that serves repositories of Git and OCI artifacts, by https, to who knows the password.
type sourceServer struct {
	t    *testing.T
	ns   string
	host string
	ca   string
}

func newSourceServer(t *testing.T, ns string) *sourceServer {
	t.Helper()
	s := &sourceServer{t: t, ns: ns, host: "sources." + ns + ".svc"}
	labels := map[string]string{"app": "sources"}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "sources"}}
	d.Spec = appsv1.DeploymentSpec{Replicas: new(int32(1)), Selector: &metav1.LabelSelector{MatchLabels: labels}}
	d.Spec.Template.Labels = labels
	d.Spec.Template.Spec = corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(0)), EnableServiceLinks: new(false), Containers: []corev1.Container{{
		Name: "server", Image: sourceserverImage, ImagePullPolicy: corev1.PullIfNotPresent, Args: []string{"serve", "-host", s.host}, Env: []corev1.EnvVar{{Name: "PASSWORD", Value: sourcePassword}},
		ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8443)}}, PeriodSeconds: 1},
	}}}
	must(t, cluster.Create(t.Context(), d))
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "sources"}}
	svc.Spec = corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Name: "https", Port: 443, TargetPort: intstr.FromInt32(8443)}}}
	must(t, cluster.Create(t.Context(), svc))
	awaitDeployment(t, ns, "sources")
	s.ca = s.sh("", "cat /tmp/sources/ca.crt")
	s.sh("", "mkdir -p /tmp/sources/team/shop/deploy && cd /tmp/sources/team/shop && git init -q -b main && git config user.name t && git config user.email t@example.com")
	return s
}

// who is the user whose laptop it is, as the cluster knows them.
func (l *laptop) who() string {
	l.t.Helper()
	c, err := kube.Open(kube.Options{Kubeconfig: strings.TrimPrefix(l.env[len(l.env)-1], "KUBECONFIG=")})
	must(l.t, err)
	me, err := c.Whoami(l.t.Context())
	must(l.t, err)
	return me.Username
}

// sh runs a script in the server's pod and returns what it prints.
func (s *sourceServer) sh(in, script string) string {
	s.t.Helper()
	cmd := testcluster("kubectl", "-n", s.ns, "exec", "-i", "deploy/sources", "--", "sh", "-ec", script)
	cmd.Stdin = strings.NewReader(in)
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := err.(*exec.ExitError); ok {
			out = append(out, exit.Stderr...)
		}
		s.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit has the repository's folder deploy make a component that says who it is, and returns the commit.
func (s *sourceServer) commit(name string) string {
	s.t.Helper()
	return s.sh(appManifest("web", "", "command: [/testapp, serve, -name, "+name+"], readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}"),
		"cd /tmp/sources/team/shop && cat > deploy/web.yaml && git add -A && git commit -q -m "+name+" && git rev-parse HEAD")
}

// secret opens the server; the controller may read it once it is let.
func (s *sourceServer) secret(name, password string) {
	s.t.Helper()
	docker := fmt.Sprintf(`{"auths":{%q:{"username":"ada","password":%q}}}`, s.host, password)
	must(s.t, cluster.Create(s.t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: name},
		StringData: map[string]string{"username": "ada", "password": password, "ca.crt": s.ca, ".dockerconfigjson": docker}}))
}

func (s *sourceServer) let(secret string) {
	kubectl(s.t, "-n", s.ns, "create", "role", "dayfly-source-"+secret, "--verb", "get", "--resource", "secrets", "--resource-name", secret)
	kubectl(s.t, "-n", s.ns, "create", "rolebinding", "dayfly-source-"+secret, "--role", "dayfly-source-"+secret, "--serviceaccount", systemNamespace+":controller")
}

// An environment is made from a repository of Git that wants credentials, and stays at its commit until somebody asks for where the
// branch is now; it goes back without asking the server; one is made from an OCI artifact likewise. Sources that cannot be had are
// told of, each with what to do, and keep nobody waiting.
func TestEnvironmentsFromSources(t *testing.T) {
	t.Parallel()
	home, l := newHome(t)
	s := newSourceServer(t, home)
	first := s.commit("one")
	s.secret("git", sourcePassword)
	s.secret("wrong", "s3cret-wrong-password")
	url := "https://" + s.host + "/team/shop"
	if _, says, code := l.try("env", "create", "pr-1", "--git", url, "--git-secret", "git", "--path", "deploy"); code != 5 || !strings.Contains(says, "may not have the source opened with Secret git") {
		t.Errorf("with a Secret that one may not read: exit code %d: %s", code, says)
	}
	bindRules(t, home, user{name: l.who()}, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get"}, ResourceNames: []string{"git", "wrong"}})
	if _, says, code := l.try("env", "create", "pr-1", "--git", url, "--git-secret", "git", "--path", "deploy"); code != 1 || !strings.Contains(says, "kubectl create role dayfly-source-git -n "+home) {
		t.Errorf("before the controller may read the Secret: exit code %d: %s", code, says)
	}
	s.let("git")
	s.let("wrong")
	for name, args := range map[string][]string{
		"away":  {"--git", "https://192.0.2.1/x"},
		"gone":  {"--git", "https://nobody." + home + ".svc/x"},
		"own":   {"--git", "https://kubernetes.default.svc/x"},
		"wrong": {"--git", url, "--git-secret", "wrong"},
	} {
		l.dayfly(append([]string{"env", "create", name, "--wait=false"}, args...)...)
	}
	start := time.Now()
	l.dayfly("env", "update", "pr-1", "--refresh")
	t.Logf("beside four that cannot be had, one was ready after %s", time.Since(start).Round(10*time.Millisecond))
	lives := "env-" + home + "-pr-1"
	deployClient(t, lives)
	answers := func(want string) {
		t.Helper()
		if got := get(t, lives, "http://web/").ServedBy; !strings.Contains(got, want) {
			t.Errorf("%q answers, not %q", got, want)
		}
	}
	answers("one")
	e := getEnv(t, home, "pr-1")
	if st := e.Status.Source; st == nil || st.Commit != first || st.FetchedAt == nil {
		t.Errorf("source: %+v", st)
	}
	if _, says, code := l.try("stage", "run", "test", "--git", url, "--git-secret", "git", "--path", "deploy", "--", "true"); code != 0 {
		t.Errorf("stage: exit code %d: %s", code, says)
	}
	second := s.commit("two")
	l.dayfly("env", "update", "pr-1", "--sleep-after", "1h") // the branch has moved, and nobody has asked for that
	answers("one")
	l.dayfly("env", "update", "pr-1", "--refresh")
	answers("two")
	if out := l.dayfly("env", "show", "pr-1"); !strings.Contains(out, url+", folder deploy, commit "+second) {
		t.Errorf("show:\n%s", out)
	}
	if out := l.dayfly("env", "history", "pr-1"); !strings.Contains(out, first[:12]) || !strings.Contains(out, second[:12]) {
		t.Errorf("history:\n%s", out)
	}
	for name, want := range map[string][2]string{
		"away":  {environment.ReasonSourceUnavailable, "Git source unreachable: https://192.0.2.1/x: "},
		"gone":  {environment.ReasonSourceUnavailable, "no such host"},
		"own":   {environment.ReasonInvalid, "is not connected to"},
		"wrong": {environment.ReasonSourceUnavailable, "the server refuses the credentials in Secret wrong"},
	} {
		await(t, promise(15*time.Second), name+" says why", func() error {
			for _, c := range getEnv(t, home, name).Status.Conditions {
				if c.Type == v1alpha1.ConditionReady && c.Reason == want[0] && strings.Contains(c.Message, want[1]) && !strings.Contains(c.Message, "s3cret") {
					return nil
				}
			}
			return fmt.Errorf("%+v", getEnv(t, home, name).Status.Conditions)
		})
	}
	digest := s.sh("", "sourceserver push team/shop:v1 /tmp/sources/team/shop/deploy")
	l.dayfly("env", "create", "pr-2", "--oci", "oci://"+s.host+"/team/shop:v1", "--oci-secret", "git")
	if st := getEnv(t, home, "pr-2").Status.Source; st.Digest != digest {
		t.Errorf("source: %+v, want %s", st, digest)
	}
	kubectl(t, "-n", home, "scale", "deploy/sources", "--replicas", "0")
	if _, says, code := l.try("env", "rollback", "pr-1"); code != 0 {
		t.Errorf("rollback while the server is away: exit code %d: %s", code, says)
	}
	answers("one")
	if g := getEnv(t, home, "pr-1").Spec.Source.Git; g.Ref != first {
		t.Errorf("after the rollback, its source is %+v", g)
	}
	if _, says, code := l.try("env", "update", "pr-1", "--ref", "main", "--wait=false"); code != 0 {
		t.Errorf("exit code %d: %s", code, says)
	}
	answers("one")
	if logs := kubectl(t, "-n", systemNamespace, "logs", "-l", "app.kubernetes.io/component=controller", "--tail=-1"); strings.Contains(logs, sourcePassword) || strings.Contains(logs, "s3cret-wrong") {
		t.Error("the controller's log holds a password")
	}
	l.dayfly("env", "delete", "pr-1", "pr-2", "away", "gone", "own", "wrong")
	var blueprints v1alpha1.BlueprintList
	await(t, promise(10*time.Second), "no blueprint is left", func() error {
		must(t, cluster.List(context.Background(), &blueprints, client.InNamespace(home)))
		if n := len(blueprints.Items); n > 0 {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
}
