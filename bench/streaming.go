package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/csv"
	"github.com/apache/arrow-go/v18/arrow/ipc"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/bench/report"
	"github.com/tidemill/tidemill/bench/workload"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/source/file"
	"github.com/tidemill/tidemill/internal/spec"
)

// StreamConfig says what Stream measures. Dir is required.
type StreamConfig struct {
	Dir     string
	Source  workload.Source // where rows come from; default clicks
	Rows    int64           // default 200,000; fewer where the source has fewer
	Batches []int           // rows of an append and of a read; default 512, 4096
	Runs    int             // default 3
	Events  func(Event)
}

// Stream measures how fast rows are appended to the durable embedded stream, each append flushed,
// read from it into Arrow batches, read from files of both kinds, and, for clicks, transformed into
// a model's inputs.
func Stream(ctx context.Context, cfg StreamConfig) (*report.Report, error) {
	or(&cfg.Rows, 200_000)
	cfg.Runs = orRuns(cfg.Runs)
	if cfg.Source == nil {
		cfg.Source = &workload.Clicks{Seed: 1}
	}
	if len(cfg.Batches) == 0 {
		cfg.Batches = []int{512, 4096}
	}
	if most := cfg.Source.Rows(); most > 0 {
		cfg.Rows = min(cfg.Rows, most)
	}
	if cfg.Rows < 1 {
		return nil, tidemill.Invalid("%d rows", "give at least 1", cfg.Rows)
	}
	for _, b := range cfg.Batches {
		if b < 1 || b > 65536 {
			return nil, tidemill.Invalid("batches of %d rows", "give 1 to 65536", b)
		}
	}
	schema := cfg.Source.Schema()
	r := report.New("stream", fmt.Sprintf("%d rows of %d columns through the embedded stream, one partition, one core at each end.", cfg.Rows, schema.NumFields()))
	began := time.Now()
	say := func(name string, m map[string]float64) {
		if cfg.Events != nil {
			cfg.Events(Event{time.Since(began), fmt.Sprintf("stream %s: %.0f rows/s", name, m["rows/s"])})
		}
	}
	for run := range cfg.Runs {
		dir := filepath.Join(cfg.Dir, fmt.Sprint("stream-", run))
		err := withNode(ctx, node.Config{DataDir: dir, Roles: []string{node.RoleStream}}, func(ctx context.Context, n *node.Node) error {
			for _, batch := range cfg.Batches {
				rows, err := cut(cfg.Source, cfg.Rows, batch)
				if err != nil {
					return err
				}
				err = streamed(ctx, r, n.Stream(), fmt.Sprint("rows", batch), rows, batch, say)
				for _, rec := range rows {
					rec.Release()
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil {
			err = os.RemoveAll(dir)
		}
		if err != nil {
			return nil, fmt.Errorf("stream: %w", err)
		}
		if err := parsed(r, &cfg, say); err != nil {
			return nil, fmt.Errorf("stream: %w", err)
		}
	}
	if clicks, ok := cfg.Source.(*workload.Clicks); ok {
		if err := transformed(r, clicks, cfg.Rows, cfg.Runs, say); err != nil {
			return nil, fmt.Errorf("stream: %w", err)
		}
	}
	r.Plots = append(r.Plots, streamPlot(r))
	return r.Done(), nil
}

// cut makes rows [0, n) in batches.
func cut(src workload.Source, n int64, batch int) ([]arrow.RecordBatch, error) {
	var out []arrow.RecordBatch
	for first := int64(0); first < n; first += int64(batch) {
		rec, err := src.Read(first, int(min(int64(batch), n-first)))
		if err != nil {
			return out, err
		}
		out = append(out, rec)
	}
	return out, nil
}

func totalRows(rows []arrow.RecordBatch) (n int64) {
	for _, rec := range rows {
		n += rec.NumRows()
	}
	return n
}

// streamed appends rows to a new topic and reads them back.
func streamed(ctx context.Context, r *report.Report, stream source.Stream, topic string, rows []arrow.RecordBatch, batch int, say func(string, map[string]float64)) error {
	t, err := stream.Create(ctx, topic, 1, rows[0].Schema())
	if err != nil {
		return err
	}
	defer t.Close()
	n := totalRows(rows)
	c, err := timed(func() error {
		for i, rec := range rows {
			if _, err := t.Append(ctx, 0, rec, fmt.Sprintf("bench/%d", i+1)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	name := fmt.Sprintf("op=append/rows=%d", batch)
	m := c.metrics(n, "rows")
	r.Add(name, n, m)
	say(name, m)
	c, err = timed(func() error {
		rd, err := t.Reader(ctx, 0, 0)
		if err != nil {
			return err
		}
		for rd.Position() < n {
			b, err := rd.Next(ctx, batch)
			if err != nil {
				return errors.Join(err, rd.Close())
			}
			b.Rows.Release()
		}
		return rd.Close()
	})
	if err != nil {
		return err
	}
	name = fmt.Sprintf("op=read/rows=%d", batch)
	m = c.metrics(n, "rows")
	r.Add(name, n, m)
	say(name, m)
	return nil
}

// parsed reads the rows from files in memory.
func parsed(r *report.Report, cfg *StreamConfig, say func(string, map[string]float64)) error {
	const batch = 4096
	rows, err := cut(cfg.Source, min(cfg.Rows, 10*batch), batch)
	defer func() {
		for _, rec := range rows {
			rec.Release()
		}
	}()
	if err != nil {
		return err
	}
	n := totalRows(rows)
	for format, write := range map[file.Format]func(io.Writer, []arrow.RecordBatch) error{file.CSV: writeCSV, file.Arrow: writeArrow} {
		var b bytes.Buffer
		if err := write(&b, rows); err != nil {
			return err
		}
		data := b.Bytes()
		c, err := timed(func() error {
			f, err := file.OpenRows("rows", bytes.NewReader(data), file.Options{Format: format, Schema: rows[0].Schema()})
			if err != nil {
				return err
			}
			defer f.Close()
			for {
				chunk, err := f.Next(batch)
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
				chunk.Rows.Release()
			}
		})
		if err != nil {
			return err
		}
		m := c.metrics(n, "rows")
		m["MB/s"] = float64(len(data)) / 1e6 / c.seconds
		name := fmt.Sprintf("op=parse/format=%s", format)
		r.Add(name, n, m)
		say(name, m)
	}
	return nil
}

func writeCSV(w io.Writer, rows []arrow.RecordBatch) error {
	out := csv.NewWriter(w, rows[0].Schema(), csv.WithHeader(true), csv.WithNullWriter(""), csv.WithCustomTypeConverter(func(t arrow.DataType, col arrow.Array) ([]string, bool) {
		c, ok := col.(*array.Timestamp)
		if !ok {
			return nil, false
		}
		values := make([]string, c.Len())
		for i := range values {
			if c.IsValid(i) {
				values[i] = c.Value(i).ToTime(t.(*arrow.TimestampType).Unit).Format(time.RFC3339Nano)
			}
		}
		return values, true
	}))
	for _, rec := range rows {
		if err := out.Write(rec); err != nil {
			return err
		}
	}
	return out.Flush()
}

func writeArrow(w io.Writer, rows []arrow.RecordBatch) error {
	out, err := ipc.NewFileWriter(writeOnly{w}, ipc.WithSchema(rows[0].Schema()))
	if err != nil {
		return err
	}
	for _, rec := range rows {
		if err := out.Write(rec); err != nil {
			return err
		}
	}
	return out.Close()
}

// writeOnly hides what else a writer can do.
type writeOnly struct{ io.Writer }

// transformed turns clicks into the inputs of the benchmark's logistic regression.
func transformed(r *report.Report, clicks *workload.Clicks, n int64, runs int, say func(string, map[string]float64)) error {
	yaml, err := ClicksJob(ClicksJobConfig{})
	if err != nil {
		return err
	}
	doc, err := spec.Parse(yaml, "job")
	if err != nil {
		return err
	}
	m, err := model.Compile(doc.Spec, clicks.Schema())
	if err != nil {
		return err
	}
	const batch = 512
	rows, err := cut(clicks, min(n, 64*batch), batch)
	if err != nil {
		return err
	}
	defer func() {
		for _, rec := range rows {
			rec.Release()
		}
	}()
	ws := m.Plan.NewWorkspace()
	var in engine.Inputs
	var look []engine.Lookup
	var scratch engine.Scratch
	count := totalRows(rows)
	for range runs {
		for _, op := range []struct {
			name string
			do   func(rec arrow.RecordBatch) error
		}{
			{"transform", func(rec arrow.RecordBatch) error {
				return errors.Join(m.Plan.Sparse(ws, &in, rec, nil), m.Plan.Numeric(ws, &in, rec, nil), m.Plan.Labels(&in, rec))
			}},
			{"lookup", func(rec arrow.RecordBatch) error {
				err := m.Plan.Sparse(ws, &in, rec, nil)
				look = engine.Lookups(look, &scratch, &in, m.Engine)
				return err
			}},
		} {
			c, err := timed(func() error {
				for _, rec := range rows {
					if err := op.do(rec); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
			name := fmt.Sprintf("op=%s/rows=%d", op.name, batch)
			metrics := c.metrics(count, "rows")
			r.Add(name, count, metrics)
			say(name, metrics)
		}
	}
	r.Note("op=transform makes ids, numbers and labels of rows in memory; op=lookup makes the ids and finds the distinct ones of a batch.")
	return nil
}

func streamPlot(r *report.Report) report.Plot {
	p := report.Plot{Title: "Rows a second", YLabel: "rows/s"}
	var s report.Series
	seen := map[string]bool{}
	for _, x := range r.Results {
		name := x.Name[len(r.Bench)+1:]
		if seen[name] {
			continue
		}
		seen[name] = true
		p.Categories = append(p.Categories, name[len("op="):])
		s.Y = append(s.Y, r.Median(name, "rows/s"))
	}
	p.Series = []report.Series{s}
	return p
}
