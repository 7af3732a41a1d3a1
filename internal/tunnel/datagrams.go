package tunnel

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
)

// maxDatagram is what a length of two bytes can say, and more than UDP carries.
const maxDatagram = 65535

// datagramConn carries datagrams in a stream: two bytes of length, big-endian, then that many bytes. Each Read and Write is
// one datagram.
type datagramConn struct {
	net.Conn

	read    sync.Mutex
	head    [2]byte
	got     int  // bytes of head
	pending bool // head is whole, its datagram is still in the stream

	write sync.Mutex
	out   []byte
}

// Datagrams makes a connection of a stream that DialDatagrams has opened: each Read and Write is one datagram, and Await
// waits for one.
func Datagrams(stream net.Conn) net.Conn { return datagrams(stream) }

func datagrams(stream net.Conn) *datagramConn { return &datagramConn{Conn: stream} }

// Await waits until there is a datagram to read, without a buffer for it. A deadline breaks nothing: the next call goes on.
func (d *datagramConn) Await() error {
	d.read.Lock()
	defer d.read.Unlock()
	return d.await()
}

func (d *datagramConn) await() error {
	for !d.pending {
		n, err := d.Conn.Read(d.head[d.got:])
		if d.got += n; d.got == len(d.head) {
			d.pending, d.got = true, 0
		} else if err != nil {
			return err
		}
	}
	return nil
}

// Read returns one datagram. One that p has no room for is an error, and so is whatever breaks the stream within one: the
// stream is of no use after that.
func (d *datagramConn) Read(p []byte) (int, error) {
	d.read.Lock()
	defer d.read.Unlock()
	if err := d.await(); err != nil {
		return 0, err
	}
	n := int(binary.BigEndian.Uint16(d.head[:]))
	if n > len(p) {
		return 0, io.ErrShortBuffer
	}
	d.pending = false
	return io.ReadFull(d.Conn, p[:n])
}

// Write sends one datagram. After an error the stream is of no use.
func (d *datagramConn) Write(p []byte) (int, error) {
	if len(p) > maxDatagram {
		return 0, fmt.Errorf("a datagram of %d bytes is larger than %d", len(p), maxDatagram)
	}
	d.write.Lock()
	defer d.write.Unlock()
	d.out = append(binary.BigEndian.AppendUint16(d.out[:0], uint16(len(p))), p...)
	if _, err := d.Conn.Write(d.out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// joinDatagrams copies datagrams both ways until either side ends or breaks, and closes both. An empty datagram is one too.
func joinDatagrams(a, b net.Conn) {
	var wg sync.WaitGroup
	wg.Go(func() { passDatagrams(a, b) })
	passDatagrams(b, a)
	wg.Wait()
}

func passDatagrams(dst, src net.Conn) {
	defer dst.Close()
	defer src.Close()
	buf := make([]byte, maxDatagram)
	for {
		n, err := src.Read(buf)
		if err != nil {
			return
		}
		if _, err := dst.Write(buf[:n]); err != nil {
			return
		}
	}
}
