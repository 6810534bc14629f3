package graphfile

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/tidemill/tidemill"
)

// Limits of a file, in bytes.
const (
	MaxBytes    = 512 << 20
	maxManifest = 16 << 20
)

// Entries of the archive.
const (
	entryManifest   = "manifest.json"
	entryGraph      = "graph.pb"
	entryParameters = "parameters.bin"
)

// File is a graph file that passed every check. It is immutable; its slices are not to be
// changed.
type File struct {
	Manifest Manifest
	GraphDef []byte      // serialized, as the file has it
	Initial  [][]float32 // by Manifest.Parameters, row-major
	Hash     string      // SHA-256 of the whole file, in hexadecimal
	// Forward has an entry for each of Manifest.Inputs: whether prediction depends on it.
	Forward []bool
	// ForwardParameters is the same for Manifest.Parameters.
	ForwardParameters []bool
}

// reader checks one file; name is how its errors call it.
type reader struct{ name string }

func (r *reader) bad(remedy, what string, args ...any) error {
	return &tidemill.InputError{Place: tidemill.Place{File: r.name}, What: fmt.Sprintf(what, args...), Remedy: remedy}
}

// Decode reads a graph file and checks all of it. It keeps data. name says in errors which file
// it is; they wrap tidemill.ErrInvalid, and name the node or tensor and the remedy.
func Decode(data []byte, name string) (*File, error) {
	r := &reader{name}
	parts, err := r.entries(data)
	if err != nil {
		return nil, err
	}
	m, err := r.manifest(parts[entryManifest])
	if err != nil {
		return nil, err
	}
	if err := r.parts(m, parts); err != nil {
		return nil, err
	}
	if err := r.members(m); err != nil {
		return nil, err
	}
	g, err := r.graph(parts[entryGraph])
	if err != nil {
		return nil, err
	}
	f := &File{Manifest: *m, GraphDef: parts[entryGraph]}
	if err := r.join(f, g); err != nil {
		return nil, err
	}
	if f.Initial, err = r.initial(m, parts[entryParameters]); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	f.Hash = hex.EncodeToString(sum[:])
	return f, nil
}

// entries returns the archive's entries by name.
func (r *reader) entries(data []byte) (map[string][]byte, error) {
	const export = "make one with tidemill.keras.export(model, path)"
	if len(data) > MaxBytes {
		return nil, r.bad("use smaller dense layers", "the file has %d bytes, more than %d MiB", len(data), MaxBytes>>20)
	}
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		switch {
		case len(data) == 0:
			return nil, r.bad(export, "the file is empty")
		case bytes.HasPrefix(data, []byte("\x89HDF")):
			return nil, r.bad(export, "this is an HDF5 file of weights or an old Keras model, not a graph file")
		case bytes.HasPrefix(data, []byte("PK\x03\x04")):
			return nil, r.bad(export, "the file is cut off or damaged")
		case data[0] == 0x0a || data[0] == 0x08:
			return nil, r.bad(export, "this may be a SavedModel or a GraphDef, not a graph file")
		}
		return nil, r.bad(export, "this is no graph file")
	}
	parts := map[string][]byte{}
	var total uint64
	for _, e := range z.File {
		switch e.Name {
		case entryManifest, entryGraph, entryParameters:
		case "model.weights.h5", "config.json", "metadata.json":
			return nil, r.bad(export, "this is a .keras file, which holds layers and weights but no graph")
		case "saved_model.pb":
			return nil, r.bad(export, "this is a SavedModel, not a graph file")
		default:
			if strings.HasSuffix(e.Name, "/saved_model.pb") {
				return nil, r.bad(export, "this is a SavedModel, not a graph file")
			}
			return nil, r.bad(export, "entry %.100q of the archive does not belong to a graph file", e.Name)
		}
		if _, twice := parts[e.Name]; twice {
			return nil, r.bad(export, "entry %s stands twice in the archive", e.Name)
		}
		if e.Method != zip.Store || e.Flags&1 != 0 || e.UncompressedSize64 != e.CompressedSize64 {
			return nil, r.bad("export the model again; the archive is not to be packed again", "entry %s is compressed or encrypted", e.Name)
		}
		if total += e.UncompressedSize64; total > uint64(len(data)) || e.UncompressedSize64 > uint64(len(data)) {
			return nil, r.bad(export, "the archive's entries overlap")
		}
		if e.Name == entryManifest && e.UncompressedSize64 > maxManifest {
			return nil, r.bad(export, "manifest.json has more than %d MiB", maxManifest>>20)
		}
		if parts[e.Name], err = read(e); err != nil {
			return nil, r.bad("export the model again, or copy the file again", "entry %s is damaged: %v", e.Name, err)
		}
	}
	for _, name := range []string{entryManifest, entryGraph} {
		if _, ok := parts[name]; !ok {
			return nil, r.bad(export, "the archive has no %s", name)
		}
	}
	return parts, nil
}

// read returns an entry's content, whose checksum it compares.
func read(e *zip.File) ([]byte, error) {
	f, err := e.Open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, e.UncompressedSize64)
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, err
	}
	if _, err := f.Read(make([]byte, 1)); err != io.EOF { // the checksum is compared at the end
		if err == nil {
			err = fmt.Errorf("it is longer than it says")
		}
		return nil, err
	}
	return b, nil
}

// parts compares the other entries with what the manifest says of them.
func (r *reader) parts(m *Manifest, parts map[string][]byte) error {
	listed := map[string]bool{}
	for _, p := range m.Parts {
		b, ok := parts[p.Name]
		if !ok || p.Name == entryManifest || listed[p.Name] {
			return r.bad("export the model again", "the manifest lists a part %.100q that is missing, or lists it twice", p.Name)
		}
		listed[p.Name] = true
		sum := sha256.Sum256(b)
		if got := hex.EncodeToString(sum[:]); got != p.SHA256 || int64(len(b)) != p.Bytes {
			return r.bad("the file was changed after its export: export the model again", "part %s has SHA-256 %s and %d bytes, and the manifest says %.64s and %d", p.Name, got, len(b), p.SHA256, p.Bytes)
		}
	}
	for name := range parts {
		if name != entryManifest && !listed[name] {
			return r.bad("export the model again", "the manifest does not list part %s", name)
		}
	}
	if (len(m.Parameters) > 0) != listed[entryParameters] {
		return r.bad("export the model again", "the manifest has %d parameters, and part %s is there: %t", len(m.Parameters), entryParameters, listed[entryParameters])
	}
	return nil
}

// initial reads the values that parameters begin with.
func (r *reader) initial(m *Manifest, data []byte) ([][]float32, error) {
	values := make([][]float32, len(m.Parameters))
	for i := range m.Parameters {
		p := &m.Parameters[i]
		n, _ := product(p.Shape)
		if int64(len(data)) < 4*n {
			return nil, r.bad("export the model again", "part %s ends within parameter %q of shape %v", entryParameters, p.Name, p.Shape)
		}
		v := make([]float32, n)
		for k := range v {
			x := math.Float32frombits(binary.LittleEndian.Uint32(data[4*k:]))
			if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
				return nil, r.bad("make the model anew, or load weights that are finite, and export it again", "parameter %q begins with %v at position %d", p.Name, x, k)
			}
			v[k] = x
		}
		values[i], data = v, data[4*n:]
	}
	if len(data) > 0 {
		return nil, r.bad("export the model again", "part %s has %d bytes more than the parameters take", entryParameters, len(data))
	}
	return values, nil
}

// product returns the number of values of shape, whose sizes are at least 1, or false where
// there are more than maxTensor.
func product(shape []int) (int64, bool) {
	n := int64(1)
	for _, d := range shape {
		if d < 1 || n > maxTensor/int64(d) {
			return 0, false
		}
		n *= int64(d)
	}
	return n, true
}
