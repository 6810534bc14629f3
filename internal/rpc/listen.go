package rpc

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"github.com/tidemill/tidemill"
)

// Listen listens on addr, "host:port" over TCP; port 0 is any free one. When the address is
// only a default and its port is in use, a free port is taken instead; one that was asked for
// must be free. Ask the listener for the address it got, and Security.CheckListen before.
func Listen(addr string, isDefault bool) (net.Listener, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, tidemill.Invalid("%.80q is not an address to listen on", "give HOST:PORT, or :0 for any free port", addr)
	}
	lis, err := net.Listen("tcp", addr)
	if err != nil && isDefault && errors.Is(err, syscall.EADDRINUSE) {
		lis, err = net.Listen("tcp", net.JoinHostPort(host, "0"))
	}
	if err != nil {
		return nil, ListenError(port, err)
	}
	return lis, nil
}

// ListenError says what a failed attempt to listen on a port means and what to do about it.
func ListenError(port string, err error) error {
	var dns *net.DNSError
	var bad *net.AddrError
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("port %s is in use; stop what uses it, or choose another (0 takes any free one): %w", port, tidemill.ErrExists)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("port %s may not be listened on by this user; choose one above 1023: %w", port, tidemill.ErrDenied)
	case errors.Is(err, syscall.EADDRNOTAVAIL), errors.As(err, &dns):
		return tidemill.Invalid("the host to listen on is not an address of this machine", "use 127.0.0.1, 0.0.0.0 or one of its own")
	case errors.As(err, &bad):
		return tidemill.Invalid("port %.20q is not a port", "use a number from 0 to 65535", port)
	}
	return fmt.Errorf("port %s cannot be listened on: %w: %w", port, tidemill.ErrUnavailable, err)
}
