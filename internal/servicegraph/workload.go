package servicegraph

import (
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func running(namespace, kind, name string, ready, want int32, t *corev1.PodTemplateSpec) Running {
	return Running{Namespace: namespace, Workload: Workload{kind, name, ready, want}, Labels: t.Labels, Pod: t.Spec}
}

func asked(replicas *int32) int32 {
	if replicas == nil {
		return 1
	}
	return *replicas
}

func ofDeployments(l *appsv1.DeploymentList) (out []Running) {
	for i := range l.Items {
		d := &l.Items[i]
		out = append(out, running(d.Namespace, "Deployment", d.Name, d.Status.ReadyReplicas, asked(d.Spec.Replicas), &d.Spec.Template))
	}
	return out
}

func ofStatefulSets(l *appsv1.StatefulSetList) (out []Running) {
	for i := range l.Items {
		s := &l.Items[i]
		out = append(out, running(s.Namespace, "StatefulSet", s.Name, s.Status.ReadyReplicas, asked(s.Spec.Replicas), &s.Spec.Template))
	}
	return out
}

func ofDaemonSets(l *appsv1.DaemonSetList) (out []Running) {
	for i := range l.Items {
		d := &l.Items[i]
		out = append(out, running(d.Namespace, "DaemonSet", d.Name, d.Status.NumberReady, d.Status.DesiredNumberScheduled, &d.Spec.Template))
	}
	return out
}

func ofCronJobs(l *batchv1.CronJobList) (out []Running) {
	for i := range l.Items {
		c := &l.Items[i]
		out = append(out, running(c.Namespace, "CronJob", c.Name, 0, 0, &c.Spec.JobTemplate.Spec.Template))
	}
	return out
}

// ofJobs leaves out what a CronJob or another controller made, and what has ended.
func ofJobs(l *batchv1.JobList) (out []Running) {
	for i := range l.Items {
		j := &l.Items[i]
		if controlled(j, "") || j.Status.CompletionTime != nil {
			continue
		}
		var ready int32
		if j.Status.Ready != nil {
			ready = *j.Status.Ready
		}
		out = append(out, running(j.Namespace, "Job", j.Name, ready, asked(j.Spec.Parallelism), &j.Spec.Template))
	}
	return out
}

// ofPods finds workloads of kinds that were not read (and bare pods) by the pods that they run.
func ofPods(pods []corev1.Pod, known []Running) []Running {
	have := map[string]bool{}
	for i := range known {
		have[known[i].Namespace+"/"+known[i].Kind+"/"+known[i].Name] = true
	}
	at := map[string]int{}
	var out []Running
	for i := range pods {
		p := &pods[i]
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || !p.DeletionTimestamp.IsZero() || controlled(p, "Job") {
			continue
		}
		kind, name := ownerOf(p)
		id := p.Namespace + "/" + kind + "/" + name
		if have[id] {
			continue
		}
		k, ok := at[id]
		if !ok {
			k, at[id] = len(out), len(out)
			out = append(out, Running{Namespace: p.Namespace, Workload: Workload{Kind: kind, Name: name}, Labels: p.Labels, Pod: p.Spec})
		}
		out[k].Want++
		if isReady(p) {
			out[k].Ready++
		}
	}
	return out
}

// ownerOf names what runs a pod. A ReplicaSet's own name ends in a hash that is no part of what people call it.
func ownerOf(p *corev1.Pod) (kind, name string) {
	owner := metav1.GetControllerOf(p)
	switch {
	case owner == nil:
		return "Pod", p.Name
	case owner.Kind == "ReplicaSet":
		if hash := p.Labels["pod-template-hash"]; hash != "" && strings.HasSuffix(owner.Name, "-"+hash) {
			return "Deployment", strings.TrimSuffix(owner.Name, "-"+hash)
		}
	}
	return owner.Kind, owner.Name
}

func isReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// ofRoutes reads hosts and backends of Gateway API routes.
func ofRoutes(l *unstructured.UnstructuredList) (out []Route) {
	for _, u := range l.Items {
		r := Route{Namespace: u.GetNamespace(), Kind: u.GetKind(), Name: u.GetName()}
		r.Hosts, _, _ = unstructured.NestedStringSlice(u.Object, "spec", "hostnames")
		rules, _, _ := unstructured.NestedSlice(u.Object, "spec", "rules")
		for _, rule := range rules {
			m, _ := rule.(map[string]any)
			refs, _, _ := unstructured.NestedSlice(m, "backendRefs")
			for _, ref := range refs {
				b, _ := ref.(map[string]any)
				if kind, _ := b["kind"].(string); kind != "" && kind != "Service" {
					continue
				}
				key := client.ObjectKey{Namespace: r.Namespace}
				key.Name, _ = b["name"].(string)
				if ns, _ := b["namespace"].(string); ns != "" {
					key.Namespace = ns
				}
				r.Backends = append(r.Backends, key)
			}
		}
		out = append(out, r)
	}
	return out
}
