// Package chart renders dayfly's own Helm chart with Helm's engine, for tests. It is a module of its own: what it needs is none
// of dayfly's concern.
package chart

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
)

// Render returns what `helm template` prints of a chart, a .tgz, with these values.
func Render(tgz io.Reader, values map[string]any) (string, error) {
	c, err := loader.LoadArchive(tgz)
	if err != nil {
		return "", fmt.Errorf("loading the chart: %w", err)
	}
	if err := c.Validate(); err != nil {
		return "", fmt.Errorf("checking the chart: %w", err)
	}
	all, err := util.ToRenderValues(c, values, common.ReleaseOptions{Name: "dayfly", Namespace: "default"}, common.DefaultCapabilities)
	if err != nil {
		return "", err
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return "", fmt.Errorf("rendering the chart: %w", err)
	}
	var out strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(&out, "---\n%s\n", files[name])
	}
	return out.String(), nil
}
