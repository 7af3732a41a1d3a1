package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"dayfly.dev/dayfly/internal/identity"
)

// Audience of the tokens that routers enrol with; a token for anybody else is refused.
const Audience = "dayfly-controller"

type enrolment struct {
	Request []byte `json:"request"` // certificate request, DER
}

type enrolled struct {
	Certificate []byte `json:"certificate"` // PEM
}

// EnrolHandler serves the control port of a controller: it issues certificates to routers. review returns the name of the
// router's pod that a token proves, or an error.
func EnrolHandler(issue func(csrDER []byte, role identity.Role, name string) ([]byte, error),
	review func(ctx context.Context, token string) (pod string, err error), log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /enrol", func(w http.ResponseWriter, r *http.Request) {
		answer(w, r, log, func(w http.ResponseWriter, r *http.Request) error {
			token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			if !ok || token == "" {
				return &httpError{http.StatusUnauthorized, "no token"}
			}
			var e enrolment
			if err := decode(w, r, maxSmallBytes, &e); err != nil {
				return err
			}
			pod, err := review(r.Context(), token)
			if err != nil {
				log.Warn("refused to enrol a caller", "caller", r.RemoteAddr, "reason", err)
				return &httpError{http.StatusForbidden, "the token proves no router"}
			}
			cert, err := issue(e.Request, identity.RoleRouter, pod)
			if err != nil {
				return &httpError{http.StatusBadRequest, err.Error()}
			}
			log.Info("enrolled a router", "pod", pod)
			return encode(w, enrolled{cert})
		})
	})
	return mux
}

// Enrol asks the controller at host:port for a certificate, with a token for Audience.
func Enrol(ctx context.Context, hostport, token string, caPEM []byte) (*identity.Credentials, error) {
	cfg, err := identity.EnrolTLS(caPEM)
	if err != nil {
		return nil, err
	}
	key, csr, err := identity.Request()
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(enrolment{csr})
	if err != nil {
		return nil, fmt.Errorf("encoding the enrolment: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+hostport+"/enrol", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}}
	resp, err := c.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the controller for a certificate: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
		return nil, fmt.Errorf("asking the controller for a certificate: %s: %s", resp.Status, bytes.TrimSpace(text))
	}
	var got enrolled
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxSmallBytes)).Decode(&got); err != nil {
		return nil, fmt.Errorf("reading the issued certificate: %w", err)
	}
	return identity.NewCredentials(key, got.Certificate, caPEM)
}
