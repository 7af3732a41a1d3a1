package intercept

import (
	"encoding/json"
	"testing"
)

// A table that passes its checks can be served by: compiled, and asked for any request.
func FuzzTable(f *testing.F) {
	f.Add([]byte(`{"listeners":[{"port":20000,"service":"a/b","servicePort":80,"origin":"a/b:p80","routes":[{"id":"s/b:80","session":"a/s","all":true}]}]}`), []byte("GET / HTTP/1.1\r\nx-a: b\r\n\r\n"))
	f.Add([]byte(`{"listeners":[{"port":1,"routes":[{"id":"x","match":{"headers":[{"name":"X-A","value":"b"}],"baggage":[{"key":"k","value":"v"}]}}]}]}`), []byte("GET / HTTP/1.1\r\nx-a: b\r\nbaggage: k=v\r\n\r\n"))
	f.Add([]byte(`{"listeners":[{"port":1,"routes":[{"id":"x","match":{"anyOf":[{"anyOf":[{"headers":[{"name":"a","value":""}]}]}]}}]}]}`), []byte("GET / HTTP/1.1\r\na:\r\n\r\n"))
	f.Add([]byte(`{"listeners":[{"port":1},{"port":1}]}`), []byte("GET / HTTP/1.0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, text, head []byte) {
		var table Table
		if json.Unmarshal(text, &table) != nil || table.validate() != nil {
			return
		}
		compiled := compile(table)
		if len(compiled.ports) != len(table.Listeners) {
			t.Fatalf("%d listeners, of %d", len(compiled.ports), len(table.Listeners))
		}
		var q request
		q.reset()
		if q.parse(head) != complete {
			return
		}
		for _, l := range compiled.ports {
			if rt := l.choose(&q, head); rt != nil && !rt.All && rt.Match.empty() {
				t.Errorf("route %q has no condition and takes a request", rt.ID)
			}
		}
	})
}
