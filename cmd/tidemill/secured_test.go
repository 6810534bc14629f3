package main_test

import (
	"crypto/rand"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tidemill/tidemill/internal/proctest"
)

// testCertificates: the seven processes of docs/CLUSTER.md, each with the certificate of its
// one role, train to the same bits as one process in plain text. A worker is killed meanwhile,
// and all certificates are replaced by those of another authority, by files alone. What each
// role and the people may not do is refused.
func testCertificates(t *testing.T, bin *proctest.Binary) {
	file, rows := powerRows(t, 0, 2500)
	plain := newFleet(t, bin)
	plain.start("stream")
	plain.produce("power", file, 2)
	plain.submit("power", "power", true)
	want := plain.finished("power")
	plain.stop()

	f := newFleet(t, bin)
	f.certs = filepath.Join(f.dir, "certs")
	next := filepath.Join(f.dir, "next")
	for _, dir := range []string{f.certs, next} {
		if _, err := bin.Run(t.Context(), "certs", "--dir", dir); err != nil {
			t.Fatal(err)
		}
	}
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(f.certs, "gossip.key"), []byte(hex.EncodeToString(key)), 0o600); err != nil {
		t.Fatal(err)
	}
	f.startSeven(2)
	f.seat = "trainer"
	f.produce("power", file, 2)
	f.submit("power", "power", true)
	f.trained("power", rows/5)
	f.nodes["worker1"].Kill()
	f.trained("power", rows/4)

	// Both authorities, then the certificates of the second, while the job runs.
	replace := func(name string, from ...string) {
		t.Helper()
		var all []byte
		for _, file := range from {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, b...)
		}
		to := filepath.Join(f.certs, name)
		if err := os.WriteFile(to+".new", all, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(to+".new", to); err != nil {
			t.Fatal(err)
		}
	}
	replace("ca.pem", filepath.Join(f.certs, "ca.pem"), filepath.Join(next, "ca.pem"))
	// A node of the second authority comes in once the others have looked at their files again.
	names, err := os.ReadDir(next)
	if err != nil {
		t.Fatal(err)
	}
	for _, keys := range []bool{true, false} {
		for _, n := range names {
			if !strings.HasPrefix(n.Name(), "ca") && strings.HasSuffix(n.Name(), "-key.pem") == keys {
				replace(n.Name(), filepath.Join(next, n.Name()))
			}
		}
	}
	f.start("worker3", "worker")
	st := f.finished("power")
	if st.Digest != want.Digest || st.Examples != int64(rows) {
		t.Errorf("digest %s of %d examples; one process in plain text: %s of %d", st.Digest, st.Examples, want.Digest, want.Examples)
	}
	f.refusals()
	f.names = slices.DeleteFunc(f.names, func(n string) bool { return n == "worker1" })
	f.stop()
}

// refusals are what must not go through in a cluster with certificates.
func (f *fleet) refusals() {
	f.t.Helper()
	trainer, worker, serving := f.nodes["trainer"].rpc, f.nodes["worker2"].rpc, f.nodes["serving"]
	with := func(role string, args ...string) []string { return append(args, f.shows(role)...) }
	for name, c := range map[string]struct {
		args []string
		text string
	}{
		"a client asks for jobs":    {with("client", "jobs", "--server", trainer), "caller's is for client"},
		"a worker cancels":          {with("worker", "job", "power", "cancel", "--server", trainer), "caller's is for worker"},
		"serving promotes":          {with("serving", "promote", "power@1", "--why", "x", "--server", trainer), "caller's is for serving"},
		"a worker passes commands":  {with("admin", "jobs", "--server", worker), "may not pass commands on"},
		"serving adds rows":         {with("serving", "produce", "more", os.DevNull, "--format", "csv", "--stream-url", f.streamURL()), ""},
		"a client reads the stream": {with("client", "produce", "power", os.DevNull, "--format", "csv", "--stream-url", f.streamURL()), "does not let this certificate"},
		"a worker predicts":         {with("worker", "predict", "power", "--row", "period=1", "--serving", serving.info.GRPC), "caller's is for worker"},
	} {
		err := f.ask(nil, c.args...)
		if err == nil || !strings.Contains(err.Error(), c.text) {
			f.t.Errorf("%s: %v, want %q", name, err, c.text)
		}
	}
	if err := f.ask(nil, with("client", "predict", "power", "--row", "period=1", "--serving", serving.info.GRPC)...); err != nil && strings.Contains(err.Error(), "denied") {
		f.t.Errorf("a client may not predict: %v", err)
	}
}
