package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/spf13/cobra"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/infer"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/source/file"
	"github.com/tidemill/tidemill/internal/source/file/parquet"
)

// predictRows is how many rows one request carries; a model may allow fewer than its default
// of 1024.
const predictRows = 256

// predicted is the answer to one row.
type predicted struct {
	Row     int64 `json:"row"` // from 0
	Version int64 `json:"version"`
	// Prediction is a probability or value, or one per class.
	Prediction any `json:"prediction"`
}

func newPredict(a *app) *cobra.Command {
	var (
		p             peer
		serving, path string
		format        string
		typed         []string
		noHeader      bool
	)
	cmd := &cobra.Command{
		Use:   "predict MODEL[@V]",
		Short: "Ask serving for predictions on rows from flags, a file or the standard input",
		Long: `Send rows to a serving node and print its prediction for each, with the version that made it.

Rows have the stream's own columns; those that the model does not want are left out. They come
from --row, from --file, or from the standard input (csv with a header unless --format says
otherwise). Without @V the version that serves answers.`,
		Example: `  tidemill predict elec2 --row nswprice=0.06,nswdemand=0.44,period=0.02,vicprice=0.003,vicdemand=0.42,transfer=0.41
  tidemill predict clicks --file new.csv --json
  tail -n 5 events.jsonl | tidemill predict clicks@7 --format jsonl`,
		Args: args(1, 1, "MODEL[@V]"),
		RunE: func(cmd *cobra.Command, given []string) error {
			model, version, err := parseModel(given[0])
			if err != nil {
				return err
			}
			if len(typed) > 0 && path != "" {
				return tidemill.Invalid("--row and --file at once", "give one or the other")
			}
			addr := serving
			if addr == "" {
				if addr, err = p.serving(); err != nil {
					return err
				}
			}
			conn, err := p.dial(addr)
			if err != nil {
				return err
			}
			defer conn.Close()
			q := question{
				client: infer.New(conn), model: model, version: version, addr: addr,
				opts: file.Options{Format: file.Format(format), NoHeader: noHeader, Parquet: parquet.Open},
			}
			var in io.Reader = a.in
			name := "standard input"
			switch {
			case len(typed) > 0:
				if in, err = typedRows(typed); err != nil {
					return err
				}
				name, q.opts.Format, q.opts.NoHeader = "--row", file.CSV, false
			case path != "" && path != "-":
				if err := checkInputs([]string{path}); err != nil {
					return err
				}
				f, err := os.Open(path)
				if err != nil {
					return inputFile(path, err)
				}
				defer f.Close()
				in, name = f, path
			case format == "":
				q.opts.Format = file.CSV
			}
			return a.predict(cmd.Context(), q, name, in)
		},
	}
	dataDirFlag(cmd, &p.dataDir, "data directory of a node on this machine, to find its address in")
	securityFlags(cmd, &p.security)
	fl := cmd.Flags()
	fl.StringVar(&serving, "serving", "", "gRPC address of a serving node, HOST:PORT (default: that of the node in --data-dir, else "+node.DefaultGRPC+")")
	fl.StringArrayVar(&typed, "row", nil, "a row, COLUMN=VALUE,… (repeatable; quote values with commas as in csv)")
	fl.StringVar(&path, "file", "", "file with rows; - is the standard input")
	fl.StringVar(&format, "format", "", "csv, tsv, jsonl, libsvm, arrow or parquet (default: by the file's name)")
	fl.BoolVar(&noHeader, "no-header", false, "the first line of csv and tsv is a row; columns are c0, c1, …")
	cmd.ValidArgsFunction = p.completeModel
	return cmd
}

// serving returns the gRPC address of the node in the data directory.
func (p *peer) serving() (string, error) {
	info, err := p.info()
	if err != nil {
		return "", err
	}
	if info.ID != "" && info.GRPC == "" {
		return "", tidemill.Invalid("the node in the data directory does not serve", "name one that does with --serving")
	}
	if info.GRPC == "" {
		return node.DefaultGRPC, nil
	}
	return info.GRPC, nil
}

// typedRows turns --row flags into csv.
func typedRows(typed []string) (io.Reader, error) {
	var header []string
	var rows []map[string]string
	for i, t := range typed {
		fields, err := csv.NewReader(strings.NewReader(t)).Read()
		if err != nil {
			return nil, tidemill.Invalid("--row %d is malformed: %v", "write COLUMN=VALUE,COLUMN=VALUE", i+1, err)
		}
		row := map[string]string{}
		for _, f := range fields {
			name, value, ok := strings.Cut(f, "=")
			name = strings.TrimSpace(name)
			if !ok || name == "" {
				return nil, tidemill.Invalid("--row %d: %q has no column", "write COLUMN=VALUE,COLUMN=VALUE", i+1, f)
			}
			if _, twice := row[name]; twice {
				return nil, tidemill.Invalid("--row %d has column %q twice", "give each column once", i+1, name)
			}
			row[name] = value
			if !slices.Contains(header, name) {
				header = append(header, name)
			}
		}
		rows = append(rows, row)
	}
	var b strings.Builder
	w := csv.NewWriter(&b)
	_ = w.Write(header)
	for _, row := range rows {
		line := make([]string, len(header))
		for i, name := range header {
			line[i] = row[name]
		}
		_ = w.Write(line)
	}
	w.Flush()
	return strings.NewReader(b.String()), nil
}

// question is what is asked, and whom.
type question struct {
	client  *infer.Client
	model   string
	version string
	addr    string
	opts    file.Options
}

// arrowTypes maps datatypes of tensors to the columns that are read for them. The others are
// inferred: a whole number may also be a moment, written as a date.
var arrowTypes = map[string]arrow.DataType{
	"FP64": arrow.PrimitiveTypes.Float64, "FP32": arrow.PrimitiveTypes.Float32, "FP16": arrow.PrimitiveTypes.Float32,
	"BOOL": arrow.FixedWidthTypes.Boolean, "BYTES": arrow.BinaryTypes.String,
}

// predict reads all rows from in and prints their predictions.
func (a *app) predict(ctx context.Context, q question, name string, in io.Reader) error {
	inputs, err := retry(ctx, readyTimeout, func() ([]infer.Input, error) { return q.client.Inputs(ctx, q.model, q.version) })
	if err != nil {
		return q.explain(ctx, err)
	}
	q.opts.Types = map[string]arrow.DataType{}
	var columns []string
	for _, i := range inputs {
		columns = append(columns, i.Name)
		if t := arrowTypes[i.Datatype]; t != nil {
			q.opts.Types[i.Name] = t
		}
	}
	rows, err := file.OpenRows(name, in, q.opts)
	if err != nil {
		return err
	}
	defer rows.Close()
	if !a.json {
		fmt.Fprintln(a.out, "PREDICTION  VERSION")
	}
	for {
		c, err := rows.Next(predictRows)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		err = a.ask(ctx, q, columns, c)
		c.Rows.Release()
		if err != nil {
			return err
		}
	}
}

// ask sends one chunk of rows.
func (a *app) ask(ctx context.Context, q question, columns []string, c file.Chunk) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ans, err := retry(ctx, readyTimeout, func() (infer.Answer, error) {
		return q.client.Predict(ctx, q.model, q.version, columns, c.Rows)
	})
	if err != nil {
		return q.explain(ctx, err)
	}
	n := int(c.Rows.NumRows())
	if ans.Outputs < 1 || len(ans.Predictions) != n*ans.Outputs {
		return fmt.Errorf("%d predictions for %d rows: %w", len(ans.Predictions), n, tidemill.ErrCorrupt)
	}
	for i := range n {
		p := ans.Predictions[i*ans.Outputs : (i+1)*ans.Outputs]
		if a.json {
			out := predicted{Row: c.First + int64(i), Version: ans.Version, Prediction: p}
			if ans.Outputs == 1 {
				out.Prediction = p[0]
			}
			if err := a.line(out); err != nil {
				return err
			}
			continue
		}
		var words []string
		for _, x := range p {
			words = append(words, fmt.Sprintf("%.4g", x))
		}
		fmt.Fprintf(a.out, "%-10s  %d\n", strings.Join(words, " "), ans.Version)
	}
	return nil
}

func (q question) explain(ctx context.Context, err error) error {
	return unreachable(ctx, err, "serving node", q.addr, "--serving")
}
