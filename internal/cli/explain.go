package cli

import (
	"context"
	"fmt"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/session"
	authorizationv1 "k8s.io/api/authorization/v1"
)

// explainTo says how requests would be captured, who would not be seen, and whether the caller may, and changes nothing.
func (o *interceptOptions) explainTo(ctx context.Context, c *kube.Cluster, want v1alpha1.Intercept) error {
	review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: c.Namespace, Verb: "create", Resource: "services", Subresource: session.Subresource(want), Name: want.Service,
		},
	}}
	if err := c.Create(ctx, review); err != nil {
		return kube.Explain(err)
	}
	may := "you may"
	if !review.Status.Allowed {
		may = "you may not"
	}
	rule := session.RuleText("of the session", want)
	if want.All {
		rule = "every connection"
	}
	if session.PortOf(want).UDP {
		rule = "every datagram"
	}
	sees, misses, others := seenOf(want)
	_, err := fmt.Fprintf(o.app.Out, `service %s, port %s, to port %d of this laptop; rule: %s
right        create on services/%s: %s
capture      service: the port's targetPort becomes a name that no pod has, and an EndpointSlice offers dayfly's routers;
             chosen because it needs no restart, no privilege and nothing in the pods
sees         %s
does not see %s
             callers that use pod addresses or another service in front of the same pods
others       %s
             kubectl port-forward svc/%[1]s fails for this port meanwhile; a forward to its pods works and passes the
             routers by: to reach this laptop from outside, forward to a service that calls this one
restores     when the session closes, expires, or somebody runs: kubectl delete session
`, want.Service, session.PortOf(want), want.LaptopPort, rule, session.Subresource(want), may, sees, misses, others)
	return err
}

// seenOf says what of a port the routers see and what not, and how others fare.
func seenOf(want v1alpha1.Intercept) (sees, misses, others string) {
	if session.PortOf(want).UDP {
		return fmt.Sprintf("every datagram to port %s of the service, also of sockets that are in use: they move at once", session.PortOf(want)),
			"refusals: that nobody listens at the original (ICMP) is not passed on to its callers;",
			"without a laptop the original answers, and sees the router as its peer's address"
	}
	return fmt.Sprintf("every connection to port %d of the service that is opened from then on", want.Port),
		"connections that are open already: they stay with the original until they end;\n" +
			"             what is neither HTTP/1.x, nor TLS for an sni rule, nor taken by --all: it goes to the original untouched;",
		"requests that do not match go to the original through the router, which they see as their peer's address;"
}
