package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tidemill/tidemill/examples"
	"github.com/tidemill/tidemill/internal/node"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tidemill": main})
}

// TestScript runs the scripts of testdata/script against the program, each in a folder of its
// own with elec2.csv (3000 rows), power.yaml and ratings.graph in it.
//
// Beside the usual commands there are
//
//	code N tidemill …      run and compare the exit code
//	node DIR [flags…]      start a node, wait until it is ready, set $RPC, $GRPC, $HTTP, $GOSSIP
//	stop DIR               SIGTERM, and it must end with code 0
//	field FILE a.b name    the value of a member of a JSON object in FILE becomes $name
//	flip FILE-PATTERN      change one byte in the middle of the only file that matches
func TestScript(t *testing.T) {
	csv, job := workload(t)
	graph, err := os.ReadFile("../../internal/graphfile/testdata/ratings.graph")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("TIDEMILL_DATA_DIR", filepath.Join(e.WorkDir, "data"))
			e.Values[nodesKey] = map[string]*process{}
			if err := os.WriteFile(filepath.Join(e.WorkDir, "elec2.csv"), csv, 0o644); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(e.WorkDir, "ratings.graph"), graph, 0o644); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(e.WorkDir, "power.yaml"), job, 0o644)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code": code, "node": startNode, "stop": stopNode, "field": field, "flip": flip,
		},
	})
}

// workload returns the beginning of the power demo's rows, and its job.
func workload(t *testing.T) (csv, job []byte) {
	t.Helper()
	f, err := examples.FS.Open("power/elec2.csv.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfterN(all, []byte("\n"), 3002)
	job, err = examples.FS.ReadFile("power/job.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Join(lines[:3001], nil), job
}

func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N program args…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

type nodesKeyType struct{}

var nodesKey nodesKeyType

// process is a node that a script started.
type process struct {
	cmd  *exec.Cmd
	out  *bufio.Reader
	log  *bytes.Buffer
	done bool
}

func startNode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: node DIR [flags…]")
	}
	dir := ts.MkAbs(args[0])
	cmd := exec.Command("tidemill", append([]string{"start", "--json", "--data-dir", dir, "--listen", ":0"}, args[1:]...)...)
	cmd.Dir = ts.Getenv("WORK")
	log := &bytes.Buffer{}
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	p := &process{cmd: cmd, out: bufio.NewReader(out), log: log}
	ts.Value(nodesKey).(map[string]*process)[args[0]] = p
	ts.Defer(func() {
		if !p.done {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		err = cmd.Wait()
		p.done = true
		ts.Fatalf("the node did not start: %v\n%s", err, log)
	}
	var info node.Info
	ts.Check(json.Unmarshal(line, &info))
	ts.Setenv("RPC", info.RPC)
	ts.Setenv("GRPC", info.GRPC)
	ts.Setenv("HTTP", info.HTTP)
	ts.Setenv("GOSSIP", info.Gossip)
}

func stopNode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: stop DIR")
	}
	p := ts.Value(nodesKey).(map[string]*process)[args[0]]
	if p == nil {
		ts.Fatalf("no node runs in %s", args[0])
	}
	ts.Check(p.cmd.Process.Signal(syscall.SIGTERM))
	_, _ = io.Copy(io.Discard, p.out)
	err := p.cmd.Wait()
	p.done = true
	if err != nil {
		ts.Fatalf("the node ended with %v\n%s", err, p.log)
	}
}

func field(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: field FILE a.b name")
	}
	var v any
	ts.Check(json.NewDecoder(strings.NewReader(ts.ReadFile(args[0]))).Decode(&v))
	for _, name := range strings.Split(args[1], ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[name]
		case []any:
			i, err := strconv.Atoi(name)
			ts.Check(err)
			v = x[i]
		}
	}
	if v == nil {
		ts.Fatalf("%s has no %s", args[0], args[1])
	}
	ts.Setenv(args[2], fmt.Sprint(v))
}

func flip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: flip FILE-PATTERN")
	}
	files, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(files) != 1 {
		ts.Fatalf("%d files match %s", len(files), args[0])
	}
	data, err := os.ReadFile(files[0])
	ts.Check(err)
	data[len(data)/2] ^= 1
	ts.Check(os.WriteFile(files[0], data, 0o644))
}
