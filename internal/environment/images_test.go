package environment

import (
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// An image that its registry does not have yet is waited for as long as the environment says, by asking anew; what else is wrong is a
// failure at once.
func TestImagesAreAwaited(t *testing.T) {
	const missing = "rpc error: code = NotFound desc = failed to pull and unpack image \"registry/stock:1\": not found"
	pulls := func(reason, message string) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: "app", Image: "registry/stock:1", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}
	}
	runs := corev1.ContainerStatus{Name: "side", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	const waits, late = "stock waits for image registry/stock:1 of container app, which its registry does not have yet",
		"stock: image registry/stock:1 of container app was not in its registry within 2m0s"
	for name, c := range map[string]struct {
		containers []corev1.ContainerStatus
		limit      time.Duration // 0: it does not wait
		age        time.Duration // of pod and revision
		reason     string
		says, step string
	}{
		"not there yet":             {[]corev1.ContainerStatus{pulls("ErrImagePull", missing)}, 2 * time.Minute, time.Second, ReasonAwaitingImages, waits, ""},
		"the kubelet waits":         {[]corev1.ContainerStatus{pulls("ImagePullBackOff", `Back-off pulling image "registry/stock:1": ErrImagePull: `+missing)}, 2 * time.Minute, time.Second, ReasonAwaitingImages, waits, ""},
		"in CRI-O's words":          {[]corev1.ContainerStatus{pulls("ErrImagePull", "reading manifest 1 in registry/stock: manifest unknown")}, 2 * time.Minute, time.Second, ReasonAwaitingImages, waits, ""},
		"it would ask too seldom":   {[]corev1.ContainerStatus{pulls("ImagePullBackOff", missing)}, 2 * time.Minute, time.Minute, ReasonAwaitingImages, waits, "Remove"},
		"another container runs":    {[]corev1.ContainerStatus{pulls("ImagePullBackOff", missing), runs}, 2 * time.Minute, time.Minute, ReasonAwaitingImages, waits, ""},
		"not there in time":         {[]corev1.ContainerStatus{pulls("ImagePullBackOff", missing)}, 2 * time.Minute, 2 * time.Minute, ReasonNoImage, late, ""},
		"nobody said to wait":       {[]corev1.ContainerStatus{pulls("ErrImagePull", missing)}, 0, time.Second, ReasonFailing, "code = NotFound", ""},
		"the registry is not there": {[]corev1.ContainerStatus{pulls("ErrImagePull", "dial tcp: lookup registry: no such host")}, 2 * time.Minute, time.Second, ReasonFailing, "no such host", ""},
		"something else is wrong, too": {[]corev1.ContainerStatus{pulls("ErrImagePull", missing), {Name: "b", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "InvalidImageName"}}}},
			2 * time.Minute, time.Second, ReasonFailing, "code = NotFound", ""},
	} {
		w := newWorld(shop()...)
		w.ready = false
		if c.limit > 0 {
			w.Env.Spec.AwaitImages = &metav1.Duration{Duration: c.limit}
		}
		w.passes()
		pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "stock-1", UID: "p1", Labels: map[string]string{"app": "stock"}, CreationTimestamp: metav1.NewTime(w.Now)}}
		pod.Status.ContainerStatuses = c.containers
		w.Pods = []corev1.Pod{pod}
		w.Now = w.Now.Add(c.age)
		step := w.pass()
		got := meta.FindStatusCondition(w.Env.Status.Conditions, v1alpha1.ConditionReady)
		if got.Reason != c.reason || !strings.Contains(got.Message, c.says) || step != c.step {
			t.Errorf("%s: %s: %s; step %q\nwant %s: %s; step %q", name, got.Reason, got.Message, step, c.reason, c.says, c.step)
		}
		if stalled := meta.IsStatusConditionTrue(w.Env.Status.Conditions, v1alpha1.ConditionStalled); stalled != (c.reason == ReasonNoImage) {
			t.Errorf("%s: stalled is %t", name, stalled)
		}
	}
}

// The time for images is not taken from the time to start.
func TestAwaitedImagesLeaveTimeToStart(t *testing.T) {
	w := newWorld(shop()...)
	w.ready, w.Env.Spec.AwaitImages = false, &metav1.Duration{Duration: 20 * time.Minute}
	w.passes()
	w.Now = w.Now.Add(20*time.Minute + readyWithin - time.Second)
	w.passes()
	if reason(w.Env) != ReasonStarting {
		t.Errorf("still in time: %s", reason(w.Env))
	}
	w.Now = w.Now.Add(3 * time.Second)
	w.passes()
	if reason(w.Env) != ReasonNotInTime {
		t.Errorf("too late: %s", reason(w.Env))
	}
}
