package environment

import (
	"context"
	"slices"
	"sync"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/source"
	"dayfly.dev/dayfly/internal/usererr"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// RenderOptions are how an environment's Blueprint is rendered.
func RenderOptions(env *v1alpha1.Environment) source.Options {
	o := source.Options{Name: env.Name, Namespace: NamespaceOf(env), Parameters: parametersOf(&env.Spec), Components: env.Spec.Only,
		Images: map[string]string{}, Replicas: map[string]int32{}}
	for _, c := range env.Spec.Components {
		if c.Image != "" {
			o.Images[c.Name] = c.Image
		}
		if c.Replicas != nil {
			o.Replicas[c.Name] = *c.Replicas
		}
	}
	return o
}

// render makes the objects of an environment from its Blueprint.
func (e *Engine) render(ctx context.Context, env *v1alpha1.Environment, b *v1alpha1.Blueprint) ([]source.Component, error) {
	folder, err := source.Unpack(b.Spec.Folder)
	if err != nil {
		return nil, err
	}
	if have := folder.Digest(); have != b.Spec.Digest {
		return nil, usererr.New(usererr.Refused, "make the blueprint with dayfly env create -f", "blueprint %s holds a folder with the digest %s and says %s", b.Name, have, b.Spec.Digest)
	}
	r, err := e.renderer(ctx, folder, RenderOptions(env))
	if err != nil {
		return nil, err
	}
	if env.Spec.Asleep() {
		putToSleep(r.Components)
	}
	for _, c := range r.Components {
		for _, o := range c.Objects {
			mark(o, env)
			if o.GetKind() == "Job" {
				unstructured.RemoveNestedField(o.Object, "spec", "ttlSecondsAfterFinished") // one that is gone would be applied again
			}
		}
	}
	return r.Components, Check(r.Components)
}

// mark gives an object the label by which the controller watches what is in environments, and nothing else. Kubernetes copies that of a
// Service to its EndpointSlices, which the gateway watches.
func mark(o *unstructured.Unstructured, env *v1alpha1.Environment) {
	labels := o.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[v1alpha1.LabelEnvironment] = env.Name
	o.SetLabels(labels)
}

// mostObjects are in one environment.
const mostObjects = 1000

// Check says which of the objects may not be in an environment. The rights of its account say more: this is for the messages.
func Check(cs []source.Component) error {
	seen := map[key]bool{}
	for _, c := range cs {
		for _, o := range c.Objects {
			if seen[keyOf(o)] {
				return usererr.New(usererr.Refused, "", "%s is there twice", keyOf(o))
			}
			seen[keyOf(o)] = true
			if why := forbidden(o); why != "" {
				return usererr.New(usererr.Refused, "leave it out for environments, by a kustomization or a parameter of the chart", "%s may not be in an environment: %s", keyOf(o), why)
			}
		}
	}
	if len(seen) > mostObjects {
		return usererr.New(usererr.Refused, "divide it, or choose components with --only", "%d objects are more than the %d of an environment", len(seen), mostObjects)
	}
	return nil
}

func forbidden(o *unstructured.Unstructured) string {
	switch o.GroupVersionKind().Group + "/" + o.GetKind() {
	case "networking.k8s.io/NetworkPolicy", "/ResourceQuota", "/LimitRange":
		return "what protects others from it is made by dayfly"
	case "networking.k8s.io/Ingress", "gateway.networking.k8s.io/HTTPRoute", "gateway.networking.k8s.io/GRPCRoute", "gateway.networking.k8s.io/Gateway":
		return "it could take the address of another"
	case "/ServiceAccount", "rbac.authorization.k8s.io/RoleBinding":
		if o.GetName() == guardName || o.GetName() == RoleOwner {
			return "the name is dayfly's"
		}
	case "/Service":
		kind, _, _ := unstructured.NestedString(o.Object, "spec", "type")
		ips, _, _ := unstructured.NestedSlice(o.Object, "spec", "externalIPs")
		if slices.Contains([]string{"LoadBalancer", "NodePort"}, kind) || len(ips) > 0 {
			return "it would be reached from outside the cluster"
		}
	}
	return ""
}

// known are contents of late, so that an environment that is on its way is rendered once.
type known struct {
	mu    sync.Mutex
	items []knownItem
}

type knownItem struct {
	id         string
	components []source.Component
	err        error
	until      time.Time // that it may be used
}

const (
	mostKnown     = 64
	knownFor      = 10 * time.Minute
	knownErrorFor = time.Minute // it may have been the machine
)

func (k *known) get(id string) (knownItem, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.items = slices.DeleteFunc(k.items, func(i knownItem) bool { return time.Now().After(i.until) })
	for _, i := range k.items {
		if i.id == id {
			return i, true
		}
	}
	return knownItem{}, false
}

func (k *known) put(id string, cs []source.Component, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	age := knownFor
	if err != nil {
		cs, age = nil, knownErrorFor
	}
	k.items = append(k.items, knownItem{id, cs, err, time.Now().Add(age)})
	if len(k.items) > mostKnown {
		k.items = k.items[1:]
	}
}

// drop forgets what is no longer needed.
func (k *known) drop(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.items = slices.DeleteFunc(k.items, func(i knownItem) bool { return i.id == id })
}
