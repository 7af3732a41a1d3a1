package control

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Whatever comes as JSON is either refused or means the same when it is written again; what is too large is refused.
func FuzzControlJSON(f *testing.F) {
	f.Add([]byte(`{"term":1,"version":2,"listeners":[{"port":20000,"service":"a/b","servicePort":80,"origin":"a/b:p80","routes":[{"id":"s/b:80","session":"a/s","all":true}]}],` +
		`"laptops":[{"session":"s","name":"a/s","publicKey":"k","routes":["b:80"],"drain":1}],"peers":[{"name":"r","address":"10.0.0.1"}],"marker":"10.0.0.2:19000"}`))
	f.Add([]byte(`{"request":"AAAA"}`))
	f.Add([]byte(`{"seq":1,"connected":{"s":["b:80"]},"open":{"20000":3}}`))
	f.Add([]byte(`{"peers":[{"address":"not one"}]}`))
	f.Add([]byte(`{"listeners":[{"drainUntil":"2026-01-01T00:00:00Z","routes":[{"match":{"anyOf":[{"anyOf":[]}]}}]}]}`))
	f.Add([]byte(`{"listeners":[{"routes":[{"match":{"anyOf":[]}}]}]}`))
	f.Add([]byte(`nul`))
	f.Fuzz(func(t *testing.T, body []byte) {
		again[Table](t, body)
		again[Status](t, body)
		again[enrolment](t, body)
		again[enrolled](t, body)
	})
}

func again[T any](t *testing.T, body []byte) {
	t.Helper()
	first, ok := decoded[T](t, body, 16<<10)
	if !ok {
		return
	}
	text, err := json.Marshal(first)
	if err != nil {
		return // such as a year beyond 9999: it was read and cannot be passed on
	}
	second, ok := decoded[T](t, text, 16<<20)
	if !ok {
		t.Fatalf("%s was read and written as %s, which is refused", body, text)
	}
	other, err := json.Marshal(second)
	if err != nil || !bytes.Equal(text, other) {
		t.Error(cmp.Diff(string(text), string(other)), err)
	}
}

func decoded[T any](t *testing.T, body []byte, limit int64) (v T, ok bool) {
	t.Helper()
	w := httptest.NewRecorder()
	err := decode(w, httptest.NewRequest(http.MethodPut, "/", bytes.NewReader(body)), limit, &v)
	if e, is := err.(*httpError); err != nil && (!is || e.code != http.StatusBadRequest) {
		t.Fatalf("refused with %v", err)
	}
	return v, err == nil
}
