package demo

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"go.uber.org/goleak"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/predict"
	"github.com/tidemill/tidemill/internal/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A short run: every row is answered for, figures and decisions are sane, and each answer is,
// bit for bit, what the files of the version it names give when they are loaded again.
func TestServedIsWhatWasPublished(t *testing.T) {
	const rows = 6000
	for name, rate := range map[string]int{"intrusion": 2000, "power": 3000} {
		t.Run(name, func(t *testing.T) {
			w, err := Find(name)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			var progress, decided int
			res, err := Run(ctx, Config{
				Workload: w, DataDir: t.TempDir(), Rows: rows, Rate: rate,
				Logger:   slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
				Progress: func(Progress) { progress++ },
				Decided:  func(tidemill.Decision) { decided++ },
				Ended: func(ctx context.Context, n *node.Node, r *Result) error {
					return checkParity(ctx, t, n, w, r)
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			sane(t, res, rows)
			if progress == 0 || decided < len(res.Versions) {
				t.Errorf("%d calls of Progress, %d of Decided for %d versions", progress, decided, len(res.Versions))
			}
		})
	}
}

// checkParity scores all rows that serving answered, version by version.
func checkParity(ctx context.Context, t *testing.T, n *node.Node, w Workload, r *Result) error {
	in, doc, err := w.read()
	if err != nil {
		return err
	}
	defer in.Close()
	scorers := map[int64]*predict.Scorer{}
	at, compared, wrong := 0, 0, 0
	err = chunks(in, chunkRows, func(rec arrow.RecordBatch) error {
		if at >= len(r.Served) {
			return nil
		}
		served := r.Served[at:min(len(r.Served), at+int(rec.NumRows()))]
		at += len(served)
		version := served[0].Version
		for _, s := range served {
			if s.Version != version {
				return fmt.Errorf("one request was answered by versions %d and %d", version, s.Version)
			}
		}
		if version == 0 {
			return nil
		}
		s := scorers[version]
		if s == nil {
			files, err := snapshot.ReadVersion(ctx, n.Bucket(), doc.Spec.Model, version)
			if err != nil {
				return err
			}
			m, err := predict.Load(files)
			if err != nil {
				return err
			}
			s = m.NewScorer()
			scorers[version] = s
		}
		want, err := s.Predict(nil, rec)
		if err != nil {
			return err
		}
		for i, got := range served {
			compared++
			if math.Float32bits(got.Prediction) != math.Float32bits(want[i]) {
				if wrong++; wrong <= 5 {
					t.Errorf("row %d: version %d answered %v, its files say %v", at-len(served)+i, version, got.Prediction, want[i])
				}
			}
		}
		return nil
	})
	t.Logf("%d answers of %d versions compared, %d differ", compared, len(scorers), wrong)
	if compared == 0 || len(scorers) < 2 {
		t.Errorf("%d answers of %d versions: too few to tell anything", compared, len(scorers))
	}
	return err
}

// sane checks what holds of any run of a workload whose model learns.
func sane(t *testing.T, r *Result, rows int) {
	t.Helper()
	check := func(ok bool, format string, args ...any) {
		t.Helper()
		if !ok {
			t.Errorf(format, args...)
		}
	}
	check(r.Examples == int64(rows) && len(r.Served) == rows, "%d examples and %d served rows of %d", r.Examples, len(r.Served), rows)
	check(r.Requests > 0 && r.RequestsFailed == 0, "%d of %d requests failed: %s", r.RequestsFailed, r.Requests, r.FirstError)
	check(r.LogLoss < r.PriorLogLoss && r.Accuracy > 0.8 && r.AUC > 0.85, "log loss %.3f (prior %.3f), accuracy %.3f, AUC %.3f", r.LogLoss, r.PriorLogLoss, r.Accuracy, r.AUC)
	check(r.ServedLogLoss < r.PriorLogLoss, "served log loss %.3f, prior %.3f", r.ServedLogLoss, r.PriorLogLoss)
	check(r.Published >= 2 && r.Champion > 0 && len(r.Digest) == 32, "%d published, champion %d, digest %q", r.Published, r.Champion, r.Digest)
	check(r.FreshnessP50 == nil || *r.FreshnessP50 >= 0, "freshness %v", r.FreshnessP50)
	published := 0
	for i, v := range r.Versions {
		check(v.Version == int64(i+1), "version %d at place %d", v.Version, i)
		if v.Decision == tidemill.Published {
			published++
			check(v.Freshness != nil || v.Version < r.Champion, "version %d was published last and never live", v.Version)
		}
		check(v.Decision != "" && v.Reason != "" && len(v.Evidence) > 0, "version %d: %q because %q on %d checks", v.Version, v.Decision, v.Reason, len(v.Evidence))
	}
	check(published == r.Published, "%d published, %d counted", published, r.Published)
}
