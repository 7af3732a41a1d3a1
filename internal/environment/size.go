package environment

import (
	"slices"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/source"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// size is what an environment asks for: CPU in thousandths, memory and the storage of its claims in bytes.
type size struct{ pods, cpu, memory, storage int64 }

// mostAsked bounds what is counted of anything: what is more is as much too much, and sums of it stay numbers.
const mostAsked = 1 << 50

func (s size) plus(o size, times int64) size {
	sum := func(a, b int64) int64 {
		if b > 0 && times > mostAsked/b {
			return mostAsked
		}
		return min(a+times*b, mostAsked)
	}
	return size{sum(s.pods, o.pods), sum(s.cpu, o.cpu), sum(s.memory, o.memory), sum(s.storage, o.storage)}
}

// amount is what a quantity counts for: nobody gives anything by asking for less than nothing.
func amount(n int64) int64 { return min(max(n, 0), mostAsked) }

// larger has of each what is more.
func (s size) larger(o size) size {
	return size{max(s.pods, o.pods), max(s.cpu, o.cpu), max(s.memory, o.memory), max(s.storage, o.storage)}
}

// within is as much of a size as a quota lets be there at once.
func (s size) within(quota corev1.ResourceList) size {
	most := func(name corev1.ResourceName, n int64, value func(*resource.Quantity) int64) int64 {
		if q, ok := quota[name]; ok {
			return min(n, value(&q))
		}
		return n
	}
	return size{most(corev1.ResourcePods, s.pods, (*resource.Quantity).Value), most(corev1.ResourceRequestsCPU, s.cpu, (*resource.Quantity).MilliValue),
		most(corev1.ResourceRequestsMemory, s.memory, (*resource.Quantity).Value), most(corev1.ResourceRequestsStorage, s.storage, (*resource.Quantity).Value)}
}

// resources are a size as the status has it.
func (s size) resources() v1alpha1.Resources {
	return v1alpha1.Resources{
		string(corev1.ResourcePods): *resource.NewQuantity(s.pods, resource.DecimalSI), string(corev1.ResourceCPU): *resource.NewMilliQuantity(s.cpu, resource.DecimalSI),
		string(corev1.ResourceMemory): *resource.NewQuantity(s.memory, resource.BinarySI), string(corev1.ResourceStorage): *resource.NewQuantity(s.storage, resource.BinarySI),
	}
}

// sizeOf is the size that a status has.
func sizeOf(r v1alpha1.Resources) size {
	value := func(name corev1.ResourceName) resource.Quantity { return r[string(name)] }
	pods, cpu, memory, storage := value(corev1.ResourcePods), value(corev1.ResourceCPU), value(corev1.ResourceMemory), value(corev1.ResourceStorage)
	return size{pods.Value(), cpu.MilliValue(), memory.Value(), storage.Value()}
}

// measure is what components ask for once all of it runs; a container that says nothing has the defaults. How many nodes a DaemonSet
// is on, and how many Jobs of a CronJob run at once, nobody knows: they count once. What an autoscaler adds, the quota bounds. The steps
// of data rest while the environment is asleep.
func measure(cs []source.Component, defaults corev1.ResourceList, asleep bool) (out size) {
	for _, c := range cs {
		for _, o := range c.Objects {
			if asleep && stepOf(o) != "" {
				continue
			}
			out = out.plus(sizeOfObject(o, defaults), 1)
		}
	}
	return out
}

func sizeOfObject(o *unstructured.Unstructured, defaults corev1.ResourceList) (out size) {
	if o.GetKind() == "PersistentVolumeClaim" {
		return size{storage: claimed(o.Object)}
	}
	path := []string{"spec", "template", "spec"}
	switch o.GetKind() {
	case "Pod":
		path = []string{"spec"}
	case "CronJob":
		path = []string{"spec", "jobTemplate", "spec", "template", "spec"}
	}
	pod, ok, _ := unstructured.NestedMap(o.Object, path...)
	if !ok {
		return out
	}
	times := numberOf(o)
	claims, _, _ := unstructured.NestedSlice(o.Object, "spec", "volumeClaimTemplates")
	for _, c := range claims {
		if c, ok := c.(map[string]any); ok {
			out = out.plus(size{storage: claimed(c)}, times)
		}
	}
	return out.plus(sizeOfPod(pod, defaults), times)
}

// numberOf is how many pods of a workload run at once.
func numberOf(o *unstructured.Unstructured) int64 {
	path := []string{"spec", "replicas"}
	switch o.GetKind() {
	case "Pod":
		return 1
	case "DaemonSet":
		if on, _, _ := unstructured.NestedString(o.Object, "spec", "template", "spec", "nodeSelector", nodeOfTheSleeping); on != "" {
			return 0
		}
		return 1
	case "CronJob":
		if off, _, _ := unstructured.NestedBool(o.Object, "spec", "suspend"); off {
			return 0
		}
		path = []string{"spec", "jobTemplate", "spec", "parallelism"}
	case "Job":
		path = []string{"spec", "parallelism"}
	}
	if n, ok, err := unstructured.NestedInt64(o.Object, path...); ok && err == nil {
		return amount(n)
	}
	return 1
}

// sizeOfPod is what the scheduler sees: all containers together, or the largest that runs before them if that is more.
func sizeOfPod(spec map[string]any, defaults corev1.ResourceList) size {
	var pod corev1.PodSpec
	if runtime.DefaultUnstructuredConverter.FromUnstructured(spec, &pod) != nil {
		return size{pods: 1} // the API server refuses it, and says why
	}
	all, first := size{pods: 1}, size{pods: 1}
	beside := size{} // containers that are started first and stay
	for _, c := range pod.InitContainers {
		one := sizeOfContainer(c, defaults)
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			beside = beside.plus(one, 1)
			one = size{}
		}
		with := beside.plus(one, 1)
		first.cpu, first.memory = max(first.cpu, with.cpu), max(first.memory, with.memory)
	}
	for _, c := range pod.Containers {
		all = all.plus(sizeOfContainer(c, defaults), 1)
	}
	all = all.plus(beside, 1)
	all.cpu, all.memory = max(all.cpu, first.cpu), max(all.memory, first.memory)
	if pod.Resources != nil { // of the whole pod, whatever its containers say
		whole := corev1.Container{Resources: *pod.Resources}
		all.cpu, all.memory = max(all.cpu, sizeOfContainer(whole, nil).cpu), max(all.memory, sizeOfContainer(whole, nil).memory)
	}
	return all.plus(size{cpu: amount(pod.Overhead.Cpu().MilliValue()), memory: amount(pod.Overhead.Memory().Value())}, 1)
}

// sizeOfContainer is what a container requests: what it says, else its limit, else the default.
func sizeOfContainer(c corev1.Container, defaults corev1.ResourceList) size {
	asks := func(name corev1.ResourceName) resource.Quantity {
		lists := []corev1.ResourceList{c.Resources.Requests, c.Resources.Limits, defaults}
		if i := slices.IndexFunc(lists, func(l corev1.ResourceList) bool { _, ok := l[name]; return ok }); i >= 0 {
			return lists[i][name]
		}
		return resource.Quantity{}
	}
	cpu, memory := asks(corev1.ResourceCPU), asks(corev1.ResourceMemory)
	return size{cpu: amount(cpu.MilliValue()), memory: amount(memory.Value())}
}

// claimed is what a claim asks for, in bytes.
func claimed(claim map[string]any) int64 {
	text, _, _ := unstructured.NestedString(claim, "spec", "resources", "requests", "storage")
	q, err := resource.ParseQuantity(text)
	if err != nil {
		return 0
	}
	return amount(q.Value())
}
