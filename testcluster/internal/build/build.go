// Package build compiles the programs that a cluster consists of, once per version of their sources.
package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// Component is one or more programs of one Go module.
type Component struct {
	// Module is the folder of the module, Folder what of it decides over the outcome, both below the sources.
	Module, Folder string
	// Programs maps names to the packages they are built from.
	Programs map[string]string
	Flags    []string
}

const kubernetesVersion = "v1.36.3"

// Components are all there are, the quickest first.
func Components() []Component {
	own := func(name string) Component {
		return Component{Module: ".", Folder: "internal/" + name, Programs: map[string]string{name: "./internal/" + name},
			Flags: []string{"-ldflags", "-s -w"}}
	}
	const version = "k8s.io/component-base/version."
	return []Component{
		own("pause"),
		own("testserver"),
		{
			Module: "components/etcd", Folder: "components/etcd",
			Programs: map[string]string{"etcd": "go.etcd.io/etcd/server/v3"},
			Flags:    []string{"-ldflags", "-s -w"},
		}, {
			Module: "components/registry", Folder: "components/registry",
			Programs: map[string]string{"registry": "."},
			Flags:    []string{"-ldflags", "-s -w"},
		}, {
			Module: "components/containerd", Folder: "components/containerd",
			Programs: map[string]string{
				"containerd":              "github.com/containerd/containerd/v2/cmd/containerd",
				"containerd-shim-runc-v2": "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
				"ctr":                     "github.com/containerd/containerd/v2/cmd/ctr",
			},
			Flags: []string{"-tags", "no_btrfs,no_zfs,no_devmapper,no_tracing", "-ldflags", "-s -w"},
		}, {
			Module: "components/coredns", Folder: "components/coredns",
			Programs: map[string]string{"coredns": "."},
			Flags:    []string{"-ldflags", "-s -w"},
		}, {
			Module: "components/kubernetes", Folder: "components/kubernetes",
			Programs: map[string]string{"kubernetes": "."},
			Flags: []string{"-ldflags", "-s -w -X " + version + "gitVersion=" + kubernetesVersion +
				" -X " + version + "gitMajor=1 -X " + version + "gitMinor=36"},
		},
	}
}

// Paths returns where each program of the present sources is in the cache, built or not.
func Paths(ctx context.Context) (map[string]string, error) {
	source, err := Source()
	if err != nil {
		return nil, err
	}
	return paths(ctx, source)
}

// All returns where each program is, building those that are not in the cache. step wraps what takes long.
func All(ctx context.Context, step func(what string, f func() error) error) (map[string]string, error) {
	source, err := Source()
	if err != nil {
		return nil, err
	}
	programs, err := paths(ctx, source)
	if err != nil {
		return nil, err
	}
	for _, c := range Components() {
		for name, pkg := range c.Programs {
			if _, err := os.Stat(programs[name]); err == nil {
				continue
			}
			build := func() error { return c.build(ctx, source, pkg, programs[name]) }
			if err := step("building "+name, build); err != nil {
				return nil, err
			}
		}
	}
	return programs, nil
}

func paths(ctx context.Context, source string) (map[string]string, error) {
	version, err := goCommand(ctx, source, "env", "GOVERSION", "GOARCH").Output()
	if err != nil {
		return nil, fmt.Errorf("asking go for its version: %w", err)
	}
	programs := map[string]string{}
	for _, c := range Components() {
		dir, err := c.cacheDir(source, string(version))
		if err != nil {
			return nil, err
		}
		for name := range c.Programs {
			programs[name] = filepath.Join(dir, name)
		}
	}
	return programs, nil
}

// build writes the program as a whole or not at all.
func (c Component) build(ctx context.Context, source, pkg, out string) error {
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	part := fmt.Sprintf("%s.%d.part", out, os.Getpid())
	defer os.Remove(part)
	args := append([]string{"build", "-trimpath"}, c.Flags...)
	cmd := goCommand(ctx, filepath.Join(source, c.Module), append(args, "-o", part, pkg)...)
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s in %s: %w\n%s", strings.Join(cmd.Args[1:], " "), cmd.Dir, err, tail(output, 3000))
	}
	return os.Rename(part, out)
}

// cacheDir is named after everything that decides over the outcome.
func (c Component) cacheDir(source, version string) (string, error) {
	sum := sha256.New()
	fmt.Fprintf(sum, "%s %q\n", version, c.Flags)
	if err := hashFolder(sum, filepath.Join(source, c.Folder)); err != nil {
		return "", err
	}
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "bin", hex.EncodeToString(sum.Sum(nil))[:12]), nil
}

func hashFolder(sum io.Writer, folder string) error {
	return filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
		name := e.Name()
		relevant := strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") || name == "go.mod" || name == "go.sum"
		if err != nil || e.IsDir() || !relevant {
			return err
		}
		content, err := os.ReadFile(path)
		fmt.Fprintf(sum, "%s %x\n", strings.TrimPrefix(path, folder), sha256.Sum256(content))
		return err
	})
}

// CacheDir is where programs and images are kept for all clusters of a user.
func CacheDir() (string, error) {
	cache, err := os.UserCacheDir()
	return filepath.Join(cache, "dayfly", "testcluster"), err
}

// Source finds the folder of this module, whose components are to be built.
func Source() (string, error) {
	var starts []string
	if dir := os.Getenv("TESTCLUSTER_SOURCE"); dir != "" {
		starts = append(starts, dir)
	}
	if dir, err := os.Getwd(); err == nil {
		starts = append(starts, dir)
	}
	if exe, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(exe))
	}
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) {
		starts = append(starts, filepath.Dir(file))
	}
	for _, start := range starts {
		for dir := start; ; dir = filepath.Dir(dir) {
			for _, candidate := range []string{dir, filepath.Join(dir, "testcluster")} {
				if _, err := os.Stat(filepath.Join(candidate, "components/kubernetes/go.mod")); err == nil {
					return candidate, nil
				}
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", fmt.Errorf("the sources of the cluster's components are not near %s: run testcluster inside of the dayfly repository, or set TESTCLUSTER_SOURCE to its testcluster folder", strings.Join(starts, " or "))
}

func goCommand(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-mod=readonly", "PWD="+dir)
	return cmd
}

func tail(output []byte, n int) []byte {
	return bytes.TrimSpace(output[max(0, len(output)-n):])
}
