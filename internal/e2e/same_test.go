package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/spec"
	"github.com/tidemill/tidemill/trainer"
)

const powerRows = 3000

// A full stream, staleness 0: the digest does not depend on how many batches are computed at
// the same time, on when snapshots are taken, or on how often everything was stopped.
func TestSameDigest(t *testing.T) {
	yaml, csv := power(t, powerRows)
	for _, partitions := range []int{1, 4} {
		t.Run(fmt.Sprintf("%d partitions", partitions), func(t *testing.T) {
			job := func(every int64) *spec.Document {
				return parse(t, yaml, func(s *tidemill.Spec) { s.Train.Snapshot.Rows = every })
			}
			whole := func(slots int, every int64) trainer.JobStatus {
				s := start(t, t.TempDir(), node.Config{Slots: slots})
				defer s.stop()
				s.produce("power", partitions, csv)
				s.submit(job(every))
				return s.finish("power")
			}
			want := whole(1, 1000)
			check := func(how string, st trainer.JobStatus) {
				t.Helper()
				if st.Examples != powerRows || st.SnapshotExamples != powerRows || st.Digest != want.Digest || st.Progress != want.Progress {
					t.Errorf("%s: digest %s of %d examples, loss %v; want %s of %d, loss %v",
						how, st.Digest, st.Examples, st.Progress.Loss, want.Digest, want.Examples, want.Progress.Loss)
				}
			}
			check("slots 1, every 1000", want)
			check("slots 4, every 1000", whole(4, 1000))
			check("slots 4, every 100", whole(4, 100))
			check("slots 3, every 777", whole(3, 777))
			check("stopped twice", stopped(t, partitions, csv, "power", job(200), 500, 700))
		})
	}
}

// stopped runs a job to its end on one data directory, stopping the node as soon as at least
// so many examples are in a snapshot since it was started, once for each of rows.
func stopped(t *testing.T, partitions int, csv []byte, topic string, doc *spec.Document, rows ...int64) trainer.JobStatus {
	t.Helper()
	return stoppedIn(t, t.TempDir(), partitions, csv, topic, doc, rows...)
}

// stoppedIn is stopped on a given data directory.
func stoppedIn(t *testing.T, dir string, partitions int, csv []byte, topic string, doc *spec.Document, rows ...int64) trainer.JobStatus {
	t.Helper()
	model := doc.Spec.Model
	var done int64 // examples in the newest snapshot
	for life := 0; ; life++ {
		least := int64(1) << 60
		if life < len(rows) {
			least = done + rows[life]
		}
		half := make(chan struct{})
		var s *system
		ctx, cancel := context.WithCancel(t.Context())
		s = start(t, dir, node.Config{Slots: 2, Trainer: trainer.Events{
			Committed: func(_ string, _ int64, _ tidemill.Cut, examples int64, _, _ time.Duration) {
				// No cut follows before this returns, and batches are granted up to the next one
				// only: the job cannot be over.
				if examples >= least && ctx.Err() == nil {
					cancel()
					<-half
				}
			},
		}})
		if life == 0 {
			s.produce(topic, partitions, csv)
			s.submit(doc)
		}
		if life == len(rows) {
			st := s.finish(model)
			cancel()
			s.stop()
			return st
		}
		s.until("enough examples are in a snapshot", func() bool { return ctx.Err() != nil })
		st := s.status(model)
		if st.State != tidemill.JobRunning || st.SnapshotExamples < done {
			t.Fatalf("life %d: the job is %s with %d examples after %d", life, st.State, st.SnapshotExamples, done)
		}
		done = st.SnapshotExamples
		close(half)
		s.stop()
	}
}

// At other staleness order is free and counting is not.
func TestStaleCounts(t *testing.T) {
	yaml, csv := power(t, powerRows)
	for _, staleness := range []int{-1, 2} {
		t.Run(fmt.Sprintf("staleness %d", staleness), func(t *testing.T) {
			job := func() *spec.Document {
				return parse(t, yaml, func(s *tidemill.Spec) {
					s.Train.Staleness, s.Train.Batch, s.Train.Snapshot.Rows = staleness, 7, 200
				})
			}
			s := start(t, t.TempDir(), node.Config{Slots: 4})
			s.produce("power", 4, csv)
			s.submit(job())
			for how, st := range map[string]trainer.JobStatus{
				"whole": s.finish("power"), "stopped": stopped(t, 4, csv, "power", job(), 500, 600),
			} {
				if st.Examples != powerRows || st.Progress.Examples != powerRows || st.Cut.Rows() != powerRows {
					t.Errorf("%s: %d examples, %d judged, cut %v", how, st.Examples, st.Progress.Examples, st.Cut)
				}
				if st.Progress.Loss > st.Progress.PriorLoss {
					t.Errorf("%s: loss %.3f, prior %.3f", how, st.Progress.Loss, st.Progress.PriorLoss)
				}
			}
		})
	}
}
