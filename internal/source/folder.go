package source

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"dayfly.dev/dayfly/internal/usererr"
)

// Bounds of a folder.
const (
	maxFiles  = 1000
	maxFolder = 8 << 20 // bytes
	maxFile   = MaxFile
	maxName   = 1024 // bytes
)

// MaxFile is the size of a file up to which it can be a part of a source, in bytes.
const MaxFile = 1 << 20

// mostPacked is what a Blueprint holds, in bytes of the packed folder.
const mostPacked = 900 << 10

// IgnoreFile lists what of a folder is no part of the source: a pattern a line ([path.Match]), without a slash for any name,
// with one for a path from the root; a folder goes with all that is in it. Lines that start with # are comments.
const IgnoreFile = ".dayflyignore"

// Folder is a source's files by slash-separated relative path: at most 1,000, of 1 MiB each, 8 MiB in all. Its bytes are not changed.
type Folder map[string][]byte

// ReadFolder reads a folder, without .git and what [IgnoreFile] lists. Symbolic links are followed within the folder only.
func ReadFolder(fsys fs.FS) (Folder, error) {
	ignored, err := ignoring(fsys)
	if err != nil {
		return nil, err
	}
	r := reader{fsys: fsys, f: Folder{}, links: map[string]string{}}
	err = fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name == ".":
			return nil
		case d.Name() == ".git" || ignored(name):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return nil
		}
		return r.read(name, d)
	})
	if err == nil {
		err = r.follow()
	}
	if err != nil {
		return nil, err
	}
	return r.f, r.f.check()
}

// reader reads one folder.
type reader struct {
	fsys  fs.FS
	f     Folder
	size  int
	links map[string]string // a link's path to where it leads
}

func (r *reader) read(name string, d fs.DirEntry) error {
	switch {
	case d.Type()&fs.ModeSymlink != 0:
		to, err := fs.ReadLink(r.fsys, name)
		if err != nil {
			return err
		}
		r.links[name] = to
		return nil
	case !d.Type().IsRegular():
		return nil // a socket, a pipe, a device: no source
	}
	file, err := r.fsys.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	return r.add(name, data)
}

func (r *reader) add(name string, data []byte) error {
	r.size += len(data)
	if err := within(name, len(data), len(r.f)+1, r.size); err != nil {
		return err
	}
	r.f[name] = data
	return nil
}

// within says which bound a file breaks, if it does.
func within(name string, size, files, all int) error {
	problem := ""
	switch {
	case len(name) > maxName:
		problem = fmt.Sprintf("%s… has a name of more than %d bytes", name[:64], maxName)
	case size > maxFile:
		problem = fmt.Sprintf("%s is larger than %d MiB", name, maxFile>>20)
	case files > maxFiles:
		problem = fmt.Sprintf("the source has more than %d files: %s is one too many", maxFiles, name)
	case all > maxFolder:
		problem = fmt.Sprintf("the source is larger than %d MiB: %s is too much", maxFolder>>20, name)
	default:
		return nil
	}
	return usererr.New(usererr.Refused, "name the folder that holds the manifests, or list in "+IgnoreFile+" what is not needed", "%s", problem)
}

// follow gives links the content of what they lead to, which must have been read.
func (r *reader) follow() error {
	real := maps.Clone(r.f)
	for _, name := range sortedKeys(r.links) {
		to, err := r.target(name)
		if err != nil {
			return err
		}
		if data, ok := real[to]; ok {
			if err := r.add(name, data); err != nil {
				return err
			}
			continue
		}
		found := false
		for _, file := range sortedKeys(real) {
			if rest, ok := strings.CutPrefix(file, to+"/"); ok {
				found = true
				if err := r.add(name+"/"+rest, real[file]); err != nil {
					return err
				}
			}
		}
		if !found {
			return usererr.New(usererr.Refused, "put the file itself there, or list the link in "+IgnoreFile, "%s is a link to %s, which is no part of the folder", name, r.links[name])
		}
	}
	return nil
}

// target is where a link leads in the end, without asking the file system again.
func (r *reader) target(name string) (string, error) {
	out := usererr.New(usererr.Refused, "put the file itself there, or list the link in "+IgnoreFile, "%s is a link to %s, which leads out of the folder", name, r.links[name])
	at := name
	for range 10 {
		to, ok := r.links[at]
		if !ok {
			return at, nil
		}
		if path.IsAbs(to) {
			return "", out
		}
		if at = path.Join(path.Dir(at), to); !fs.ValidPath(at) || at == "." {
			return "", out
		}
	}
	return "", usererr.New(usererr.Refused, "", "%s is a link that leads to itself", name)
}

// ignoring reads IgnoreFile.
func ignoring(fsys fs.FS) (func(name string) bool, error) {
	data, err := fs.ReadFile(fsys, IgnoreFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var patterns []string
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if _, err := path.Match(line, ""); err != nil || line[0] == '!' || strings.Contains(line, "**") {
			return nil, usererr.New(usererr.Usage, "a line is a name or a path from the root, with *, ? and [a-z]", "%s:%d: the pattern %q is not understood", IgnoreFile, n, line)
		}
		patterns = append(patterns, strings.TrimSuffix(line, "/"))
	}
	return func(name string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool {
			against := name
			if !strings.Contains(p, "/") {
				against = path.Base(name)
			}
			ok, _ := path.Match(strings.TrimPrefix(p, "/"), against)
			return ok
		})
	}, nil
}

// check holds a folder that was not made by ReadFolder or Unpack to its bounds.
func (f Folder) check() error {
	size, n := 0, 0
	for _, name := range sortedKeys(f) {
		n++
		size += len(f[name])
		if err := within(name, len(f[name]), n, size); err != nil {
			return err
		}
		if !fs.ValidPath(name) || name == "." || strings.ContainsAny(name, "\\\x00") {
			return usererr.New(usererr.Refused, "", "the source has a file with the name %q", name)
		}
	}
	return nil
}

// has says whether there is a file in a subfolder.
func (f Folder) has(dir string) bool {
	if dir == "." {
		return len(f) > 0
	}
	for name := range f {
		if strings.HasPrefix(name, dir+"/") {
			return true
		}
	}
	return false
}

// Sub is a subfolder, slash-separated; "" is the folder itself.
func (f Folder) Sub(dir string) (Folder, error) {
	dir = path.Clean(dir)
	if dir == "." {
		return f, nil
	}
	out := Folder{}
	for name, data := range f {
		if rest, ok := strings.CutPrefix(name, dir+"/"); ok {
			out[rest] = data
		}
	}
	if len(out) == 0 {
		return nil, usererr.New(usererr.NotFound, "", "there is no folder %s", dir)
	}
	return out, nil
}

// tar writes the files, sorted, without times, owners or modes: the same bytes for the same files.
func (f Folder) tar(w io.Writer) error {
	t := tar.NewWriter(w)
	for _, name := range sortedKeys(f) {
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(f[name])), Mode: 0o644}); err != nil {
			return fmt.Errorf("packing %s: %w", name, err)
		}
		if _, err := t.Write(f[name]); err != nil {
			return fmt.Errorf("packing %s: %w", name, err)
		}
	}
	return t.Close()
}

// Pack returns the folder as a tar.gz: the same bytes for the same files.
func (f Folder) Pack() ([]byte, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if err := f.tar(z); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// PackStored returns the folder as [Folder.Pack] does, if it is small enough for a Blueprint.
func (f Folder) PackStored() ([]byte, error) {
	packed, err := f.Pack()
	if err == nil && len(packed) > mostPacked {
		return nil, usererr.New(usererr.Refused, "name the folder that holds the manifests, or list in "+IgnoreFile+" what is not needed",
			"the folder has %d KiB when packed, and a cluster stores no more than %d", len(packed)>>10, mostPacked>>10)
	}
	return packed, err
}

// Digest identifies the files: sha256:… of the tar within [Folder.Pack], so that it is the same with every version of gzip.
func (f Folder) Digest() string {
	h := sha256.New()
	if err := f.tar(h); err != nil {
		panic(err) // a hash takes all, and names that no tar can hold are refused before
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// Unpack reads what Pack wrote, or another tar.gz of regular files within the bounds of a folder.
func Unpack(packed []byte) (Folder, error) {
	refuse := func(format string, args ...any) error {
		return usererr.New(usererr.Refused, "", "the archive holds no folder as a source can be: "+format, args...)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, refuse("it is no gzip").(*usererr.Error).Because(err)
	}
	// Headers and padding come to less than as much again.
	t := tar.NewReader(bufio.NewReader(io.LimitReader(z, 2*maxFolder+maxFiles*4096)))
	r := reader{f: Folder{}}
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return r.f, nil
		}
		if err != nil {
			return nil, refuse("it is no tar").(*usererr.Error).Because(err)
		}
		name := path.Clean(h.Name)
		switch {
		case h.Typeflag == tar.TypeDir || h.Typeflag == tar.TypeXGlobalHeader:
			continue
		case h.Typeflag != tar.TypeReg:
			return nil, refuse("%q is no regular file", h.Name)
		case !fs.ValidPath(name) || name == "." || strings.ContainsAny(h.Name, "\\\x00") || path.IsAbs(h.Name):
			return nil, refuse("%q is no path in a folder", h.Name)
		case r.f[name] != nil:
			return nil, refuse("%q is there twice", h.Name)
		case h.Size > maxFile:
			return nil, within(name, int(min(h.Size, 1<<31-1)), 0, 0)
		}
		data, err := io.ReadAll(io.LimitReader(t, maxFile+1))
		if err != nil {
			return nil, refuse("%q cannot be read", h.Name).(*usererr.Error).Because(err)
		}
		if err := r.add(name, data); err != nil {
			return nil, err
		}
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
