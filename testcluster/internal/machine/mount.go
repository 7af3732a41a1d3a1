package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// enterRoot makes a file system for the machine and leaves the host's. The host's programs are there, read-only; whatever
// the machine writes goes to memory or to its own folder, so that a workload with a hostPath volume sees the machine's
// /var, not the host's.
func (s Spec) enterRoot() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("parting from the host's mounts: %w", err)
	}
	root := filepath.Join(s.Dir, "root")
	if err := mountNew("tmpfs", root, "mode=755"); err != nil {
		return err
	}
	for _, step := range []func(root string) error{hostPrograms, s.kernelFiles, s.ownFiles, s.etc, s.binds} {
		if err := step(root); err != nil {
			return err
		}
	}
	if err := pivot(root); err != nil {
		return fmt.Errorf("entering the machine's root: %w", err)
	}
	// kubelet and containerd pass mounts on to containers.
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
}

func hostPrograms(root string) error {
	for _, name := range []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		info, err := os.Lstat("/" + name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return err
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink("/" + name)
			if err != nil {
				return err
			}
			if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
				return err
			}
		default:
			if err := bindReadOnly("/"+name, filepath.Join(root, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s Spec) kernelFiles(root string) error {
	if err := mountNew("proc", filepath.Join(root, "proc"), ""); err != nil {
		return err
	}
	// A new sysfs shows the network devices of the machine. The cgroup hierarchies hang in the host's.
	if err := mountNew("sysfs", filepath.Join(root, "sys"), ""); err != nil {
		return err
	}
	if err := bind("/sys/fs/cgroup", filepath.Join(root, "sys/fs/cgroup")); err != nil {
		return err
	}
	if err := bind("/dev", filepath.Join(root, "dev")); err != nil {
		return err
	}
	return mountNew("tmpfs", filepath.Join(root, "dev/shm"), "mode=1777")
}

func (s Spec) ownFiles(root string) error {
	if err := mountNew("tmpfs", filepath.Join(root, "run"), "mode=755"); err != nil {
		return err
	}
	if err := mountNew("tmpfs", filepath.Join(root, "tmp"), "mode=1777"); err != nil {
		return err
	}
	for _, kept := range []struct{ name, at string }{{"var", "var"}, {"logs", "var/log"}, {"etc", "etc/kubernetes"}} {
		from := filepath.Join(s.Dir, kept.name)
		if err := os.MkdirAll(from, 0o755); err != nil {
			return err
		}
		if err := bind(from, filepath.Join(root, kept.at)); err != nil {
			return err
		}
	}
	for _, dir := range []string{"root", "home", "mnt", "opt", "srv", "var/lib", "var/tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	err := os.Symlink("/run", filepath.Join(root, "var/run"))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// etc holds what the host's programs need to run and names of the machine's own.
func (s Spec) etc(root string) error {
	etc := filepath.Join(root, "etc")
	for _, name := range []string{"passwd", "group", "nsswitch.conf", "ld.so.cache", "protocols", "services", "os-release"} {
		content, err := os.ReadFile(filepath.Join("/etc", name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(etc, name), string(content)); err != nil {
			return err
		}
	}
	for name, content := range map[string]string{
		"hostname":    s.Name + "\n",
		"hosts":       "127.0.0.1 localhost " + s.Name + "\n",
		"resolv.conf": "nameserver " + s.Nameserver + "\n",
		"machine-id":  fmt.Sprintf("%032x\n", s.Name),
	} {
		if err := writeFile(filepath.Join(etc, name), content); err != nil {
			return err
		}
	}
	if _, err := os.Stat("/etc/alternatives"); err != nil {
		return nil
	}
	return bindReadOnly("/etc/alternatives", filepath.Join(etc, "alternatives")) // iptables is a link into it
}

func (s Spec) binds(root string) error {
	for _, to := range slices.Sorted(maps.Keys(s.Binds)) {
		mount := bind
		if slices.Contains(s.ReadOnly, to) {
			mount = bindReadOnly
		}
		if err := mount(s.Binds[to], filepath.Join(root, to)); err != nil {
			return err
		}
	}
	return nil
}

func pivot(root string) error {
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return err
	}
	return unix.Chdir("/")
}

func mountNew(kind, at, options string) error {
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(kind, at, kind, 0, options); err != nil {
		return fmt.Errorf("mounting a %s at %s: %w", kind, at, err)
	}
	return nil
}

// bind shows the file or folder from, with the mounts below it, at to.
func bind(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = os.MkdirAll(to, 0o755)
	} else if _, missing := os.Stat(to); missing != nil {
		err = writeFile(to, "")
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("showing %s at %s: %w", from, to, err)
	}
	return nil
}

func bindReadOnly(from, to string) error {
	if err := bind(from, to); err != nil {
		return err
	}
	if err := unix.Mount("", to, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("making %s read-only: %w", to, err)
	}
	return nil
}
