package broker

import (
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/streambus/streambus/broker/replica"
	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage"
)

// A scrape is bounded: of more topics and partitions than these only sums are
// given, and how many were left out. A partition has sixteen series, a thousand of
// them are some 1.5 MB of text. It is the first ones by the order of their
// creation, so that series do not come and go.
const (
	maxPartitionSeries = 1000
	maxTopicSeries     = 1000
)

// state answers scrapes from what the broker is at that moment. Nothing is kept
// between them, so an idle partition costs nothing.
//
// What is true of a partition wherever one asks is told by its leader only, and
// what is true of the cluster by the active controller only: sums over brokers
// come out right.
type state struct {
	node      int32
	image     func() *image.Image
	active    func() bool // this controller is the active one
	replicas  *replica.Manager
	dir       *storage.Dir
	connLimit int
	lags      *lags

	descs []*prometheus.Desc

	partitionCount, leaderCount, offlineReplicas, underReplicated, underMinISR, atMinISR         *prometheus.Desc
	reassigning, maxLag                                                                          *prometheus.Desc
	activeController, activeBrokers, fencedBrokers, topics, partitions, offlinePartitions, moved *prometheus.Desc
	brokers, lastApplied, withoutSeries, diskFree, diskTotal, diskFailed, openLogFiles, maxConns *prometheus.Desc

	logSize, logSegments, logStart, logEnd                                                                       *prometheus.Desc
	clusterReplicas, clusterISR, clusterUnderReplicated, clusterUnderMin, clusterAtMin                           *prometheus.Desc
	groupOffset, groupOffsetSum, groupLag, groupLagSum, groupLagSeconds, groupMembers                            *prometheus.Desc
	topicPartitions, currentOffset, oldestOffset, leader, replicasOf, inSync, preferred, exporterUnderReplicated *prometheus.Desc
}

func newState(b *Broker, connLimit int) *state {
	s := &state{node: b.cfg.NodeID(), image: b.view.Image, active: b.activeController, replicas: b.replicas, dir: b.dir, connLimit: connLimit, lags: newLags(b)}
	desc := func(to **prometheus.Desc, name, help string, labels ...string) {
		*to = prometheus.NewDesc(name, help, labels, nil)
		s.descs = append(s.descs, *to)
	}
	desc(&s.partitionCount, "kafka_server_replicamanager_partitioncount", "Partitions with a replica on this broker.")
	desc(&s.leaderCount, "kafka_server_replicamanager_leadercount", "Partitions that this broker leads.")
	desc(&s.offlineReplicas, "kafka_server_replicamanager_offlinereplicacount", "Replicas on this broker whose log cannot be used.")
	desc(&s.underReplicated, "kafka_server_replicamanager_underreplicatedpartitions", "Partitions led here with fewer in-sync replicas than replicas.")
	desc(&s.underMinISR, "kafka_server_replicamanager_underminisrpartitioncount", "Partitions led here with fewer in-sync replicas than min.insync.replicas.")
	desc(&s.atMinISR, "kafka_server_replicamanager_atminisrpartitioncount", "Partitions led here with exactly min.insync.replicas in-sync replicas.")

	desc(&s.reassigning, "kafka_server_replicamanager_reassigningpartitions", "Partitions led here whose replicas are being moved.")
	desc(&s.maxLag, "kafka_server_replicafetchermanager_maxlag", "Of what this broker follows, the most acknowledged records that one partition lacks here.", "clientId")

	desc(&s.activeController, "kafka_controller_kafkacontroller_activecontrollercount", "1 on the active controller.")
	desc(&s.activeBrokers, "kafka_controller_kafkacontroller_activebrokercount", "Brokers that are not fenced.")
	desc(&s.fencedBrokers, "kafka_controller_kafkacontroller_fencedbrokercount", "Brokers that are fenced.")
	desc(&s.topics, "kafka_controller_kafkacontroller_globaltopiccount", "Topics of the cluster.")
	desc(&s.partitions, "kafka_controller_kafkacontroller_globalpartitioncount", "Partitions of the cluster.")
	desc(&s.offlinePartitions, "kafka_controller_kafkacontroller_offlinepartitionscount", "Partitions without a leader.")
	desc(&s.moved, "kafka_controller_kafkacontroller_preferredreplicaimbalancecount", "Partitions that another than their first replica leads.")
	desc(&s.brokers, "kafka_brokers", "Brokers of the cluster.")
	desc(&s.lastApplied, "kafka_server_brokermetadatametrics_last_applied_record_offset", "The raft index of the metadata that this broker acts on.")

	desc(&s.withoutSeries, "streambus_metrics_left_out", "Topics, partitions, groups and their partitions that have no series of their own since there are too many.", "of")
	desc(&s.diskFree, "streambus_disk_free_bytes", "Free space on the disk of the data directory.")
	desc(&s.diskTotal, "streambus_disk_total_bytes", "Size of the disk of the data directory.")
	desc(&s.diskFailed, "streambus_disk_failed", "1 once the data directory has failed: it is closed until the next start.")
	desc(&s.openLogFiles, "streambus_log_files_open", "Open files of logs.")
	desc(&s.maxConns, "streambus_connections_limit", "How many connections there may be.")

	of := []string{"topic", "partition"}
	desc(&s.logSize, "kafka_log_log_size", "Bytes of the log's segments.", of...)
	desc(&s.logSegments, "kafka_log_log_numlogsegments", "The log's segments.", of...)
	desc(&s.logStart, "kafka_log_log_logstartoffset", "The first offset in the log.", of...)
	desc(&s.logEnd, "kafka_log_log_logendoffset", "The offset of the next record.", of...)
	desc(&s.clusterReplicas, "kafka_cluster_partition_replicascount", "Replicas; by the leader.", of...)
	desc(&s.clusterISR, "kafka_cluster_partition_insyncreplicascount", "In-sync replicas; by the leader.", of...)
	desc(&s.clusterUnderReplicated, "kafka_cluster_partition_underreplicated", "1 with fewer in-sync replicas than replicas; by the leader.", of...)
	desc(&s.clusterUnderMin, "kafka_cluster_partition_underminisr", "1 with fewer in-sync replicas than min.insync.replicas; by the leader.", of...)
	desc(&s.clusterAtMin, "kafka_cluster_partition_atminisr", "1 with exactly min.insync.replicas in-sync replicas; by the leader.", of...)

	desc(&s.topicPartitions, "kafka_topic_partitions", "Partitions of the topic; by the leader of its first.", "topic")
	desc(&s.currentOffset, "kafka_topic_partition_current_offset", "The high watermark; by the leader.", of...)
	desc(&s.oldestOffset, "kafka_topic_partition_oldest_offset", "The first offset in the log; by the leader.", of...)
	desc(&s.leader, "kafka_topic_partition_leader", "The leader's node; by itself.", of...)
	desc(&s.replicasOf, "kafka_topic_partition_replicas", "Replicas; by the leader.", of...)
	desc(&s.inSync, "kafka_topic_partition_in_sync_replica", "In-sync replicas; by the leader.", of...)
	desc(&s.preferred, "kafka_topic_partition_leader_is_preferred", "1 where the first replica leads; by the leader.", of...)
	desc(&s.exporterUnderReplicated, "kafka_topic_partition_under_replicated_partition", "1 with fewer in-sync replicas than replicas; by the leader.", of...)

	group, ofGroup := "consumergroup", []string{"consumergroup", "topic", "partition"}
	desc(&s.groupMembers, "kafka_consumergroup_members", "Members of the group; by its coordinator.", group)
	desc(&s.groupOffset, "kafka_consumergroup_current_offset", "The group's committed offset; by its coordinator.", ofGroup...)
	desc(&s.groupOffsetSum, "kafka_consumergroup_current_offset_sum", "The group's committed offsets of all partitions; by its coordinator.", group, "topic")
	desc(&s.groupLag, "kafka_consumergroup_lag", "Records between the group's committed offset and the high watermark; by its coordinator.", ofGroup...)
	desc(&s.groupLagSum, "kafka_consumergroup_lag_sum", "The same of all partitions; by its coordinator.", group, "topic")
	desc(&s.groupLagSeconds, "kafka_consumergroup_lag_seconds", "How long ago the first record was written that the group has not committed, 0 if there is none; by its coordinator.", ofGroup...)
	return s
}

// Describe implements prometheus.Collector.
func (s *state) Describe(out chan<- *prometheus.Desc) {
	for _, d := range s.descs {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (s *state) Collect(out chan<- prometheus.Metric) {
	sc := scrape{state: s, img: s.image(), out: out}
	for t := range sc.img.Topics() {
		sc.topic(t)
	}
	sc.sums()
	sc.groups()
	sc.cluster()
	sc.disk()
}

// scrape is one answer under way.
type scrape struct {
	*state
	img *image.Image
	out chan<- prometheus.Metric

	topicsSeen, partitionsSeen                                             int
	here, led, broken, fewInSync, belowMin, onMin, withoutLeader, notFirst int
	moving                                                                 int
	lag                                                                    int64
}

func (sc *scrape) gauge(d *prometheus.Desc, v float64, labels ...string) {
	sc.out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (sc *scrape) topic(t *image.Topic) {
	if first, ok := t.Partition(0); ok && first.Leader == sc.node {
		if sc.topicsSeen++; sc.topicsSeen <= maxTopicSeries {
			sc.gauge(sc.topicPartitions, float64(t.NumPartitions()), t.Name)
		}
	}
	for i := range t.NumPartitions() {
		p, _ := t.Partition(i)
		sc.withoutLeader += one(p.Leader == image.NoLeader)
		sc.notFirst += one(p.Leader != p.Replicas[0])
		if p.HasReplica(sc.node) {
			sc.partition(t, i, p)
		}
	}
}

// partition tells of one with a replica here.
func (sc *scrape) partition(t *image.Topic, i int32, p *image.Partition) {
	var st replica.Status
	r, err := sc.replicas.Find(t.ID, i)
	if err == nil {
		st = r.Status()
		err = st.Err
	}
	leads := p.Leader == sc.node
	minISR := min(st.MinISR, len(p.Replicas))
	few, below, at := len(p.ISR) < len(p.Replicas), len(p.ISR) < minISR, len(p.ISR) == minISR
	sc.here++
	sc.broken += one(err != nil)
	sc.lag = max(sc.lag, st.Lag)
	if leads {
		sc.led++
		sc.fewInSync += one(few)
		sc.belowMin += one(below)
		sc.onMin += one(at)
		sc.moving += one(p.Moving != nil)
	}
	if sc.partitionsSeen++; sc.partitionsSeen > maxPartitionSeries {
		return
	}
	of := []string{t.Name, strconv.Itoa(int(i))}
	sc.gauge(sc.logSize, float64(st.Bytes), of...)
	sc.gauge(sc.logSegments, float64(st.Segments), of...)
	sc.gauge(sc.logStart, float64(st.Start), of...)
	sc.gauge(sc.logEnd, float64(st.End), of...)
	if !leads {
		return
	}
	sc.gauge(sc.clusterReplicas, float64(len(p.Replicas)), of...)
	sc.gauge(sc.clusterISR, float64(len(p.ISR)), of...)
	sc.gauge(sc.clusterUnderReplicated, float64(one(few)), of...)
	sc.gauge(sc.clusterUnderMin, float64(one(below)), of...)
	sc.gauge(sc.clusterAtMin, float64(one(at)), of...)
	sc.gauge(sc.currentOffset, float64(st.HighWatermark), of...)
	sc.gauge(sc.oldestOffset, float64(st.Start), of...)
	sc.gauge(sc.leader, float64(p.Leader), of...)
	sc.gauge(sc.replicasOf, float64(len(p.Replicas)), of...)
	sc.gauge(sc.inSync, float64(len(p.ISR)), of...)
	sc.gauge(sc.preferred, float64(one(p.Leader == p.Replicas[0])), of...)
	sc.gauge(sc.exporterUnderReplicated, float64(one(few)), of...)
}

func (sc *scrape) sums() {
	sc.gauge(sc.partitionCount, float64(sc.here))
	sc.gauge(sc.leaderCount, float64(sc.led))
	sc.gauge(sc.offlineReplicas, float64(sc.broken))
	sc.gauge(sc.underReplicated, float64(sc.fewInSync))
	sc.gauge(sc.underMinISR, float64(sc.belowMin))
	sc.gauge(sc.atMinISR, float64(sc.onMin))
	sc.gauge(sc.reassigning, float64(sc.moving))
	sc.gauge(sc.maxLag, float64(sc.lag), "Replica")
	sc.gauge(sc.withoutSeries, float64(max(sc.topicsSeen-maxTopicSeries, 0)), "topics")
	sc.gauge(sc.withoutSeries, float64(max(sc.partitionsSeen-maxPartitionSeries, 0)), "partitions")
	sc.gauge(sc.lastApplied, float64(sc.img.Index()))
	sc.gauge(sc.maxConns, float64(sc.connLimit))
	sc.gauge(sc.openLogFiles, float64(sc.dir.OpenFiles()))
}

// cluster tells what the active controller knows.
func (sc *scrape) cluster() {
	active := sc.active()
	sc.gauge(sc.activeController, float64(one(active)))
	if !active {
		return
	}
	fenced := 0
	for _, b := range sc.img.Brokers() {
		fenced += one(b.Fenced)
	}
	sc.gauge(sc.activeBrokers, float64(len(sc.img.Brokers())-fenced))
	sc.gauge(sc.fencedBrokers, float64(fenced))
	sc.gauge(sc.brokers, float64(len(sc.img.Brokers())))
	sc.gauge(sc.topics, float64(sc.img.NumTopics()))
	sc.gauge(sc.partitions, float64(sc.img.NumPartitions()))
	sc.gauge(sc.offlinePartitions, float64(sc.withoutLeader))
	sc.gauge(sc.moved, float64(sc.notFirst))
}

func (sc *scrape) disk() {
	sc.gauge(sc.diskFailed, float64(one(sc.dir.Failed() != nil)))
	space, err := sc.dir.Space()
	if err != nil {
		return // no figure is better than a wrong one
	}
	sc.gauge(sc.diskFree, float64(space.Free))
	sc.gauge(sc.diskTotal, float64(space.Total))
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}

// errorCounts counts the errors in answers, by API and code. Each has its place
// from the start; a scrape shows those that have occurred.
type errorCounts struct {
	desc   *prometheus.Desc
	counts map[int16]*[maxErrorCode + 2]atomic.Int64 // by key; UNKNOWN_SERVER_ERROR (-1) comes first
}

// maxErrorCode is beyond every code that protocol names.
const maxErrorCode = 150

func newErrorCounts(reg prometheus.Registerer) *errorCounts {
	c := &errorCounts{
		desc: prometheus.NewDesc("kafka_network_requestmetrics_errors_total",
			"Errors in answers, by API and error; an answer has one for each partition or resource that failed.", []string{"request", "error"}, nil),
		counts: map[int16]*[maxErrorCode + 2]atomic.Int64{},
	}
	for _, a := range protocol.APIs(protocol.Clients) {
		c.counts[a.Key] = new([maxErrorCode + 2]atomic.Int64)
	}
	reg.MustRegister(c)
	return c
}

func (c *errorCounts) count(key int16, code protocol.ErrorCode) { c.counts[key][code+1].Add(1) }

// Describe implements prometheus.Collector.
func (c *errorCounts) Describe(out chan<- *prometheus.Desc) { out <- c.desc }

// Collect implements prometheus.Collector.
func (c *errorCounts) Collect(out chan<- prometheus.Metric) {
	for _, a := range protocol.APIs(protocol.Clients) {
		for i := range c.counts[a.Key] {
			if n := c.counts[a.Key][i].Load(); n > 0 {
				out <- prometheus.MustNewConstMetric(c.desc, prometheus.CounterValue, float64(n), a.Name(), protocol.ErrorCode(i-1).String())
			}
		}
	}
}
