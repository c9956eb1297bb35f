package replica

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	flushSeconds prometheus.Histogram
	damaged      prometheus.Counter
}

// newMetrics registers what is counted; rebuilds is asked for each time.
func newMetrics(reg prometheus.Registerer, rebuilds func() int64) *metrics {
	m := &metrics{
		flushSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "streambus_flush_seconds", Help: "Time of one flush of everything dirty in the data directory.",
			Buckets: prometheus.ExponentialBuckets(50e-6, 2, 18),
		}),
		damaged: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "streambus_scrub_damage_total", Help: "Places in sealed segments that the background check found damaged.",
		}),
	}
	reg.MustRegister(m.flushSeconds, m.damaged, prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "streambus_index_rebuilds_total", Help: "Indexes of segments that did not fit them and were made anew.",
	}, func() float64 { return float64(rebuilds()) }))
	return m
}
