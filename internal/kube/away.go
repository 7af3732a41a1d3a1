package kube

import (
	"errors"
	"io"
	"net/http"
	"os"

	"dayfly.dev/dayfly/internal/usererr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Away says whether an error means no more than that the API server cannot be reached, is starting, or is busy: waiting
// helps.
func Away(err error) bool {
	if err == nil {
		return false
	}
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		code := status.Status().Code
		return code == http.StatusTooManyRequests || code >= http.StatusInternalServerError
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || usererr.CodeOf(Explain(err)) == usererr.NoCluster
}

// QuickPings has connections to the API server that are made from now on noticed as dead within seconds, where the
// client library would take the better part of a minute. It knows no other way to be told than its environment; undo
// takes that back, so that nobody inherits it.
func QuickPings() (undo func()) {
	var set []string
	for name, seconds := range map[string]string{"HTTP2_READ_IDLE_TIMEOUT_SECONDS": "4", "HTTP2_PING_TIMEOUT_SECONDS": "3"} {
		if _, ok := os.LookupEnv(name); !ok && os.Setenv(name, seconds) == nil {
			set = append(set, name)
		}
	}
	return func() {
		for _, name := range set {
			_ = os.Unsetenv(name)
		}
	}
}
