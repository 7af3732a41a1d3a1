// Package image makes container images from files, without a container engine or a registry.
package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/compression"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Spec says what is in an image.
type Spec struct {
	Ref string
	// Files are SRC=DST: a file or folder of the host and its path in the image.
	Files []string
	// Debs are Debian packages, whose files are there with those of all packages they depend on.
	Debs       []string
	Entrypoint []string
	Cmd        []string
	Env        []string
	User       string
	Workdir    string
}

// Write writes the image to the file out, as `docker save` would.
func Write(ctx context.Context, spec Spec, out string) error {
	ref, err := name.NewTag(spec.Ref)
	if err != nil {
		return fmt.Errorf("%q is not an image name such as docker.io/library/app:1: %w", spec.Ref, err)
	}
	layers, err := os.CreateTemp(filepath.Dir(out), ".layer-")
	if err != nil {
		return err
	}
	defer os.Remove(layers.Name())
	defer layers.Close()
	if err := spec.writeLayer(ctx, layers); err != nil {
		return err
	}
	// Uncompressed: an image is loaded on the machine where it is made.
	layer, err := tarball.LayerFromFile(layers.Name(), tarball.WithCompression(compression.None))
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	if img, err = mutate.ConfigFile(img, spec.config(img)); err != nil {
		return err
	}
	part := out + ".part"
	defer os.Remove(part)
	if err := tarball.WriteToFile(part, ref, img); err != nil {
		return fmt.Errorf("writing %s: %w", out, err)
	}
	return os.Rename(part, out)
}

func (s Spec) config(img v1.Image) *v1.ConfigFile {
	file, err := img.ConfigFile()
	if err != nil {
		panic(err) // it is in memory
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", runtime.GOARCH
	file.Config = v1.Config{
		Entrypoint: s.Entrypoint,
		Cmd:        s.Cmd,
		User:       s.User,
		WorkingDir: s.Workdir,
		Env:        append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, s.Env...),
	}
	return file
}

func (s Spec) writeLayer(ctx context.Context, w io.Writer) error {
	l := newLayer(w)
	l.folder("tmp", 0o1777)
	if len(s.Debs) > 0 {
		if err := l.addDebs(ctx, s.Debs, s.User); err != nil {
			return err
		}
	}
	for _, f := range s.Files {
		src, dst, ok := strings.Cut(f, "=")
		if !ok || !path.IsAbs(dst) {
			return fmt.Errorf("%q is not SRC=DST with an absolute DST, such as ./app=/usr/bin/app", f)
		}
		if err := l.addTree(src, dst); err != nil {
			return err
		}
	}
	return l.close()
}

// layer is a tar file that gets no path twice and each folder before what is in it. The first error sticks.
type layer struct {
	tar  *tar.Writer
	seen map[string]bool
	err  error
}

func newLayer(w io.Writer) *layer { return &layer{tar: tar.NewWriter(w), seen: map[string]bool{}} }

func (l *layer) close() error { return errors.Join(l.err, l.tar.Close()) }

// add writes an entry, unless its path is taken.
func (l *layer) add(h *tar.Header, content io.Reader) {
	h.Name = strings.Trim(path.Clean("/"+h.Name), "/")
	if h.Name == "" || l.seen[h.Name] || l.err != nil {
		return
	}
	if dir := path.Dir(h.Name); dir != "." {
		l.folder(dir, 0o755)
	}
	l.seen[h.Name] = true
	if h.Typeflag == tar.TypeDir {
		h.Name += "/"
	}
	h.Uname, h.Gname, h.Format = "", "", tar.FormatPAX
	if l.err = l.tar.WriteHeader(h); l.err == nil && content != nil {
		_, l.err = io.Copy(l.tar, content)
	}
}

func (l *layer) folder(name string, mode int64) {
	l.add(&tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode}, nil)
}

func (l *layer) link(name, to string) {
	l.add(&tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777}, nil)
}

func (l *layer) file(name, content string) {
	l.add(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: int64(len(content)), Mode: 0o644}, bytes.NewReader([]byte(content)))
}

// addTree adds a file or folder of the host; everything belongs to root.
func (l *layer) addTree(src, dst string) error {
	return filepath.WalkDir(src, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(p)
		if p == src {
			info, err = os.Stat(p)
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, p)
		if err != nil {
			return err
		}
		h := &tar.Header{Name: path.Join(dst, rel), Mode: int64(info.Mode().Perm())}
		switch {
		case info.IsDir():
			h.Typeflag = tar.TypeDir
			l.add(h, nil)
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			l.link(h.Name, to)
		case info.Mode().IsRegular():
			f, err := os.Open(p)
			if err != nil {
				return err
			}
			defer f.Close()
			h.Typeflag, h.Size = tar.TypeReg, info.Size()
			l.add(h, f)
		}
		return l.err
	})
}

// passwd returns an entry for a numeric user, since many programs refuse to run as a user without a name.
func passwd(user string) string {
	uid, gid, ok := strings.Cut(user, ":")
	if !ok {
		gid = uid
	}
	if _, err := strconv.Atoi(uid); err != nil || uid == "0" {
		return ""
	}
	return fmt.Sprintf("app:x:%s:%s::/tmp:/bin/sh\n", uid, gid)
}
