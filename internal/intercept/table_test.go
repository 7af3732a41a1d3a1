package intercept

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestATableOutOfBoundsIsRefused(t *testing.T) {
	with := func(edit func(*Listener)) Table {
		l := Listener{Port: 1, Service: "a/b", Routes: []Route{{ID: "r", Match: matching}}}
		edit(&l)
		return Table{Listeners: []Listener{l}}
	}
	route := func(r Route) Table { return with(func(l *Listener) { l.Routes = []Route{r} }) }
	deep := matching
	for range maxMatchDepth {
		deep = Match{AnyOf: []Match{deep}}
	}
	tests := []struct {
		want  string // "": it is fine
		table Table
	}{
		{"", Table{}},
		{"", with(func(*Listener) {})},
		{"outside 1-65535", with(func(l *Listener) { l.Port = 0 })},
		{"outside 1-65535", with(func(l *Listener) { l.Port = 65536 })},
		{"service port -1", with(func(l *Listener) { l.ServicePort = -1 })},
		{"affinity", with(func(l *Listener) { l.AffinitySeconds = 86401 })},
		{"longer", with(func(l *Listener) { l.Origin = strings.Repeat("x", 513) })},
		{"routes, at most", with(func(l *Listener) { l.Routes = make([]Route, maxRoutes+1) })},
		{"given to both", Table{Listeners: []Listener{{Port: 1}, {Port: 1}}}},
		{"listeners, at most", Table{Listeners: make([]Listener, maxListeners+1)}},
		{"there twice", with(func(l *Listener) { l.Routes = append(l.Routes, l.Routes[0]) })},
		{"both take everything", with(func(l *Listener) { l.Routes = []Route{{ID: "a", All: true}, {ID: "b", All: true}} })},
		{"both all and a match", route(Route{ID: "a", All: true, Match: matching})},
		{"id is empty", route(Route{All: true})},
		{"take everything", route(Route{ID: "a"})},
		{"take everything", route(Route{ID: "a", Match: Match{AnyOf: []Match{{}}}})},
		{"nested deeper", route(Route{ID: "a", Match: deep})},
		{"conditions", route(Route{ID: "a", Match: Match{Headers: make([]HeaderMatch, maxConditions+1)}})},
		{"not a header name", route(Route{ID: "a", Match: Match{Headers: []HeaderMatch{{"a b", "c"}}}})},
		{"no header can", route(Route{ID: "a", Match: Match{Headers: []HeaderMatch{{"a", "c\r\n"}}}})},
		{"no header can", route(Route{ID: "a", Match: Match{Headers: []HeaderMatch{{"a", " c"}}}})},
		{"not a token", route(Route{ID: "a", Match: Match{Baggage: []BaggageMatch{{"a=b", "c"}}}})},
	}
	for _, tt := range tests {
		err := tt.table.validate()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("want %q, got %v", tt.want, err)
		}
	}
}

func TestATableSurvivesJSON(t *testing.T) {
	until := time.Now().UTC().Truncate(time.Second)
	want := Table{Version: "7", Listeners: []Listener{{
		Port: 20001, Service: "shop/cart", ServicePort: 80, Origin: "shop/cart:80", AffinitySeconds: 10800, DrainUntil: &until,
		Routes: []Route{{ID: "a", Session: "s", Match: Match{AnyOf: []Match{matching, {Baggage: []BaggageMatch{{"dayfly", "k"}}}}}}, {ID: "b", All: true}},
	}}}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Table
	if err := json.Unmarshal(b, &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}
