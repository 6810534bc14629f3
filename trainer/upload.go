package trainer

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/feature"
	"github.com/tidemill/tidemill/internal/graphfile"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/spec"
)

// Limits of graph files on their way.
const (
	partBytes  = 1 << 20 // of a part but the last
	maxParts   = graphfile.MaxBytes / partBytes
	maxUploads = 2 // at a time; a third takes the place of the one that began first
)

// UploadStatus says how far a graph file is.
type UploadStatus struct {
	Graph string `json:"graph"` // its SHA-256
	Next  int    `json:"next"`  // the part that is expected
	Done  bool   `json:"done"`  // the store has it, checked
}

// uploads are the graph files that are being sent. Part k is taken after part k-1; one that was
// taken before is acknowledged again.
type uploads struct {
	mu   sync.Mutex
	open []*upload // as they began
}

type upload struct {
	graph string
	parts int
	next  int
	data  []byte
}

// take adds a part and returns the whole file once it is there.
func (u *uploads) take(graph string, part, parts int, data []byte) (next int, whole []byte, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	at := -1
	for i, o := range u.open {
		if o.graph == graph && o.parts == parts {
			at = i
		}
	}
	if at < 0 {
		if part != 0 {
			return 0, nil, fmt.Errorf("part %d of graph %s comes where the first one is expected: %w", part, graph, tidemill.ErrConflict)
		}
		if len(u.open) == maxUploads {
			u.open = append(u.open[:0], u.open[1:]...)
		}
		u.open = append(u.open, &upload{graph: graph, parts: parts})
		at = len(u.open) - 1
	}
	o := u.open[at]
	if part > o.next {
		return o.next, nil, fmt.Errorf("part %d of graph %s comes where part %d is expected: %w", part, graph, o.next, tidemill.ErrConflict)
	}
	if part == o.next {
		o.data = append(o.data, data...)
		o.next++
	}
	if o.next < o.parts {
		return o.next, nil, nil
	}
	u.open = append(u.open[:at], u.open[at+1:]...)
	return o.next, o.data, nil
}

// upload takes a part of a graph file, or only says whether the store has the file. The last part
// has the file checked and stored.
func (t *Trainer) upload(ctx context.Context, args map[string]string) (UploadStatus, error) {
	st := UploadStatus{Graph: args["graph"]}
	has, err := snapshot.HasGraph(ctx, t.cfg.Bucket, st.Graph)
	if err != nil || has || args["part"] == "" {
		st.Done = has
		return st, err
	}
	part, err1 := strconv.Atoi(args["part"])
	parts, err2 := strconv.Atoi(args["parts"])
	data, err3 := base64.StdEncoding.DecodeString(args["data"])
	if err := errors.Join(err1, err2, err3); err != nil {
		return st, tidemill.Invalid("a part of a graph: %v", "send part, parts and data in base64", err)
	}
	if part < 0 || parts < 1 || parts > maxParts || part >= parts || len(data) > partBytes || len(data) != partBytes && part < parts-1 {
		return st, tidemill.Invalid("part %d of %d with %d bytes", fmt.Sprintf("send up to %d parts of %d bytes, the last one with what is left", maxParts, partBytes), part, parts, len(data))
	}
	next, whole, err := t.uploads.take(st.Graph, part, parts, data)
	st.Next = next
	if err != nil || whole == nil {
		return st, err
	}
	if sum := sha256.Sum256(whole); hex.EncodeToString(sum[:]) != st.Graph {
		return st, tidemill.Invalid("the parts of graph %s have SHA-256 %x together", "send the file again", st.Graph, sum)
	}
	if _, err := graphfile.Decode(whole, args["file"]); err != nil {
		return st, err
	}
	if _, err := snapshot.WriteGraph(ctx, t.cfg.Bucket, whole); err != nil {
		return st, err
	}
	st.Done = true
	return st, nil
}

// Uploader sends a command and decodes its answer.
type Uploader func(ctx context.Context, verb string, args map[string]string, answer any) error

// UploadGraph has a trainer store a graph file, unless it is there already, and returns the name
// that a submission gives it. file is how errors call it.
func UploadGraph(ctx context.Context, do Uploader, data []byte, file string) (graph string, err error) {
	if len(data) > graphfile.MaxBytes {
		return "", &tidemill.InputError{Place: tidemill.Place{File: file}, What: fmt.Sprintf("a graph file of %d bytes", len(data)), Remedy: fmt.Sprintf("it has at most %d", graphfile.MaxBytes)}
	}
	sum := sha256.Sum256(data)
	graph = hex.EncodeToString(sum[:])
	var st UploadStatus
	if err := do(ctx, VerbUpload, map[string]string{"graph": graph}, &st); err != nil || st.Done {
		return graph, err
	}
	parts := max(1, (len(data)+partBytes-1)/partBytes)
	for k, again := 0, 0; k < parts; k++ {
		err := do(ctx, VerbUpload, map[string]string{
			"graph": graph, "file": file, "part": strconv.Itoa(k), "parts": strconv.Itoa(parts),
			"data": base64.StdEncoding.EncodeToString(data[k*partBytes : min(len(data), (k+1)*partBytes)]),
		}, &st)
		switch {
		case errors.Is(err, tidemill.ErrConflict) && again < 3: // another trainer leads by now
			k, again = -1, again+1
		case err != nil:
			return "", err
		case st.Done:
			return graph, nil
		}
	}
	return "", fmt.Errorf("graph file %s was sent, and the trainer does not have it: %w", file, tidemill.ErrUnavailable)
}

// needs names the files that a spec needs beside itself, for clients that do not read specs.
type needs struct {
	Graph string `json:"graph,omitempty"` // architecture.file
}

// fitGraph checks that the graph which a submission named is there and fits the spec. Errors have
// the place of architecture.file.
func (t *Trainer) fitGraph(ctx context.Context, doc *spec.Document, schema *arrow.Schema) error {
	s := doc.Spec
	if s.Architecture.Kind != tidemill.Graph {
		return nil
	}
	place := doc.Place("architecture.file")
	if s.Architecture.Graph == "" {
		return &tidemill.InputError{Place: place, What: "the graph file was not sent along", Remedy: "submit with a program that knows graph files"}
	}
	data, err := snapshot.ReadGraph(ctx, t.cfg.Bucket, s.Architecture.Graph)
	if err != nil {
		return err
	}
	f, err := graphfile.Decode(data, s.Architecture.File)
	if err != nil {
		return err
	}
	plan, err := feature.Compile(s, schema)
	if err != nil {
		return err
	}
	_, err = f.Fit(s, plan.Shape())
	var in *tidemill.InputError
	if errors.As(err, &in) {
		return &tidemill.InputError{Place: place, What: in.What, Remedy: in.Remedy}
	}
	return err
}

// tryGraph has the spec's graph computed by a process that may end of it.
func (t *Trainer) tryGraph(ctx context.Context, doc *spec.Document, schema *arrow.Schema) error {
	if t.cfg.TryGraph == nil || doc.Spec.Architecture.Kind != tidemill.Graph {
		return nil
	}
	data, err := snapshot.ReadGraph(ctx, t.cfg.Bucket, doc.Spec.Architecture.Graph)
	if err != nil {
		return err
	}
	encoded, err := model.EncodeSchema(schema)
	if err != nil {
		return err
	}
	err = t.cfg.TryGraph(ctx, doc.Spec, encoded, data)
	var in *tidemill.InputError
	if errors.As(err, &in) {
		return &tidemill.InputError{Place: doc.Place("architecture.file"), What: in.What, Remedy: in.Remedy}
	}
	return err
}

// named sets the graph that a submission's arguments name. The record keeps the file's name
// without its folder, which is the submitter's own business.
func named(s *tidemill.Spec, args map[string]string) {
	if a := &s.Architecture; a.Kind == tidemill.Graph {
		a.Graph = args["graph"]
		a.File = a.File[strings.LastIndexAny(a.File, `/\`)+1:]
	}
}
