package spec

import (
	"fmt"
	"net"
	"slices"
	"strconv"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source/rows"
)

// kafka checks where and how a topic is read. What an Avro schema means is the driver's to say,
// when the job is submitted.
func (c *checker) kafka(path string, k *tidemill.KafkaSpec) {
	formats := []string{tidemill.KafkaArrow, tidemill.KafkaJSON, tidemill.KafkaCSV, tidemill.KafkaAvro}
	if len(k.Brokers) == 0 {
		c.add(path+".brokers", "add brokers: [HOST:PORT]", "no Kafka broker is named")
	}
	for i, b := range k.Brokers {
		host, port, err := net.SplitHostPort(b)
		if n, perr := strconv.Atoi(port); err != nil || host == "" || perr != nil || n < 1 || n > 65535 {
			c.add(fmt.Sprintf("%s.brokers[%d]", path, i), "write HOST:PORT", "%q is no broker's address", b)
		}
	}
	format := k.Format
	if format == "" {
		format = tidemill.KafkaArrow
	}
	if !slices.Contains(formats, format) {
		c.add(path+".format", suggest(format, formats), "unknown record format %q", format)
		return
	}
	only := func(key string, set bool, of ...string) {
		if set && !slices.Contains(of, format) {
			c.add(path+"."+key, "leave it out", "%s has no meaning for format %s", key, format)
		}
	}
	only("schema", k.Schema != nil, tidemill.KafkaJSON, tidemill.KafkaCSV, tidemill.KafkaAvro)
	only("compacted", k.Compacted, tidemill.KafkaJSON, tidemill.KafkaCSV, tidemill.KafkaAvro)
	only("avro", k.Avro != "", tidemill.KafkaAvro)
	only("confluent", k.Confluent, tidemill.KafkaAvro)
	if format == tidemill.KafkaAvro && k.Avro == "" {
		c.add(path+".avro", "add avro: with the record schema that the producers use, as JSON", "format avro needs its schema")
	}
	if (format == tidemill.KafkaJSON || format == tidemill.KafkaCSV) && len(k.Schema) == 0 {
		c.add(path+".schema", "add schema: [{name: NAME, type: TYPE}, …]", "format %s needs the columns' names and types", format)
	}
	c.columns(path+".schema", k.Schema)
	if t := k.TLS; t != nil && (t.Cert == "") != (t.Key == "") {
		c.add(path+".tls", "give both files, or neither", "cert and key belong together")
	}
	if s := k.SASL; s != nil {
		mechanisms := []string{tidemill.SASLPlain, tidemill.SASLScram256, tidemill.SASLScram512}
		if !slices.Contains(mechanisms, s.Mechanism) {
			c.add(path+".sasl.mechanism", suggest(s.Mechanism, mechanisms), "unknown SASL mechanism %q", s.Mechanism)
		}
		if s.User == "" {
			c.add(path+".sasl.user", "", "sasl names no user")
		}
		if s.PasswordFile == "" {
			c.add(path+".sasl.password_file", "name a file that holds the password", "sasl has no password")
		}
	}
}

func (c *checker) columns(path string, columns []tidemill.ColumnSpec) {
	seen := map[string]bool{}
	for i, col := range columns {
		at := fmt.Sprintf("%s[%d]", path, i)
		switch {
		case col.Name == "":
			c.add(at+".name", "add name: NAME", "the column has no name")
		case seen[col.Name]:
			c.add(at+".name", "rename or remove one", "column %q is listed twice", col.Name)
		}
		seen[col.Name] = true
		if rows.TypeOf(col.Type) == nil {
			c.add(at+".type", suggest(col.Type, rows.TypeNames()), "unknown column type %q", col.Type)
		}
	}
}

// CheckKafka checks what was not read from a spec file, as Check does.
func CheckKafka(k *tidemill.KafkaSpec) error {
	c := checker{s: &tidemill.Spec{}}
	c.kafka("kafka", k)
	var errs []*tidemill.InputError
	for _, p := range c.problems {
		errs = append(errs, &tidemill.InputError{What: p.What, Remedy: p.Remedy})
	}
	return joined(errs)
}
