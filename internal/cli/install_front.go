package cli

import (
	"strings"

	"dayfly.dev/dayfly/deploy"
	"dayfly.dev/dayfly/internal/apply"
	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/usererr"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation"
)

// frontOptions are what of the cluster's own leads visitors to the gateway.
type frontOptions struct {
	class       string
	annotations []string
	route       string
	issuer      string
	front       deploy.Front
}

func (o *frontOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.class, "ingress-class", "", "with --domain, lead visitors to the gateway by an Ingress of this class")
	f.StringArrayVar(&o.annotations, "ingress-annotation", nil, "`KEY=VALUE` on that Ingress; can be repeated")
	f.StringVar(&o.route, "http-route", "", "with --domain, lead visitors to the gateway by an HTTPRoute of the Gateway `NAMESPACE/NAME[/LISTENER]`")
	f.StringVar(&o.issuer, "certificate-issuer", "", "with --domain, have cert-manager issue the certificate: `[KIND/]NAME` of a ClusterIssuer, or an Issuer in "+deploy.Namespace+" (default: an authority of dayfly's own)")
}

// check reads the flags.
func (o *frontOptions) check(domain string) error {
	if o.class+o.route+o.issuer != "" && domain == "" {
		return usererr.New(usererr.Usage, "name the domain, too: --domain env.example.com",
			"--ingress-class, --http-route and --certificate-issuer are about the addresses of environments, and there are none without a domain")
	}
	if len(o.annotations) > 0 && o.class == "" {
		return usererr.New(usererr.Usage, "name its class: --ingress-class nginx", "--ingress-annotation: there is no Ingress to put it on")
	}
	if problems := validation.IsDNS1123Subdomain(o.class); o.class != "" && len(problems) > 0 {
		return usererr.New(usererr.Usage, "see: kubectl get ingressclasses", "--ingress-class %q is no name of a class", o.class)
	}
	o.front.IngressClass = o.class
	for _, text := range o.annotations {
		name, value, err := pair("--ingress-annotation", text)
		if err != nil {
			return err
		}
		if o.front.IngressAnnotations == nil {
			o.front.IngressAnnotations = map[string]string{}
		}
		o.front.IngressAnnotations[name] = value
	}
	if o.route != "" {
		parts := strings.Split(o.route, "/")
		if len(parts) < 2 || len(parts) > 3 || !names(parts) {
			return usererr.New(usererr.Usage, "use NAMESPACE/NAME of a Gateway, and its listener if only that is meant; see: kubectl get gateways -A", "--http-route %q names no Gateway", o.route)
		}
		o.front.Gateway = deploy.ParentRef{Namespace: parts[0], Name: parts[1]}
		if len(parts) == 3 {
			o.front.Gateway.Listener = parts[2]
		}
	}
	if o.issuer != "" {
		kind, name, ok := strings.Cut(o.issuer, "/")
		if !ok {
			kind, name = "ClusterIssuer", o.issuer
		}
		if kind != "ClusterIssuer" && kind != "Issuer" || !names([]string{name}) {
			return usererr.New(usererr.Usage, "use the name of a ClusterIssuer, or Issuer/NAME", "--certificate-issuer %q names no issuer", o.issuer)
		}
		o.front.Issuer = deploy.IssuerRef{Kind: kind, Name: name}
	}
	return nil
}

func names(all []string) bool {
	for _, name := range all {
		if len(validation.IsDNS1123Subdomain(name)) > 0 {
			return false
		}
	}
	return true
}

// knowsKinds complains of objects whose kinds others define, and the cluster does not have, before anything is applied.
func knowsKinds(set *apply.Set, objects []*unstructured.Unstructured) error {
	from := map[string]string{"HTTPRoute": "the Gateway API", "Certificate": "cert-manager"}
	for _, obj := range objects {
		whose, ok := from[obj.GetKind()]
		if !ok {
			continue
		}
		known, err := set.Knows(obj)
		if err != nil {
			return kube.Explain(err)
		}
		if !known {
			return usererr.New(usererr.Usage, "install "+whose+" first, or leave that flag out", "the cluster does not know the kind %s of %s", obj.GetKind(), obj.GetAPIVersion())
		}
	}
	return nil
}
