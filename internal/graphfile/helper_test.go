package graphfile

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// example is what tidemill.keras.export made of a model with two tables, batch norm, dropout and
// regularisation: features user and item (rows), age and hour (numbers).
func example(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/ratings.graph")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// archive is a graph file taken apart.
type archive struct {
	manifest map[string]any
	entries  map[string][]byte
	stale    bool // keep the manifest's checksums as they are
	method   uint16
}

func take(t testing.TB, data []byte) *archive {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	a := &archive{entries: map[string][]byte{}, manifest: map[string]any{}}
	for _, e := range z.File {
		if a.entries[e.Name], err = read(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := json.Unmarshal(a.entries[entryManifest], &a.manifest); err != nil {
		t.Fatal(err)
	}
	delete(a.entries, entryManifest)
	return a
}

// pack puts a back together, with right checksums.
func (a *archive) pack(t testing.TB) []byte {
	t.Helper()
	if !a.stale {
		parts := []any{}
		for _, name := range []string{entryGraph, entryParameters} {
			if b, ok := a.entries[name]; ok {
				sum := sha256.Sum256(b)
				parts = append(parts, map[string]any{"name": name, "bytes": len(b), "sha256": hex.EncodeToString(sum[:])})
			}
		}
		a.manifest["parts"] = parts
	}
	m, err := json.Marshal(a.manifest)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	write := func(name string, data []byte) {
		w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: a.method})
		if err == nil {
			_, err = w.Write(data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(entryManifest, m)
	for name, data := range a.entries {
		write(name, data)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// at returns a member of the manifest: keys are names and positions.
func (a *archive) at(keys ...any) map[string]any {
	var v any = a.manifest
	for _, k := range keys {
		if i, ok := k.(int); ok {
			v = v.([]any)[i]
		} else {
			v = v.(map[string]any)[k.(string)]
		}
	}
	return v.(map[string]any)
}

// input returns the first input of a kind.
func (a *archive) input(kind string) map[string]any {
	for _, in := range a.manifest["inputs"].([]any) {
		if in.(map[string]any)["kind"] == kind {
			return in.(map[string]any)
		}
	}
	panic("no input of kind " + kind)
}

// addOp lists an op in the manifest.
func (a *archive) addOp(ops ...string) {
	for _, op := range ops {
		a.manifest["ops"] = append(a.manifest["ops"].([]any), op)
	}
}

// edit calls f with the node of a name and puts what it returns in its place.
func (a *archive) edit(t testing.TB, name string, f func(*protoNode)) {
	t.Helper()
	found := false
	var out []byte
	err := fields(a.entries[entryGraph], func(v field) error {
		body := v.bytes
		if n := parseProto(body); v.number == 1 && n.name == name {
			f(n)
			body, found = n.bytes(), true
		}
		if v.kind == protowire.BytesType {
			out = protowire.AppendTag(out, protowire.Number(v.number), protowire.BytesType)
			out = protowire.AppendBytes(out, body)
		} else {
			out = protowire.AppendTag(out, protowire.Number(v.number), v.kind)
			out = protowire.AppendVarint(out, v.bits)
		}
		return nil
	})
	if err != nil || !found {
		t.Fatalf("edit node %s: found %t, %v", name, found, err)
	}
	a.entries[entryGraph] = out
}

// add appends a node.
func (a *archive) add(n *protoNode) {
	b := protowire.AppendTag(a.entries[entryGraph], 1, protowire.BytesType)
	a.entries[entryGraph] = protowire.AppendBytes(b, n.bytes())
}

// protoNode is a NodeDef whose attributes are not looked into.
type protoNode struct {
	name, op string
	inputs   []string
	device   string
	attrs    [][2]string // name, AttrValue
	extra    []byte
}

func parseProto(b []byte) *protoNode {
	n := &protoNode{}
	_ = fields(b, func(f field) error {
		switch f.number {
		case 1:
			n.name = string(f.bytes)
		case 2:
			n.op = string(f.bytes)
		case 3:
			n.inputs = append(n.inputs, string(f.bytes))
		case 5:
			var kv [2]string
			_ = fields(f.bytes, func(f field) error { kv[f.number-1] = string(f.bytes); return nil })
			n.attrs = append(n.attrs, kv)
		}
		return nil
	})
	return n
}

func (n *protoNode) bytes() []byte {
	text := func(b []byte, num protowire.Number, s string) []byte {
		return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), s)
	}
	b := text(text(nil, 1, n.name), 2, n.op)
	for _, in := range n.inputs {
		b = text(b, 3, in)
	}
	if n.device != "" {
		b = text(b, 4, n.device)
	}
	for _, kv := range n.attrs {
		b = text(b, 5, string(text(text(nil, 1, kv[0]), 2, kv[1])))
	}
	return append(b, n.extra...)
}

// set gives n an attribute, in place of one of the same name.
func (n *protoNode) set(name, v string) *protoNode {
	for i := range n.attrs {
		if n.attrs[i][0] == name {
			n.attrs[i][1] = v
			return n
		}
	}
	n.attrs = append(n.attrs, [2]string{name, v})
	return n
}

// drop takes an attribute away.
func (n *protoNode) drop(name string) {
	for i := range n.attrs {
		if n.attrs[i][0] == name {
			n.attrs = append(n.attrs[:i], n.attrs[i+1:]...)
			return
		}
	}
}

// Values of attributes and parts of tensors, serialized.
func varint(num protowire.Number, v int64) string {
	return string(protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), uint64(v)))
}

func message(num protowire.Number, parts ...string) string {
	return string(protowire.AppendString(protowire.AppendTag(nil, num, protowire.BytesType), strings.Join(parts, "")))
}

func attrType(d int64) string { return varint(6, d) }

func attrFloat(f float32) string {
	return string(protowire.AppendFixed32(protowire.AppendTag(nil, 4, protowire.Fixed32Type), math.Float32bits(f)))
}

func tensorOf(dtype int64, dims []int64, rest ...string) string {
	var shape []string
	for _, d := range dims {
		shape = append(shape, message(2, varint(1, d)))
	}
	return message(8, varint(1, dtype), message(2, shape...), strings.Join(rest, ""))
}

func nan() float64 { return math.NaN() }
