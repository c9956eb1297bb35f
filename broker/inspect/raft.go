package inspect

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/quorum"
	"github.com/streambus/streambus/raftmeta/wal"
	"github.com/streambus/streambus/storage/vfs"
)

// Raft shows a raft log: where it stands, and what its entries did.
func (i *Inspector) Raft(file string) error {
	r := &raftReader{Inspector: i, file: file, show: true, names: make(map[image.UUID]string)}
	_, err := r.read()
	return err
}

// verifyRaft replays a raft log and shows only where it stands and what is wrong. The image is nil if that is something.
func (i *Inspector) verifyRaft(file, clusterID string) (*image.Image, error) {
	r := &raftReader{Inspector: i, file: file, names: make(map[image.UUID]string)}
	if clusterID != "" {
		r.hash, r.hashKnown = image.ClusterHash(clusterID), true
	}
	return r.read()
}

// Metadata replays the raft log of a data directory that no broker uses.
func Metadata(dir string) (*image.Image, error) {
	i := New(vfs.ReadOnly(), io.Discard, false)
	file := filepath.Join(dir, "raftmeta", "log.db")
	img, err := i.verifyRaft(file, "")
	if err == nil && img == nil {
		err = fmt.Errorf("%s holds no metadata that can be read: streambus inspect raft says what is wrong with it", file)
	}
	return img, err
}

type raftReader struct {
	*Inspector
	file      string
	show      bool
	hash      uint32 // of the cluster
	hashKnown bool
	img       *image.Image
	names     map[image.UUID]string // of topics that entries create
}

func (r *raftReader) read() (*image.Image, error) {
	s, err := wal.Inspect(r.file)
	if s == nil {
		return nil, r.found(r.file, err)
	}
	meta := s.Snapshot.GetMetadata()
	r.line("raft_log", "file", r.file, "format", s.Format, "page_size", s.PageSize, "pages", s.Pages, "transaction", s.Transaction, "raft_id", s.RaftID, "entries", len(s.Entries))
	r.line("hard_state", "term", s.HardState.GetTerm(), "vote", s.HardState.GetVote(), "commit", s.HardState.GetCommit())
	r.line("snapshot", "index", meta.GetIndex(), "term", meta.GetTerm(), "bytes", len(s.Snapshot.GetData()))
	r.line("conf_state", "voters", fmt.Sprint(meta.GetConfState().GetVoters()), "learners", fmt.Sprint(meta.GetConfState().GetLearners()))
	if err != nil || s.RaftID == 0 {
		return nil, r.found(r.file, err)
	}
	if r.img, err = image.DecodeImage(s.Snapshot.GetData()); err != nil {
		return nil, r.found(fmt.Sprintf("the snapshot at %d of %s", meta.GetIndex(), r.file), err)
	}
	if id := r.img.ClusterID(); id != "" && !r.hashKnown {
		r.hash, r.hashKnown = image.ClusterHash(id), true
	}
	var parts quorum.Assembler
	for _, e := range s.Entries {
		index := e.GetIndex()
		data := e.GetData()
		if e.GetType() != 0 {
			data = nil
		}
		unit, err := parts.Add(e.GetTerm(), data)
		switch {
		case err != nil:
		case e.GetType() != 0:
			r.entry("members", "index", index, "term", e.GetTerm(), "committed", index <= s.HardState.GetCommit())
		case len(data) == 0:
			r.entry("term", "index", index, "term", e.GetTerm(), "committed", index <= s.HardState.GetCommit())
		case unit == nil:
			r.entry("part", "index", index, "term", e.GetTerm(), "bytes", len(e.GetData()), "complete", !parts.InUnit())
		default:
			err = r.unit(index, e.GetTerm(), unit, index > meta.GetIndex())
		}
		if err != nil {
			r.damage(r.file, "entry", index, "reason", err.Error())
			return nil, nil // nothing behind it can be replayed
		}
	}
	r.line("metadata", "index", r.img.Index(), "topics", r.img.NumTopics(), "partitions", r.img.NumPartitions(), "brokers", len(r.img.Brokers()))
	return r.img, nil
}

func (r *raftReader) entry(kind string, values ...any) {
	if r.show {
		r.line(kind, values...)
	}
}

// unit shows a unit and replays it, unless the snapshot holds it.
func (r *raftReader) unit(index, term uint64, b []byte, replay bool) (err error) {
	if !r.hashKnown { // the log of a new cluster has its name in the first unit
		if r.hash, err = image.UnitCluster(b); err != nil {
			return err
		}
		r.hashKnown = true
	}
	u, err := image.DecodeUnit(b, r.hash)
	if err != nil {
		return err
	}
	r.entry("unit", "index", index, "term", term, "id", u.ID.String(), "base", u.Base, "records", len(u.Records), "bytes", len(b))
	for _, rec := range u.Records {
		r.entry("record", "index", index, "type", strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%T", rec), "*image."), "Record"), "says", r.words(rec))
	}
	if !replay {
		return nil
	}
	if u.Base != r.img.Index() {
		return fmt.Errorf("the unit was decided on index %d, the metadata is at %d", u.Base, r.img.Index())
	}
	defer func() {
		if misfit := recover(); misfit != nil {
			err = fmt.Errorf("the unit does not fit the metadata before it: %v", misfit)
		}
	}()
	r.img, _ = image.Apply(r.img, index, u.Records)
	return nil
}

// words say what a record does.
func (r *raftReader) words(rec image.Record) string {
	switch x := rec.(type) {
	case *image.OperationRecord:
		text := fmt.Sprintf("%s, for %s:", x.Actor, x.Cause)
		if x.Seq > 0 {
			text += fmt.Sprintf(" operation %d of node %d, incarnation %s, done below %d, reply %s", x.Seq, x.Node, x.Incarnation, x.Done, x.Reply)
		}
		return text
	case *image.ClusterRecord:
		return fmt.Sprintf("the cluster is %s, its metadata level %d", x.ClusterID, x.Level)
	case *image.VoterRecord:
		return fmt.Sprintf("raft id %d is node %d at %s", x.RaftID, x.NodeID, endpoints(x.Endpoints))
	case *image.VoterRemovalRecord:
		return fmt.Sprintf("raft id %d is no controller any more", x.RaftID)
	case *image.BrokerChangeRecord:
		return fmt.Sprintf("broker %d of epoch %d: fenced %t, in controlled shutdown %t", x.ID, x.Epoch, x.Fenced, x.InControlledShutdown)
	case *image.BrokerRemovalRecord:
		return fmt.Sprintf("broker %d of epoch %d is unregistered", x.ID, x.Epoch)
	case *image.ELRClearRecord:
		if x.Topic.IsZero() {
			return "eligible replicas of all topics are forgotten"
		}
		return fmt.Sprintf("eligible replicas of topic %s are forgotten", r.topic(x.Topic))
	case *image.BrokerRecord:
		return fmt.Sprintf("broker %d registers as incarnation %s at %s, rack %q, directories %v, fenced %t", x.ID, x.Incarnation, endpoints(x.Listeners), x.Rack, x.Dirs, x.Fenced)
	case *image.TopicRecord:
		r.names[x.ID] = x.Name
		return fmt.Sprintf("topic %s is created with id %s%s", x.Name, x.ID, settings(x.Configs))
	case *image.PartitionsRecord:
		text := fmt.Sprintf("topic %s has %d more partitions, from %d on:", r.topic(x.Topic), len(x.Partitions), x.First)
		for i := range x.Partitions {
			text += fmt.Sprintf(" %d: %s;", int(x.First)+i, partition(&x.Partitions[i]))
		}
		return strings.TrimSuffix(text, ";")
	case *image.PartitionChangeRecord:
		return fmt.Sprintf("partition %d of topic %s becomes %s", x.Index, r.topic(x.Topic), partition(&x.Partition))
	case *image.ProducerIDsRecord:
		return fmt.Sprintf("producer ids below %d are handed out", x.Next)
	case *image.TopicRemovalRecord:
		return fmt.Sprintf("topic %s is removed", r.topic(x.Topic))
	case *image.TopicConfigsRecord:
		return fmt.Sprintf("topic %s has the settings%s", r.topic(x.Topic), settings(x.Configs))
	case *image.BrokerConfigsRecord:
		if x.Node == image.EveryBroker {
			return "all brokers have the settings" + settings(x.Configs)
		}
		return fmt.Sprintf("broker %d has the settings%s", x.Node, settings(x.Configs))
	case *image.GroupConfigsRecord:
		return fmt.Sprintf("group %s has the settings%s", x.Group, settings(x.Configs))
	default:
		return fmt.Sprintf("%+v", rec)
	}
}

func (r *raftReader) topic(id image.UUID) string {
	name := r.names[id]
	if t, ok := r.img.TopicByID(id); ok {
		name = t.Name
	}
	return fmt.Sprintf("%s (%s)", name, id)
}

func endpoints(all []image.Endpoint) string {
	var s []string
	for _, e := range all {
		s = append(s, fmt.Sprintf("%s://%s:%d", e.Name, e.Host, e.Port))
	}
	return strings.Join(s, ",")
}

func settings(all []image.Setting) string {
	text := ""
	for _, s := range all {
		text += fmt.Sprintf(" %s=%s", s.Key, s.Value)
	}
	return text
}

func partition(p *image.Partition) string {
	text := fmt.Sprintf("replicas %v in sync %v leader %d epochs %d/%d", p.Replicas, p.ISR, p.Leader, p.LeaderEpoch, p.PartitionEpoch)
	if m := p.Moving; m != nil {
		text += fmt.Sprintf(" adding %v removing %v", m.Adding, m.Removing)
	}
	return text
}

// image shows a snapshot of the metadata.
func (i *Inspector) image(file string, data []byte) error {
	img, err := image.DecodeImage(data)
	if err != nil {
		return err
	}
	i.line("metadata", "file", file, "index", img.Index(), "cluster_id", img.ClusterID(), "metadata_version", img.Level(), "next_producer_id", img.NextProducerID(),
		"topics", img.NumTopics(), "partitions", img.NumPartitions(), "bytes", len(data))
	for _, v := range img.Voters() {
		i.line("voter", "raft_id", v.RaftID, "node_id", v.NodeID)
	}
	i.settings(img, image.EveryBroker, "all")
	for _, b := range img.Brokers() {
		i.line("broker", "id", b.ID, "epoch", b.Epoch, "incarnation", b.Incarnation.String(), "listeners", endpoints(b.Listeners), "rack", b.Rack,
			"directories", fmt.Sprint(b.Dirs), "fenced", b.Fenced)
		i.settings(img, b.ID, fmt.Sprint(b.ID))
	}
	for t := range img.Topics() {
		i.line("topic", "name", t.Name, "id", t.ID.String(), "partitions", t.NumPartitions(), "settings", strings.TrimSpace(settings(t.Configs())))
		for n := range t.NumPartitions() {
			p, _ := t.Partition(n)
			i.line("partition", "topic", t.Name, "partition", n, "replicas", fmt.Sprint(p.Replicas), "isr", fmt.Sprint(p.ISR), "leader", p.Leader,
				"leader_epoch", p.LeaderEpoch, "partition_epoch", p.PartitionEpoch)
		}
	}
	return nil
}

func (i *Inspector) settings(img *image.Image, node int32, name string) {
	for _, s := range img.BrokerConfigs(node) {
		i.line("setting", "broker", name, "key", s.Key, "value", s.Value)
	}
}
