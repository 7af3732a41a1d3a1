package session

import (
	"fmt"
	"slices"
	"strings"

	"dayfly.dev/dayfly/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// check says why an intercept cannot be: a reason in CamelCase and a message with the fix; both empty if it can.
func (d *decision) check(i v1alpha1.Intercept) (reason, message string) {
	svc := d.Services[i.Service]
	if d.NamespaceLabels[v1alpha1.LabelIntercept] == v1alpha1.InterceptDisabled {
		return "NamespaceClosed", fmt.Sprintf("namespace %s is closed to intercepts by its label %s=%s: whoever may update the namespace "+
			"itself can take it off", d.Namespace, v1alpha1.LabelIntercept, v1alpha1.InterceptDisabled)
	}
	if reason, message := Interceptable(d.Namespace, i.Service, PortOf(i), svc); reason != "" {
		return reason, message
	}
	a := d.alteration(i.Service)
	if a != nil && a.Status.Reverts >= maxReverts {
		return "Contested", fmt.Sprintf("service %s was changed back %d times, last by %q: tell it to leave the port's targetPort alone "+
			"(Argo CD: ignoreDifferences; Flux: the annotation kustomize.toolkit.fluxcd.io/reconcile: disabled), then open the session again",
			i.Service, a.Status.Reverts, targetPortManager(svc, PortOf(i)))
	}
	if reason, message := d.checkForeign(svc); reason != "" {
		return reason, message
	}
	if reason, message := d.checkPolicies(i); reason != "" {
		return reason, message
	}
	if a != nil && capturedPort(a, PortOf(i)) != nil && svc.UID == a.Spec.Target.UID {
		return "", "" // captured already: what follows is only asked before the capture
	}
	return d.checkLocal(svc)
}

// checkForeign refuses a Service beside which somebody else has made what dayfly would have to make, or endpoints of which
// dayfly knows nothing.
func (d *decision) checkForeign(svc *corev1.Service) (reason, message string) {
	if o := d.Services[originName(svc.Name)]; o != nil && !isOurs(o, svc.UID) {
		return "NameTaken", fmt.Sprintf("service %s is in the way: dayfly needs this name while %s is intercepted, and did not make it", o.Name, svc.Name)
	}
	if taken := d.Taken[svc.Name]; len(taken) > 0 {
		return "NameTaken", fmt.Sprintf("endpoint slice %s is in the way: dayfly needs this name while %s is intercepted, and did not make it", taken[0], svc.Name)
	}
	for i := range d.Slices[svc.Name] {
		s := &d.Slices[svc.Name][i]
		switch s.Labels[discoveryv1.LabelManagedBy] {
		case "endpointslice-controller.k8s.io":
		case sliceManager:
			if s.Labels[v1alpha1.LabelManaged] != managed {
				return "ForeignEndpoints", fmt.Sprintf("endpoint slice %s of service %s says that dayfly manages it, which dayfly does not", s.Name, svc.Name)
			}
		default:
			return "ForeignEndpoints", fmt.Sprintf("endpoint slice %s of service %s is not made from its selector: "+
				"its endpoints would go on answering", s.Name, svc.Name)
		}
	}
	return "", ""
}

// Interceptable says why a port of a Service (nil: not there) cannot be intercepted by anybody; both results are empty if
// it can.
func Interceptable(namespace, name string, port Port, svc *corev1.Service) (reason, message string) {
	switch {
	case svc == nil:
		return "NotFound", fmt.Sprintf("there is no service %s in namespace %s", name, namespace)
	case !svc.DeletionTimestamp.IsZero():
		return "Deleting", fmt.Sprintf("service %s is being deleted", name)
	case svc.Labels[v1alpha1.LabelManaged] != "":
		return "Ours", fmt.Sprintf("service %s is made by dayfly: intercept the service it stands for", name)
	case svc.Spec.Type == corev1.ServiceTypeExternalName:
		return "ExternalName", fmt.Sprintf("service %s is an ExternalName (%s): it has no endpoints, its callers leave the cluster by DNS, "+
			"so there is nothing to put a router in front of", name, svc.Spec.ExternalName)
	case svc.Spec.ClusterIP == corev1.ClusterIPNone:
		return "Headless", fmt.Sprintf("service %s is headless: its callers connect to pod addresses and no port is translated, "+
			"so capture `service` cannot see them", name)
	case len(svc.Spec.Selector) == 0:
		return "NoSelector", fmt.Sprintf("service %s has no selector: its endpoints are made by hand, and dayfly would have to alter them", name)
	case servicePort(svc, port) == nil:
		return "NoSuchPort", fmt.Sprintf("service %s has no port %s; it has %s", name, port, portList(svc))
	}
	return "", ""
}

func portList(svc *corev1.Service) string {
	var out []string
	for _, p := range svc.Spec.Ports {
		s := fmt.Sprint(p.Port)
		if p.Protocol != corev1.ProtocolTCP && p.Protocol != "" {
			s += "/" + strings.ToLower(string(p.Protocol))
		}
		if p.Name != "" {
			s += " (" + p.Name + ")"
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

// checkLocal refuses a Service whose traffic stays on its node where some node of it has no router.
func (d *decision) checkLocal(svc *corev1.Service) (reason, message string) {
	internal := svc.Spec.InternalTrafficPolicy != nil && *svc.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal
	external := svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	if !internal && !external {
		return "", ""
	}
	for _, slice := range d.Slices[svc.Name] {
		for _, e := range slice.Endpoints {
			if e.NodeName == nil || !ready(e.Conditions.Ready) {
				continue
			}
			if !slices.ContainsFunc(d.Routers, func(r Router) bool { return r.Node == *e.NodeName }) {
				return "LocalTraffic", fmt.Sprintf("service %s keeps traffic on its node (traffic policy Local) and node %s has no router: "+
					"install dayfly with a router on every node of the service", svc.Name, *e.NodeName)
			}
		}
	}
	return "", ""
}

func ready(b *bool) bool { return b == nil || *b }
