package ps

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/ps/optim"
)

// TestCountsNeverFallShort: as long as nothing was forgotten an id counts at least as often as it
// was seen, and most count exactly so; what is stored and loaded again counts on the same.
func TestCountsNeverFallShort(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		rng := rand.New(rand.NewPCG(seed, 1))
		rule := tidemill.Admission{After: 2 + rng.IntN(5), Counters: 1 << 14}
		a, b := newAdmission(rule, seed, 7, 2), newAdmission(rule, seed, 7, 2)
		if len(a.counters) != 1<<13 {
			t.Fatalf("%d counters in one of two shards", len(a.counters))
		}
		want := map[uint64]int{}
		over := 0
		for i := range len(a.counters) / 4 {
			id := rng.Uint64N(600)
			want[id]++
			n := a.count(id)
			if n < want[id] {
				t.Fatalf("id %d seen %d times counts %d", id, want[id], n)
			}
			if n > want[id] {
				over++
			}
			if b.count(id) != n {
				t.Fatalf("a filter that was stored and loaded counts otherwise")
			}
			if i%500 == 0 {
				c := newAdmission(rule, seed, 7, 2)
				if err := c.load(b.appendTo(nil)); err != nil {
					t.Fatal(err)
				}
				b = c
			}
		}
		// 600 ids fill 1,200 of 8,192 counters: two of a third id are hit with a chance of 0.15².
		if over > len(a.counters)/4/10 {
			t.Fatalf("%d of %d sightings counted too much", over, len(a.counters)/4)
		}
	})
}

// TestFilterForgets: ids that come once never fill a filter, however many there are.
func TestFilterForgets(t *testing.T) {
	a := newAdmission(tidemill.Admission{After: 3, Counters: 1 << 14}, 1, 2, 1)
	admitted := 0
	const n = 400_000
	for id := range uint64(n) {
		if a.admits(id, 0) {
			admitted++
		}
	}
	if admitted > n/20 {
		t.Errorf("%d of %d ids that came once were admitted", admitted, n)
	}
	if a.declined != int64(n-admitted) {
		t.Errorf("%d declined of %d", a.declined, n-admitted)
	}
	for range 3 {
		a.count(1 << 60)
	}
	if !a.admits(1<<60, 0) {
		t.Error("an id that came four times was not admitted")
	}
}

// TestAdmissionByProbability: about the stated share of sightings makes a row, and whether one
// does depends on nothing but the seed, the table, the id and the examples before.
func TestAdmissionByProbability(t *testing.T) {
	const p, n = 0.3, 20_000
	rule := tidemill.Admission{Probability: p}
	a, b, other := newAdmission(rule, 1, 2, 64), newAdmission(rule, 1, 2, 3), newAdmission(rule, 1, 3, 64)
	admitted, differ := 0, 0
	for i := range n {
		id, before := uint64(i/10), int64(i%10)*512
		ok := a.admits(id, before)
		if ok {
			admitted++
		}
		if b.admits(id, before) != ok {
			t.Fatalf("id %d after %d examples: another number of shards decides otherwise", id, before)
		}
		if other.admits(id, before) != ok {
			differ++
		}
	}
	if sd := math.Sqrt(n * p * (1 - p)); math.Abs(float64(admitted)-n*p) > 6*sd {
		t.Errorf("%d of %d admitted", admitted, n)
	}
	if differ == 0 {
		t.Error("two tables decide the same")
	}
}

// TestTablesAdmit: an id gets its row, with its initial weights, in the batch that admits it, and
// what it was pushed before is dropped.
func TestTablesAdmit(t *testing.T) {
	r := optim.SGD{LR: 1}
	l := layout(r, 2, false, 0)
	l.Admit = tidemill.Admission{After: 3, Counters: 1 << 12}
	tab := newTable(l, r, 0, 5, 0, 1)
	w, first := make([]float32, 2), make([]float32, 2)
	tab.weights(first, 9)
	for i := range 4 {
		tab.apply(9, []float32{1, 2}, 1, int64(i), 1)
		tab.weights(w, 9)
		times := float32(max(0, i-1))
		if rows := min(1, max(0, i-1)); tab.n != rows || w[0] != first[0]-times && times < 2 {
			t.Fatalf("after %d pushes: %d rows, weights %v from %v", i+1, tab.n, w, first)
		}
	}
	if tab.admission.declined != 2 {
		t.Errorf("%d declined", tab.admission.declined)
	}
}

// FuzzAdmission: what is stored is restored, byte for byte, or refused.
func FuzzAdmission(f *testing.F) {
	rule := tidemill.Admission{After: 2, Counters: 1 << 10}
	a := newAdmission(rule, 1, 2, 16)
	for id := range uint64(20) {
		a.admits(id, 0)
	}
	f.Add(a.appendTo(nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		b := newAdmission(rule, 1, 2, 16)
		if err := b.load(data); err != nil {
			if !errors.Is(err, tidemill.ErrCorrupt) {
				t.Fatalf("refused as %v", err)
			}
			return
		}
		if !bytes.Equal(b.appendTo(nil), data) {
			t.Fatal("restored as something else")
		}
		b.admits(3, 0)
	})
}
