package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dayfly.dev/dayfly/internal/control"
	"dayfly.dev/dayfly/internal/identity"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// authorityName names the Secret with the authority's key and the ConfigMap with its certificate.
const authorityName = "dayfly-ca"

// establishAuthority reads dayfly's certificate authority, or makes it if this is the first controller to start.
func establishAuthority(ctx context.Context, c client.Client, namespace string) (*identity.CA, error) {
	key := client.ObjectKey{Namespace: namespace, Name: authorityName}
	var secret corev1.Secret
	err := c.Get(ctx, key, &secret)
	if apierrors.IsNotFound(err) {
		if err := makeAuthority(ctx, c, key); err != nil && !apierrors.IsAlreadyExists(err) {
			return nil, err
		}
		err = c.Get(ctx, key, &secret)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the authority: %w", err)
	}
	ca, err := identity.LoadCA(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return nil, err
	}
	return ca, publish(ctx, c, key, string(ca.CertificatePEM()))
}

func makeAuthority(ctx context.Context, c client.Client, key client.ObjectKey) error {
	_, certPEM, keyPEM, err := identity.NewCA()
	if err != nil {
		return err
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{corev1.TLSCertKey: certPEM, corev1.TLSPrivateKeyKey: keyPEM},
	}
	if err := c.Create(ctx, secret); err != nil {
		return fmt.Errorf("storing the authority: %w", err)
	}
	return nil
}

// publish writes the authority's certificate where routers read it.
func publish(ctx context.Context, c client.Client, key client.ObjectKey, certPEM string) error {
	want := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}, Data: map[string]string{"ca.crt": certPEM}}
	err := c.Create(ctx, want)
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	var have corev1.ConfigMap
	if err := c.Get(ctx, key, &have); err != nil {
		return fmt.Errorf("reading the published certificate: %w", err)
	}
	if have.Data["ca.crt"] == certPEM {
		return nil
	}
	have.Data = want.Data
	return c.Update(ctx, &have)
}

func issueOwn(ca *identity.CA, name string) (*identity.Credentials, error) {
	key, csr, err := identity.Request()
	if err != nil {
		return nil, err
	}
	cert, err := ca.Issue(csr, identity.RoleController, name)
	if err != nil {
		return nil, err
	}
	return identity.NewCredentials(key, cert, ca.CertificatePEM())
}

// renew replaces this controller's own certificate at half of its life.
func renew(ctx context.Context, ca *identity.CA, certs *identity.Holder, name string) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(certs.Get().RenewIn()):
		}
		own, err := issueOwn(ca, name)
		if err != nil {
			return fmt.Errorf("renewing the controller's certificate: %w", err)
		}
		certs.Set(own)
	}
}

// reviewer asks the API server whose token it is, and accepts only a pod of the routers' service account.
func reviewer(c client.Client, namespace string) func(context.Context, string) (string, error) {
	account := "system:serviceaccount:" + namespace + ":router"
	return func(ctx context.Context, token string) (string, error) {
		review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{control.Audience}}}
		if err := c.Create(ctx, review); err != nil {
			return "", fmt.Errorf("reviewing the token: %w", err)
		}
		u := review.Status.User
		pod := u.Extra["authentication.kubernetes.io/pod-name"]
		switch {
		case !review.Status.Authenticated:
			return "", errors.New("the token is not valid")
		case u.Username != account:
			return "", fmt.Errorf("%s is not the routers' account", u.Username)
		case len(pod) != 1:
			return "", errors.New("the token is bound to no pod")
		}
		return pod[0], nil
	}
}
