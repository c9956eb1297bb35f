package raftmeta

import (
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/streambus/streambus/raftmeta/quorum"
)

type metrics struct {
	readies, advances, dropped prometheus.Counter
	waiting, reserve           prometheus.Gauge
	syncSeconds, turnSeconds   prometheus.Histogram

	term, commit, applied, unapplied, last, leader prometheus.Gauge
	state                                          *prometheus.GaugeVec
	was                                            string // what state says; the goroutine of Run only

	leaders        prometheus.Counter
	ledBy, ledIn   uint64                    // raft id and term of the last leader; the goroutine of Run only
	oldest         atomic.Pointer[time.Time] // since when the command waits that waits longest, nil for none; not a number: see saving
	members        atomic.Pointer[[]quorum.Progress]
	match, pending *prometheus.Desc
	peerState      *prometheus.Desc
}

func newMetrics(reg prometheus.Registerer) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	m := &metrics{
		readies:  prometheus.NewCounter(prometheus.CounterOpts{Name: "streambus_raft_ready_total", Help: "Steps that raft asked to be made durable."}),
		advances: prometheus.NewCounter(prometheus.CounterOpts{Name: "streambus_raft_advance_total", Help: "Steps that were made durable and applied; equal to the above when idle."}),
		dropped:  prometheus.NewCounter(prometheus.CounterOpts{Name: "streambus_raft_refused_total", Help: "Messages of other controllers that were not taken since this one was busy; they are sent again."}),
		waiting:  gauge("streambus_raft_waiting", "Commands that wait for their outcome."),
		reserve:  gauge("streambus_raft_reserve_bytes", "Disk space kept for the raft log; 0 when it was given up since the disk is full, or there was too little for it."),
		syncSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "streambus_raft_sync_seconds", Help: "Time of one durable write of the raft log.",
			Buckets: prometheus.ExponentialBuckets(100e-6, 2, 16),
		}),
		turnSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "streambus_raft_turn_seconds", Help: "Time of one turn of the controller's loop without writes of the raft log: everybody else waits for so long.",
			Buckets: prometheus.ExponentialBuckets(20e-6, 2, 16),
		}),
		term:      gauge("kafka_server_raftmetrics_current_epoch", "The raft term."),
		commit:    gauge("kafka_server_raftmetrics_high_watermark", "The last raft index that is committed."),
		last:      gauge("kafka_server_raftmetrics_log_end_offset", "The last raft index in the log."),
		leader:    gauge("kafka_server_raftmetrics_current_leader", "The node that leads the quorum, -1 where none is known."),
		applied:   gauge("streambus_raft_applied_index", "The last raft index that is applied."),
		unapplied: gauge("streambus_raft_unapplied", "Raft entries that are committed and not applied."),
		state: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kafka_server_raftmetrics_current_state", Help: "1 for what the raft node is.",
		}, []string{"current_state"}),
	}
	m.leaders = prometheus.NewCounter(prometheus.CounterOpts{Name: "streambus_raft_leader_changes_total", Help: "How often a leader was elected, as this controller saw it; the same one again counts."})
	m.match = prometheus.NewDesc("streambus_raft_peer_match_index", "The last raft index that a member of the quorum has, as the leader knows.", []string{"peer"}, nil)
	m.pending = prometheus.NewDesc("streambus_raft_peer_snapshot_index", "The raft index of the snapshot that the leader is sending to a member, 0 for none.", []string{"peer"}, nil)
	m.peerState = prometheus.NewDesc("streambus_raft_peer_state", "1 for what the leader does about a member.", []string{"peer", "state"}, nil)
	reg.MustRegister(m.leaders, m, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "streambus_raft_waiting_seconds", Help: "How long the command has waited for its outcome that waits longest; 0 if none does.",
	}, func() float64 {
		if since := m.oldest.Load(); since != nil {
			return time.Since(*since).Seconds()
		}
		return 0
	}))
	reg.MustRegister(m.readies, m.advances, m.dropped, m.waiting, m.reserve, m.syncSeconds, m.turnSeconds, m.term, m.commit, m.applied, m.unapplied, m.last, m.leader, m.state)
	return m
}

// Describe implements prometheus.Collector for what the leader knows of the members. A node that does not lead has none
// of it: what it knew once is not true for long.
func (m *metrics) Describe(out chan<- *prometheus.Desc) {
	out <- m.match
	out <- m.pending
	out <- m.peerState
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	members := m.members.Load()
	if members == nil {
		return
	}
	for _, p := range *members {
		peer := strconv.FormatUint(p.RaftID, 10)
		out <- prometheus.MustNewConstMetric(m.match, prometheus.GaugeValue, float64(p.Match), peer)
		out <- prometheus.MustNewConstMetric(m.pending, prometheus.GaugeValue, float64(p.Snapshot), peer)
		out <- prometheus.MustNewConstMetric(m.peerState, prometheus.GaugeValue, 1, peer, p.State)
	}
}

// waits takes over since when the command waits that waits longest.
func (m *metrics) waits(since time.Time) {
	if since.IsZero() {
		m.oldest.Store(nil)
		return
	}
	m.oldest.Store(&since)
}

// observe takes over where the raft node stands, and which node leads.
func (m *metrics) observe(s quorum.Status, leader int32) {
	if s.Leader != 0 && (s.Leader != m.ledBy || s.Term != m.ledIn) {
		m.ledBy, m.ledIn = s.Leader, s.Term
		m.leaders.Inc()
	}
	m.term.Set(float64(s.Term))
	m.commit.Set(float64(s.Commit))
	m.applied.Set(float64(s.Applied))
	m.unapplied.Set(float64(s.Commit - s.Applied))
	m.last.Set(float64(s.Last))
	m.leader.Set(float64(leader))
	if s.State != m.was {
		m.was = s.State
		m.state.Reset()
		m.state.WithLabelValues(s.State).Set(1)
	}
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
