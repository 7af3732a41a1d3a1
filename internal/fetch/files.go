package fetch

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"dayfly.dev/dayfly/internal/source"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
)

// files is a tree of Git as a file system, which is read as it is asked for.
type files struct{ tree *object.Tree }

func (f files) at(op, name string) (entry, error) {
	if !fs.ValidPath(name) {
		return entry{}, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	if name == "." {
		return entry{name: ".", mode: filemode.Dir}, nil
	}
	e, err := f.tree.FindEntry(name)
	if errors.Is(err, object.ErrEntryNotFound) || errors.Is(err, object.ErrDirectoryNotFound) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return entry{}, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return entry{path.Base(name), e.Mode}, nil
}

// Open opens a file, or a folder of which nothing but that it is one can be seen.
func (f files) Open(name string) (fs.File, error) {
	e, err := f.at("open", name)
	if err != nil {
		return nil, err
	}
	if e.IsDir() {
		return opened{e, bytes.NewReader(nil)}, nil
	}
	data, err := f.read(name, e)
	if err != nil {
		return nil, wrap("opening", name, err)
	}
	return opened{e, bytes.NewReader(data)}, nil
}

// read reads of a file no more than would be too much.
func (f files) read(name string, e entry) ([]byte, error) {
	if e.mode == filemode.Submodule {
		return nil, errSubmodule
	}
	found, err := f.tree.FindEntry(name)
	if err != nil {
		return nil, err
	}
	file, err := f.tree.TreeEntryFile(found)
	if err != nil {
		return nil, err
	}
	r, err := file.Reader()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, source.MaxFile+1))
}

// ReadDir lists a folder.
func (f files) ReadDir(name string) ([]fs.DirEntry, error) {
	tree := f.tree
	if name != "." {
		var err error
		if tree, err = f.tree.Tree(name); err != nil {
			return nil, wrap("listing", name, err)
		}
	}
	var out []fs.DirEntry
	for _, e := range tree.Entries {
		if !fs.ValidPath(e.Name) || e.Name == "." || strings.Contains(e.Name, "/") {
			return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrInvalid}
		}
		out = append(out, fs.FileInfoToDirEntry(entry{e.Name, e.Mode}))
	}
	slices.SortFunc(out, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return out, nil
}

// ReadLink says where a link leads.
func (f files) ReadLink(name string) (string, error) {
	e, err := f.at("readlink", name)
	if err != nil {
		return "", err
	}
	to, err := f.read(name, e)
	return string(to), err
}

// Lstat says what there is.
func (f files) Lstat(name string) (fs.FileInfo, error) { return f.at("lstat", name) }

// entry is one name in a tree. A submodule passes for a file, which cannot be opened.
type entry struct {
	name string
	mode filemode.FileMode
}

func (e entry) Name() string     { return e.name }
func (entry) Size() int64        { return 0 } // nobody asks
func (entry) ModTime() time.Time { return time.Time{} }
func (e entry) IsDir() bool      { return e.mode == filemode.Dir }
func (entry) Sys() any           { return nil }

func (e entry) Mode() fs.FileMode {
	switch e.mode {
	case filemode.Dir:
		return fs.ModeDir | 0o755
	case filemode.Symlink:
		return fs.ModeSymlink | 0o777
	}
	return 0o644
}

type opened struct {
	entry
	*bytes.Reader
}

func (o opened) Size() int64                { return o.Reader.Size() }
func (o opened) Stat() (fs.FileInfo, error) { return o.entry, nil }
func (opened) Close() error                 { return nil }
