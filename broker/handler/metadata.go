package handler

import (
	"cmp"
	"context"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/coordinator"
	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
)

// What every client may do while there is no authorizer, as bits of Kafka's
// operation numbers: create, delete, alter, describe, read, write and the two
// of configs for a topic; create, alter, describe, cluster action, idempotent
// write and the two of configs for the cluster.
const (
	allTopicOperations   = 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<8 | 1<<10 | 1<<11
	allClusterOperations = 1<<5 | 1<<7 | 1<<8 | 1<<9 | 1<<10 | 1<<11 | 1<<12
	allGroupOperations   = 1<<3 | 1<<6 | 1<<8 | 1<<10 | 1<<11
	notAsked             = math.MinInt32
)

// createWait bounds how long a Metadata request waits for a topic that it
// creates. Apache Kafka does not wait: it answers UNKNOWN_TOPIC_OR_PARTITION
// and lets the client ask again, which costs the client its retry back-off.
const createWait = time.Second

// metadata tells brokers and topics (versions 0-13; 10 topic ids, 12 lookup by
// id). A null list of topics means all (in version 0 the empty list does),
// naming a topic may create it.
func (b *Broker) metadata(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.MetadataRequest)
	resp := req.ResponseKind().(*kmsg.MetadataResponse)
	if req.Version < 12 && slices.ContainsFunc(req.Topics, func(t kmsg.MetadataRequestTopic) bool { return t.Topic == nil || t.TopicID != [16]byte{} }) {
		done(&protocol.Response{Body: refuseIDs(req, resp)})
		return
	}
	create := b.Config.Bool("auto.create.topics.enable") && (req.Version < 4 || req.AllowAutoTopicCreation)
	var refused map[string]error
	if create {
		refused = b.createMissing(ctx, r, req)
	}
	b.Replicas.AwaitLeaders(ctx)
	img := b.Current(ctx)
	cluster := img.ClusterID()
	resp.ClusterID = &cluster
	for _, node := range img.Brokers() {
		if e, ok := node.Endpoint(r.Conn.Listener); ok && !node.Fenced {
			rb := kmsg.NewMetadataResponseBroker()
			b.warnLoopback(r.Conn, e)
			rb.NodeID, rb.Host, rb.Port, rb.Rack = node.ID, e.Host, int32(e.Port), rack(node)
			resp.Brokers = append(resp.Brokers, rb)
		}
	}
	resp.ControllerID = b.spokesman(img, r.Conn.Listener)
	operations := int32(notAsked)
	if req.IncludeTopicAuthorizedOperations {
		operations = allTopicOperations
	}
	resp.AuthorizedOperations = notAsked
	if req.IncludeClusterAuthorizedOperations {
		resp.AuthorizedOperations = allClusterOperations
	}
	resp.Topics = []kmsg.MetadataResponseTopic{}
	if req.Topics == nil || (req.Version == 0 && len(req.Topics) == 0) {
		for t := range img.Topics() {
			resp.Topics = append(resp.Topics, describe(img, t, req.Version, r.Conn.Listener, operations))
		}
	} else {
		resp.Topics = b.asked(img, req, r.Conn.Listener, operations, refused)
	}
	done(&protocol.Response{Body: resp})
}

// refuseIDs answers a request that names topics by id in a version that has the
// field and not the lookup.
func refuseIDs(req *kmsg.MetadataRequest, resp *kmsg.MetadataResponse) *kmsg.MetadataResponse {
	resp.ControllerID, resp.AuthorizedOperations = -1, notAsked
	for i := range req.Topics {
		row := kmsg.NewMetadataResponseTopic()
		row.Topic, row.TopicID = cmp.Or(req.Topics[i].Topic, new(string)), req.Topics[i].TopicID
		row.ErrorCode, row.AuthorizedOperations = int16(protocol.InvalidRequest), notAsked
		resp.Topics = append(resp.Topics, row)
	}
	return resp
}

// asked answers each topic that was asked for once, in the request's order.
func (b *Broker) asked(img *image.Image, req *kmsg.MetadataRequest, listener string, operations int32, refused map[string]error) []kmsg.MetadataResponseTopic {
	rows := []kmsg.MetadataResponseTopic{}
	seen := map[image.UUID]bool{}
	names := map[string]bool{}
	for i := range req.Topics {
		q := &req.Topics[i]
		var t *image.Topic
		var ok bool
		if q.TopicID != [16]byte{} || q.Topic == nil {
			t, ok = img.TopicByID(q.TopicID)
		} else {
			t, ok = img.Topic(*q.Topic)
		}
		switch {
		case ok:
			if !seen[t.ID] {
				seen[t.ID] = true
				rows = append(rows, describe(img, t, req.Version, listener, operations))
			}
		case q.Topic != nil && q.TopicID == [16]byte{}:
			if !names[*q.Topic] {
				names[*q.Topic] = true
				rows = append(rows, missing(q, refused[*q.Topic], operations))
			}
		default:
			rows = append(rows, missing(q, errUnknownTopicID, operations))
		}
	}
	return rows
}

func missing(q *kmsg.MetadataRequestTopic, err error, operations int32) kmsg.MetadataResponseTopic {
	row := kmsg.NewMetadataResponseTopic()
	row.Topic, row.TopicID, row.AuthorizedOperations = q.Topic, q.TopicID, operations
	switch {
	case err != nil:
		row.ErrorCode = int16(errorCode(err))
	case control.ValidateTopicName(*q.Topic) != nil:
		row.ErrorCode = int16(protocol.InvalidTopic)
	default:
		row.ErrorCode = int16(protocol.UnknownTopicOrPartition)
	}
	return row
}

func describe(img *image.Image, t *image.Topic, version int16, listener string, operations int32) kmsg.MetadataResponseTopic {
	row := kmsg.NewMetadataResponseTopic()
	name := t.Name
	row.Topic, row.TopicID, row.AuthorizedOperations, row.IsInternal = &name, t.ID, operations, name == coordinator.OffsetsTopic
	row.Partitions = make([]kmsg.MetadataResponseTopicPartition, t.NumPartitions())
	for i := range t.NumPartitions() {
		s, _ := t.Partition(i)
		p := &row.Partitions[i]
		p.Default()
		p.Partition = i
		p.Leader, p.LeaderEpoch = s.Leader, s.LeaderEpoch
		p.Replicas, p.ISR = slices.Clone(s.Replicas), slices.Clone(s.ISR)
		leader, ok := img.Broker(s.Leader)
		if !ok {
			p.Leader, p.LeaderEpoch = -1, -1
			p.ErrorCode = int16(protocol.LeaderNotAvailable)
		} else if _, ok := leader.Endpoint(listener); !ok {
			// Not among the brokers of this answer, so none to the client.
			p.Leader = -1
			p.ErrorCode = int16(protocol.ListenerNotFound)
			if version < 6 { // clients of that age do not know the other
				p.ErrorCode = int16(protocol.LeaderNotAvailable)
			}
		}
	}
	return row
}

// spokesman is the broker that clients are to send to what is for the
// controller. Any broker takes it there, so it is this one, which the client
// reaches; another only where this one is not among those that are told, and -1
// where nobody is. Apache Kafka names any of them by chance.
func (b *Broker) spokesman(img *image.Image, listener string) int32 {
	chosen := int32(-1)
	for _, node := range img.Brokers() {
		_, ok := node.Endpoint(listener)
		if ok && !node.Fenced && (chosen < 0 || node.ID == b.NodeID) {
			chosen = node.ID
		}
	}
	return chosen
}

// warnLoopback tells, once for each listener, that clients on other hosts are
// sent to themselves: the first connection works, and every one after it fails.
func (b *Broker) warnLoopback(conn *protocol.ConnInfo, e image.Endpoint) {
	if !conn.Peer.IsValid() || conn.Peer.Addr().Unmap().IsLoopback() || !isLoopback(e.Host) {
		return
	}
	if _, told := b.warned.LoadOrStore(conn.Listener, true); told {
		return
	}
	b.Log.Warn("a client on another host is told to connect to its own, which is right only where it forwards the port to here: else set advertised.listeners to a name or address that it reaches this host by",
		"peer", conn.Peer, "listener", conn.Listener, "advertised", net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port))))
}

func isLoopback(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().IsLoopback()
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// maxCreated bounds the topics that one Metadata request creates. To whom wants
// more the rest is unknown, as it would be for a moment with Apache Kafka, and its
// next request creates more.
const maxCreated = 1000

// createMissing creates the topics that are named and do not exist, and returns
// why one could not be. A topic that another request creates meanwhile is no
// failure.
func (b *Broker) createMissing(ctx context.Context, r *protocol.Request, req *kmsg.MetadataRequest) map[string]error {
	refused := map[string]error{}
	ctx, cancel := context.WithTimeout(ctx, createWait)
	defer cancel()
	img := b.Image()
	var all submission
	seen := map[string]bool{}
	for i := range req.Topics {
		name := req.Topics[i].Topic
		if name == nil || seen[*name] || control.ValidateTopicName(*name) != nil {
			continue
		}
		if _, ok := img.Topic(*name); ok {
			continue
		}
		if len(seen) == maxCreated {
			break
		}
		seen[*name] = true
		partitions, replicas := b.topicDefaults()
		all.add(&control.CreateTopic{Name: *name, ID: b.NewTopicID(), Partitions: partitions, ReplicationFactor: replicas}, func(o Outcome) {
			if code := errorCode(o.Err); o.Err != nil && code != protocol.TopicAlreadyExists && code != protocol.RequestTimedOut {
				refused[*name] = o.Err
			}
		})
	}
	all.run(ctx, b, r)
	return refused
}

// topicDefaults are what a topic gets that does not say otherwise.
func (b *Broker) topicDefaults() (partitions int32, replicas int16) {
	return int32(b.Config.Number("num.partitions")), int16(b.Config.Number("default.replication.factor"))
}
