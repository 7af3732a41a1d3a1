// Package sources pins applications that others wrote, for tests to make environments of: `go mod download -json MODULE` in
// this folder says where their charts and kustomizations are. It is a module of its own, which no binary of dayfly links.
package sources

import (
	_ "github.com/stefanprodan/podinfo/pkg/version"
)

// github.com/prometheus-community/helm-charts is required as well. It holds charts and no package, so `go mod tidy` would drop it.
