package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

const grpcurlModule = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3"

// missing skips the test, or fails it where clients are required.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("TIDEMILL_REQUIRE_CLIENTS") == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// toolsDir is where clients are kept between runs, under a name that says what is in it.
func toolsDir(t *testing.T, kind, content string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = t.TempDir()
	}
	sum := sha256.Sum256([]byte(content))
	return filepath.Join(cache, "tidemill-tests", kind+"-"+hex.EncodeToString(sum[:6]))
}

// install returns dir once make has filled it. It is filled under another name, so that what
// was interrupted is not taken for whole, and processes that do so at the same time agree.
func install(t *testing.T, dir string, fill func(ctx context.Context, dir string) error) error {
	t.Helper()
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if os.Getenv("TIDEMILL_REQUIRE_CLIENTS") != "1" {
		// `go test ./...` downloads nothing beside Go modules.
		return errors.New("not installed yet; TIDEMILL_REQUIRE_CLIENTS=1 installs it")
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "part-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	if err := fill(ctx, tmp); err != nil {
		return err
	}
	err = os.Rename(tmp, dir)
	if _, serr := os.Stat(dir); serr == nil {
		return nil
	}
	return err
}

// tritonPython returns a Python that has tritonclient.
func tritonPython(t *testing.T) string {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		missing(t, "python3 is not installed")
	}
	requirements := filepath.Join("testdata", "clients", "requirements.txt")
	text, err := os.ReadFile(requirements)
	if err != nil {
		t.Fatal(err)
	}
	version, err := pipe(t, nil, python, "-c", "import sys; print(sys.version, sys.prefix)")
	if err != nil {
		missing(t, "python3 does not run: %v", err)
	}
	dir := toolsDir(t, "venv", string(text)+string(version))
	err = install(t, dir, func(ctx context.Context, dir string) error {
		if err := exec.CommandContext(ctx, python, "-m", "venv", dir).Run(); err != nil {
			return fmt.Errorf("no virtual environment: %w", err)
		}
		pip := exec.CommandContext(ctx, filepath.Join(dir, "bin", "python"), "-m", "pip", "install", "--quiet", "--retries", "1", "-r", requirements)
		if out, err := pip.CombinedOutput(); err != nil {
			return fmt.Errorf("pip install: %w: %s", err, tail(out))
		}
		return nil
	})
	if err != nil {
		missing(t, "tritonclient cannot be installed: %v", err)
	}
	return filepath.Join(dir, "bin", "python")
}

// grpcurl returns the grpcurl command.
func grpcurl(t *testing.T) string {
	t.Helper()
	dir := toolsDir(t, "grpcurl", grpcurlModule+runtime.Version())
	err := install(t, dir, func(ctx context.Context, dir string) error {
		cmd := exec.CommandContext(ctx, "go", "install", grpcurlModule)
		cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go install: %w: %s", err, tail(out))
		}
		return nil
	})
	if err != nil {
		missing(t, "grpcurl cannot be installed: %v", err)
	}
	return filepath.Join(dir, "grpcurl")
}

// tail returns the last lines of a command's output.
func tail(out []byte) string {
	out = bytes.TrimSpace(out)
	return string(out[max(0, len(out)-1000):])
}

// pipe runs a command and returns what it prints; an error has what it complained of.
func pipe(t *testing.T, stdin []byte, name string, args ...string) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Env = append(os.Environ(), "NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, tail(exit.Stderr))
	}
	return out, err
}
