// Command setup prepares a build of the TensorFlow engine: it finds libtensorflow, or fetches the
// wheel that has it, builds the shim between it and the Go binding, checks that both fit, and
// writes the settings that the go command needs to a file, whose name it prints:
//
//	set -a; . "$(go run ./internal/engine/tensorflow/setup)"; go build -tags tensorflow ./cmd/tidemill
//
// LIBTENSORFLOW names a folder with the libraries (of a GPU wheel, or of one's own build); without
// it they come from the tensorflow-cpu wheel, by pip as it is configured, into the user's cache.
// TIDEMILL_CACHE is another place for that. Needs cc, ar and, to fetch, Python with pip.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "tensorflow:", err)
		os.Exit(1)
	}
}

// binding is the module whose headers the engine is compiled with.
const binding = "github.com/tensorflow/tensorflow"

// oldest is the first minor version of TensorFlow 2 whose C API and tensor layout fit.
const oldest = 4

type setup struct {
	cache string
}

func run() error {
	s := &setup{cache: os.Getenv("TIDEMILL_CACHE")}
	if s.cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return fmt.Errorf("%w: name a folder with TIDEMILL_CACHE", err)
		}
		s.cache = filepath.Join(dir, "tidemill", "tensorflow")
	}
	lib, err := s.library()
	if err != nil {
		return err
	}
	began := time.Now()
	dir := filepath.Join(s.cache, "shim")
	if os.Getenv("LIBTENSORFLOW") != "" {
		dir = filepath.Join(s.cache, "shim-own")
	}
	version, err := s.buildShim(dir, lib)
	if err != nil {
		return err
	}
	if err := fits(version); err != nil {
		return err
	}
	s.took("build and check the shim", began)
	headers, err := s.command("go", "mod", "download", "-json", binding)
	if err != nil {
		return err
	}
	include, err := field(headers, "Dir")
	if err != nil {
		return err
	}
	env := filepath.Join(dir, "env")
	text := fmt.Sprintf("# TensorFlow %s\nCGO_ENABLED=1\nCGO_CFLAGS='-O2 -g \"-I%s\"'\nCGO_LDFLAGS='\"-L%s\" -ltensorflow -ldl'\n", version, include, dir)
	if err := os.WriteFile(env, []byte(text), 0o644); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "tensorflow: version %s\n", version)
	fmt.Println(env)
	return nil
}

// fits refuses a version of the library that the engine cannot run on.
func fits(version string) error {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) >= 2 && parts[0] == "2" {
		if minor, err := strconv.Atoi(parts[1]); err == nil && minor >= oldest {
			return nil
		}
	}
	return fmt.Errorf("the library is TensorFlow %s; the engine needs 2.%d or a later 2: leave LIBTENSORFLOW out, or give another", version, oldest)
}

// field returns a text field of a JSON object that the go command printed, one field a line.
func field(text, name string) (string, error) {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), strconv.Quote(name)+": "); ok {
			return strconv.Unquote(strings.TrimSuffix(v, ","))
		}
	}
	return "", fmt.Errorf("go mod download says no %s", name)
}

// command runs a program and returns its standard output. The error has what it wrote to the
// standard error.
func (s *setup) command(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		if text := strings.TrimSpace(problems.String()); text != "" {
			err = errors.New(text)
		}
		return "", fmt.Errorf("%s: %w", filepath.Base(name), err)
	}
	return out.String(), nil
}

func (s *setup) took(what string, began time.Time) {
	fmt.Fprintf(os.Stderr, "tensorflow: %s: %.1f s\n", what, time.Since(began).Seconds())
}
