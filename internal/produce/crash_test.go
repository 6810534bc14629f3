package produce

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidemill/tidemill/internal/broker"
	"github.com/tidemill/tidemill/internal/source/nats"
)

// A child process of the test produces until it is killed; these say so.
const (
	childDir  = "TIDEMILL_TEST_PRODUCE_DIR"
	childFile = "TIDEMILL_TEST_PRODUCE_FILE"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := child(dir, os.Getenv(childFile)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// run produces file into the store in dir and reports each append on standard output.
func run(ctx context.Context, dir, file string, progress func(Progress)) (Result, error) {
	b, err := broker.Start(broker.Config{Dir: dir})
	if err != nil {
		return Result{}, err
	}
	defer b.Close()
	nc, err := b.Conn(ctx)
	if err != nil {
		return Result{}, err
	}
	s, err := nats.New(nc, nats.Config{})
	if err != nil {
		return Result{}, err
	}
	defer s.Close()
	return Run(ctx, s, Config{Topic: "t", Files: []string{file}, Partitions: 2, BatchRows: 10, Progress: progress})
}

func child(dir, file string) error {
	_, err := run(context.Background(), dir, file, func(p Progress) { fmt.Println(p.Rows, p.Skipped) })
	return err
}

// TestKilled kills the producer and its broker again and again, mid-append, and runs it
// again on what they left on disk.
func TestKilled(t *testing.T) {
	const rows, kills = 3000, 4
	dir := filepath.Join(t.TempDir(), "store")
	path := write(t, "a.csv", numbered(rows))
	for kill := range kills {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), childDir+"="+dir, childFile+"="+path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; n < 10+7*kill && lines.Scan(); n++ {
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	res, err := run(ctx, dir, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.Rows+res.Skipped != rows || res.Skipped == 0 {
		t.Errorf("%+v", res)
	}
	b, err := broker.Start(broker.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	nc, err := b.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s, err := nats.New(nc, nats.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	once(t, ids(t, s, "t"), rows)
}
