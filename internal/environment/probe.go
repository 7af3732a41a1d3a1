package environment

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// healthTime bounds the health checks of one pass: other environments wait for it. Who was not asked in it is not well.
const healthTime = 5 * time.Second

// observeHealth asks every pod behind a component that is ready otherwise, and so runs nothing but this revision, what
// dayfly.yaml says that it answers.
func (e *Engine) observeHealth(ctx context.Context, o *Observed) error {
	if o.Env.Spec.Asleep() {
		return nil // nobody is there to be asked
	}
	ctx, cancel := context.WithTimeout(ctx, healthTime)
	defer cancel()
	for _, p := range parts(o) {
		if p.health == nil || e.get == nil {
			continue
		}
		if state, _ := judge(o, p); state != v1alpha1.ComponentReady {
			continue
		}
		urls, err := e.answers(ctx, o, p)
		if err != nil {
			return err
		}
		if len(urls) == 0 {
			o.Health[p.name] = "no pod is behind its Service yet"
		}
		var mu sync.Mutex
		_ = each(urls, func(url string) error {
			code, err := e.get(ctx, url)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				o.Health[p.name] = clean(fmt.Sprintf("health check: %s", err))
			case code < 200 || code > 299:
				o.Health[p.name] = fmt.Sprintf("health check: %s answers %d", url, code)
			}
			return nil
		})
	}
	return nil
}

// answers are the addresses of the health check: one for each ready pod behind the component's first Service.
func (e *Engine) answers(ctx context.Context, o *Observed, p part) ([]string, error) {
	service, portName := healthPort(o, p)
	if service == "" {
		return nil, nil
	}
	a, err := e.accounts.of(NamespaceOf(o.Env))
	if err != nil {
		return nil, err
	}
	live, err := a.list(ctx, []schema.GroupVersionKind{discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice")}, reading{whole: wholly})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, u := range live {
		var s discoveryv1.EndpointSlice
		if u.GetLabels()[discoveryv1.LabelServiceName] != service || runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &s) != nil {
			continue
		}
		for _, port := range s.Ports {
			if port.Port == nil || port.Name == nil || *port.Name != portName {
				continue
			}
			for _, end := range s.Endpoints {
				if end.Conditions.Ready != nil && *end.Conditions.Ready && len(end.Addresses) > 0 {
					url, err := p.health.URL(net.JoinHostPort(end.Addresses[0], strconv.Itoa(int(*port.Port))))
					if err != nil {
						return nil, err
					}
					out = append(out, url)
				}
			}
		}
	}
	return out, nil
}

// healthPort is the Service of the health check, and the name of its port.
func healthPort(o *Observed, p part) (service, port string) {
	for _, m := range p.members {
		live := o.Live[m.key]
		if m.kind != "Service" || m.group != "" || live == nil {
			continue
		}
		ports, _, _ := unstructured.NestedSlice(live.Object, "spec", "ports")
		for _, x := range ports {
			sp, _ := x.(map[string]any)
			number, _ := sp["port"].(int64)
			if p.health.Port == 0 || int64(p.health.Port) == number {
				name, _ := sp["name"].(string)
				return m.name, name
			}
		}
	}
	return "", ""
}
