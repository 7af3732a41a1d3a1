package environment

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// pullAgain is how old a pod whose image is not there becomes before it is made anew: it has asked three times by then, and would
// ask ever more seldom, every five minutes in the end.
const pullAgain = 45 * time.Second

// notThere is how kubelets tell that a registry answers and does not have an image: in containerd's words, and in CRI-O's.
var notThere = []string{"code = NotFound", "manifest unknown", "name unknown"}

// lacking are the containers of a pod that wait for nothing but images which their registries do not have; none if anything else is
// wrong with it.
func lacking(p *corev1.Pod) []corev1.ContainerStatus {
	var out []corev1.ContainerStatus
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		w := c.State.Waiting
		if w == nil || !slices.Contains(waits, w.Reason) {
			continue
		}
		pulls := w.Reason == "ErrImagePull" || w.Reason == "ImagePullBackOff"
		if !pulls || !slices.ContainsFunc(notThere, func(words string) bool { return strings.Contains(w.Message, words) }) {
			return nil
		}
		out = append(out, c)
	}
	return out
}

// awaitImages has a component that fails for nothing but images which are not in their registries wait for them, as long as its
// environment says, and returns the pods that are to ask anew.
func (d *decision) awaitImages(p part, c *v1alpha1.ComponentStatus) (again []*unstructured.Unstructured) {
	limit := d.Env.Spec.AwaitImages
	if limit == nil || c.State != v1alpha1.ComponentFailing {
		return nil
	}
	var images []string
	for _, pod := range podsOfPart(d.Observed, p) {
		without := lacking(&pod)
		if len(without) == 0 && troubleOfPod(d.Now, &pod) != "" {
			return nil
		}
		for _, s := range without {
			if says := fmt.Sprintf("image %s of container %s", clean(s.Image), s.Name); !slices.Contains(images, says) {
				images = append(images, says)
			}
		}
		// What runs once would count it as a failure, and what runs already is not ended for it.
		if len(without) > 0 && !p.once() && d.Now.Sub(pod.CreationTimestamp.Time) > pullAgain && !slices.ContainsFunc(pod.Status.ContainerStatuses, running) {
			again = append(again, podObject(&pod))
		}
	}
	left := d.began().Add(limit.Duration).Sub(d.Now)
	switch {
	case len(images) == 0:
		return nil
	case left <= 0:
		c.Message = fmt.Sprintf("%s was not in its registry within %s", strings.Join(images, ", "), limit.Duration)
		d.unpushed = true
		return nil
	}
	c.State, c.Message = v1alpha1.ComponentStarting, fmt.Sprintf("waits for %s, which its registry does not have yet", strings.Join(images, ", "))
	d.awaited = append(d.awaited, nameOf(c.Name)+" "+c.Message)
	d.recheck = min(d.recheck, left)
	return again
}

func running(c corev1.ContainerStatus) bool { return c.State.Running != nil }

// within is how long the requested revision may take.
func (d *decision) within() time.Duration {
	if a := d.Env.Spec.AwaitImages; a != nil {
		return readyWithin + a.Duration
	}
	return readyWithin
}
