package cluster

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tidemill/tidemill"
)

func speaking(cfg Config, low, high int) Config {
	cfg.Member.Protocols = tidemill.Protocols{Min: low, Max: high}
	return cfg
}

// Neighbours one protocol version apart are one cluster. A node that some member does not
// understand ends with an error that names both versions, and nobody takes it for a member.
func TestProtocolsAtJoin(t *testing.T) {
	old := start(t, speaking(config("old"), 1, 1))
	next := start(t, speaking(config("next", old.Addr()), 1, 2))
	sees(t, old.Cluster, "next old")
	sees(t, next.Cluster, "next old")

	// The seed understands it, the other member does not.
	c, err := New(speaking(config("newest", next.Addr()), 2, 3))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Run(t.Context()) }()
	select {
	case err = <-done:
	case <-time.After(patience):
		t.Fatal("it goes on trying")
	}
	if !errors.Is(err, tidemill.ErrInvalid) || !strings.Contains(err.Error(), "node old speaks protocol version 1 and this node 2-3") {
		t.Errorf("it ended with: %v", err)
	}

	// Once the last of the old ones has gone, there is nothing against it.
	old.stop()
	sees(t, next.Cluster, "next")
	newest := start(t, speaking(config("newest-2", next.Addr()), 2, 3))
	sees(t, newest.Cluster, "newest-2 next")
	sees(t, next.Cluster, "newest-2 next")
}
