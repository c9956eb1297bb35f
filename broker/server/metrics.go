package server

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/streambus/streambus/protocol"
)

// metrics has one series per API, version, reason and listener, made before the
// first is counted: counting costs no lookup by label, and there are never more.
type metrics struct {
	requests     map[int16][]prometheus.Counter // by version
	requestBytes map[int16]prometheus.Counter
	requestTime  map[int16]prometheus.Observer
	refused      map[string]prometheus.Counter // by reason

	open                                *prometheus.GaugeVec
	accepted, closed, bytesIn, bytesOut *prometheus.CounterVec
}

// listenerMetrics are those of one listener.
type listenerMetrics struct {
	open                                prometheus.Gauge
	accepted, closed, bytesIn, bytesOut prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, memory *frameMemory) *metrics {
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	requests := counters("kafka_network_requestmetrics_requests_total", "Requests, by API and version.", "request", "version")
	bytes := counters("streambus_request_bytes_total", "Bytes of requests received, by API.", "request")
	refused := counters("streambus_connections_refused_total", "Connections refused, or closed for what they sent, by reason.", "reason")
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "streambus_request_seconds", Help: "Time from a request's last byte to its answer, by API.",
		Buckets: prometheus.ExponentialBuckets(50e-6, 2, 18),
	}, []string{"request"})
	m := &metrics{
		requests: map[int16][]prometheus.Counter{}, requestBytes: map[int16]prometheus.Counter{},
		requestTime: map[int16]prometheus.Observer{}, refused: map[string]prometheus.Counter{},
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kafka_server_socket_server_metrics_connection_count", Help: "Open client connections, by listener.",
		}, []string{"listener"}),
		accepted: counters("kafka_server_socket_server_metrics_connection_creation_total", "Connections accepted, by listener.", "listener"),
		closed:   counters("kafka_server_socket_server_metrics_connection_close_total", "Connections closed, by listener.", "listener"),
		bytesIn:  counters("kafka_server_socket_server_metrics_incoming_byte_total", "Bytes of requests received, by listener.", "listener"),
		bytesOut: counters("kafka_server_socket_server_metrics_outgoing_byte_total", "Bytes of answers sent, by listener.", "listener"),
	}
	held := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "streambus_request_memory_bytes", Help: "Memory that requests hold which are arriving or being started.",
	}, func() float64 { return float64(memory.inUse.Load()) })
	limit := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "streambus_request_memory_limit_bytes", Help: "The most that they may hold.",
	}, func() float64 { return float64(memory.limit) })
	for _, a := range protocol.APIs() {
		for v := range a.Max + 1 {
			m.requests[a.Key] = append(m.requests[a.Key], requests.WithLabelValues(a.Name(), strconv.Itoa(int(v))))
		}
		m.requestBytes[a.Key] = bytes.WithLabelValues(a.Name())
		m.requestTime[a.Key] = seconds.WithLabelValues(a.Name())
	}
	for _, r := range reasons {
		m.refused[r] = refused.WithLabelValues(r)
	}
	reg.MustRegister(requests, bytes, seconds, refused, m.open, m.accepted, m.closed, m.bytesIn, m.bytesOut, held, limit)
	return m
}

func (m *metrics) listener(name string) *listenerMetrics {
	return &listenerMetrics{
		m.open.WithLabelValues(name),
		m.accepted.WithLabelValues(name), m.closed.WithLabelValues(name),
		m.bytesIn.WithLabelValues(name), m.bytesOut.WithLabelValues(name),
	}
}

// arrived counts a request. One of a version that is not served, which only
// ApiVersions may be, counts as the version it is answered in.
func (m *metrics) arrived(key, version int16, bytes int) {
	if version < 0 || int(version) >= len(m.requests[key]) {
		version = 0
	}
	m.requests[key][version].Inc()
	m.requestBytes[key].Add(float64(bytes))
}

func (m *metrics) answered(key int16, took time.Duration) {
	m.requestTime[key].Observe(took.Seconds())
}
