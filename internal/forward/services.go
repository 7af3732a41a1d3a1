package forward

import (
	"context"
	"fmt"
	"slices"

	"dayfly.dev/dayfly/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Service is where a component is reached.
type Service struct {
	Component, Name string
	Port            string // its name
}

// Services are the first Service of each component of an environment, with its first TCP port.
func Services(ctx context.Context, config *rest.Config, namespace string, inventory []v1alpha1.InventoryItem) ([]Service, error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	list, err := client.CoreV1().Services(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var out []Service
	for _, i := range inventory {
		known := slices.ContainsFunc(out, func(s Service) bool { return s.Component == i.Component })
		at := slices.IndexFunc(list.Items, func(s corev1.Service) bool { return s.Name == i.Name })
		if i.Kind != "Service" || i.Component == "" || known || at < 0 {
			continue
		}
		for _, p := range list.Items[at].Spec.Ports {
			if p.Protocol == "" || p.Protocol == corev1.ProtocolTCP {
				out = append(out, Service{i.Component, i.Name, p.Name})
				break
			}
		}
	}
	return out, nil
}
