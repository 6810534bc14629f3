package cluster

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
)

func full() Member {
	return Member{
		ID: "node-1", Roles: []string{"stream", "worker", "ps", "trainer", "serving"}, Host: "10.0.0.1",
		RPC: "10.0.0.1:7947", GRPC: "10.0.0.1:8500", HTTP: "10.0.0.2:8501", Stream: "[::1]:4222", Slots: 4, Version: "1.2.3", Protocols: tidemill.Protocols{Min: 6, Max: 7},
	}
}

func TestDescriptions(t *testing.T) {
	b, err := encode(full())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decode("node-1", b); err != nil || !reflect.DeepEqual(got, full()) {
		t.Fatalf("%s became %+v, %v", b, got, err)
	}
	// Five roles on a host with a name as long as names get.
	m := full()
	m.Host = strings.Repeat("a", 63) + "." + strings.Repeat("b", 63) + "." + strings.Repeat("c", 63) + ".example.internal"
	m.RPC, m.GRPC, m.HTTP, m.Stream = m.Host+":7947", m.Host+":8500", m.Host+":8501", m.Host+":4222"
	if b, err = encode(m); err != nil || len(b) > 400 {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	for name, spoil := range map[string]func(*Member){
		"no ID":          func(m *Member) { m.ID = "" },
		"slash":          func(m *Member) { m.ID = "a/b" },
		"role":           func(m *Member) { m.Roles = []string{"ps,worker"} },
		"empty role":     func(m *Member) { m.Roles = []string{""} },
		"slots":          func(m *Member) { m.Slots = -1 },
		"protocols":      func(m *Member) { m.Protocols = tidemill.Protocols{Min: 3, Max: 2} },
		"no port":        func(m *Member) { m.RPC = "host" },
		"port 0":         func(m *Member) { m.HTTP = "host:0" },
		"all interfaces": func(m *Member) { m.GRPC = ":8500" },
		"too long":       func(m *Member) { m.Version = strings.Repeat("1", 600) },
	} {
		m := full()
		spoil(&m)
		if _, err := encode(m); !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, other := range []string{"", "x", "[]", `{"r":","}`, `{"c":"x"}`, `{"n":-1}`, `{"n":"1"}`, `{"c":":70000"}`, `{"r":"` + strings.Repeat("a", 600) + `"}`} {
		if m, err := decode("x", []byte(other)); !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("%q became %+v, %v", other, m, err)
		}
	}
	// Earlier versions say one number.
	if m, err := decode("x", []byte(`{"r":"ps","p":1}`)); err != nil || m.Protocols != (tidemill.Protocols{Min: 1, Max: 1}) {
		t.Errorf("got %+v, %v", m, err)
	}
	// A later version may say more.
	if m, err := decode("x", []byte(`{"r":"ps","z":{"new":1}}`)); err != nil || !m.Has("ps") || m.Has("p") {
		t.Errorf("got %+v, %v", m, err)
	}
}

func TestDescriptionsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		host := rapid.StringMatching(`[a-z]{1,20}|10\.[1-9]\.0\.[1-9]|fe80::[1-9]`)
		addr := func(label string, own string) string {
			h := rapid.OneOf(rapid.Just(own), host).Draw(t, label+" host")
			if rapid.Bool().Draw(t, label+" absent") || h == "" {
				return ""
			}
			if strings.Contains(h, ":") {
				h = "[" + h + "]"
			}
			return h + ":" + rapid.StringMatching(`[1-9][0-9]{0,3}`).Draw(t, label)
		}
		m := Member{
			ID:   rapid.StringMatching(`[a-z0-9-]{1,30}`).Draw(t, "id"),
			Host: rapid.OneOf(rapid.Just(""), host).Draw(t, "host"), Slots: rapid.IntRange(0, 99).Draw(t, "slots"),
			Version: rapid.StringN(0, 20, 40).Draw(t, "version"), Protocols: drawProtocols(t),
		}
		if r := rapid.SliceOfN(rapid.SampledFrom(full().Roles), 0, 5).Draw(t, "roles"); len(r) > 0 {
			m.Roles = r
		}
		m.RPC, m.GRPC, m.HTTP, m.Stream = addr("rpc", m.Host), addr("grpc", m.Host), addr("http", m.Host), addr("stream", m.Host)
		b, err := encode(m)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decode(m.ID, b); err != nil || !reflect.DeepEqual(got, m) {
			t.Fatalf("%+v became %s, then %+v, %v", m, b, got, err)
		}
	})
}

func FuzzDecode(f *testing.F) {
	b, err := encode(full())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"h":"[","c":":1"}`))
	f.Add([]byte(`{"h":"1","c":"[1]:1"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode("n", b)
		if err != nil {
			return
		}
		again, err := encode(m)
		if errors.Is(err, tidemill.ErrInvalid) && strings.Contains(err.Error(), "gossip carries") {
			return // a longer spelling of the same
		}
		if err != nil {
			t.Fatalf("%s was read as %+v, which is not written: %v", b, m, err)
		}
		if n, err := decode("n", again); err != nil || !reflect.DeepEqual(n, m) {
			t.Fatalf("%s became %+v, then %s, then %+v, %v", b, m, again, n, err)
		}
	})
}

func drawProtocols(t *rapid.T) tidemill.Protocols {
	most := rapid.IntRange(0, 9).Draw(t, "protocol")
	if most == 0 {
		return tidemill.Protocols{}
	}
	return tidemill.Protocols{Min: rapid.IntRange(1, most).Draw(t, "lowest"), Max: most}
}
