package broker

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

// raw is a connection that speaks for itself.
type raw struct {
	t  *testing.T
	nc net.Conn
	in *bufio.Reader
	id int32
}

func newRaw(t *testing.T, addr string) *raw {
	t.Helper()
	return newRawFrom(t, "127.0.0.1", addr)
}

// newRawFrom connects from an address of this host.
func newRawFrom(t *testing.T, from, addr string) *raw {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	nc, err := dialer.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(patience))
	return &raw{t: t, nc: nc, in: bufio.NewReader(nc)}
}

func (r *raw) write(b []byte) {
	r.t.Helper()
	if _, err := r.nc.Write(b); err != nil {
		r.t.Fatal(err)
	}
}

func (r *raw) send(req kmsg.Request) int32 {
	r.t.Helper()
	r.id++
	r.write(kmsg.NewRequestFormatter(kmsg.FormatterClientID("raw")).AppendRequest(nil, req, r.id))
	return r.id
}

// receive reads the answer to the request with this correlation id, which must
// be the next one.
func (r *raw) receive(id int32, resp kmsg.Response) {
	r.t.Helper()
	var head [8]byte
	if _, err := io.ReadFull(r.in, head[:]); err != nil {
		r.t.Fatalf("no answer to request %d: %v", id, err)
	}
	if got := int32(binary.BigEndian.Uint32(head[4:])); got != id {
		r.t.Fatalf("answer %d came where %d was due", got, id)
	}
	body := make([]byte, binary.BigEndian.Uint32(head[:])-4)
	if _, err := io.ReadFull(r.in, body); err != nil {
		r.t.Fatal(err)
	}
	if resp.IsFlexible() && resp.Key() != protocol.KeyApiVersions {
		body = body[1:]
	}
	if err := resp.ReadFrom(body); err != nil {
		r.t.Fatalf("answer %d: %v", id, err)
	}
}

func ask[R kmsg.Response](r *raw, req kmsg.Request) R {
	r.t.Helper()
	resp := req.ResponseKind().(R)
	r.receive(r.send(req), resp)
	return resp
}

// closed checks that the broker ends the connection without an answer.
func (r *raw) closed() {
	r.t.Helper()
	if n, err := r.in.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !isReset(err) {
		r.t.Fatalf("the connection goes on: %d bytes, %v", n, err)
	}
}

func isReset(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && !op.Timeout()
}

func memoryNode(t *testing.T) string {
	t.Helper()
	n := startNode(t, Disk{FS: vfs.NewMem(), RaftLog: memoryLog()}, "0")
	t.Cleanup(func() {
		n.stop()
		if err := <-n.done; err != nil {
			t.Errorf("stopping: %v", err)
		}
	})
	return n.addr()
}

func createTopic(r *raw, name string) {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Version, req.TimeoutMillis = 7, 10_000
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, 1, 1
	req.Topics = append(req.Topics, topic)
	if resp := ask[*kmsg.CreateTopicsResponse](r, req); resp.Topics[0].ErrorCode != 0 {
		r.t.Fatalf("creating %s: error %d", name, resp.Topics[0].ErrorCode)
	}
}

func produceRequest(topic string, partition int32, acks int16, records []byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = 9, acks, 10_000
	t := kmsg.NewProduceRequestTopic()
	p := kmsg.NewProduceRequestTopicPartition()
	t.Topic, p.Partition, p.Records = topic, partition, records
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

func fetchRequest(topic string, partition int32, offset int64) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxBytes, req.MaxWaitMillis, req.MinBytes = 12, 1<<20, 0, 1
	req.SessionEpoch = -1
	t := kmsg.NewFetchRequestTopic()
	p := kmsg.NewFetchRequestTopicPartition()
	t.Topic, p.Partition, p.FetchOffset, p.PartitionMaxBytes, p.CurrentLeaderEpoch = topic, partition, offset, 1<<20, -1
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

func TestFramesThatAreNone(t *testing.T) {
	addr := memoryNode(t)
	length := func(n int32) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }
	for name, bytes := range map[string][]byte{
		"negative length":        append(length(-1), make([]byte, 10)...),
		"zero length":            append(length(0), make([]byte, 10)...),
		"too short for a header": append(length(9), make([]byte, 10)...),
		"longer than allowed":    append(length(math.MaxInt32), make([]byte, 10)...),
		"a small API, huge":      append(length(64<<20), 0, 3, 0, 0, 0, 0),
		"tls":                    {0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3},
		"unknown key":            append(length(10), 0, 4, 0, 0, 0, 0, 0, 1, 0xff, 0xff),
		"unknown version":        append(length(10), 0, 1, 0, 99, 0, 0, 0, 1, 0xff, 0xff),
		"garbage body":           append(length(14), 0, 1, 0, 12, 0, 0, 0, 1, 0xff, 0xff, 9, 9, 9, 9),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRaw(t, addr)
			r.write(bytes)
			r.closed()
		})
	}
	half := newRaw(t, addr)
	half.write(append(length(1000), 0, 0, 0, 9))
	half.nc.Close()
	createTopic(newRaw(t, addr), "others-do-not-notice")
}

func TestApiVersionsOfTheFuture(t *testing.T) {
	r := newRaw(t, memoryNode(t))
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = "x", "1"
	for _, version := range []int16{6, math.MaxInt16, -1} {
		req.Version = version
		resp := kmsg.NewPtrApiVersionsResponse() // of version 0
		r.receive(r.send(req), resp)
		if resp.ErrorCode != int16(protocol.UnsupportedVersion) || len(resp.ApiKeys) != 1 || resp.ApiKeys[0].ApiKey != protocol.KeyApiVersions || resp.ApiKeys[0].MaxVersion != 5 {
			t.Errorf("version %d: error %d, %+v", version, resp.ErrorCode, resp.ApiKeys)
		}
	}
	req.Version = 3
	if resp := ask[*kmsg.ApiVersionsResponse](r, req); resp.ErrorCode != 0 || resp.ApiKeys[0].MinVersion != 0 {
		t.Errorf("after it: %+v", resp)
	}
	req.ClientSoftwareName = "a b"
	if resp := ask[*kmsg.ApiVersionsResponse](r, req); resp.ErrorCode != int16(protocol.InvalidRequest) {
		t.Errorf("software name %q: error %d", req.ClientSoftwareName, resp.ErrorCode)
	}
}

func TestProduceRefusals(t *testing.T) {
	r := newRaw(t, memoryNode(t))
	createTopic(r, "t")
	good := func() []byte { return batchtest.Values("one", "two").Encode() }
	changed := func(at int, v byte, seal bool) []byte {
		b := good()
		b[at] = v
		if seal {
			b = batchtest.Seal(b)
		}
		return b
	}
	for _, c := range []struct {
		name      string
		topic     string
		partition int32
		acks      int16
		records   []byte
		want      protocol.ErrorCode
	}{
		{"nothing wrong", "t", 0, -1, good(), protocol.None},
		{"unknown topic", "none", 0, -1, good(), protocol.UnknownTopicOrPartition},
		{"partition that is not there", "t", 1, -1, good(), protocol.UnknownTopicOrPartition},
		{"negative partition", "t", -1, -1, good(), protocol.UnknownTopicOrPartition},
		{"lowest partition", "t", math.MinInt32, -1, good(), protocol.UnknownTopicOrPartition},
		{"acks 2", "t", 0, 2, good(), protocol.InvalidRequiredAcks},
		{"null records", "t", 0, -1, nil, protocol.InvalidRecord},
		{"cut short", "t", 0, -1, good()[:70], protocol.InvalidRecord},
		{"wrong CRC", "t", 0, -1, changed(17, 0xee, false), protocol.CorruptMessage},
		{"old magic", "t", 0, -1, changed(16, 1, false), protocol.InvalidRecord},
		{"no magic", "t", 0, -1, changed(16, 3, false), protocol.CorruptMessage},
		{"base offset", "t", 0, -1, changed(7, 1, false), protocol.InvalidRecord},
		{"wrong count", "t", 0, -1, changed(60, 9, true), protocol.InvalidRecord},
		{"control batch", "t", 0, -1, changed(22, 1<<5, true), protocol.InvalidRecord},
		{"transactional batch", "t", 0, -1, changed(22, 1<<4, true), protocol.TransactionalIDAuthorizationFailed},
		{"larger than max.message.bytes", "t", 0, -1, batchtest.Values(string(make([]byte, 1048588))).Encode(), protocol.MessageTooLarge},
		{"nothing wrong in the end", "t", 0, 1, good(), protocol.None},
	} {
		resp := ask[*kmsg.ProduceResponse](r, produceRequest(c.topic, c.partition, c.acks, c.records))
		if got := protocol.ErrorCode(resp.Topics[0].Partitions[0].ErrorCode); got != c.want {
			t.Errorf("%s: error %d, want %d", c.name, got, c.want)
		}
	}
	old := produceRequest("t", 0, 1, nil)
	old.Version = 2
	if resp := ask[*kmsg.ProduceResponse](r, old); resp.Topics[0].Partitions[0].ErrorCode != int16(protocol.UnsupportedVersion) {
		t.Errorf("version 2: %+v", resp)
	}
}

// Answers keep the order of their requests, and acks=0 has none.
func TestPipelining(t *testing.T) {
	r := newRaw(t, memoryNode(t))
	createTopic(r, "t")
	var ids []int32
	for range 100 {
		r.send(produceRequest("t", 0, 0, batchtest.Values("unanswered").Encode()))
		ids = append(ids, r.send(produceRequest("t", 0, -1, batchtest.Values("answered").Encode())))
	}
	for i, id := range ids {
		resp := kmsg.NewPtrProduceResponse()
		resp.Version = 9
		r.receive(id, resp)
		if p := resp.Topics[0].Partitions[0]; p.ErrorCode != 0 || p.BaseOffset != int64(2*i+1) {
			t.Fatalf("answer %d: error %d, offset %d", i, p.ErrorCode, p.BaseOffset)
		}
	}
	r.send(produceRequest("none", 0, 0, batchtest.Values("lost").Encode()))
	r.closed() // all that a producer with acks=0 can notice
}

func TestFetchEdges(t *testing.T) {
	r := newRaw(t, memoryNode(t))
	createTopic(r, "t")
	if p := ask[*kmsg.FetchResponse](r, fetchRequest("t", 0, 0)).Topics[0].Partitions[0]; p.ErrorCode != 0 || p.HighWatermark != 0 || p.LogStartOffset != 0 || p.RecordBatches == nil {
		t.Errorf("an empty log: %+v", p)
	}
	ask[*kmsg.ProduceResponse](r, produceRequest("t", 0, -1, batchtest.Values("a", "b", "c").Encode()))
	for _, c := range []struct {
		offset int64
		want   protocol.ErrorCode
		some   bool
	}{{0, 0, true}, {2, 0, true}, {3, 0, false}, {4, protocol.OffsetOutOfRange, false}, {-1, protocol.OffsetOutOfRange, false}} {
		p := ask[*kmsg.FetchResponse](r, fetchRequest("t", 0, c.offset)).Topics[0].Partitions[0]
		end := int64(3)
		if c.want != 0 {
			end = -1
		}
		if protocol.ErrorCode(p.ErrorCode) != c.want || (len(p.RecordBatches) > 0) != c.some || p.HighWatermark != end {
			t.Errorf("offset %d: error %d, %d bytes, high watermark %d", c.offset, p.ErrorCode, len(p.RecordBatches), p.HighWatermark)
		}
	}
	for _, partition := range []int32{-1, 1, math.MaxInt32} {
		if p := ask[*kmsg.FetchResponse](r, fetchRequest("t", partition, 0)).Topics[0].Partitions[0]; protocol.ErrorCode(p.ErrorCode) != protocol.UnknownTopicOrPartition {
			t.Errorf("partition %d: error %d", partition, p.ErrorCode)
		}
	}
	epoch := fetchRequest("t", 0, 0)
	epoch.Topics[0].Partitions[0].CurrentLeaderEpoch = 7
	if p := ask[*kmsg.FetchResponse](r, epoch).Topics[0].Partitions[0]; protocol.ErrorCode(p.ErrorCode) != protocol.UnknownLeaderEpoch {
		t.Errorf("epoch of the future: error %d", p.ErrorCode)
	}
	small := fetchRequest("t", 0, 0)
	small.MaxBytes, small.Topics[0].Partitions[0].PartitionMaxBytes = 1, 1
	if p := ask[*kmsg.FetchResponse](r, small).Topics[0].Partitions[0]; len(p.RecordBatches) == 0 {
		t.Error("the first batch must come whatever the limits")
	}
}

// A fetch that waits is answered by a produce on another connection.
func TestFetchWaits(t *testing.T) {
	addr := memoryNode(t)
	reader, writer := newRaw(t, addr), newRaw(t, addr)
	createTopic(writer, "t")
	for version := int16(4); version <= 12; version++ {
		wait := fetchRequest("t", 0, int64(version-4))
		wait.Version, wait.MaxWaitMillis = version, math.MaxInt32
		id := reader.send(wait)
		ask[*kmsg.ProduceResponse](writer, produceRequest("t", 0, -1, batchtest.Values("news").Encode()))
		resp := kmsg.NewPtrFetchResponse()
		resp.Version = version
		reader.receive(id, resp)
		records, err := batchtest.Records(resp.Topics[0].Partitions[0].RecordBatches)
		if err != nil || len(records) != 1 || string(records[0].Value) != "news" {
			t.Fatalf("version %d: %v, %v", version, records, err)
		}
	}
}

// A client that asks and does not read must not hold up others, nor stop.
func TestClientThatDoesNotRead(t *testing.T) {
	addr := memoryNode(t)
	other := newRaw(t, addr)
	createTopic(other, "t")
	for range 20 {
		ask[*kmsg.ProduceResponse](other, produceRequest("t", 0, -1, batchtest.Values(string(make([]byte, 1<<20-1000))).Encode()))
	}
	deaf := newRaw(t, addr)
	for range 20 {
		deaf.send(fetchRequest("t", 0, 0))
	}
	for range 10 {
		ask[*kmsg.ProduceResponse](other, produceRequest("t", 0, -1, batchtest.Values("still served").Encode()))
	}
	deaf.nc.Close()
}

func TestListOffsets(t *testing.T) {
	r := newRaw(t, memoryNode(t))
	createTopic(r, "t")
	ask[*kmsg.ProduceResponse](r, produceRequest("t", 0, -1, batchtest.Values("a", "b", "c").Encode()))
	for timestamp, want := range map[int64]int64{-1: 3, -2: 0} {
		req := kmsg.NewPtrListOffsetsRequest()
		req.Version, req.ReplicaID = 6, -1
		topic := kmsg.NewListOffsetsRequestTopic()
		part := kmsg.NewListOffsetsRequestTopicPartition()
		topic.Topic, part.Timestamp, part.CurrentLeaderEpoch = "t", timestamp, -1
		topic.Partitions = append(topic.Partitions, part)
		req.Topics = append(req.Topics, topic)
		if p := ask[*kmsg.ListOffsetsResponse](r, req).Topics[0].Partitions[0]; p.Offset != want || p.Timestamp != -1 || p.LeaderEpoch != 0 {
			t.Errorf("timestamp %d: %+v", timestamp, p)
		}
	}
}
