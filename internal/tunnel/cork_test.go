package tunnel

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

func TestACorkLosesAndReordersNothing(t *testing.T) {
	near, far := net.Pipe()
	c := Cork(near)
	want := make([]byte, 3<<20)
	_, err := rand.NewChaCha8([32]byte{}).Read(want)
	must(t, err)
	go func() {
		for rest := want; len(rest) > 0; {
			n := min(len(rest), 1+rand.IntN(40<<10))
			if _, err := c.Write(rest[:n]); err != nil {
				t.Error(err)
			}
			rest = rest[n:]
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	got, err := io.ReadAll(far)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes came, not the %d that were written", len(got), len(want))
	}
}

func TestACorkHoldsOnlySoMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		c := Cork(near)
		written := 0
		go func() {
			for {
				n, err := c.Write(make([]byte, 10<<10))
				if err != nil {
					return
				}
				written += n
			}
		}()
		synctest.Wait() // nobody reads: the writer is stuck
		if most := 2*corkSize + 20<<10; written > most {
			t.Errorf("%d bytes were taken while nobody read, at most %d may be", written, most)
		}
		start := time.Now()
		c.Close()
		if took := time.Since(start); took > corkFlush {
			t.Errorf("closing took %s", took)
		}
		far.Close()
	})
}

func TestACorkTellsThatThePeerIsGone(t *testing.T) {
	near, far := net.Pipe()
	c := Cork(near)
	defer c.Close()
	far.Close()
	var err error
	for range 100 {
		if _, err = c.Write([]byte("x")); err != nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("writing to a peer that is gone: %v", err)
	}
}
