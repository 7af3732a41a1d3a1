package fetch

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/source"
	"dayfly.dev/dayfly/internal/usererr"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

const (
	mostManifest = 1 << 20
	mostLayer    = 16 << 20 // a gzipped tar of a folder that a source can be is smaller
)

// The media types of layers that hold a folder: of flux push artifact, of oras push, of helm push.
const (
	typeFlux = "application/vnd.cncf.flux.content.v1.tar+gzip"
	typeHelm = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
)

// annotationUnpack marks the layer of a folder that oras push was given: its files are in a folder of its name.
const annotationUnpack = "io.deis.oras.content.unpack"

// reference reads where an artifact is.
func reference(o *v1alpha1.OCISource) (registry.Reference, error) {
	ref, err := registry.ParseReference(o.Ref)
	if err != nil || ref.Reference == "" {
		return ref, usererr.New(usererr.Refused, "write REGISTRY/REPOSITORY with a tag or a digest, such as registry.example.com/team/shop:v1", "%s is no reference of an artifact", o.Ref)
	}
	return ref, nil
}

// oci fetches an artifact, and returns the digest of its manifest and the folder.
func (f *fetcher) oci(ctx context.Context, o *v1alpha1.OCISource) (string, source.Folder, error) {
	ref, err := reference(o)
	if err != nil {
		return "", nil, err
	}
	// Registries keep blobs elsewhere and send there: what comes must have the digest, and no credentials go along.
	client := &auth.Client{Client: f.client(func(*http.Request) error { return nil }), Credential: func(context.Context, string) (auth.Credential, error) { return f.credential(), nil }}
	client.SetUserAgent("dayfly")
	repo := &remote.Repository{Client: client, Reference: ref, MaxMetadataBytes: mostManifest}
	manifest, data, err := oras.FetchBytes(ctx, repo, ref.Reference, oras.FetchBytesOptions{MaxBytes: mostManifest})
	if err != nil {
		return "", nil, f.ofOCI(err)
	}
	layer, err := layerOf(manifest.MediaType, data)
	if err != nil {
		return "", nil, err
	}
	packed, err := content.FetchAll(ctx, repo, layer)
	if err != nil {
		return "", nil, f.ofOCI(err)
	}
	folder, err := unpack(layer, packed)
	if err == nil {
		folder, err = folder.Sub(o.Path)
	}
	return manifest.Digest.String(), folder, err
}

// credential is what opens the registry of the source, and no other: whoever the registry names as the one that issues its tokens
// is told it too, as registries need it.
func (f *fetcher) credential() auth.Credential {
	ref, err := reference(f.Source.OCI)
	if err != nil || len(f.Secret[KeyDocker]) == 0 {
		return auth.EmptyCredential
	}
	store, err := credentials.NewMemoryStoreFromDockerConfig(f.Secret[KeyDocker])
	if err != nil {
		return auth.EmptyCredential
	}
	c, _ := store.Get(context.Background(), credentials.ServerAddressFromRegistry(ref.Registry)) // of memory: no error
	return c
}

// ofOCI says what a registry's answer means.
func (f *fetcher) ofOCI(err error) error {
	answer, ok := errors.AsType[*errcode.ErrorResponse](err)
	switch {
	case errors.Is(err, auth.ErrBasicCredentialNotFound), ok && (answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden):
		return f.forbidden()
	case errors.Is(err, errdef.ErrNotFound):
		return usererr.New(usererr.NotFound, "", "there is no such artifact, or the credentials do not open it")
	}
	return err
}

// layerOf finds the one layer of an artifact that holds a folder.
func layerOf(mediaType string, manifest []byte) (ocispec.Descriptor, error) {
	refuse := func(format string, args ...any) (ocispec.Descriptor, error) {
		return ocispec.Descriptor{}, usererr.New(usererr.Refused, "push a folder: flux push artifact, helm push, or oras push", format, args...)
	}
	if mediaType != ocispec.MediaTypeImageManifest {
		return refuse("it is no artifact with a folder, but %s", mediaType)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		return refuse("its manifest cannot be read: %s", err)
	}
	var found []ocispec.Descriptor
	for _, l := range m.Layers {
		if l.MediaType == typeFlux || l.MediaType == typeHelm || l.MediaType == ocispec.MediaTypeImageLayerGzip {
			found = append(found, l)
		}
	}
	switch {
	case len(found) != 1:
		return refuse("it has %d layers that may be a folder, not one", len(found))
	case found[0].Size < 0 || found[0].Size > mostLayer:
		return refuse("its layer has %d bytes, and %d MiB are fetched at most", found[0].Size, mostLayer>>20)
	case found[0].Digest.Validate() != nil:
		return refuse("its layer has no digest")
	}
	return found[0], nil
}

// unpack reads a layer. Where it holds one folder, by whoever made it, that folder is the source's root.
func unpack(layer ocispec.Descriptor, packed []byte) (source.Folder, error) {
	folder, err := source.Unpack(packed)
	if err != nil || layer.MediaType != typeHelm && layer.Annotations[annotationUnpack] != "true" {
		return folder, err
	}
	for name := range folder {
		if first, _, ok := strings.Cut(name, "/"); ok {
			if inner, err := folder.Sub(first); err == nil && len(inner) == len(folder) {
				return inner, nil
			}
		}
		break
	}
	return folder, nil
}
