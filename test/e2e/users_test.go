package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/identity"
	"dayfly.dev/dayfly/internal/kube"
	"github.com/go-logr/logr"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

// user is somebody whom the cluster knows by a certificate that it signed itself.
type user struct {
	name       string
	kubeconfig string        // path
	api        *kube.Cluster // with the user's rights
}

// newUser makes a user as an admin would: a certificate signing request, approved. Users have no rights yet.
func newUser(t *testing.T, name string, groups ...string) user {
	t.Helper()
	log.SetLogger(logr.Discard())
	name = fmt.Sprintf("%s-%d@example.test", name, time.Now().UnixNano()%1e9) // users are the cluster's, not a namespace's
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name, Organization: groups}}, key)
	must(t, err)
	api := clients(t).CertificatesV1().CertificateSigningRequests()
	csr := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"}}
	csr.Spec = certificatesv1.CertificateSigningRequestSpec{
		Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: certificatesv1.KubeAPIServerClientSignerName,
		Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth},
	}
	csr, err = api.Create(t.Context(), csr, metav1.CreateOptions{})
	must(t, err)
	t.Cleanup(func() { _ = cluster.Delete(context.Background(), csr) })
	csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test",
	})
	_, err = api.UpdateApproval(t.Context(), csr.Name, csr, metav1.UpdateOptions{})
	must(t, err)
	await(t, time.Minute, "certificate of "+name, func() error {
		csr, err = api.Get(t.Context(), csr.Name, metav1.GetOptions{})
		if err == nil && len(csr.Status.Certificate) == 0 {
			err = fmt.Errorf("not signed")
		}
		return err
	})
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	return userFrom(t, name, clientcmdapi.AuthInfo{
		ClientCertificateData: csr.Status.Certificate, ClientKeyData: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	})
}

func userFrom(t *testing.T, name string, auth clientcmdapi.AuthInfo) user {
	t.Helper()
	must(t, rest.LoadTLSFiles(cluster.Config))
	config := clientcmdapi.NewConfig()
	config.Clusters["test"] = &clientcmdapi.Cluster{Server: cluster.Config.Host, CertificateAuthorityData: cluster.Config.CAData, TLSServerName: cluster.Config.ServerName}
	config.AuthInfos["user"] = &auth
	config.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: "user"}
	config.CurrentContext = "test"
	u := user{name: name, kubeconfig: filepath.Join(t.TempDir(), "kubeconfig")}
	must(t, clientcmd.WriteToFile(*config, u.kubeconfig))
	var err error
	u.api, err = kube.Open(kube.Options{Kubeconfig: u.kubeconfig})
	must(t, err)
	return u
}

// impersonate returns a client that acts as an account of the cluster, or a user.
func impersonate(t *testing.T, name string, groups ...string) *kubernetes.Clientset {
	t.Helper()
	config := rest.CopyConfig(cluster.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: name, Groups: groups}
	cs, err := kubernetes.NewForConfig(config)
	must(t, err)
	return cs
}

// roleClient acts as the account of one of dayfly's roles.
func roleClient(t *testing.T, role string) client.Client {
	t.Helper()
	config := rest.CopyConfig(cluster.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:" + systemNamespace + ":" + role,
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + systemNamespace, "system:authenticated"}}
	c, err := client.New(config, client.Options{Scheme: cluster.Scheme()})
	must(t, err)
	return c
}

func clients(t *testing.T) *kubernetes.Clientset {
	t.Helper()
	cs, err := kubernetes.NewForConfig(cluster.Config)
	must(t, err)
	return cs
}

// bind gives a user a ClusterRole in one namespace.
func bind(t *testing.T, ns, clusterRole string, u user) *rbacv1.RoleBinding {
	t.Helper()
	return bindTo(t, ns, rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: clusterRole}, u)
}

// bindRules gives a user a Role with these rules.
func bindRules(t *testing.T, ns string, u user, rules ...rbacv1.PolicyRule) {
	t.Helper()
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: ns, GenerateName: "e2e-"}, Rules: rules}
	must(t, cluster.Create(t.Context(), role))
	bindTo(t, ns, rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name}, u)
}

func bindTo(t *testing.T, ns string, ref rbacv1.RoleRef, u user) *rbacv1.RoleBinding {
	t.Helper()
	b := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: ns, GenerateName: "e2e-"}, RoleRef: ref}
	b.Subjects = []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: u.name}}
	must(t, cluster.Create(t.Context(), b))
	return b
}

// newSession is a valid session of the user, not created yet.
func newSession(t *testing.T, ns, name string, u user, intercepts ...v1alpha1.Intercept) (*v1alpha1.Session, *identity.SessionKey) {
	t.Helper()
	key, err := identity.NewSessionKey()
	must(t, err)
	public, err := key.Public()
	must(t, err)
	me, err := u.api.Whoami(t.Context())
	must(t, err)
	s := &v1alpha1.Session{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	s.Spec = v1alpha1.SessionSpec{
		Owner: me, PublicKey: public, RoutingKey: name, Lease: metav1.Duration{Duration: time.Hour}, Drain: metav1.Duration{Duration: time.Second},
		Intercepts: intercepts,
	}
	return s, key
}

// checkDenied fails the test unless the API server refused for lack of rights, in words that contain each of the texts.
func checkDenied(t *testing.T, what string, err error, texts ...string) {
	t.Helper()
	if !apierrors.IsForbidden(err) {
		t.Errorf("%s: %v, want Forbidden", what, err)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %q does not say %q", what, err, text)
		}
	}
}

// checkMode fails the test if others than the owner of a file may read it.
func checkMode(t *testing.T, path string) {
	t.Helper()
	info, err := os.Lstat(path)
	must(t, err)
	if info.Mode().Perm()&0o077 != 0 {
		t.Errorf("%s has mode %s", path, info.Mode())
	}
}
