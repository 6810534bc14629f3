package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/bench/workload"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/spec"
)

// PeerBits is how many bits ids have that peers are given: they need a table of a fixed size.
const PeerBits = 22

// peerChunk is how many rows are made at a time.
const peerChunk = 4096

// WritePeerRows writes rows [0, rows) of clicks to dir, once, in the forms that peers read:
//
//	labels.npy   [rows] float32, 0 or 1
//	numbers.npy  [rows × 13] float32, as the job's transforms make them
//	ids.npy      [rows × 26] int32 below 2^PeerBits, the lower bits of the job's own ids
//	rows.vw      the same rows as text; the values of categories are hashed by who reads it
//
// progress, when given, is called now and then.
func WritePeerRows(ctx context.Context, dir string, clicks *workload.Clicks, rows int64, progress func(rows int64)) error {
	whole := filepath.Join(dir, "whole")
	if _, err := os.Stat(whole); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("the rows for peers cannot be written: %w", err)
	}
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
	w := &peerWriter{dir: dir, clicks: clicks, model: m}
	err = w.write(ctx, rows, progress)
	if err = errors.Join(err, w.close()); err != nil {
		return fmt.Errorf("the rows for peers cannot be written: %w", err)
	}
	return os.WriteFile(whole, nil, 0o644)
}

// peerWriter writes the files of WritePeerRows.
type peerWriter struct {
	dir    string
	clicks *workload.Clicks
	model  *model.Model
	files  []*os.File
	outs   []*bufio.Writer
}

// npyHeader describes a little-endian array in C order (NumPy's format, version 1.0).
func npyHeader(kind string, shape string) []byte {
	head := fmt.Sprintf("{'descr': '<%s', 'fortran_order': False, 'shape': (%s), }", kind, shape)
	const before = 10 // magic, version, length
	for (before+len(head)+1)%64 != 0 {
		head += " "
	}
	head += "\n"
	b := append([]byte("\x93NUMPY\x01\x00"), 0, 0)
	binary.LittleEndian.PutUint16(b[8:], uint16(len(head)))
	return append(b, head...)
}

func (w *peerWriter) open(name string, header []byte) (*bufio.Writer, error) {
	f, err := os.Create(filepath.Join(w.dir, name))
	if err != nil {
		return nil, err
	}
	out := bufio.NewWriterSize(f, 1<<20)
	w.files, w.outs = append(w.files, f), append(w.outs, out)
	_, err = out.Write(header)
	return out, err
}

func (w *peerWriter) close() error {
	var errs []error
	for i, f := range w.files {
		errs = append(errs, w.outs[i].Flush(), f.Close())
	}
	return errors.Join(errs...)
}

func (w *peerWriter) write(ctx context.Context, rows int64, progress func(int64)) error {
	labels, err := w.open("labels.npy", npyHeader("f4", fmt.Sprintf("%d,", rows)))
	if err != nil {
		return err
	}
	numbers, err := w.open("numbers.npy", npyHeader("f4", fmt.Sprintf("%d, %d", rows, workload.Numbers)))
	if err != nil {
		return err
	}
	ids, err := w.open("ids.npy", npyHeader("i4", fmt.Sprintf("%d, %d", rows, workload.Categories)))
	if err != nil {
		return err
	}
	text, err := w.open("rows.vw", nil)
	if err != nil {
		return err
	}
	var in engine.Inputs
	ws := w.model.Plan.NewWorkspace()
	var line []byte
	for first := int64(0); first < rows; first += peerChunk {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := int(min(peerChunk, rows-first))
		rec := w.clicks.Batch(first, n)
		err := w.model.Plan.Sparse(ws, &in, rec, nil)
		if err == nil {
			err = w.model.Plan.Numeric(ws, &in, rec, nil)
		}
		if err == nil {
			err = w.model.Plan.Labels(&in, rec)
		}
		if err == nil && (in.Width != workload.Numbers || len(in.IDs) != n*workload.Categories) {
			err = fmt.Errorf("%d numbers and %d ids for %d rows: %w", in.Width, len(in.IDs), n, tidemill.ErrInvalid)
		}
		if err == nil {
			err = errors.Join(floats(labels, in.Labels), floats(numbers, in.Dense), lowBits(ids, in.IDs))
		}
		for i := 0; i < n && err == nil; i++ {
			line = line[:0]
			if in.Labels[i] > 0.5 {
				line = append(line, "1 |"...)
			} else {
				line = append(line, "-1 |"...)
			}
			for j, v := range in.Dense[i*in.Width : (i+1)*in.Width] {
				if v != 0 { // a feature of value 0 says nothing
					line = append(line, ' ', byte('a'+j), ':')
					line = strconv.AppendFloat(line, float64(v), 'g', 6, 32)
				}
			}
			for j := range workload.Categories {
				// The column is a letter before the value; a missing value is one of its own.
				line = append(line, ' ', byte('A'+j))
				if c := rec.Column(2 + workload.Numbers + j).(*array.String); c.IsValid(i) {
					line = append(line, c.Value(i)...)
				}
			}
			_, err = text.Write(append(line, '\n'))
		}
		rec.Release()
		if err != nil {
			return err
		}
		if progress != nil {
			progress(first + int64(n))
		}
	}
	return nil
}

func floats(w *bufio.Writer, v []float32) error {
	for _, x := range v {
		if _, err := w.Write(binary.LittleEndian.AppendUint32(w.AvailableBuffer(), math.Float32bits(x))); err != nil {
			return err
		}
	}
	return nil
}

func lowBits(w *bufio.Writer, ids []uint64) error {
	for _, id := range ids {
		if _, err := w.Write(binary.LittleEndian.AppendUint32(w.AvailableBuffer(), uint32(id&(1<<PeerBits-1)))); err != nil {
			return err
		}
	}
	return nil
}
