package replica

import (
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// maxTopicSeries bounds the topics that have series of their own: at seven each
// they are some 700 KB of a scrape. It is the first so many that are used: a
// series that comes and goes with the traffic of others is of no use for a rate.
const maxTopicSeries = 1000

// traffic is what clients have done, with one topic or with all.
type traffic struct {
	messagesIn, bytesIn, bytesOut atomic.Int64
	produces, failedProduces      atomic.Int64
	fetches, failedFetches        atomic.Int64
}

func (t *traffic) appended(messages, bytes int64) {
	t.messagesIn.Add(messages)
	t.bytesIn.Add(bytes)
}

func (t *traffic) produce(failed bool) {
	t.produces.Add(1)
	if failed {
		t.failedProduces.Add(1)
	}
}

func (t *traffic) fetch(bytes int64, failed bool) {
	t.fetches.Add(1)
	t.bytesOut.Add(bytes)
	if failed {
		t.failedFetches.Add(1)
	}
}

// CountProduce counts one partition of a produce request. r is nil if there is
// none.
func (m *Manager) CountProduce(r *Replica, err error) {
	m.traffic.produce(err != nil)
	m.trafficOf(r).produce(err != nil)
}

// CountFetch counts one partition of an answer to a fetch. r is nil if there is
// none.
func (m *Manager) CountFetch(r *Replica, bytes int64, err error) {
	m.traffic.fetch(bytes, err != nil)
	m.trafficOf(r).fetch(bytes, err != nil)
}

// CountReplicated counts one partition of an answer to a follower's fetch. It is not
// among what clients have done.
func (m *Manager) CountReplicated(bytes int64) { m.metrics.replicationOut.Add(float64(bytes)) }

func (m *Manager) countAppend(r *Replica, messages, bytes int64) {
	m.traffic.appended(messages, bytes)
	m.trafficOf(r).appended(messages, bytes)
}

// trafficOf is that of a replica's topic, looked for when the replica is first
// used. Topics that have no series of their own share one that nobody sees; a
// replica that once came to it stays with it.
func (m *Manager) trafficOf(r *Replica) *traffic {
	if r == nil {
		return &m.others
	}
	if t := r.traffic.Load(); t != nil {
		return t
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.topics[r.key.topic]
	switch {
	case t != nil:
	case m.parts[r.key] != r: // just deleted
		return &m.others
	case len(m.topics) >= maxTopicSeries:
		r.traffic.Store(&m.others)
		return &m.others
	default:
		t = &topicTraffic{topic: r.name[:strings.LastIndexByte(r.name, '-')]}
		m.topics[r.key.topic] = t
	}
	r.traffic.Store(&t.traffic)
	return &t.traffic
}

type topicTraffic struct {
	topic string
	traffic
}

// trafficCollector gives it to a scrape, under the names that it has with Apache
// Kafka. A topic's series and the one over all topics share a name, as there; a
// registry takes that only from a collector that describes nothing.
type trafficCollector struct {
	m        *Manager
	families []trafficFamily
}

type trafficFamily struct {
	all, topic *prometheus.Desc
	value      func(*traffic) *atomic.Int64
}

func newTrafficCollector(m *Manager) *trafficCollector {
	c := &trafficCollector{m: m}
	add := func(name, help string, value func(*traffic) *atomic.Int64) {
		name = "kafka_server_brokertopicmetrics_" + name + "_total"
		c.families = append(c.families, trafficFamily{
			prometheus.NewDesc(name, help, nil, nil), prometheus.NewDesc(name, help, []string{"topic"}, nil), value,
		})
	}
	add("messagesin", "Records appended.", func(t *traffic) *atomic.Int64 { return &t.messagesIn })
	add("bytesin", "Bytes of batches appended, as they are stored.", func(t *traffic) *atomic.Int64 { return &t.bytesIn })
	add("bytesout", "Bytes of batches in answers to fetches.", func(t *traffic) *atomic.Int64 { return &t.bytesOut })
	add("totalproducerequests", "Partitions of produce requests.", func(t *traffic) *atomic.Int64 { return &t.produces })
	add("failedproducerequests", "Partitions of produce requests that were refused.", func(t *traffic) *atomic.Int64 { return &t.failedProduces })
	add("totalfetchrequests", "Partitions in answers to fetches.", func(t *traffic) *atomic.Int64 { return &t.fetches })
	add("failedfetchrequests", "Partitions in answers to fetches that were refused.", func(t *traffic) *atomic.Int64 { return &t.failedFetches })
	return c
}

func (c *trafficCollector) Describe(chan<- *prometheus.Desc) {}

func (c *trafficCollector) Collect(out chan<- prometheus.Metric) {
	c.m.mu.RLock()
	topics := make([]*topicTraffic, 0, len(c.m.topics))
	for _, t := range c.m.topics {
		topics = append(topics, t)
	}
	c.m.mu.RUnlock()
	for _, f := range c.families {
		out <- prometheus.MustNewConstMetric(f.all, prometheus.CounterValue, float64(f.value(&c.m.traffic).Load()))
		for _, t := range topics {
			out <- prometheus.MustNewConstMetric(f.topic, prometheus.CounterValue, float64(f.value(&t.traffic).Load()), t.topic)
		}
	}
}
