package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"dayfly.dev/dayfly/deploy"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// certificate is what the gateway shows visitors, as the Secret says now.
type certificate struct {
	now atomic.Pointer[tls.Certificate]
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if now := c.now.Load(); now != nil {
		return now, nil
	}
	return nil, errors.New("there is no certificate yet")
}

func (c *certificate) read(ctx context.Context, api client.Reader, o Options) error {
	var s corev1.Secret
	if err := api.Get(ctx, client.ObjectKey{Namespace: o.Namespace, Name: deploy.GatewaySecret}, &s); err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return fmt.Errorf("reading the certificate in Secret %s: %w", deploy.GatewaySecret, err)
	}
	c.now.Store(&pair)
	return nil
}

// await returns once there is a certificate.
func (c *certificate) await(ctx context.Context, api client.Reader, o Options) error {
	for {
		err := c.read(ctx, api, o)
		if err == nil {
			return nil
		}
		o.Logger.Info("waiting for the certificate", "reason", err)
		select {
		case <-ctx.Done():
			return ended(ctx)
		case <-time.After(time.Second):
		}
	}
}

// certificateEvery is how often it is looked whether the certificate was replaced.
const certificateEvery = time.Minute

// follow reads the certificate again and again. One that cannot be read leaves the last one in use.
func (c *certificate) follow(ctx context.Context, api client.Reader, o Options) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(certificateEvery):
		}
		if err := c.read(ctx, api, o); err != nil && ctx.Err() == nil {
			o.Logger.Warn("the certificate stays what it was", "reason", err)
		}
	}
}
