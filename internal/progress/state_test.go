package progress

import (
	"bytes"
	"math"
	"math/rand/v2"
	"sort"
	"testing"

	"github.com/tidemill/tidemill"
)

func random(seed uint64, n int) []Outcome {
	r := rand.New(rand.NewPCG(seed, 1))
	outs := make([]Outcome, n)
	for i := range outs {
		x := r.NormFloat64() * 2
		p := float32(1 / (1 + math.Exp(-x)))
		var y float32
		if r.Float32() < p {
			y = 1
		}
		loss := -math.Log(float64(p))
		if y == 0 {
			loss = -math.Log(1 - float64(p))
		}
		outs[i] = Judge(tidemill.Binary, []float32{p}, y, float32(loss))
	}
	return outs
}

func exactAUC(outs []Outcome) float64 {
	s := append([]Outcome(nil), outs...)
	sort.Slice(s, func(i, j int) bool { return s[i].Score < s[j].Score })
	var below, sum, np float64
	for _, o := range s {
		if o.Label == 1 {
			sum += below
			np++
		} else {
			below++
		}
	}
	return sum / (np * below)
}

func TestReportAgreesWithDirectSums(t *testing.T) {
	outs := random(7, 20000)
	s := New(tidemill.Binary)
	if err := s.Add(0, 0, AppendOutcomes(nil, outs)); err != nil {
		t.Fatal(err)
	}
	r := s.Total()
	var loss, correct, noChange, pos float64
	for i, o := range outs {
		loss += float64(o.Loss)
		pos += float64(o.Label)
		if o.Correct {
			correct++
		}
		if i > 0 && outs[i-1].Label == o.Label {
			noChange++
		}
	}
	n := float64(len(outs))
	for _, c := range []struct {
		name            string
		got, want, most float64
	}{
		{"loss", r.Loss, loss / n, 1e-9},
		{"accuracy", r.Accuracy, correct / n, 1e-12},
		{"no change", r.NoChangeAccuracy, noChange / (n - 1), 1e-12},
		{"auc", r.AUC, exactAUC(outs), 2e-4},
		{"prior", r.PriorLoss, entropy(pos / n), 1e-12},
	} {
		if math.Abs(c.got-c.want) > c.most {
			t.Errorf("%s: got %v, want %v", c.name, c.got, c.want)
		}
	}
	half := s.Since(10000)
	if half.Examples != 10000 {
		t.Errorf("last half has %d examples", half.Examples)
	}
	if want := exactAUC(outs[10000:]); math.Abs(half.AUC-want) > 1e-3 {
		t.Errorf("AUC of the last half: %v, want %v", half.AUC, want)
	}
}

func TestSplitsOfABatchAddUpAndRoundTrip(t *testing.T) {
	outs := random(11, 200_000) // more than the first windows hold: pairs merge
	whole, split := New(tidemill.Binary), New(tidemill.Binary)
	if err := whole.Add(2, 0, AppendOutcomes(nil, outs)); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(3, 3))
	for at := 0; at < len(outs); {
		n := min(1+r.IntN(300), len(outs)-at)
		if err := split.Add(2, int64(at), AppendOutcomes(nil, outs[at:at+n])); err != nil {
			t.Fatal(err)
		}
		at += n
		if r.IntN(50) == 0 { // a snapshot and restore anywhere changes nothing
			b, _ := split.AppendBinary(nil)
			var err error
			if split, err = Load(b); err != nil {
				t.Fatal(err)
			}
		}
	}
	a, _ := whole.AppendBinary(nil)
	b, _ := split.AppendBinary(nil)
	if !bytes.Equal(a, b) {
		t.Fatal("a split stream gives another state than the whole")
	}
	if len(whole.windows) > maxWindows {
		t.Fatalf("%d windows", len(whole.windows))
	}
}

func FuzzLoad(f *testing.F) {
	s := New(tidemill.Binary)
	_ = s.Add(1, 5, AppendOutcomes(nil, random(5, 2000)))
	b, _ := s.AppendBinary(nil)
	f.Add(b)
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Load(data)
		if err != nil {
			return
		}
		s.Total()
		if _, err := s.AppendBinary(nil); err != nil {
			t.Fatal(err)
		}
	})
}
