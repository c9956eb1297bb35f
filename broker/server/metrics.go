package server

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/streambus/streambus/protocol"
)

// Metrics are those of all servers of a node, which has one for each side.
type Metrics struct {
	requests, bytes, refused *prometheus.CounterVec
	seconds                  *prometheus.HistogramVec

	open                                *prometheus.GaugeVec
	accepted, closed, bytesIn, bytesOut *prometheus.CounterVec

	mu     sync.Mutex // guards the following
	memory []*frameMemory
}

// metrics are those of one server. It has one series per API, version, reason and
// listener, made before the first is counted: counting costs no lookup by label,
// and there are never more.
type metrics struct {
	*Metrics
	requests     map[int16][]prometheus.Counter // by version
	requestBytes map[int16]prometheus.Counter
	requestTime  map[int16]prometheus.Observer
	refused      map[string]prometheus.Counter // by reason
}

// listenerMetrics are those of one listener.
type listenerMetrics struct {
	open                                prometheus.Gauge
	accepted, closed, bytesIn, bytesOut prometheus.Counter
}

// NewMetrics makes the metrics of servers that are still to be made.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &Metrics{
		requests: counters("kafka_network_requestmetrics_requests_total", "Requests, by API and version.", "request", "version"),
		bytes:    counters("streambus_request_bytes_total", "Bytes of requests received, by API.", "request"),
		refused:  counters("streambus_connections_refused_total", "Connections refused, or closed for what they sent, by reason.", "reason"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "streambus_request_seconds", Help: "Time from a request's last byte to its answer, by API.",
			Buckets: prometheus.ExponentialBuckets(50e-6, 2, 18),
		}, []string{"request"}),
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
	}, func() float64 { return m.total(func(f *frameMemory) int64 { return f.inUse.Load() }) })
	limit := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "streambus_request_memory_limit_bytes", Help: "The most that they may hold.",
	}, func() float64 { return m.total(func(f *frameMemory) int64 { return f.limit }) })
	reg.MustRegister(m.requests, m.bytes, m.seconds, m.refused, m.open, m.accepted, m.closed, m.bytesIn, m.bytesOut, held, limit)
	return m
}

// total sums over the servers.
func (m *Metrics) total(of func(*frameMemory) int64) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	var sum int64
	for _, f := range m.memory {
		sum += of(f)
	}
	return float64(sum)
}

// of makes the metrics of a server of this side.
func (m *Metrics) of(side protocol.Side, memory *frameMemory) *metrics {
	m.mu.Lock()
	m.memory = append(m.memory, memory)
	m.mu.Unlock()
	s := &metrics{
		Metrics: m, requests: map[int16][]prometheus.Counter{}, requestBytes: map[int16]prometheus.Counter{},
		requestTime: map[int16]prometheus.Observer{}, refused: map[string]prometheus.Counter{},
	}
	for _, a := range protocol.APIs(side) {
		for v := range a.Max + 1 {
			s.requests[a.Key] = append(s.requests[a.Key], m.requests.WithLabelValues(a.Name(), strconv.Itoa(int(v))))
		}
		s.requestBytes[a.Key] = m.bytes.WithLabelValues(a.Name())
		s.requestTime[a.Key] = m.seconds.WithLabelValues(a.Name())
	}
	for _, r := range reasons {
		s.refused[r] = m.refused.WithLabelValues(r)
	}
	return s
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
