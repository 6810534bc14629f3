package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/spf13/cobra"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/produce"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/source/file"
	"github.com/tidemill/tidemill/internal/source/file/parquet"
	"github.com/tidemill/tidemill/internal/source/rows"
)

// column is one column of a topic, for people and JSON.
type column struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// produced is what produce prints.
type produced struct {
	produce.Result
	Schema     []column `json:"schema"`
	Partitions int      `json:"partitions"`
	Seconds    float64  `json:"seconds"`
}

func newProduce(a *app) *cobra.Command {
	var (
		p                               peer
		cfg                             produce.Config
		kafka                           kafkaFlags
		url, schema, format, deadLetter string
		noCheck                         bool
	)
	cmd := &cobra.Command{
		Use:   "produce TOPIC FILE…",
		Short: "Put rows of files, or of the standard input, into the stream",
		Long: `Put the rows of files into a topic, which is made with their schema when there is none.

Formats are csv, tsv, jsonl, libsvm, Arrow and Parquet, by the file's name or --format,
gzipped or not. - is the standard input; it needs --id and --format.

Interrupted or repeated, it goes on where it was: a file's content is produced once per
topic, unless --id says otherwise. Files are read once before the first row is produced, so that
a malformed row, which is reported with its place, changes nothing; --dead-letter puts such rows
aside instead. On the standard input, rows before a malformed one are produced.

With --kafka the topic is one of a Kafka cluster, in Tidemill's own messages: a job reads it with
stream: {topic: TOPIC, kafka: {brokers: [HOST:PORT]}}. Each row is there once, as in the node's stream.

A schema file has a line NAME: TYPE for each column, with types int64, float64, float32,
bool, text, timestamp.`,
		Example: `  tidemill produce elec2 elec2.csv
  tidemill produce clicks day1.tsv day2.tsv --partitions 4 --key user
  tidemill produce clicks day1.tsv --kafka broker1:9092,broker2:9092
  zcat events.jsonl.gz | tidemill produce events - --id events-2026 --format jsonl`,
		Args: args(2, -1, "TOPIC", "FILE"),
		RunE: func(cmd *cobra.Command, given []string) (err error) {
			cfg.Topic = given[0]
			cfg.Read.Format = file.Format(format)
			cfg.Read.Parquet = parquet.Open
			if given[1] == "-" {
				if len(given) > 2 {
					return tidemill.Invalid("- and files at once", "give one or the other")
				}
				cfg.Stdin = a.in
			} else {
				cfg.Files = given[1:]
			}
			if schema != "" {
				if cfg.Read.Types, err = readSchema(schema); err != nil {
					return err
				}
			}
			if err := checkInputs(cfg.Files); err != nil {
				return err
			}
			if deadLetter != "" {
				f, err := os.OpenFile(deadLetter, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
				if err != nil {
					return inputFile(deadLetter, err)
				}
				w := bufio.NewWriter(f)
				cfg.DeadLetter = w
				defer func() { err = errors.Join(err, w.Flush(), f.Close()) }()
			}
			stream, closeStream, err := openProduce(cmd.Context(), &p, url, &kafka)
			if err != nil {
				return err
			}
			defer closeStream()
			return a.produce(cmd.Context(), stream, cfg, !noCheck)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&url, "stream-url", "", "nats://HOST:PORT of the stream (default: that of the node in --data-dir)")
	dataDirFlag(cmd, &p.dataDir, "data directory of a node on this machine, to find its stream in")
	securityFlags(cmd, &p.security)
	kafka.add(cmd)
	fl.IntVar(&cfg.Partitions, "partitions", 0, "partitions of a topic that has to be made (default 1; see the command topic for more of an existing one)")
	fl.StringVar(&cfg.KeyColumn, "key", "", "column whose equal values go to one partition (default: rows in turn)")
	fl.Float64Var(&cfg.Rate, "rate", 0, "rows per second (default: as fast as the stream takes them)")
	fl.StringVar(&schema, "schema", "", "file that says columns' types")
	fl.StringVar(&format, "format", "", "csv, tsv, jsonl, libsvm, arrow or parquet (default: by the file's name)")
	fl.BoolVar(&cfg.Read.NoHeader, "no-header", false, "the first line of csv and tsv is a row; columns are c0, c1, …")
	fl.StringVar(&cfg.ID, "id", "", "name of the input, to go on by (default: a hash of the content)")
	fl.StringVar(&deadLetter, "dead-letter", "", "file that malformed rows are added to, as JSON lines; reading goes on")
	fl.BoolVar(&noCheck, "no-check", false, "do not read files before producing them; rows before a malformed one are then produced")
	fl.IntVar(&cfg.BatchRows, "batch", 0, "most rows of one append (default 4096)")
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"csv", "tsv", "jsonl", "libsvm", "arrow", "parquet"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("key", cobra.NoFileCompletions)
	return cmd
}

// produce runs cfg against the stream, after a check of its files, and prints what came of it.
func (a *app) produce(ctx context.Context, stream source.Stream, cfg produce.Config, check bool) error {
	if check && cfg.Stdin == nil {
		if err := a.checkFiles(ctx, stream, cfg); err != nil {
			return err
		}
	}
	b := newBar(a.err)
	began := time.Now()
	cfg.Progress = func(p produce.Progress) {
		part := -1.0
		if p.Size > 0 && p.Read > 0 {
			part = float64(p.Read) / float64(p.Size)
		}
		b.show(part, fmt.Sprintf("%s rows, %s/s", count(p.Rows+p.Skipped), count(int64(float64(p.Rows)/time.Since(began).Seconds()))))
	}
	res, err := produce.Run(ctx, stream, cfg)
	b.done()
	if err != nil {
		if res.Rows > 0 {
			a.say("%s rows are in %s; the same command goes on from there", count(res.Rows+res.Skipped), cfg.Topic)
		}
		return err
	}
	out := produced{Result: res, Seconds: time.Since(began).Seconds(), Partitions: len(res.Next)}
	if t, err := stream.Open(ctx, cfg.Topic); err == nil {
		if info, err := t.Info(ctx); err == nil {
			out.Schema = columns(info.Schema)
		}
		t.Close()
	}
	return a.result(out, func(w io.Writer) {
		fmt.Fprintf(w, "topic %s, partitions: %d\n", out.Topic, out.Partitions)
		for _, c := range out.Schema {
			fmt.Fprintf(w, "  %s: %s\n", c.Name, c.Type)
		}
		fmt.Fprintf(w, "%s rows produced, %s were there already, %s malformed, in %.1f s\n", count(res.Rows), count(res.Skipped), count(res.Bad), out.Seconds)
	})
}

// columns lists a schema.
func columns(s *arrow.Schema) []column {
	out := []column{}
	for _, f := range s.Fields() {
		out = append(out, column{f.Name, rows.TypeName(f.Type)})
	}
	return out
}

// readSchema reads lines NAME: TYPE.
func readSchema(name string) (map[string]arrow.DataType, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, inputFile(name, err)
	}
	out := map[string]arrow.DataType{}
	names := rows.TypeNames()
	for i, line := range strings.Split(string(data), "\n") {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		bad := func(what, remedy string) error {
			return &tidemill.InputError{Place: tidemill.Place{File: name, Line: i + 1}, What: what, Remedy: remedy}
		}
		at := strings.LastIndexByte(line, ':')
		if at < 1 {
			return nil, bad(fmt.Sprintf("%q is no column", line), "write NAME: TYPE")
		}
		col, typ := strings.TrimSpace(line[:at]), strings.TrimSpace(line[at+1:])
		if out[col] = rows.TypeOf(typ); out[col] == nil {
			remedy := "use " + strings.Join(names, ", ")
			if near := tidemill.Nearest(typ, names); near != "" {
				remedy = fmt.Sprintf("did you mean %q?", near)
			}
			return nil, bad(fmt.Sprintf("unknown type %q", typ), remedy)
		}
	}
	if len(out) == 0 {
		return nil, &tidemill.InputError{Place: tidemill.Place{File: name}, What: "the schema file is empty", Remedy: "write a line NAME: TYPE for each column"}
	}
	return out, nil
}

// checkInputs finds files that cannot be read before anything is produced.
func checkInputs(files []string) error {
	for _, name := range files {
		if name == "-" {
			return tidemill.Invalid("- and files at once", "give one or the other")
		}
		st, err := os.Stat(name)
		if err != nil {
			return inputFile(name, err)
		}
		if st.IsDir() {
			return &tidemill.InputError{Place: tidemill.Place{File: name}, What: "this is a directory", Remedy: "name files"}
		}
		if st.Mode().IsRegular() && st.Size() == 0 {
			return &tidemill.InputError{Place: tidemill.Place{File: name}, What: "the file is empty", Remedy: "give one with rows"}
		}
	}
	return nil
}

// inputFile says why a file that was named on the command line cannot be used.
func inputFile(name string, err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return &tidemill.InputError{Place: tidemill.Place{File: name}, What: err.Error(), Remedy: "check the name"}
}
