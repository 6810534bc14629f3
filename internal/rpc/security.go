package rpc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tidemill/tidemill"
)

// Security is how a process proves who it is and whom it believes: PEM files, read again when
// they change. The zero value is plain text, which stays within the machine.
type Security struct {
	Cert string // file of the own certificate and its intermediates; also what others may act as
	Key  string // file of its key
	CA   string // file of the authorities whose certificates are believed
	// Insecure allows plain text beyond loopback.
	Insecure bool
	// Logger receives changed files that could not be used; the ones before stay in use.
	// Default: discard.
	Logger *slog.Logger
}

// ClientCerts is what a server asks of its clients.
type ClientCerts int

const (
	// RequireClientCerts refuses connections without a certificate of the CA: between nodes.
	RequireClientCerts ClientCerts = iota
	// AcceptClientCerts checks a certificate that is offered: predictions for anyone, more for
	// those who have one.
	AcceptClientCerts
)

// TLS reports whether any certificate is configured.
func (s Security) TLS() bool { return s.Cert != "" || s.Key != "" || s.CA != "" }

// Validate refuses combinations that can only be mistakes, without reading the files.
func (s Security) Validate() error {
	switch {
	case (s.Cert == "") != (s.Key == ""):
		return tidemill.Invalid("a certificate and its key come together, and one is missing", "give both --tls-cert and --tls-key")
	case s.Insecure && s.TLS():
		return tidemill.Invalid("certificates are given together with --insecure", "drop one of them")
	}
	return nil
}

// CheckListen refuses to listen on addr, "host:port", when others than this machine could
// connect in plain text and that was not allowed.
func (s Security) CheckListen(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return tidemill.Invalid("%.80q is not an address to listen on", "give HOST:PORT, or :0 for any free port", addr)
	}
	if s.Cert != "" || s.Insecure || Loopback(host) {
		return nil
	}
	return tidemill.Invalid("%s would be reachable from other machines in plain text",
		"give --tls-cert, --tls-key and --tls-ca, listen on 127.0.0.1, or accept it with --insecure", addr)
}

// Loopback reports whether host, a name or an IP address, is this machine only. An empty one
// means all interfaces.
func Loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// ServerTLS returns the configuration of a TLS server, nil without a certificate. TLS 1.3 is
// the least.
func (s Security) ServerTLS(clients ClientCerts) (*tls.Config, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if s.Cert == "" {
		if s.CA != "" {
			return nil, tidemill.Invalid("a server needs a certificate of its own, and only a CA is given", "give --tls-cert and --tls-key")
		}
		return nil, nil
	}
	auth := tls.RequireAndVerifyClientCert
	switch {
	case clients == AcceptClientCerts && s.CA == "":
		auth = tls.NoClientCert
	case clients == AcceptClientCerts:
		auth = tls.VerifyClientCertIfGiven
	case s.CA == "":
		return nil, tidemill.Invalid("the certificates of other nodes cannot be checked without a CA", "give --tls-ca")
	}
	files := newFiles(s)
	if _, err := files.get(); err != nil {
		return nil, err
	}
	protos := []string{"h2", "http/1.1"}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: protos,
		// A resumed session would go on believing an authority that is gone from the files.
		SessionTicketsDisabled: true,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			m, err := files.get()
			if err != nil {
				return nil, err
			}
			return &tls.Config{
				MinVersion: tls.VersionTLS13, NextProtos: protos, SessionTicketsDisabled: true,
				Certificates: []tls.Certificate{*m.cert}, ClientCAs: m.pool, ClientAuth: auth,
			}, nil
		},
		// crypto/tls wants a certificate here although the function above decides.
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			m, err := files.get()
			if err != nil {
				return nil, err
			}
			return m.cert, nil
		},
	}, nil
}

// ClientTLS returns a function that gives the configuration of a TLS client for each new
// connection, as the files are then; nil without any. Without a CA it believes the machine's own
// authorities. The server's certificate has to name one of roles, where any are given.
func (s Security) ClientTLS(roles ...string) (func() (*tls.Config, error), error) {
	if err := s.Validate(); err != nil || !s.TLS() {
		return nil, err
	}
	files := newFiles(s)
	if _, err := files.get(); err != nil {
		return nil, err
	}
	return func() (*tls.Config, error) {
		m, err := files.get()
		if err != nil {
			return nil, err
		}
		return m.client(roles), nil
	}, nil
}

// ServerCredentials returns what NewServer needs; plain text without a certificate. Handshakes
// that fail are logged, the same reason once a minute.
func (s Security) ServerCredentials(clients ClientCerts) (credentials.TransportCredentials, error) {
	cfg, err := s.ServerTLS(clients)
	if err != nil {
		return nil, err
	}
	if cfg == nil {
		return insecure.NewCredentials(), nil
	}
	return &watched{credentials.NewTLS(cfg), newRefusals(s.Logger)}, nil
}

// ClientCredentials returns what Dial needs; plain text without certificates. Each connection
// is made with the files as they are then. The server's certificate has to name one of roles,
// where any are given.
func (s Security) ClientCredentials(roles ...string) (credentials.TransportCredentials, error) {
	config, err := s.ClientTLS(roles...)
	if err != nil {
		return nil, err
	}
	if config == nil {
		return insecure.NewCredentials(), nil
	}
	now, err := config()
	if err != nil {
		return nil, err
	}
	return &fresh{TransportCredentials: credentials.NewTLS(now), config: config}, nil
}

// fresh are client credentials that look at the files before each handshake.
type fresh struct {
	credentials.TransportCredentials
	config func() (*tls.Config, error)
}

func (f *fresh) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	cfg, err := f.config()
	if err != nil {
		return nil, nil, err
	}
	c, info, err := credentials.NewTLS(cfg).ClientHandshake(ctx, authority, conn)
	if err != nil {
		return nil, nil, ExplainTLS(err)
	}
	return &explained{c}, info, nil
}

// explained is a connection whose errors say why the server refused the client's certificate.
// In TLS 1.3 the handshake has succeeded for the client by then: the refusal is what its first
// read finds, or what its first write trips over.
type explained struct{ net.Conn }

func (e *explained) Read(b []byte) (int, error) {
	n, err := e.Conn.Read(b)
	return n, ExplainTLS(err)
}

func (e *explained) Write(b []byte) (int, error) {
	n, err := e.Conn.Write(b)
	if err == nil {
		return n, nil
	}
	// The connection is lost; what the server said before it hung up is still to be read.
	var one [1]byte
	if derr := e.SetReadDeadline(time.Now().Add(time.Second)); derr == nil {
		if _, rerr := e.Conn.Read(one[:]); rerr != nil {
			if said := ExplainTLS(rerr); said != rerr {
				return n, said
			}
		}
	}
	return n, ExplainTLS(err)
}

func (f *fresh) Clone() credentials.TransportCredentials {
	return &fresh{TransportCredentials: f.TransportCredentials.Clone(), config: f.config}
}

// material is one consistent reading of the files. cert and pool may be nil; it never changes.
type material struct {
	cert *tls.Certificate
	pool *x509.CertPool
}

func (m *material) client(roles []string) *tls.Config {
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: m.pool}
	if m.cert != nil {
		// Also to a server that does not believe its authority, and then says so. Certificates
		// alone would show none there, which helps nobody find out.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return m.cert, nil }
	}
	if len(roles) > 0 {
		// After the chain and the host are verified.
		cfg.VerifyConnection = func(state tls.ConnectionState) error {
			have := StateRoles(state)
			for _, r := range have {
				if slices.Contains(roles, r) {
					return nil
				}
			}
			return fmt.Errorf("the other side's certificate is for %s, and %s is needed: %w", named(have), strings.Join(roles, " or "), tidemill.ErrDenied)
		}
	}
	return cfg
}

// named lists roles for people.
func named(roles []string) string {
	if len(roles) == 0 {
		return "no role"
	}
	return strings.Join(roles, ", ")
}

// files reads the certificates, and again when their times or sizes changed. It looks at most
// once a second.
type files struct {
	sec Security

	mu      sync.Mutex
	looked  time.Time
	stamps  [3]stamp
	current *material
}

type stamp struct {
	mod  time.Time
	size int64
}

const lookEvery = time.Second

func newFiles(s Security) *files {
	if s.Logger == nil {
		s.Logger = slog.New(slog.DiscardHandler)
	}
	return &files{sec: s}
}

func (f *files) get() (*material, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.current != nil && time.Since(f.looked) < lookEvery {
		return f.current, nil
	}
	f.looked = time.Now()
	stamps, changed := f.stat()
	if f.current != nil && !changed {
		return f.current, nil
	}
	m, err := f.read()
	if err == nil && f.current != nil {
		// At the start this is Check's to say; here a certificate that nobody would accept must
		// not replace one that works.
		err = m.period(time.Now())
	}
	switch {
	case err == nil:
		// Stamps from before the reading: a change in between is seen at the next look.
		f.current, f.stamps = m, stamps
	case f.current == nil:
		return nil, err
	default:
		f.sec.Logger.Warn("changed certificates cannot be used; keeping the ones before", "error", err)
	}
	return f.current, nil
}

func (f *files) stat() (stamps [3]stamp, changed bool) {
	for i, name := range []string{f.sec.Cert, f.sec.Key, f.sec.CA} {
		if name == "" {
			continue
		}
		if fi, err := os.Stat(name); err == nil {
			stamps[i] = stamp{fi.ModTime(), fi.Size()}
		}
	}
	return stamps, stamps != f.stamps
}

func (f *files) read() (*material, error) {
	m := &material{}
	if f.sec.Cert != "" {
		cert, err := tls.LoadX509KeyPair(f.sec.Cert, f.sec.Key)
		if err != nil {
			return nil, fmt.Errorf("the certificate and key of --tls-cert and --tls-key cannot be used: %w: %w", tidemill.ErrInvalid, pathless(err))
		}
		m.cert = &cert
	}
	if f.sec.CA != "" {
		pem, err := os.ReadFile(f.sec.CA)
		if err != nil {
			return nil, fmt.Errorf("the CA of --tls-ca cannot be read: %w: %w", tidemill.ErrInvalid, pathless(err))
		}
		m.pool = x509.NewCertPool()
		if !m.pool.AppendCertsFromPEM(pem) {
			return nil, tidemill.Invalid("the file of --tls-ca holds no certificate", "give a PEM file of the authority that signed the nodes' certificates")
		}
	}
	return m, nil
}
