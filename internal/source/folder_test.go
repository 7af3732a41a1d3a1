package source

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"dayfly.dev/dayfly/internal/usererr"
	"github.com/google/go-cmp/cmp"
)

func write(t *testing.T, dir string, f Folder) {
	t.Helper()
	for name, data := range f {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func link(t *testing.T, to, at string) {
	t.Helper()
	if err := os.Symlink(to, at); err != nil {
		t.Fatal(err)
	}
}

func TestFolderIsReadWithoutWhatIsIgnored(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, files(".git/HEAD", "x", ".dayflyignore", "# not these\n*.log\nbin/\na/b/*.txt\n", "a/b/x.txt", "x", "a/b/x.yaml", "x", "a/c/x.txt", "x", "a/bin/tool", "x", "debug.log", "x", "empty", ""))
	link(t, "b/x.yaml", filepath.Join(dir, "a/link.yaml"))
	link(t, "a", filepath.Join(dir, "linked"))
	f, err := ReadFolder(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{".dayflyignore", "a/b/x.yaml", "a/c/x.txt", "a/link.yaml", "empty", "linked/b/x.yaml", "linked/c/x.txt"}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(f))); diff != "" {
		t.Error(diff)
	}
}

func TestFolderIsBoundedAndWithinItself(t *testing.T) {
	t.Parallel()
	many := Folder{}
	for i := range maxFiles + 1 {
		many["f"+strings.Repeat("x", i)[:i%50]+string(rune('a'+i/50))] = nil
	}
	for _, c := range []struct {
		why   string
		files Folder
		at    string
		to    string
		says  string
	}{
		{"a large file", files("a/large.bin", strings.Repeat("x", maxFile+1)), "", "", "a/large.bin is larger than 1 MiB"},
		{"much", files("a", strings.Repeat("x", maxFile), "b", strings.Repeat("x", maxFile), "c", strings.Repeat("x", maxFile), "d", strings.Repeat("x", maxFile), "e", strings.Repeat("x", maxFile), "f", strings.Repeat("x", maxFile), "g", strings.Repeat("x", maxFile), "h", strings.Repeat("x", maxFile), "i", "x"), "", "", "larger than 8 MiB: i is too much"},
		{"many", many, "", "", "more than 1000 files: "},
		{"a link to the outside", files("a", "x"), "b", "../../etc/passwd", "b is a link to ../../etc/passwd, which leads out of the folder"},
		{"a link from the root", files("a", "x"), "b", "/etc/passwd", "b is a link to /etc/passwd, which leads out of the folder"},
		{"a link to nothing", files("a", "x"), "b", "c", "b is a link to c, which is no part of the folder"},
		{"a link to itself", files("a", "x"), "b", "b", "b is a link that leads to itself"},
		{"a pattern back", files(".dayflyignore", "\n!a\n"), "", "", `.dayflyignore:2: the pattern "!a" is not understood`},
	} {
		dir := t.TempDir()
		write(t, dir, c.files)
		if c.at != "" {
			link(t, c.to, filepath.Join(dir, c.at))
		}
		_, err := ReadFolder(os.DirFS(dir))
		if err == nil || !strings.Contains(err.Error(), c.says) || usererr.CodeOf(err) == usererr.Failed {
			t.Errorf("%s: %v", c.why, err)
		}
	}
}

func TestPackIsReproducibleAndComesBack(t *testing.T) {
	t.Parallel()
	f := folder(t, "../../examples/shop")
	packed, err := f.Pack()
	if err != nil {
		t.Fatal(err)
	}
	again, err := maps.Clone(f).Pack()
	if err != nil || !bytes.Equal(packed, again) {
		t.Errorf("packed anew it differs: %v", err)
	}
	back, err := Unpack(packed)
	if err != nil || !maps.EqualFunc(f, back, bytes.Equal) {
		t.Errorf("it comes back different: %v", err)
	}
	if f.Digest() != back.Digest() || !strings.HasPrefix(f.Digest(), "sha256:") {
		t.Errorf("%s, then %s", f.Digest(), back.Digest())
	}
	back["x"] = nil
	if f.Digest() == back.Digest() {
		t.Error("another folder has the same digest")
	}
}

// tarOf makes an archive of one entry after the other.
func tarOf(t testing.TB, hs ...*tar.Header) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	for _, h := range hs {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestUnpackRefusesWhatPackDoesNotMake(t *testing.T) {
	t.Parallel()
	file := func(name string, size int64) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644}
	}
	var bomb []*tar.Header
	for i := range 9 {
		bomb = append(bomb, file("f"+string(rune('0'+i)), maxFile))
	}
	for _, c := range []struct {
		why    string
		packed []byte
		says   string
	}{
		{"no gzip", []byte("hello"), "it is no gzip"},
		{"no tar", func() []byte {
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			z.Write(bytes.Repeat([]byte("x"), 2000))
			z.Close()
			return b.Bytes()
		}(), "it is no tar"},
		{"a path upwards", tarOf(t, file("../x", 1)), `"../x" is no path in a folder`},
		{"an absolute path", tarOf(t, file("/etc/x", 1)), `"/etc/x" is no path in a folder`},
		{"a path through a folder upwards", tarOf(t, file("a/../../x", 1)), "is no path in a folder"},
		{"a link", tarOf(t, &tar.Header{Typeflag: tar.TypeSymlink, Name: "x", Linkname: "/etc"}), `"x" is no regular file`},
		{"a name twice", tarOf(t, file("x", 1), file("./x", 1)), `"./x" is there twice`},
		{"a large file", tarOf(t, file("x", maxFile+1)), "x is larger than 1 MiB"},
		{"a bomb", tarOf(t, bomb...), "the source is larger than 8 MiB: f8 is too much"},
		{"cut short", tarOf(t, file("x", 100))[:30], "it is no tar"},
	} {
		if _, err := Unpack(c.packed); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.why, err)
		}
	}
}

// Whatever comes, what is unpacked is within its bounds and comes back the same.
func FuzzUnpack(f *testing.F) {
	f.Add(tarOf(f, &tar.Header{Typeflag: tar.TypeReg, Name: "a/b.yaml", Size: 10, Mode: 0o644}, &tar.Header{Typeflag: tar.TypeDir, Name: "c/"}))
	f.Add(tarOf(f, &tar.Header{Typeflag: tar.TypeReg, Name: "../b.yaml", Size: 10}))
	f.Fuzz(func(t *testing.T, packed []byte) {
		got, err := Unpack(packed)
		if err != nil {
			return
		}
		if err := got.check(); err != nil {
			t.Fatal(err)
		}
		again, err := got.Pack()
		if err != nil {
			t.Fatal(err)
		}
		back, err := Unpack(again)
		if err != nil || !maps.EqualFunc(got, back, bytes.Equal) {
			t.Fatalf("it comes back different: %v", err)
		}
	})
}

// Whatever a file holds, it is rendered or refused with its name, and what is rendered is in the environment's namespace.
func FuzzManifests(f *testing.F) {
	f.Add([]byte(workloadNamed("web")), true)
	f.Add([]byte("apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Pod, metadata: {name: x}}]\n---\n--- # x\n..."), false)
	f.Add([]byte("apiVersion: v1\nkind: X\nmetadata: {name: ${A}, labels: null}\nspec: {template: {spec: {containers: [1]}}}\n"), true)
	f.Fuzz(func(t *testing.T, data []byte, parameters bool) {
		o := here
		o.Kind, o.Path = Manifests, "."
		if parameters {
			o.Parameters = map[string]any{"A": "x: y\n- z"}
		}
		r, err := render(t.Context(), Folder{"x.yaml": data}, o)
		if err != nil {
			if usererr.CodeOf(err) == usererr.Failed {
				t.Fatalf("no error for a person: %v", err)
			}
			return
		}
		for _, c := range r.Components {
			for _, o := range c.Objects {
				if o.GetNamespace() != "env-pr-1" || o.GetName() == "" || o.GetKind() == "" {
					t.Fatalf("%v", o.Object)
				}
			}
		}
		r.Digest()
	})
}
