package gateway

import (
	"context"
	"embed"
	"errors"
	"html/template"
	"net/http"
	"strings"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
)

//go:embed page.html
var pageFile embed.FS

var page = template.Must(template.ParseFS(pageFile, "page.html"))

// message is what a visitor is told.
type message struct {
	Title, Text string
	Reload      int // seconds until the browser asks again; 0: it does not
}

// say answers with a message: a page for people, a line for programs.
func say(w http.ResponseWriter, r *http.Request, code int, m message) {
	// Who does not take it, or goes on sending, is not waited for.
	c, by := http.NewResponseController(w), time.Now().Add(refuseTime)
	_, _ = c.SetReadDeadline(by), c.SetWriteDeadline(by)
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if !wantsPage(r) && !wantsFrame(r) {
		h.Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(code)
		_, _ = w.Write([]byte(m.Title + ": " + m.Text + "\n"))
		return
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	w.WriteHeader(code)
	if r.Method != http.MethodHead {
		_ = page.Execute(w, m) // the visitor has gone, if not
	}
}

// refuse tells the same of an address that does not exist as of one that the visitor may not see.
func refuse(w http.ResponseWriter, r *http.Request) {
	say(w, r, http.StatusUnauthorized, message{Title: "This address is not open to you",
		Text: "There is no environment here, or it takes a link to see it, and links end. Whoever may change the environment can make one: dayfly env share NAME"})
}

// waiting has a browser ask again while an environment wakes.
func waiting(w http.ResponseWriter, r *http.Request, to route) {
	w.Header().Set("Retry-After", "1")
	if where, ok := to.env.queued(); ok {
		w.Header().Set("Retry-After", queuedRetry)
		say(w, r, http.StatusServiceUnavailable, message{Title: "Waiting for its turn", Text: where + " This page shows " + to.to.Component + " as soon as it runs.", Reload: 10})
		return
	}
	m := message{Title: "Waking up", Text: "Environment " + to.env.Name + " was asleep. This page shows " + to.to.Component + " as soon as it runs.", Reload: 1}
	if !to.env.Spec.Asleep() && !strings.HasSuffix(to.env.Status.Revisions.Ready, v1alpha1.SuffixAsleep) {
		m.Title, m.Text = "Starting", to.to.Component+" of environment "+to.env.Name+" does not run yet. This page shows it as soon as it does."
	}
	say(w, r, http.StatusServiceUnavailable, m)
}

// queuedRetry is in how many seconds it is worth while to ask again for an environment that waits for its turn.
const queuedRetry = "30"

// fail tells why a request was not answered by the environment.
func (g *Gateway) fail(w http.ResponseWriter, r *http.Request, err error) {
	code, m := http.StatusBadGateway, message{Title: "The environment did not answer", Text: "A pod of it ended the connection. See: dayfly env show"}
	if cause := context.Cause(r.Context()); cause != nil {
		err = cause
	}
	var queued errQueued
	switch {
	case errors.Is(err, context.Canceled):
		code = 499 // nobody reads it; for the metrics
	case errors.Is(err, errGone), errors.Is(err, errRevoked):
		refuse(w, r)
		g.metrics.failed.WithLabelValues("gone").Inc()
		return
	case errors.Is(err, errTooMany):
		code, m = http.StatusServiceUnavailable, message{Title: "Too many requests wait", Text: "The environment is not ready, and too many wait for it already."}
	case errors.As(err, &queued):
		code, m = http.StatusServiceUnavailable, message{Title: "The environment waits for its turn", Text: queued.where}
		w.Header().Set("Retry-After", queuedRetry)
	case errors.Is(err, errTooLong):
		code, m = http.StatusGatewayTimeout, message{Title: "The environment is not ready", Text: "No pod of it was ready for " + holdTime.String() + ". See: dayfly env show"}
	}
	if code != 499 {
		g.opts.Logger.Info("not answered", "host", strings.ToLower(r.Host), "code", code, "reason", err)
		g.metrics.failed.WithLabelValues(http.StatusText(code)).Inc()
	}
	say(w, r, code, m)
}
