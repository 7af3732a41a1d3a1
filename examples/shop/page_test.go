package main

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// wellFormed reads the page as XML, which is stricter than any browser, and answers with the elements it saw.
func wellFormed(t *testing.T, page string) map[string]int {
	t.Helper()
	seen := map[string]int{}
	dec := xml.NewDecoder(strings.NewReader(page))
	dec.Entity = xml.HTMLEntity
	for {
		token, err := dec.Token()
		if err == io.EOF {
			return seen
		}
		if err != nil {
			t.Fatalf("the page is not well-formed: %v\n%s", err, page)
		}
		if e, ok := token.(xml.StartElement); ok {
			seen[e.Name.Local]++
		}
	}
}

func TestPageIsWellFormedAndBringsAllItNeeds(t *testing.T) {
	t.Parallel()
	g := newGraph(t, nil)
	page := g.ask("GET", g.url["storefront"]+"/", "")
	seen := wellFormed(t, page.Body)
	if seen["article"] != 6 || seen["form"] != 5 {
		t.Errorf("%d products and %d forms, want 6 and, one being sold out, 5", seen["article"], seen["form"])
	}
	for _, external := range []string{"script", "link", "img", "iframe"} {
		if seen[external] != 0 {
			t.Errorf("the page has a <%s>", external)
		}
	}
	if strings.Contains(page.Body, "http://") || strings.Contains(page.Body, "https://") || strings.Contains(page.Body, "ZgotmplZ") {
		t.Errorf("the page refers elsewhere, or the template refused a value: %s", page.Body)
	}
	if csp := page.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'; form-action 'self'") {
		t.Errorf("the policy is %q", csp)
	}
}

func TestPageEscapesWhatOthersSay(t *testing.T) {
	t.Parallel()
	const evil = `"><script>alert(1)</script>`
	hop := Hop{Service: "catalog", Version: evil, Host: evil, RoutingKey: evil, Calls: []Hop{{Service: evil, Error: evil}}}
	catalog := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(productsReply{
			reply:    reply{AnsweredBy: hop},
			Products: []Product{{ID: evil, Name: evil, Note: evil, Availability: evil}},
		})
	}))
	defer catalog.Close()
	g := newGraph(t, map[string]string{"CATALOG_URL": catalog.URL, "SHOP_GREETING": evil})
	asked := []answer{
		g.ask("GET", g.url["storefront"]+"/?placed="+url.QueryEscape(evil), "",
			"baggage: dayfly="+url.PathEscape(evil), "x-dayfly-session: "+evil),
		g.ask("POST", g.url["storefront"]+"/orders", "quantity=1&product="+url.QueryEscape(evil),
			"Content-Type: application/x-www-form-urlencoded"),
	}
	for i, page := range asked {
		if seen := wellFormed(t, page.Body); seen["script"] != 0 || seen["article"] != 1 {
			t.Errorf("page %d: elements are %v", i, seen)
		}
		if strings.Contains(page.Body, evil) || !strings.Contains(page.Body, "&lt;script&gt;") {
			t.Errorf("page %d does not escape: %s", i, page.Body)
		}
	}
}

func TestFormOrdersOnceAndOnlyFromThisSite(t *testing.T) {
	t.Parallel()
	g := newGraph(t, nil)
	send := func(quantity, site string) answer {
		return g.ask("POST", g.url["storefront"]+"/orders", "product=bubbles&quantity="+quantity,
			"Content-Type: application/x-www-form-urlencoded", "Sec-Fetch-Site: "+site)
	}
	placed := send("3", "same-origin")
	to := placed.Header.Get("Location")
	if placed.Status != http.StatusSeeOther || !strings.HasPrefix(to, "/?placed=") {
		t.Fatalf("got %d to %q, want a redirect", placed.Status, to)
	}
	if page := g.ask("GET", g.url["storefront"]+to, ""); !strings.Contains(page.Body, "Ordered: 3 × Soap bubbles (reserved).") {
		t.Errorf("the page does not confirm: %s", page.Body)
	}
	if bad := send("many", "same-origin"); bad.Status != 422 || !strings.Contains(bad.Body, "Not ordered: quantity must be from 1 to 20.") {
		t.Errorf("a bad quantity: %d %s", bad.Status, bad.Body)
	}
	if other := send("3", "cross-site"); other.Status != http.StatusForbidden {
		t.Errorf("from another site: %d, want 403", other.Status)
	}
	listed := decode[ordersReply](t, g.ask("GET", g.url["storefront"]+"/api/orders", "")).Orders
	if len(listed) != 1 {
		t.Errorf("%d orders, want 1", len(listed))
	}
}

func TestDrawingsExist(t *testing.T) {
	t.Parallel()
	art := pageFuncs()["art"].(func(string) string)
	for _, p := range append(assortment(), Product{ID: "something-new"}) {
		if !strings.Contains(pageSource, fmt.Sprintf(`<symbol id="art-%s"`, art(p.ID))) {
			t.Errorf("page.html has no drawing for %s", p.ID)
		}
	}
}
