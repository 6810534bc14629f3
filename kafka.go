package tidemill

// What the messages of a Kafka topic are.
const (
	KafkaArrow = "arrow" // Tidemill's own, as `tidemill produce --kafka` writes them
	KafkaJSON  = "json"  // one flat object per record
	KafkaCSV   = "csv"   // one line per record, without a header
	KafkaAvro  = "avro"  // one value of a record schema per record
)

// SASL mechanisms.
const (
	SASLPlain    = "plain"
	SASLScram256 = "scram-sha-256"
	SASLScram512 = "scram-sha-512"
)

// KafkaSpec says that a topic lives in Kafka, and how it is read. Secrets are in files, which
// every node that runs the job has.
type KafkaSpec struct {
	Brokers []string     `json:"brokers" yaml:"brokers"`         // HOST:PORT of some; the others are found
	Format  string       `json:"format,omitempty" yaml:"format"` // arrow (default), json, csv, avro
	Schema  []ColumnSpec `json:"schema,omitempty" yaml:"schema"` // json, csv: the columns, of csv in order; avro: the fields to take, all by default
	Avro    string       `json:"avro,omitempty" yaml:"avro"`     // avro: the schema that records are written with, as JSON
	// Confluent says that Avro records begin with the five bytes of a schema registry, which
	// are skipped.
	Confluent bool `json:"confluent,omitempty" yaml:"confluent"`
	// Compacted accepts that rows may be missing from the middle of the log: a replay may then
	// find fewer rows than were trained.
	Compacted bool       `json:"compacted,omitempty" yaml:"compacted"`
	Group     string     `json:"group,omitempty" yaml:"group"` // consumer group that is told how far the job is, for dashboards
	TLS       *KafkaTLS  `json:"tls,omitempty" yaml:"tls"`
	SASL      *KafkaSASL `json:"sasl,omitempty" yaml:"sasl"`
}

// ColumnSpec is one column of plain records.
type ColumnSpec struct {
	Name string `json:"name" yaml:"name"`
	Type string `json:"type" yaml:"type"` // int64, int32, float64, float32, bool, text, timestamp
}

// KafkaTLS encrypts the connection to the brokers. All fields may be empty: the system's
// authorities then decide on the brokers' certificates.
type KafkaTLS struct {
	CA         string `json:"ca,omitempty" yaml:"ca"`     // PEM file of the brokers' authority
	Cert       string `json:"cert,omitempty" yaml:"cert"` // PEM file; with key, what this side shows
	Key        string `json:"key,omitempty" yaml:"key"`
	ServerName string `json:"server_name,omitempty" yaml:"server_name"` // in the brokers' certificates; default: the host dialled
}

// KafkaSASL says who this side is.
type KafkaSASL struct {
	Mechanism    string `json:"mechanism" yaml:"mechanism"` // plain, scram-sha-256, scram-sha-512
	User         string `json:"user" yaml:"user"`
	PasswordFile string `json:"password_file" yaml:"password_file"`
}
