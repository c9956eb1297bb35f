package server

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/streambus/streambus/protocol"
)

// metrics has one series per API, made at start: observing costs no lookup by
// label and the number of series is the number of APIs.
type metrics struct {
	requestBytes       map[int16]prometheus.Counter
	requestTime        map[int16]prometheus.Observer
	refusedConnections prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, connections func() int) *metrics {
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "streambus_request_bytes_total", Help: "Bytes of requests received, by API.",
	}, []string{"request"})
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "streambus_request_seconds", Help: "Time from a request's last byte to its answer, by API.",
		Buckets: prometheus.ExponentialBuckets(50e-6, 2, 18),
	}, []string{"request"})
	m := &metrics{
		requestBytes: map[int16]prometheus.Counter{},
		requestTime:  map[int16]prometheus.Observer{},
		refusedConnections: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "streambus_connections_refused_total", Help: "Connections closed for what they sent.",
		}),
	}
	open := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "streambus_connections", Help: "Open client connections.",
	}, func() float64 { return float64(connections()) })
	for _, a := range protocol.APIs() {
		m.requestBytes[a.Key] = bytes.WithLabelValues(a.Name())
		m.requestTime[a.Key] = seconds.WithLabelValues(a.Name())
	}
	reg.MustRegister(bytes, seconds, m.refusedConnections, open)
	return m
}

func (m *metrics) bytesIn(key int16, n int) { m.requestBytes[key].Add(float64(n)) }

func (m *metrics) answered(key int16, took time.Duration) {
	m.requestTime[key].Observe(took.Seconds())
}
