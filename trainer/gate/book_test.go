package gate

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
)

var quick = tidemill.GateSpec{Margin: 0.01, Alpha: 0.01, Clip: 0.5, MinExamples: 50, MaxExamples: 2000}

// world says what any model loses on any row, from its quality: the smaller the better.
type world struct {
	quality map[int64]float64
	noise   float64
}

func (w world) loss(version int64, partition int, offset int64) float32 {
	h := tidemill.Mix(uint64(version)<<40 ^ uint64(partition)<<32 ^ uint64(offset))
	return float32(w.quality[version] + w.noise*(float64(h>>11)/(1<<53)-0.5))
}

const priorLoss = 0.69

// rowsOf scores a range of a partition for the versions.
func (w world) rowsOf(partition int, first, next int64, versions ...int64) Rows {
	r := Rows{Partition: partition, Range: tidemill.Range{First: first, Next: next}, Losses: map[int64][]float32{}}
	slices.Sort(versions)
	versions = slices.Compact(versions)
	for o := first; o < next; o++ {
		r.Prior = append(r.Prior, priorLoss)
		for _, v := range versions {
			r.Losses[v] = append(r.Losses[v], w.loss(v, partition, o))
		}
	}
	return r
}

func newBook(t interface{ Fatal(...any) }, cfg Config) *Book {
	if cfg.Gate.Alpha == 0 {
		cfg.Gate = quick
	}
	if cfg.Partitions == 0 {
		cfg.Partitions = 1
	}
	b, err := NewBook(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func step(t interface{ Fatal(...any) }, b *Book, e Event) []Outcome {
	out, err := b.Step(e)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// brief writes outcomes as "2 published, 1 superseded".
func brief(out []Outcome) string {
	var s []string
	for _, o := range out {
		s = append(s, fmt.Sprintf("%d %s", o.Decision.Version, o.Decision.Decision))
	}
	return strings.Join(s, ", ")
}

func offer(version int64, cut ...int64) Offer {
	return Offer{Version: version, Cut: cut, Mechanics: sound}
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: %q, want %q", what, got, want)
	}
}

func TestFirstVersionThenBetter(t *testing.T) {
	w := world{map[int64]float64{1: 0.4, 2: 0.3, 3: 0.6}, 0.1}
	g := quick
	g.MinExamples = 200
	b := newBook(t, Config{Model: "m", Gate: g})
	want(t, "offer", brief(step(t, b, offer(1, 0))), "")
	out := step(t, b, w.rowsOf(0, 0, 400, 1))
	want(t, "rows", brief(out), "1 published")
	if c := out[0].Champion; c == nil || c.Version != 1 || c.Anchor != 1 || c.Kind != KindGate || c.Model != "m" {
		t.Fatalf("champion record %+v", c)
	}
	step(t, b, offer(2, 400))
	step(t, b, offer(3, 410))
	if got := b.Wants(); len(got) != 3 || got[0].From[0] != 400 || got[1].From[0] != 410 || got[2].Version != 1 || got[2].From[0] != 400 {
		t.Fatalf("wants %+v", got)
	}
	out = step(t, b, w.rowsOf(0, 400, 900, 1, 2, 3))
	want(t, "rows", brief(out), "2 published, 3 rejected")
	if out[0].Champion.Anchor != 2 {
		t.Errorf("a version proven superior to the anchor became not the anchor: %+v", out[0].Champion)
	}
	if b.Champion().Version != 2 {
		t.Errorf("champion %d", b.Champion().Version)
	}
}

func TestMechanicsDecideAtOnce(t *testing.T) {
	b := newBook(t, Config{})
	bad := sound
	bad.Finite.Problem = "2 values are not finite"
	out := step(t, b, Offer{Version: 1, Cut: tidemill.Cut{0}, Mechanics: bad})
	want(t, "not finite", brief(out), "1 rejected")
	bad = sound
	bad.ParityRows = 0
	want(t, "no probes", brief(step(t, b, Offer{Version: 2, Cut: tidemill.Cut{0}, Mechanics: bad})), "2 held")
	if len(b.Standings()) != 0 {
		t.Error("under test all the same")
	}
}

func TestGateOff(t *testing.T) {
	g := quick
	g.Mode = tidemill.GateOff
	b := newBook(t, Config{Gate: g})
	for v := int64(1); v <= 3; v++ {
		out := step(t, b, offer(v, v*10))
		want(t, "offer", brief(out), fmt.Sprintf("%d published", v))
		want(t, "reason", out[0].Decision.Reason, "unproven: gate is off")
	}
}

func TestPublishingSupersedesOnlyOlder(t *testing.T) {
	w := world{map[int64]float64{1: 0.4, 2: 0.404, 3: 0.2, 4: 0.2}, 0.02}
	b := newBook(t, Config{Champion: Serving{1, tidemill.Cut{0}}})
	for v := int64(2); v <= 4; v++ {
		step(t, b, offer(v, 0))
	}
	out := step(t, b, w.rowsOf(0, 0, 60, 1, 2, 3, 4))
	want(t, "rows", brief(out), "3 published, 2 superseded")
	if s := b.Standings(); len(s) != 1 || s[0].Version != 4 || s[0].Rows != 60 {
		t.Fatalf("standings %+v: want version 4, tested anew against 3 on all 60 rows", s)
	}
}

func TestNewerNeverDisplaces(t *testing.T) {
	w := world{map[int64]float64{1: 0.4}, 0.1}
	b := newBook(t, Config{Champion: Serving{1, tidemill.Cut{0}}})
	var all []int64
	for v := int64(2); v < 2+MaxUnderTest; v++ {
		w.quality[v] = 0.404 // exactly the margin: never decided
		step(t, b, offer(v, 0))
		all = append(all, v)
	}
	want(t, "ninth", brief(step(t, b, offer(20, 0))), "")
	want(t, "tenth", brief(step(t, b, offer(21, 0))), "20 superseded")
	if n := len(b.Standings()); n != MaxUnderTest+1 {
		t.Fatalf("%d standings", n)
	}
	for _, want := range b.Wants() {
		if want.Version == 21 {
			t.Fatal("a waiting candidate wants rows")
		}
	}
	// Version 2 turns out bad, its place goes to 21, which wants the rows from its cut.
	w.quality[2] = 0.9
	out := step(t, b, w.rowsOf(0, 0, 200, append(all, 1)...))
	want(t, "rows", brief(out), "2 rejected")
	wants := b.Wants()
	i := slices.IndexFunc(wants, func(w Want) bool { return w.Version == 21 })
	if i < 0 || wants[i].From[0] != 0 {
		t.Fatalf("wants %+v", wants)
	}
}

func TestUndecidedIsRejected(t *testing.T) {
	w := world{map[int64]float64{1: 0.4, 2: 0.404}, 0.3}
	g := quick
	g.MaxExamples = 300
	b := newBook(t, Config{Gate: g, Champion: Serving{1, tidemill.Cut{0}}})
	step(t, b, offer(2, 0))
	want(t, "299", brief(step(t, b, w.rowsOf(0, 0, 299, 1, 2))), "")
	out := step(t, b, w.rowsOf(0, 299, 500, 1, 2))
	want(t, "300", brief(out), "2 rejected")
	if !strings.HasPrefix(out[0].Decision.Reason, "undecided after 300 rows (max_examples)") {
		t.Error(out[0].Decision.Reason)
	}
}

func TestEndHolds(t *testing.T) {
	w := world{map[int64]float64{1: 0.4, 2: 0.3}, 0.1}
	b := newBook(t, Config{})
	step(t, b, offer(1, 100))
	step(t, b, offer(2, 120))
	step(t, b, w.rowsOf(0, 100, 130, 1, 2))
	out := step(t, b, End{})
	want(t, "end", brief(out), "1 held, 2 held")
	want(t, "reason", out[1].Decision.Reason, "the stream ended: evidence is missing: 10 of 50 fresh rows")
	if b.Wants() != nil {
		t.Error("wants rows after the end")
	}
}

func TestTrainedRowsNeverCount(t *testing.T) {
	w := world{map[int64]float64{1: 0.4, 2: 0.1}, 0.1}
	b := newBook(t, Config{Partitions: 2, Champion: Serving{1, tidemill.Cut{500, 10}}})
	step(t, b, offer(2, 100, 40))
	step(t, b, w.rowsOf(0, 100, 500, 1, 2)) // the champion was trained on these
	step(t, b, w.rowsOf(1, 0, 40, 1, 2))    // the candidate on these
	if s := b.Standings(); s[0].Rows != 0 {
		t.Fatalf("%d rows counted that one side was trained on", s[0].Rows)
	}
	step(t, b, w.rowsOf(0, 500, 520, 1, 2))
	step(t, b, w.rowsOf(1, 40, 50, 1, 2))
	if s := b.Standings(); s[0].Rows != 30 {
		t.Fatalf("%d rows counted, want 30", s[0].Rows)
	}
}

func TestByHand(t *testing.T) {
	w := world{map[int64]float64{1: 0.4, 2: 0.2, 3: 0.39, 4: 0.35}, 0.02}
	b := newBook(t, Config{Champion: Serving{2, tidemill.Cut{0}}})
	step(t, b, offer(3, 0))
	step(t, b, offer(4, 0))
	step(t, b, w.rowsOf(0, 0, 40, 2, 3, 4))
	out := step(t, b, ByHand{Version: 1, Cut: tidemill.Cut{0}, Kind: KindRollback, By: "ann", Why: "2 is biased", Mechanics: sound})
	want(t, "rollback", brief(out), "1 published")
	if c := out[0].Champion; c.Kind != KindRollback || c.By != "ann" || c.Why != "2 is biased" || c.Anchor != 1 {
		t.Fatalf("champion record %+v", c)
	}
	// The old champion's losses do not matter now; 1 has to be scored on the remembered rows.
	wants := b.Wants()
	if last := wants[len(wants)-1]; last.Version != 1 || last.From[0] != 0 {
		t.Fatalf("wants %+v", wants)
	}
	step(t, b, w.rowsOf(0, 0, 40, 1))
	out = step(t, b, w.rowsOf(0, 40, 400, 1, 3, 4))
	want(t, "rows", brief(out), "4 published, 3 superseded")

	out = step(t, b, ByHand{Version: 9, Cut: tidemill.Cut{400}, Kind: KindPromote, By: "bob", Why: "try", Mechanics: sound})
	want(t, "promote", brief(out), "9 published")
	bad := sound
	bad.Loads.Problem = "does not load"
	for _, e := range []ByHand{
		{Version: 10, Cut: tidemill.Cut{0}, Kind: KindPromote, By: "bob", Why: "try", Mechanics: bad},
		{Version: 10, Cut: tidemill.Cut{0}, Kind: KindPromote, By: "bob", Mechanics: sound},
		{Version: 10, Cut: tidemill.Cut{0}, Kind: "whim", By: "bob", Why: "try", Mechanics: sound},
		{Version: 0, Cut: tidemill.Cut{0}, Kind: KindPromote, By: "bob", Why: "try", Mechanics: sound},
	} {
		if out, err := b.Step(e); err == nil || len(out) != 0 || b.Champion().Version != 9 {
			t.Errorf("%+v was not refused", e)
		}
	}
}

// Each version is a little worse than the one before, by less than the margin.
func TestCreepIsStopped(t *testing.T) {
	w := world{map[int64]float64{1: 0.40}, 0.01}
	g := quick
	g.Margin, g.MaxExamples = 0.05, 1000
	b := newBook(t, Config{Gate: g, Champion: Serving{1, tidemill.Cut{0}}})
	offset, worst := int64(0), 0.40
	for v := int64(2); v < 30; v++ {
		w.quality[v] = w.quality[b.Champion().Version] * 1.03
		step(t, b, offer(v, offset))
		for r := 0; r < 20 && len(b.Standings()) > 0; r++ {
			versions := []int64{v, b.Champion().Version, b.Anchor().Version}
			step(t, b, w.rowsOf(0, offset, offset+100, versions...))
			offset += 100
		}
		worst = max(worst, w.quality[b.Champion().Version])
	}
	if worst == 0.40 || worst > 0.42 {
		t.Fatalf("quality went from 0.40 to %.3f; the margin against the anchor allows 0.42", worst)
	}
}

func TestRowsAreChecked(t *testing.T) {
	w := world{map[int64]float64{1: 0.4}, 0.1}
	b := newBook(t, Config{})
	step(t, b, offer(1, 10))
	short := w.rowsOf(0, 10, 20, 1)
	short.Losses[1] = short.Losses[1][:9]
	noPrior := w.rowsOf(0, 10, 20, 1)
	noPrior.Prior = nil
	offsets := w.rowsOf(0, 10, 12, 1)
	offsets.Offsets = []int64{11, 10}
	outside := w.rowsOf(0, 10, 12, 1)
	outside.Offsets = []int64{11, 12}
	for name, e := range map[string]Rows{
		"partition": w.rowsOf(1, 0, 10, 1), "gap": w.rowsOf(0, 11, 20, 1), "short losses": short, "no prior": noPrior,
		"offsets not increasing": offsets, "offsets outside": outside,
		"huge range": {Range: tidemill.Range{First: 10, Next: 1 << 60}},
		"negative":   {Range: tidemill.Range{First: -1, Next: 3}},
	} {
		if _, err := b.Step(e); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, e := range map[string]Offer{"twice": offer(1, 10), "zero": offer(0, 10), "cut": offer(2, 1, 2)} {
		if _, err := b.Step(e); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	want(t, "good rows", brief(step(t, b, w.rowsOf(0, 10, 300, 1))), "1 published")
}

func TestWindowIsBounded(t *testing.T) {
	w := world{map[int64]float64{1: 0.4, 2: 0.404}, 0.3}
	g := quick
	g.MaxExamples = 1 << 40
	b := newBook(t, Config{Gate: g, Partitions: 3, Window: 500, Champion: Serving{1, tidemill.Cut{0, 0, 0}}})
	step(t, b, offer(2, 0, 0, 0))
	for i := int64(0); i < 20000; i += 100 {
		for p := range 3 {
			step(t, b, w.rowsOf(p, i, i+100, 1, 2))
		}
		kept := 0
		for p := range b.win.parts {
			kept += len(b.win.parts[p].offsets)
			for _, c := range b.win.parts[p].losses {
				if len(c.loss) != len(b.win.parts[p].offsets) {
					t.Fatal("columns out of line")
				}
			}
		}
		if kept > 500+3*2048 {
			t.Fatalf("%d rows held for a window of 500", kept)
		}
	}
}

// script is a random history of one model.
type script struct {
	world  world
	config Config
	events []Event
}

func drawScript(t *rapid.T) script {
	parts := rapid.IntRange(1, 3).Draw(t, "partitions")
	g := quick
	g.MinExamples = rapid.Int64Range(1, 60).Draw(t, "min")
	g.MaxExamples = rapid.Int64Range(60, 600).Draw(t, "max")
	if rapid.Bool().Draw(t, "harm") {
		g.Prove = tidemill.ProveHarm
	}
	s := script{world: world{map[int64]float64{}, rapid.Float64Range(0, 0.3).Draw(t, "noise")},
		config: Config{Partitions: parts, Gate: g, Window: rapid.IntRange(100, 2000).Draw(t, "window")}}
	var all []int64
	next := make(tidemill.Cut, parts)
	for v := range int64(rapid.IntRange(1, 12).Draw(t, "versions")) {
		s.world.quality[v+1] = rapid.Float64Range(0.2, 0.8).Draw(t, "quality")
		all = append(all, v+1)
	}
	offered := int64(0)
	for range rapid.IntRange(1, 30).Draw(t, "events") {
		switch k := rapid.IntRange(0, 9).Draw(t, "kind"); {
		case k < 3 && offered < int64(len(all)):
			offered++
			s.events = append(s.events, offer(offered, next.Clone()...))
		case k == 3 && offered > 0:
			v := rapid.Int64Range(1, offered).Draw(t, "by hand")
			s.events = append(s.events, ByHand{Version: v, Cut: next.Clone(), Kind: KindPromote, By: "x", Why: "y", Mechanics: sound})
		default:
			p := rapid.IntRange(0, parts-1).Draw(t, "partition")
			n := int64(rapid.IntRange(1, 200).Draw(t, "rows"))
			s.events = append(s.events, s.world.rowsOf(p, next[p], next[p]+n, all...))
			next[p] += n
		}
	}
	return s
}

func (s script) run(t *rapid.T, events []Event) ([]Outcome, []Want, []Standing) {
	b := newBook(t, s.config)
	var out []Outcome
	for _, e := range events {
		out = append(out, step(t, b, e)...)
	}
	return out, b.Wants(), b.Standings()
}

func slice(r Rows, from, to int) Rows {
	c := Rows{Partition: r.Partition, Range: tidemill.Range{First: r.Range.First + int64(from), Next: r.Range.First + int64(to)}, Losses: map[int64][]float32{}}
	c.Prior = r.Prior[from:to]
	for v, l := range r.Losses {
		c.Losses[v] = l[from:to]
	}
	return c
}

func TestChoppingMakesNoDifference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawScript(t)
		var chopped []Event
		for _, e := range s.events {
			r, ok := e.(Rows)
			if !ok {
				chopped = append(chopped, e)
				continue
			}
			for from := 0; from < len(r.Prior); {
				to := min(len(r.Prior), from+rapid.IntRange(1, 90).Draw(t, "chop"))
				chopped = append(chopped, slice(r, from, to))
				from = to
			}
		}
		out1, wants1, standing1 := s.run(t, s.events)
		out2, wants2, standing2 := s.run(t, chopped)
		if !reflect.DeepEqual(out1, out2) || !reflect.DeepEqual(wants1, wants2) || !reflect.DeepEqual(standing1, standing2) {
			t.Fatalf("%s\nchopped: %s", brief(out1), brief(out2))
		}
	})
}

// One candidate is offered late; its rows are replayed as Wants asks. It must be decided as if
// it had been there from the beginning, with the same evidence.
func TestLateDecidesAsEarly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.IntRange(1, 3).Draw(t, "partitions")
		w := world{map[int64]float64{1: 0.4, 2: rapid.Float64Range(0.2, 0.6).Draw(t, "quality"), 3: 0.404}, rapid.Float64Range(0, 0.3).Draw(t, "noise")}
		cfg := Config{Partitions: parts, Window: 1 << 16, Champion: Serving{1, make(tidemill.Cut, parts)}}
		cut := make(tidemill.Cut, parts)
		for p := range cut {
			cut[p] = rapid.Int64Range(0, 40).Draw(t, "cut")
		}
		var rows []Rows
		next := make(tidemill.Cut, parts)
		for range rapid.IntRange(1, 20).Draw(t, "blocks") {
			p := rapid.IntRange(0, parts-1).Draw(t, "partition")
			n := rapid.Int64Range(1, 150).Draw(t, "rows")
			rows = append(rows, w.rowsOf(p, next[p], next[p]+n, 1, 2))
			next[p] += n
		}
		early := newBook(t, cfg)
		step(t, early, Offer{Version: 2, Cut: cut, Mechanics: sound})
		var outEarly []Outcome
		for _, r := range rows {
			outEarly = append(outEarly, step(t, early, r)...)
		}
		late := newBook(t, cfg)
		for _, r := range rows {
			r.Losses = map[int64][]float32{1: r.Losses[1]}
			if out := step(t, late, r); len(out) != 0 {
				t.Fatal("decided without a candidate")
			}
		}
		outLate := step(t, late, Offer{Version: 2, Cut: cut, Mechanics: sound})
		for rounds := 0; len(late.Wants()) > 0 && rounds < 1000; rounds++ {
			want := late.Wants()[0]
			behind := -1
			for p := range parts {
				if want.From[p] < next[p] && (behind < 0 || rapid.Bool().Draw(t, "which")) {
					behind = p
				}
			}
			if behind < 0 {
				break
			}
			to := min(next[behind], want.From[behind]+rapid.Int64Range(1, 300).Draw(t, "block"))
			outLate = append(outLate, step(t, late, w.rowsOf(behind, want.From[behind], to, 2))...)
		}
		if !reflect.DeepEqual(outEarly, outLate) {
			t.Fatalf("early: %s\nlate: %s", brief(outEarly), brief(outLate))
		}
		if !reflect.DeepEqual(early.Standings(), late.Standings()) {
			t.Fatalf("early %+v\nlate %+v", early.Standings(), late.Standings())
		}
	})
}

// A validator that scores exactly what Wants asks for always gets to a decision or to the
// stream's end, and never scores a row for nothing twice.
func TestWantsLeadsToDecisions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := world{map[int64]float64{}, 0.05}
		b := newBook(t, Config{Partitions: 2})
		const end = 3000
		version, decided := int64(0), map[int64]bool{}
		for cut := int64(0); cut < end; cut += 250 {
			version++
			w.quality[version] = rapid.Float64Range(0.2, 0.6).Draw(t, "quality")
			out := step(t, b, offer(version, cut, cut/2))
			limit := [2]int64{cut + 500, cut/2 + 250}
			for rounds := 0; ; rounds++ {
				if rounds > 10000 {
					t.Fatal("no end to what is wanted")
				}
				part, from, versions := -1, int64(0), []int64(nil)
				for p := range 2 {
					for _, x := range b.Wants() {
						if x.From[p] >= limit[p] {
							continue
						}
						if part < 0 || part == p && x.From[p] < from {
							part, from, versions = p, x.From[p], nil
						}
						if part == p && x.From[p] == from {
							versions = append(versions, x.Version)
						}
					}
				}
				if part < 0 {
					break
				}
				out = append(out, step(t, b, w.rowsOf(part, from, min(limit[part], from+100), versions...))...)
			}
			for _, o := range out {
				if decided[o.Decision.Version] {
					t.Fatalf("version %d was decided twice", o.Decision.Version)
				}
				decided[o.Decision.Version] = true
			}
		}
		for _, o := range step(t, b, End{}) {
			decided[o.Decision.Version] = true
		}
		if int64(len(decided)) != version {
			t.Fatalf("%d of %d versions were decided", len(decided), version)
		}
	})
}

func BenchmarkRows(b *testing.B) {
	w := world{map[int64]float64{1: 0.4}, 0.3}
	book := newBook(b, Config{Champion: Serving{1, tidemill.Cut{0}}, Gate: tidemill.GateSpec{Alpha: 0.01, Clip: 0.5, Margin: 0.01, MinExamples: 1 << 40}})
	versions := []int64{1}
	for v := int64(2); v < 10; v++ {
		w.quality[v] = 0.404
		step(b, book, offer(v, 0))
		versions = append(versions, v)
	}
	at := int64(0)
	for b.Loop() {
		b.StopTimer()
		r := w.rowsOf(0, at, at+1000, versions...)
		at += 1000
		b.StartTimer()
		step(b, book, r)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(at), "ns/row")
}
