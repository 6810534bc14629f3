package kafka

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/tidemill/tidemill"
)

// security returns the options that authenticate both sides, from the files that the spec names.
func (c *Config) security() ([]kgo.Opt, error) {
	var opts []kgo.Opt
	switch {
	case c.Dial != nil:
		opts = append(opts, kgo.Dialer(c.Dial))
	case c.Spec.TLS != nil:
		cfg, err := tlsConfig(c.Spec.TLS)
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.DialTLSConfig(cfg))
	}
	if c.Spec.SASL != nil {
		m, err := mechanism(c.Spec.SASL)
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.SASL(m))
	}
	return opts, nil
}

// readFile reads a file that the spec names as what.
func readFile(what, name string) ([]byte, error) {
	b, err := os.ReadFile(name)
	if err == nil {
		return b, nil
	}
	var path *os.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return nil, &tidemill.InputError{Place: tidemill.Place{File: name}, What: fmt.Sprintf("stream.kafka.%s cannot be read: %v", what, err), Remedy: "every node that reads the topic needs the file"}
}

func tlsConfig(spec *tidemill.KafkaTLS) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: spec.ServerName}
	if spec.CA != "" {
		pem, err := readFile("tls.ca", spec.CA)
		if err != nil {
			return nil, err
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, &tidemill.InputError{Place: tidemill.Place{File: spec.CA}, What: "stream.kafka.tls.ca holds no certificate", Remedy: "give a PEM file"}
		}
	}
	if spec.Cert == "" && spec.Key == "" {
		return cfg, nil
	}
	cert, err := readFile("tls.cert", spec.Cert)
	if err != nil {
		return nil, err
	}
	key, err := readFile("tls.key", spec.Key)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, &tidemill.InputError{Place: tidemill.Place{File: spec.Cert}, What: "stream.kafka.tls.cert and key do not belong together", Remedy: "give a certificate and its own key, both PEM"}
	}
	cfg.Certificates = []tls.Certificate{pair}
	return cfg, nil
}

func mechanism(spec *tidemill.KafkaSASL) (sasl.Mechanism, error) {
	secret, err := readFile("sasl.password_file", spec.PasswordFile)
	if err != nil {
		return nil, err
	}
	pass := strings.TrimRight(string(secret), "\r\n")
	if pass == "" {
		return nil, &tidemill.InputError{Place: tidemill.Place{File: spec.PasswordFile}, What: "stream.kafka.sasl.password_file is empty", Remedy: "write the password into it"}
	}
	switch spec.Mechanism {
	case tidemill.SASLPlain:
		return plain.Auth{User: spec.User, Pass: pass}.AsMechanism(), nil
	case tidemill.SASLScram256:
		return scram.Auth{User: spec.User, Pass: pass}.AsSha256Mechanism(), nil
	case tidemill.SASLScram512:
		return scram.Auth{User: spec.User, Pass: pass}.AsSha512Mechanism(), nil
	}
	return nil, tidemill.Invalid("unknown SASL mechanism %q", "use plain, scram-sha-256 or scram-sha-512", spec.Mechanism)
}
