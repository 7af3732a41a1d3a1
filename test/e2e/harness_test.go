// Package e2e holds the stories: what users were promised, on a real cluster. `make test` brings the cluster up and
// installs dayfly; each story has a namespace of its own and runs beside the others unless it shakes dayfly itself.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/kube"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// What `make test` has built, beside the checkout's root.
var (
	binDayfly      = binary("dayfly")
	binTestapp     = binary("testapp")
	binTestcluster = binary("testcluster")
)

const testappImage = "docker.io/dayfly/testapp:dev"

var cluster *kube.Cluster

func binary(name string) string {
	path, err := filepath.Abs(filepath.Join("..", "..", "bin", name))
	if err != nil {
		panic(err)
	}
	return path
}

func TestMain(m *testing.M) {
	var err error
	if cluster, err = kube.Open(kube.Options{}); err == nil {
		err = cluster.Ping(context.Background())
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "no cluster to test on (%s): run make test, or make cluster and export KUBECONFIG\n", err)
		if os.Getenv("CI") == "true" {
			os.Exit(1)
		}
		os.Exit(0)
	}
	go watchMachine()
	os.Exit(m.Run())
}

// promise is how long a test waits for what is promised within d: machines that run tests are slow.
func promise(d time.Duration) time.Duration { return 5 * d }

// newNamespace makes a namespace that goes with the test.
func newNamespace(t *testing.T) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"}}
	must(t, cluster.Create(t.Context(), ns))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("namespace %s:\n%s", ns.Name, kubectlOutput("-n", ns.Name, "get", "all,endpointslices,sessions,alterations", "-o", "wide"))
		}
		_ = cluster.Delete(context.Background(), ns)
	})
	return ns.Name
}

// deployWeb runs testapp as Deployment and Service `web`: port 80 (http) and port 9090 (echo).
func deployWeb(t *testing.T, ns string, replicas int32) {
	t.Helper()
	deploy(t, ns, "web", replicas, []string{"serve", "-linger", "3s"})
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}}
	svc.Spec = corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{
		{Name: "http", Port: 80, TargetPort: intstr.FromString("http")}, {Name: "echo", Port: 9090, TargetPort: intstr.FromInt32(9090)},
	}}
	must(t, cluster.Create(t.Context(), svc))
	awaitDeployment(t, ns, "web")
	awaitEndpoints(t, ns, "web", int(replicas))
}

// awaitEndpoints waits until Kubernetes has written down so many ready endpoints of a service: it does so after the pods are ready.
func awaitEndpoints(t *testing.T, ns, service string, ready int) {
	t.Helper()
	await(t, time.Minute, "endpoints of "+service, func() error {
		var list discoveryv1.EndpointSliceList
		if err := cluster.List(t.Context(), &list, client.InNamespace(ns), client.MatchingLabels{discoveryv1.LabelServiceName: service}); err != nil {
			return err
		}
		n := 0
		for _, s := range list.Items {
			for _, e := range s.Endpoints {
				if e.Conditions.Ready != nil && *e.Conditions.Ready {
					n++
				}
			}
		}
		if n < ready {
			return fmt.Errorf("%d of %d are ready", n, ready)
		}
		return cluster.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: service}, &corev1.Endpoints{}) // what came before slices is written too, later
	})
}

// deployClient runs a pod that in(pod) can run testapp in.
func deployClient(t *testing.T, ns string) {
	t.Helper()
	deploy(t, ns, "client", 1, []string{"serve"})
	awaitDeployment(t, ns, "client")
}

func deploy(t *testing.T, ns, name string, replicas int32, args []string) {
	t.Helper()
	must(t, cluster.Create(t.Context(), deployment(ns, name, replicas, args)))
}

func deployment(ns, name string, replicas int32, args []string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	d.Spec = appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels}}
	d.Spec.Template.Labels = labels
	d.Spec.Template.Spec = corev1.PodSpec{
		TerminationGracePeriodSeconds: new(int64(10)), EnableServiceLinks: new(false),
		Containers: []corev1.Container{{
			Name: "app", Image: testappImage, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"/testapp"}, Args: args,
			Ports:          []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}, {Name: "echo", ContainerPort: 9090}},
			ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromString("http")}}, PeriodSeconds: 1},
		}},
	}
	return d
}

func awaitDeployment(t *testing.T, ns, name string) {
	t.Helper()
	await(t, 2*time.Minute, "deployment "+name, func() error {
		var d appsv1.Deployment
		if err := cluster.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: name}, &d); err != nil {
			return err
		}
		if d.Status.AvailableReplicas < *d.Spec.Replicas || d.Status.ObservedGeneration < d.Generation {
			return fmt.Errorf("%d of %d replicas", d.Status.AvailableReplicas, *d.Spec.Replicas)
		}
		return nil
	})
}

// await polls until check returns nil, or fails the test with its last error.
func await(t *testing.T, most time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(most)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %v", what, most, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// laptop is one user's machine: a state folder of its own, and processes that answer.
type laptop struct {
	t     *testing.T
	ns    string
	state string
	env   []string
}

func newLaptop(t *testing.T, ns string) *laptop {
	t.Helper()
	return &laptop{t: t, ns: ns, state: t.TempDir()}
}

// as makes the laptop act as another user, whom the cluster knows by a kubeconfig of their own.
func (l *laptop) as(kubeconfig string) *laptop {
	l.env = append(l.env, "KUBECONFIG="+kubeconfig)
	return l
}

func (l *laptop) command(args ...string) *exec.Cmd {
	cmd := exec.Command(binDayfly, append([]string{"-n", l.ns}, args...)...)
	cmd.Env = append(append(os.Environ(), "XDG_STATE_HOME="+l.state), l.env...)
	return cmd
}

// dayfly runs the command to its end and fails the test if it fails.
func (l *laptop) dayfly(args ...string) string {
	l.t.Helper()
	out, errOut, code := l.try(args...)
	if code != 0 {
		l.t.Fatalf("dayfly %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errOut)
	}
	return out
}

// try runs the command to its end.
func (l *laptop) try(args ...string) (stdout, stderr string, code int) {
	l.t.Helper()
	cmd := l.command(args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if exit, ok := err.(*exec.ExitError); ok {
		return out.String(), errOut.String(), exit.ExitCode()
	}
	must(l.t, err)
	return out.String(), errOut.String(), 0
}

// answer starts testapp on the laptop and returns its HTTP port.
func (l *laptop) answer(name string, args ...string) int {
	l.t.Helper()
	port := freePort(l.t)
	cmd := exec.Command(binTestapp, append([]string{"serve", "-name", name, "-http", fmt.Sprintf("127.0.0.1:%d", port), "-echo", ""}, args...)...)
	must(l.t, cmd.Start())
	l.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	await(l.t, 10*time.Second, "testapp on the laptop", func() error {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			c.Close()
		}
		return err
	})
	return port
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// inPod runs testapp in a pod of the deployment `client` and returns what it printed.
func inPod(t *testing.T, ns string, args ...string) string {
	t.Helper()
	out, err := tryInPod(ns, args...)
	if err != nil {
		t.Fatalf("testapp %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func tryInPod(ns string, args ...string) (string, error) {
	cmd := testcluster(append([]string{"kubectl", "-n", ns, "exec", "deploy/client", "--", "/testapp"}, args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// reply is what testapp says.
type reply struct {
	ServedBy   string
	Connection int64
	Peer       string
	Header     map[string][]string
	BodyBytes  int64
}

// get asks a service from the client pod, with headers in the form "name: value".
func get(t *testing.T, ns, url string, headers ...string) reply {
	t.Helper()
	args := []string{"get"}
	for _, h := range headers {
		args = append(args, "-H", h)
	}
	var r reply
	out := inPod(t, ns, append(args, url)...)
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("get %s: %v\n%s", url, err, out)
	}
	return r
}

// testcluster is the test cluster's own command; TESTCLUSTER_DIR names another cluster than the default one.
func testcluster(args ...string) *exec.Cmd {
	if dir := os.Getenv("TESTCLUSTER_DIR"); dir != "" {
		args = append([]string{"--dir", dir}, args...)
	}
	return exec.Command(binTestcluster, args...)
}

func printed(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func kubectlOutput(args ...string) string {
	out, _ := testcluster(append([]string{"kubectl"}, args...)...).CombinedOutput()
	return string(out)
}

func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := testcluster(append([]string{"kubectl"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// sessions are those of a namespace.
func sessions(t *testing.T, ns string) []v1alpha1.Session {
	t.Helper()
	var list v1alpha1.SessionList
	must(t, cluster.List(t.Context(), &list, client.InNamespace(ns)))
	return list.Items
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
