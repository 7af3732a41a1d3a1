package router

import (
	"net"
	"net/http"
	"sync"
)

// crowd counts who is being greeted: so many at once, and so many of them from one address. Laptops all come from the API
// server, so whoever knocks from elsewhere and then says nothing must not take every place.
type crowd struct {
	most, mostFrom int

	mu   sync.Mutex
	from map[string]int
	all  int
}

func newCrowd(most, mostFrom int) *crowd {
	return &crowd{most: most, mostFrom: mostFrom, from: map[string]int{}}
}

// enter takes a place for a caller at host:port; leave gives it back and may be called more than once.
func (c *crowd) enter(hostport string) (leave func(), ok bool) {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all >= c.most || c.from[host] >= c.mostFrom {
		return nil, false
	}
	c.all++
	c.from[host]++
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.all--
		if c.from[host]--; c.from[host] == 0 {
			delete(c.from, host)
		}
	}), true
}

// track returns a hook for http.Server.ConnState that closes connections for which there is no place. A connection holds
// its place until it is closed or has become something else than HTTP.
func (c *crowd) track() func(net.Conn, http.ConnState) {
	var places sync.Map // net.Conn → leave
	return func(conn net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			leave, ok := c.enter(conn.RemoteAddr().String())
			if !ok {
				conn.Close()
				return
			}
			places.Store(conn, leave)
		case http.StateHijacked, http.StateClosed:
			if leave, ok := places.LoadAndDelete(conn); ok {
				leave.(func())()
			}
		}
	}
}
