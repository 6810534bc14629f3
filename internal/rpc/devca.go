package rpc

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/tidemill/tidemill"
)

// Roles are what a certificate can name. A client may submit jobs and ask for predictions.
var roles = []string{"stream", "worker", "ps", "trainer", "serving", "client"}

// NodeCert is the base name of the certificate that DevCA makes for a node with all roles.
const NodeCert = "node"

// Roles returns the roles that certificates can name.
func Roles() []string { return append([]string(nil), roles...) }

// DevCA makes an authority for one's own machines and its certificates, valid for a year, in
// dir: ca.pem and ca-key.pem, and ROLE.pem and ROLE-key.pem for each of Roles and for "node",
// which holds all roles but client. hosts are the names and IP addresses that the nodes are
// dialled by; localhost, 127.0.0.1 and ::1 are always among them. It overwrites nothing:
// tidemill.ErrExists when dir already has an authority.
func DevCA(dir string, hosts []string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("the directory for certificates cannot be made: %w", err)
	}
	now := time.Now()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Tidemill development CA"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	if err := issue(dir, "ca", ca, ca, caKey, caKey); err != nil {
		return err
	}
	hosts = append([]string{"localhost", "127.0.0.1", "::1"}, hosts...)
	for _, name := range append(Roles(), NodeCert) {
		named := []string{name}
		if name == NodeCert {
			named = roles[:len(roles)-1]
		}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		cert := &x509.Certificate{
			SerialNumber: serial(), Subject: pkix.Name{CommonName: "tidemill " + name},
			NotBefore: now.Add(-time.Hour), NotAfter: ca.NotAfter,
			KeyUsage:    x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
		for _, r := range named {
			cert.URIs = append(cert.URIs, &url.URL{Scheme: "tidemill", Host: "role", Path: "/" + r})
		}
		if name == "client" {
			cert.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} // never a node to others
		}
		for _, h := range hosts {
			if ip := net.ParseIP(h); ip != nil {
				cert.IPAddresses = append(cert.IPAddresses, ip)
			} else {
				cert.DNSNames = append(cert.DNSNames, h)
			}
		}
		if err := issue(dir, name, cert, ca, key, caKey); err != nil {
			return err
		}
	}
	return nil
}

func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[0] &= 0x7f    // positive
	return new(big.Int).SetBytes(b[:])
}

// issue signs cert and writes it with its key, the key first, so that a certificate that is
// there has one.
func issue(dir, name string, cert, ca *x509.Certificate, key, caKey crypto.Signer) error {
	der, err := x509.CreateCertificate(rand.Reader, cert, ca, key.Public(), caKey)
	if err != nil {
		return fmt.Errorf("certificate %s: %w: %w", name, tidemill.ErrInvalid, err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("key of %s: %w", name, err)
	}
	if err := create(filepath.Join(dir, name+"-key.pem"), "PRIVATE KEY", keyDER, 0o600); err != nil {
		return err
	}
	return create(filepath.Join(dir, name+".pem"), "CERTIFICATE", der, 0o644)
}

func create(path, kind string, der []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s is already there and is not overwritten; use another directory: %w", filepath.Base(path), tidemill.ErrExists)
		}
		return fmt.Errorf("%s cannot be written: %w", filepath.Base(path), err)
	}
	err = pem.Encode(f, &pem.Block{Type: kind, Bytes: der})
	return errors.Join(err, f.Close())
}
