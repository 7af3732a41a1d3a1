package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"dayfly.dev/dayfly/deploy"
	"dayfly.dev/dayfly/internal/kube"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// mendAll does what the findings ask for, with the caller's rights, and says what it did. What cannot be mended is said and
// left; the findings of the next inspection tell.
func mendAll(ctx context.Context, app *App, c *kube.Cluster, in *inspection, findings []finding) (mended int) {
	done := map[mending]bool{}
	for _, f := range findings {
		if f.mend == "" || done[f.mend] {
			continue
		}
		done[f.mend] = true
		for _, err := range mendOne(ctx, app, c, in, f.mend, func(format string, args ...any) {
			mended++
			fmt.Fprintf(app.Err, "%s %s\n", app.paint(green, "mended:"), fmt.Sprintf(format, args...))
		}) {
			app.warn("%s", kube.Explain(err))
		}
	}
	return mended
}

func mendOne(ctx context.Context, app *App, c *kube.Cluster, in *inspection, what mending, did func(string, ...any)) (errs []error) {
	try := func(err error, format string, args ...any) {
		switch {
		case client.IgnoreNotFound(err) != nil:
			errs = append(errs, err)
		case err == nil:
			did(format, args...)
		}
	}
	switch what {
	case mendScale:
		for i := range in.deployments {
			d := &in.deployments[i]
			n, ours := map[string]int{"controller": 2, "gateway": 2, "router": 1}[component(d.Labels)]
			if ours && replicas(d) == 0 {
				patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, n))
				try(c.Patch(ctx, d, patch), "deployment %s/%s has %s again", deploy.Namespace, d.Name, plural(n, "replica"))
			}
		}
	case mendExpired:
		for i := range in.sessions {
			if s := &in.sessions[i]; in.expired(s) {
				unchanged := client.Preconditions{UID: &s.UID, ResourceVersion: &s.ResourceVersion}
				try(c.Delete(ctx, s, unchanged), "session %s/%s is being closed: its lease was over", s.Namespace, s.Name)
			}
		}
	case mendStrays:
		for _, o := range in.strays() {
			uid, version := o.GetUID(), o.GetResourceVersion()
			try(c.Delete(ctx, o.(client.Object), client.Preconditions{UID: &uid, ResourceVersion: &version}), "%s %s/%s is deleted", kindOf(o), o.GetNamespace(), o.GetName())
		}
	case mendKilled:
		left := len(in.killed())
		sweep(ctx, app, c)
		did("what %s of this laptop left is ended", plural(left, "killed process"))
	case mendFiles:
		return mendLaptopFiles(in, did)
	}
	return errs
}

func mendLaptopFiles(in *inspection, did func(string, ...any)) (errs []error) {
	remove := func(path string) {
		if err := os.Remove(path); err != nil {
			errs = append(errs, fmt.Errorf("removing %s: %w", path, err))
			return
		}
		did("%s is removed", filepath.Base(path))
	}
	for path := range in.laptop.unreadable {
		remove(path)
	}
	for _, path := range in.laptop.orphans {
		if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > time.Second { // one being written is no orphan
			remove(path)
		}
	}
	for _, s := range in.staleSessions() {
		if err := s.removeUnlessServing(); err != nil {
			errs = append(errs, err)
			continue
		}
		did("%s is removed: its session is gone", filepath.Base(s.path))
	}
	return errs
}
