package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/rebuild"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/snapshot/fileblob"
	"github.com/tidemill/tidemill/internal/snapshot/remoteblob"
	natsource "github.com/tidemill/tidemill/internal/source/nats"
)

func newRebuild(a *app) *cobra.Command {
	var (
		p          peer
		url, store string
		since      string
		slots      int
	)
	cmd := &cobra.Command{
		Use:   "rebuild MODEL@V",
		Short: "Make a version again from the stream, and compare it bit by bit",
		Long: `Make a version again: take the nearest snapshot before it that is still kept, read the stream from
there, train the same rounds once more in this process, and compare the digest and every file that
serving loads. With --since 0 all is trained again from the job's beginning.

The exit code is 0 when both are the same, and 1 when they differ or when it cannot be found out:
because the stream no longer holds the rows, the job was not synchronous (staleness 0), this machine
or program has another numeric profile, or the snapshots that are needed were collected. What is
missing is said.

The store is that of the node at --server or in --data-dir, which must have role stream, or the one
that --store names.`,
		Example: `  tidemill rebuild clicks@12
  tidemill rebuild clicks@12 --since 0 --json | jq -r .outcome`,
		Args: args(1, 1, "MODEL@V"),
		RunE: func(cmd *cobra.Command, given []string) error {
			model, version, err := parseModel(given[0])
			if err != nil {
				return err
			}
			if version == "" {
				return tidemill.Invalid("rebuild needs a version", fmt.Sprintf("name one of `tidemill versions %s`, as %s@N", model, model))
			}
			cfg := rebuild.Config{Model: model, Since: rebuild.Nearest, Slots: slots, Logger: slog.New(slog.DiscardHandler)}
			if cfg.Version, err = strconv.ParseInt(version, 10, 64); err != nil {
				return tidemill.Invalid("version %q", "write MODEL@N with N from 1 on", version)
			}
			if since != "" {
				if cfg.Since, err = strconv.ParseInt(since, 10, 64); err != nil || cfg.Since < 0 {
					return tidemill.Invalid("--since %q", "give a snapshot's number, or 0 for the job's beginning", since)
				}
			}
			ctx := cmd.Context()
			closeStore, err := p.store(ctx, store, &cfg)
			if err != nil {
				return err
			}
			defer closeStore()
			nc, err := p.dialStream(ctx, url)
			if err != nil {
				return err
			}
			defer nc.Close()
			stream, err := natsource.New(nc, natsource.Config{Logger: cfg.Logger})
			if err != nil {
				return err
			}
			defer stream.Close()
			cfg.Source = stream
			dir, err := os.MkdirTemp("", "tidemill-rebuild-")
			if err != nil {
				return fmt.Errorf("no room for what is made: %w", err)
			}
			defer os.RemoveAll(dir)
			if cfg.Scratch, err = fileblob.Open(filepath.Join(dir, "store"), fileblob.Options{}); err != nil {
				return err
			}
			defer cfg.Scratch.Close()
			b := newBar(a.err)
			cfg.Progress = func(done, all int64) {
				b.show(float64(done)/float64(max(1, all)), fmt.Sprintf("%s of %s rows", count(done), count(all)))
			}
			r, err := rebuild.Run(ctx, cfg)
			b.done()
			if err != nil {
				return err
			}
			if err := a.result(r, func(w io.Writer) { showRebuilt(w, r) }); err != nil {
				return err
			}
			if r.Outcome != rebuild.Same {
				a.say("version %d of %s: %s: %s", r.Version, r.Model, r.Outcome, r.Why)
				return fmt.Errorf("%s: %w", r.Outcome, errReported)
			}
			return nil
		},
	}
	p.flags(cmd)
	cmd.Flags().StringVar(&url, "stream-url", "", "nats://HOST:PORT of the stream (default: that of the node in --data-dir)")
	cmd.Flags().StringVar(&store, "store", "", "URL of the object store (default: that of the node)")
	cmd.Flags().StringVar(&since, "since", "", "number of the snapshot to start from, 0 for the job's beginning (default: the nearest before the version)")
	cmd.Flags().IntVar(&slots, "slots", 2, "batches computed at the same time")
	cmd.ValidArgsFunction = p.completeModel
	return cmd
}

// store opens the object store at a URL, or the node's, for cfg, and returns how to close it.
func (p *peer) store(ctx context.Context, url string, cfg *rebuild.Config) (func(), error) {
	if url != "" {
		b, err := snapshot.OpenBucket(ctx, url)
		cfg.Store = b
		return func() { _ = b.Close() }, err
	}
	addr, err := p.address()
	if err != nil {
		return nil, err
	}
	conn, err := p.dial(addr)
	if err != nil {
		return nil, err
	}
	cfg.Store = remoteblob.Open(conn)
	done := func() {
		_ = cfg.Store.Close()
		_ = conn.Close()
	}
	if _, err := cfg.Store.IsAccessible(ctx); err != nil {
		done()
		if errors.Is(err, tidemill.ErrInvalid) { // it does not know the question
			return nil, fmt.Errorf("the node at %s offers no object store; name one with role stream, or the store with --store: %w", addr, tidemill.ErrUnavailable)
		}
		return nil, unreachable(ctx, err, "node", addr, "--server")
	}
	return done, nil
}

func showRebuilt(w io.Writer, r *rebuild.Result) {
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %-9s %s\n", name, fmt.Sprintf(format, args...))
	}
	switch r.Outcome {
	case rebuild.Same:
		fmt.Fprintf(w, "version %d of %s, made again, is the same to the bit\n", r.Version, r.Model)
	case rebuild.Different:
		fmt.Fprintf(w, "version %d of %s, made again, is another one\n", r.Version, r.Model)
	default:
		fmt.Fprintf(w, "version %d of %s cannot be made again\n", r.Version, r.Model)
	}
	from := "the beginning"
	if r.Since > 0 {
		from = fmt.Sprintf("snapshot %d", r.Since)
	}
	if r.Rows > 0 {
		row("trained", "%s rows in %s rounds, from %s of job %s up to snapshot %d", count(r.Rows), count(r.Rounds), from, r.Job, r.Snapshot)
	}
	row("digest", "%s", r.Digest)
	if r.Rebuilt != "" && r.Rebuilt != r.Digest {
		row("rebuilt", "%s", r.Rebuilt)
	}
	row("numerics", "%s", r.Profile)
	for _, f := range r.Files {
		what := "same"
		if !f.Same {
			what = "DIFFERENT"
		}
		name := f.Kind
		if f.Table != "" {
			name += " " + f.Table
		}
		if f.Note != "" {
			what = f.Note
		}
		row("file", "%s: %s", name, what)
	}
}
