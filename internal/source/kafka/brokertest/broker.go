// Package brokertest runs a real Kafka broker for a test, from jars that Maven fetches by
// ../testdata/broker/pom.xml (see the step kafka of .ci/run). It needs Java.
package brokertest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemill/tidemill/internal/process"
	"github.com/tidemill/tidemill/internal/proctest"
)

// Jars names the environment variable with the directory of Kafka's jars.
const Jars = "TIDEMILL_KAFKA_JARS"

// patience bounds waiting for the broker; no test decides anything by it.
const patience = 2 * time.Minute

// Broker is a single broker in KRaft mode, with its data in a directory that goes with the test.
type Broker struct {
	t    testing.TB
	jars string
	dir  string
	Addr string // HOST:PORT, also after a restart

	cmd    *exec.Cmd
	output bytes.Buffer
}

// Start starts a broker and waits until it answers, or skips the test when there are no jars.
func Start(t testing.TB) *Broker {
	t.Helper()
	jars := os.Getenv(Jars)
	if jars == "" {
		t.Skipf("%s names no directory with Kafka's jars", Jars)
	}
	b := &Broker{t: t, jars: jars, dir: t.TempDir()}
	ports := free(t, 2)
	b.Addr = "127.0.0.1:" + ports[0]
	listeners := fmt.Sprintf("PLAINTEXT://127.0.0.1:%s,CONTROLLER://127.0.0.1:%s", ports[0], ports[1])
	settings := strings.Join([]string{
		"process.roles=broker,controller", "node.id=1",
		"controller.quorum.bootstrap.servers=127.0.0.1:" + ports[1],
		"listeners=" + listeners, "advertised.listeners=" + listeners,
		"controller.listener.names=CONTROLLER",
		"listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
		"log.dirs=" + filepath.Join(b.dir, "log"),
		"offsets.topic.replication.factor=1", "offsets.topic.num.partitions=1",
		"transaction.state.log.replication.factor=1", "transaction.state.log.min.isr=1", "transaction.state.log.num.partitions=4",
		"group.initial.rebalance.delay.ms=0", "auto.create.topics.enable=false",
		"broker.session.timeout.ms=2000", "broker.heartbeat.interval.ms=400",
		"log.cleaner.dedupe.buffer.size=16777216",
	}, "\n") + "\n"
	if err := os.WriteFile(b.settings(), []byte(settings), 0o644); err != nil {
		t.Fatal(err)
	}
	id := b.tool("random-uuid")
	b.tool("format", "--standalone", "-t", id, "-c", b.settings())
	t.Cleanup(b.Kill)
	b.Restart()
	return b
}

func (b *Broker) settings() string { return filepath.Join(b.dir, "server.properties") }

// tool runs Kafka's storage tool.
func (b *Broker) tool(args ...string) string {
	b.t.Helper()
	cmd := process.Command("java", append([]string{"-cp", filepath.Join(b.jars, "*"), "kafka.tools.StorageTool"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.t.Fatalf("storage tool %s: %v\n%s", args[0], err, out)
	}
	return strings.TrimSpace(string(out))
}

// free returns ports that nobody uses now. They are chosen before the broker starts, since its
// clients must find it again where it was.
func free(t testing.TB, n int) []string {
	t.Helper()
	var out []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		out = append(out, port)
	}
	return out
}

// Restart starts the broker again after Kill, on what it had stored.
func (b *Broker) Restart() {
	b.t.Helper()
	b.output.Reset()
	b.cmd = process.Command("java", "-Xmx512m", "-XX:+UseSerialGC", "-cp", filepath.Join(b.jars, "*"), "kafka.Kafka", b.settings())
	b.cmd.Stdout, b.cmd.Stderr = &b.output, &b.output
	if err := b.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr))
	if err != nil {
		b.t.Fatal(err)
	}
	defer cl.Close()
	t := b.t
	defer func() {
		if t.Failed() {
			t.Logf("the broker said:\n%s", b.output.String())
		}
	}()
	proctest.Until(t, patience, "the broker to answer", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return cl.Ping(ctx) == nil
	})
}

// Kill ends the broker at once, as kill -9 does.
func (b *Broker) Kill() {
	if b.cmd != nil {
		_ = b.cmd.Process.Kill()
		_ = b.cmd.Wait()
		b.cmd = nil
	}
}
