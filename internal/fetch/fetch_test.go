package fetch

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/source"
	"dayfly.dev/dayfly/internal/usererr"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The test is the program that fetches apart, too.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "serve-apart" {
		if err := ServeApart(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const user, password = "ada", "s3cret-of-ada"

// locked lets in who knows the password.
func locked(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			http.Error(w, "who are you? not "+p, http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func serve(t *testing.T, h http.Handler) (url string, ca []byte) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

// repository is one of Git, on a server of Git's own.
type repository struct {
	t   *testing.T
	dir string
	url string
	ca  []byte
}

func newRepository(t *testing.T, wrap func(http.Handler) http.Handler) *repository {
	t.Helper()
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatalf("%v: make debs installs it", err)
	}
	root := t.TempDir()
	r := &repository{t: t, dir: filepath.Join(root, "team", "shop")}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	backend := &cgi.Handler{Path: git, Args: []string{"http-backend"}, Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "HOME=" + root, "GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}, Stderr: io.Discard, Logger: log.New(io.Discard, "", 0)}
	r.git("init", "-q", "-b", "main")
	r.url, r.ca = serve(t, wrap(backend))
	r.url += "/team/shop"
	return r
}

func (r *repository) git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", append([]string{"-C", r.dir, "-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "protocol.file.allow=always"}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+r.dir, "GIT_CONFIG_NOSYSTEM=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %s: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit writes files, by path, and returns the commit.
func (r *repository) commit(files map[string]string) string {
	r.t.Helper()
	for name, text := range files {
		path := filepath.Join(r.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			r.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			r.t.Fatal(err)
		}
	}
	r.git("add", "-A")
	r.git("commit", "-q", "-m", "a change")
	return r.git("rev-parse", "HEAD")
}

func (r *repository) request(ref, path string) Request {
	return Request{Loopback: true, Source: v1alpha1.Source{Git: &v1alpha1.GitSource{URL: r.url, Ref: ref, SourceFolder: v1alpha1.SourceFolder{Path: path, SecretName: "git"}}},
		Secret: map[string][]byte{KeyUsername: []byte(user), KeyPassword: []byte(password), KeyCA: r.ca}}
}

func names(t *testing.T, f *Fetched) string {
	t.Helper()
	folder, err := source.Unpack(f.Packed)
	if err != nil {
		t.Fatal(err)
	}
	if folder.Digest() != f.Digest {
		t.Errorf("the folder has the digest %s, not %s", folder.Digest(), f.Digest)
	}
	var out []string
	for name, data := range folder {
		out = append(out, name+"="+string(data[:min(len(data), 20)]))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// A branch, a tag, a commit and the default branch are found, each as one commit, of a server of Git's own that wants credentials.
func TestGit(t *testing.T) {
	t.Parallel()
	r := newRepository(t, locked)
	first := r.commit(map[string]string{"deploy/a.yaml": "1", "README": "no part of it", "deploy/dev/b.yaml": "b", "deploy/.dayflyignore": "*.png\n", "deploy/x.png": "large"})
	r.git("tag", "-a", "-m", "annotated", "v1")
	r.git("tag", "plain")
	second := r.commit(map[string]string{"deploy/a.yaml": "2"})
	r.git("branch", "feature/x")
	if err := os.Symlink("a.yaml", filepath.Join(r.dir, "deploy", "link.yaml")); err != nil {
		t.Fatal(err)
	}
	third := r.commit(nil)
	for _, c := range []struct{ ref, path, commit, files string }{
		{"", "deploy", third, ".dayflyignore=*.png\n a.yaml=2 dev/b.yaml=b link.yaml=2"},
		{"main", "deploy/dev", third, "b.yaml=b"},
		{"feature/x", "deploy", second, ".dayflyignore=*.png\n a.yaml=2 dev/b.yaml=b"},
		{"refs/heads/feature/x", "deploy/dev", second, "b.yaml=b"},
		{"v1", "deploy", first, ".dayflyignore=*.png\n a.yaml=1 dev/b.yaml=b"},
		{"plain", "deploy/dev", first, "b.yaml=b"},
		{first, "deploy/dev", first, "b.yaml=b"},   // the tip of a tag, annotated and plain
		{second, "deploy/dev", second, "b.yaml=b"}, // of a branch
	} {
		got, err := Fetch(t.Context(), r.request(c.ref, c.path))
		if err != nil {
			t.Errorf("%s: %v", c.ref, err)
			continue
		}
		if files := names(t, got); got.Revision != c.commit || files != c.files {
			t.Errorf("%q: commit %s with %s, want %s with %s", c.ref, got.Revision, files, c.commit, c.files)
		}
	}
	r.git("branch", "-D", "feature/x")
	if _, err := Fetch(t.Context(), r.request(second, "deploy")); usererr.CodeOf(err) != usererr.NotFound || !strings.Contains(err.Error(), "not at the tip") {
		t.Errorf("a commit in between: %v", err)
	}
	r.git("config", "uploadpack.allowReachableSHA1InWant", "true")
	if got, err := Fetch(t.Context(), r.request(second, "deploy/dev")); err != nil || got.Revision != second {
		t.Errorf("a commit in between that the server gives out: %v", err)
	}
	r.git("branch", first, third) // a branch that is called like a commit is not that commit
	if got, err := Fetch(t.Context(), r.request(first, "deploy/dev")); err != nil || got.Revision != first {
		t.Errorf("%v", err)
	}
}

// What is wrong with a repository is said, each with what to do about it, and never with the password.
func TestGitRefuses(t *testing.T) {
	t.Parallel()
	r := newRepository(t, locked)
	r.commit(map[string]string{"a/a.yaml": "1", "big/b.bin": strings.Repeat("0123456789abcdef", 80<<10), "ignored/.dayflyignore": "b.bin\n", "ignored/b.bin": strings.Repeat("fedcba9876543210", 80<<10), "ignored/c": "c"})
	r.git("update-index", "--add", "--cacheinfo", "160000,"+r.git("rev-parse", "HEAD")+",a/sub")
	r.git("commit", "-q", "-m", "a submodule")
	wrong := r.request("", "big")
	wrong.Secret = map[string][]byte{KeyUsername: []byte(user), KeyPassword: []byte("wrong-password"), KeyCA: r.ca}
	none := r.request("", "big")
	none.Secret, none.Source.Git.SecretName = map[string][]byte{KeyCA: r.ca}, ""
	unknown := r.request("", "big")
	unknown.Secret = map[string][]byte{KeyUsername: []byte(user), KeyPassword: []byte(password)}
	nowhere := r.request("", "")
	nowhere.Source.Git.URL = "https://127.0.0.1:1/x"
	guarded := r.request("", "")
	guarded.Loopback = false
	elsewhere := r.request("", "")
	elsewhere.Source.Git.URL = strings.Replace(r.url, "shop", "nothing", 1)
	for _, c := range []struct {
		name, want string
		code       usererr.Code
		request    Request
	}{
		{"no such branch", "there is no branch or tag nope", usererr.NotFound, r.request("nope", "")},
		{"no such folder", "there is no folder nope in commit", usererr.NotFound, r.request("", "nope")},
		{"no such repository", "there is no such repository", usererr.NotFound, elsewhere},
		{"a short hash", "there is no branch or tag 0123abc", usererr.NotFound, r.request("0123abc", "")},
		{"too large a file", "b.bin is larger than 1 MiB", usererr.Refused, r.request("", "big")},
		{"a submodule", "sub is a submodule", usererr.Refused, r.request("", "a")},
		{"wrong credentials", "refuses the credentials in Secret git", usererr.Forbidden, wrong},
		{"no credentials", "wants credentials", usererr.Forbidden, none},
		{"an unknown authority", "certificate signed by unknown authority", usererr.Refused, unknown},
		{"nobody there", "Git source unreachable: https://127.0.0.1:1/x: ", usererr.Failed, nowhere},
		{"an address that is not asked", "127.0.0.1 is not connected to", usererr.Refused, guarded},
	} {
		_, err := Fetch(t.Context(), c.request)
		if err == nil || usererr.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: code %d, %v", c.name, usererr.CodeOf(err), err)
		}
		if s := fmt.Sprint(err, usererr.FixOf(err)); strings.Contains(s, password) || strings.Contains(s, "wrong-password") {
			t.Errorf("%s: the password is in it: %s", c.name, s)
		}
	}
	for _, filter := range []string{"false", "true"} { // whether the server can leave out what is too large
		r.git("config", "uploadpack.allowFilter", filter)
		if got, err := Fetch(t.Context(), r.request("", "ignored")); err != nil || names(t, got) != ".dayflyignore=b.bin\n c=c" {
			t.Errorf("filter %s: %v", filter, err)
		}
		if _, err := Fetch(t.Context(), r.request("", "big")); err == nil || !strings.Contains(err.Error(), "b.bin is larger than 1 MiB") {
			t.Errorf("filter %s: %v", filter, err)
		}
	}
	if err := Reach(t.Context(), nowhere); usererr.CodeOf(err) != usererr.Failed || !strings.Contains(err.Error(), "Git source unreachable") {
		t.Errorf("%v", err)
	}
	if err := Reach(t.Context(), guarded); usererr.CodeOf(err) != usererr.Refused {
		t.Errorf("%v", err)
	}
	if err := Reach(t.Context(), r.request("", "")); err != nil {
		t.Error(err)
	}
	if _, err := Apart(t.Context(), exec.Command("false"), r.request("", "")); usererr.CodeOf(err) != usererr.Failed {
		t.Errorf("%v", err)
	}
}

// A large repository whose folder is small is fetched, in a process apart that keeps to its memory; a larger one is refused.
func TestLargeRepositories(t *testing.T) {
	t.Parallel()
	r := newRepository(t, locked)
	noise := make([]byte, 30<<20)
	for i, x := 0, uint64(88172645463325252); i < len(noise); i++ {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		noise[i] = byte(x)
	}
	r.git("config", "core.compression", "0")
	r.git("config", "pack.window", "0") // the server need not try: it is noise
	files := map[string]string{"deploy/a.yaml": "1"}
	for i := range len(noise) >> 20 {
		files[fmt.Sprintf("assets/%d", i)] = string(noise[i<<20 : (i+1)<<20])
	}
	r.commit(files)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Apart(t.Context(), exec.Command(self, "serve-apart"), r.request("", "deploy"))
	if err != nil || names(t, got) != "a.yaml=1" {
		t.Fatalf("%v", err)
	}
	r.git("config", "uploadpack.allowFilter", "true")
	r.commit(map[string]string{"assets/another": string(noise[1:])})
	if got, err := Apart(t.Context(), exec.Command(self, "serve-apart"), r.request("", "deploy")); err != nil || names(t, got) != "a.yaml=1" {
		t.Errorf("with what the server leaves out: %v", err)
	}
	r.git("config", "uploadpack.allowFilter", "false")
	if _, err := Apart(t.Context(), exec.Command(self, "serve-apart"), r.request("", "deploy")); usererr.CodeOf(err) != usererr.Refused || !strings.Contains(err.Error(), "larger than the 48 MiB") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	silent, ca := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	q := r.request("", "")
	q.Source.Git.URL, q.Secret[KeyCA] = silent+"/x", ca
	if _, err := Apart(ctx, exec.Command(self, "serve-apart"), q); usererr.CodeOf(err) != usererr.Failed || !strings.Contains(err.Error(), "unreachable") {
		t.Errorf("%v", err)
	}
}

// Nobody is sent to another host, and nobody is asked in clear.
func TestRedirectsAreNotFollowedElsewhere(t *testing.T) {
	t.Parallel()
	var asked atomic.Bool
	other, _ := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Store(true) }))
	for _, to := range []string{other, strings.Replace(other, "https", "http", 1), "https://169.254.169.254", "http://localhost"} {
		url, ca := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, to+r.URL.RequestURI(), http.StatusFound)
		}))
		r := Request{Loopback: true, Source: v1alpha1.Source{Git: &v1alpha1.GitSource{URL: url + "/x"}}, Secret: map[string][]byte{KeyCA: ca, KeyPassword: []byte(password)}}
		if _, err := Fetch(t.Context(), r); err == nil || asked.Load() {
			t.Errorf("to %s: %v", to, err)
		}
	}
}

func archive(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	for name, text := range files {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(text)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
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

// push puts an artifact of one layer into a registry, as its clients do, and returns its digest.
func push(t *testing.T, url, name, tag string, layer ocispec.Descriptor, data []byte) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	put := func(method, at, mediaType string, body []byte) *http.Response {
		req, err := http.NewRequest(method, at, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", mediaType)
		req.SetBasicAuth(user, password)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode >= 300 {
			t.Fatalf("%s %s: %s", method, at, resp.Status)
		}
		return resp
	}
	blob := func(data []byte) digest.Digest {
		d := digest.FromBytes(data)
		put(http.MethodPost, url+"/v2/"+name+"/blobs/uploads/?digest="+d.String(), "application/octet-stream", data)
		return d
	}
	layer.Digest, layer.Size = blob(data), int64(len(data))
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeEmptyJSON, Digest: blob([]byte("{}")), Size: 2}, Layers: []ocispec.Descriptor{layer}}
	manifest, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	put(http.MethodPut, url+"/v2/"+name+"/manifests/"+tag, ocispec.MediaTypeImageManifest, manifest)
	return digest.FromBytes(manifest).String()
}

// Artifacts as flux, helm and oras push them are fetched, by tag and by digest, of a registry that wants credentials.
func TestOCI(t *testing.T) {
	t.Parallel()
	url, ca := serve(t, locked(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))))
	host := strings.TrimPrefix(url, "https://")
	docker := fmt.Appendf(nil, `{"auths":{%q:{"username":%q,"password":%q}}}`, host, user, password)
	request := func(ref, path string) Request {
		return Request{Loopback: true, Source: v1alpha1.Source{OCI: &v1alpha1.OCISource{Ref: host + "/" + ref, SourceFolder: v1alpha1.SourceFolder{Path: path, SecretName: "registry"}}},
			Secret: map[string][]byte{KeyDocker: docker, KeyCA: ca}}
	}
	files := map[string]string{"./a.yaml": "1", "./dev/b.yaml": "b"}
	inside := map[string]string{"shop/a.yaml": "1", "shop/dev/b.yaml": "b"}
	flux := push(t, url, "team/flux", "v1", ocispec.Descriptor{MediaType: typeFlux}, archive(t, files))
	push(t, url, "team/image", "v1", ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip}, archive(t, files))
	push(t, url, "team/oras", "v1", ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Annotations: map[string]string{annotationUnpack: "true", ocispec.AnnotationTitle: "shop"}}, archive(t, inside))
	push(t, url, "team/helm", "v1", ocispec.Descriptor{MediaType: typeHelm}, archive(t, inside))
	push(t, url, "team/other", "v1", ocispec.Descriptor{MediaType: "application/octet-stream"}, []byte("x"))
	push(t, url, "team/torn", "v1", ocispec.Descriptor{MediaType: typeFlux}, []byte("no gzip"))
	for _, ref := range []string{"team/flux:v1", "team/flux@" + flux, "team/image:v1", "team/oras:v1", "team/helm:v1"} {
		got, err := Fetch(t.Context(), request(ref, ""))
		if err != nil {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		if n := names(t, got); n != "a.yaml=1 dev/b.yaml=b" || strings.Contains(ref, "flux") && got.Revision != flux {
			t.Errorf("%s: %s with %s", ref, got.Revision, n)
		}
	}
	if got, err := Fetch(t.Context(), request("team/oras:v1", "dev")); err != nil || names(t, got) != "b.yaml=b" {
		t.Errorf("a subfolder: %v", err)
	}
	wrong := request("team/flux:v1", "")
	wrong.Secret = map[string][]byte{KeyDocker: bytes.ReplaceAll(docker, []byte(password), []byte("wrong-password")), KeyCA: ca}
	none := request("team/flux:v1", "")
	none.Secret, none.Source.OCI.SecretName = map[string][]byte{KeyCA: ca}, ""
	for _, c := range []struct {
		name, want string
		code       usererr.Code
		request    Request
	}{
		{"no such tag", "there is no such artifact", usererr.NotFound, request("team/flux:v2", "")},
		{"no such folder", "there is no folder nope", usererr.NotFound, request("team/flux:v1", "nope")},
		{"something else", "has 0 layers that may be a folder", usererr.Refused, request("team/other:v1", "")},
		{"a torn layer", "it is no gzip", usererr.Refused, request("team/torn:v1", "")},
		{"no reference", "is no reference of an artifact", usererr.Refused, request("team/flux", "")},
		{"wrong credentials", "refuses the credentials in Secret registry", usererr.Forbidden, wrong},
		{"no credentials", "wants credentials", usererr.Forbidden, none},
	} {
		_, err := Fetch(t.Context(), c.request)
		if err == nil || usererr.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: code %d, %v", c.name, usererr.CodeOf(err), err)
		}
		if s := fmt.Sprint(err); strings.Contains(s, password) || strings.Contains(s, "wrong-password") {
			t.Errorf("%s: the password is in it: %s", c.name, s)
		}
	}
	guarded := request("team/flux:v1", "")
	guarded.Loopback, guarded.Refused = false, []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	if _, err := Fetch(t.Context(), guarded); usererr.CodeOf(err) != usererr.Refused || !strings.Contains(err.Error(), "is not connected to") {
		t.Errorf("%v", err)
	}
}

// Whatever a registry says that an artifact is, nothing but one small layer that may be a folder is fetched of it.
func FuzzManifest(f *testing.F) {
	f.Add(ocispec.MediaTypeImageManifest, []byte(`{"layers":[{"mediaType":"`+typeFlux+`","digest":"sha256:`+strings.Repeat("0", 64)+`","size":5}]}`))
	f.Add(ocispec.MediaTypeImageManifest, []byte(`{"layers":[{"mediaType":"`+typeHelm+`","digest":"../../x","size":-1}]}`))
	f.Add(ocispec.MediaTypeImageIndex, []byte(`{}`))
	f.Fuzz(func(t *testing.T, mediaType string, manifest []byte) {
		l, err := layerOf(mediaType, manifest)
		if err == nil && (l.Size < 0 || l.Size > mostLayer || l.Digest.Validate() != nil) {
			t.Errorf("%+v", l)
		}
	})
}
