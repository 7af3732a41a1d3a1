package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"
)

const (
	maxQuantity = 20
	maxOrders   = 1000 // kept in memory; the oldest go first
	maxListed   = 100
)

// Order is a placed order.
type Order struct {
	ID       string    `json:"id"`
	Product  string    `json:"product"`
	Quantity int       `json:"quantity"`
	Status   string    `json:"status"` // "reserved", or "pending" when stock did not answer
	Placed   time.Time `json:"placed"`
	Left     *int      `json:"left"` // how many stock still has; null when unknown
}

// orders is a core service: it takes orders and reserves them with stock.
type orders struct {
	*service
	stock downstream
	kept  store
}

type ordersReply struct {
	reply
	Orders []Order `json:"orders"`
	Total  int     `json:"total"` // of all orders, of which these are the newest
}

type orderReply struct {
	reply
	Order Order `json:"order"`
}

// orderRequest is what a customer sends.
type orderRequest struct {
	Product  string `json:"product"`
	Quantity int    `json:"quantity"`
}

func newOrders(s *service) *orders {
	return &orders{service: s, stock: s.downstream("stock", s.cfg.StockURL), kept: s.kept}
}

func (o *orders) register(mux *http.ServeMux) {
	mux.HandleFunc("GET /orders", o.list)
	mux.HandleFunc("POST /orders", o.place)
}

// list answers with the newest first, and with what stock has left of each.
func (o *orders) list(w http.ResponseWriter, r *http.Request) {
	newest, total, err := o.kept.newest(r.Context(), maxListed)
	if err != nil {
		o.lost(w, r, err)
		return
	}
	var levels levelsReply
	asked, err := o.stock.call(r.Context(), http.MethodGet, "/stock", nil, &levels)
	if err != nil {
		o.log.Warn("listing without stock", "error", err)
	}
	for i := range newest {
		if n, known := levels.Levels[newest[i].Product]; known && err == nil {
			newest[i].Left = &n
		}
	}
	o.answer(w, http.StatusOK, o.hop(r, asked), &ordersReply{Orders: newest, Total: total})
}

// lost answers when orders can be neither read nor kept.
func (o *orders) lost(w http.ResponseWriter, r *http.Request, err error) {
	o.log.Error("asking the database", "error", err)
	o.refuse(w, http.StatusServiceUnavailable, o.hop(r), "the orders cannot be reached")
}

func (o *orders) place(w http.ResponseWriter, r *http.Request) {
	var want orderRequest
	if bad := readJSON(r, &want); bad != nil {
		o.refuse(w, bad.status, o.hop(r), bad.problem)
		return
	}
	if problem := want.problem(); problem != "" {
		o.refuse(w, http.StatusUnprocessableEntity, o.hop(r), problem)
		return
	}
	order := Order{
		ID: strings.ToLower(rand.Text()[:10]), Product: want.Product, Quantity: want.Quantity,
		Status: "reserved", Placed: time.Now().UTC().Truncate(time.Second),
	}
	var reserved reservedReply
	asked, err := o.stock.call(r.Context(), http.MethodPost, "/reservations", reservation(want), &reserved)
	var failed *callError
	switch {
	case errors.As(err, &failed) && failed.Refused():
		o.refuse(w, failed.Status, o.hop(r, asked), failed.Message)
		return
	case err != nil:
		order.Status = "pending" // better an order to confirm later than a lost customer
		o.log.Warn("taking an order without stock", "order", order.ID, "error", err)
	default:
		order.Left = &reserved.Left
	}
	kept := order
	kept.Left = nil // true only for a moment; list asks again
	if err := o.kept.add(r.Context(), kept); err != nil {
		o.lost(w, r, err)
		return
	}
	o.answer(w, http.StatusCreated, o.hop(r, asked), &orderReply{Order: order})
}

var productShape = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// problem says what is wrong with a request, "" for nothing. Whether the product exists, stock knows.
func (q orderRequest) problem() string {
	switch {
	case !productShape.MatchString(q.Product):
		return "product must be the id of one, such as dew"
	case q.Quantity < 1 || q.Quantity > maxQuantity:
		return fmt.Sprintf("quantity must be from 1 to %d", maxQuantity)
	}
	return ""
}
