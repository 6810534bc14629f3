// Command fuzz runs every fuzz target of the module for a while, one after the other, and prints
// a table of what came of it.
//
//	go run ./internal/fuzz                           all, 60 s each
//	go run ./internal/fuzz -time 10s -parallel 1     shorter, on one core
//	go run ./internal/fuzz -run 'FuzzPull|FuzzPush'  those whose name matches
//	go run ./internal/fuzz -skip FuzzLayers ./ps     those of some packages, but for some
//
// An input that fails stays in testdata/fuzz of its package, where every later go test tries it
// again. Exit status: 0 all clean, 1 a target failed or could not run, 2 wrong flags.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strings"
	"time"
)

func main() { os.Exit(run(context.Background(), os.Args[1:], os.Stdout)) }

// grace is what building a target, its corpus and its last input may take beyond its time.
const grace = 10 * time.Minute

func run(ctx context.Context, args []string, out io.Writer) int {
	f := flag.NewFlagSet("fuzz", flag.ContinueOnError)
	f.SetOutput(out)
	d := f.Duration("time", time.Minute, "how long each target runs")
	parallel := f.Int("parallel", 0, "how many inputs are tried at a time; 0: one per core")
	only := f.String("run", "", "run the targets whose name matches this regular expression")
	skip := f.String("skip", "", "leave out the targets whose name matches this regular expression")
	list := f.Bool("list", false, "name the targets and end")
	if err := f.Parse(args); err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	want, err := selection(*only, *skip)
	if err != nil || *d <= 0 || *parallel < 0 {
		fmt.Fprintln(out, "fuzz: -run and -skip are regular expressions, -time is positive, -parallel not negative:", err)
		return 2
	}
	all, err := targets(ctx, f.Args())
	if err != nil {
		fmt.Fprintln(out, "fuzz:", err)
		return 1
	}
	tried, bad := 0, 0
	for _, t := range all {
		if !want(t.name) {
			continue
		}
		tried++
		if *list {
			fmt.Fprintf(out, "%-24s %s\n", t.name, t.pkg)
			continue
		}
		r := t.fuzz(ctx, *d, *parallel)
		if ctx.Err() != nil {
			fmt.Fprintln(out, "interrupted")
			return 1
		}
		fmt.Fprintf(out, "%-6s %-24s %-36s %12s tried %6s interesting %6.0f s\n", r.verdict(), t.name, t.pkg, r.tried, r.interesting, r.took.Seconds())
		if r.failed {
			bad++
			fmt.Fprintln(out, indent(r.told))
		}
	}
	if tried == 0 {
		fmt.Fprintln(out, "fuzz: no target is called that")
		return 1
	}
	if !*list {
		fmt.Fprintf(out, "%d of %d fuzz targets ran %v clean\n", tried-bad, tried, *d)
	}
	if bad > 0 {
		return 1
	}
	return 0
}

// selection returns whether a target of a name is asked for.
func selection(only, skip string) (func(name string) bool, error) {
	yes, err := regexp.Compile(only)
	if err != nil {
		return nil, err
	}
	no, err := regexp.Compile(skip)
	if err != nil {
		return nil, err
	}
	return func(name string) bool { return yes.MatchString(name) && (skip == "" || !no.MatchString(name)) }, nil
}

// target is one fuzz function of one package.
type target struct{ pkg, name string }

// targets lists the fuzz functions of packages, of the whole module where none is named. Only
// the tests of packages whose source speaks of testing.F are built.
func targets(ctx context.Context, packages []string) ([]target, error) {
	if len(packages) == 0 {
		packages = []string{"./..."}
	}
	files := `{{$d := .Dir}}{{range .TestGoFiles}}{{$.ImportPath}} {{$d}}/{{.}}{{"\n"}}{{end}}{{range .XTestGoFiles}}{{$.ImportPath}} {{$d}}/{{.}}{{"\n"}}{{end}}`
	told, err := goTool(ctx, append([]string{"list", "-f", files}, packages...)...)
	if err != nil {
		return nil, err
	}
	var with []string
	for line := range strings.Lines(told) {
		pkg, file, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || len(with) > 0 && with[len(with)-1] == pkg {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if bytes.Contains(text, []byte("*testing.F")) {
			with = append(with, pkg)
		}
	}
	var all []target
	for _, pkg := range with {
		told, err := goTool(ctx, "test", "-list", "^Fuzz", pkg)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(told) {
			if name := strings.TrimSpace(line); strings.HasPrefix(name, "Fuzz") {
				all = append(all, target{pkg, name})
			}
		}
	}
	return all, nil
}

// goTool runs the go command and returns what it says on its standard output.
func goTool(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	var told bytes.Buffer
	cmd.Stderr = &told
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", args[0], err, indent(told.String()+string(out)))
	}
	return string(out), nil
}

// result is what came of one target.
type result struct {
	tried, interesting string // inputs, as go test counts them
	failed             bool
	told               string
	took               time.Duration
}

func (r result) verdict() string {
	if r.failed {
		return "FAILED"
	}
	return "clean"
}

// fuzz runs t for d.
func (t target) fuzz(ctx context.Context, d time.Duration, parallel int) result {
	began := time.Now()
	args := []string{"test", "-run", "^$", "-fuzz", "^" + t.name + "$", "-fuzztime", d.String()}
	if parallel > 0 {
		args = append(args, fmt.Sprintf("-parallel=%d", parallel))
	}
	ctx, cancel := context.WithTimeout(ctx, d+grace)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", append(args, t.pkg)...)
	// An interrupt lets go test end its workers; after a kill they would go on.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	told, err := cmd.CombinedOutput()
	r := read(string(told), err)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		r.failed, r.told = true, fmt.Sprintf("it did not end within %v after its time\n%s", grace, r.told)
	}
	r.took = time.Since(began)
	return r
}

var counted = regexp.MustCompile(`execs: (\d+) .*new interesting: (\d+)`)

// read finds out from what go test said, and how it ended, what came of a target. When the time
// is up, go test may report just that as the failure of an input that was under way; it has no
// failing input to show then, and there is none.
func read(told string, err error) result {
	r := result{tried: "0", interesting: "0", told: told}
	for _, m := range counted.FindAllStringSubmatch(told, -1) {
		r.tried, r.interesting = m[1], m[2]
	}
	late := strings.Contains(told, "context deadline exceeded") && !strings.Contains(told, "Failing input written") && !strings.Contains(told, "panic:")
	r.failed = err != nil && !late || strings.Contains(told, "no fuzz tests to fuzz")
	return r
}

func indent(s string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n    ")
}
