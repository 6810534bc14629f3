package proctest

import (
	"testing"

	"github.com/tidemill/tidemill/internal/faultnet"
)

// Network is a faultnet.Network that goes with a test.
type Network struct{ *faultnet.Network }

// NewNetwork returns a whole network, or skips the test where there can be none.
func NewNetwork(t testing.TB) *Network {
	t.Helper()
	if !faultnet.Available() {
		t.Skip("this system does not say which process opened a connection")
	}
	n, err := faultnet.New(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return &Network{n}
}

// Listen is faultnet's.
func (n *Network) Listen(t testing.TB, host string, udp bool) faultnet.Port {
	t.Helper()
	p, err := n.Network.Listen(host, udp)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
