package rpc

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/tidemill/tidemill"
)

// Soon is how long before its end a certificate is worth a warning.
const Soon = 14 * 24 * time.Hour

// Standing says what a process's own certificate is good for.
type Standing struct {
	Roles   []string
	Hosts   []string
	Expires time.Time
	Raw     []byte // the certificate itself, DER
}

// Own reads the own certificate; false when there is none.
func (s Security) Own() (Standing, bool, error) {
	if err := s.Validate(); err != nil || s.Cert == "" {
		return Standing{}, false, err
	}
	m, err := newFiles(s).get()
	if err != nil {
		return Standing{}, false, err
	}
	leaf := m.cert.Leaf
	hosts := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	return Standing{Roles: certRoles(leaf), Hosts: hosts, Expires: leaf.NotAfter, Raw: leaf.Raw}, true, nil
}

// CheckOwn reads the files and refuses a certificate that others would refuse at the moment
// now: one that has expired or is not valid yet, that no authority of --tls-ca signed, that
// does not name one of the hosts which others dial, or that lacks one of the roles. Hosts and
// roles may be empty; a client needs none.
func (s Security) CheckOwn(now time.Time, hosts, roles []string) error {
	if err := s.Validate(); err != nil || s.Cert == "" {
		return err
	}
	m, err := newFiles(s).get()
	if err != nil {
		return err
	}
	if err := m.period(now); err != nil {
		return err
	}
	leaf := m.cert.Leaf
	if m.pool != nil {
		between := x509.NewCertPool()
		for _, der := range m.cert.Certificate[1:] {
			if c, err := x509.ParseCertificate(der); err == nil {
				between.AddCert(c)
			}
		}
		_, err := leaf.Verify(x509.VerifyOptions{
			Roots: m.pool, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		})
		if unknown := (x509.UnknownAuthorityError{}); errors.As(err, &unknown) {
			return tidemill.Invalid("the certificate of --tls-cert was not signed by an authority of --tls-ca", "give the authority that signed it, beside those of the other nodes")
		} else if err != nil {
			return tidemill.Invalid("the certificate of --tls-cert does not stand under the authorities of --tls-ca: %s", "make a new one, or a new authority", err)
		}
	}
	for _, h := range hosts {
		if err := leaf.VerifyHostname(h); err != nil {
			own, _, _ := s.Own()
			return tidemill.Invalid("others would dial this node as %s, and the certificate of --tls-cert is for %s",
				"make one with: tidemill certs --host "+h+", or --advertise a host that it names", h, orNone(own.Hosts))
		}
	}
	have := certRoles(leaf)
	for _, r := range roles {
		if !slices.Contains(have, r) {
			return tidemill.Invalid("this node has role %s, and the certificate of --tls-cert is for %s",
				"use one for the node's roles (tidemill certs --role "+strings.Join(roles, ",")+"), or give --role", r, named(have))
		}
	}
	return nil
}

func orNone(hosts []string) string {
	if len(hosts) == 0 {
		return "no host"
	}
	return strings.Join(hosts, ", ")
}

// period refuses a certificate or an authority outside its time.
func (m *material) period(now time.Time) error {
	if m.cert == nil {
		return nil
	}
	switch leaf := m.cert.Leaf; {
	case now.After(leaf.NotAfter):
		return tidemill.Invalid("the certificate of --tls-cert expired on %s", "replace it: the files are read again when they change", day(leaf.NotAfter))
	case now.Before(leaf.NotBefore):
		return tidemill.Invalid("the certificate of --tls-cert is not valid before %s, and this machine's clock says %s", "check the clock, or make a new one", day(leaf.NotBefore), day(now))
	}
	return nil
}

// ExplainTLS puts what went wrong in a handshake into words for people, without addresses. An
// error of another kind stays what it is, and nil stays nil.
func ExplainTLS(err error) error {
	if err == nil {
		return nil
	}
	if why := reason(err); why != "" {
		return &handshakeError{why, err}
	}
	return err
}

// handshakeError keeps the cause for errors.Is.
type handshakeError struct {
	why string
	err error
}

func (e *handshakeError) Error() string { return e.why }
func (e *handshakeError) Unwrap() error { return e.err }

// reason is "" for what it does not know.
func reason(err error) string {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var alert *net.OpError
	var header tls.RecordHeaderError
	switch {
	case errors.Is(err, tidemill.ErrDenied):
		return err.Error()
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		// The library has one reason for both ends of the time.
		if c := invalid.Cert; c != nil && !time.Now().After(c.NotAfter) {
			return fmt.Sprintf("the other side's certificate is not valid before %s; check both clocks", day(c.NotBefore))
		} else if c != nil {
			return fmt.Sprintf("the other side's certificate expired on %s", day(c.NotAfter))
		}
		return "the other side's certificate has expired or is not valid yet"
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return "the other side's certificate is not for this use: it belongs to a client, not to a node"
	case errors.As(err, &unknown):
		return "the other side's certificate was signed by an authority that is not among those of --tls-ca"
	case errors.As(err, &host):
		return "the other side's certificate is for other hosts than the one dialled: " + orNone(certHosts(host.Certificate))
	case errors.As(err, &header):
		return "the other side speaks plain text, not TLS"
	case errors.As(err, &alert) && alert.Op == "remote error": // the library's type for alerts is its own
		switch alert.Err.Error() {
		case "tls: expired certificate":
			return "the other side says that the certificate shown to it has expired or is not valid yet"
		case "tls: unknown certificate authority":
			return "the other side does not believe the authority of the certificate shown to it"
		case "tls: certificate required":
			return "the other side asks for a certificate; give --tls-cert and --tls-key"
		case "tls: bad certificate", "tls: unsupported certificate":
			return "the other side does not accept the certificate shown to it; its log says why"
		}
	}
	return ""
}

// certHosts leaves out addresses: they are nobody else's business.
func certHosts(c *x509.Certificate) []string {
	if c == nil {
		return nil
	}
	names := slices.Clone(c.DNSNames)
	if len(c.IPAddresses) > 0 {
		names = append(names, fmt.Sprintf("%d addresses", len(c.IPAddresses)))
	}
	return names
}

// AdvertisedHosts returns the hosts of addresses that others dial, each once, without those
// that name no host.
func AdvertisedHosts(addrs ...string) []string {
	var hosts []string
	for _, a := range addrs {
		h, _, err := net.SplitHostPort(a)
		if err != nil || h == "" || slices.Contains(hosts, h) {
			continue
		}
		if ip := net.ParseIP(h); ip != nil && ip.IsUnspecified() {
			continue
		}
		hosts = append(hosts, h)
	}
	return hosts
}
