package node

import (
	"context"
	"hash/fnv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/trainer"
	"github.com/tidemill/tidemill/worker"
)

// metrics of the roles beside serving, which has its own. Labels are bounded: job and
// partition counts are the operator's own.
type metrics struct {
	rows, batches, badRows *prometheus.CounterVec
	keptRows               *prometheus.CounterVec
	batchSeconds           *prometheus.HistogramVec
	leaseLosses            prometheus.Counter
	leads                  prometheus.Gauge
	rewinds, snapshots     *prometheus.CounterVec
	snapshotSeconds        *prometheus.HistogramVec
	stallSeconds           *prometheus.HistogramVec
	decisions              *prometheus.CounterVec
	letters, replayed      *prometheus.CounterVec
	scorerRestarts         *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, n *Node) *metrics {
	job := []string{"job"}
	m := &metrics{
		rows:            prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tidemill_worker_rows_total", Help: "Rows trained by this worker."}, job),
		batches:         prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tidemill_worker_batches_total", Help: "Batches that every parameter server accepted."}, job),
		badRows:         prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tidemill_worker_bad_rows_total", Help: "Rows put aside, by cause; those of a batch that was computed again count again."}, []string{"job", "cause"}),
		keptRows:        prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tidemill_worker_kept_rows_total", Help: "Rows that batches took from copies which the worker keeps, instead of pulling them (train.hot_rows)."}, job),
		letters:         prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tidemill_trainer_dead_letters_total", Help: "Rows added to the dead-letter topic."}, job),
		replayed:        prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tidemill_trainer_replayed_rows_total", Help: "Rows of the dead-letter topic that were given to training again."}, job),
		scorerRestarts:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tidemill_scorer_restarts_total", Help: "Scoring processes that ended and should not have."}, []string{"model", "role"}),
		batchSeconds:    prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "tidemill_worker_batch_seconds", Help: "From reading a batch to its last acknowledgement.", Buckets: prometheus.ExponentialBuckets(1e-5, 4, 10)}, job),
		leaseLosses:     prometheus.NewCounter(prometheus.CounterOpts{Name: "tidemill_lease_losses_total", Help: "Session leases lost by this process."}),
		leads:           prometheus.NewGauge(prometheus.GaugeOpts{Name: "tidemill_trainer_leads", Help: "1 while this trainer leads the jobs."}),
		rewinds:         prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tidemill_trainer_generations_total", Help: "Generations begun: the start of a job and every return to a cut."}, job),
		snapshots:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tidemill_trainer_snapshots_total", Help: "Snapshots committed."}, job),
		snapshotSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "tidemill_trainer_snapshot_seconds", Help: "From the barrier to the commit.", Buckets: prometheus.ExponentialBuckets(1e-3, 2, 14)}, job),
		stallSeconds:    prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "tidemill_trainer_barrier_seconds", Help: "From the barrier until every parameter server had captured its state.", Buckets: prometheus.ExponentialBuckets(1e-4, 2, 14)}, job),
		decisions:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tidemill_trainer_decisions_total", Help: "Decisions on candidates."}, []string{"model", "decision"}),
	}
	reg.MustRegister(m.rows, m.batches, m.badRows, m.keptRows, m.batchSeconds, m.leaseLosses, m.leads, m.rewinds, m.snapshots, m.snapshotSeconds, m.stallSeconds, m.decisions, m.letters, m.replayed, m.scorerRestarts, psCollector{n}, clusterCollector{n})
	return m
}

func (m *metrics) workerEvents(e worker.Events) worker.Events {
	batch, bad, kept := e.Batch, e.Bad, e.Kept
	e.Batch = func(job string, partition, rows int, took, compute time.Duration) {
		m.rows.WithLabelValues(job).Add(float64(rows))
		m.batches.WithLabelValues(job).Inc()
		m.batchSeconds.WithLabelValues(job).Observe(took.Seconds())
		if batch != nil {
			batch(job, partition, rows, took, compute)
		}
	}
	e.Bad = func(job, cause string, rows int) {
		m.badRows.WithLabelValues(job, cause).Add(float64(rows))
		if bad != nil {
			bad(job, cause, rows)
		}
	}
	e.Kept = func(job string, rows int) {
		m.keptRows.WithLabelValues(job).Add(float64(rows))
		if kept != nil {
			kept(job, rows)
		}
	}
	return e
}

func (m *metrics) trainerEvents(e trainer.Events, hint func(model string)) trainer.Events {
	led, rewound, committed, decided, champion, letters, replayed := e.Led, e.Rewound, e.Committed, e.Decided, e.Champion, e.DeadLettered, e.Replayed
	e.DeadLettered = func(job string, rows int) {
		m.letters.WithLabelValues(job).Add(float64(rows))
		if letters != nil {
			letters(job, rows)
		}
	}
	e.Replayed = func(job string, rows int) {
		m.replayed.WithLabelValues(job).Add(float64(rows))
		if replayed != nil {
			replayed(job, rows)
		}
	}
	e.Led = func(leads bool) {
		m.leads.Set(map[bool]float64{true: 1}[leads])
		if led != nil {
			led(leads)
		}
	}
	e.Rewound = func(job string, generation uint64) {
		m.rewinds.WithLabelValues(job).Inc()
		if rewound != nil {
			rewound(job, generation)
		}
	}
	e.Committed = func(job string, number int64, cut tidemill.Cut, examples int64, took, stall time.Duration) {
		m.snapshots.WithLabelValues(job).Inc()
		m.snapshotSeconds.WithLabelValues(job).Observe(took.Seconds())
		m.stallSeconds.WithLabelValues(job).Observe(stall.Seconds())
		if committed != nil {
			committed(job, number, cut, examples, took, stall)
		}
	}
	e.Decided = func(d tidemill.Decision) {
		m.decisions.WithLabelValues(d.Model, d.Decision).Inc()
		if decided != nil {
			decided(d)
		}
	}
	e.Champion = func(c tidemill.Champion) {
		hint(c.Model)
		if champion != nil {
			champion(c)
		}
	}
	return e
}

// psCollector reads what the ps role holds when asked.
type psCollector struct{ n *Node }

var (
	psShards   = prometheus.NewDesc("tidemill_ps_shards", "Shards owned by this parameter server.", []string{"job"}, nil)
	psRows     = prometheus.NewDesc("tidemill_ps_rows", "Rows held in sparse tables.", []string{"job"}, nil)
	psDeclined = prometheus.NewDesc("tidemill_ps_declined_total", "Updates of ids that had no row and were not admitted.", []string{"job"}, nil)
	psOverflow = prometheus.NewDesc("tidemill_ps_overflow_total", "Updates that went to a fallback row because a table was full.", []string{"job"}, nil)
	psPulled   = prometheus.NewDesc("tidemill_ps_pulled_rows_total", "Rows read for workers.", []string{"job"}, nil)
	psPushed   = prometheus.NewDesc("tidemill_ps_pushed_rows_total", "Rows whose gradients were applied.", []string{"job"}, nil)
	psExamples = prometheus.NewDesc("tidemill_ps_examples", "Examples applied.", []string{"job"}, nil)
	psRound    = prometheus.NewDesc("tidemill_ps_round", "Last round applied.", []string{"job"}, nil)
)

// Describe implements prometheus.Collector.
func (psCollector) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{psShards, psRows, psOverflow, psDeclined, psPulled, psPushed, psExamples, psRound} {
		c <- d
	}
}

// Collect implements prometheus.Collector.
func (p psCollector) Collect(c chan<- prometheus.Metric) {
	s := p.n.local.ps.Load()
	if s == nil {
		return
	}
	for _, job := range s.Jobs() {
		st, err := s.Status(context.Background(), job)
		if err != nil {
			continue
		}
		for d, v := range map[*prometheus.Desc]float64{
			psShards: float64(st.Shards), psRows: float64(st.Rows), psExamples: float64(st.Examples), psRound: float64(st.Round),
		} {
			c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, job)
		}
		for d, v := range map[*prometheus.Desc]int64{psOverflow: st.Overflow, psDeclined: st.Declined, psPulled: st.Pulled, psPushed: st.Pushed} {
			c <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), job)
		}
	}
}

// clusterCollector reads what gossip knows when asked.
type clusterCollector struct{ n *Node }

var (
	clusterMembers = prometheus.NewDesc("tidemill_cluster_members", "Members of the cluster that this node sees, itself among them, by role.", []string{"role"}, nil)
	clusterView    = prometheus.NewDesc("tidemill_cluster_view", "A number made from the members' names: nodes that see the same cluster show the same.", nil, nil)
)

// Describe implements prometheus.Collector.
func (clusterCollector) Describe(c chan<- *prometheus.Desc) {
	c <- clusterMembers
	c <- clusterView
}

// Collect implements prometheus.Collector.
func (k clusterCollector) Collect(c chan<- prometheus.Metric) {
	if k.n.cluster == nil {
		return
	}
	roles := map[string]float64{}
	view := fnv.New32a()                      // 32 bits, which a float64 holds exactly
	for _, m := range k.n.cluster.Members() { // sorted
		_, _ = view.Write(append([]byte(m.ID), 0))
		for _, r := range m.Roles {
			roles[r]++
		}
	}
	for _, r := range AllRoles() {
		c <- prometheus.MustNewConstMetric(clusterMembers, prometheus.GaugeValue, roles[r], r)
	}
	c <- prometheus.MustNewConstMetric(clusterView, prometheus.GaugeValue, float64(view.Sum32()))
}
