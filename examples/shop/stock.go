package main

import (
	"fmt"
	"maps"
	"net/http"
	"sync"
)

// stock is the leaf: it knows how many there are of each product, and asks nobody. It counts in memory, so it starts
// afresh with each process, and runs once.
type stock struct {
	*service

	mu     sync.Mutex
	levels map[string]int
}

type levelsReply struct {
	reply
	Levels map[string]int `json:"levels"`
}

// reservation is what orders sends.
type reservation struct {
	Product  string `json:"product"`
	Quantity int    `json:"quantity"`
}

type reservedReply struct {
	reply
	Left int `json:"left"`
}

func newStock(s *service) *stock {
	return &stock{service: s, levels: map[string]int{
		"dew": 140, "lantern": 23, "sandcastle": 3, "bubbles": 96, "snowman": 0, "newspaper": 58,
	}}
}

func (s *stock) register(mux *http.ServeMux) {
	mux.HandleFunc("GET /stock", s.list)
	mux.HandleFunc("POST /reservations", s.reserve)
}

func (s *stock) list(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	levels := maps.Clone(s.levels)
	s.mu.Unlock()
	s.answer(w, http.StatusOK, s.hop(r), &levelsReply{Levels: levels})
}

func (s *stock) reserve(w http.ResponseWriter, r *http.Request) {
	var want reservation
	if bad := readJSON(r, &want); bad != nil {
		s.refuse(w, bad.status, s.hop(r), bad.problem)
		return
	}
	left, status, problem := s.take(want)
	if problem != "" {
		s.refuse(w, status, s.hop(r), problem)
		return
	}
	s.answer(w, http.StatusOK, s.hop(r), &reservedReply{Left: left})
}

func (s *stock) take(want reservation) (left, status int, problem string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	have, known := s.levels[want.Product]
	switch {
	case !known:
		return 0, http.StatusNotFound, "there is no such product"
	case want.Quantity < 1:
		return 0, http.StatusUnprocessableEntity, "quantity must be 1 or more"
	case have == 0:
		return 0, http.StatusConflict, "sold out"
	case want.Quantity > have:
		return 0, http.StatusConflict, fmt.Sprintf("only %d left", have)
	}
	s.levels[want.Product] = have - want.Quantity
	return s.levels[want.Product], 0, ""
}
