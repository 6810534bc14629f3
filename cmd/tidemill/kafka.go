package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/source/kafka"
	natsource "github.com/tidemill/tidemill/internal/source/nats"
	"github.com/tidemill/tidemill/internal/spec"
)

// kafkaFlags say how to reach a Kafka cluster.
type kafkaFlags struct {
	spec     tidemill.KafkaSpec
	tls      tidemill.KafkaTLS
	sasl     tidemill.KafkaSASL
	useTLS   bool
	replicas int
}

func (f *kafkaFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringSliceVar(&f.spec.Brokers, "kafka", nil, "HOST:PORT of Kafka brokers, instead of the node's stream")
	fl.BoolVar(&f.useTLS, "kafka-tls", false, "encrypt the connection to Kafka; the system's authorities decide on the brokers' certificates")
	fl.StringVar(&f.tls.CA, "kafka-tls-ca", "", "PEM file of the brokers' authority; implies --kafka-tls")
	fl.StringVar(&f.tls.Cert, "kafka-tls-cert", "", "PEM file of a certificate to show to the brokers; implies --kafka-tls")
	fl.StringVar(&f.tls.Key, "kafka-tls-key", "", "PEM file of its key")
	fl.StringVar(&f.sasl.Mechanism, "kafka-sasl", "", "how to sign in: plain, scram-sha-256 or scram-sha-512")
	fl.StringVar(&f.sasl.User, "kafka-user", "", "who signs in")
	fl.StringVar(&f.sasl.PasswordFile, "kafka-password-file", "", "file that holds the password")
	fl.IntVar(&f.replicas, "kafka-replicas", 0, "replicas of a topic that has to be made in Kafka (default: the brokers')")
	_ = cmd.RegisterFlagCompletionFunc("kafka-sasl", cobra.FixedCompletions([]string{tidemill.SASLPlain, tidemill.SASLScram256, tidemill.SASLScram512}, cobra.ShellCompDirectiveNoFileComp))
}

// open returns the stream in Kafka, or nil when no broker was named.
func (f *kafkaFlags) open() (*kafka.Stream, error) {
	if f.useTLS || f.tls != (tidemill.KafkaTLS{}) {
		f.spec.TLS = &f.tls
	}
	if f.sasl != (tidemill.KafkaSASL{}) {
		f.spec.SASL = &f.sasl
	}
	if len(f.spec.Brokers) == 0 {
		if f.spec.TLS != nil || f.spec.SASL != nil || f.replicas != 0 {
			return nil, tidemill.Invalid("flags for Kafka and no broker", "name one with --kafka HOST:PORT")
		}
		return nil, nil
	}
	if err := spec.CheckKafka(&f.spec); err != nil {
		return nil, fmt.Errorf("--kafka: %w", err)
	}
	return kafka.New(kafka.Config{Spec: &f.spec, Replicas: f.replicas})
}

// openProduce opens the stream that produce writes to.
func openProduce(ctx context.Context, p *peer, url string, f *kafkaFlags) (stream source.Stream, closeStream func(), err error) {
	k, err := f.open()
	if err != nil {
		return nil, nil, err
	}
	if k != nil {
		if url != "" {
			k.Close()
			return nil, nil, tidemill.Invalid("--kafka and --stream-url at once", "give one or the other")
		}
		return k, func() { _ = k.Close() }, nil
	}
	nc, err := p.dialStream(ctx, url)
	if err != nil {
		return nil, nil, err
	}
	s, err := natsource.New(nc, natsource.Config{})
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	return s, func() {
		_ = s.Close()
		nc.Close()
	}, nil
}
