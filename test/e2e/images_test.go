package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/internal/environment"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// push puts an image file into the cluster's registry and returns its name by digest.
func push(t *testing.T, file, repository string) string {
	t.Helper()
	return strings.TrimSpace(printed(t, testcluster("push", file, "registry.test/"+repository+":1")))
}

// An environment may be asked for before its images are built: it waits for them, and comes up with the very image, by its digest, once
// that is in its registry. One that never comes is named, with its component, when the time is over.
func TestImagesAreWaitedFor(t *testing.T) {
	t.Parallel()
	home, l := newHome(t)
	dir := webFolder(t, "")
	// An image of this story's own: what a node has pulled, kubelet no longer runs under the name under which it was loaded.
	file := filepath.Join(t.TempDir(), "image.tar")
	printed(t, testcluster("image", "-o", file, "registry.test/"+home+"/later:1", binTestapp+"=/testapp", "--entrypoint", "/testapp", "--user", "65532", "--env", "OF="+home))
	_, digest, _ := strings.Cut(push(t, file, home+"/built"), "@")
	later, never := "registry.test/"+home+"/later@"+digest, "registry.test/"+home+"/never@"+digest

	l.dayfly("env", "create", "pr-1", "-f", dir, "--image", "web="+later, "--await-images", "5m", "--wait=false")
	start := time.Now()
	_, says, code := l.try("env", "create", "pr-2", "-f", dir, "--image", "web="+never, "--await-images", "10s")
	want := "environment pr-2 is not ready: NoImage: web: image " + never + " of container app was not in its registry within 10s"
	if code != 1 || !strings.Contains(says, want) || !strings.Contains(says, "waits for image "+never) || time.Since(start) > promise(20*time.Second) {
		t.Errorf("never pushed: exit code %d after %s: %s\nwant %s", code, time.Since(start), says, want)
	}
	if v := l.dayfly("env", "show", "pr-1"); !strings.Contains(v, environment.ReasonAwaitingImages) || !strings.Contains(v, "waits for image "+later+" of container app") {
		t.Errorf("not pushed yet:\n%s", v)
	}

	start = time.Now()
	push(t, file, home+"/later")
	await(t, promise(40*time.Second), "it comes up once its image is there", func() error {
		if e := getEnv(t, home, "pr-1"); !environment.Current(e) || e.Status.Revisions.Ready == "" {
			return fmt.Errorf("%+v", e.Status.Conditions)
		}
		return nil
	})
	t.Logf("ready %s after its image was pushed", time.Since(start).Round(100*time.Millisecond))
	var pods corev1.PodList
	must(t, cluster.List(t.Context(), &pods, client.InNamespace("env-"+home+"-pr-1")))
	for _, p := range pods.Items {
		if s := p.Status.ContainerStatuses; len(s) != 1 || s[0].Image != later && !strings.HasSuffix(s[0].ImageID, digest) {
			t.Errorf("pod %s runs %+v, want %s", p.Name, s, digest)
		}
	}
	l.dayfly("env", "delete", "pr-1", "pr-2")
}
