package kafka_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/rpc"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/source/kafka"
)

var idSchema = arrow.NewSchema([]arrow.Field{{Name: "id", Type: arrow.PrimitiveTypes.Int64}}, nil)

// frames opens the topic "t" of format arrow, made when there is none, on a stream of its own, as
// another process would.
func frames(t *testing.T, brokers []string) source.Topic {
	t.Helper()
	top, err := stream(t, kafka.Config{Spec: arrowSpec(brokers)}).Create(within(t), "t", 1, idSchema)
	if err != nil {
		t.Fatal(err)
	}
	return top
}

func appendIDs(t *testing.T, top source.Topic, first int64, n int, key string) tidemill.Range {
	t.Helper()
	rec := ids(idSchema, first, n)
	defer rec.Release()
	r, err := top.Append(within(t), 0, rec, key)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func readAll(t *testing.T, top source.Topic) []int64 {
	t.Helper()
	ctx := within(t)
	in, err := top.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	r, err := top.Reader(ctx, 0, in.First[0])
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var out []int64
	for r.Position() < in.Next[0] {
		b, err := r.Next(ctx, 64)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b.Rows.Column(0).(*array.Int64).Int64Values()...)
		b.Rows.Release()
	}
	return out
}

// Producers of several processes share a partition: offsets are dense, each key counts once, and
// every append is whole.
func TestProducersOfSeveralProcesses(t *testing.T) {
	c := cluster(t)
	const processes, appends = 3, 6
	var wg sync.WaitGroup
	got := make([][]tidemill.Range, processes)
	for i := range processes {
		top := frames(t, c.ListenAddrs())
		wg.Add(1)
		go func() {
			defer wg.Done()
			for k := range appends {
				rec := ids(idSchema, int64(1000*i+10*k), 1+k%3)
				for range 2 { // the second time adds nothing
					r, err := top.Append(within(t), 0, rec, fmt.Sprintf("p%d/%d", i, k))
					if err != nil {
						t.Error(err)
						return
					}
					if n := len(got[i]); n == k+1 && got[i][k] != r {
						t.Errorf("repeated at %v, first at %v", r, got[i][k])
					} else if n == k {
						got[i] = append(got[i], r)
					}
				}
				rec.Release()
			}
		}()
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	all := readAll(t, frames(t, c.ListenAddrs()))
	flat := slices.Concat(got...)
	slices.SortFunc(flat, func(a, b tidemill.Range) int { return int(a.First - b.First) })
	next := int64(0)
	for _, r := range flat {
		if r.First != next {
			t.Fatalf("range %v where %d was next", r, next)
		}
		next = r.Next
	}
	if int64(len(all)) != next {
		t.Fatalf("%d rows, want %d", len(all), next)
	}
	for i := range got {
		for k, r := range got[i] {
			for o := r.First; o < r.Next; o++ {
				if want := int64(1000*i+10*k) + o - r.First; all[o] != want {
					t.Fatalf("offset %d has id %d, want %d", o, all[o], want)
				}
			}
		}
	}
}

// Answers that are lost, before or after the brokers did what was asked, with a key or without:
// the rows are there once.
func TestLostAnswers(t *testing.T) {
	c := cluster(t)
	top := frames(t, c.ListenAddrs())
	var want []int64
	i := 0
	for _, f := range []kfake.Fault{
		{Keys: []kmsg.Key{kmsg.EndTxn}, Err: kerr.RequestTimedOut},
		{Keys: []kmsg.Key{kmsg.EndTxn}, Err: kerr.CoordinatorNotAvailable},
		{Keys: []kmsg.Key{kmsg.EndTxn}, Err: kerr.InvalidProducerEpoch},
		{Keys: []kmsg.Key{kmsg.EndTxn}, Err: kerr.UnknownServerError},
		{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicasAfterAppend},
		{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotLeaderForPartition},
		{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.RequestTimedOut},
		{Keys: []kmsg.Key{kmsg.AddPartitionsToTxn}, Err: kerr.ConcurrentTransactions},
		{Keys: []kmsg.Key{kmsg.InitProducerID}, Err: kerr.CoordinatorLoadInProgress},
	} {
		for _, key := range []string{"", "p/%d"} {
			i++
			f.Count = 1
			h := c.Fault(f)
			if key != "" {
				key = fmt.Sprintf(key, i)
			}
			if r := appendIDs(t, top, int64(10*i), 2, key); r != (tidemill.Range{First: int64(len(want)), Next: int64(len(want) + 2)}) {
				t.Fatalf("%v with key %q: appended at %v, want %d", f.Err, key, r, len(want))
			}
			h.Remove()
			want = append(want, int64(10*i), int64(10*i+1))
		}
	}
	if got := readAll(t, frames(t, c.ListenAddrs())); !slices.Equal(got, want) {
		t.Fatalf("read %v, appended %v", got, want)
	}
}

// Leaders move, coordinators too, and connections break, while rows are appended and read.
func TestLeadersMove(t *testing.T) {
	c := cluster(t)
	top := frames(t, c.ListenAddrs())
	r, err := top.Reader(within(t), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	next := int64(0)
	for i := range 12 {
		switch i % 4 {
		case 0:
			c.ShufflePartitionLeaders()
		case 1:
			c.RehashCoordinators()
		case 2:
			c.ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
				return nil, fmt.Errorf("the connection breaks"), true
			})
		case 3:
			if err := c.MoveTopicPartition("t", 0, int32(i%3)); err != nil {
				t.Fatal(err)
			}
		}
		appendIDs(t, top, next, 3, fmt.Sprintf("p/%d", i))
		for r.Position() < next+3 {
			b, err := r.Next(within(t), 2)
			if err != nil {
				t.Fatal(err)
			}
			for k, id := range b.Rows.Column(0).(*array.Int64).Int64Values() {
				if id != b.Range.First+int64(k) {
					t.Fatalf("offset %d has id %d", b.Range.First+int64(k), id)
				}
			}
			b.Rows.Release()
		}
		next += 3
	}
}

// What a process that died left half done: an index without its topic, a topic without its index.
func TestHalfMade(t *testing.T) {
	c := cluster(t)
	top := frames(t, c.ListenAddrs())
	appendIDs(t, top, 0, 5, "p/1")
	before, err := top.Info(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteTopic("t"); err != nil { // and not its index, which has the key
		t.Fatal(err)
	}
	again := frames(t, c.ListenAddrs())
	after, err := again.Info(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if before.Identity == after.Identity || after.Next[0] != 0 {
		t.Fatalf("before %+v, after %+v", before, after)
	}
	if r := appendIDs(t, again, 7, 2, "p/1"); r != (tidemill.Range{First: 0, Next: 2}) {
		t.Fatalf("a key of the topic that was deleted: %v", r)
	}
	if got := readAll(t, again); !slices.Equal(got, []int64{7, 8}) {
		t.Fatalf("read %v", got)
	}
	if err := c.CreateTopic("u", 2, nil); err != nil {
		t.Fatal(err)
	}
	s := stream(t, kafka.Config{Spec: arrowSpec(c.ListenAddrs())})
	if _, err := s.Create(within(t), "u", 2, idSchema); err != nil {
		t.Fatalf("an empty topic is not taken over: %v", err)
	}
}

// A record that is not a frame is named, not passed over.
func TestForeignRecord(t *testing.T) {
	c := cluster(t)
	top := frames(t, c.ListenAddrs())
	appendIDs(t, top, 0, 5, "")
	rec := &kgo.Record{Topic: "t", Value: []byte("hello")}
	if err := producer(t, c.ListenAddrs()).ProduceSync(within(t), rec).FirstErr(); err != nil {
		t.Fatal(err)
	}
	appendIDs(t, top, 5, 5, "")
	r, err := top.Reader(within(t), 0, 0)
	if err == nil {
		defer r.Close()
	}
	for err == nil {
		var b tidemill.Batch
		if b, err = r.Next(within(t), 64); err == nil {
			b.Rows.Release()
		}
	}
	says(t, err, tidemill.ErrCorrupt, `topic "t" partition 0`, fmt.Sprintf("Kafka's offset %d", rec.Offset))
}

// Who may read shows a password from a file; without it, or with another one, nothing is read.
func TestSASL(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	c := cluster(t, kfake.EnableSASL(), kfake.Superuser("PLAIN", "p", "secret"),
		kfake.Superuser("SCRAM-SHA-256", "s256", "secret"), kfake.Superuser("SCRAM-SHA-512", "s512", "secret"))
	for user, m := range map[string]string{"p": tidemill.SASLPlain, "s256": tidemill.SASLScram256, "s512": tidemill.SASLScram512} {
		spec := arrowSpec(c.ListenAddrs())
		spec.SASL = &tidemill.KafkaSASL{Mechanism: m, User: user, PasswordFile: file("right", "secret\n")}
		if _, err := stream(t, kafka.Config{Spec: spec}).Topics(within(t)); err != nil {
			t.Errorf("%s: %v", m, err)
		}
		wrong := *spec.SASL
		wrong.PasswordFile = file("wrong", "other")
		spec.SASL = &wrong
		// The fake hangs up where a broker says why, which is then tried again for a while.
		if _, err := stream(t, kafka.Config{Spec: spec, AttemptTimeout: 300 * time.Millisecond}).Topics(within(t)); err == nil {
			t.Errorf("%s: a wrong password opens", m)
		}
	}
	spec := arrowSpec(c.ListenAddrs())
	spec.SASL = &tidemill.KafkaSASL{Mechanism: tidemill.SASLPlain, User: "p", PasswordFile: filepath.Join(dir, "none")}
	_, err := kafka.New(kafka.Config{Spec: spec})
	says(t, err, tidemill.ErrInvalid, "stream.kafka.sasl.password_file")
}

// TLS, with and without a certificate of this side's own, from files.
func TestTLS(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	for _, d := range []string{dir, other} {
		if err := rpc.DevCA(d, []string{"127.0.0.1"}); err != nil {
			t.Fatal(err)
		}
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	pair, err := tls.LoadX509KeyPair(file("node.pem"), file("node-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	ca, err := os.ReadFile(file("ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool.AppendCertsFromPEM(ca)
	c := cluster(t, kfake.TLS(&tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}))
	spec := arrowSpec(c.ListenAddrs())
	spec.TLS = &tidemill.KafkaTLS{CA: file("ca.pem"), Cert: file("node.pem"), Key: file("node-key.pem")}
	if _, err := stream(t, kafka.Config{Spec: spec}).Topics(within(t)); err != nil {
		t.Error(err)
	}
	for name, set := range map[string]*tidemill.KafkaTLS{
		"another authority": {CA: filepath.Join(other, "ca.pem"), Cert: file("node.pem"), Key: file("node-key.pem")},
		"no certificate":    {CA: file("ca.pem")},
		"no TLS":            nil,
	} {
		spec := arrowSpec(c.ListenAddrs())
		spec.TLS = set
		if _, err := stream(t, kafka.Config{Spec: spec, AttemptTimeout: 300 * time.Millisecond}).Topics(within(t)); err == nil {
			t.Errorf("%s: it is let in", name)
		}
	}
	for what, set := range map[string]*tidemill.KafkaTLS{
		"stream.kafka.tls.ca cannot be read": {CA: file("none")},
		"holds no certificate":               {CA: file("ca-key.pem")},
		"do not belong together":             {Cert: file("ca.pem"), Key: file("node-key.pem")},
	} {
		spec := arrowSpec(c.ListenAddrs())
		spec.TLS = set
		_, err := kafka.New(kafka.Config{Spec: spec})
		says(t, err, tidemill.ErrInvalid, what)
	}
}
