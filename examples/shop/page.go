package main

import (
	"fmt"
	"html/template"
	"slices"
)

// page is what page.html is made from.
type page struct {
	Greeting   string
	RoutingKey string
	Session    string
	Style      template.CSS
	Problems   []string
	Products   []Product
	Orders     []shownOrder
	Edge       shownHop
	Placed     *shownOrder
}

// shownHop is a Hop and what makes it stand out.
type shownHop struct {
	Hop
	Odd   bool // of another version than the edge: this is the altered one
	Calls []shownHop
}

// shownOrder is an Order and the product's name, which only catalog knows.
type shownOrder struct {
	Order
	Name string
}

func newPage(view shop) page {
	edge := view.AnsweredBy
	p := page{
		Greeting:   view.Greeting,
		RoutingKey: edge.RoutingKey,
		Session:    edge.Session,
		Style:      template.CSS(pageStyle),
		Problems:   view.Problems,
		Products:   view.Products,
		Edge:       showHop(edge, edge.Version),
	}
	names := map[string]string{}
	for _, product := range view.Products {
		names[product.ID] = product.Name
	}
	for _, order := range view.Orders {
		shown := shownOrder{Order: order, Name: order.Product}
		if name, known := names[order.Product]; known {
			shown.Name = name
		}
		if order.ID == view.placed {
			p.Placed = &shown
		}
		if len(p.Orders) < maxShown {
			p.Orders = append(p.Orders, shown)
		}
	}
	return p
}

func showHop(h Hop, usual string) shownHop {
	shown := shownHop{Hop: h, Odd: h.Version != "" && h.Version != usual}
	for _, c := range h.Calls {
		shown.Calls = append(shown.Calls, showHop(c, usual))
	}
	return shown
}

func pageFuncs() template.FuncMap {
	drawn := []string{"dew", "lantern", "sandcastle", "bubbles", "snowman", "newspaper"}
	return template.FuncMap{
		"price": func(cents int64) string { return fmt.Sprintf("€ %d.%02d", cents/100, cents%100) },
		// art names a drawing in page.html; a product of somebody's own gets the parcel.
		"art": func(id string) string {
			if slices.Contains(drawn, id) {
				return id
			}
			return "parcel"
		},
	}
}
