package node

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidemill/tidemill"
)

// TestProtocolsWithoutGossip: where nobody gossips, the session leases say who speaks what. A
// node of the next version joins, one two versions away ends with both versions named, and
// those that were there do not notice.
func TestProtocolsWithoutGossip(t *testing.T) {
	first, _ := start(t, localConfig(t, RoleStream, RoleTrainer))
	beside := func(p tidemill.Protocols) Config {
		cfg := localConfig(t, RoleWorker)
		cfg.Gossip, cfg.HTTP, cfg.StreamURL = "-", "-", first.Info().Stream
		cfg.StoreURL = "file://" + filepath.ToSlash(t.TempDir())
		cfg.Protocols = p
		return cfg
	}
	start(t, beside(tidemill.Protocols{Min: 1, Max: 2}))
	err := refusal(t, beside(tidemill.Protocols{Min: 3, Max: 4}))
	if !errors.Is(err, tidemill.ErrInvalid) || !strings.Contains(err.Error(), "and this node 3-4") || !strings.Contains(err.Error(), "speaks protocol version 1") {
		t.Errorf("it ended with: %v", err)
	}
	if err := refusal(t, beside(tidemill.Protocols{Min: 2, Max: 1})); !errors.Is(err, tidemill.ErrInvalid) {
		t.Error(err)
	}
	if first.Trainer() == nil {
		t.Error("the node that was there before has stopped")
	}
}

// TestPublicNeedsCertificates: beyond the loopback nothing listens in plain text unasked.
func TestPublicNeedsCertificates(t *testing.T) {
	for _, set := range []func(*Config, string){
		func(c *Config, a string) { c.GRPC = a }, func(c *Config, a string) { c.HTTP = a }, func(c *Config, a string) { c.RPC = a },
		func(c *Config, a string) { c.Gossip = a }, func(c *Config, a string) { c.Stream = a },
	} {
		for _, addr := range []string{"0.0.0.0:0", "[::]:0", ":0", "10.1.2.3:0"} {
			cfg := localConfig(t)
			set(&cfg, addr)
			if _, err := New(cfg); !errors.Is(err, tidemill.ErrInvalid) || !strings.Contains(err.Error(), "--insecure") {
				t.Errorf("%s: %v", addr, err)
			}
			cfg.Security.Insecure = true
			if _, err := New(cfg); err != nil {
				t.Errorf("%s with --insecure: %v", addr, err)
			}
		}
	}
}
