// Command mutants proves that the simulator notices what it is there for: it builds each of a
// table of deliberately broken variants of the product, by small exact replacements in its
// source that never touch the tree (go build -overlay), and lets random schedules run on it.
//
//	go run ./internal/sim/mutants            all
//	go run ./internal/sim/mutants -quick     the three that CI proves
//	go run ./internal/sim/mutants -run fence those whose name says so
//
// It exits 1 when a variant survives its schedules, or when a replacement no longer fits.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout)) }

func run(args []string, out io.Writer) int {
	f := flag.NewFlagSet("mutants", flag.ContinueOnError)
	n := f.Int("schedules", 100, "schedules within which a variant has to be caught")
	few := f.Bool("quick", false, "prove three variants only")
	name := f.String("run", "", "prove the variants whose name contains this")
	if f.Parse(args) != nil {
		return 2
	}
	root, err := moduleRoot()
	if err != nil {
		fmt.Fprintln(out, err)
		return 1
	}
	tmp, err := os.MkdirTemp("", "mutants")
	if err != nil {
		fmt.Fprintln(out, err)
		return 1
	}
	defer os.RemoveAll(tmp)
	survived, tried := 0, 0
	for _, m := range mutants {
		if !strings.Contains(m.name, *name) || *few && !slices.Contains(quick, m.name) {
			continue
		}
		tried++
		how, err := prove(root, tmp, m, *n)
		switch {
		case err != nil:
			survived++
			fmt.Fprintf(out, "ERROR    %-36s %v\n", m.name, err)
		case how == "":
			survived++
			fmt.Fprintf(out, "SURVIVED %-36s %d schedules\n", m.name, *n)
		default:
			fmt.Fprintf(out, "caught   %-36s %s\n", m.name, how)
		}
	}
	fmt.Fprintf(out, "%d of %d broken variants were caught\n", tried-survived, tried)
	if survived > 0 || tried == 0 {
		return 1
	}
	return 0
}

// prove builds a variant and lets it run; it returns how it was caught, or "".
func prove(root, tmp string, m mutant, n int) (string, error) {
	sources, err := m.sources(root)
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	for i, file := range sortedFiles(sources) {
		path := filepath.Join(tmp, fmt.Sprintf("%d.go", i))
		if err := os.WriteFile(path, []byte(sources[file]), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(root, filepath.FromSlash(file))] = path
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	list, bin := filepath.Join(tmp, "overlay.json"), filepath.Join(tmp, "schedules.exe")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-overlay", list, "-o", bin, "./internal/sim/schedules")
	how := append([]string{"-n", fmt.Sprint(n)}, m.args...)
	if m.roles {
		build = exec.Command("go", "test", "-c", "-overlay", list, "-o", bin, "./internal/sim/roles")
		how = []string{"-schedules", fmt.Sprint((n + 2) / 3), "-test.timeout", "5m"} // at each of three stalenesses
	}
	build.Dir = root
	if told, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("it does not build: %w\n%s", err, told)
	}
	told, err := exec.Command(bin, how...).CombinedOutput()
	var exit *exec.ExitError
	if err == nil {
		return "", nil
	}
	if !errors.As(err, &exit) {
		return "", err
	}
	text := string(told)
	if rest, ok := strings.CutPrefix(text, "--- FAIL"); ok { // of a test: what failed is on the next line
		_, text, _ = strings.Cut(rest, "\n")
	}
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	if r := []rune(line); len(r) > 160 {
		line = string(r[:160]) + "…"
	}
	return line, nil
}

// sources returns the changed files of a variant, by their path in the module.
func (m mutant) sources(root string) (map[string]string, error) {
	out := map[string]string{}
	for _, e := range m.edits {
		text, ok := out[e.file]
		if !ok {
			data, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(e.file)))
			if err != nil {
				return nil, err
			}
			text = string(data)
		}
		if k := strings.Count(text, e.old); k != 1 {
			return nil, fmt.Errorf("in %s this occurs %d times, and has to be there exactly once; mend the table:\n%s", e.file, k, e.old)
		}
		out[e.file] = strings.Replace(text, e.old, e.new, 1)
	}
	return out, nil
}

func sortedFiles(m map[string]string) []string {
	var out []string
	for f := range m {
		out = append(out, f)
	}
	slices.Sort(out)
	return out
}

// moduleRoot returns the folder of the module's go.mod.
func moduleRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	mod := strings.TrimSpace(string(out))
	if mod == "" || mod == os.DevNull {
		return "", errors.New("run it inside the module")
	}
	return filepath.Dir(mod), nil
}
