package intercept

import (
	"encoding/binary"
	"net"
	"syscall"
)

// peek looks for a byte without waiting and without taking it.
func peek(fd uintptr, buf []byte) readable {
	for {
		n, _, err := syscall.Recvfrom(int(fd), buf, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			return quiet
		case err != nil:
			return wasReset
		case n == 0:
			return ended
		}
		return hasData
	}
}

// maxFiles is how many files this process may have open.
func maxFiles() uint64 {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return 1024
	}
	return r.Cur
}

// tcpClosed reports whether the kernel has the socket in state CLOSE. The state is the
// first byte of struct tcp_info, of which GetsockoptInt asks for four.
func tcpClosed(fd uintptr) bool {
	const stateClose = 7
	v, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
	if err != nil {
		return false
	}
	var info [4]byte
	binary.NativeEndian.PutUint32(info[:], uint32(v))
	return info[0] == stateClose
}

// awaitReadable waits, as long as the read deadline allows, until c has something to read or an error to tell.
func awaitReadable(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var seen error
	err = raw.Read(func(fd uintptr) bool {
		for {
			_, _, seen = syscall.Recvfrom(int(fd), nil, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			if seen != syscall.EINTR {
				return seen != syscall.EAGAIN
			}
		}
	})
	if err == nil {
		err = seen
	}
	return err
}
