package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/tidemill/tidemill"
)

func devCA(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := DevCA(dir, []string{"ps1.example", "10.0.0.9"}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func certs(dir, name string) Security {
	return Security{Cert: filepath.Join(dir, name+".pem"), Key: filepath.Join(dir, name+"-key.pem"), CA: filepath.Join(dir, "ca.pem")}
}

func clientCreds(t *testing.T, s Security) ClientConfig {
	t.Helper()
	c, err := s.ClientCredentials()
	if err != nil {
		t.Fatal(err)
	}
	return ClientConfig{Credentials: c}
}

func serverCreds(t *testing.T, s Security, clients ClientCerts) credentials.TransportCredentials {
	t.Helper()
	c, err := s.ServerCredentials(clients)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestMutualTLS(t *testing.T) {
	dir, other := devCA(t), devCA(t)
	service := &probe{check: func(ctx context.Context, _ string) error {
		return fmt.Errorf("%s of %v: %w", PeerRole(ctx), PeerRoles(ctx), tidemill.ErrNotReady)
	}}
	policy := Policy{Allow: map[string][]string{checkMethod: {"worker", "trainer"}}, Plain: true}
	addr, _, _ := run(t, service, ServerConfig{Authorize: policy.Authorize, Credentials: serverCreds(t, certs(dir, "ps"), RequireClientCerts)})
	open, _, _ := run(t, service, ServerConfig{Authorize: policy.Authorize, Credentials: serverCreds(t, certs(dir, "serving"), AcceptClientCerts)})
	for name, c := range map[string]struct {
		addr string
		sec  Security
		want error
		text string
	}{
		"worker":            {addr, certs(dir, "worker"), tidemill.ErrNotReady, "worker of [worker]"},
		"node":              {addr, certs(dir, NodeCert), tidemill.ErrNotReady, "stream of [stream worker ps trainer serving]"},
		"wrong role":        {addr, certs(dir, "client"), tidemill.ErrDenied, "certificate for one of the roles worker, trainer, and the caller's is for client"},
		"other authority":   {addr, certs(other, "worker"), tidemill.ErrUnavailable, ""},
		"believes another":  {addr, Security{Cert: certs(dir, "worker").Cert, Key: certs(dir, "worker").Key, CA: certs(other, "ca").CA}, tidemill.ErrUnavailable, ""},
		"no certificate":    {addr, Security{CA: certs(dir, "ca").CA}, tidemill.ErrUnavailable, ""},
		"plain":             {addr, Security{}, tidemill.ErrUnavailable, ""},
		"open, worker":      {open, certs(dir, "worker"), tidemill.ErrNotReady, "worker of [worker]"},
		"open, none":        {open, Security{CA: certs(dir, "ca").CA}, tidemill.ErrDenied, "the caller shows none"},
		"open, other's":     {open, Security{Cert: certs(other, "worker").Cert, Key: certs(other, "worker").Key, CA: certs(dir, "ca").CA}, tidemill.ErrUnavailable, ""},
		"a client as a ps?": {runAs(t, service, dir, "client"), certs(dir, "worker"), tidemill.ErrUnavailable, ""},
	} {
		err := ask(dial(t, c.addr, clientCreds(t, c.sec)), "")
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %v with %q", name, err, c.want, c.text)
		}
	}
}

func runAs(t *testing.T, p *probe, dir, name string) string {
	addr, _, _ := run(t, p, ServerConfig{Authorize: anyone, Credentials: serverCreds(t, certs(dir, name), RequireClientCerts)})
	return addr
}

func TestOldTLSIsRefused(t *testing.T) {
	dir := devCA(t)
	addr, _, _ := run(t, &probe{}, ServerConfig{Credentials: serverCreds(t, certs(dir, "ps"), RequireClientCerts)})
	config, err := certs(dir, "worker").ClientTLS()
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config()
	if err != nil {
		t.Fatal(err)
	}
	cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if conn, err := tls.Dial("tcp", addr, cfg); err == nil {
		conn.Close()
		t.Error("TLS 1.2 was accepted")
	}
}

// TestReload: certificates are replaced, by a broken file first, while server and client run.
func TestReload(t *testing.T) {
	dir, next := devCA(t), devCA(t)
	f := newFiles(certs(dir, "ps"))
	first, err := f.get()
	if err != nil {
		t.Fatal(err)
	}
	put := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		// Coarse file systems may keep the time of the file before.
		when := time.Now().Add(time.Hour)
		if err := os.Chtimes(filepath.Join(dir, name), when, when); err != nil {
			t.Fatal(err)
		}
	}
	look := func() *material {
		t.Helper()
		f.looked = time.Time{}
		m, err := f.get()
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	if look() != first {
		t.Error("read again without a change")
	}
	put("ps.pem", []byte("half a cert"))
	if look() != first {
		t.Error("a broken file replaced a certificate that works")
	}
	for _, name := range []string{"ps.pem", "ps-key.pem", "ca.pem"} {
		b, err := os.ReadFile(filepath.Join(next, name))
		if err != nil {
			t.Fatal(err)
		}
		put(name, b)
	}
	second := look()
	if second == first || string(second.cert.Certificate[0]) == string(first.cert.Certificate[0]) {
		t.Fatal("the new certificate is not in use")
	}
}

// TestReloadOnTheWire: the same, seen by calls of a client that has files of its own.
func TestReloadOnTheWire(t *testing.T) {
	dir, next := devCA(t), devCA(t)
	ok := &probe{check: func(context.Context, string) error { return nil }}
	addr, _, _ := run(t, ok, ServerConfig{Authorize: anyone, Credentials: serverCreds(t, certs(dir, "ps"), RequireClientCerts)})
	old, young := certs(dir, "worker"), certs(next, "worker")
	if err := ask(dial(t, addr, clientCreds(t, old)), ""); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ps-key.pem", "ps.pem", "ca.pem"} {
		b, err := os.ReadFile(filepath.Join(next, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := ask(dial(t, addr, clientCreds(t, young)), "")
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server still has its old certificates: %v", err)
		}
	}
}

func TestSecurityRefusals(t *testing.T) {
	dir := devCA(t)
	good := certs(dir, "ps")
	missing := good
	missing.Cert = filepath.Join(dir, "none.pem")
	notPEM := good
	notPEM.CA = filepath.Join(dir, "ps-key.pem")
	for name, c := range map[string]struct {
		sec            Security
		server, client bool // whether it is accepted
	}{
		"plain":        {Security{}, true, true},
		"insecure":     {Security{Insecure: true}, true, true},
		"all":          {good, true, true},
		"both":         {Security{Cert: good.Cert, Key: good.Key, CA: good.CA, Insecure: true}, false, false},
		"no key":       {Security{Cert: good.Cert, CA: good.CA}, false, false},
		"no CA":        {Security{Cert: good.Cert, Key: good.Key}, false, true},
		"only a CA":    {Security{CA: good.CA}, false, true},
		"missing":      {missing, false, false},
		"not a CA":     {notPEM, false, false},
		"swapped":      {Security{Cert: good.Key, Key: good.Cert, CA: good.CA}, false, false},
		"another's":    {Security{Cert: good.Cert, Key: certs(dir, "worker").Key, CA: good.CA}, false, false},
		"key, no cert": {Security{Key: good.Key, CA: good.CA}, false, false},
	} {
		if _, err := c.sec.ServerCredentials(RequireClientCerts); (err == nil) != c.server || err != nil && !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("%s, server: %v", name, err)
		}
		if _, err := c.sec.ClientCredentials(); (err == nil) != c.client || err != nil && !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("%s, client: %v", name, err)
		}
	}
}

func TestDevCA(t *testing.T) {
	dir := devCA(t)
	if err := DevCA(dir, nil); !errors.Is(err, tidemill.ErrExists) {
		t.Errorf("a second time: %v", err)
	}
	for _, name := range append(Roles(), NodeCert, "ca") {
		fi, err := os.Stat(filepath.Join(dir, name+"-key.pem"))
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode().Perm() != 0o600 {
			t.Errorf("the key of %s has mode %v", name, fi.Mode())
		}
	}
	m, err := newFiles(certs(dir, "ps")).get()
	if err != nil {
		t.Fatal(err)
	}
	leaf := m.cert.Leaf
	for _, host := range []string{"localhost", "127.0.0.1", "::1", "ps1.example", "10.0.0.9"} {
		if err := leaf.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
}

func TestCheckListen(t *testing.T) {
	tls := Security{Cert: "a", Key: "b", CA: "c"}
	for addr, local := range map[string]bool{
		"127.0.0.1:8500": true, "localhost:0": true, "[::1]:80": true, "127.8.8.8:1": true,
		":8500": false, "0.0.0.0:8500": false, "[::]:8500": false, "10.0.0.1:8500": false, "example.org:1": false,
	} {
		if err := (Security{}).CheckListen(addr); (err == nil) != local {
			t.Errorf("plain on %s: %v", addr, err)
		} else if err != nil && (!errors.Is(err, tidemill.ErrInvalid) || !strings.Contains(err.Error(), "--insecure")) {
			t.Errorf("plain on %s: %v has no remedy", addr, err)
		}
		if err := tls.CheckListen(addr); err != nil {
			t.Errorf("TLS on %s: %v", addr, err)
		}
		if err := (Security{Insecure: true}).CheckListen(addr); err != nil {
			t.Errorf("insecure on %s: %v", addr, err)
		}
	}
	if err := tls.CheckListen("8500"); !errors.Is(err, tidemill.ErrInvalid) {
		t.Error(err)
	}
	// A CA alone encrypts nothing that a server says.
	if err := (Security{CA: "c"}).CheckListen(":1"); !errors.Is(err, tidemill.ErrInvalid) {
		t.Error(err)
	}
}

func TestListen(t *testing.T) {
	first, err := Listen("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	addr := first.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	if _, err := Listen(addr, false); !errors.Is(err, tidemill.ErrExists) || !strings.Contains(err.Error(), port) {
		t.Errorf("a port in use that was asked for: %v", err)
	}
	second, err := Listen(addr, true)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if second.Addr().String() == addr {
		t.Error("both got the same port")
	}
	for _, bad := range []string{"", "8500", "127.0.0.1:99999", "192.0.2.1:0"} {
		if lis, err := Listen(bad, true); !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("Listen(%q): %v, %v", bad, lis, err)
		}
	}
}
