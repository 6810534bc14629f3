package main

import (
	"archive/zip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"time"
)

// release is the TensorFlow that is fetched, and the one that the tests are run with.
const release = "2.21.0"

// A platform's wheel: pip's name of the platform, and the file's sum.
var wheels = map[string]struct{ platform, sum string }{
	"linux/amd64": {"manylinux_2_27_x86_64", "2b847d217b02ee7731ed91431daf3250daa0196c3c94614d23be27232e6e5b6c"},
	"linux/arm64": {"manylinux_2_27_aarch64", ""}, // no sum noted: pip alone checks it
}

// libraries are what is taken out of the wheel.
var libraries = []string{"libtensorflow_cc.so.2", "libtensorflow_framework.so.2"}

// library returns the folder with TensorFlow's libraries: LIBTENSORFLOW, or the one in the cache,
// filled from the wheel of the project's release where it is empty.
func (s *setup) library() (string, error) {
	if dir := os.Getenv("LIBTENSORFLOW"); dir != "" {
		return filepath.Abs(dir)
	}
	dir := filepath.Join(s.cache, release, "lib")
	if complete(dir) {
		return dir, nil
	}
	w, ok := wheels[runtime.GOOS+"/"+runtime.GOARCH]
	if !ok {
		return "", fmt.Errorf("there is no wheel for %s/%s: give the folder of libtensorflow_cc.so.2 with LIBTENSORFLOW", runtime.GOOS, runtime.GOARCH)
	}
	// In a folder of its own, so that what is interrupted is not taken for whole.
	if err := os.MkdirAll(s.cache, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(s.cache, "fetch-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	file, err := s.fetch(tmp, w.platform, w.sum)
	if err != nil {
		return "", err
	}
	began := time.Now()
	if err := unpack(file, filepath.Join(tmp, "lib")); err != nil {
		return "", fmt.Errorf("unpack %s: %w", filepath.Base(file), err)
	}
	s.took("unpack", began)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	if err := os.Rename(filepath.Join(tmp, "lib"), dir); err != nil && !complete(dir) {
		return "", err
	}
	return dir, nil
}

func complete(dir string) bool {
	return !slices.ContainsFunc(libraries, func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return err != nil
	})
}

// fetch downloads the wheel by pip, as it is configured, and checks its sum.
func (s *setup) fetch(dir, platform, sum string) (string, error) {
	began := time.Now()
	python := os.Getenv("TIDEMILL_PYTHON")
	if python == "" {
		python = "python3"
	}
	// Of any Python's wheels: only the libraries are wanted, and they are the same.
	if _, err := s.command(python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:",
		"--implementation", "cp", "--python-version", "311", "--abi", "cp311", "--platform", platform,
		"--dest", dir, "tensorflow-cpu=="+release); err != nil {
		return "", fmt.Errorf("fetch tensorflow-cpu %s: %w (pip is needed; or give the folder of libtensorflow_cc.so.2 with LIBTENSORFLOW)", release, err)
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.whl"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("pip left %d wheels instead of one", len(found))
	}
	s.took("fetch", began)
	if sum == "" {
		return found[0], nil
	}
	f, err := os.Open(found[0])
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sum {
		return "", fmt.Errorf("%s has sha256 %s, not %s: it is not the file that the project was tested with", filepath.Base(found[0]), got, sum)
	}
	return found[0], nil
}

// unpack writes the libraries in a wheel to dir.
func unpack(wheel, dir string) error {
	z, err := zip.OpenReader(wheel)
	if err != nil {
		return err
	}
	defer z.Close()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	missing := slices.Clone(libraries)
	for _, f := range z.File {
		name := path.Base(f.Name)
		if f.Name != "tensorflow/"+name || !slices.Contains(libraries, name) {
			continue
		}
		if err := extract(f, filepath.Join(dir, name)); err != nil {
			return err
		}
		missing = slices.DeleteFunc(missing, func(m string) bool { return m == name })
	}
	if len(missing) > 0 {
		return fmt.Errorf("it lacks %v", missing)
	}
	return nil
}

func extract(f *zip.File, to string) (err error) {
	in, err := f.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}
