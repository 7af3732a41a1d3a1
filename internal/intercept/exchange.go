package intercept

import (
	"time"
)

// viaOrigin sends the request to the origin. fallback says why, if a laptop should
// have had it.
func (c *conn) viaOrigin(fallback string) ending {
	u := c.originConn()
	if u == nil {
		return endReset
	}
	c.port.origin.Add(1)
	c.byTunnel = false
	how := c.relay(u, fallback)
	if how != endEarly {
		return how
	}
	c.settle()
	if isEnd(c.early) {
		return c.splice(u) // which passes on this end, and whatever the client still sends
	}
	return endReset
}

// relay sends the request to u and u's response to the client.
func (c *conn) relay(u *upstream, fallback string) ending {
	msg := c.in.bytes()
	b := c.req.body()
	n, end := b.scan(msg[c.req.size:])
	c.sent = c.req.size + n
	if _, err := u.Write(msg[:c.sent]); err != nil {
		c.early = err
		return endEarly
	}
	u.used = true
	if end != complete {
		c.settle()
		if end == doubtful {
			c.countWired()
		}
		c.startUpload(u, b)
	}
	c.watchClient(u)
	how := endEarly
	if c.early = u.accepted(); c.early == nil {
		how = c.answer(u, fallback)
	}
	c.setPhase(busy, nil)
	return how
}

// settle drops what was sent of the request: there will be no second try. If an upload
// runs, that is so already, and in is not ours to touch.
func (c *conn) settle() {
	if c.sent > 0 {
		c.in.consume(c.sent)
		c.sent = 0
	}
}

// watchClient has check look after the client while only u is read from.
func (c *conn) watchClient(u *upstream) {
	switch {
	case c.upload != nil: // reads the client
	case c.in.len() > c.sent:
		c.setPhase(answeringMore, u)
	default:
		c.setPhase(answering, u)
	}
}

// answer relays u's response, interim responses included.
func (c *conn) answer(u *upstream, fallback string) ending {
	for {
		switch err := c.readResponse(u); {
		case err == errWire:
			c.settle()
			return c.wireTo(u)
		case err != nil:
			c.early = err
			return endEarly
		}
		if c.res.status >= 200 || c.res.status == 101 {
			break
		}
		if c.pass(c.res.size) != nil {
			return endReset
		}
	}
	c.settle()
	b := c.res.body(c.req.method)
	last := b.kind == endless || !c.persists()
	closing := !last && c.mayClose()
	n, end := b.scan(c.out.bytes()[c.res.size:])
	n += c.res.size
	if fallback != "" || closing {
		if _, err := c.client.Write(c.res.edited(c.out.bytes()[:n], fallback, closing)); err != nil {
			return endReset
		}
		c.out.consume(n)
	} else if c.pass(n) != nil {
		return endReset
	}
	if end == partial {
		var how ending
		if end, how = c.passBody(u, &b); how != nextRequest {
			return how
		}
	}
	return c.answered(u, end, last, closing)
}

// readResponse reads until out starts with a whole response head. errWire leaves in
// out what is no such thing.
func (c *conn) readResponse(u *upstream) error {
	c.res.reset()
	for {
		if c.out.len() > 0 {
			switch c.res.parse(c.out.bytes()) {
			case complete:
				return nil
			case doubtful:
				return errWire
			}
			if c.out.full() {
				return errWire
			}
		}
		if err := c.out.fill(u); err != nil {
			if c.out.len() > 0 && u.route == nil && isEnd(err) {
				return errWire // half a head: the client shall see it
			}
			return err
		}
	}
}

// pass writes the first n bytes of out to the client.
func (c *conn) pass(n int) error {
	_, err := c.client.Write(c.out.bytes()[:n])
	c.out.consume(n)
	return err
}

// passBody relays the rest of a response body. Each piece is written as soon as it is there.
func (c *conn) passBody(u *upstream, b *body) (progress, ending) {
	for {
		if b.kind == sized && spliceable(c.client, u.Conn, b.left) {
			switch pumpN(c.client, u.Conn, &b.left) {
			case srcEnded:
				return partial, c.splice(u)
			case bodySent:
				return complete, nextRequest
			}
			return partial, endReset
		}
		if err := c.out.fill(u); isEnd(err) {
			return partial, c.splice(u)
		} else if err != nil {
			return partial, endReset
		}
		wide := c.out.filled()
		n, end := b.scan(c.out.bytes())
		if c.pass(n) != nil {
			return partial, endReset
		}
		if end != partial {
			return end, nextRequest
		}
		if wide {
			c.out.grow()
		}
	}
}

// answered decides what follows a response whose body was relayed up to its end, or
// as far as its end could be known.
func (c *conn) answered(u *upstream, end progress, last, closing bool) ending {
	switch {
	case end == doubtful && !c.res.unframed(c.req.method), end == complete && c.out.len() > 0:
		return c.wireTo(u) // it cannot be framed, or says more than was asked
	case last:
		return c.splice(u) // whoever closes first, the other side sees it
	case closing:
		return c.closeGently()
	case c.upload != nil:
		return c.finishUpload(u)
	}
	u.used = true
	return nextRequest
}

// persists reports whether both sides mean to use the connection again. A client of
// HTTP/1.0 must be told so, and an origin that does not tell it is about to close.
func (c *conn) persists() bool {
	return c.req.persists() && c.res.persists() && (c.req.minor > 0 || c.res.keepAlive)
}

// mayClose reports whether this response is to tell the client that it is the last. Not
// if another request is on its way: it would be lost.
func (c *conn) mayClose() bool {
	if !c.draining() || c.upload != nil || c.in.len() > 0 {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sock.peek() != hasData
}

// closeGently ends a connection whose client knows that this was the last response. It
// waits a little for the client to end it too: closing with bytes unread
// would reset it, and take the response away from a slow reader.
func (c *conn) closeGently() ending {
	const patience, limit = time.Second, 256 << 10
	c.setPhase(leaving, nil)
	closeWrite(c.client)
	_ = c.client.SetReadDeadline(time.Now().Add(patience))
	for n := 0; n < limit; {
		if err := c.in.fill(c.client); err != nil {
			break
		}
		n += c.in.len()
		c.in.consume(c.in.len())
	}
	return endClose
}

// edited returns b, which starts with the head p, with a header that says why the origin
// answered and with Connection: close.
func (p *response) edited(b []byte, fallback string, closing bool) []byte {
	e := make([]byte, 0, len(b)+256)
	kept := 0
	if closing && !p.close {
		for _, f := range p.fields {
			if !f.keepsAlive(b) {
				continue
			}
			e = append(e, b[kept:f.line.off]...)
			kept = f.line.end + len("\r\n")
		}
	}
	end := p.size - len("\r\n")
	e = append(e, b[kept:end]...)
	if closing && !p.close {
		e = append(e, "Connection: close\r\n"...)
	}
	if fallback != "" {
		e = append(e, "x-dayfly-fallback: "+fallback+"\r\n"...)
	}
	return append(e, b[end:]...)
}

// keepsAlive reports whether f says nothing but that the connection is kept.
func (f field) keepsAlive(b []byte) bool {
	name := f.name.of(b)
	return equalFold(name, "keep-alive") ||
		equalFold(name, "connection") && equalFold(f.value.of(b), "keep-alive")
}
