package broker

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

// scraped is what one scrape gave: values by series, as they are written.
type scraped struct {
	t        *testing.T
	bytes    int
	families []string
	values   map[string]float64
}

func (n *node) scrape(t *testing.T) *scraped {
	t.Helper()
	return scrapeAt(t, n.admin.Addr().String())
}

func scrapeAt(t *testing.T, admin string) *scraped {
	t.Helper()
	resp, err := http.Get("http://" + admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v: %.500s", resp.Status, err, text)
	}
	s := &scraped{t: t, bytes: len(text), values: map[string]float64{}}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if family, ok := strings.CutPrefix(line, "# TYPE "); ok {
			s.families = append(s.families, strings.Fields(family)[0])
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		v, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		s.values[line[:at]] = v
	}
	return s
}

// are checks series; -1 stands for one that must not be there.
func (s *scraped) are(want map[string]float64) {
	s.t.Helper()
	for series, v := range want {
		if got, ok := s.values[series]; v >= 0 && (!ok || got != v) || v < 0 && ok {
			s.t.Errorf("%s is %v (%v), want %v", series, got, ok, v)
		}
	}
}

func (s *scraped) count(prefix string) (n int) {
	for series := range s.values {
		if strings.HasPrefix(series, prefix) {
			n++
		}
	}
	return n
}

func createTopics(r *raw, partitions int32, names ...string) {
	r.t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Version, req.TimeoutMillis = 7, 60_000
	for _, name := range names {
		topic := kmsg.NewCreateTopicsRequestTopic()
		topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, partitions, 1
		req.Topics = append(req.Topics, topic)
	}
	for _, row := range ask[*kmsg.CreateTopicsResponse](r, req).Topics {
		if row.ErrorCode != 0 {
			r.t.Fatalf("creating %s: error %d", row.Topic, row.ErrorCode)
		}
	}
}

func deleteTopic(r *raw, name string) {
	r.t.Helper()
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.Version, req.TimeoutMillis, req.TopicNames = 1, 10_000, []string{name}
	if code := ask[*kmsg.DeleteTopicsResponse](r, req).Topics[0].ErrorCode; code != 0 {
		r.t.Fatalf("deleting %s: error %d", name, code)
	}
}

// Every figure that traffic moves is what the traffic was.
func TestMetricsAreWhatHappened(t *testing.T) {
	n := startNodeWith(t, Disk{FS: vfs.NewMem(), RaftLog: memoryLog()}, nil)
	r := newRaw(t, n.addr())
	createTopics(r, 2, "a", "b")
	small, large := batchtest.Values("one").Encode(), batchtest.Values("one", "two", "three").Encode()
	for range 3 {
		ask[*kmsg.ProduceResponse](r, produceRequest("a", 0, -1, slices.Clone(large)))
	}
	ask[*kmsg.ProduceResponse](r, produceRequest("a", 1, -1, slices.Clone(small)))
	ask[*kmsg.ProduceResponse](r, produceRequest("b", 0, 1, slices.Clone(small)))
	ask[*kmsg.ProduceResponse](r, produceRequest("b", 0, 1, small[:len(small)-1]))      // cut short
	ask[*kmsg.ProduceResponse](r, produceRequest("b", 7, 1, slices.Clone(small)))       // no such partition
	ask[*kmsg.ProduceResponse](r, produceRequest("nowhere", 0, 1, slices.Clone(small))) // no such topic
	again := batchtest.Values("one").From(77, 0, 0).Encode()                            // the same batch of an idempotent producer, twice
	for range 2 {
		if p := ask[*kmsg.ProduceResponse](r, produceRequest("b", 1, -1, slices.Clone(again))).Topics[0].Partitions[0]; p.ErrorCode != 0 {
			t.Fatal(p.ErrorCode)
		}
	}
	ask[*kmsg.FetchResponse](r, fetchRequest("a", 0, 0))
	ask[*kmsg.FetchResponse](r, fetchRequest("a", 0, 9))
	ask[*kmsg.FetchResponse](r, fetchRequest("a", 0, 10)) // out of range
	ask[*kmsg.FetchResponse](r, fetchRequest("nowhere", 0, 0))
	if low, code := deleteRecords(r, 2, "a", 0, 3); low != 3 || code != 0 {
		t.Fatalf("deleting records: %d, error %d", low, code)
	}
	idle := newRaw(t, n.addr())
	ask[*kmsg.MetadataResponse](idle, kmsg.NewPtrMetadataRequest())

	s, l := float64(len(small)), float64(len(large))
	m := n.scrape(t)
	const topicMetrics = "kafka_server_brokertopicmetrics_"
	m.are(map[string]float64{
		topicMetrics + `messagesin_total{topic="a"}`: 10, topicMetrics + `messagesin_total{topic="b"}`: 2, topicMetrics + `messagesin_total`: 12,
		topicMetrics + `bytesin_total{topic="a"}`: 3*l + s, topicMetrics + `bytesin_total{topic="b"}`: 2 * s, topicMetrics + `bytesin_total`: 3*l + 3*s,
		topicMetrics + `bytesout_total{topic="a"}`: 3 * l, topicMetrics + `bytesout_total`: 3 * l,
		topicMetrics + `totalproducerequests_total{topic="a"}`: 4, topicMetrics + `totalproducerequests_total{topic="b"}`: 4, topicMetrics + `totalproducerequests_total`: 10,
		topicMetrics + `failedproducerequests_total{topic="a"}`: 0, topicMetrics + `failedproducerequests_total{topic="b"}`: 1, topicMetrics + `failedproducerequests_total`: 3,
		topicMetrics + `totalfetchrequests_total{topic="a"}`: 3, topicMetrics + `totalfetchrequests_total`: 4,
		topicMetrics + `failedfetchrequests_total{topic="a"}`: 1, topicMetrics + `failedfetchrequests_total`: 2,

		`kafka_network_requestmetrics_requests_total{request="Produce",version="9"}`:                      10,
		`kafka_network_requestmetrics_requests_total{request="Fetch",version="12"}`:                       4,
		`kafka_network_requestmetrics_requests_total{request="Metadata",version="0"}`:                     1,
		`kafka_network_requestmetrics_errors_total{error="INVALID_RECORD",request="Produce"}`:             1,
		`kafka_network_requestmetrics_errors_total{error="UNKNOWN_TOPIC_OR_PARTITION",request="Produce"}`: 2,
		`kafka_network_requestmetrics_errors_total{error="OFFSET_OUT_OF_RANGE",request="Fetch"}`:          1,
		`kafka_network_requestmetrics_errors_total{error="UNKNOWN_TOPIC_OR_PARTITION",request="Fetch"}`:   1,
		`streambus_request_seconds_count{request="Produce"}`:                                              10,
		`kafka_server_socket_server_metrics_connection_count{listener="PLAINTEXT"}`:                       2,
		`kafka_server_socket_server_metrics_connection_creation_total{listener="PLAINTEXT"}`:              2,
		`kafka_server_socket_server_metrics_connection_close_total{listener="PLAINTEXT"}`:                 0,
		`streambus_request_memory_bytes`:                                                                  0,
		`kafka_log_log_size{partition="0",topic="a"}`:                                                     3 * l,
		`kafka_log_log_logstartoffset{partition="0",topic="a"}`:                                           3,
		`kafka_log_log_logendoffset{partition="0",topic="a"}`:                                             9,
		`kafka_log_log_numlogsegments{partition="0",topic="a"}`:                                           1,
		`kafka_log_log_numlogsegments{partition="1",topic="b"}`:                                           1,
		`kafka_topic_partitions{topic="a"}`:                                                               2,
		`kafka_topic_partition_current_offset{partition="0",topic="a"}`:                                   9,
		`kafka_topic_partition_oldest_offset{partition="0",topic="a"}`:                                    3,
		`kafka_topic_partition_leader{partition="0",topic="a"}`:                                           1,
		`kafka_topic_partition_replicas{partition="0",topic="a"}`:                                         1,
		`kafka_topic_partition_in_sync_replica{partition="0",topic="a"}`:                                  1,
		`kafka_topic_partition_leader_is_preferred{partition="0",topic="a"}`:                              1,
		`kafka_topic_partition_under_replicated_partition{partition="0",topic="a"}`:                       0,
		`kafka_cluster_partition_replicascount{partition="0",topic="a"}`:                                  1,
		`kafka_cluster_partition_insyncreplicascount{partition="0",topic="a"}`:                            1,
		`kafka_cluster_partition_underreplicated{partition="0",topic="a"}`:                                0,
		`kafka_cluster_partition_underminisr{partition="0",topic="a"}`:                                    0,
		`kafka_cluster_partition_atminisr{partition="0",topic="a"}`:                                       1,
		`kafka_server_replicamanager_partitioncount`:                                                      4,
		`kafka_server_replicamanager_leadercount`:                                                         4,
		`kafka_server_replicamanager_offlinereplicacount`:                                                 0,
		`kafka_server_replicamanager_underreplicatedpartitions`:                                           0,
		`kafka_server_replicamanager_underminisrpartitioncount`:                                           0,
		`kafka_server_replicamanager_atminisrpartitioncount`:                                              4,
		`kafka_brokers`: 1,
		`kafka_controller_kafkacontroller_activecontrollercount`:          1,
		`kafka_controller_kafkacontroller_activebrokercount`:              1,
		`kafka_controller_kafkacontroller_fencedbrokercount`:              0,
		`kafka_controller_kafkacontroller_globaltopiccount`:               2,
		`kafka_controller_kafkacontroller_globalpartitioncount`:           4,
		`kafka_controller_kafkacontroller_offlinepartitionscount`:         0,
		`kafka_controller_kafkacontroller_preferredreplicaimbalancecount`: 0,
		`kafka_server_raftmetrics_current_leader`:                         1,
		`kafka_server_raftmetrics_current_state{current_state="leader"}`:  1,
		`streambus_raft_unapplied`:                                        0,
		`streambus_raft_waiting`:                                          0,
		`streambus_raft_waiting_seconds`:                                  0,
		`streambus_raft_leader_changes_total`:                             1,
		`streambus_raft_advance_total`:                                    m.values["streambus_raft_ready_total"],
		`streambus_raft_applied_index`:                                    m.values["kafka_server_raftmetrics_high_watermark"],
		`kafka_server_raftmetrics_log_end_offset`:                         m.values["kafka_server_raftmetrics_high_watermark"],
		`kafka_server_brokermetadatametrics_last_applied_record_offset`:   m.values["kafka_server_raftmetrics_high_watermark"],
		`streambus_metrics_left_out{of="topics"}`:                         0,
		`streambus_metrics_left_out{of="partitions"}`:                     0,
		`streambus_disk_failed`:                                           0,
	})
	for _, some := range []string{"streambus_raft_ready_total", "streambus_raft_sync_seconds_count", "streambus_flush_seconds_count", "streambus_log_files_open",
		"streambus_disk_free_bytes", "streambus_disk_total_bytes", "streambus_connections_limit", "kafka_server_raftmetrics_current_epoch",
		`kafka_server_socket_server_metrics_incoming_byte_total{listener="PLAINTEXT"}`, `kafka_server_socket_server_metrics_outgoing_byte_total{listener="PLAINTEXT"}`} {
		if m.values[some] <= 0 {
			t.Errorf("%s is %v", some, m.values[some])
		}
	}

	// A topic's series go with it, and a new one of its name begins at nothing;
	// what was done in all stays done.
	deleteTopic(r, "a")
	m = n.scrape(t)
	if left := m.count("kafka_") - m.countWithout(`topic="a"`); left != 0 {
		t.Errorf("%d series of a topic that is gone", left)
	}
	m.are(map[string]float64{topicMetrics + `messagesin_total`: 12, `kafka_server_replicamanager_partitioncount`: 2})
	createTopics(r, 1, "a")
	ask[*kmsg.ProduceResponse](r, produceRequest("a", 0, -1, slices.Clone(small)))
	n.scrape(t).are(map[string]float64{topicMetrics + `messagesin_total{topic="a"}`: 1, topicMetrics + `messagesin_total`: 13})
}

func (s *scraped) countWithout(label string) (n int) {
	for series := range s.values {
		if strings.HasPrefix(series, "kafka_") && !strings.Contains(series, label) {
			n++
		}
	}
	return n
}

// Of more topics and partitions than a scrape should have there are sums.
func TestScrapeIsBounded(t *testing.T) {
	n := startNodeWith(t, Disk{FS: vfs.NewMem(), RaftLog: memoryLog()}, nil)
	r := newRaw(t, n.addr())
	createTopics(r, 5000, "large")
	var names []string
	for i := range maxTopicSeries + 50 {
		names = append(names, fmt.Sprint("small-", i))
	}
	createTopics(r, 1, names...)
	for _, name := range names {
		ask[*kmsg.ProduceResponse](r, produceRequest(name, 0, 1, batchtest.Values("x").Encode()))
	}
	begun := time.Now()
	m := n.scrape(t)
	took := time.Since(begun)
	const all = 5000 + maxTopicSeries + 50
	m.are(map[string]float64{
		"kafka_server_replicamanager_partitioncount":         all,
		"kafka_server_replicamanager_leadercount":            all,
		`streambus_metrics_left_out{of="partitions"}`:        all - maxPartitionSeries,
		`streambus_metrics_left_out{of="topics"}`:            51,
		"kafka_server_brokertopicmetrics_messagesin_total":   maxTopicSeries + 50,
		`kafka_log_log_size{partition="999",topic="large"}`:  0,
		`kafka_log_log_size{partition="1000",topic="large"}`: -1,
	})
	for prefix, want := range map[string]int{
		"kafka_server_brokertopicmetrics_messagesin_total{": maxTopicSeries,
		"kafka_log_log_size{":                               maxPartitionSeries,
		"kafka_topic_partition_current_offset{":             maxPartitionSeries,
		"kafka_topic_partitions{":                           maxTopicSeries,
	} {
		if got := m.count(prefix); got != want {
			t.Errorf("%d series of %s, want %d", got, prefix, want)
		}
	}
	t.Logf("%d bytes, %d series, %v", m.bytes, len(m.values), took)
	if m.bytes > 4<<20 || took > 10*time.Second {
		t.Errorf("a scrape of %d bytes took %v", m.bytes, took)
	}
}

var metricRow = regexp.MustCompile("^\\| `([a-z0-9_*]+)` ")

// The page names what is exported, no more and no less.
func TestMetricsAreDocumented(t *testing.T) {
	n := startNodeWith(t, Disk{FS: vfs.NewMem(), RaftLog: memoryLog()}, nil)
	r := newRaw(t, n.addr())
	createTopic(r, "t")
	ask[*kmsg.ProduceResponse](r, produceRequest("nowhere", 0, 1, nil)) // errors appear when there are any
	r.coordinated(t, "g")
	r.commits(t, "g", "t", 0)
	exported := n.scrape(t).families
	page, err := os.Open("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	defer page.Close()
	var documented []string
	for lines := bufio.NewScanner(page); lines.Scan(); {
		if m := metricRow.FindStringSubmatch(lines.Text()); m != nil {
			documented = append(documented, m[1])
		}
	}
	covers := func(row, name string) bool {
		prefix, wild := strings.CutSuffix(row, "*")
		return row == name || wild && strings.HasPrefix(name, prefix)
	}
	for _, name := range exported {
		if !slices.ContainsFunc(documented, func(row string) bool { return covers(row, name) }) {
			t.Errorf("docs/metrics.md has no row for %s", name)
		}
	}
	for _, row := range documented {
		if row == "streambus_raft_dropped_total" || row == "streambus_raft_snapshots_sent_total" {
			continue // they appear with other controllers
		}
		if !slices.ContainsFunc(exported, func(name string) bool { return covers(row, name) }) {
			t.Errorf("docs/metrics.md has a row for %s, which is not exported", row)
		}
	}
}

// The leader, and nobody else, tells how far each member of the quorum is; every
// controller counts who was elected.
func TestMetricsOfTheQuorum(t *testing.T) {
	c := startNodes(t, asController, asController, asController)
	scrape := func(p *process) *scraped { t.Helper(); return scrapeAt(t, "127.0.0.1:"+p.admin) }
	settled := func(nodes ...*process) *process {
		t.Helper()
		var leader *process
		c.eventually("all follow one", func() error {
			leader = c.active(t.Context())
			if leader == nil {
				return errors.New("nobody leads")
			}
			for _, p := range nodes {
				m := scrape(p)
				members := 0
				if p == leader {
					members = 3
				}
				if got := m.count("streambus_raft_peer_match_index"); got != members {
					return fmt.Errorf("node %d tells of %d members, want %d", p.id, got, members)
				}
				if got := m.count("streambus_raft_peer_state"); got != members {
					return fmt.Errorf("node %d tells the state of %d members, want %d", p.id, got, members)
				}
				if got := m.values["kafka_server_raftmetrics_current_leader"]; got != float64(leader.id) {
					return fmt.Errorf("node %d follows %v, node %d leads", p.id, got, leader.id)
				}
			}
			return nil
		})
		return leader
	}
	first := settled(c.nodes...)
	c.eventually("all members have everything", func() error {
		m := scrape(first)
		for series, v := range m.values {
			if strings.HasPrefix(series, "streambus_raft_peer_match_index{") && v != m.values["kafka_server_raftmetrics_log_end_offset"] {
				return fmt.Errorf("%s is %v", series, v)
			}
			if strings.HasPrefix(series, "streambus_raft_peer_state{") && !strings.Contains(series, `state="replicate"`) {
				return errors.New(series)
			}
			if strings.HasPrefix(series, "streambus_raft_peer_snapshot_index{") && v != 0 {
				return fmt.Errorf("%s is %v", series, v)
			}
		}
		return nil
	})
	var others []*process
	before := map[*process]float64{}
	for _, p := range c.nodes {
		if p != first {
			others = append(others, p)
			before[p] = scrape(p).values["streambus_raft_leader_changes_total"]
		}
	}
	first.signal(os.Kill)
	settled(others...)
	for p, n := range before {
		if got := scrape(p).values["streambus_raft_leader_changes_total"]; n < 1 || got <= n {
			t.Errorf("node %d counts %v changes of the leader, and %v before it was killed", p.id, got, n)
		}
	}
}
