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

	compactions, compactionFailures prometheus.Counter
	compactedFrom, compactedTo      prometheus.Counter
	compactionSeconds               prometheus.Counter
	dirtiest                        prometheus.Gauge
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

		compactions:        counter("streambus_compactions_total", "Passes of compaction over a partition."),
		compactionFailures: counter("streambus_compaction_failures_total", "Passes of compaction that failed."),
		compactedFrom:      counter("streambus_compaction_replaced_bytes_total", "Bytes of the segments that compaction replaced."),
		compactedTo:        counter("streambus_compaction_kept_bytes_total", "Bytes of the segments that it put in their place."),
		compactionSeconds:  counter("streambus_compaction_seconds_total", "Time that compaction was at work, its pauses for log.cleaner.io.max.bytes.per.second included."),
		dirtiest: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "streambus_compaction_max_dirty_ratio", Help: "The largest share of a compacted partition's bytes that was not compacted yet, when it was last looked for.",
		}),
	}
	reg.MustRegister(m.dirtiest, m.flushSeconds, prometheus.NewCounterFunc(prometheus.CounterOpts{
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
