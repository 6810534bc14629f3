package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/graphfile"
)

// graphReport is what inspect says of a graph file.
type graphReport struct {
	Graph    string             `json:"graph"` // its SHA-256
	Manifest graphfile.Manifest `json:"manifest"`
}

// inspectGraph checks a graph file and shows what is in it.
func (a *app) inspectGraph(name string) error {
	info, err := os.Stat(name)
	if err != nil {
		return inputFile(name, err)
	}
	if info.Size() > graphfile.MaxBytes {
		return &tidemill.InputError{Place: tidemill.Place{File: name}, What: fmt.Sprintf("a file of %d bytes", info.Size()),
			Remedy: fmt.Sprintf("give a store's directory, or a graph file, which has at most %d", graphfile.MaxBytes)}
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return inputFile(name, err)
	}
	f, err := graphfile.Decode(data, name)
	if err != nil {
		return err
	}
	return a.result(graphReport{f.Hash, f.Manifest}, func(w io.Writer) { showGraph(w, f) })
}

func showGraph(w io.Writer, f *graphfile.File) {
	m := &f.Manifest
	fmt.Fprintf(w, "graph %s (%s): Keras %s, TensorFlow %s, %d ops\n", f.Hash[:12], m.Name, m.Made.Keras, m.Made.TensorFlow, len(m.Ops))
	predicts := m.Prediction.Kind
	if m.Prediction.Width > 1 {
		predicts = fmt.Sprintf("%s of %d", predicts, m.Prediction.Width)
	}
	fmt.Fprintf(w, "learns a %s label, predicts a %s; on %d random rows losses differed from Keras' by %.1e, gradients by %.1e\n\n",
		m.Label.Type, predicts, m.Check.Rows, m.Check.Loss, m.Check.Gradient)
	var rows [][]string
	for i := range m.Inputs {
		in := &m.Inputs[i]
		switch in.Kind {
		case graphfile.Numbers:
			rows = append(rows, []string{"number", strings.Join(in.Features, " "), "–", "–"})
		case graphfile.Rows:
			n, _ := in.Positions()
			rows = append(rows, []string{"ids", in.Feature, in.Table, fmt.Sprint(n)})
		}
	}
	table(w, "INPUT FEATURE TABLE IDS", rows)
	fmt.Fprintln(w)
	rows = nil
	for _, t := range m.Tables {
		rows = append(rows, []string{"table", t.Name, fmt.Sprintf("[any, %d]", t.Dim), fmt.Sprintf("%s %g", t.Init.Kind, t.Init.Scale)})
	}
	for _, p := range m.Parameters {
		begins := "as exported"
		if p.Kind == graphfile.Moving {
			begins += fmt.Sprintf(", momentum %g", p.Momentum)
		}
		rows = append(rows, []string{p.Kind, p.Name, fmt.Sprint(p.Shape), begins})
	}
	table(w, "PARAMETER NAME SHAPE BEGINS", rows)
}
