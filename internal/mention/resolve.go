package mention

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Resolve finds the Service that a mention names, as the DNS of a pod in namespace would, and the port if it is one of the
// Service's. A name and port that are not sure to be an address must name a port that is there.
func (m Mention) Resolve(namespace string, service func(types.NamespacedName) *corev1.Service) (*corev1.Service, int32) {
	for _, key := range candidates(namespace, m.Host) {
		s := service(key)
		if s == nil {
			continue
		}
		port := portOf(s, m.Port)
		if m.Port == 0 && port == 0 {
			port = portOf(s, m.Web)
		}
		if port == 0 && !m.Sure {
			return nil, 0
		}
		return s, port
	}
	return nil, 0
}

// candidates are the Services that a host may mean, the likeliest first: svc, svc.ns, svc.ns.svc, svc.ns.svc.cluster.local,
// each also with a pod's name before it.
func candidates(namespace, host string) []types.NamespacedName {
	if ns, name, ok := ThroughSvc(host); ok {
		return []types.NamespacedName{{Namespace: ns, Name: name}}
	}
	l := strings.Split(strings.TrimSuffix(host, "."), ".")
	switch {
	case strings.HasSuffix(host, ".") || len(l) > 3:
		return nil // a full name that does not go through svc
	case len(l) == 1:
		return []types.NamespacedName{{Namespace: namespace, Name: l[0]}}
	case len(l) == 2:
		return []types.NamespacedName{{Namespace: l[1], Name: l[0]}, {Namespace: namespace, Name: l[1]}}
	}
	return []types.NamespacedName{{Namespace: l[2], Name: l[1]}}
}

// ThroughSvc reads a host that goes through "svc": it can only be a Service's name.
func ThroughSvc(host string) (namespace, name string, ok bool) {
	l := strings.Split(strings.TrimSuffix(host, "."), ".")
	i := slices.Index(l, "svc")
	if i != 2 && i != 3 {
		return "", "", false
	}
	return l[i-1], l[i-2], true
}

// portOf finds a port by number. Behind a headless Service it is the pods' own.
func portOf(s *corev1.Service, port int) int32 {
	for _, p := range s.Spec.Ports {
		if port != 0 && int(p.Port) == port || s.Spec.ClusterIP == corev1.ClusterIPNone && p.TargetPort.IntValue() == port && port != 0 {
			return p.Port
		}
	}
	if port == 0 && len(s.Spec.Ports) == 1 {
		return s.Spec.Ports[0].Port
	}
	return 0
}
