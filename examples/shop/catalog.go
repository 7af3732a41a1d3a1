package main

import (
	"fmt"
	"math"
	"net/http"
	"time"
)

// Product is what the shop sells. Stock is null, and Availability "unknown", when stock does not answer.
type Product struct {
	ID           string `json:"id"`
	Name         string `json:"name"`
	Note         string `json:"note"`
	PriceCents   int64  `json:"price_cents"`
	Stock        *int   `json:"stock"`
	Availability string `json:"availability"` // "in stock", "sold out" or "unknown"
}

// assortment is a good place for a first change: edit a name, run `go run . catalog`, and look at the page.
func assortment() []Product {
	return []Product{
		{ID: "dew", Name: "Morning dew", Note: "One meadow's worth, collected at five.", PriceCents: 450},
		{ID: "lantern", Name: "Paper lantern", Note: "Rises once. Does not come back.", PriceCents: 1290},
		{ID: "sandcastle", Name: "Sandcastle", Note: "Sea view. Sold until high tide.", PriceCents: 2400},
		{ID: "bubbles", Name: "Soap bubbles", Note: "A dozen, assorted. Handle with breath.", PriceCents: 320},
		{ID: "snowman", Name: "Snowman", Note: "With carrot. Keep away from noon.", PriceCents: 1850},
		{ID: "newspaper", Name: "Newspaper", Note: "Today's. Tomorrow it wraps fish.", PriceCents: 280},
	}
}

// catalog is a core service: names and prices are its own, how many are left it asks of stock.
type catalog struct {
	*service
	stock downstream
}

type productsReply struct {
	reply
	Products []Product `json:"products"`
}

func newCatalog(s *service) *catalog {
	return &catalog{service: s, stock: s.downstream("stock", s.cfg.StockURL)}
}

func (c *catalog) register(mux *http.ServeMux) {
	mux.HandleFunc("GET /products", c.list)
	mux.HandleFunc("GET /products/{id}", c.one)
}

func (c *catalog) list(w http.ResponseWriter, r *http.Request) {
	products, asked := c.products(r)
	c.answer(w, http.StatusOK, c.hop(r, asked), &productsReply{Products: products})
}

func (c *catalog) one(w http.ResponseWriter, r *http.Request) {
	products, asked := c.products(r)
	for _, p := range products {
		if p.ID == r.PathValue("id") {
			c.answer(w, http.StatusOK, c.hop(r, asked), &productsReply{Products: []Product{p}})
			return
		}
	}
	c.refuse(w, http.StatusNotFound, c.hop(r, asked), "there is no such product")
}

// products never fails: without stock, the shop window is still worth showing.
func (c *catalog) products(r *http.Request) ([]Product, Hop) {
	var levels levelsReply
	asked, err := c.stock.call(r.Context(), http.MethodGet, "/stock", nil, &levels)
	if err != nil {
		c.log.Warn("answering without stock", "error", err)
	}
	products := assortment()
	for i := range products {
		p := &products[i]
		p.PriceCents = int64(math.Round(float64(p.PriceCents) * c.cfg.PriceFactor))
		p.Availability = "unknown"
		if n, known := levels.Levels[p.ID]; known && err == nil {
			p.Stock, p.Availability = &n, "in stock"
			if n == 0 {
				p.Availability = "sold out"
			}
		}
	}
	return products, asked
}

// adminHandler is catalog's second port: plain text, for whoever operates it. It is there so that the graph has a
// Service with two ports, of which an intercept takes one and leaves the other alone.
func (s *service) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintf(w, "service %s\nversion %s\nhost %s\nup %s\nrequests %d\nprice_factor %g\n", s.cfg.Service,
			s.cfg.Version, s.cfg.Hostname, time.Since(s.started).Round(time.Second), s.requests.Load(), s.cfg.PriceFactor)
	})
	return s.signed(mux)
}
