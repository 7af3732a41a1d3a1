package gateway

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/share"
)

// tokenCookie is what the token of a link is exchanged for: for this host alone, and by no other host's doing.
const tokenCookie = "__Host-dayfly"

// tokens are what a request shows.
func tokens(r *http.Request) (link string, others []string) {
	link = r.URL.Query().Get(share.Parameter)
	if h := r.Header.Get(share.Header); h != "" {
		others = append(others, h)
	}
	for _, c := range r.CookiesNamed(tokenCookie) {
		others = append(others, c.Value)
	}
	return link, others
}

// shareOf is the share that a token opens, nil if it opens none any more.
func shareOf(e *v1alpha1.Environment, token string, now time.Time) *v1alpha1.Share {
	if token == "" || len(token) > share.Longest {
		return nil
	}
	hash := share.Hash(token)
	for i := range e.Spec.Shares {
		if s := &e.Spec.Shares[i]; s.Hash == hash && now.Before(s.Until.Time) {
			return s
		}
	}
	return nil
}

// withoutToken takes the token out of what goes on to the environment.
func withoutToken(r *http.Request) {
	r.URL.RawQuery = share.Without(r.URL.RawQuery)
	r.Header.Del(share.Header)
	if from := r.Header.Get("Referer"); strings.Contains(from, share.Parameter) {
		if u, err := url.Parse(from); err == nil {
			u.RawQuery = share.Without(u.RawQuery)
			r.Header.Set("Referer", u.String())
		} else {
			r.Header.Del("Referer")
		}
	}
	if !strings.Contains(strings.Join(r.Header["Cookie"], ";"), tokenCookie) {
		return
	}
	var kept []string
	for _, line := range r.Header["Cookie"] {
		for part := range strings.SplitSeq(line, ";") {
			if name, _, _ := strings.Cut(part, "="); strings.TrimSpace(name) != tokenCookie && strings.TrimSpace(part) != "" {
				kept = append(kept, strings.TrimSpace(part))
			}
		}
	}
	r.Header.Del("Cookie")
	if len(kept) > 0 {
		r.Header.Set("Cookie", strings.Join(kept, "; "))
	}
}
