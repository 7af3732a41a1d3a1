package image

import (
	"archive/tar"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func TestImage(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"app": 0o755, "tree/a/b": 0o644} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a/b", filepath.Join(dir, "tree/link")); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "image.tar")
	spec := Spec{
		Ref:        "docker.io/dayfly/app:1",
		Files:      []string{filepath.Join(dir, "app") + "=/usr/bin/app", filepath.Join(dir, "tree") + "=/srv/tree"},
		Entrypoint: []string{"/usr/bin/app"}, User: "1000",
	}
	if err := Write(t.Context(), spec, out); err != nil {
		t.Fatal(err)
	}
	img, err := tarball.ImageFromPath(out, nil)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.OS != "linux" || config.Config.User != "1000" || config.Config.Entrypoint[0] != "/usr/bin/app" {
		t.Errorf("config: %+v", config)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatal(layers, err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for files := tar.NewReader(r); ; {
		h, err := files.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, h.FileInfo().Mode().String()+" "+h.Name+" "+h.Linkname)
	}
	want := []string{
		"dtrwxrwxrwx tmp/ ", "drwxr-xr-x usr/ ", "drwxr-xr-x usr/bin/ ", "-rwxr-xr-x usr/bin/app ",
		"drwxr-xr-x srv/ ", "drwxr-xr-x srv/tree/ ", "drwxr-xr-x srv/tree/a/ ", "-rw-r--r-- srv/tree/a/b ",
		"Lrwxrwxrwx srv/tree/link a/b",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestPlannedFiles(t *testing.T) {
	plan := "NOTE: This is only a simulation!\n" +
		"Inst gcc-12-base (12.2.0-14 Debian:12.1/stable [amd64])\n" +
		"Inst login (1:4.13+dfsg1-1 Debian:12.1/stable, Debian-Security:12/stable [amd64]) []\n" +
		"Inst ssl-cert (1.1.2 Debian:12.1/stable [all])\n" +
		"Conf login (1:4.13+dfsg1-1 Debian:12.1/stable [amd64])\n"
	want := []string{"gcc-12-base_12.2.0-14_amd64.deb", "login_1%3a4.13+dfsg1-1_amd64.deb", "ssl-cert_1.1.2_all.deb"}
	if diff := cmp.Diff(want, plannedFiles(plan)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}
