package kube

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dayfly.dev/dayfly/internal/usererr"
	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestErrorsOfTheCluster(t *testing.T) {
	t.Parallel()
	sessions := schema.GroupResource{Group: "dayfly.dev", Resource: "sessions"}
	services := schema.GroupResource{Resource: "services"}
	noPath := &apierrors.StatusError{ErrStatus: metav1.Status{Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound,
		Message: "the server could not find the requested resource", Details: &metav1.StatusDetails{Group: "dayfly.dev", Kind: "sessions"}}}
	noPathOfOne := &apierrors.StatusError{ErrStatus: metav1.Status{Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound,
		Message: noPath.ErrStatus.Message + " (get sessions.dayfly.dev ada)", Details: &metav1.StatusDetails{Group: "dayfly.dev", Kind: "sessions", Name: "ada"}}}
	for _, c := range []struct {
		why       string
		err       error
		code      usererr.Code
		says, fix string
	}{
		{"our kinds are not there", noPath, usererr.NotInstalled, "dayfly is not installed in this cluster", "dayfly install"},
		{"our kinds are not there, and one object was asked for", noPathOfOne, usererr.NotInstalled, "dayfly is not installed in this cluster", "dayfly install"},
		{"our kinds are not known", &meta.NoKindMatchError{GroupKind: schema.GroupKind{Group: "dayfly.dev", Kind: "Session"}}, usererr.NotInstalled, "not installed", "dayfly install"},
		{"one of our objects is not there", apierrors.NewNotFound(sessions, "ada"), usererr.NotFound, `"ada" not found`, ""},
		{"a service is not there", apierrors.NewNotFound(services, "web"), usererr.NotFound, `services "web" not found`, ""},
		{"a token has expired", apierrors.NewUnauthorized("expired"), usererr.Forbidden, "the cluster does not know you", "log in again"},
		{"RBAC: verb and resource are named, and who must do what", apierrors.NewForbidden(services, "web",
			errors.New(`User "ada@x.org" cannot get resource "services" in API group "" in the namespace "shop"`)), usererr.Forbidden,
			`User "ada@x.org" cannot get resource "services"`, "create rolebinding dayfly-developer-ada-x-org --clusterrole dayfly-developer --user ada@x.org -n shop"},
		{"our policy explains itself", apierrors.NewForbidden(sessions, "ada",
			errors.New("ValidatingAdmissionPolicy 'sessions.dayfly.dev' with binding 'x' denied request: bob may not intercept")), usererr.Forbidden, "bob may not intercept", "dayfly-developer"},
		{"another's session", apierrors.NewForbidden(sessions, "ada",
			errors.New("ValidatingAdmissionPolicy 'sessions.dayfly.dev' with binding 'x' denied request: this session belongs to ada")), usererr.Forbidden, "belongs to ada", "dayfly-admin"},
		{"a field is wrong", apierrors.NewInvalid(schema.GroupKind{Kind: "Session"}, "ada", nil), usererr.Usage, "the cluster refuses this", ""},
		{"nothing listens", &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}, usererr.NoCluster, "the cluster cannot be reached", "check that the cluster runs"},
		{"anything else stays as it is", errors.New("odd"), usererr.Failed, "odd", ""},
		{"what explains itself stays as it is", usererr.New(usererr.Conflict, "wait", "held"), usererr.Conflict, "held", "wait"},
	} {
		err := Explain(c.err)
		if got := usererr.CodeOf(err); got != c.code || !strings.Contains(err.Error(), c.says) || !strings.Contains(usererr.FixOf(err), c.fix) {
			t.Errorf("%s: code %d, %q, fix %q", c.why, got, err, usererr.FixOf(err))
		}
	}
	if Explain(nil) != nil || !errors.Is(Explain(context.Canceled), context.Canceled) {
		t.Error("nil and cancellation do not stay as they are")
	}
}

const kubeconfig = `apiVersion: v1
kind: Config
current-context: one
contexts:
- {name: two, context: {cluster: c, user: u, namespace: shop}}
- {name: one, context: {cluster: c, user: u}}
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {}}]
`

func TestTheClusterIsChosenAsKubectlDoes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte(kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", path)
	for _, c := range []struct {
		o                  Options
		context, namespace string
	}{
		{Options{}, "one", "default"},
		{Options{Context: "two"}, "two", "shop"},
		{Options{Context: "two", Namespace: "mine"}, "two", "mine"},
		{Options{Kubeconfig: path}, "one", "default"},
	} {
		got, err := Open(c.o)
		if err != nil {
			t.Fatalf("%+v: %v", c.o, err)
		}
		if got.Context != c.context || got.Namespace != c.namespace || got.Config.Host != "https://127.0.0.1:1" {
			t.Errorf("%+v: context %s, namespace %s, %s", c.o, got.Context, got.Namespace, got.Config.Host)
		}
	}
	if diff := cmp.Diff([]string{"one", "two"}, Contexts(Options{})); diff != "" {
		t.Error(diff)
	}
	if _, err := Open(Options{Context: "three"}); usererr.CodeOf(err) != usererr.NoCluster {
		t.Errorf("a context that is not there: %v", err)
	}
	if got := Contexts(Options{Kubeconfig: path + ".not"}); got != nil {
		t.Errorf("contexts of no file: %v", got)
	}
}
