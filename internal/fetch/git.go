package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/source"
	"dayfly.dev/dayfly/internal/usererr"
	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// cached is how many bytes of objects are kept as they are read.
const cached = 8 << 20

// git fetches one commit, without what came before it, and returns its hash and the folder.
func (f *fetcher) git(ctx context.Context, g *v1alpha1.GitSource) (string, source.Folder, error) {
	at, err := transport.NewEndpoint(g.URL)
	if err != nil {
		return "", nil, err
	}
	var auth transport.AuthMethod
	if password := f.Secret[KeyPassword]; len(password) > 0 {
		auth = &githttp.BasicAuth{Username: cmp.Or(string(f.Secret[KeyUsername]), "git"), Password: string(password)} // of a token, hosts look at nothing else
	}
	session, err := githttp.NewClient(f.client(elsewhere)).NewUploadPackSession(at, auth)
	if err != nil {
		return "", nil, err
	}
	defer session.Close()
	refs, err := session.AdvertisedReferencesContext(ctx)
	if err != nil {
		return "", nil, f.ofGit(err)
	}
	want, err := choose(refs, g.Ref)
	if err != nil {
		return "", nil, err
	}
	dir, err := os.MkdirTemp("", "git-")
	if err != nil {
		return "", nil, err
	}
	defer os.RemoveAll(dir)
	objects := filesystem.NewStorage(osfs.New(dir), cache.NewObjectLRU(cached))
	if err := receive(ctx, session, refs, want, objects); err != nil {
		return "", nil, f.ofGit(err)
	}
	commit, err := peel(objects, want)
	if err != nil {
		return "", nil, err
	}
	tree, err := commit.Tree()
	if err != nil {
		return "", nil, err
	}
	if g.Path != "" {
		if tree, err = tree.Tree(path.Clean(g.Path)); err != nil {
			return "", nil, usererr.New(usererr.NotFound, "", "there is no folder %s in commit %s", g.Path, commit.Hash)
		}
	}
	folder, err := source.ReadFolder(files{tree})
	return commit.Hash.String(), folder, err
}

// ofGit says what a server's answer means.
func (f *fetcher) ofGit(err error) error {
	switch {
	case errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrAuthorizationFailed):
		return f.forbidden()
	case errors.Is(err, transport.ErrRepositoryNotFound):
		return usererr.New(usererr.NotFound, "", "there is no such repository, or the credentials do not open it")
	case errors.Is(err, transport.ErrEmptyRemoteRepository):
		return usererr.New(usererr.NotFound, "", "the repository is empty")
	}
	return err
}

// choose finds the hash that is asked for. A whole hash is never taken for the name of a branch.
func choose(refs *packp.AdvRefs, ref string) (plumbing.Hash, error) {
	if ref == "" {
		if refs.Head == nil {
			return plumbing.ZeroHash, usererr.New(usererr.NotFound, "name a branch, a tag or a commit", "the repository has no default branch")
		}
		return *refs.Head, nil
	}
	if plumbing.IsHash(ref) {
		return chooseCommit(refs, plumbing.NewHash(ref))
	}
	for _, name := range []string{ref, "refs/heads/" + ref, "refs/tags/" + ref} {
		if hash, ok := refs.References[name]; ok && strings.HasPrefix(name, "refs/") {
			return hash, nil
		}
	}
	return plumbing.ZeroHash, usererr.New(usererr.NotFound, "name one that there is; of a commit, the whole hash", "there is no branch or tag %s", ref)
}

// chooseCommit finds what to ask for to be given a commit: it, or a tag of it.
func chooseCommit(refs *packp.AdvRefs, hash plumbing.Hash) (plumbing.Hash, error) {
	for _, tip := range refs.References {
		if tip == hash {
			return hash, nil
		}
	}
	for name, commit := range refs.Peeled {
		if commit == hash {
			return refs.References[name], nil
		}
	}
	if refs.Capabilities.Supports(capability.AllowReachableSHA1InWant) || refs.Capabilities.Supports(allowAny) {
		return hash, nil
	}
	return plumbing.ZeroHash, usererr.New(usererr.NotFound, "name a branch or a tag, or allow it on the server: git config uploadpack.allowReachableSHA1InWant true",
		"commit %s is not at the tip of a branch or tag, and the server gives out no others", hash)
}

const allowAny capability.Capability = "allow-any-sha1-in-want"

// receive puts one commit and its files into a store, without files that are too large for a source where the server can leave
// them out.
func receive(ctx context.Context, session transport.UploadPackSession, refs *packp.AdvRefs, want plumbing.Hash, into *filesystem.Storage) error {
	req := packp.NewUploadPackRequestFromCapabilities(refs.Capabilities)
	req.Wants = []plumbing.Hash{want}
	if refs.Capabilities.Supports(capability.Shallow) {
		req.Depth = packp.DepthCommits(1)
		if err := req.Capabilities.Set(capability.Shallow); err != nil {
			return err
		}
	}
	if refs.Capabilities.Supports(capability.Filter) {
		req.Filter = packp.FilterBlobLimit(source.MaxFile+1, packp.BlobLimitPrefixNone)
		if err := req.Capabilities.Set(capability.Filter); err != nil {
			return err
		}
	}
	resp, err := session.UploadPack(ctx, req)
	if err != nil {
		return err
	}
	defer resp.Close()
	var pack io.Reader = resp
	switch {
	case req.Capabilities.Supports(capability.Sideband64k):
		pack = sideband.NewDemuxer(sideband.Sideband64k, resp)
	case req.Capabilities.Supports(capability.Sideband):
		pack = sideband.NewDemuxer(sideband.Sideband, resp)
	}
	return packfile.UpdateObjectStorage(into, pack)
}

// peel finds the commit that a hash is, or that it is a tag of.
func peel(objects *filesystem.Storage, hash plumbing.Hash) (*object.Commit, error) {
	for range 5 {
		commit, err := object.GetCommit(objects, hash)
		if err == nil {
			return commit, nil
		}
		tag, err := object.GetTag(objects, hash)
		if err != nil {
			break
		}
		hash = tag.Target
	}
	return nil, usererr.New(usererr.Refused, "name a branch, or a tag of a commit", "%s is no commit", hash)
}

var errSubmodule = errors.New("is a submodule, and these are not fetched: list it in " + source.IgnoreFile + " if it is not needed")

// wrap names the file of an error.
func wrap(op, name string, err error) error {
	if errors.Is(err, errSubmodule) {
		return usererr.New(usererr.Refused, "", "%s %s", name, err)
	}
	if errors.Is(err, plumbing.ErrObjectNotFound) { // the server has left it out, as it was asked to
		return usererr.New(usererr.Refused, "list it in "+source.IgnoreFile+" if it is not needed", "%s is larger than %d MiB", name, source.MaxFile>>20)
	}
	return fmt.Errorf("%s %s: %w", op, name, err)
}
