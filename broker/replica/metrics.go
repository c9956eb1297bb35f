package replica

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	flushSeconds prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		flushSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "streambus_flush_seconds", Help: "Time of one flush of everything dirty in the data directory.",
			Buckets: prometheus.ExponentialBuckets(50e-6, 2, 18),
		}),
	}
	reg.MustRegister(m.flushSeconds)
	return m
}
