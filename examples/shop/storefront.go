package main

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"sync"
)

//go:embed page.html
var pageSource string

//go:embed page.css
var pageStyle string

const maxShown = 5 // orders on the page

// storefront is the edge: it asks the two core services, and makes a page or JSON of what they say.
type storefront struct {
	*service
	catalog, orders downstream
	page            *template.Template
	policy          string
}

func newStorefront(s *service) *storefront {
	sum := sha256.Sum256([]byte(pageStyle))
	return &storefront{
		service: s,
		catalog: s.downstream("catalog", s.cfg.CatalogURL),
		orders:  s.downstream("orders", s.cfg.OrdersURL),
		page:    template.Must(template.New("page").Funcs(pageFuncs()).Parse(pageSource)),
		// The page brings all it needs; whatever else got into it does not run, load or post anywhere.
		policy: "default-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; style-src 'sha256-" +
			base64.StdEncoding.EncodeToString(sum[:]) + "'",
	}
}

func (f *storefront) register(mux *http.ServeMux) {
	// Other sites must not place orders with a visitor's browser.
	own := http.NewCrossOriginProtection()
	mux.HandleFunc("GET /{$}", f.show)
	mux.Handle("POST /orders", own.Handler(http.HandlerFunc(f.submit)))
	mux.HandleFunc("GET /api/shop", f.apiShop)
	mux.HandleFunc("GET /api/products", f.apiProducts)
	mux.HandleFunc("GET /api/orders", f.apiOrders)
	mux.Handle("POST /api/orders", own.Handler(http.HandlerFunc(f.apiPlace)))
}

// shop is all that the page shows, and what GET /api/shop answers with.
type shop struct {
	reply
	Greeting string    `json:"greeting"`
	Products []Product `json:"products"`
	Orders   []Order   `json:"orders"`
	Problems []string  `json:"problems,omitempty"` // what is missing, and because of whom

	placed string // the id of an order just placed
}

// gather asks both core services at once. What does not come is a problem to show, not a reason to show nothing.
func (f *storefront) gather(r *http.Request) shop {
	var (
		products                   productsReply
		placed                     ordersReply
		catalogHop, ordersHop      Hop
		catalogFailed, orderFailed error
		both                       sync.WaitGroup
	)
	both.Go(func() {
		catalogHop, catalogFailed = f.catalog.call(r.Context(), http.MethodGet, "/products", nil, &products)
	})
	both.Go(func() {
		ordersHop, orderFailed = f.orders.call(r.Context(), http.MethodGet, "/orders", nil, &placed)
	})
	both.Wait()

	view := shop{Greeting: f.cfg.Greeting, Products: products.Products, Orders: placed.Orders}
	view.AnsweredBy = f.hop(r, catalogHop, ordersHop)
	if catalogFailed != nil {
		view.Problems = append(view.Problems, "No products: "+catalogFailed.Error()+".")
	}
	if orderFailed != nil {
		view.Problems = append(view.Problems, "No orders: "+orderFailed.Error()+".")
	}
	for _, core := range view.AnsweredBy.Calls {
		for _, leaf := range core.Calls {
			if leaf.Error != "" {
				view.Problems = append(view.Problems,
					fmt.Sprintf("%s went without %s: %s.", core.Service, leaf.Service, leaf.Error))
			}
		}
	}
	return view
}

func (f *storefront) show(w http.ResponseWriter, r *http.Request) {
	view := f.gather(r)
	view.placed = r.URL.Query().Get("placed")
	f.render(w, http.StatusOK, view)
}

// submit takes the page's form. When all is well it redirects, so that reloading the page orders nothing.
func (f *storefront) submit(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		http.Error(w, "the form cannot be read", http.StatusBadRequest)
		return
	}
	quantity, _ := strconv.Atoi(r.PostFormValue("quantity")) // orders refuses 0 and says what it wants
	want := orderRequest{Product: r.PostFormValue("product"), Quantity: quantity}
	var got orderReply
	if _, err := f.orders.call(r.Context(), http.MethodPost, "/orders", want, &got); err != nil {
		view := f.gather(r)
		view.Problems = append([]string{"Not ordered: " + err.Error() + "."}, view.Problems...)
		f.render(w, statusOf(err), view)
		return
	}
	http.Redirect(w, r, "/?placed="+template.URLQueryEscaper(got.Order.ID), http.StatusSeeOther)
}

func (f *storefront) apiShop(w http.ResponseWriter, r *http.Request) {
	view := f.gather(r)
	f.answer(w, http.StatusOK, view.AnsweredBy, &view)
}

func (f *storefront) apiProducts(w http.ResponseWriter, r *http.Request) {
	var got productsReply
	asked, err := f.catalog.call(r.Context(), http.MethodGet, "/products", nil, &got)
	f.pass(w, http.StatusOK, f.hop(r, asked), &got, err)
}

func (f *storefront) apiOrders(w http.ResponseWriter, r *http.Request) {
	var got ordersReply
	asked, err := f.orders.call(r.Context(), http.MethodGet, "/orders", nil, &got)
	f.pass(w, http.StatusOK, f.hop(r, asked), &got, err)
}

func (f *storefront) apiPlace(w http.ResponseWriter, r *http.Request) {
	var want orderRequest
	if bad := readJSON(r, &want); bad != nil {
		f.refuse(w, bad.status, f.hop(r), bad.problem)
		return
	}
	var got orderReply
	asked, err := f.orders.call(r.Context(), http.MethodPost, "/orders", want, &got)
	f.pass(w, http.StatusCreated, f.hop(r, asked), &got, err)
}

// pass answers with what a core service said, in this service's name.
func (f *storefront) pass(w http.ResponseWriter, status int, by Hop, got signer, err error) {
	if err != nil {
		f.log.Warn("passing an error on", "error", err)
		f.refuse(w, statusOf(err), by, err.Error())
		return
	}
	f.answer(w, status, by, got)
}

// statusOf is the status for a caller: its own mistakes as they are, everybody else's as a gateway says them.
func statusOf(err error) int {
	var failed *callError
	switch {
	case !errors.As(err, &failed):
		return http.StatusInternalServerError
	case failed.Refused():
		return failed.Status
	case failed.Timeout:
		return http.StatusGatewayTimeout
	}
	return http.StatusBadGateway
}

// render makes the page in memory first, so that a broken one is an error and not half a page.
func (f *storefront) render(w http.ResponseWriter, status int, view shop) {
	var page bytes.Buffer
	if err := f.page.Execute(&page, newPage(view)); err != nil {
		f.log.Error("rendering the page", "error", err)
		http.Error(w, "rendering the page", http.StatusInternalServerError)
		return
	}
	setTrail(w, view.AnsweredBy)
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", f.policy)
	h.Set("Referrer-Policy", "same-origin")
	w.WriteHeader(status)
	w.Write(page.Bytes()) // an error here means that the caller has gone
}
