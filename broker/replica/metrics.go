package replica

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/streambus/streambus/broker/partition"
)

type metrics struct {
	flushSeconds                  prometheus.Histogram
	damaged                       prometheus.Counter
	shrinks, expands, failedISR   prometheus.Counter
	replicationIn, replicationOut prometheus.Counter
}

// newMetrics registers what is counted; rebuilds is asked for each time.
func newMetrics(reg prometheus.Registerer, rebuilds func() int64) *metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		reg.MustRegister(c)
		return c
	}
	m := &metrics{
		flushSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "streambus_flush_seconds", Help: "Time of one flush of everything dirty in the data directory.",
			Buckets: prometheus.ExponentialBuckets(50e-6, 2, 18),
		}),
		damaged: counter("streambus_scrub_damage_total", "Places in sealed segments that the background check found damaged."),

		shrinks:   counter("kafka_server_replicamanager_isrshrinks_total", "Changes that this leader asked for and the controllers made, which took replicas out of the ISR."),
		expands:   counter("kafka_server_replicamanager_isrexpands_total", "Changes that this leader asked for and the controllers made, which brought replicas into the ISR."),
		failedISR: counter("kafka_server_replicamanager_failedisrupdates_total", "Changes of the ISR that this leader asked for and the controllers did not make."),

		replicationIn:  counter("kafka_server_brokertopicmetrics_replicationbytesin_total", "Bytes of batches that followers here got from their leaders."),
		replicationOut: counter("kafka_server_brokertopicmetrics_replicationbytesout_total", "Bytes of batches in answers to followers elsewhere."),
	}
	reg.MustRegister(m.flushSeconds, prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "streambus_index_rebuilds_total", Help: "Indexes of segments that did not fit them and were made anew.",
	}, func() float64 { return float64(rebuilds()) }))
	return m
}

// altered counts how a change of the ISR ended. One without an answer has not ended:
// it is asked for again. What the controllers change by themselves, as when they
// fence a broker, counts for no leader, as in Apache Kafka.
func (m *metrics) altered(c partition.Change, v Verdict) {
	switch {
	case v == Unanswered:
	case v != Made:
		m.failedISR.Inc()
	case c.Shrinks:
		m.shrinks.Inc()
	default:
		m.expands.Inc()
	}
}
