package coordinator

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/streambus/streambus/broker/group"
)

// metrics are what is counted as it comes, and what shards are asked at a scrape.
// The names are those of Apache Kafka's GroupMetadataManager and
// group-coordinator-metrics.
type metrics struct {
	m *Manager

	commits, rebalances prometheus.Counter
	loadSeconds         prometheus.Histogram

	groups, offsets, partitions *prometheus.Desc
	inState                     map[group.State]*prometheus.Desc
}

func newMetrics(m *Manager, reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		reg.MustRegister(c)
		return c
	}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	const manager, coordinator = "kafka_coordinator_group_groupmetadatamanager_", "kafka_server_group_coordinator_metrics_"
	x := &metrics{
		m:          m,
		commits:    counter(coordinator+"offset_commit_count", "Offsets committed."),
		rebalances: counter(coordinator+"group_completed_rebalance_count", "Rebalances that ended with an assignment."),
		loadSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "streambus_group_load_seconds", Help: "Time from when this broker began to lead a partition of __consumer_offsets to when it coordinates its groups.",
			Buckets: prometheus.ExponentialBuckets(1e-3, 4, 10),
		}),
		groups:     desc(manager+"numgroups", "Groups coordinated here."),
		offsets:    desc(manager+"numoffsets", "Offsets that they have committed."),
		partitions: desc(coordinator+"num_partitions", "Partitions of __consumer_offsets led here, by state.", "state"),
		inState: map[group.State]*prometheus.Desc{
			group.Empty:               desc(manager+"numgroupsempty", "Groups coordinated here that nobody is in."),
			group.PreparingRebalance:  desc(manager+"numgroupspreparingrebalance", "Groups coordinated here whose members are joining."),
			group.CompletingRebalance: desc(manager+"numgroupscompletingrebalance", "Groups coordinated here that wait for their leader's assignment."),
			group.Stable:              desc(manager+"numgroupsstable", "Groups coordinated here whose members have their assignments."),
		},
	}
	reg.MustRegister(x.loadSeconds, x)
	return x
}

// Describe implements prometheus.Collector.
func (x *metrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range x.inState {
		out <- d
	}
	out <- x.groups
	out <- x.offsets
	out <- x.partitions
}

// Collect implements prometheus.Collector.
func (x *metrics) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	states, groups, offsets := map[group.State]int{}, 0, 0
	partitions := map[group.TermState]int{}
	for _, s := range x.m.all() {
		s.mu.Lock()
		partitions[s.term.State()]++
		if core := s.term.Shard(); core != nil {
			byState, n := core.Count()
			offsets += n
			for state, n := range byState {
				states[state] += n
				groups += n
			}
		}
		s.mu.Unlock()
	}
	for state, d := range x.inState {
		gauge(d, states[state])
	}
	gauge(x.groups, groups)
	gauge(x.offsets, offsets)
	gauge(x.partitions, partitions[group.Loading], "loading")
	gauge(x.partitions, partitions[group.Active], "active")
	gauge(x.partitions, partitions[group.Ended], "failed")
}

// Committed counts offsets that were committed.
func (m *Manager) Committed(n int) { m.metrics.commits.Add(float64(n)) }

// Survey tells of the groups here that take wants, see [group.Shard.Survey].
func (m *Manager) Survey(take func(id string, offsets int) bool) (all []group.Summary) {
	for _, s := range m.all() {
		s.mu.Lock()
		if core := s.term.Shard(); core != nil {
			all = append(all, core.Survey(take)...)
		}
		s.mu.Unlock()
	}
	return all
}
