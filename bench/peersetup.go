package bench

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/bench/peers"
)

// environment is a Python environment with the peers' packages, and their scripts unpacked.
type environment struct {
	python  string // of the environment
	scripts string // folder
	// missing says why what a lock file names is not there, by the lock file.
	missing map[string]error
}

// pythons are the versions of Python that the lock files have wheels for.
var pythons = []string{"3.11", "3.12", "3.13"}

// setUp makes the environment in venv, unless it is there, by the Python given ("": the first of
// python3 and python3.N that fits), and installs what the lock files name into it by pip as it
// is configured here. A lock file that cannot be installed is in missing. scripts gets the scripts.
func setUp(ctx context.Context, venv, python, scripts string, locks []string, say func(string)) (*environment, error) {
	if err := os.MkdirAll(scripts, 0o755); err != nil {
		return nil, fmt.Errorf("the peers' scripts cannot be written: %w", err)
	}
	if err := peers.Unpack(scripts); err != nil {
		return nil, err
	}
	e := &environment{python: filepath.Join(venv, "bin", "python"), scripts: scripts, missing: map[string]error{}}
	if _, err := os.Stat(e.python); err != nil {
		if err := makeVenv(ctx, venv, python, say); err != nil {
			return nil, err
		}
	}
	for _, lock := range locks {
		if err := e.install(ctx, venv, lock, say); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			e.missing[lock] = err
			say(err.Error())
		}
	}
	return e, nil
}

// makeVenv makes the environment.
func makeVenv(ctx context.Context, venv, python string, say func(string)) error {
	candidates := []string{python}
	if python == "" {
		candidates = []string{"python3"}
		for _, v := range pythons {
			candidates = append(candidates, "python"+v)
		}
	}
	var found []string
	for _, c := range candidates {
		out, err := exec.CommandContext(ctx, c, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").Output()
		if err != nil {
			continue
		}
		v := strings.TrimSpace(string(out))
		found = append(found, v)
		for _, fits := range pythons {
			if v == fits {
				say(fmt.Sprintf("makes a Python %s environment for the peers", v))
				return command(ctx, "making the environment", "install Python's venv module (python3-venv on some systems)", c, "-m", "venv", venv)
			}
		}
	}
	need := "install Python " + strings.Join(pythons, ", ") + ", or name one with --python"
	if len(found) == 0 {
		return tidemill.Invalid("no Python was found", need)
	}
	return tidemill.Invalid("the Python here is %s, and the peers' packages are pinned for others", need, strings.Join(found, ", "))
}

// install installs what a lock file names, unless it did before.
func (e *environment) install(ctx context.Context, venv, lock string, say func(string)) error {
	data, err := peers.Lock(lock + ".lock")
	if err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	done := filepath.Join(venv, "tidemill-"+lock+"-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(done); err == nil {
		return nil
	}
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return tidemill.Invalid("the packages of %s are pinned for Linux on x86-64, and this is %s on %s", "run lock.py of bench/peers on this system", lock, runtime.GOOS, runtime.GOARCH)
	}
	size := ""
	if lock == "torch" {
		size = "; with the CUDA packages that it links about 2.5 GB to fetch and 5 GB on disk"
	}
	say("installs " + lock + " by pip" + size)
	err = command(ctx, "pip could not install "+lock, "see that pip reaches its index and that there is room on disk, then run this again; pip's own configuration says where packages come from",
		e.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir", "--only-binary=:all:", "--require-hashes", "-r", filepath.Join(e.scripts, lock+".lock"))
	if err != nil {
		return err
	}
	return os.WriteFile(done, nil, 0o644)
}

// command runs a program to its end. Its failure has the last line of what it said.
func command(ctx context.Context, what, remedy, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	last := lastLine(string(out))
	if last == "" {
		last = err.Error()
	}
	return tidemill.Invalid("%s: %s", remedy, what, last)
}
