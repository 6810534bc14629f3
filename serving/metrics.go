package serving

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tidemill/tidemill/internal/rpc"
)

// metrics has labels of bounded size only: models that are served, codes, protocols, roles.
// Which version plays a role is a value, not a label.
type metrics struct {
	requests *prometheus.CounterVec
	latency  *prometheus.HistogramVec
	rows     *prometheus.CounterVec
	loads    *prometheus.CounterVec
	swap     *prometheus.HistogramVec
	version  *prometheus.GaugeVec
	bytes    *prometheus.GaugeVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "tidemill", Subsystem: "serving", Name: name, Help: help}
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		o := opts(name, help)
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: o.Namespace, Subsystem: o.Subsystem, Name: o.Name, Help: o.Help, Buckets: buckets,
		}, labels)
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts(opts(name, help)), labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts(opts(name, help)), labels)
	}
	m := &metrics{
		requests: counter("requests_total", "Inference requests by the code they ended with.", "model", "protocol", "code"),
		latency:  histogram("request_seconds", "Time to answer an inference request, failed ones included.", prometheus.ExponentialBuckets(50e-6, 2, 16), "model", "protocol"),
		rows:     counter("rows_total", "Rows predicted.", "model"),
		loads:    counter("loads_total", "Versions loaded, or failed to.", "model", "outcome"),
		swap:     histogram("swap_seconds", "From seeing a champion record to its version being live.", prometheus.ExponentialBuckets(1e-3, 2, 16), "model"),
		version:  gauge("version", "Which version plays a role; 0 is none.", "model", "role"),
		bytes:    gauge("model_bytes", "Memory of the loaded versions.", "model"),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.latency, m.rows, m.loads, m.swap, m.version, m.bytes} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// done counts a request. model is "" where no served model was named.
func (m *metrics) done(model, protocol string, err error, rows int, took time.Duration) {
	code := codes.OK
	if err != nil {
		code = status.Code(rpc.ToStatus(err))
	}
	m.requests.WithLabelValues(model, protocol, code.String()).Inc()
	m.latency.WithLabelValues(model, protocol).Observe(took.Seconds())
	if rows > 0 {
		m.rows.WithLabelValues(model).Add(float64(rows))
	}
}
