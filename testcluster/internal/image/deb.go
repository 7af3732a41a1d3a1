package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// addDebs adds the files of Debian packages and of all that they depend on, a base system included, as if nothing were
// installed. Their maintainer scripts do not run.
func (l *layer) addDebs(ctx context.Context, packages []string, user string) error {
	debs, err := downloadDebs(ctx, packages)
	if err != nil {
		return err
	}
	for _, dir := range mergedDirs {
		l.link(dir, "usr/"+dir)
	}
	accounts := map[string]string{}
	for _, deb := range debs {
		if err := l.addDeb(ctx, deb, accounts); err != nil {
			return fmt.Errorf("unpacking %s: %w", deb, err)
		}
	}
	l.file("etc/passwd", accounts["passwd"]+passwd(user))
	l.file("etc/group", accounts["group"])
	return l.err
}

// mergedDirs are links into /usr on a Debian system; packages still have files in them.
var mergedDirs = []string{"bin", "sbin", "lib", "lib64"}

func (l *layer) addDeb(ctx context.Context, deb string, accounts map[string]string) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	files := tar.NewReader(out)
	for {
		h, err := files.Next()
		if err == io.EOF {
			break
		}
		if err == nil {
			err = l.addDebFile(h, files, accounts)
		}
		if err != nil {
			return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
		}
	}
	io.Copy(io.Discard, out)
	return cmd.Wait()
}

func (l *layer) addDebFile(h *tar.Header, content io.Reader, accounts map[string]string) error {
	h.Name = strings.Trim(path.Clean("/"+h.Name), "/")
	if slices.Contains(mergedDirs, h.Name) {
		return nil
	}
	h.Name = merged(h.Name)
	if h.Typeflag == tar.TypeLink {
		h.Linkname = merged(strings.Trim(path.Clean("/"+h.Linkname), "/"))
	}
	if kind, ok := strings.CutPrefix(h.Name, "usr/share/base-passwd/"); ok && strings.HasSuffix(kind, ".master") {
		text, err := io.ReadAll(content)
		accounts[strings.TrimSuffix(kind, ".master")] = string(text)
		return err
	}
	l.add(h, content)
	return l.err
}

func merged(name string) string {
	if first, _, _ := strings.Cut(name, "/"); slices.Contains(mergedDirs, first) {
		return "usr/" + name
	}
	return name
}

// downloadDebs fetches packages and their dependencies with apt-get, which checks their signatures, into a folder of the
// cache, and returns the files.
func downloadDebs(ctx context.Context, packages []string) ([]string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cache, "dayfly", "testcluster", "debs")
	if err := os.MkdirAll(filepath.Join(dir, "partial"), 0o755); err != nil {
		return nil, err
	}
	nothing := filepath.Join(dir, "nothing-installed")
	if err := os.WriteFile(nothing, nil, 0o644); err != nil {
		return nil, err
	}
	apt := func(action string) (string, error) {
		cmd := exec.CommandContext(ctx, "apt-get", append([]string{action, "-qq", "--yes", "--no-install-recommends",
			"-o", "Dir::State::status=" + nothing, "-o", "Dir::Cache::archives=" + dir,
			"-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1", "install", "?essential"}, packages...)...)
		cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
		out, err := cmd.CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("apt-get does not get %s (apt-get update may help): %s", strings.Join(packages, ", "), strings.TrimSpace(string(out)))
		}
		return string(out), nil
	}
	plan, err := apt("--simulate")
	if err != nil {
		return nil, err
	}
	if _, err := apt("--download-only"); err != nil {
		return nil, err
	}
	var files []string
	for _, name := range plannedFiles(plan) {
		files = append(files, filepath.Join(dir, name))
	}
	return files, nil
}

// plannedFiles names the files of what apt-get says it would install, with lines such as
// "Inst libc6 (2.36-9 Debian:12.1/stable [amd64])".
func plannedFiles(plan string) []string {
	var files []string
	for line := range strings.Lines(plan) {
		name, rest, ok := strings.Cut(strings.TrimPrefix(line, "Inst "), " (")
		if !ok || !strings.HasPrefix(line, "Inst ") {
			continue
		}
		version, rest, _ := strings.Cut(rest, " ")
		_, arch, _ := strings.Cut(rest, "[")
		arch, _, _ = strings.Cut(arch, "]")
		files = append(files, fmt.Sprintf("%s_%s_%s.deb", name, strings.ReplaceAll(version, ":", "%3a"), arch))
	}
	return files
}
