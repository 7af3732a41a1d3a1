package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestTrailNamesEveryServiceInTheOrderTheyAreAsked(t *testing.T) {
	t.Parallel()
	g := newGraph(t, map[string]string{"catalog SHOP_VERSION": "mine"})
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ path, want string }{
		{"/", "storefront/v1@H(catalog/mine@H(stock/v1@H),orders/v1@H(stock/v1@H))"},
		{"/api/shop", "storefront/v1@H(catalog/mine@H(stock/v1@H),orders/v1@H(stock/v1@H))"},
		{"/api/products", "storefront/v1@H(catalog/mine@H(stock/v1@H))"},
		{"/api/orders", "storefront/v1@H(orders/v1@H(stock/v1@H))"},
		{"/whoami", "storefront/v1@H"},
	}
	for _, test := range tests {
		got := g.ask("GET", g.url["storefront"]+test.path, "")
		if want := strings.ReplaceAll(test.want, "@H", "@"+host); got.Header.Get("X-Trail") != want {
			t.Errorf("%s: X-Trail is %q, want %q", test.path, got.Header.Get("X-Trail"), want)
		}
		if want := "storefront/v1@" + host; got.Header.Get("X-Served-By") != want {
			t.Errorf("%s: X-Served-By is %q, want %q", test.path, got.Header.Get("X-Served-By"), want)
		}
		if strings.HasPrefix(test.path, "/api") && !strings.Contains(got.Body, `"version": "mine"`) && test.path != "/api/orders" {
			t.Errorf("%s: the body does not name the altered catalog: %s", test.path, got.Body)
		}
	}
}

func TestBaggageTraceAndSessionReachTheLeaf(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var seen []http.Header
	leaf := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen = append(seen, r.Header.Clone())
		mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"answered_by":{"service":"stock"},"levels":{},"left":1}`)
	}))
	defer leaf.Close()
	g := newGraph(t, map[string]string{"STOCK_URL": leaf.URL})

	const traceID = "4bf92f3577b34da6a3ce929d0e0e4736"
	headers := []string{"baggage: tenant=t1,dayfly=abc", "traceparent: 00-" + traceID + "-00f067aa0ba902b7-01", "x-dayfly-session: s1"}
	g.ask("GET", g.url["storefront"]+"/api/shop", "", headers...)
	g.ask("POST", g.url["storefront"]+"/api/orders", `{"product":"dew","quantity":1}`, headers...)
	if len(seen) != 3 {
		t.Fatalf("the leaf was asked %d times, want 3: by catalog, by orders, and for a reservation", len(seen))
	}
	for _, h := range seen {
		if b := h.Get("Baggage"); !strings.Contains(b, "dayfly=abc") || !strings.Contains(b, "tenant=t1") {
			t.Errorf("baggage is %q, want both members", b)
		}
		if tp := h.Get("Traceparent"); !strings.HasPrefix(tp, "00-"+traceID+"-") || strings.Contains(tp, "00f067aa0ba902b7") {
			t.Errorf("traceparent is %q, want the same trace and a span of its own", tp)
		}
		if s := h.Get("X-Dayfly-Session"); s != "s1" {
			t.Errorf("x-dayfly-session is %q, want s1", s)
		}
	}
}

func TestEveryHopSaysWhatItSawAndOnlyThat(t *testing.T) {
	t.Parallel()
	g := newGraph(t, nil)
	got := g.ask("GET", g.url["storefront"]+"/api/products", "", "baggage: dayfly=abc,user=private", "x-dayfly-session: s1")
	hop := decode[productsReply](t, got).AnsweredBy
	for _, want := range []string{"storefront", "catalog", "stock"} {
		if hop.Service != want || hop.RoutingKey != "abc" || hop.Session != "s1" {
			t.Errorf("hop is %+v, want %s with key abc and session s1", hop, want)
		}
		if len(hop.Calls) > 0 {
			hop = hop.Calls[0]
		}
	}
	if strings.Contains(got.Body, "private") {
		t.Errorf("other baggage is shown: %s", got.Body)
	}
	without := g.ask("GET", g.url["storefront"]+"/api/products", "")
	if strings.Contains(without.Body, "routing_key") || strings.Contains(without.Body, `"session"`) {
		t.Errorf("a request without a key was given one: %s", without.Body)
	}
}

func TestCatalogIsAlteredByItsEnvironment(t *testing.T) {
	t.Parallel()
	g := newGraph(t, map[string]string{"PRICE_FACTOR": "0.5"})
	got := decode[productsReply](t, g.ask("GET", g.url["catalog"]+"/products/dew", ""))
	if len(got.Products) != 1 || got.Products[0].PriceCents != 225 || *got.Products[0].Stock != 140 {
		t.Errorf("got %+v, want dew at half its 450 and 140 in stock", got.Products)
	}
	if missing := g.ask("GET", g.url["catalog"]+"/products/none", ""); missing.Status != http.StatusNotFound {
		t.Errorf("a product that is not there: %d, want 404", missing.Status)
	}
	if admin := g.ask("GET", g.url["catalog admin"]+"/", ""); !strings.Contains(admin.Body, "price_factor 0.5\n") {
		t.Errorf("the admin port says %q", admin.Body)
	}
}

func TestOrderIsValidatedReservedAndStored(t *testing.T) {
	t.Parallel()
	g := newGraph(t, nil)
	tests := []struct {
		why, body string
		status    int
		problem   string
	}{
		{"well", `{"product":"sandcastle","quantity":2}`, 201, ""},
		{"more than there are", `{"product":"sandcastle","quantity":2}`, 409, "only 1 left"},
		{"none left at all", `{"product":"snowman","quantity":1}`, 409, "sold out"},
		{"unknown to stock", `{"product":"unicorn","quantity":1}`, 404, "there is no such product"},
		{"no quantity", `{"product":"dew"}`, 422, "quantity must be from 1 to 20"},
		{"too many", `{"product":"dew","quantity":21}`, 422, "quantity must be from 1 to 20"},
		{"negative would add to the stock", `{"product":"dew","quantity":-5}`, 422, "quantity must be from 1 to 20"},
		{"not an id", `{"product":"<script>","quantity":1}`, 422, "product must be the id of one, such as dew"},
		{"a field we do not know", `{"product":"dew","quantity":1,"price":0}`, 400, `unknown field "price"`},
		{"two objects", `{"product":"dew","quantity":1}{}`, 400, "there is more after it"},
		{"too large", `{"product":"` + strings.Repeat("x", 20<<10) + `"}`, 413, "send at most 16384 bytes"},
	}
	for _, test := range tests {
		got := g.ask("POST", g.url["storefront"]+"/api/orders", test.body)
		if got.Status != test.status || !strings.Contains(decode[orderReply](t, got).Error, test.problem) {
			t.Errorf("%s: %d %s, want %d %s", test.why, got.Status, got.Body, test.status, test.problem)
		}
	}
	if got := g.ask("POST", g.url["storefront"]+"/api/orders", "product=dew"); got.Status != http.StatusUnsupportedMediaType {
		t.Errorf("not JSON: %d, want 415", got.Status)
	}
	listed := decode[ordersReply](t, g.ask("GET", g.url["storefront"]+"/api/orders", "")).Orders
	if len(listed) != 1 || listed[0].Product != "sandcastle" || listed[0].Status != "reserved" || *listed[0].Left != 1 {
		t.Errorf("orders are %+v, want the one that went well", listed)
	}
}

func TestOrdersKeepsABoundedNumber(t *testing.T) {
	t.Parallel()
	o := &memory{}
	for i := range maxOrders + 5 {
		o.add(t.Context(), Order{Quantity: i})
	}
	if len(o.placed) != maxOrders || o.placed[0].Quantity != 5 {
		t.Errorf("%d are kept and the oldest is number %d, want %d and 5", len(o.placed), o.placed[0].Quantity, maxOrders)
	}
}

func TestDeadLeafDegradesTheGraph(t *testing.T) {
	t.Parallel()
	g := newGraph(t, nil)
	if err := g.stop["stock"](); err != nil {
		t.Fatal(err)
	}
	got := decode[productsReply](t, g.ask("GET", g.url["storefront"]+"/api/products", ""))
	if p := got.Products[0]; p.Stock != nil || p.Availability != "unknown" {
		t.Errorf("product is %+v, want its stock unknown", p)
	}
	order := decode[orderReply](t, g.ask("POST", g.url["storefront"]+"/api/orders", `{"product":"dew","quantity":1}`))
	if order.Order.Status != "pending" {
		t.Errorf("order is %+v, want it pending", order.Order)
	}
	page := g.ask("GET", g.url["storefront"]+"/", "")
	if page.Status != 200 || !strings.Contains(page.Body, "catalog went without stock: connection refused") ||
		!strings.Contains(page.Body, "stock unknown") || !strings.Contains(page.Header.Get("X-Trail"), "(stock/?!)") {
		t.Errorf("the page does not say that stock is missing: %v\n%s", page.Header, page.Body)
	}
	if ready := g.ask("GET", g.url["catalog"]+"/readyz", ""); ready.Status != 200 {
		t.Errorf("catalog is unready because of stock: %d", ready.Status)
	}
}

func TestUnreachableStockDelaysCatalogByItsTimeoutOnly(t *testing.T) {
	t.Parallel()
	silent := listen(t) // accepts in the kernel and says nothing, as a network without a route back
	defer silent.Close()
	g := newGraph(t, map[string]string{"STOCK_URL": "http://" + silent.Addr().String(), "catalog CALL_TIMEOUT": "100ms"})
	begin := time.Now()
	got := decode[productsReply](t, g.ask("GET", g.url["catalog"]+"/products", ""))
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	if e := got.AnsweredBy.Calls[0].Error; e != "nothing within 100ms" {
		t.Errorf("the reason is %q", e)
	}
}

func TestDeadCoreIsNamed(t *testing.T) {
	t.Parallel()
	g := newGraph(t, nil)
	if err := g.stop["catalog"](); err != nil {
		t.Fatal(err)
	}
	page := g.ask("GET", g.url["storefront"]+"/", "")
	if page.Status != 200 || !strings.Contains(page.Body, "No products: catalog does not answer: connection refused") {
		t.Errorf("the page says %d %s", page.Status, page.Body)
	}
	api := g.ask("GET", g.url["storefront"]+"/api/products", "")
	if e := decode[reply](t, api).Error; api.Status != http.StatusBadGateway || !strings.HasPrefix(e, "catalog does not answer") {
		t.Errorf("the API says %d %s, want 502 and the service's name", api.Status, api.Body)
	}
}

func TestStrangerInPlaceOfAServiceIsNotBelieved(t *testing.T) {
	t.Parallel()
	tests := []struct{ why, body, want string }{
		{"some other server", "<h1>It works!</h1>", "answered 200 without saying who it is"},
		{"endless", `{"answered_by":{"service":"` + strings.Repeat("x", maxAnswer), "its answer is larger than 1048576 bytes"},
	}
	for _, test := range tests {
		stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, test.body) }))
		defer stranger.Close()
		g := newGraph(t, map[string]string{"CATALOG_URL": stranger.URL})
		got := g.ask("GET", g.url["storefront"]+"/api/products", "")
		if got.Status != http.StatusBadGateway || !strings.Contains(got.Body, test.want) {
			t.Errorf("%s: %d %s, want 502 %s", test.why, got.Status, got.Body, test.want)
		}
	}
}
