package trial

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/graphfile"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/process"
)

// patience is how long a trial may take; the library alone takes a second to load.
const patience = 2 * time.Minute

// maxWords bounds what is kept of what a child says.
const maxWords = 64 << 10

// question is what a child is asked; the graph file follows it.
type question struct {
	Spec   tidemill.Spec `json:"spec"`
	Schema []byte        `json:"schema"` // Arrow IPC stream without batches
}

// answer is what a child found.
type answer struct {
	Done   bool   `json:"done"` // it came to an end
	What   string `json:"what,omitempty"`
	Remedy string `json:"remedy,omitempty"`
}

// Run tries a job's graph in a child: program with args, which calls Child. A graph that is
// refused, fails or ends the child's process is refused with tidemill.ErrInvalid; a child that
// could not be started, or took too long, is tidemill.ErrUnavailable.
func Run(ctx context.Context, program string, args []string, spec *tidemill.Spec, schema, graph []byte) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	head, err := json.Marshal(question{*spec, schema})
	if err != nil {
		return err
	}
	cmd := process.Command(program, args...)
	cmd.Stdin = io.MultiReader(bytes.NewReader(binary.LittleEndian.AppendUint32(nil, uint32(len(head)))), bytes.NewReader(head), bytes.NewReader(graph))
	out, problems := &words{}, &words{}
	cmd.Stdout, cmd.Stderr = out, problems
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("try the graph: start a process for it: %w: %w", err, tidemill.ErrUnavailable)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	failed := cmd.Wait()
	if !stop() {
		return fmt.Errorf("try the graph: no answer in %v: %w", patience, tidemill.ErrUnavailable)
	}
	var a answer
	if err := json.Unmarshal(out.Bytes(), &a); err == nil && a.Done {
		if a.What == "" {
			return nil
		}
		return &tidemill.InputError{What: a.What, Remedy: a.Remedy}
	}
	return tidemill.Invalid("the graph ended the process that tried it (%v): %s", "export the model again with tidemill.keras.export; if that does not help, leave the layer out that it names",
		failed, problems.why())
}

// words keeps the beginning of what is written.
type words struct{ bytes.Buffer }

func (w *words) Write(p []byte) (int, error) {
	w.Buffer.Write(p[:min(len(p), max(0, maxWords-w.Len()))])
	return len(p), nil
}

// why returns the line that says what was wrong, or the last one.
func (w *words) why() string {
	last := "it said nothing"
	for line := range strings.Lines(w.String()) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if at := strings.Index(line, "Check failed: "); at >= 0 {
			return line[at:min(len(line), at+300)]
		}
		last = line[:min(len(line), 300)]
	}
	return last
}

// Child answers one question.
func Child(in io.Reader, out io.Writer) error {
	a := answer{Done: true}
	if err := try(in); err != nil {
		a.What = err.Error()
		var input *tidemill.InputError
		if errors.As(err, &input) {
			a.What, a.Remedy = input.What, input.Remedy
		}
	}
	return json.NewEncoder(out).Encode(a)
}

func try(in io.Reader) error {
	var size [4]byte
	if _, err := io.ReadFull(in, size[:]); err != nil {
		return fmt.Errorf("no question: %w", tidemill.ErrInvalid)
	}
	n := int64(binary.LittleEndian.Uint32(size[:]))
	if n > 64<<20 {
		return tidemill.Invalid("a question of %d bytes", "", n)
	}
	head, err := io.ReadAll(io.LimitReader(in, n))
	if err != nil {
		return err
	}
	var q question
	if err := json.Unmarshal(head, &q); err != nil {
		return fmt.Errorf("no question: %v: %w", err, tidemill.ErrInvalid)
	}
	graph, err := io.ReadAll(io.LimitReader(in, graphfile.MaxBytes+1))
	if err != nil {
		return err
	}
	schema, err := model.DecodeSchema(q.Schema)
	if err != nil {
		return err
	}
	m, err := model.CompileFor(&q.Spec, schema, engine.Options{Graph: graph})
	if err != nil {
		return err
	}
	st := m.Engine.NewStepper()
	for _, n := range []int{1, 2, 7} {
		in, look, p := batch(m, n)
		if st.Step(in, look, p); st.Err() != nil {
			return st.Err()
		}
		if st.Evaluate(in, look, p); st.Err() != nil {
			return st.Err()
		}
		if st.Predict(make([]float32, n*m.Engine.Outputs()), in, look, p); st.Err() != nil {
			return st.Err()
		}
	}
	return nil
}

// batch makes up n examples, with the parameters that a job begins with.
func batch(m *model.Model, n int) (*engine.Inputs, []engine.Lookup, *engine.Params) {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	shape := m.Plan.Shape()
	in := new(engine.Inputs)
	in.Reset(shape.Fields, shape.Width)
	in.N = n
	for range n {
		for range shape.Fields {
			in.IDs = append(in.IDs, r.Uint64())
			in.Offsets = append(in.Offsets, int32(len(in.IDs)))
		}
		for range shape.Width {
			in.Dense = append(in.Dense, float32(r.NormFloat64()))
		}
		in.Labels = append(in.Labels, float32(r.IntN(2)))
		in.Keys = append(in.Keys, r.Uint64())
	}
	look := engine.Lookups(nil, new(engine.Scratch), in, m.Engine)
	p := new(engine.Params)
	for t, l := range m.Layout.Tables {
		rows := make([]float32, len(look[t].Unique)*l.Dim)
		for i, id := range look[t].Unique {
			l.Init.Fill(rows[i*l.Dim:(i+1)*l.Dim], m.Spec.Seed, tidemill.Hash(l.Name), id, 0)
		}
		p.Rows = append(p.Rows, rows)
	}
	for k, l := range m.Layout.Tensors {
		v := make([]float32, l.Len())
		m.Begin(k, 0, v)
		p.Dense = append(p.Dense, v)
	}
	return in, look, p
}
