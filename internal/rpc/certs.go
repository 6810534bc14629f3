package rpc

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tidemill/tidemill"
)

// Roles of people and programs that are no nodes.
const (
	RoleAdmin  = "admin"  // commands, topics and their rows, predictions
	RoleClient = "client" // predictions
)

// NodeCert is the base name of the certificate for a node with all roles.
const NodeCert = "node"

// NodeRoles returns the roles that nodes have.
func NodeRoles() []string { return []string{"stream", "worker", "ps", "trainer", "serving"} }

// Roles returns the roles that certificates can name.
func Roles() []string { return append(NodeRoles(), RoleAdmin, RoleClient) }

// CertConfig says which certificates to make. Dir is required.
type CertConfig struct {
	// Dir is where the files are, made when missing. An authority that is there (ca.pem and
	// ca-key.pem) signs; otherwise one is made.
	Dir string
	// Name of the one certificate to make, NAME.pem and NAME-key.pem, for all of Roles. "" makes
	// one for each of Roles, named after it.
	Name string
	// Roles that certificates are for. None: the role that Name is, or, without a name, the whole
	// set: one for each of the package's Roles, and "node" for nodes with all roles.
	Roles []string
	// Hosts are the names and IP addresses that nodes are dialled by. localhost, 127.0.0.1 and
	// ::1 are always among them.
	Hosts []string
	// Life is how long they are valid, at most as long as the authority; 0 is a year.
	Life time.Duration
	// Now is the clock; nil is the machine's.
	Now func() time.Time
}

// Certificate is one that was made. The files lie in CertConfig.Dir.
type Certificate struct {
	Name    string    `json:"name"`
	Cert    string    `json:"cert"` // file names
	Key     string    `json:"key"`
	Roles   []string  `json:"roles,omitempty"` // none for the authority
	Hosts   []string  `json:"hosts,omitempty"`
	Expires time.Time `json:"expires"`
}

const (
	year    = 365 * 24 * time.Hour
	caLife  = 10 * year
	backlog = time.Hour // clocks of other machines may be behind
)

// MakeCerts makes certificates of an authority for one's own machines, and the authority when
// the directory has none; what it made begins with that one then. Keys can be read by their
// owner alone. It overwrites nothing: tidemill.ErrExists, before anything is written, when a
// file that it would write is there.
func MakeCerts(cfg CertConfig) ([]Certificate, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Life == 0 {
		cfg.Life = year
	}
	if cfg.Life < 0 {
		return nil, tidemill.Invalid("certificates valid for %v", "give a day or more", cfg.Life)
	}
	wanted, err := cfg.wanted()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("the directory for certificates cannot be made: %w: %w", tidemill.ErrInvalid, pathless(err))
	}
	for _, c := range wanted {
		for _, f := range []string{c.Cert, c.Key} {
			if _, err := os.Lstat(filepath.Join(cfg.Dir, f)); err == nil {
				return nil, taken(f)
			}
		}
	}
	var made []Certificate
	ca, caKey, err := loadCA(cfg.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		ca, caKey, err = makeCA(cfg)
		if err == nil {
			made = append(made, Certificate{Name: "ca", Cert: "ca.pem", Key: "ca-key.pem", Expires: ca.NotAfter})
		}
	}
	if err != nil {
		return nil, err
	}
	for _, c := range wanted {
		if c.Expires, err = cfg.issue(c, ca, caKey); err != nil {
			return made, err
		}
		made = append(made, c)
	}
	return made, nil
}

// wanted lists what is to be made, and checks it.
func (cfg CertConfig) wanted() ([]Certificate, error) {
	hosts := []string{"localhost", "127.0.0.1", "::1"}
	for _, h := range cfg.Hosts {
		if h == "" || strings.ContainsAny(h, " /") || net.ParseIP(h) == nil && strings.Contains(h, ":") {
			return nil, tidemill.Invalid("%.80q is no host", "give names or IP addresses, without ports", h)
		}
		if !slices.Contains(hosts, h) {
			hosts = append(hosts, h)
		}
	}
	one := func(name string, roles []string) Certificate {
		return Certificate{Name: name, Cert: name + ".pem", Key: name + "-key.pem", Roles: roles, Hosts: hosts}
	}
	for _, r := range cfg.Roles {
		if err := checkRole(r); err != nil {
			return nil, err
		}
	}
	if cfg.Name == "" {
		var all []Certificate
		for _, r := range cfg.Roles {
			if !slices.ContainsFunc(all, func(c Certificate) bool { return c.Name == r }) {
				all = append(all, one(r, []string{r}))
			}
		}
		if len(all) == 0 {
			for _, r := range Roles() {
				all = append(all, one(r, []string{r}))
			}
			all = append(all, one(NodeCert, NodeRoles()))
		}
		return all, nil
	}
	if cfg.Name == "ca" || strings.Trim(cfg.Name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" || strings.HasSuffix(cfg.Name, "-key") {
		return nil, tidemill.Invalid("%.80q cannot name a certificate", "use letters, digits, - and _; ca is the authority's", cfg.Name)
	}
	roles := cfg.Roles
	switch {
	case len(roles) == 0 && cfg.Name == NodeCert:
		roles = NodeRoles()
	case len(roles) == 0:
		if roles = []string{cfg.Name}; checkRole(cfg.Name) != nil {
			return nil, tidemill.Invalid("certificate %q is for no role", "say which: "+strings.Join(Roles(), ", "), cfg.Name)
		}
	}
	return []Certificate{one(cfg.Name, roles)}, nil
}

func checkRole(r string) error {
	if slices.Contains(Roles(), r) {
		return nil
	}
	hint := "one of " + strings.Join(Roles(), ", ")
	if n := tidemill.Nearest(r, Roles()); n != "" {
		hint = fmt.Sprintf("did you mean %q?", n)
	}
	return tidemill.Invalid("unknown role %.80q", hint, r)
}

// makeCA makes the authority. Its name has a number, so that people can tell two of them.
func makeCA(cfg CertConfig) (*x509.Certificate, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	now, number := cfg.Now(), serial()
	t := &x509.Certificate{
		SerialNumber: number, Subject: pkix.Name{CommonName: "Tidemill development CA " + hex.EncodeToString(number.Bytes()[:4])},
		NotBefore: now.Add(-backlog), NotAfter: now.Add(max(caLife, cfg.Life)),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := write(cfg.Dir, "ca", t, t, key, key)
	if err != nil {
		return nil, nil, err
	}
	ca, err := x509.ParseCertificate(der)
	return ca, key, err
}

// loadCA reads the authority; fs.ErrNotExist when neither of its files is there.
func loadCA(dir string) (*x509.Certificate, crypto.Signer, error) {
	cert, cerr := os.ReadFile(filepath.Join(dir, "ca.pem"))
	key, kerr := os.ReadFile(filepath.Join(dir, "ca-key.pem"))
	switch {
	case errors.Is(cerr, fs.ErrNotExist) && errors.Is(kerr, fs.ErrNotExist):
		return nil, nil, fs.ErrNotExist
	case errors.Is(kerr, fs.ErrNotExist):
		return nil, nil, tidemill.Invalid("the directory has ca.pem but not ca-key.pem, so nothing can be signed", "use the directory that the authority was made in, or another one for a new authority")
	case cerr != nil || kerr != nil:
		return nil, nil, fmt.Errorf("the authority in ca.pem and ca-key.pem cannot be read: %w: %w", tidemill.ErrInvalid, pathless(errors.Join(cerr, kerr)))
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, nil, fmt.Errorf("the authority in ca.pem and ca-key.pem cannot be used: %w: %w", tidemill.ErrInvalid, err)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA {
		return nil, nil, tidemill.Invalid("ca.pem is not the certificate of an authority", "use another directory for a new one")
	}
	return pair.Leaf, signer, nil
}

// issue makes one certificate and returns when it expires.
func (cfg CertConfig) issue(c Certificate, ca *x509.Certificate, caKey crypto.Signer) (time.Time, error) {
	now := cfg.Now()
	if now.After(ca.NotAfter) {
		return time.Time{}, tidemill.Invalid("the authority in ca.pem expired on %s", "use another directory for a new one", day(ca.NotAfter))
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return time.Time{}, err
	}
	until := now.Add(cfg.Life)
	if until.After(ca.NotAfter) {
		until = ca.NotAfter
	}
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "tidemill " + c.Name},
		NotBefore: now.Add(-backlog), NotAfter: until,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, r := range c.Roles {
		t.URIs = append(t.URIs, &url.URL{Scheme: "tidemill", Host: "role", Path: "/" + r})
	}
	// Who is no node is never one to others.
	if slices.ContainsFunc(c.Roles, func(r string) bool { return slices.Contains(NodeRoles(), r) }) {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, h := range c.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	_, err = write(cfg.Dir, c.Name, t, ca, key, caKey)
	return t.NotAfter.Truncate(time.Second), err
}

// DevCA makes the whole set of MakeCerts in a directory that has no authority yet.
func DevCA(dir string, hosts []string) error {
	_, err := MakeCerts(CertConfig{Dir: dir, Hosts: hosts})
	return err
}

func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:])         // never fails
	b[0] = b[0]&0x7f | 0x40 // positive, and always 16 bytes
	return new(big.Int).SetBytes(b[:])
}

// write signs cert and writes it with its key, the key first, so that a certificate that is
// there has one.
func write(dir, name string, cert, ca *x509.Certificate, key, caKey crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificate(rand.Reader, cert, ca, key.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w: %w", name, tidemill.ErrInvalid, err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("key of %s: %w", name, err)
	}
	if err := create(filepath.Join(dir, name+"-key.pem"), "PRIVATE KEY", keyDER, 0o600); err != nil {
		return nil, err
	}
	return der, create(filepath.Join(dir, name+".pem"), "CERTIFICATE", der, 0o644)
}

func create(path, kind string, der []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		if errors.Is(err, fs.ErrExist) {
			return taken(filepath.Base(path))
		}
		return fmt.Errorf("%s cannot be written: %w: %w", filepath.Base(path), tidemill.ErrInvalid, pathless(err))
	}
	var b bytes.Buffer
	err = pem.Encode(&b, &pem.Block{Type: kind, Bytes: der})
	if err == nil {
		_, err = f.Write(b.Bytes())
	}
	return errors.Join(err, f.Close())
}

func taken(name string) error {
	return fmt.Errorf("%s is already there and is not overwritten; use another directory or name: %w", name, tidemill.ErrExists)
}

// pathless is err without the path of the file that it is about.
func pathless(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }
