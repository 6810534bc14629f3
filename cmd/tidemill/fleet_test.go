package main_test

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/faultnet"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/process"
	"github.com/tidemill/tidemill/internal/proctest"
	"github.com/tidemill/tidemill/internal/rpc"
	"github.com/tidemill/tidemill/trainer"
)

// patience bounds waiting for anything; no test decides anything by it.
const patience = 3 * time.Minute

// fleet is a cluster of processes on this machine, each with a data directory of its own.
type fleet struct {
	t     *testing.T
	bin   *proctest.Binary
	dir   string
	net   *proctest.Network // between the nodes; nil when they dial each other directly
	nodes map[string]*member
	ports map[string]*ports   // by node; with a network
	names []string            // in the order of their first start
	seat  string              // node that commands talk to
	certs string              // directory of certificates; "" for plain text
	flags map[string][]string // more of them, by node
}

// member is one process of a fleet.
type member struct {
	*proctest.Process
	name  string
	roles []string
	info  node.Info
	rpc   string // where this test reaches it, also when it is cut off
}

// ports of a node whose traffic goes through the network.
type ports struct{ rpc, gossip, stream faultnet.Port }

func newFleet(t *testing.T, bin *proctest.Binary) *fleet {
	return &fleet{t: t, bin: bin, dir: t.TempDir(), nodes: map[string]*member{}, ports: map[string]*ports{}}
}

// start runs a node, on the data directory that it had before if there is one, and waits until
// it is ready. All but the first join the node named stream.
func (f *fleet) start(name string, roles ...string) *member {
	f.t.Helper()
	m := f.launch(name, roles...)
	f.ready(m)
	return m
}

// launch is start without waiting.
func (f *fleet) launch(name string, roles ...string) *member {
	f.t.Helper()
	args := []string{"start", "--json", "--data-dir", f.dataDir(name), "--listen", "127.0.0.1:0"}
	if len(roles) > 0 {
		args = append(args, "--role", strings.Join(roles, ","))
	}
	if first, ok := f.nodes["stream"]; ok && name != "stream" {
		args = append(args, "--join", first.info.Gossip)
	}
	if f.certs != "" {
		of := rpc.NodeCert
		if len(roles) == 1 {
			of = roles[0]
		}
		args = append(append(args, f.shows(of)...), "--gossip-key", filepath.Join(f.certs, "gossip.key"))
	}
	args = append(args, f.flags[name]...)
	m := &member{name: name, roles: roles}
	if f.net != nil {
		p := f.ports[name]
		if p == nil {
			p = &ports{rpc: f.net.Listen(f.t, name, false), gossip: f.net.Listen(f.t, name, true)}
			if name == "stream" {
				p.stream = f.net.Listen(f.t, name, false)
			}
			f.ports[name] = p
		}
		m.rpc = p.rpc.Inside
		args = append(args, "--rpc", p.rpc.Inside, "--advertise-rpc", p.rpc.Outside, "--gossip", p.gossip.Inside, "--advertise", p.gossip.Outside)
		if name == "stream" {
			args = append(args, "--stream-listen", p.stream.Inside, "--advertise-stream", p.stream.Outside)
		}
	}
	m.Process = f.bin.Start(f.t, name, args...)
	if f.net != nil {
		f.net.Host(name, m.PID())
	}
	if f.nodes[name] == nil {
		f.names = append(f.names, name)
	}
	f.nodes[name] = m
	if f.seat == "" {
		f.seat = name
	}
	return m
}

func (f *fleet) ready(m *member) {
	f.t.Helper()
	m.Ready(&m.info, patience)
	if m.rpc == "" {
		m.rpc = m.info.RPC
	}
}

func (f *fleet) dataDir(name string) string { return filepath.Join(f.dir, name) }

// streamURL is where this test reaches the stream.
func (f *fleet) streamURL() string {
	if p := f.ports["stream"]; p != nil {
		return "nats://" + p.stream.Inside
	}
	return f.nodes["stream"].info.Stream
}

// ask runs a command and decodes what it prints into v, unless that is nil.
func (f *fleet) ask(v any, args ...string) error {
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	args = append(args, "--json")
	if f.certs != "" && !slices.Contains(args, "--tls-cert") {
		args = append(args, f.shows(rpc.RoleAdmin)...)
	}
	out, err := f.bin.Run(ctx, args...)
	if err == nil && v != nil {
		err = json.Unmarshal(out, v)
	}
	return err
}

// produce fills a topic.
func (f *fleet) produce(topic, file string, partitions int) {
	f.t.Helper()
	if err := f.ask(nil, "produce", topic, file, "--partitions", fmt.Sprint(partitions), "--stream-url", f.streamURL()); err != nil {
		f.t.Fatal(err)
	}
}

// submit starts a job of the power example, changed as edits say: pairs of old and new text.
func (f *fleet) submit(model, topic string, untilEnd bool, edits ...string) {
	f.t.Helper()
	file := filepath.Join(f.t.TempDir(), "job.yaml")
	text := powerJob(f.t, append([]string{"model: power", "model: " + model, "topic: power", "topic: " + topic}, edits...)...)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
	args := []string{"submit", file, "--server", f.nodes[f.seat].rpc}
	if untilEnd {
		args = append(args, "--until-end")
	}
	if err := f.ask(nil, args...); err != nil {
		f.t.Fatal(err)
	}
}

// job asks how a job stands.
func (f *fleet) job(name string) (trainer.JobStatus, error) {
	var st trainer.JobStatus
	err := f.ask(&st, "job", name, "--server", f.nodes[f.seat].rpc)
	return st, err
}

// wait waits until a job is as the flags of `job NAME wait` say, also while the cluster has no
// leader, and returns how it stands then.
func (f *fleet) wait(name string, flags ...string) trainer.JobStatus {
	f.t.Helper()
	var st trainer.JobStatus
	var err error
	before := time.Now()
	late := func() bool { return time.Since(before) > patience }
	proctest.Until(f.t, 2*patience, "an answer about job "+name, func() bool {
		args := append([]string{"job", name, "wait", "--timeout", "1m", "--server", f.nodes[f.seat].rpc}, flags...)
		if err = f.ask(&st, args...); err == nil {
			return true
		}
		now, jerr := f.job(name)
		over := jerr == nil && (now.State == tidemill.JobFailed || now.State == tidemill.JobCancelled)
		if over || late() {
			f.t.Fatalf("job %s is %s (%s), %d examples, generation %d, shards %v: %v", name, now.State, now.Reason, now.Examples, now.Generation, now.Shards, err)
		}
		return false
	})
	return st
}

func (f *fleet) finished(name string) trainer.JobStatus {
	f.t.Helper()
	return f.wait(name, "--state", tidemill.JobFinished)
}

func (f *fleet) trained(name string, examples int) trainer.JobStatus {
	f.t.Helper()
	return f.wait(name, "--examples", fmt.Sprint(examples))
}

// metrics reads a node's metrics; nil when it does not answer.
func (f *fleet) metrics(name string) proctest.Metrics {
	ctx, cancel := context.WithTimeout(f.t.Context(), 10*time.Second)
	defer cancel()
	m, err := f.scrape(ctx, name)
	if err != nil {
		return nil
	}
	return m
}

func (f *fleet) scrape(ctx context.Context, name string) (proctest.Metrics, error) {
	if f.certs == "" {
		return proctest.Scrape(ctx, "http://"+f.nodes[name].info.HTTP+"/metrics")
	}
	config, err := f.security(rpc.RoleClient).ClientTLS()
	if err != nil {
		return nil, err
	}
	cfg, err := config()
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}}
	return process.ScrapeBy(ctx, client, "https://"+f.nodes[name].info.HTTP+"/metrics")
}

func (f *fleet) security(name string) rpc.Security {
	file := func(s string) string { return filepath.Join(f.certs, s) }
	return rpc.Security{Cert: file(name + ".pem"), Key: file(name + "-key.pem"), CA: file("ca.pem")}
}

// shows are the flags of a certificate.
func (f *fleet) shows(name string) []string {
	s := f.security(name)
	return []string{"--tls-cert", s.Cert, "--tls-key", s.Key, "--tls-ca", s.CA}
}

// watchShards notes, until stopped, the most shards of a job that the metrics of each ps show;
// a ps lets go of a job that is over.
func (f *fleet) watchShards(job string, ps ...string) (stop func() map[string]float64) {
	f.t.Helper()
	most := map[string]float64{}
	urls := map[string]string{}
	for _, name := range ps {
		urls[name] = "http://" + f.nodes[name].info.HTTP + "/metrics"
	}
	ctx, cancel := context.WithCancel(f.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			for name, url := range urls {
				if m, err := proctest.Scrape(ctx, url); err == nil {
					n := m.Sum("tidemill_ps_shards", fmt.Sprintf("job=%q", job))
					most[name] = max(most[name], n)
				}
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() map[string]float64 {
		cancel()
		<-done
		return most
	}
}

// powerJob returns the power example's job with pieces of it replaced: pairs of old and new.
func powerJob(t *testing.T, edits ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "examples", "power", "job.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	for i := 0; i < len(edits); i += 2 {
		if strings.Count(text, edits[i]) != 1 {
			t.Fatalf("the power job does not have one %q", edits[i])
		}
		text = strings.Replace(text, edits[i], edits[i+1], 1)
	}
	return text
}

// powerRows writes rows [from, to) of the power example's data to a file and returns its name
// and how many rows there are.
func powerRows(t *testing.T, from, to int) (file string, rows int) {
	t.Helper()
	in, err := os.Open(filepath.Join("..", "..", "examples", "power", "elec2.csv.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), fmt.Sprintf("elec2-%d.csv", from))
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	w := bufio.NewWriter(out)
	lines := bufio.NewScanner(z)
	for i := -1; i < to && lines.Scan(); i++ {
		if i >= 0 && i < from {
			continue
		}
		if i >= 0 {
			rows++
		}
		fmt.Fprintln(w, lines.Text())
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return file, rows
}

// everything is more rows than the power example has.
const everything = 1 << 30

// full reports whether an environment variable asks for a test's full setting.
func full(name, value string) bool { return os.Getenv(name) == value }
