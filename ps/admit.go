package ps

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
)

// admission decides which of the ids that a push names get a row. It is nil in a table that
// admits every id.
//
// By probability it is a pure function of the seed, the id and the examples before the batch. By
// count it is a counting Bloom filter of 8-bit counters: those of an id lie in one cache line, and
// only the lower of its two is raised. Whenever as many sightings as a quarter of the counters
// were counted all counters are halved, so that a filter never fills up: an id gets a row once it
// was seen often enough lately. What the filter holds is part of the state: it is in snapshots and
// goes with its shard.
type admission struct {
	rule     tidemill.Admission
	seed     uint64
	counters []uint8 // nil: by probability
	seen     uint64  // sightings since the counters were halved
	declined int64   // sightings that made no row
}

// lineCounters is how many counters a cache line has.
const lineCounters = 64

// newAdmission returns the admission of a table's part in one of v shards, or nil.
func newAdmission(rule tidemill.Admission, seed, name uint64, v int) *admission {
	if rule == (tidemill.Admission{}) {
		return nil
	}
	a := &admission{rule: rule, seed: tidemill.Mix(seed^0x3c6ef372fe94f82b) ^ name}
	if rule.Probability == 0 {
		all := rule.Counters
		if all == 0 {
			all = tidemill.DefaultCounters
		}
		lines := max(1, (all+int64(v)*lineCounters-1)/(int64(v)*lineCounters))
		a.counters = make([]uint8, lines*lineCounters)
	}
	return a
}

// admits notes that an id without a row was seen in a batch after before examples of the job, and
// reports whether it gets one now.
func (a *admission) admits(id uint64, before int64) bool {
	ok := false
	if a.counters == nil {
		u := tidemill.Mix(a.seed ^ tidemill.Mix(id+uint64(before)*0x9e3779b97f4a7c15))
		ok = float64(u>>11)/(1<<53) < a.rule.Probability
	} else {
		ok = a.count(id) >= a.rule.After
	}
	if !ok {
		a.declined++
	}
	return ok
}

// count counts a sighting of id and returns how many there were, or seem to have been.
func (a *admission) count(id uint64) int {
	if a.seen++; a.seen > uint64(len(a.counters)/4) {
		for i, c := range a.counters {
			a.counters[i] = c / 2
		}
		a.seen = 1
	}
	h := tidemill.Mix(a.seed ^ tidemill.Mix(id))
	lines := uint64(len(a.counters) / lineCounters)
	l := a.counters[(h>>32)*lines>>32*lineCounters:][:lineCounters]
	p, q := h%lineCounters, h/lineCounters%lineCounters
	if p == q {
		q ^= 1
	}
	n := min(l[p], l[q])
	if n == 255 {
		return 255
	}
	n++
	l[p], l[q] = max(l[p], n), max(l[q], n)
	return int(n)
}

// auxAdmission names the state of a table's admission in a snapshot.
func auxAdmission(table int) string { return fmt.Sprintf("%s%02d", snapshot.AuxAdmission, table) }

// appendTo appends the state: sightings since the counters were halved and sightings declined, 8
// bytes each, little-endian, then the counters.
func (a *admission) appendTo(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, a.seen)
	b = binary.LittleEndian.AppendUint64(b, uint64(a.declined))
	return append(b, a.counters...)
}

// load replaces the state by one that appendTo wrote.
func (a *admission) load(b []byte) error {
	if len(b) != 16+len(a.counters) {
		return fmt.Errorf("%d bytes, want %d: %w", len(b), 16+len(a.counters), tidemill.ErrCorrupt)
	}
	seen, declined := binary.LittleEndian.Uint64(b), int64(binary.LittleEndian.Uint64(b[8:]))
	if seen > uint64(len(a.counters)/4) || declined < 0 {
		return fmt.Errorf("%d sightings of at most %d, %d declined: %w", seen, len(a.counters)/4, declined, tidemill.ErrCorrupt)
	}
	a.seen, a.declined = seen, declined
	a.counters = append(a.counters[:0], b[16:]...)
	return nil
}

// admissions returns the state of the shard's admissions as aux of a snapshot; nil when every id
// is admitted.
func (s *shard) admissions() map[string][]byte {
	var aux map[string][]byte
	for i, t := range s.tables {
		if t.admission == nil {
			continue
		}
		if aux == nil {
			aux = map[string][]byte{}
		}
		aux[auxAdmission(i)] = t.admission.appendTo(make([]byte, 0, 16+len(t.admission.counters)))
	}
	return aux
}

// loadAdmission restores what is stored as aux name.
func (s *shard) loadAdmission(name string, data []byte) error {
	i := slices.IndexFunc(s.tables, func(t *table) bool { return t.admission != nil && auxAdmission(slices.Index(s.tables, t)) == name })
	if i < 0 {
		return fmt.Errorf("ps: restore: %s of shard %d, where no such table admits by rule: %w", name, s.number, tidemill.ErrCorrupt)
	}
	if err := s.tables[i].admission.load(data); err != nil {
		return fmt.Errorf("ps: restore: %s of shard %d: %w", name, s.number, err)
	}
	return nil
}
