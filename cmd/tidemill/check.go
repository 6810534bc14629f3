package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/produce"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/source/file"
	"github.com/tidemill/tidemill/internal/source/rows"
)

// checkRows is how many rows are looked at at a time.
const checkRows = 4096

// checkFiles reads all files of cfg once as produce will, so that what it would refuse in the
// middle is refused before the first row is in the stream. Rows that can be put aside
// (--dead-letter) are left to produce.
func (a *app) checkFiles(ctx context.Context, stream source.Stream, cfg produce.Config) error {
	var base *arrow.Schema
	t, err := stream.Open(ctx, cfg.Topic)
	switch {
	case err == nil:
		info, err := t.Info(ctx)
		t.Close()
		if err != nil {
			return err
		}
		if err := source.CheckExisting(cfg.Topic, info.Partitions, cfg.Partitions); err != nil {
			return err
		}
		base = info.Schema
	case !errors.Is(err, tidemill.ErrNotFound):
		return err
	}
	b := newBar(a.err)
	defer b.done()
	for _, name := range cfg.Files {
		if base, err = checkFile(ctx, cfg, base, name, func(n int64) { b.show(-1, fmt.Sprintf("checking %s: %s rows", name, count(n))) }); err != nil {
			return err
		}
	}
	return nil
}

// checkFile reads one file and returns base, the schema of the topic so far (nil: there is
// none), with the columns that the file adds.
func checkFile(ctx context.Context, cfg produce.Config, base *arrow.Schema, name string, progress func(int64)) (*arrow.Schema, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, inputFile(name, err)
	}
	defer f.Close()
	opts := cfg.Read
	if base != nil {
		types := map[string]arrow.DataType{}
		for _, c := range base.Fields() {
			types[c.Name] = c.Type
		}
		for c, t := range cfg.Read.Types {
			types[c] = t
		}
		opts.Types = types
	}
	if cfg.DeadLetter != nil {
		opts.Bad = func(file.BadRow) error { return nil }
	}
	rs, err := file.OpenRows(name, f, opts)
	if err != nil {
		return nil, err
	}
	defer rs.Close()
	if cfg.KeyColumn != "" && !rs.Schema().HasField(cfg.KeyColumn) {
		var names []string
		for _, c := range rs.Schema().Fields() {
			names = append(names, c.Name)
		}
		remedy := "give the name of a column"
		if near := tidemill.Nearest(cfg.KeyColumn, names); near != "" {
			remedy = fmt.Sprintf("did you mean %q?", near)
		}
		return nil, &tidemill.InputError{Place: tidemill.Place{File: name}, What: fmt.Sprintf("there is no column %q for --key", cfg.KeyColumn), Remedy: remedy}
	}
	if base, err = merge(base, rs.Schema()); err != nil {
		return nil, fmt.Errorf("topic %q, %s: %w", cfg.Topic, name, err)
	}
	for n := int64(0); ; {
		c, err := rs.Next(checkRows)
		if errors.Is(err, io.EOF) {
			return base, nil
		}
		if err != nil {
			return nil, err
		}
		n += c.Rows.NumRows()
		c.Rows.Release()
		progress(n)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// merge returns the schema of a topic after rows of schema were added to it.
func merge(base, schema *arrow.Schema) (*arrow.Schema, error) {
	if base == nil {
		return schema, nil
	}
	fields := append([]arrow.Field(nil), base.Fields()...)
	for _, f := range schema.Fields() {
		if !base.HasField(f.Name) {
			f.Nullable = true
			fields = append(fields, f)
		}
	}
	merged := arrow.NewSchema(fields, nil)
	return merged, rows.Compatible(merged, schema)
}
