package tidemill

// Assignment is the one record per job that says who owns what. The leading trainer alone
// writes it, by compare-and-set; everybody else acts on it and on nothing else.
type Assignment struct {
	Job  string `json:"job"`
	Spec Spec   `json:"spec"`
	// Schema is the topic's when the job was validated, as an Arrow IPC stream without batches.
	Schema []byte `json:"schema"`
	// Seq counts the writes of this record; an Owner's Epoch is the Seq at which it acquired.
	Seq uint64 `json:"seq"`
	// Generation rises with every rewind. Each RPC carries it.
	Generation uint64 `json:"generation"`
	State      string `json:"state"`
	Reason     string `json:"reason,omitempty"` // why it failed
	Lineage    string `json:"lineage"`
	Leader     Member `json:"leader"`
	// Where everyone stands when the generation begins: snapshot number Snapshot (0: the
	// initial state), its cut, and the rounds and examples before it. The cut has an entry for
	// every partition: one that joined after the snapshot begins at its origin's First.
	Snapshot int64 `json:"snapshot"`
	Cut      Cut   `json:"cut"`
	Round    int64 `json:"round"`
	Examples int64 `json:"examples"`
	// Profile is the numeric profile that all owners compute with, at staleness 0: it changes
	// only with a generation, at its cut. "": each computes with the fastest it has.
	Profile string `json:"profile,omitempty"`
	// Identity is the topic's; a stream that was made again is another one.
	Identity   string  `json:"identity"`
	Partitions []Owner `json:"partitions"` // worker by partition
	Shards     []Owner `json:"shards"`     // ps by shard
	// Origins says which log each of the job's partitions reads. It may be shorter than
	// Partitions: read it through Origin. Entries are only ever appended; a partition that
	// has joined keeps its number for good.
	Origins []Origin `json:"origins,omitempty"`
	// Pardon is what operators have said about rows put aside.
	Pardon  Pardon            `json:"pardon,omitzero"`
	Members map[string]Member `json:"members"` // the owners named above
}

// Origin is the log that one of a job's partitions reads: a partition of the spec's topic, or
// of another one whose rows have the same schema. The job's partitions are numbered by when
// they joined, so a ledger, a cut or a schedule never depends on where rows come from.
type Origin struct {
	Topic     string `json:"topic"`
	Partition int    `json:"partition"`
	First     int64  `json:"first"` // offset of the first row that the job reads
	// Round is the first in which the partition takes part, so that a job that goes back to a
	// cut before it forms the same rounds again; 0: from the start, or staleness is not 0.
	Round int64 `json:"round,omitempty"`
	// End, when not 0, is the offset at which a bounded job has read all of it. A partition of
	// the spec's topic ends where the spec says.
	End int64 `json:"end,omitempty"`
	// Identity is the topic's where it is not the job's own; "" otherwise.
	Identity string `json:"identity,omitempty"`
}

// Pardon is what operators have said about rows put aside: those that count no more, and the
// budget for the others.
type Pardon struct {
	Bad  int64 `json:"bad,omitempty"`  // the first so many rows put aside are accepted
	Read int64 `json:"read,omitempty"` // when so many rows had been read
	// Resumed counts how often an operator let the job go on, or gave it a budget.
	Resumed int64 `json:"resumed,omitempty"`
	// MaxBadRows, unless zero, stands for the spec's train.max_bad_rows.
	MaxBadRows BadBudget `json:"max_bad_rows,omitzero"`
}

// OfTopic returns the components of cut, which is by a job's partitions, by the partitions of one
// topic: 0 for those of the topic that the job did not read, below the highest that it did. own
// is the job's topic, which partitions without an entry in origins are of.
func (c Cut) OfTopic(topic, own string, origins []Origin) Cut {
	var out Cut
	for p, next := range c {
		o := Origin{Topic: own, Partition: p}
		if p < len(origins) && origins[p].Topic != "" {
			o = origins[p]
		}
		if o.Topic != topic {
			continue
		}
		for len(out) <= o.Partition {
			out = append(out, 0)
		}
		out[o.Partition] = next
	}
	return out
}

// SameLog reports whether o and p name the same log, wherever they begin to read it.
func (o Origin) SameLog(p Origin) bool { return o.Topic == p.Topic && o.Partition == p.Partition }

// Origin returns where partition of the job is read: by default partition of the spec's topic,
// from where the spec says.
func (a *Assignment) Origin(partition int) Origin {
	if partition < len(a.Origins) && a.Origins[partition].Topic != "" {
		return a.Origins[partition]
	}
	o := Origin{Topic: a.Spec.Stream.Topic, Partition: partition}
	if from := a.Spec.Stream.Offsets; partition < len(from) {
		o.First = from[partition]
	}
	if end := a.Spec.Train.End; partition < len(end) {
		o.End = end[partition]
	}
	return o
}

// Routes numbers the map of shards to their owners: it is the Seq at which a shard last changed
// hands, and 0 before any has an owner. Requests about shards name the map that they were made
// under.
func (a *Assignment) Routes() uint64 {
	var r uint64
	for _, o := range a.Shards {
		r = max(r, o.Epoch)
	}
	return r
}

// Owner is who holds something since when. The zero Owner is nobody.
type Owner struct {
	Member string `json:"member"`
	Epoch  uint64 `json:"epoch"`
}

// Member is a process of the cluster and where others reach it.
type Member struct {
	ID   string `json:"id"`
	Addr string `json:"addr"` // of the cluster RPC port
}

// PSes returns the members that own shards, each once, in order of their first shard.
func (a *Assignment) PSes() []string {
	var ids []string
	seen := map[string]bool{}
	for _, o := range a.Shards {
		if !seen[o.Member] && o.Member != "" {
			seen[o.Member] = true
			ids = append(ids, o.Member)
		}
	}
	return ids
}

// Run is Count consecutive batches of each of its parts. At staleness 0 they make up the
// rounds Round … Round+Count-1: round Round+k takes the k-th batch of every part, computed on
// the parameters after the round before and applied in partition order.
type Run struct {
	Round int64     `json:"round"`
	Count int64     `json:"count"`
	Parts []PartRun `json:"parts"` // by ascending partition
}

// PartRun is one partition's share of a Run: batch k is [First+k·Step, First+(k+1)·Step).
type PartRun struct {
	Partition int   `json:"partition"`
	First     int64 `json:"first"`
	Step      int64 `json:"step"`
}

// Batch returns the k-th batch of p.
func (p PartRun) Batch(k int64) Range {
	return Range{p.First + k*p.Step, p.First + (k+1)*p.Step}
}

// Part returns the run's share of a partition.
func (r *Run) Part(partition int) (PartRun, bool) {
	for _, p := range r.Parts {
		if p.Partition == partition {
			return p, true
		}
	}
	return PartRun{}, false
}

// Rounds is runs in order: the schedule, which says which batches made up each round.
type Rounds []Run

// Append adds a run, joining it to the last one where it continues it.
func (s Rounds) Append(r Run) Rounds {
	if n := len(s); n > 0 {
		last := &s[n-1]
		if last.Round+last.Count == r.Round && len(last.Parts) == len(r.Parts) {
			for i, p := range r.Parts {
				q := last.Parts[i]
				if q.Partition != p.Partition || q.Step != p.Step || q.First+last.Count*q.Step != p.First {
					return append(s, r)
				}
			}
			last.Count += r.Count
			return s
		}
	}
	return append(s, r)
}
