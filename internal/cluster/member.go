package cluster

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/tidemill/tidemill"
)

// Member is one process as the others see it. Addresses are "host:port"; empty where the role
// that would listen is absent.
type Member struct {
	ID      string
	Roles   []string
	Host    string // what others dial, and the host of every address that names none
	RPC     string // cluster RPC
	GRPC    string
	HTTP    string
	Stream  string
	Slots   int
	Version string
	// Protocols are the versions of the cluster's protocol that it speaks; zero: it does not say.
	Protocols tidemill.Protocols
	Gossip    string // where it gossips; filled in by this package, ignored in what is given to it
}

// Has reports whether the member has a role.
func (m Member) Has(role string) bool { return slices.Contains(m.Roles, role) }

// maxMeta is memberlist's limit, which a UDP packet shares with the rest of the message.
const maxMeta = 512

// meta is Member on the wire. Addresses at Host are written as ":port".
type meta struct {
	Roles    string `json:"r,omitempty"` // joined by commas
	Host     string `json:"h,omitempty"`
	RPC      string `json:"c,omitempty"`
	GRPC     string `json:"g,omitempty"`
	HTTP     string `json:"w,omitempty"`
	Stream   string `json:"s,omitempty"`
	Slots    int    `json:"n,omitempty"`
	Version  string `json:"v,omitempty"`
	Protocol int    `json:"p,omitempty"` // the highest it speaks
	Lowest   int    `json:"l,omitempty"` // the lowest, where that is another
}

// encode returns the metadata of m, or says why m cannot be described to others.
func encode(m Member) ([]byte, error) {
	if err := check(m); err != nil {
		return nil, err
	}
	short := func(addr string) string {
		_, port, _ := net.SplitHostPort(addr)
		if addr != "" && addr == net.JoinHostPort(m.Host, port) {
			return ":" + port
		}
		return addr
	}
	lowest := m.Protocols.Min
	if lowest == m.Protocols.Max {
		lowest = 0
	}
	b, err := json.Marshal(meta{
		Roles: strings.Join(m.Roles, ","), Host: m.Host, RPC: short(m.RPC), GRPC: short(m.GRPC), HTTP: short(m.HTTP),
		Stream: short(m.Stream), Slots: m.Slots, Version: m.Version, Protocol: m.Protocols.Max, Lowest: lowest,
	})
	if err != nil {
		return nil, tidemill.Invalid("the description of node %.80q cannot be written: %v", "", m.ID, err)
	}
	if len(b) > maxMeta {
		return nil, tidemill.Invalid("the description of node %.80q takes %d bytes, and gossip carries %d",
			"advertise shorter host names, or the same one for all addresses", m.ID, len(b), maxMeta)
	}
	return b, nil
}

// decode reads what encode wrote, here or in another version.
func decode(id string, b []byte) (Member, error) {
	var w meta
	if len(b) > maxMeta {
		return Member{}, tidemill.Invalid("the description of node %.80q has %d bytes, more than %d", "", id, len(b), maxMeta)
	}
	if err := json.Unmarshal(b, &w); err != nil {
		return Member{}, tidemill.Invalid("the description of node %.80q is not one of Tidemill", "give each cluster a name of its own", id)
	}
	long := func(addr string) string {
		if strings.HasPrefix(addr, ":") {
			return net.JoinHostPort(w.Host, addr[1:])
		}
		return addr
	}
	m := Member{
		ID: id, Host: w.Host, RPC: long(w.RPC), GRPC: long(w.GRPC), HTTP: long(w.HTTP), Stream: long(w.Stream),
		Slots: w.Slots, Version: w.Version, Protocols: tidemill.Protocols{Min: w.Lowest, Max: w.Protocol},
	}
	if w.Lowest == 0 {
		m.Protocols.Min = w.Protocol
	}
	if w.Roles != "" {
		m.Roles = strings.Split(w.Roles, ",")
	}
	return m, check(m)
}

func check(m Member) error {
	if m.ID == "" || len(m.ID) > 128 || strings.ContainsAny(m.ID, "/ \t\r\n") {
		return tidemill.Invalid("%.80q cannot be a node's ID", "use 1 to 128 characters without spaces and slashes", m.ID)
	}
	for _, r := range m.Roles {
		if r == "" || strings.Trim(r, "abcdefghijklmnopqrstuvwxyz_") != "" {
			return tidemill.Invalid("node %s: %.80q is not a role", "use stream, worker, ps, trainer or serving", m.ID, r)
		}
	}
	if m.Slots < 0 {
		return tidemill.Invalid("node %s has %d slots", "use a number that is not negative", m.ID, m.Slots)
	}
	if m.Protocols.Known() {
		if err := m.Protocols.Validate(); err != nil {
			return fmt.Errorf("node %s: %w", m.ID, err)
		}
	}
	for _, addr := range []string{m.RPC, m.GRPC, m.HTTP, m.Stream} {
		if addr == "" {
			continue
		}
		host, port, err := net.SplitHostPort(addr)
		if err != nil || host == "" {
			return tidemill.Invalid("node %s: %.80q is not an address that others can dial", "give HOST:PORT", m.ID, addr)
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return tidemill.Invalid("node %s: %.80q has no port that others can dial", "give the port that is listened on", m.ID, addr)
		}
	}
	return nil
}

func (m Member) clone() Member {
	m.Roles = slices.Clone(m.Roles)
	return m
}
