package demo

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/examples"
	"github.com/tidemill/tidemill/internal/source/file"
	"github.com/tidemill/tidemill/internal/spec"
)

// Workload is one of the demo's streams.
type Workload struct {
	Name string
	What string // one line for people
	File string // in examples.FS
	Job  string
	Rate int // rows per second
	Rows int
}

// Workloads lists the demo's streams, the default first.
func Workloads() []Workload {
	return []Workload{
		{"intrusion", "normal traffic or an attack? NSL-KDD, 25,192 connections", "intrusion/nsl-kdd-train20.csv.gz", "intrusion/job.yaml", 2000, 25192},
		{"power", "will the price go up? Elec2, 45,312 half hours", "power/elec2.csv.gz", "power/job.yaml", 2500, 45312},
	}
}

// Find returns the workload of that name, "" being the default.
func Find(name string) (Workload, error) {
	var names []string
	for _, w := range Workloads() {
		if name == "" || w.Name == name {
			return w, nil
		}
		names = append(names, w.Name)
	}
	hint := fmt.Sprintf("there are %v", names)
	if n := tidemill.Nearest(name, names); n != "" {
		hint = fmt.Sprintf("did you mean %q?", n)
	}
	return Workload{}, tidemill.Invalid("no demo is called %q", hint, name)
}

// read opens the workload's rows and job.
func (w Workload) read() (file.Rows, *spec.Document, error) {
	y, err := examples.FS.ReadFile(w.Job)
	if err != nil {
		return nil, nil, err
	}
	doc, err := spec.Parse(y, w.Job)
	if err != nil {
		return nil, nil, err
	}
	data, err := examples.FS.ReadFile(w.File)
	if err != nil {
		return nil, nil, err
	}
	rows, err := file.OpenRows(w.File, bytes.NewReader(data), file.Options{})
	return rows, doc, err
}

// chunks reads all rows in chunks of n; f releases nothing.
func chunks(rows file.Rows, n int, f func(arrow.RecordBatch) error) error {
	for {
		c, err := rows.Next(n)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		err = f(c.Rows)
		c.Rows.Release()
		if err != nil {
			return err
		}
	}
}
