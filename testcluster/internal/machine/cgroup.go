package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupMount = "/sys/fs/cgroup"

// CgroupV2 tells whether the host has the unified hierarchy only.
func CgroupV2() bool {
	var stat unix.Statfs_t
	return unix.Statfs(cgroupMount, &stat) == nil && stat.Type == unix.CGROUP2_SUPER_MAGIC
}

// hierarchies lists the roots of all cgroup hierarchies.
func hierarchies() []string {
	if CgroupV2() {
		return []string{cgroupMount}
	}
	var found []string
	dirs, _ := filepath.Glob(cgroupMount + "/*")
	for _, dir := range dirs {
		if info, err := os.Lstat(dir); err == nil && info.IsDir() { // some are links to others
			found = append(found, dir)
		}
	}
	return found
}

// MakeCgroup creates the cgroup path, such as /a/b, in every hierarchy.
func MakeCgroup(path string) error {
	for _, root := range hierarchies() {
		dir := root
		for name := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
			if CgroupV2() {
				if err := delegate(dir); err != nil {
					return err
				}
			}
			dir = filepath.Join(dir, name)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("making the cgroup %s: %w", path, err)
			}
		}
	}
	return nil
}

// delegate lets the children of a v2 cgroup have the controllers that it has.
func delegate(dir string) error {
	controllers, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(controllers)) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+name), 0); err != nil {
			if slices.Contains([]string{"cpu", "cpuset", "memory", "pids", "io"}, name) {
				return fmt.Errorf("enabling the cgroup controller %s below %s: %w", name, dir, err)
			}
		}
	}
	return nil
}

// RemoveCgroup removes the cgroup path and those below it from every hierarchy, once their last processes have gone.
func RemoveCgroup(path string) error {
	for _, root := range hierarchies() {
		dir := filepath.Join(root, path)
		err := await(10*time.Second, func() (bool, error) { return removeTree(dir) == nil, nil }, "")
		if err != nil {
			return fmt.Errorf("the cgroup %s is still in use: see its cgroup.procs", dir)
		}
	}
	return nil
}

// removeTree removes cgroup folders, deepest first; their files cannot and need not be removed.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return os.Remove(dir)
}
