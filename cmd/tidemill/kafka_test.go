package main_test

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tidemill/tidemill/internal/proctest"
	"github.com/tidemill/tidemill/internal/source/kafka/brokertest"
	"github.com/tidemill/tidemill/trainer"
)

// TestKafka: the job of the power example ends in the same bits whether its rows come from the
// cluster's own stream, from Kafka in Tidemill's messages, or from Kafka as somebody's JSON
// records; and whatever is killed meanwhile. It needs a real broker's jars: see brokertest.
func TestKafka(t *testing.T) {
	broker := brokertest.Start(t)
	bin := proctest.Build(t, ".")
	most := 5000
	if full("TIDEMILL_TEST_ROWS", "all") {
		most = everything
	}
	file, rows := powerRows(t, 0, most)
	const partitions = 2

	own := newFleet(t, bin)
	own.start("stream")
	own.produce("power", file, partitions)
	own.submit("power", "power", true)
	want := own.finished("power")
	own.stop()
	t.Logf("the cluster's own stream: digest %s of %d examples", want.Digest, want.Examples)

	f := newFleet(t, bin)
	f.start("stream", "stream", "trainer")
	for _, name := range []string{"worker1", "worker2"} {
		f.start(name, "worker")
	}
	for _, name := range []string{"ps1", "ps2"} {
		f.start(name, "ps")
	}
	var produced struct {
		Rows, Skipped int64
	}
	for i := range 2 { // the second time adds nothing
		if err := f.ask(&produced, "produce", "power", file, "--partitions", fmt.Sprint(partitions), "--kafka", broker.Addr); err != nil {
			t.Fatal(err)
		}
		if got := produced.Rows + produced.Skipped; got != int64(rows) || produced.Rows != int64(rows*(1-i)) {
			t.Fatalf("run %d produced %d rows and skipped %d of %d", i+1, produced.Rows, produced.Skipped, rows)
		}
	}
	jsonTopic(t, broker.Addr, "power-json", file, partitions)

	check := func(st trainer.JobStatus) {
		t.Helper()
		if st.Examples != int64(rows) || st.Digest != want.Digest {
			t.Errorf("job %s: digest %s of %d examples; the cluster's own stream has %s of %d", st.Job, st.Digest, st.Examples, want.Digest, want.Examples)
		}
	}
	arrowSpec := fmt.Sprintf("kafka: {brokers: [%q], group: tidemill}, from: earliest", broker.Addr)
	jsonSpec := fmt.Sprintf("kafka: {brokers: [%q], format: json, schema: %s}, from: earliest", broker.Addr, powerColumns)

	f.submit("arrow", "power", true, "from: earliest", arrowSpec)
	for i, victim := range []string{"worker1", "ps1"} {
		f.trained("arrow", (i+1)*rows/4)
		f.nodes[victim].Kill()
		f.start(victim, f.nodes[victim].roles...)
	}
	before := time.Now()
	st := f.finished("arrow")
	check(st)
	t.Logf("Kafka, Tidemill's messages, a worker and a ps killed: digest %s of %d examples, generation %d, done %v after the second kill",
		st.Digest, st.Examples, st.Generation, time.Since(before).Round(time.Millisecond))
	f.submit("json", "power-json", true, "from: earliest", jsonSpec)
	f.trained("json", rows/4)
	broker.Kill()
	broker.Restart()
	st = f.finished("json")
	check(st)
	t.Logf("Kafka, JSON records, the broker killed: digest %s of %d examples, generation %d", st.Digest, st.Examples, st.Generation)
	f.stop()
}

// powerColumns declares the columns of the power example's rows, as produce infers their types.
const powerColumns = `[{name: period, type: float64}, {name: nswprice, type: float64},
  {name: nswdemand, type: float64}, {name: vicprice, type: float64}, {name: vicdemand, type: float64}, {name: transfer, type: float64}, {name: class, type: int64}]`

// jsonTopic makes a topic and writes the rows of a CSV file to it as JSON objects, row i to
// partition i mod partitions, as produce does.
func jsonTopic(t *testing.T, addr, topic, file string, partitions int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	req := kmsg.NewPtrCreateTopicsRequest()
	ct := kmsg.NewCreateTopicsRequestTopic()
	ct.Topic, ct.NumPartitions, ct.ReplicationFactor = topic, int32(partitions), 1
	req.Topics = append(req.Topics, ct)
	if _, err := req.RequestWith(ctx, cl); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	r := csv.NewReader(in)
	all, err := r.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var records []*kgo.Record
	for i, row := range all[1:] {
		object := map[string]any{"not a column": map[string]any{"at": []int{i, i}}}
		for k, name := range all[0] {
			if _, err := strconv.ParseFloat(row[k], 64); err == nil {
				object[name] = json.Number(row[k])
			} else if row[k] != "" {
				object[name] = row[k]
			}
		}
		v, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, &kgo.Record{Topic: topic, Partition: int32(i % partitions), Value: v})
	}
	if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}
