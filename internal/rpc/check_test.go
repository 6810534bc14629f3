package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tidemill/tidemill"
)

// issued makes one certificate beside an authority, valid from some time on for a day.
func issued(t *testing.T, dir, name string, from time.Time, hosts []string, roles ...string) Security {
	t.Helper()
	_, err := MakeCerts(CertConfig{Dir: dir, Name: name, Roles: roles, Hosts: hosts, Life: 24 * time.Hour, Now: func() time.Time { return from }})
	if err != nil {
		t.Fatal(err)
	}
	return certs(dir, name)
}

// TestCheckOwn: what others would refuse is named at the start, with what to do.
func TestCheckOwn(t *testing.T) {
	dir, other := devCA(t), devCA(t)
	now := time.Now()
	wrongCA := certs(dir, "ps")
	wrongCA.CA = certs(other, "ps").CA
	both := filepath.Join(t.TempDir(), "both.pem")
	join(t, both, certs(dir, "ca").CA, certs(other, "ca").CA)
	bundle := certs(dir, "ps")
	bundle.CA = both
	for name, c := range map[string]struct {
		sec   Security
		hosts []string
		roles []string
		text  string // "" for accepted
	}{
		"plain":         {Security{}, []string{"x"}, []string{"ps"}, ""},
		"good":          {certs(dir, "ps"), []string{"ps1.example", "10.0.0.9", "127.0.0.1"}, []string{"ps"}, ""},
		"in a bundle":   {bundle, nil, []string{"ps"}, ""},
		"a node":        {certs(dir, NodeCert), []string{"::1"}, NodeRoles(), ""},
		"expired":       {issued(t, dir, "old", now.Add(-48*time.Hour), nil, "ps"), nil, nil, "expired on " + day(now.Add(-24 * time.Hour))[:10]},
		"not yet valid": {issued(t, dir, "early", now.Add(48*time.Hour), nil, "ps"), nil, nil, "not valid before"},
		"wrong CA":      {wrongCA, nil, nil, "was not signed by an authority of --tls-ca"},
		"wrong host":    {certs(dir, "ps"), []string{"ps2.example"}, nil, "dial this node as ps2.example"},
		"wrong address": {certs(dir, "ps"), []string{"10.0.0.10"}, nil, "dial this node as 10.0.0.10"},
		"wrong role":    {certs(dir, "ps"), nil, []string{"ps", "worker"}, "this node has role worker, and the certificate of --tls-cert is for ps"},
	} {
		err := c.sec.CheckOwn(now, c.hosts, c.roles)
		if (err == nil) != (c.text == "") || err != nil && (!errors.Is(err, tidemill.ErrInvalid) || !strings.Contains(err.Error(), c.text)) {
			t.Errorf("%s: %v, want %q", name, err, c.text)
		}
	}
}

// join writes PEM files one after the other.
func join(t *testing.T, to string, from ...string) {
	t.Helper()
	var all []byte
	for _, f := range from {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	replace(t, to, all)
}

// replace writes a file as an operator would: beside it, and then in its place.
func replace(t *testing.T, to string, b []byte) {
	t.Helper()
	if err := os.WriteFile(to+".new", b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(to+".new", to); err != nil {
		t.Fatal(err)
	}
}

// safeBuffer is a log that handlers write while the test reads.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// TestHandshakesExplained: what goes wrong between two certificates is said in words to the
// caller and in the server's log.
func TestHandshakesExplained(t *testing.T) {
	dir, other := devCA(t), devCA(t)
	now := time.Now()
	ok := &probe{check: func(context.Context, string) error { return nil }}
	serve := func(sec Security) (string, *safeBuffer) {
		log := &safeBuffer{}
		sec.Logger = slog.New(slog.NewTextHandler(log, nil))
		addr, _, _ := run(t, ok, ServerConfig{Authorize: anyone, Credentials: serverCreds(t, sec, RequireClientCerts)})
		return addr, log
	}
	old := issued(t, dir, "old", now.Add(-48*time.Hour), nil, "worker")
	early := issued(t, dir, "early", now.Add(48*time.Hour), nil, "ps")
	foreigner := certs(other, "worker")
	foreigner.CA = certs(dir, "ca").CA
	unbelieving := certs(dir, "worker")
	unbelieving.CA = certs(other, "ca").CA
	good, log := serve(certs(dir, "ps"))
	expired, _ := serve(old)
	notYet, _ := serve(early)
	elsewhere, _ := serve(issued(t, other, "far", now, nil, "ps"))
	for name, c := range map[string]struct {
		addr         string
		client       Security
		roles        []string
		caller, said string
	}{
		"expired client":   {good, old, nil, "certificate shown to it has expired or is not valid yet", "certificate expired on"},
		"early client":     {good, early, nil, "certificate shown to it has expired or is not valid yet", "not valid before"},
		"foreign client":   {good, foreigner, nil, "does not believe the authority of the certificate shown", "signed by an authority that is not among"},
		"no certificate":   {good, Security{CA: certs(dir, "ca").CA}, nil, "asks for a certificate", "didn't provide a certificate"},
		"expired server":   {expired, certs(dir, "worker"), nil, "other side's certificate expired on", ""},
		"early server":     {notYet, certs(dir, "worker"), nil, "other side's certificate is not valid before", ""},
		"foreign server":   {elsewhere, certs(dir, "worker"), nil, "signed by an authority that is not among", ""},
		"unbelieving":      {good, unbelieving, nil, "signed by an authority that is not among", ""},
		"wrong role":       {good, certs(dir, "worker"), []string{"trainer", "stream"}, "other side's certificate is for ps, and trainer or stream is needed", ""},
		"right role":       {good, certs(dir, "worker"), []string{"trainer", "ps"}, "", ""},
		"client as server": {serving(t, dir), certs(dir, "worker"), nil, "belongs to a client, not to a node", ""},
	} {
		creds, err := c.client.ClientCredentials(c.roles...)
		if err != nil {
			t.Fatal(err)
		}
		err = ask(dial(t, c.addr, ClientConfig{Credentials: creds}), "")
		if (err == nil) != (c.caller == "") || err != nil && (!errors.Is(err, tidemill.ErrUnavailable) || !strings.Contains(err.Error(), c.caller)) {
			t.Errorf("%s: %v, want %q", name, err, c.caller)
		}
		if c.said != "" {
			until(t, "the server's log to have "+c.said, func() bool { return strings.Contains(log.String(), c.said) })
		}
	}
}

func serving(t *testing.T, dir string) string {
	return runAs(t, &probe{}, dir, "client")
}

// until waits for a condition.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(time.Minute)
	for !holds() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestRefusalsAreSaidOnce(t *testing.T) {
	var log bytes.Buffer
	r := newRefusals(slog.New(slog.NewTextHandler(&log, nil)))
	for i := range 1000 {
		r.note(fmt.Errorf("reason %d", i%2))
	}
	if n := strings.Count(log.String(), "\n"); n != 2 {
		t.Errorf("%d lines for two reasons", n)
	}
}

// TestCARotation replaces the authority of two processes that talk all the time, with files
// only: first both believe both authorities, then each gets a certificate of the new one, then
// the old one goes. No call fails, the connection made at the beginning lives through it all,
// and who has a certificate of the old authority is no longer let in at the end.
func TestCARotation(t *testing.T) {
	first, second, live := devCA(t), devCA(t), t.TempDir()
	put := func(to string, from ...string) { join(t, filepath.Join(live, to), from...) }
	for _, name := range []string{"ps", "worker"} {
		put(name+".pem", certs(first, name).Cert)
		put(name+"-key.pem", certs(first, name).Key)
		put(name+"-ca.pem", certs(first, "ca").CA)
	}
	sec := func(name string) Security {
		s := certs(live, name)
		s.CA = filepath.Join(live, name+"-ca.pem")
		return s
	}
	ok := &probe{check: func(context.Context, string) error { return nil }}
	addr, _, _ := run(t, ok, ServerConfig{Authorize: anyone, Credentials: serverCreds(t, sec("ps"), RequireClientCerts)})
	long := dial(t, addr, clientCreds(t, sec("worker"))) // one connection for the whole test
	again := clientCreds(t, sec("worker"))               // a handshake each time it is dialled with
	steady := func(step string) {
		t.Helper()
		if err := ask(long, ""); err != nil {
			t.Fatalf("%s: the old connection: %v", step, err)
		}
		if err := ask(dial(t, addr, again), ""); err != nil {
			t.Fatalf("%s: a new connection: %v", step, err)
		}
	}
	// taken waits until a new handshake of a client of an authority ends as it should; the files
	// are looked at once a second.
	taken := func(step, of string, want bool) {
		t.Helper()
		s := certs(of, "trainer")
		s.CA = sec("worker").CA
		until(t, step, func() bool {
			steady(step)
			return (ask(dial(t, addr, clientCreds(t, s)), "") == nil) == want
		})
	}
	steady("before")
	for _, name := range []string{"ps", "worker"} {
		put(name+"-ca.pem", certs(first, "ca").CA, certs(second, "ca").CA)
	}
	taken("the server to believe the second authority", second, true)
	newer := certs(second, "ps")
	newer.CA = sec("worker").CA
	ahead, _, _ := run(t, ok, ServerConfig{Authorize: anyone, Credentials: serverCreds(t, newer, RequireClientCerts)})
	until(t, "the client to believe the second authority", func() bool { return ask(dial(t, ahead, again), "") == nil })
	for _, name := range []string{"worker", "ps"} {
		// Between these two the pair does not fit together, and the one before stays in use.
		put(name+"-key.pem", certs(second, name).Key)
		steady("half a pair")
		put(name+".pem", certs(second, name).Cert)
	}
	until(t, "the server to show the second authority's certificate", func() bool {
		steady("new certificates")
		only := certs(second, "trainer")
		return ask(dial(t, addr, clientCreds(t, only)), "") == nil
	})
	for _, name := range []string{"worker", "ps"} {
		put(name+"-ca.pem", certs(second, "ca").CA)
	}
	taken("the server to forget the first authority", first, false)
	steady("after")
}

// TestReplacedByExpired: an expired certificate does not take the place of one that works.
func TestReplacedByExpired(t *testing.T) {
	dir := devCA(t)
	old := issued(t, dir, "old", time.Now().Add(-48*time.Hour), nil, "ps")
	f := newFiles(certs(dir, "ps"))
	first, err := f.get()
	if err != nil {
		t.Fatal(err)
	}
	join(t, certs(dir, "ps").Key, old.Key)
	join(t, certs(dir, "ps").Cert, old.Cert)
	f.looked = time.Time{}
	if m, err := f.get(); err != nil || m != first {
		t.Errorf("%v, %v", m, err)
	}
}

// TestMakeCerts: an authority that is there signs more, and nothing is overwritten.
func TestMakeCerts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs")
	made, err := MakeCerts(CertConfig{Dir: dir, Roles: []string{"worker", "ps", "worker"}})
	if err != nil || len(made) != 3 || made[0].Name != "ca" || made[1].Name != "worker" || made[2].Name != "ps" {
		t.Fatalf("%+v, %v", made, err)
	}
	more, err := MakeCerts(CertConfig{Dir: dir, Name: "host7", Roles: []string{"ps", "worker"}, Hosts: []string{"h7", "10.0.0.7"}, Life: time.Hour})
	if err != nil || len(more) != 1 || time.Until(more[0].Expires) > time.Hour {
		t.Fatalf("%+v, %v", more, err)
	}
	own, ok, err := certs(dir, "host7").Own()
	if err != nil || !ok || strings.Join(own.Roles, " ") != "ps worker" || !strings.Contains(strings.Join(own.Hosts, " "), "10.0.0.7") {
		t.Errorf("%+v, %v, %v", own, ok, err)
	}
	if err := certs(dir, "host7").CheckOwn(time.Now(), []string{"h7"}, []string{"worker"}); err != nil {
		t.Error(err)
	}
	before, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		cfg  CertConfig
		kind error
	}{
		"one is there":      {CertConfig{Roles: []string{"trainer", "ps"}}, tidemill.ErrExists},
		"the set":           {CertConfig{}, tidemill.ErrExists},
		"unknown role":      {CertConfig{Roles: []string{"wrker"}}, tidemill.ErrInvalid},
		"no role":           {CertConfig{Name: "host8"}, tidemill.ErrInvalid},
		"the authority":     {CertConfig{Name: "ca", Roles: []string{"ps"}}, tidemill.ErrInvalid},
		"a path":            {CertConfig{Name: "../x", Roles: []string{"ps"}}, tidemill.ErrInvalid},
		"looks like a key":  {CertConfig{Name: "ps-key", Roles: []string{"ps"}}, tidemill.ErrInvalid},
		"host with a port":  {CertConfig{Name: "x", Roles: []string{"ps"}, Hosts: []string{"h:1"}}, tidemill.ErrInvalid},
		"life":              {CertConfig{Name: "x", Roles: []string{"ps"}, Life: -1}, tidemill.ErrInvalid},
		"authority expired": {CertConfig{Name: "x", Roles: []string{"ps"}, Now: func() time.Time { return time.Now().AddDate(50, 0, 0) }}, tidemill.ErrInvalid},
	} {
		c.cfg.Dir = dir
		if made, err := MakeCerts(c.cfg); !errors.Is(err, c.kind) || len(made) > 0 {
			t.Errorf("%s: %+v, %v", name, made, err)
		}
	}
	if after, err := os.ReadDir(dir); err != nil || len(after) != len(before) {
		t.Errorf("%d files before, %d after, %v", len(before), len(after), err)
	}
	if err := os.Remove(filepath.Join(dir, "ca-key.pem")); err != nil {
		t.Fatal(err)
	}
	if _, err := MakeCerts(CertConfig{Dir: dir, Name: "x", Roles: []string{"ps"}}); !errors.Is(err, tidemill.ErrInvalid) || !strings.Contains(err.Error(), "ca-key.pem") {
		t.Error(err)
	}
}

// TestProtocolsOnTheWire: neighbours understand each other, others are told both versions; who
// does not say speaks the first.
func TestProtocolsOnTheWire(t *testing.T) {
	ok := &probe{check: func(context.Context, string) error { return nil }}
	p := func(low, high int) tidemill.Protocols { return tidemill.Protocols{Min: low, Max: high} }
	for _, c := range []struct {
		server, client tidemill.Protocols
		text           string
	}{
		{p(1, 1), p(1, 1), ""}, {p(1, 1), p(1, 2), ""}, {p(1, 2), p(1, 1), ""}, {p(2, 3), p(1, 2), ""},
		{p(1, 1), p(2, 3), "the caller speaks protocol version 2-3 and this node 1"},
		{p(2, 3), p(1, 1), "the caller speaks protocol version 1 and this node 2-3"},
		{p(1, 2), tidemill.Protocols{}, ""},
		{p(2, 3), tidemill.Protocols{}, "the caller speaks protocol version 1 and this node 2-3"},
		{tidemill.Protocols{}, p(7, 9), ""},
	} {
		addr, _, _ := run(t, ok, ServerConfig{Authorize: anyone, Protocols: c.server})
		err := ask(dial(t, addr, ClientConfig{Protocols: c.client}), "")
		var typed *Error
		if (err == nil) != (c.text == "") || err != nil && (!errors.Is(err, tidemill.ErrInvalid) || !errors.As(err, &typed) || typed.Code != codes.InvalidArgument || !strings.Contains(err.Error(), c.text)) {
			t.Errorf("%v asked by %v: %v, want %q", c.server, c.client, err, c.text)
		}
	}
}
