package share

import "testing"

func TestWithout(t *testing.T) {
	for query, want := range map[string]string{
		"": "", "a=b": "a=b", "dayfly-share=x": "", "a=%20b&dayfly-share=x&c=+": "a=%20b&c=+", "dayfly%2Dshare=x&b": "b", "a=dayfly-share": "a=dayfly-share",
		"&&": "&&", "%zz=1&dayfly-share=2": "%zz=1",
	} {
		if got := Without(query); got != want {
			t.Errorf("%q: %q, want %q", query, got, want)
		}
	}
	if Hash("a") == Hash("b") || len(Hash("")) != 64 || NewToken() == NewToken() {
		t.Error("tokens or hashes that are the same")
	}
}
