package e2e

import (
	"bytes"
	"context"
	"encoding/csv"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/produce"
	"github.com/tidemill/tidemill/internal/source/file"
	"github.com/tidemill/tidemill/internal/source/kafka"
)

// kafkaColumns declares the columns of the power example as produce infers them.
func kafkaColumns() []tidemill.ColumnSpec {
	var out []tidemill.ColumnSpec
	for _, n := range []string{"period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer"} {
		out = append(out, tidemill.ColumnSpec{Name: n, Type: "float64"})
	}
	return append(out, tidemill.ColumnSpec{Name: "class", Type: "int64"})
}

// TestKafka: the same rows give the same digest from the node's own stream, from Kafka in
// Tidemill's messages, and from Kafka as CSV records. Where transactions leave gaps and records
// are bad, every row is trained and every bad record put aside, whatever was stopped meanwhile.
func TestKafka(t *testing.T) {
	const rows, partitions = 600, 2
	yaml, text := power(t, rows)
	c, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	lines, err := csv.NewReader(bytes.NewReader(text)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	record := func(i int) []byte {
		var b bytes.Buffer
		w := csv.NewWriter(&b)
		if err := w.Write(lines[1+i]); err != nil {
			t.Fatal(err)
		}
		w.Flush()
		return b.Bytes()
	}

	// Tidemill's messages.
	own, err := kafka.New(kafka.Config{Spec: &tidemill.KafkaSpec{Brokers: c.ListenAddrs()}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := produce.Run(ctx, own, produce.Config{Topic: "frames", Partitions: partitions, Stdin: bytes.NewReader(text), ID: "power",
		Read: file.Options{Format: file.CSV}, BatchRows: 50}); err != nil {
		t.Fatal(err)
	}
	own.Close()
	// Plain records, without gaps.
	if err := c.CreateTopic("dense", partitions, nil); err != nil {
		t.Fatal(err)
	}
	prod, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	var all []*kgo.Record
	for i := range rows {
		all = append(all, &kgo.Record{Topic: "dense", Partition: int32(i % partitions), Value: record(i)})
	}
	if err := prod.ProduceSync(ctx, all...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	prod.Close()
	// Transactions of a few records: some aborted, some records bad.
	bad := gappy(t, ctx, c, "gaps", rows, record)

	job := func(name string, k *tidemill.KafkaSpec) func(s *tidemill.Spec) {
		return func(s *tidemill.Spec) {
			s.Model, s.Stream.Kafka = name, k
			s.Train.Snapshot.Rows = 100
			if k != nil {
				s.Stream.Topic, k.Brokers = name, c.ListenAddrs()
			}
		}
	}
	plain := func() *tidemill.KafkaSpec {
		return &tidemill.KafkaSpec{Format: tidemill.KafkaCSV, Schema: kafkaColumns()}
	}
	dir := t.TempDir()
	s := start(t, dir, node.Config{})
	s.produce("power", partitions, text)
	s.submit(parse(t, yaml, job("power", nil)))
	want := s.finish("power")
	for name, k := range map[string]*tidemill.KafkaSpec{"frames": {}, "dense": plain()} {
		s.submit(parse(t, yaml, job(name, k)))
		st := s.finish(name)
		if st.Examples != rows || st.Digest != want.Digest {
			t.Errorf("%s: digest %s of %d examples; from the node's own stream %s of %d", name, st.Digest, st.Examples, want.Digest, want.Examples)
		}
		if m := s.manifest(name); m.StreamIdentity == "" || m.StreamTopic != name {
			t.Errorf("%s: the manifest has topic %q, identity %q", name, m.StreamTopic, m.StreamIdentity)
		}
	}
	// With gaps the rounds are others: as exact, and the same again after a stop.
	gaps := func(model string) func(*tidemill.Spec) {
		return func(sp *tidemill.Spec) {
			job("gaps", plain())(sp)
			sp.Model, sp.Train.Batch = model, 7
		}
	}
	s.submit(parse(t, yaml, gaps("gaps")))
	whole := s.finish("gaps")
	if whole.Examples != rows || whole.BadRows != int64(len(bad)) {
		t.Errorf("gaps: %d examples and %d bad rows, want %d and %d", whole.Examples, whole.BadRows, rows, len(bad))
	}
	for _, l := range s.letters("gaps") {
		if raw, ok := bad[l.Offset]; !ok || l.Topic != "gaps" || l.Cause != tidemill.BadDecode || !bytes.Equal(l.Raw, raw) {
			t.Errorf("a dead letter %+v", l)
		}
	}
	s.submit(parse(t, yaml, gaps("again")))
	s.until("a third of the rows", func() bool { return s.status("again").Examples >= rows/3 })
	s.stop()
	s = start(t, dir, node.Config{})
	if st := s.finish("again"); st.Examples != rows || st.Digest != whole.Digest {
		t.Errorf("stopped: digest %s of %d examples, want %s", st.Digest, st.Examples, whole.Digest)
	}
	s.stop()
}

// gappy fills a topic of one partition in transactions, and returns the bad records by offset.
func gappy(t *testing.T, ctx context.Context, c *kfake.Cluster, topic string, rows int, record func(int) []byte) map[int64][]byte {
	t.Helper()
	if err := c.CreateTopic(topic, 1, nil); err != nil {
		t.Fatal(err)
	}
	bad := map[int64][]byte{}
	for i, n := 0, 0; i < rows; n++ {
		k := min(1+n%30, rows-i)
		var recs []*kgo.Record
		for j := range k {
			recs = append(recs, &kgo.Record{Topic: topic, Value: record(i + j)})
		}
		if n%5 == 2 {
			recs = append(recs, &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "broken,%d", n)})
		}
		commit := kgo.TransactionEndTry(n%4 != 1)
		transact(t, ctx, c, topic, commit, recs)
		if commit {
			i += k
			if len(recs) > k {
				bad[recs[k].Offset] = recs[k].Value
			}
		}
	}
	return bad
}

// transact writes records in a transaction of a producer of its own. The fake refuses one now and
// then, which leaves no more than another gap.
func transact(t *testing.T, ctx context.Context, c *kfake.Cluster, id string, commit kgo.TransactionEndTry, recs []*kgo.Record) {
	t.Helper()
	const most = 10
	for try := 1; ; try++ {
		prod, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.TransactionalID(id), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		if err == nil {
			err = prod.BeginTransaction()
		}
		if err == nil {
			err = prod.ProduceSync(ctx, recs...).FirstErr()
		}
		if err == nil {
			if err := prod.EndTransaction(ctx, commit); err != nil {
				t.Fatal(err)
			}
		}
		if prod != nil {
			prod.Close()
		}
		if err == nil {
			return
		}
		if try == most {
			t.Fatal(err)
		}
	}
}
