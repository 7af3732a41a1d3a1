package controller

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/deploy"
	"dayfly.dev/dayfly/internal/identity"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// authoritySecret names the Secret of the authority that signs the gateway's certificate. A certificate that it has not signed is
// left as it is: somebody else, such as cert-manager, sees to it.
const authoritySecret = "gateway-ca"

const wildcardEvery = time.Minute

// keepWildcard sees to it that the gateway has a certificate for every name under the domain.
func keepWildcard(ctx context.Context, c client.Client, namespace, domain string, log *slog.Logger) error {
	if domain == "" {
		return nil
	}
	for {
		next := wildcardEvery
		if err := ensureWildcard(ctx, c, namespace, domain, time.Now()); err != nil && ctx.Err() == nil {
			log.Warn("the gateway's certificate", "error", err)
			next = 5 * time.Second
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(next):
		}
	}
}

func ensureWildcard(ctx context.Context, c client.Client, namespace, domain string, now time.Time) error {
	shown, err := secretOf(ctx, c, namespace, deploy.GatewaySecret)
	if err != nil {
		return err
	}
	if shown.ResourceVersion != "" && shown.Labels[v1alpha1.LabelManaged] != "dayfly" {
		return nil
	}
	authority, err := secretOf(ctx, c, namespace, authoritySecret)
	if err != nil {
		return err
	}
	w := identity.Wildcard{Cert: shown.Data[corev1.TLSCertKey], Key: shown.Data[corev1.TLSPrivateKeyKey],
		CACert: authority.Data[corev1.TLSCertKey], CAKey: authority.Data[corev1.TLSPrivateKeyKey]}
	if w.Good(domain, now) || w.Foreign() {
		return nil
	}
	renewed, err := w.Renewed(domain, now)
	if err != nil {
		return err
	}
	if string(renewed.CACert) != string(w.CACert) {
		if err := store(ctx, c, authority, map[string][]byte{corev1.TLSCertKey: renewed.CACert, corev1.TLSPrivateKeyKey: renewed.CAKey}); err != nil {
			return err
		}
	}
	return store(ctx, c, shown, map[string][]byte{corev1.TLSCertKey: renewed.Cert, corev1.TLSPrivateKeyKey: renewed.Key, "ca.crt": renewed.CACert})
}

// secretOf reads a Secret; one that is not there has no resource version.
func secretOf(ctx context.Context, c client.Client, namespace, name string) (*corev1.Secret, error) {
	s := &corev1.Secret{}
	err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, s)
	if apierrors.IsNotFound(err) {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{v1alpha1.LabelManaged: "dayfly"}}, Type: corev1.SecretTypeTLS}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading Secret %s: %w", name, err)
	}
	return s, nil
}

func store(ctx context.Context, c client.Client, s *corev1.Secret, data map[string][]byte) error {
	s.Data = data
	var err error
	if s.ResourceVersion == "" {
		err = c.Create(ctx, s)
	} else {
		err = c.Update(ctx, s)
	}
	if err != nil {
		return fmt.Errorf("storing Secret %s: %w", s.Name, err)
	}
	return nil
}
