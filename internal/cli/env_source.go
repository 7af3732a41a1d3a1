package cli

import (
	"fmt"
	"strings"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/usererr"
	"github.com/spf13/cobra"
)

// sourceOptions are where in the network an environment's folder is.
type sourceOptions struct {
	git, ref, gitSecret string
	oci, ociSecret      string
	path                string
}

func (o *sourceOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.git, "git", "", "`URL` (https) of a Git repository to make it from, fetched by the cluster")
	f.StringVar(&o.ref, "ref", "", "branch, tag, or whole hash of a commit of the Git repository (default its default branch)")
	f.StringVar(&o.gitSecret, "git-secret", "", "Secret of the home with username and password for the Git repository, and ca.crt if need be")
	f.StringVar(&o.oci, "oci", "", "`REF` of an OCI artifact to make it from, REGISTRY/REPOSITORY:TAG, fetched by the cluster")
	f.StringVar(&o.ociSecret, "oci-secret", "", "Secret of the home with .dockerconfigjson for the registry, and ca.crt if need be")
	f.StringVar(&o.path, "path", "", "subfolder of the repository or the artifact")
}

// given says whether any of the flags was.
func (o *sourceOptions) given() bool { return *o != sourceOptions{} }

// into puts a source that was given into a spec, in place of a folder or another source. What was not given of the same source stays.
func (o *sourceOptions) into(s *v1alpha1.EnvironmentSpec, dir string) error {
	wrong := func(fix, format string, args ...any) error { return usererr.New(usererr.Usage, fix, format, args...) }
	switch {
	case !o.given():
		return nil
	case dir != "":
		return wrong("use -f for a folder of this machine, --git or --oci for one that the cluster fetches", "an environment is made from one of -f, --git and --oci")
	case o.git != "" && o.oci != "", o.oci != "" && (o.ref != "" || o.gitSecret != ""), o.git != "" && o.ociSecret != "":
		return wrong("--ref and --git-secret go with --git, --oci-secret with --oci, which has its tag in it", "an environment is made from one of --git and --oci")
	case strings.Contains(strings.SplitN(strings.TrimPrefix(o.git, "https://"), "/", 2)[0], "@"): // not repeated: it may hold a password
		return wrong("write https://HOST/PATH, put user and password into a Secret, and name it with --git-secret", "--git: the URL names a user")
	case o.git != "" && !strings.HasPrefix(o.git, "https://"):
		return wrong("write https://HOST/PATH", "--git %s: the cluster fetches by https only", o.git)
	}
	switch now := s.Source; {
	case o.git != "":
		s.Blueprint, s.Source = "", &v1alpha1.Source{Git: &v1alpha1.GitSource{URL: o.git}}
	case o.oci != "":
		s.Blueprint, s.Source = "", &v1alpha1.Source{OCI: &v1alpha1.OCISource{Ref: strings.TrimPrefix(o.oci, "oci://")}}
	case now == nil:
		return wrong("name it: --git URL or --oci REF", "there is no source to change")
	case now.Git == nil && (o.ref != "" || o.gitSecret != ""), now.OCI == nil && o.ociSecret != "":
		return wrong("name the whole source: --git URL, or --oci REGISTRY/REPOSITORY:TAG", "the environment is not made from such a source")
	}
	folder := &v1alpha1.SourceFolder{}
	if g := s.Source.Git; g != nil {
		folder = &g.SourceFolder
		set(&g.Ref, o.ref)
	} else {
		folder = &s.Source.OCI.SourceFolder
	}
	set(&folder.Path, strings.Trim(o.path, "/"))
	set(&folder.SecretName, o.gitSecret+o.ociSecret)
	return nil
}

func set(field *string, value string) {
	if value != "" {
		*field = value
	}
}

// sourceView is a source, and what was found there, as -o json and -o yaml show it.
type sourceView struct {
	Git       string     `json:"git,omitempty"`
	OCI       string     `json:"oci,omitempty"`
	Ref       string     `json:"ref,omitempty"`
	Path      string     `json:"path,omitempty"`
	Commit    string     `json:"commit,omitempty"`
	Digest    string     `json:"digest,omitempty"`
	FetchedAt *time.Time `json:"fetchedAt,omitempty"`
}

func viewSource(s *v1alpha1.Source, found *v1alpha1.SourceStatus) *sourceView {
	if s == nil {
		return nil
	}
	v := &sourceView{Path: s.Folder().Path}
	if s.Git != nil {
		v.Git, v.Ref = s.Git.URL, s.Git.Ref
	} else {
		v.OCI = s.OCI.Ref
	}
	if found != nil {
		v.Commit, v.Digest = found.Commit, found.Digest
		if found.FetchedAt != nil {
			v.FetchedAt = new(found.FetchedAt.UTC())
		}
	}
	return v
}

// text is a source in a line.
func (v *sourceView) text() string {
	out := v.Git + v.OCI
	if v.Ref != "" && v.Ref != v.Commit {
		out += ", " + v.Ref
	}
	if v.Path != "" {
		out += ", folder " + v.Path
	}
	if v.Commit != "" {
		out += ", commit " + v.Commit
	}
	if v.Digest != "" && !strings.HasSuffix(v.OCI, v.Digest) {
		out += ", " + v.Digest
	}
	if v.FetchedAt != nil {
		out += fmt.Sprintf(" (fetched at %s)", v.FetchedAt.Local().Format("15:04 Jan 2"))
	}
	return out
}

// pinnedText is which commit or digest of its source a revision was made from.
func pinnedText(s *v1alpha1.Source) string {
	switch {
	case s == nil:
		return "-"
	case s.Git != nil:
		return s.Git.Ref[:min(len(s.Git.Ref), 12)]
	}
	_, digest, _ := strings.Cut(s.OCI.Ref, "@")
	return digest[:min(len(digest), len("sha256:")+12)]
}
