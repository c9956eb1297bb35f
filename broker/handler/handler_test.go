package handler_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/config"
	"github.com/streambus/streambus/broker/fetch"
	"github.com/streambus/streambus/broker/handler"
	"github.com/streambus/streambus/broker/replica"
	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage"
	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

// node is the handlers of a broker over replicas in memory. Commands are
// decided and applied at once, where a broker asks its controller.
type node struct {
	t        *testing.T
	img      *image.Image
	replicas *replica.Manager
	routes   map[int16]handler.Func
	conn     protocol.ConnInfo
	ids      int64
	decided  int // commands
	info     raftmeta.Info
	answers  func([]control.Command) []handler.Outcome // in the place of deciding, nil for that
	reached  func(node int32, dir image.UUID, at image.Endpoint) (image.Voter, error)
	log      bytes.Buffer // what handlers log
}

func newNode(t *testing.T, fs vfs.FS, settings ...string) *node {
	t.Helper()
	dir, err := storage.OpenDir(fs, "/data")
	if err != nil {
		t.Fatal(err)
	}
	cfg := config.New()
	for _, s := range settings {
		key, value, _ := strings.Cut(s, "=")
		if err := cfg.Set(key, value, config.Flag, "test"); err != nil {
			t.Fatal(err)
		}
	}
	n := &node{t: t, img: image.Empty(), conn: protocol.ConnInfo{Listener: "PLAINTEXT"}}
	n.replicas = replica.New(replica.Config{NodeID: 1, RetentionInterval: time.Hour, MaxLag: time.Hour}, dir, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan struct{})
	go func() { n.replicas.Run(ctx); close(ran) }()
	t.Cleanup(func() { stop(); <-ran; dir.CloseDirty() })
	b := &handler.Broker{
		NodeID: 1, Config: cfg, Image: func() *image.Image { return n.img }, Replicas: n.replicas,
		Fetcher: fetch.New(math.MaxInt32, 10, false), Now: time.Now, Log: slog.New(slog.NewTextHandler(&n.log, nil)), CountError: func(int16, protocol.ErrorCode) {}, Unpacking: make(chan struct{}, 1), Propose: n.propose, Current: func(context.Context) *image.Image { return n.img },
		NewTopicID:       func() image.UUID { n.ids++; return image.UUID{0: 1, 15: byte(n.ids), 14: byte(n.ids >> 8)} },
		ProducerIDs:      func(context.Context) (int64, error) { n.ids++; return n.ids, nil },
		Quorum:           func(context.Context) (raftmeta.Info, error) { return n.info, nil },
		ActiveController: func() int32 { return n.info.Node },
		FindController: func(_ context.Context, node int32, dir image.UUID, at image.Endpoint) (image.Voter, error) {
			return n.reached(node, dir, at)
		},
	}
	n.routes = b.Handlers()
	n.do(&control.FormCluster{ClusterID: "the-cluster", Voters: []image.Voter{{RaftID: 1, NodeID: 1, Levels: image.OwnLevels}}})
	n.arrive(&control.RegisterBroker{ID: 1, Incarnation: image.UUID{1}, Levels: image.OwnLevels, Dirs: []image.UUID{{9}},
		Listeners: []image.Endpoint{{Name: "PLAINTEXT", Host: "here", Port: 9092}}})
	return n
}

func (n *node) propose(_ context.Context, _, _ string, cmds ...control.Command) []handler.Outcome {
	if n.answers != nil {
		return n.answers(cmds)
	}
	var outcomes []handler.Outcome
	for _, cmd := range cmds {
		n.decided++
		res, err := cmd.Eval(n.img, time.Now())
		if err == nil && len(res.Records) > 0 {
			img, delta := image.Apply(n.img, n.img.Index()+1, res.Records)
			n.replicas.Apply(img, delta)
			n.img = img
		}
		outcomes = append(outcomes, handler.Outcome{Reply: res.Reply, Err: err})
	}
	return outcomes
}

func (n *node) topic(name string, partitions int32, configs map[string]string) image.UUID {
	n.t.Helper()
	n.ids++
	id := image.UUID{0: 2, 15: byte(n.ids)}
	if o := n.propose(context.Background(), "test", "test", &control.CreateTopic{Name: name, ID: id, Partitions: partitions, ReplicationFactor: 1, Configs: configs}); o[0].Err != nil {
		n.t.Fatal(o[0].Err)
	}
	return id
}

// answer sends a request as bytes and reads the answer back from bytes. What
// kmsg reads must be all of it, which writing it again shows.
func answer[R kmsg.Response](n *node, req kmsg.Request) R {
	n.t.Helper()
	resp := n.send(req)
	frame := new(bytes.Buffer)
	if resp.Body != nil {
		frame.Write(protocol.AppendFrame(nil, resp.Body, req.Key(), req.GetVersion(), 77)[4:])
	} else {
		frame.Write(protocol.AppendResponseHeader(nil, req.Key(), req.GetVersion(), 77))
		frame.Write(resp.Head)
		for _, p := range resp.Parts {
			if _, err := p.WriteTo(frame); err != nil {
				n.t.Fatal(err)
			}
		}
	}
	decoded := req.ResponseKind().(R)
	b := frame.Bytes()
	if id := binary.BigEndian.Uint32(b); id != 77 {
		n.t.Fatalf("correlation id %d", id)
	}
	b = b[4:]
	if decoded.IsFlexible() && req.Key() != protocol.KeyApiVersions {
		b = b[1:]
	}
	if err := decoded.ReadFrom(b); err != nil || !bytes.Equal(decoded.AppendTo(nil), b) {
		n.t.Fatalf("%s version %d: the answer is not read back (%v): %x", kmsg.NameForKey(req.Key()), req.GetVersion(), err, b)
	}
	return decoded
}

func (n *node) send(req kmsg.Request) *protocol.Response {
	n.t.Helper()
	frame := kmsg.NewRequestFormatter(kmsg.FormatterClientID("test")).AppendRequest(nil, req, 77)[4:]
	r, id, err := protocol.Decode(frame, &n.conn)
	if err != nil || id != 77 {
		n.t.Fatalf("%s version %d: %v", kmsg.NameForKey(req.Key()), req.GetVersion(), err)
	}
	done := make(chan *protocol.Response, 2)
	n.routes[req.Key()](n.t.Context(), r, func(resp *protocol.Response) { done <- resp })
	clear(frame) // a server reuses it
	select {
	case resp := <-done:
		return resp
	case <-time.After(20 * time.Second):
		n.t.Fatal("no answer")
		return nil
	}
}

func versions(t *testing.T, key int16, f func(t *testing.T, version int16)) {
	for _, a := range protocol.APIs(protocol.Clients) {
		if a.Key == key {
			for v := a.Advertised; v <= a.Max; v++ {
				t.Run(fmt.Sprint("version ", v), func(t *testing.T) { f(t, v) })
			}
		}
	}
}

func code(c int16) protocol.ErrorCode { return protocol.ErrorCode(c) }

func produce(version, acks int16, topics ...kmsg.ProduceRequestTopic) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis, req.Topics = version, acks, 20_000, topics
	return req
}

func into(name string, id image.UUID, partition int32, records []byte) kmsg.ProduceRequestTopic {
	t := kmsg.NewProduceRequestTopic()
	p := kmsg.NewProduceRequestTopicPartition()
	t.Topic, t.TopicID, p.Partition, p.Records = name, id, partition, records
	t.Partitions = append(t.Partitions, p)
	return t
}

func TestProduce(t *testing.T) {
	n := newNode(t, vfs.NewMem())
	id := n.topic("t", 2, nil)
	n.topic("strict", 1, map[string]string{"min.insync.replicas": "2"})
	zstd := func() []byte {
		b := batchtest.Values("x").Encode()
		b[22] = 4
		return batchtest.Seal(b)
	}
	next := int64(0)
	versions(t, protocol.KeyProduce, func(t *testing.T, v int16) {
		n.t = t
		good := func() []byte { return batchtest.Values("one", "two").Encode() }
		unknown, none := "none", protocol.UnknownTopicOrPartition
		if v >= 13 {
			none = protocol.UnknownTopicID
		}
		records := batchtest.Values("one", "two").Encode()
		records[60] = 9
		resp := answer[*kmsg.ProduceResponse](n, produce(v, -1,
			into(unknown, image.UUID{5}, 0, good()),
			into("t", id, 0, good()),
			into("t", id, 2, good()),
			into("t", id, -1, good()),
			into("t", id, 1, nil),
			into("t", id, 1, batchtest.Seal(records)),
		))
		want := []protocol.ErrorCode{none, 0, protocol.UnknownTopicOrPartition, protocol.UnknownTopicOrPartition, protocol.InvalidRecord, protocol.InvalidRecord}
		if len(resp.Topics) != len(want) {
			t.Fatalf("%d rows", len(resp.Topics))
		}
		for i := range want {
			rt, p := resp.Topics[i], resp.Topics[i].Partitions[0]
			if v < 3 {
				want[i] = protocol.UnsupportedVersion
			}
			if code(p.ErrorCode) != want[i] || want[i] != 0 && p.BaseOffset != -1 || p.LogAppendTime != -1 {
				t.Errorf("row %d: %+v, want %d", i, p, want[i])
			}
			if wrong := v >= 13 && rt.TopicID != ([][16]byte{{5}, id, id, id, id, id})[i] || v < 13 && rt.Topic != []string{unknown, "t", "t", "t", "t", "t"}[i]; wrong {
				t.Errorf("row %d is of %q %x", i, rt.Topic, rt.TopicID)
			}
		}
		if v >= 3 {
			if got := resp.Topics[1].Partitions[0].BaseOffset; got != next {
				t.Errorf("offset %d, want %d", got, next)
			}
			next += 2
		}
		if p := resp.Topics[5].Partitions[0]; v >= 8 && (p.ErrorMessage == nil || *p.ErrorMessage == "") {
			t.Error("an invalid record comes without a message")
		}
		for _, c := range []struct {
			acks int16
			want protocol.ErrorCode
		}{{2, protocol.InvalidRequiredAcks}, {-2, protocol.InvalidRequiredAcks}, {math.MaxInt16, protocol.InvalidRequiredAcks}} {
			resp := answer[*kmsg.ProduceResponse](n, produce(v, c.acks, into("t", id, 0, good()), into(unknown, image.UUID{5}, 0, good())))
			for _, rt := range resp.Topics {
				if got := code(rt.Partitions[0].ErrorCode); v >= 3 && got != c.want {
					t.Errorf("acks %d: error %d", c.acks, got)
				}
			}
		}
		if v >= 3 && v < 7 {
			resp := answer[*kmsg.ProduceResponse](n, produce(v, 1, into("t", id, 1, zstd())))
			if got := code(resp.Topics[0].Partitions[0].ErrorCode); got != protocol.UnsupportedCompression {
				t.Errorf("zstd: error %d", got)
			}
		}
		if resp := n.send(produce(v, 0, into("t", id, 1, good()))); v >= 3 && resp != nil || v < 3 && !resp.Close {
			t.Errorf("acks 0: %+v", resp)
		}
		if resp := n.send(produce(v, 0, into(unknown, image.UUID{5}, 0, good()))); resp == nil || !resp.Close || resp.Body != nil {
			t.Errorf("acks 0 that fails: %+v", resp)
		}
		if resp := answer[*kmsg.ProduceResponse](n, produce(v, 1)); len(resp.Topics) != 0 {
			t.Errorf("nothing: %+v", resp)
		}
	})
}

// A batch that is sent again is answered like the first time and not written.
func TestProduceAgain(t *testing.T) {
	n := newNode(t, vfs.NewMem())
	n.topic("t", 1, nil)
	for i, c := range []struct {
		epoch, sequence int
		want            protocol.ErrorCode
		offset          int64
	}{
		{0, 0, 0, 0}, {0, 2, 0, 2}, {0, 0, 0, 0}, {0, 2, 0, 2},
		{0, 6, protocol.OutOfOrderSequence, -1},
		{1, 3, protocol.OutOfOrderSequence, -1}, {1, 0, 0, 4},
		{0, 4, protocol.InvalidProducerEpoch, -1},
	} {
		b := batchtest.Values("a", "b").From(5, int16(c.epoch), int32(c.sequence)).Encode()
		p := answer[*kmsg.ProduceResponse](n, produce(9, -1, into("t", image.UUID{}, 0, b))).Topics[0].Partitions[0]
		if code(p.ErrorCode) != c.want || p.BaseOffset != c.offset {
			t.Errorf("step %d: error %d, offset %d", i, p.ErrorCode, p.BaseOffset)
		}
	}
}

func fetchOf(version int16, topics ...kmsg.FetchRequestTopic) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxBytes, req.MinBytes, req.MaxWaitMillis, req.SessionEpoch = version, 1<<20, 1, 0, -1
	req.Topics = topics
	return req
}

func from(name string, id image.UUID, partition int32, offset int64, epoch int32) kmsg.FetchRequestTopic {
	t := kmsg.NewFetchRequestTopic()
	p := kmsg.NewFetchRequestTopicPartition()
	t.Topic, t.TopicID, p.Partition, p.FetchOffset, p.CurrentLeaderEpoch, p.PartitionMaxBytes = name, id, partition, offset, epoch, 1<<20
	t.Partitions = append(t.Partitions, p)
	return t
}

func TestFetch(t *testing.T) {
	n := newNode(t, vfs.NewMem())
	id := n.topic("t", 1, nil)
	n.arrive(&control.RegisterBroker{ID: 1, Incarnation: image.UUID{2}, Levels: image.OwnLevels, Dirs: []image.UUID{{9}},
		Listeners: []image.Endpoint{{Name: "PLAINTEXT", Host: "here", Port: 9092}}}) // it leads in leader epoch 2
	answer[*kmsg.ProduceResponse](n, produce(9, -1, into("t", id, 0, batchtest.Values("a", "b", "c").Encode())))
	versions(t, protocol.KeyFetch, func(t *testing.T, v int16) {
		n.t = t
		none := protocol.UnknownTopicOrPartition
		if v >= 13 {
			none = protocol.UnknownTopicID
		}
		for isolation := range int8(2) {
			req := fetchOf(v,
				from("none", image.UUID{5}, 0, 0, -1), from("t", id, 0, 0, -1), from("t", id, 0, 3, 2), from("t", id, 0, 4, -1),
				from("t", id, 7, 0, -1), from("t", id, 0, 0, 0), from("t", id, 0, 0, 3))
			req.IsolationLevel = isolation
			resp := answer[*kmsg.FetchResponse](n, req)
			if resp.ErrorCode != 0 || resp.SessionID != 0 {
				t.Errorf("error %d, session %d", resp.ErrorCode, resp.SessionID)
			}
			want := []protocol.ErrorCode{none, 0, 0, protocol.OffsetOutOfRange, protocol.UnknownTopicOrPartition, protocol.FencedLeaderEpoch, protocol.UnknownLeaderEpoch}
			if v < 9 { // no epochs in the request
				want[5], want[6] = 0, 0
			}
			var rows []kmsg.FetchResponseTopicPartition
			for _, topic := range resp.Topics {
				rows = append(rows, topic.Partitions...)
			}
			for i, w := range want {
				p := rows[i]
				if code(p.ErrorCode) != w || p.RecordBatches == nil || (len(p.RecordBatches) > 0) != (w == 0 && i != 2) {
					t.Errorf("row %d: %+v, want error %d", i, p, w)
				}
				if known := i != 0 && i != 4; (p.AbortedTransactions == nil) != (isolation == 0 && known) {
					t.Errorf("row %d, isolation %d: aborted transactions %v", i, isolation, p.AbortedTransactions)
				}
				end, start := int64(3), int64(0)
				if w != 0 {
					end, start = -1, -1
				}
				if p.HighWatermark != end || p.LastStableOffset != end || v >= 5 && p.LogStartOffset != start {
					t.Errorf("row %d: %+v", i, p)
				}
			}
		}
		if resp := answer[*kmsg.FetchResponse](n, fetchOf(v)); len(resp.Topics) != 0 || resp.ErrorCode != 0 {
			t.Errorf("nothing: %+v", resp)
		}
		if v < 7 {
			return
		}
		for _, c := range []struct {
			id, epoch int32
			want      protocol.ErrorCode
		}{{0, 0, 0}, {0, -1, 0}, {9, 0, 0}, {9, -1, 0}, {9, 1, protocol.FetchSessionIDNotFound}, {0, 1, protocol.FetchSessionIDNotFound}} {
			req := fetchOf(v, from("t", id, 0, 0, -1))
			req.SessionID, req.SessionEpoch = c.id, c.epoch
			resp := answer[*kmsg.FetchResponse](n, req)
			if code(resp.ErrorCode) != c.want || (len(resp.Topics) == 1) != (c.want == 0) {
				t.Errorf("session %d, epoch %d: error %d, %d topics", c.id, c.epoch, resp.ErrorCode, len(resp.Topics))
			}
		}
	})
}

// Consumers before Fetch 6 do not know KAFKA_STORAGE_ERROR.
func TestFetchFromAFailedDisk(t *testing.T) {
	var broken atomic.Bool
	n := newNode(t, vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op, _ string) error {
		if broken.Load() && (op == vfs.OpSync || op == vfs.OpSyncAll || op == vfs.OpSyncDir) {
			return errors.New("no")
		}
		return nil
	}))
	id := n.topic("t", 1, nil)
	broken.Store(true)
	p := answer[*kmsg.ProduceResponse](n, produce(9, -1, into("t", id, 0, batchtest.Values("x").Encode()))).Topics[0].Partitions[0]
	if code(p.ErrorCode) != protocol.KafkaStorageError {
		t.Fatalf("produce: error %d", p.ErrorCode)
	}
	versions(t, protocol.KeyFetch, func(t *testing.T, v int16) {
		n.t = t
		want := protocol.KafkaStorageError
		if v < 6 {
			want = protocol.NotLeaderOrFollower
		}
		if p := answer[*kmsg.FetchResponse](n, fetchOf(v, from("t", id, 0, 0, -1))).Topics[0].Partitions[0]; code(p.ErrorCode) != want {
			t.Errorf("error %d, want %d", p.ErrorCode, want)
		}
	})
}

func metadataOf(version int16, names ...string) *kmsg.MetadataRequest {
	req := kmsg.NewPtrMetadataRequest()
	req.Version = version
	for _, name := range names {
		q := kmsg.NewMetadataRequestTopic()
		q.Topic = kmsg.StringPtr(name)
		req.Topics = append(req.Topics, q)
	}
	return req
}

func TestMetadata(t *testing.T) {
	n := newNode(t, vfs.NewMem(), "auto.create.topics.enable=false")
	ids := map[string]image.UUID{"b": n.topic("b", 2, nil), "a": n.topic("a", 1, nil)}
	versions(t, protocol.KeyMetadata, func(t *testing.T, v int16) {
		n.t = t
		resp := answer[*kmsg.MetadataResponse](n, metadataOf(v, "none", "b", "a", "b", "none", "bad name", ""))
		if len(resp.Brokers) != 1 || resp.Brokers[0].Host != "here" || resp.Brokers[0].Port != 9092 || v >= 1 && resp.ControllerID != 1 {
			t.Errorf("brokers %+v, controller %d", resp.Brokers, resp.ControllerID)
		}
		if v >= 2 && (resp.ClusterID == nil || *resp.ClusterID != "the-cluster") {
			t.Errorf("cluster id %v", resp.ClusterID)
		}
		var got []string
		for _, r := range resp.Topics {
			got = append(got, fmt.Sprintf("%s %d %d", *r.Topic, r.ErrorCode, len(r.Partitions)))
			if v >= 10 && r.TopicID != ids[*r.Topic] {
				t.Errorf("%s has id %x", *r.Topic, r.TopicID)
			}
			if v >= 8 && r.AuthorizedOperations != math.MinInt32 {
				t.Errorf("operations %x that nobody asked for", r.AuthorizedOperations)
			}
			for _, p := range r.Partitions {
				if p.ErrorCode != 0 || p.Leader != 1 || len(p.Replicas) != 1 || len(p.ISR) != 1 || v >= 7 && p.LeaderEpoch != 0 {
					t.Errorf("%s: %+v", *r.Topic, p)
				}
			}
		}
		if want := "[none 3 0 b 0 2 a 0 1 bad name 17 0  17 0]"; fmt.Sprint(got) != want {
			t.Errorf("%v, want %v", got, want)
		}
		all := metadataOf(v)
		if resp := answer[*kmsg.MetadataResponse](n, all); len(resp.Topics) != 2 {
			t.Errorf("all: %d topics", len(resp.Topics))
		}
		all.Topics = []kmsg.MetadataRequestTopic{}
		if resp := answer[*kmsg.MetadataResponse](n, all); v > 0 && len(resp.Topics) != 0 || v == 0 && len(resp.Topics) != 2 {
			t.Errorf("the empty list: %d topics", len(resp.Topics))
		}
		if v >= 12 {
			req := metadataOf(v)
			for _, id := range []image.UUID{{5}, ids["b"], {}, ids["a"], ids["b"]} {
				q := kmsg.NewMetadataRequestTopic()
				q.TopicID = id
				req.Topics = append(req.Topics, q)
			}
			got = nil
			for _, r := range answer[*kmsg.MetadataResponse](n, req).Topics {
				name := "null"
				if r.Topic != nil {
					name = *r.Topic
				}
				got = append(got, fmt.Sprintf("%s %d %d", name, r.ErrorCode, r.TopicID[0]))
			}
			if want := "[null 100 5 b 0 2 null 100 0 a 0 2]"; fmt.Sprint(got) != want {
				t.Errorf("by id: %v, want %v", got, want)
			}
		}
	})
}

// A leader that cannot be reached where the client asks is no leader to it.
// A client elsewhere that is told of an address of its own host is in the log,
// once for each listener.
func TestLoopbackIsNotForOthers(t *testing.T) {
	for _, c := range []struct {
		peer, host string
		warns      bool
	}{
		{"172.17.0.1:5", "localhost", true}, {"172.17.0.1:5", "127.0.0.1", true}, {"172.17.0.1:5", "LocalHost.", true},
		{"[2001:db8::1]:5", "::1", true}, {"[::ffff:172.17.0.1]:5", "127.1.2.3", true},
		{"127.0.0.1:5", "localhost", false}, {"[::1]:5", "127.0.0.1", false}, {"[::ffff:127.0.0.1]:5", "localhost", false},
		{"172.17.0.1:5", "localhosts", false}, {"172.17.0.1:5", "172.17.0.2", false}, {"172.17.0.1:5", "broker-1", false},
	} {
		for name, req := range map[string]kmsg.Request{"Metadata": metadataOf(12), "DescribeCluster": kmsg.NewPtrDescribeClusterRequest()} {
			n := newNode(t, vfs.NewMem())
			n.arrive(&control.RegisterBroker{ID: 1, Incarnation: image.UUID{2}, Levels: image.OwnLevels, Dirs: []image.UUID{{9}},
				Listeners: []image.Endpoint{{Name: "PLAINTEXT", Host: c.host, Port: 9092}, {Name: "OTHER", Host: c.host, Port: 9093}}})
			for _, listener := range []string{"PLAINTEXT", "PLAINTEXT", "OTHER"} {
				n.conn.Peer, n.conn.Listener = netip.MustParseAddrPort(c.peer), listener
				n.send(req)
			}
			want := 0
			if c.warns {
				want = 2
			}
			if got := strings.Count(n.log.String(), "advertised.listeners"); got != want {
				t.Errorf("%s to %s of %s: %d lines, want %d\n%s", name, c.peer, c.host, got, want, n.log.String())
			}
		}
	}
}

func TestMetadataOnAnotherListener(t *testing.T) {
	n := newNode(t, vfs.NewMem())
	n.topic("t", 1, nil)
	n.conn.Listener = "OTHER"
	versions(t, protocol.KeyMetadata, func(t *testing.T, v int16) {
		n.t = t
		want := protocol.ListenerNotFound
		if v < 6 {
			want = protocol.LeaderNotAvailable
		}
		resp := answer[*kmsg.MetadataResponse](n, metadataOf(v, "t"))
		if p := resp.Topics[0].Partitions[0]; len(resp.Brokers) != 0 || code(p.ErrorCode) != want || p.Leader != -1 || len(p.Replicas) != 1 {
			t.Errorf("brokers %v, %+v", resp.Brokers, p)
		}
	})
}

func TestMetadataCreates(t *testing.T) {
	n := newNode(t, vfs.NewMem(), "num.partitions=3")
	versions(t, protocol.KeyMetadata, func(t *testing.T, v int16) {
		n.t = t
		for _, allowed := range []bool{false, true} {
			name := fmt.Sprintf("new-%d-%v", v, allowed)
			req := metadataOf(v, name, strings.ReplaceAll(name, "-", "/"))
			req.AllowAutoTopicCreation = allowed
			rows := answer[*kmsg.MetadataResponse](n, req).Topics
			if created := v < 4 || allowed; created != (rows[0].ErrorCode == 0 && len(rows[0].Partitions) == 3) {
				t.Errorf("allowed %v: %+v", allowed, rows[0])
			}
			if code(rows[1].ErrorCode) != protocol.InvalidTopic {
				t.Errorf("allowed %v, a name that is none: %+v", allowed, rows[1])
			}
		}
	})
}

func TestCreateTopics(t *testing.T) {
	n := newNode(t, vfs.NewMem(), "num.partitions=4000")
	topic := func(name string, partitions int32, replicas int16, assigned ...int32) kmsg.CreateTopicsRequestTopic {
		c := kmsg.NewCreateTopicsRequestTopic()
		c.Topic, c.NumPartitions, c.ReplicationFactor = name, partitions, replicas
		for i, broker := range assigned {
			a := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
			a.Partition, a.Replicas = int32(i), []int32{broker}
			c.ReplicaAssignment = append(c.ReplicaAssignment, a)
		}
		return c
	}
	with := func(c kmsg.CreateTopicsRequestTopic, key string, value *string) kmsg.CreateTopicsRequestTopic {
		row := kmsg.NewCreateTopicsRequestTopicConfig()
		row.Name, row.Value = key, value
		c.Configs = append(c.Configs, row)
		return c
	}
	n.topic("taken", 1, nil)
	n.topic("dot.ted", 1, nil)
	hole := topic("hole", -1, -1, 1, 1)
	hole.ReplicaAssignment[1].Partition = 2
	doubled := topic("doubled", -1, -1, 1, 1)
	doubled.ReplicaAssignment[1].Partition = 0
	twice := topic("twice-assigned", -1, -1, 1)
	twice.ReplicaAssignment[0].Replicas = []int32{1, 1}
	versions(t, protocol.KeyCreateTopics, func(t *testing.T, v int16) {
		n.t = t
		for _, only := range []bool{true, false} {
			good, assigned := fmt.Sprint("good-", v), fmt.Sprint("assigned-", v)
			rows := []struct {
				topic kmsg.CreateTopicsRequestTopic
				want  protocol.ErrorCode
			}{
				{with(topic(good, 2, 1), "min.insync.replicas", kmsg.StringPtr("1")), 0},
				{topic("taken", 1, 1), protocol.TopicAlreadyExists},
				{topic("same", 1, 1), protocol.InvalidRequest},
				{topic("", 1, 1), protocol.InvalidTopic},
				{topic("dot_ted", 1, 1), protocol.InvalidTopic},
				{topic("none", 0, 1), protocol.InvalidPartitions},
				{topic("less", -2, 1), protocol.InvalidPartitions},
				{topic("wide", 1, 2), protocol.InvalidReplicationFactor},
				{topic("counted", 1, 1, 1), protocol.InvalidRequest},
				{hole, protocol.InvalidReplicaAssignment},
				{doubled, protocol.InvalidReplicaAssignment},
				{twice, protocol.InvalidReplicaAssignment},
				{topic("stranger", -1, -1, 9), protocol.InvalidReplicaAssignment},
				{with(topic("key", 1, 1), "no.such.key", kmsg.StringPtr("1")), protocol.InvalidConfig},
				{with(topic("value", 1, 1), "min.insync.replicas", kmsg.StringPtr("x")), protocol.InvalidConfig},
				{with(topic("null", 1, 1), "min.insync.replicas", nil), protocol.InvalidConfig},
				{topic(assigned, -1, -1, 1, 1, 1), 0},
			}
			req := kmsg.NewPtrCreateTopicsRequest()
			req.Version, req.TimeoutMillis, req.ValidateOnly = v, 10_000, only
			for _, r := range rows {
				req.Topics = append(req.Topics, r.topic)
			}
			req.Topics = append(req.Topics, topic("same", 1, 1)) // answered where it stood first
			resp := answer[*kmsg.CreateTopicsResponse](n, req)
			for i, r := range rows {
				got := resp.Topics[i]
				if got.Topic != r.topic.Topic || code(got.ErrorCode) != r.want || (got.ErrorMessage == nil) != (r.want == 0) {
					t.Errorf("validate only %v, %s: %+v, want error %d", only, r.topic.Topic, got, r.want)
				}
				if v >= 5 && r.want != 0 && (got.NumPartitions != -1 || got.ReplicationFactor != -1) {
					t.Errorf("%s: %d partitions", got.Topic, got.NumPartitions)
				}
			}
			if first := resp.Topics[0]; v >= 5 && (first.NumPartitions != 2 || first.ReplicationFactor != 1 || len(first.Configs) == 0) ||
				v >= 7 && image.UUID(first.TopicID).IsZero() != only {
				t.Errorf("validate only %v: %+v", only, first)
			}
			if _, made := n.img.Topic(good); made == only {
				t.Errorf("validate only %v: made %v", only, made)
			}
		}
		// 10,000 partitions in a call, counted over its topics and with the default.
		for _, c := range []struct {
			topics []kmsg.CreateTopicsRequestTopic
			want   protocol.ErrorCode
		}{
			{[]kmsg.CreateTopicsRequestTopic{topic("x", 5000, 1), topic("y", 5000, 1)}, 0},
			{[]kmsg.CreateTopicsRequestTopic{topic("x", 5000, 1), topic("y", 5001, 1)}, protocol.PolicyViolation},
			{[]kmsg.CreateTopicsRequestTopic{topic("x", math.MaxInt32, 1), topic("y", math.MaxInt32, 1)}, protocol.PolicyViolation},
			{[]kmsg.CreateTopicsRequestTopic{topic("x", -1, 1), topic("y", -1, 1)}, 0},
			{[]kmsg.CreateTopicsRequestTopic{topic("x", -1, 1), topic("y", -1, 1), topic("z", -1, 1)}, protocol.PolicyViolation},
		} {
			req := kmsg.NewPtrCreateTopicsRequest()
			req.Version, req.TimeoutMillis, req.ValidateOnly, req.Topics = v, 10_000, true, c.topics
			for _, row := range answer[*kmsg.CreateTopicsResponse](n, req).Topics {
				if code(row.ErrorCode) != c.want {
					t.Errorf("%d topics, the first of %d: error %d, want %d", len(c.topics), c.topics[0].NumPartitions, row.ErrorCode, c.want)
				}
			}
		}
	})
}

// Topics of no partitions are as many decisions as others.
func TestCreateTooManyTopics(t *testing.T) {
	n := newNode(t, vfs.NewMem())
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Version, req.TimeoutMillis = 7, 1000
	for i := range control.MaxPartitionsPerCommand + 1 {
		topic := kmsg.NewCreateTopicsRequestTopic()
		topic.Topic, topic.ReplicationFactor = fmt.Sprint("t", i), 1
		req.Topics = append(req.Topics, topic)
	}
	for _, row := range answer[*kmsg.CreateTopicsResponse](n, req).Topics {
		if code(row.ErrorCode) != protocol.PolicyViolation {
			t.Fatalf("error %v", code(row.ErrorCode))
		}
	}
}

// What the image does not know is not for the controller to decide, and a request
// adds no more partitions than one may create.
func TestUnknownTopicsAreNoDecisions(t *testing.T) {
	n := newNode(t, vfs.NewMem())
	n.topic("t", 1, nil)
	n.topic("u", 1, nil)
	few, many := int32(control.MaxPartitionsPerCommand/2), int32(control.MaxPartitionsPerCommand)
	grown := func(counts map[string]int32, want map[string]protocol.ErrorCode) {
		t.Helper()
		req := kmsg.NewPtrCreatePartitionsRequest()
		req.Version, req.TimeoutMillis, req.ValidateOnly = 3, 1000, true
		for name, count := range counts {
			topic := kmsg.NewCreatePartitionsRequestTopic()
			topic.Topic, topic.Count = name, count
			req.Topics = append(req.Topics, topic)
		}
		for _, row := range answer[*kmsg.CreatePartitionsResponse](n, req).Topics {
			if got := code(row.ErrorCode); got != want[row.Topic] || got != 0 && row.ErrorMessage == nil {
				t.Errorf("%s to %d: error %v, want %v", row.Topic, counts[row.Topic], got, want[row.Topic])
			}
		}
	}
	n.decided = 0
	grown(map[string]int32{"t": 2, "none": 2}, map[string]protocol.ErrorCode{"none": protocol.UnknownTopicOrPartition})
	if n.decided != 1 {
		t.Errorf("%d commands for one topic that there is", n.decided)
	}
	grown(map[string]int32{"t": few + 1, "u": few + 1, "none": many}, map[string]protocol.ErrorCode{"none": protocol.UnknownTopicOrPartition})
	tooMany := map[string]protocol.ErrorCode{"t": protocol.PolicyViolation, "u": protocol.PolicyViolation}
	grown(map[string]int32{"t": few + 1, "u": few + 2}, tooMany)
	grown(map[string]int32{"t": math.MaxInt32, "u": math.MaxInt32}, tooMany)
	grown(map[string]int32{"t": math.MinInt32, "u": many + 1}, map[string]protocol.ErrorCode{"t": protocol.InvalidPartitions})

	n.decided = 0
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.Version, req.TimeoutMillis = 6, 1000
	for _, name := range []string{"none", "t", "none", ""} {
		req.Topics = append(req.Topics, kmsg.DeleteTopicsRequestTopic{Topic: &name})
	}
	req.Topics = append(req.Topics, kmsg.DeleteTopicsRequestTopic{TopicID: [16]byte{7}})
	var got []protocol.ErrorCode
	for _, row := range answer[*kmsg.DeleteTopicsResponse](n, req).Topics {
		got = append(got, code(row.ErrorCode))
	}
	want := []protocol.ErrorCode{protocol.UnknownTopicOrPartition, 0, protocol.UnknownTopicOrPartition, protocol.UnknownTopicID}
	if !slices.Equal(got, want) || n.decided != 1 {
		t.Errorf("deleted with %v, want %v, by %d commands", got, want, n.decided)
	}
}

func TestListOffsets(t *testing.T) {
	n := newNode(t, vfs.NewMem())
	id := n.topic("t", 3, nil)
	answer[*kmsg.ProduceResponse](n, produce(9, -1, into("t", id, 0, batchtest.Values("a", "b").Encode())))
	answer[*kmsg.ProduceResponse](n, produce(9, -1, into("t", id, 2, batchtest.Values("a").Encode())))
	versions(t, protocol.KeyListOffsets, func(t *testing.T, v int16) {
		n.t = t
		req := kmsg.NewPtrListOffsetsRequest()
		req.Version, req.ReplicaID = v, -1
		rows := []struct {
			topic     string
			partition int32
			timestamp int64
			epoch     int32
			want      protocol.ErrorCode
			offset    int64
		}{
			{"none", 0, -1, -1, protocol.UnknownTopicOrPartition, -1},
			{"t", 0, -1, -1, 0, 2},
			{"t", 9, -1, -1, protocol.UnknownTopicOrPartition, -1},
			{"t", 1, -1, -1, protocol.InvalidRequest, -1},
			{"t", 2, -2, 7, protocol.UnknownLeaderEpoch, -1},
		}
		for _, r := range rows {
			rt := kmsg.NewListOffsetsRequestTopic()
			p := kmsg.NewListOffsetsRequestTopicPartition()
			rt.Topic, p.Partition, p.Timestamp, p.CurrentLeaderEpoch = r.topic, r.partition, r.timestamp, r.epoch
			rt.Partitions = append(rt.Partitions, p)
			req.Topics = append(req.Topics, rt)
		}
		twice := req.Topics[3] // answered where it stood first
		twice.Partitions = slices.Clone(twice.Partitions)
		twice.Partitions[0].Timestamp = -2
		req.Topics = append(req.Topics, twice)
		resp := answer[*kmsg.ListOffsetsResponse](n, req)
		if len(resp.Topics) != len(rows) {
			t.Fatalf("%d topics", len(resp.Topics))
		}
		for i, r := range rows {
			if v < 4 && r.epoch >= 0 { // no epochs in the request
				r.want, r.offset = 0, 0
			}
			if p := resp.Topics[i].Partitions[0]; code(p.ErrorCode) != r.want || p.Offset != r.offset || p.Timestamp != -1 || resp.Topics[i].Topic != r.topic {
				t.Errorf("row %d: %+v, want error %d, offset %d", i, p, r.want, r.offset)
			}
		}
	})
}

func TestInitProducerID(t *testing.T) {
	n := newNode(t, vfs.NewMem())
	seen := map[int64]bool{}
	versions(t, protocol.KeyInitProducerId, func(t *testing.T, v int16) {
		n.t = t
		for id, want := range map[*string]protocol.ErrorCode{nil: 0, kmsg.StringPtr(""): protocol.InvalidRequest} {
			req := kmsg.NewPtrInitProducerIDRequest()
			req.Version, req.TransactionalID = v, id
			resp := answer[*kmsg.InitProducerIDResponse](n, req)
			if code(resp.ErrorCode) != want || (resp.ProducerID == -1) != (want != 0) || (resp.ProducerEpoch == 0) != (want == 0) {
				t.Errorf("%+v, want error %d", resp, want)
			}
			if want == 0 && seen[resp.ProducerID] {
				t.Errorf("id %d was given before", resp.ProducerID)
			}
			seen[resp.ProducerID] = true
		}
	})
}

func TestAPIVersions(t *testing.T) {
	n := newNode(t, vfs.NewMem())
	versions(t, protocol.KeyApiVersions, func(t *testing.T, v int16) {
		n.t = t
		for name, want := range map[string]protocol.ErrorCode{"franz-go": 0, "a.b-c": 0, "": protocol.InvalidRequest, "-x": protocol.InvalidRequest, "x.": protocol.InvalidRequest, "a b": protocol.InvalidRequest} {
			if v < 3 {
				want = 0
			}
			req := kmsg.NewPtrApiVersionsRequest()
			req.Version, req.ClientSoftwareName, req.ClientSoftwareVersion = v, name, "1.0"
			resp := answer[*kmsg.ApiVersionsResponse](n, req)
			if code(resp.ErrorCode) != want || want == 0 && len(resp.ApiKeys) != len(protocol.Versions(protocol.Clients)) {
				t.Errorf("%q: error %d, %d keys", name, resp.ErrorCode, len(resp.ApiKeys))
			}
			for _, k := range resp.ApiKeys {
				if k.MinVersion > k.MaxVersion || k.ApiKey == protocol.KeyProduce && k.MinVersion != 0 {
					t.Errorf("%+v", k)
				}
			}
		}
	})
}
