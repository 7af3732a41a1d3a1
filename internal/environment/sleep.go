package environment

import (
	"slices"

	"dayfly.dev/dayfly/internal/source"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// nodeOfTheSleeping is a label that no node has: a DaemonSet that asks for it has no pods.
const nodeOfTheSleeping = "dayfly.dev/asleep"

// sleeps says whether an object of a kind runs nothing while its environment is asleep.
func sleeps(kind string) bool {
	return slices.Contains([]string{"Deployment", "StatefulSet", "ReplicaSet", "ReplicationController", "Rollout", "DaemonSet", "CronJob"}, kind)
}

// putToSleep makes workloads run nothing. What it writes is given up again on waking: an autoscaler, which rests while there are
// no replicas, finds the number to be its own as before.
func putToSleep(cs []source.Component) {
	for _, c := range cs {
		for _, o := range c.Objects {
			if !sleeps(o.GetKind()) {
				continue
			}
			switch o.GetKind() { // where a spec is no object, the API server refuses it, and says so
			case "DaemonSet":
				_ = unstructured.SetNestedField(o.Object, "true", "spec", "template", "spec", "nodeSelector", nodeOfTheSleeping)
			case "CronJob":
				_ = unstructured.SetNestedField(o.Object, true, "spec", "suspend")
			default:
				_ = unstructured.SetNestedField(o.Object, int64(0), "spec", "replicas")
			}
		}
	}
}
