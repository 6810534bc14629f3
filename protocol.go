package tidemill

import (
	"fmt"
	"strconv"
	"strings"
)

// Protocols is the range of versions of the cluster's protocol that a process speaks, both
// ends included. Two processes understand each other when their ranges meet; a release speaks
// its own version and the one before, so that neighbours one version apart work together.
type Protocols struct {
	Min int `json:"min"`
	Max int `json:"max"`
}

// Known reports whether p says anything; the zero value is of processes that do not say.
func (p Protocols) Known() bool { return p != Protocols{} }

// Validate refuses what is no range of versions.
func (p Protocols) Validate() error {
	if p.Min < 1 || p.Max < p.Min || p.Max > 1<<15 {
		return Invalid("%d to %d is no range of protocol versions", "versions begin at 1, the lower one first", p.Min, p.Max)
	}
	return nil
}

// Common returns the highest version that both speak; false when there is none.
func (p Protocols) Common(o Protocols) (int, bool) {
	v := min(p.Max, o.Max)
	return v, v >= p.Min && v >= o.Min
}

// Meet returns an error that wraps ErrInvalid and names both ranges when p, this process, and
// o, called who, have no version in common.
func (p Protocols) Meet(who string, o Protocols) error {
	if _, ok := p.Common(o); ok {
		return nil
	}
	older := "this node"
	if p.Min > o.Max {
		older = who
	}
	return Invalid("%s speaks protocol version %s and this node %s, and they have none in common",
		"upgrade "+older+" first, one version at a time", who, o, p)
}

// String returns "1", or "1-2" for more than one version.
func (p Protocols) String() string {
	if p.Min == p.Max {
		return strconv.Itoa(p.Min)
	}
	return fmt.Sprintf("%d-%d", p.Min, p.Max)
}

// ParseProtocols reads what String wrote.
func ParseProtocols(s string) (Protocols, error) {
	low, high, ranged := strings.Cut(s, "-")
	if !ranged {
		high = low
	}
	var p Protocols
	var err, err2 error
	p.Min, err = strconv.Atoi(low)
	p.Max, err2 = strconv.Atoi(high)
	if err != nil || err2 != nil || p.String() != s {
		return Protocols{}, Invalid("%.20q is no range of protocol versions", "write 1, or 1-2", s)
	}
	return p, p.Validate()
}
