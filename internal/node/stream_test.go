package node

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/broker"
	"github.com/tidemill/tidemill/internal/rpc"
)

// streamAs connects to a stream with a certificate.
func streamAs(t *testing.T, url string, sec rpc.Security) (*nats.Conn, error) {
	t.Helper()
	config, err := sec.ClientTLS(RoleStream)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	nc, err := broker.Dial(ctx, url, broker.DialConfig{TLS: config})
	if err == nil {
		t.Cleanup(nc.Close)
	}
	return nc, err
}

// TestWhoMayWriteToTheStream: each role of a certificate, each kind of subject.
func TestWhoMayWriteToTheStream(t *testing.T) {
	dir := t.TempDir()
	if err := rpc.DevCA(dir, nil); err != nil {
		t.Fatal(err)
	}
	cfg := localConfig(t, RoleStream)
	cfg.Security, cfg.GossipKey = secured(dir, RoleStream), []byte("0123456789abcdef")
	n, _ := start(t, cfg)
	url := n.Info().Stream

	if _, err := streamAs(t, url, secured(dir, rpc.RoleClient)); !errors.Is(err, tidemill.ErrDenied) {
		t.Errorf("a client came in: %v", err)
	}
	all := []string{RoleStream, RoleWorker, RolePS, RoleTrainer, RoleServing, rpc.RoleAdmin}
	rulers, readers := []string{RoleStream, RoleTrainer}, []string{RoleStream, RoleTrainer, RoleWorker, rpc.RoleAdmin}
	makers := []string{RoleStream, RoleTrainer, rpc.RoleAdmin}
	nodes := []string{RoleStream, RoleWorker, RolePS, RoleTrainer, RoleServing}
	publish := map[string][]string{
		"$KV.TIDEMILL_RECORDS.jobs.x":                    rulers, // assignments
		"$KV.TIDEMILL_SESSIONS.leader":                   rulers,
		"$KV.TIDEMILL_SESSIONS.members.x":                nodes,
		"$KV.TIDEMILL_TOPICS.t.x":                        makers,
		"tm.x.identity.0.-":                              makers, // rows
		"$JS.API.STREAM.CREATE.TIDEMILL_x_0":             makers,
		"$JS.API.STREAM.DELETE.TIDEMILL_x_0":             makers,
		"$JS.API.STREAM.PURGE.TIDEMILL_x_0":              makers,
		"$JS.API.STREAM.DELETE.KV_TIDEMILL_RECORDS":      rulers,
		"$JS.API.STREAM.UPDATE.KV_TIDEMILL_SESSIONS":     rulers,
		"$JS.API.STREAM.MSG.DELETE.KV_TIDEMILL_RECORDS":  {RoleStream},
		"$JS.API.STREAM.MSG.GET.TIDEMILL_x_0":            readers,
		"$JS.API.CONSUMER.CREATE.TIDEMILL_x_0.y":         readers,
		"$JS.API.STREAM.MSG.GET.KV_TIDEMILL_RECORDS":     all,
		"$JS.API.CONSUMER.CREATE.KV_TIDEMILL_SESSIONS.y": all,
		"$JS.API.STREAM.INFO.KV_TIDEMILL_SESSIONS":       all,
		"$SYS.REQ.SERVER.PING":                           {RoleStream},
		"anything":                                       {RoleStream},
	}
	subscribe := map[string][]string{"_INBOX.x": all, "tm.>": {RoleStream}, "$KV.>": {RoleStream}}
	for _, role := range all {
		// Each question has a connection of its own: a refusal is the last error of one.
		refused := func(ask func(*nats.Conn) error) bool {
			nc, err := streamAs(t, url, secured(dir, role))
			if err != nil {
				t.Fatalf("%s: %v", role, err)
			}
			defer nc.Close()
			if err := ask(nc); err != nil {
				t.Fatal(err)
			}
			// The refusal comes before the answer to a ping.
			if err := nc.FlushTimeout(time.Minute); err != nil {
				t.Fatal(err)
			}
			return nc.LastError() != nil && strings.Contains(strings.ToLower(nc.LastError().Error()), "permissions violation")
		}
		for subject, who := range publish {
			// No stream takes such a request seriously: it has no reply and no body.
			if got := refused(func(nc *nats.Conn) error { return nc.Publish(subject, nil) }); got == slices.Contains(who, role) {
				t.Errorf("%s publishes to %s: refused %v", role, subject, got)
			}
		}
		for subject, who := range subscribe {
			got := refused(func(nc *nats.Conn) error { _, err := nc.SubscribeSync(subject); return err })
			if got == slices.Contains(who, role) {
				t.Errorf("%s subscribes to %s: refused %v", role, subject, got)
			}
		}
	}
}

// TestStreamTakesNewCertificates: a connection to the stream is made again with the files as
// they are then, on both sides, after the authority was replaced too.
func TestStreamTakesNewCertificates(t *testing.T) {
	first, second, live := t.TempDir(), t.TempDir(), t.TempDir()
	for _, d := range []string{first, second} {
		if err := rpc.DevCA(d, nil); err != nil {
			t.Fatal(err)
		}
	}
	put := func(to string, from ...string) {
		t.Helper()
		var all []byte
		for _, f := range from {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, b...)
		}
		to = filepath.Join(live, to)
		if err := errors.Join(os.WriteFile(to+".new", all, 0o600), os.Rename(to+".new", to)); err != nil {
			t.Fatal(err)
		}
	}
	install := func(dir string) {
		for _, name := range []string{RoleStream, RoleWorker} {
			put(name+"-key.pem", secured(dir, name).Key)
			put(name+".pem", secured(dir, name).Cert)
		}
	}
	put("ca.pem", secured(first, "ca").CA)
	install(first)
	tls, err := secured(live, RoleStream).ServerTLS(rpc.RequireClientCerts)
	if err != nil {
		t.Fatal(err)
	}
	b, err := broker.Start(broker.Config{Dir: filepath.Join(t.TempDir(), "stream"), Listen: "127.0.0.1:0", TLS: tls, Allow: streamPermissions})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	nc, err := streamAs(t, b.URL(), secured(live, RoleWorker))
	if err != nil {
		t.Fatal(err)
	}
	// shown waits until a connection is made again with a server that shows a directory's
	// certificate.
	shown := func(dir string) {
		t.Helper()
		want, ok, err := secured(dir, RoleStream).Own()
		if err != nil || !ok {
			t.Fatal(err)
		}
		end := time.Now().Add(patience)
		for {
			changed := nc.StatusChanged(nats.CONNECTED)
			if err := nc.ForceReconnect(); err != nil {
				t.Fatal(err)
			}
			select {
			case <-changed:
			case <-time.After(time.Until(end)):
				t.Fatal("the connection is not made again")
			}
			nc.RemoveStatusListener(changed)
			if state, err := nc.TLSConnectionState(); err == nil && nc.FlushTimeout(time.Minute) == nil &&
				bytes.Equal(state.PeerCertificates[0].Raw, want.Raw) {
				return
			}
			if time.Now().After(end) {
				t.Fatal("the server goes on showing its old certificate")
			}
		}
	}
	shown(first)
	put("ca.pem", secured(first, "ca").CA, secured(second, "ca").CA)
	// Until both sides believe both authorities, certificates of the second would not do.
	for _, sec := range []rpc.Security{secured(live, RoleWorker)} {
		sec.Cert, sec.Key = secured(second, RoleWorker).Cert, secured(second, RoleWorker).Key
		if _, err := streamAs(t, b.URL(), sec); err != nil {
			t.Fatal(err)
		}
	}
	install(second)
	shown(second)
	put("ca.pem", secured(second, "ca").CA)
	shown(second)
}
