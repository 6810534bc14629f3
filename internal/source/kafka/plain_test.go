package kafka_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/source/kafka"
)

// plainSpec reads records with the columns id and name.
func plainSpec(brokers []string, format string) *tidemill.KafkaSpec {
	s := &tidemill.KafkaSpec{Brokers: brokers, Format: format}
	if format != tidemill.KafkaAvro {
		s.Schema = []tidemill.ColumnSpec{{Name: "id", Type: "int64"}, {Name: "name", Type: "text"}}
	} else {
		s.Avro = `{"type": "record", "name": "r", "fields": [{"name": "id", "type": "long"}, {"name": "name", "type": ["null", "string"]}]}`
	}
	return s
}

// record writes a row in a format.
func record(format string, id int64, name string) []byte {
	switch format {
	case tidemill.KafkaJSON:
		b, _ := json.Marshal(map[string]any{"other": []any{map[string]any{"x": id}}, "id": id, "name": name})
		return b
	case tidemill.KafkaCSV:
		return fmt.Appendf(nil, "%d,\"%s\"", id, strings.ReplaceAll(name, `"`, `""`))
	}
	b := zigzag(nil, id)
	b = zigzag(b, 1)
	b = zigzag(b, int64(len(name)))
	return append(b, name...)
}

func zigzag(b []byte, v int64) []byte {
	for u := uint64(v)<<1 ^ uint64(v>>63); ; u >>= 7 {
		if u < 0x80 {
			return append(b, byte(u))
		}
		b = append(b, byte(u)|0x80)
	}
}

func producer(t testing.TB, brokers []string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// notRecord is a record of no format.
var notRecord = []byte("\xff not a record")

// transact writes records in a transaction of a producer of its own. The fake refuses one now and
// then, which leaves no more than another gap.
func transact(t testing.TB, brokers []string, id string, commit bool, recs []*kgo.Record) {
	t.Helper()
	const most = 10
	for try := 1; ; try++ {
		prod := producer(t, brokers, kgo.TransactionalID(id))
		err := prod.BeginTransaction()
		if err == nil {
			err = prod.ProduceSync(within(t), recs...).FirstErr()
		}
		if err == nil {
			if err := prod.EndTransaction(within(t), kgo.TransactionEndTry(commit)); err != nil {
				t.Fatal(err)
			}
		}
		prod.Close()
		if err == nil {
			return
		}
		if try == most {
			t.Fatal(err)
		}
	}
}

// seen is what was read.
type seen struct {
	ids, offsets, bad []int64
	reasons           []string
}

// readTo reads until position end, in batches of at most limit, and checks that they follow on
// each other.
func readTo(t testing.TB, r source.Reader, end int64, limit int) (s seen) {
	t.Helper()
	ctx := within(t)
	for r.Position() < end {
		at := r.Position()
		b, err := r.Next(ctx, limit)
		if err != nil {
			t.Fatal(err)
		}
		if b.Range.First != at || b.Range.Next != r.Position() || b.Range.Empty() || int(b.Rows.NumRows()) > limit {
			t.Fatalf("batch %v of %d rows read at %d, then at %d", b.Range, b.Rows.NumRows(), at, r.Position())
		}
		for i := range int(b.Rows.NumRows()) {
			if o := b.Offset(i); o < b.Range.First || o >= b.Range.Next {
				t.Fatalf("offset %d in batch %v", o, b.Range)
			}
			s.ids = append(s.ids, b.Rows.Column(0).(*array.Int64).Value(i))
			s.offsets = append(s.offsets, b.Offset(i))
		}
		for _, bad := range b.Bad {
			s.bad, s.reasons = append(s.bad, bad.Offset), append(s.reasons, bad.Reason)
		}
		b.Rows.Release()
	}
	return s
}

// Records of every format, bad ones among them, in transactions that were committed or aborted:
// what comes out is every committed row at its own offset, whatever the batches are.
func TestPlainRecords(t *testing.T) {
	c := cluster(t)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		format := rapid.SampledFrom([]string{tidemill.KafkaJSON, tidemill.KafkaCSV, tidemill.KafkaAvro}).Draw(rt, "format")
		n++
		mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
		topic := fmt.Sprintf("%s-%d", format, n)
		if err := c.CreateTopic(topic, 1, nil); err != nil {
			rt.Fatal(err)
		}
		ctx := within(t)
		var want seen
		for range rapid.IntRange(1, 5).Draw(rt, "transactions") {
			var recs []*kgo.Record
			var ids []int64
			commit := rapid.Bool().Draw(rt, "commit")
			for range rapid.IntRange(1, 4).Draw(rt, "records") {
				id, name := rapid.Int64().Draw(rt, "id"), rapid.StringMatching(`[a-zäö",\\]{0,6}`).Draw(rt, "name")
				rec := &kgo.Record{Topic: topic, Value: record(format, id, name)}
				if rapid.IntRange(0, 4).Draw(rt, "bad") == 0 {
					rec.Value = notRecord
				}
				recs, ids = append(recs, rec), append(ids, id)
			}
			transact(t, c.ListenAddrs(), topic, commit, recs)
			for i, rec := range recs {
				switch {
				case !commit:
				case bytes.Equal(rec.Value, notRecord):
					want.bad = append(want.bad, rec.Offset)
				default:
					want.ids, want.offsets = append(want.ids, ids[i]), append(want.offsets, rec.Offset)
				}
			}
		}
		s := stream(t, kafka.Config{Spec: plainSpec(c.ListenAddrs(), format), Mem: mem})
		top, err := s.Open(ctx, topic)
		if err != nil {
			rt.Fatal(err)
		}
		in, err := top.Info(ctx)
		if err != nil {
			rt.Fatal(err)
		}
		from := rapid.Int64Range(0, in.Next[0]).Draw(rt, "from")
		r, err := top.Reader(ctx, 0, from)
		if err != nil {
			rt.Fatal(err)
		}
		got := readTo(t, r, in.Next[0], rapid.IntRange(1, 5).Draw(rt, "limit"))
		r.Close()
		s.Close()
		mem.AssertSize(t, 0)
		at, _ := slices.BinarySearch(want.offsets, from)
		bad, _ := slices.BinarySearch(want.bad, from)
		if !slices.Equal(got.ids, want.ids[at:]) || !slices.Equal(got.offsets, want.offsets[at:]) || !slices.Equal(got.bad, want.bad[bad:]) {
			rt.Fatalf("from %d: read %+v, written %+v", from, got, want)
		}
		for i, reason := range got.reasons {
			if place := fmt.Sprintf("topic %q partition 0 offset %d: ", topic, got.bad[i]); !strings.HasPrefix(reason, place) {
				rt.Fatalf("the place %q is not in %q", place, reason)
			}
		}
	})
}

// plainTopic makes a JSON topic with rows of ids from 0 on.
func plainTopic(t *testing.T, c *kfake.Cluster, name string, configs map[string]string, n int) (*kafka.Stream, source.Topic) {
	t.Helper()
	if err := c.CreateTopic(name, 1, configs); err != nil {
		t.Fatal(err)
	}
	writeIDs(t, c, name, 0, n)
	s := stream(t, kafka.Config{Spec: plainSpec(c.ListenAddrs(), tidemill.KafkaJSON)})
	top, err := s.Open(within(t), name)
	if err != nil {
		t.Fatal(err)
	}
	return s, top
}

func writeIDs(t *testing.T, c *kfake.Cluster, topic string, from, n int) {
	t.Helper()
	prod := producer(t, c.ListenAddrs())
	for i := range n {
		rec := &kgo.Record{Topic: topic, Key: fmt.Append(nil, from+i > 0), Value: record(tidemill.KafkaJSON, int64(from+i), "x")}
		if err := prod.ProduceSync(within(t), rec).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

func says(t *testing.T, err, kind error, parts ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got %v, want one that is %q", err, kind)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Fatalf("%q is not in: %v", p, err)
		}
	}
}

// Rows that the topic's retention has dropped are an error that says where to go on, whether they
// are asked for or were about to be read; so is a topic that is gone.
func TestExpiredAndDeleted(t *testing.T) {
	c := cluster(t)
	_, top := plainTopic(t, c, "t", nil, 10)
	ctx := within(t)
	if err := c.DeleteRecords("t", 0, 4); err != nil {
		t.Fatal(err)
	}
	place := []string{`topic "t" partition 0`, "offset 2", "the first one available is 4", "stream.from: earliest", "retention"}
	_, err := top.Reader(ctx, 0, 2)
	says(t, err, tidemill.ErrInvalid, place...)
	says(t, top.Retain(ctx, "job", tidemill.Cut{2}), tidemill.ErrNotFound, "the first one held is 4")
	_, err = top.Reader(ctx, 0, 11)
	says(t, err, tidemill.ErrInvalid)
	r, err := top.Reader(ctx, 0, 4)
	if err != nil {
		t.Fatal(err)
	}
	readTo(t, r, 10, 3)
	// It stands at the end; what comes next expires before it is fetched.
	var blocked atomic.Bool
	blocked.Store(true)
	c.ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if blocked.Load() {
			return nil, errors.New("no fetch now"), true
		}
		return nil, nil, false
	})
	writeIDs(t, c, "t", 10, 5)
	if err := c.DeleteRecords("t", 0, 12); err != nil {
		t.Fatal(err)
	}
	blocked.Store(false)
	_, err = r.Next(ctx, 1)
	says(t, err, tidemill.ErrInvalid, "offset 10", "the first one available is 12")
	r.Close()
	r, err = top.Reader(ctx, 0, 15)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := c.DeleteTopic("t"); err != nil {
		t.Fatal(err)
	}
	_, err = r.Next(ctx, 1)
	says(t, err, tidemill.ErrNotFound, `topic "t" was deleted`)
	if err := c.CreateTopic("t", 1, nil); err != nil {
		t.Fatal(err)
	}
	_, err = top.Info(ctx)
	says(t, err, tidemill.ErrNotFound)
}

// Rows that compaction took out are an error, unless the spec accepts that.
func TestCompacted(t *testing.T) {
	c := cluster(t)
	compact := map[string]string{"cleanup.policy": "compact"}
	if err := c.CreateTopic("t", 1, compact); err != nil {
		t.Fatal(err)
	}
	writeIDs(t, c, "t", 0, 8)
	ctx := within(t)
	spec := plainSpec(c.ListenAddrs(), tidemill.KafkaJSON)
	_, err := stream(t, kafka.Config{Spec: spec}).Open(ctx, "t")
	says(t, err, tidemill.ErrInvalid, "cleanup.policy", "compacted: true")
	spec.Compacted = true
	top, err := stream(t, kafka.Config{Spec: spec}).Open(ctx, "t")
	if err != nil {
		t.Fatal(err)
	}
	c.Compact()
	r, err := top.Reader(ctx, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got := readTo(t, r, 8, 100); len(got.ids) >= 8 || len(got.ids) == 0 || got.ids[len(got.ids)-1] != 7 {
		t.Fatalf("after compaction: %+v", got)
	}
	// A reader that was told nothing finds out by the gap.
	spec.Compacted = false
	if err := setPolicy(ctx, producer(t, c.ListenAddrs()), "t", "delete"); err != nil {
		t.Fatal(err)
	}
	top, err = stream(t, kafka.Config{Spec: spec}).Open(ctx, "t")
	if err != nil {
		t.Fatal(err)
	}
	strict, err := top.Reader(ctx, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer strict.Close()
	for err == nil {
		var b tidemill.Batch
		if b, err = strict.Next(ctx, 100); err == nil {
			b.Rows.Release()
		}
	}
	says(t, err, tidemill.ErrInvalid, `topic "t" partition 0`, "compacted away", "compacted: true")
}

func setPolicy(ctx context.Context, cl *kgo.Client, topic, policy string) error {
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	r := kmsg.NewIncrementalAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, topic
	e := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	e.Name, e.Value = "cleanup.policy", &policy
	r.Configs = append(r.Configs, e)
	req.Resources = append(req.Resources, r)
	_, err := req.RequestWith(ctx, cl)
	return err
}

// What plain records do not offer is refused with what to do instead.
func TestPlainIsReadOnly(t *testing.T) {
	c := cluster(t)
	s, top := plainTopic(t, c, "t", nil, 1)
	ctx := within(t)
	in, err := top.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	b := array.NewRecordBuilder(memory.DefaultAllocator, in.Schema)
	defer b.Release()
	rec := b.NewRecordBatch()
	defer rec.Release()
	_, err = top.Append(ctx, 0, rec, "")
	says(t, err, tidemill.ErrInvalid, "only read", "format: arrow")
	_, err = top.LastKey(ctx, 0, "p")
	says(t, err, tidemill.ErrInvalid, "only read")
	says(t, s.Delete(ctx, "t"), tidemill.ErrInvalid, "only read")
	says(t, top.Grow(ctx, 2), tidemill.ErrDenied, "Kafka's own tools")
	says(t, top.Evolve(ctx, arrow.NewSchema(append(in.Schema.Fields(), arrow.Field{Name: "z", Type: arrow.PrimitiveTypes.Int64, Nullable: true}), nil)),
		tidemill.ErrInvalid, "stream.kafka.schema")
	_, err = s.Create(ctx, "new", 1, in.Schema)
	says(t, err, tidemill.ErrInvalid, "only read")
	_, err = s.Open(ctx, "tt")
	says(t, err, tidemill.ErrNotFound, `"t"`)
	arrowStream := stream(t, kafka.Config{Spec: arrowSpec(c.ListenAddrs())})
	_, err = arrowStream.Open(ctx, "t")
	says(t, err, tidemill.ErrNotFound, "stream.kafka.format")
	_, err = arrowStream.Create(ctx, "t", 1, in.Schema)
	says(t, err, tidemill.ErrExists, "not Tidemill's")
	says(t, arrowStream.Delete(ctx, "t"), tidemill.ErrInvalid, "Kafka's own tools")
}

// The group of the spec is told where the job is, in Kafka's own offsets.
func TestGroup(t *testing.T) {
	c := cluster(t)
	plainTopic(t, c, "t", nil, 10)
	spec := plainSpec(c.ListenAddrs(), tidemill.KafkaJSON)
	spec.Group = "plain"
	testGroup(t, spec, "t", tidemill.Cut{7}, 7)
	arrowGroup(t, c.ListenAddrs())
}

// arrowGroup: three appends of 5 rows, each a transaction: the second is at Kafka's offset 2.
func arrowGroup(t *testing.T, brokers []string) {
	ctx := within(t)
	spec := arrowSpec(brokers)
	spec.Group = "arrow"
	s := stream(t, kafka.Config{Spec: spec})
	schema := arrow.NewSchema([]arrow.Field{{Name: "id", Type: arrow.PrimitiveTypes.Int64}}, nil)
	top, err := s.Create(ctx, "frames", 1, schema)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		rec := ids(schema, 0, 5)
		_, err := top.Append(ctx, 0, rec, "")
		rec.Release()
		if err != nil {
			t.Fatal(err)
		}
	}
	testGroup(t, spec, "frames", tidemill.Cut{7}, 2)
}

func ids(schema *arrow.Schema, first int64, n int) arrow.RecordBatch {
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer b.Release()
	for i := range n {
		b.Field(0).(*array.Int64Builder).Append(first + int64(i))
	}
	return b.NewRecordBatch()
}

func testGroup(t *testing.T, spec *tidemill.KafkaSpec, topic string, cut tidemill.Cut, want int64) {
	t.Helper()
	ctx := within(t)
	top, err := stream(t, kafka.Config{Spec: spec, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}).Open(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	if err := top.Retain(ctx, "job", cut); err != nil {
		t.Fatal(err)
	}
	if got := committed(t, spec.Brokers, spec.Group); got != want {
		t.Fatalf("the group stands at %d, want %d", got, want)
	}
}

// committed returns the group's only offset, -1 for none.
func committed(t *testing.T, brokers []string, group string) int64 {
	t.Helper()
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Group = group
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = group
	req.Groups = append(req.Groups, g)
	resp, err := req.RequestWith(within(t), producer(t, brokers))
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range resp.Groups {
		for _, tp := range g.Topics {
			for _, p := range tp.Partitions {
				return p.Offset
			}
		}
	}
	return -1
}
