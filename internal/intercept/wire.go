package intercept

import (
	"io"
	"net"
	"time"
)

// spliceMin is the least rest of a body for which splice(2) pays.
const spliceMin = 64 << 10

// wire makes the rest of the connection bytes that go where unread bytes go.
func (c *conn) wire() ending {
	u := c.byDefault()
	if u == nil {
		return endReset
	}
	return c.wireUnread(u)
}

// wireUnread does so to u, which byDefault has given.
func (c *conn) wireUnread(u *upstream) ending {
	switch {
	case u.route != nil:
		c.countMatch(u.route)
		defer c.observed(u.route, false)()
	case c.refused != nil:
		c.countFallback(c.refused)
	}
	return c.wireTo(u)
}

// wireTo counts the connection as one that is not read any more, and splices it to u.
func (c *conn) wireTo(u *upstream) ending {
	c.countWired()
	return c.splice(u)
}

func (c *conn) countWired() { c.port.wired.Add(1) }

// byDefault connects to where bytes go that are not plain HTTP: to the laptop that takes
// everything, or to the origin.
func (c *conn) byDefault() *upstream {
	l := c.config()
	c.refused = nil
	if l != nil && l.all != nil {
		if u, err := c.tunnelConn(l.all, false); err == nil {
			return u
		}
		c.refused = l.all
	}
	return c.originConn()
}

// splice copies in both directions, first what was read already, until both sides have
// ended or one is reset.
func (c *conn) splice(u *upstream) ending {
	c.setPhase(busy, nil)
	c.uploadRest(u)
	if pump(c.client, u.Conn, &c.out) != srcEnded {
		return endReset
	}
	closeWrite(c.client)
	c.setPhase(halfOpen, u)
	<-c.upload.done
	c.setPhase(busy, nil)
	if c.upload.end == srcEnded {
		return endClose
	}
	return endReset
}

// upload copies the client's bytes to an upstream in a goroutine of its own: the body of
// a request, or whatever comes. It owns conn.in until done.
type upload struct {
	done chan struct{}
	end  pumpEnd // once done

	// Guarded by conn.mu.
	raw      bool      // go on after the body, with no regard to what it is
	finished bool      // it will not look at raw again
	wake     *upstream // whose reader waits for the upload to finish
}

func (c *conn) startUpload(u *upstream, b body) {
	c.upload = &upload{done: make(chan struct{})}
	go c.runUpload(c.upload, u, b)
}

// uploadRest sees to it that everything the client sends from now on goes to u.
func (c *conn) uploadRest(u *upstream) {
	if up := c.upload; up != nil {
		c.mu.Lock()
		running := !up.finished
		up.raw = true
		c.mu.Unlock()
		if running {
			return
		}
		if <-up.done; up.end != bodySent {
			return // nothing will come
		}
	}
	c.startUpload(u, body{kind: endless})
}

func (c *conn) runUpload(up *upload, u *upstream, b body) {
	defer close(up.done)
	up.end = c.sendBody(u, &b)
	if up.end == bodySent && c.goOn(up) {
		up.end = pump(u.Conn, c.client, &c.in)
	}
	c.finish(up)
	switch up.end {
	case srcEnded:
		closeWrite(u.Conn)
	case srcReset:
		c.abort()
	}
}

// goOn reports whether the upload is to become a wire after its body; if not, it has finished.
func (c *conn) goOn(up *upload) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	up.finished = !up.raw
	return up.raw
}

func (c *conn) finish(up *upload) {
	c.mu.Lock()
	defer c.mu.Unlock()
	up.finished = true
	if up.wake != nil {
		_ = up.wake.SetReadDeadline(past)
	}
}

// sendBody copies the rest of a request body to u.
func (c *conn) sendBody(u *upstream, b *body) pumpEnd {
	for {
		switch {
		case b.kind == endless:
			return pump(u.Conn, c.client, &c.in)
		case b.kind == sized && spliceable(u.Conn, c.client, b.left):
			return pumpN(u.Conn, c.client, &b.left)
		}
		c.in.grow()
		if err := c.in.fill(c.client); isEnd(err) {
			return srcEnded
		} else if isTimeout(err) {
			return stopped
		} else if err != nil {
			return srcReset
		}
		n, end := b.scan(c.in.bytes())
		if _, err := u.Write(c.in.bytes()[:n]); err != nil {
			return dstGone
		}
		c.in.consume(n)
		switch end {
		case complete:
			return bodySent
		case doubtful:
			c.countWired()
		}
	}
}

// finishUpload waits, after an early response, for the request to end, so that the next can
// be read. Until then the upstream may still end the connection.
func (c *conn) finishUpload(u *upstream) ending {
	up := c.upload
	c.mu.Lock()
	waiting := !up.finished
	if waiting {
		up.wake = u
	}
	c.mu.Unlock()
	if waiting {
		err := c.out.fill(u)
		c.mu.Lock()
		up.wake = nil
		c.mu.Unlock()
		_ = u.SetReadDeadline(time.Time{})
		switch {
		case err == nil, isEnd(err):
			return c.splice(u)
		case !isTimeout(err):
			return endReset
		}
	}
	if <-up.done; up.end != bodySent {
		return c.splice(u)
	}
	c.upload = nil
	u.used = true
	return nextRequest
}

// stopUpload ends an upload whose upstream is closed, and leaves the client readable.
func (c *conn) stopUpload() {
	if c.upload == nil {
		return
	}
	_ = c.client.SetReadDeadline(past)
	<-c.upload.done
	_ = c.client.SetReadDeadline(time.Time{})
	c.upload = nil
}

// pumpEnd says why copying stopped.
type pumpEnd uint8

const (
	srcEnded pumpEnd = iota // in good order
	srcReset
	dstGone
	bodySent // all that was to be copied was
	stopped  // by stopUpload
)

// pump writes what buf holds and then all of src to dst. Between TCP connections
// the kernel moves the bytes.
func pump(dst, src net.Conn, buf *buffer) pumpEnd {
	if buf.len() > 0 {
		if _, err := dst.Write(buf.bytes()); err != nil {
			return dstGone
		}
		buf.consume(buf.len())
	}
	if to, from, ok := bothTCP(dst, src); ok {
		buf.release()
		_, err := to.ReadFrom(from)
		return blame(from, err)
	}
	buf.grow()
	for {
		switch err := buf.fill(src); {
		case err == nil:
		case isEnd(err):
			return srcEnded
		case isTimeout(err):
			return stopped
		default:
			return srcReset
		}
		if _, err := dst.Write(buf.bytes()); err != nil {
			return dstGone
		}
		buf.consume(buf.len())
	}
}

func bothTCP(dst, src net.Conn) (to, from *net.TCPConn, ok bool) {
	if to, ok = dst.(*net.TCPConn); ok {
		from, ok = src.(*net.TCPConn)
	}
	return to, from, ok
}

func spliceable(dst, src net.Conn, left int64) bool {
	if left < spliceMin {
		return false
	}
	_, _, ok := bothTCP(dst, src)
	return ok
}

// pumpN moves *left bytes between two TCP connections.
func pumpN(dst, src net.Conn, left *int64) pumpEnd {
	to, from, _ := bothTCP(dst, src)
	n, err := to.ReadFrom(&io.LimitedReader{R: from, N: *left})
	*left -= n
	if err == nil && *left == 0 {
		return bodySent
	}
	return blame(from, err)
}

// blame finds which side an error of a copy within the kernel came from.
func blame(src *net.TCPConn, err error) pumpEnd {
	switch {
	case err == nil:
		return srcEnded
	case isTimeout(err):
		return stopped
	case sockOf(src).gone():
		return srcReset
	}
	return dstGone
}
