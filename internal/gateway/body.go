package gateway

import (
	"io"
	"sync/atomic"
)

// unread is a body that can be handed to several transports, one after the other, as long as none has read of it.
type unread struct {
	io.ReadCloser
	read atomic.Bool
}

func (u *unread) Read(p []byte) (int, error) {
	u.read.Store(true)
	return u.ReadCloser.Read(p)
}

// Close is for transports, which close what they could not send as well. Whoever owns the request closes what nobody has read.
func (u *unread) Close() error {
	if u.read.Load() {
		return u.ReadCloser.Close()
	}
	return nil
}

func (u *unread) touched() bool { return u.read.Load() }
