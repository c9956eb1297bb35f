package raftmeta

import (
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	readies, advances prometheus.Counter
	waiting           prometheus.Gauge
	syncSeconds       prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		readies:  prometheus.NewCounter(prometheus.CounterOpts{Name: "streambus_raft_ready_total", Help: "Steps that raft asked to be made durable."}),
		advances: prometheus.NewCounter(prometheus.CounterOpts{Name: "streambus_raft_advance_total", Help: "Steps that were made durable and applied; equal to the above when idle."}),
		waiting:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "streambus_raft_waiting", Help: "Commands that wait for their outcome."}),
		syncSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "streambus_raft_sync_seconds", Help: "Time of one durable write of the raft log.",
			Buckets: prometheus.ExponentialBuckets(100e-6, 2, 16),
		}),
	}
	reg.MustRegister(m.readies, m.advances, m.waiting, m.syncSeconds)
	return m
}

// raftLogger gives raft's own lines to slog. Its information is for who debugs raft.
type raftLogger struct{ log *slog.Logger }

func (l raftLogger) Debug(v ...any) { l.log.Debug("raft: " + fmt.Sprint(v...)) }
func (l raftLogger) Debugf(format string, v ...any) {
	l.log.Debug("raft: " + fmt.Sprintf(format, v...))
}
func (l raftLogger) Info(v ...any)                 { l.Debug(v...) }
func (l raftLogger) Infof(format string, v ...any) { l.Debugf(format, v...) }
func (l raftLogger) Warning(v ...any)              { l.log.Warn("raft: " + fmt.Sprint(v...)) }
func (l raftLogger) Warningf(format string, v ...any) {
	l.log.Warn("raft: " + fmt.Sprintf(format, v...))
}
func (l raftLogger) Error(v ...any) { l.log.Error("raft: " + fmt.Sprint(v...)) }
func (l raftLogger) Errorf(format string, v ...any) {
	l.log.Error("raft: " + fmt.Sprintf(format, v...))
}
func (l raftLogger) Fatal(v ...any)                 { l.Panic(v...) }
func (l raftLogger) Fatalf(format string, v ...any) { l.Panicf(format, v...) }
func (l raftLogger) Panic(v ...any)                 { panic("raft: " + fmt.Sprint(v...)) }
func (l raftLogger) Panicf(format string, v ...any) { panic("raft: " + fmt.Sprintf(format, v...)) }
