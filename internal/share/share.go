// Package share makes the tokens that open the addresses of an environment. The cluster knows only their hashes.
package share

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"strings"
)

// How a visitor shows a token: in a link, or in a header.
const (
	Parameter = "dayfly-share"
	Header    = "Dayfly-Share"
)

// Longest is how many bytes a token has at most.
const Longest = 128

// NewToken returns a token that nobody can guess.
func NewToken() string { return strings.ToLower(rand.Text()) }

// Hash is what the cluster stores of a token: SHA-256, in hexadecimal.
func Hash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// Link is an address with a token.
func Link(address, token string) string { return address + "/?" + Parameter + "=" + token }

// Without is a query without its token. The rest stays as it is, byte for byte.
func Without(query string) string {
	var kept []string
	for part := range strings.SplitSeq(query, "&") {
		name, _, _ := strings.Cut(part, "=")
		if plain, err := url.QueryUnescape(name); err == nil && plain == Parameter {
			continue
		}
		kept = append(kept, part)
	}
	return strings.Join(kept, "&")
}
