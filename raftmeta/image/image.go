package image

import (
	"cmp"
	"iter"
	"maps"
	"slices"

	"github.com/benbjohnson/immutable"
)

// Level is the metadata level that this release writes: which records and versions may appear in the log.
//
// Level 1 is that of clusters of one node, before there were others. Level 2 has operations and states of brokers.
const Level uint32 = 2

// OldestLevel is the lowest level that this release can work with.
const OldestLevel uint32 = 1

// Levels is the range of metadata levels that a node can read. The zero value says that it never told.
type Levels struct{ Min, Max uint32 }

// OwnLevels is what this release reads.
var OwnLevels = Levels{OldestLevel, Level}

// Image is the metadata of the cluster after a whole unit. It is immutable, so any number of goroutines may read it.
type Image struct {
	index          uint64
	clusterID      string
	level          uint32
	voters         []Voter   // by raft id
	origins        []*origin // by node
	brokers        []*Broker // by id
	retired        []retired // by id
	nextProducerID int64
	settings       []NodeSettings  // by node
	groups         []GroupSettings // by name
	topics         topicTable
	partitions     int
	holders        []holder // by id, without those that have nothing
}

// NodeSettings are the dynamic settings of one broker, or with [EveryBroker] of all.
type NodeSettings struct {
	Node     int32
	Settings []Setting // by key
}

// GroupSettings are the settings of one consumer group.
type GroupSettings struct {
	Group    string
	Settings []Setting // by key
}

// EveryBroker stands for the cluster where settings of a broker are meant.
const EveryBroker int32 = -1

// Voter binds a raft id, drawn once per directory and never used again, to the node it belongs to. It is here before the
// node takes part in the quorum, and until after it did: who votes, raft knows.
type Voter struct {
	RaftID      uint64
	NodeID      int32
	DirectoryID UUID
	Endpoints   []Endpoint // its controller listeners, none for a node that is alone
	Levels      Levels
	// Since is the index of the unit that made it known. Of a node's raft ids the last one counts.
	Since uint64
}

// Endpoint is where a broker can be reached, by the name of its listener.
type Endpoint struct {
	Name string
	Host string
	Port uint16
}

// Broker is a registered broker.
type Broker struct {
	ID          int32
	Epoch       int64 // raft index of the unit that registered this incarnation
	Incarnation UUID
	Listeners   []Endpoint
	Rack        string // empty when none was given
	Dirs        []UUID // the directories that this incarnation registered with
	Levels      Levels
	// Fenced says that the broker is not there, as far as anybody knows: it neither leads nor enters an ISR.
	Fenced bool
	// InControlledShutdown says that the broker is on its way out: it keeps what it leads for now, and gains nothing.
	// It lasts until the broker is fenced or unfenced, or registers again.
	InControlledShutdown bool

	// dirs holds every directory the broker ever had. Places in it are written into partitions, so it only grows.
	dirs []UUID
	tags []Tag
}

// Active tells whether the broker may lead and enter an ISR.
func (b *Broker) Active() bool { return !b.Fenced && !b.InControlledShutdown }

// Endpoint is where the broker is reached by a listener.
func (b *Broker) Endpoint(listener string) (Endpoint, bool) {
	i := slices.IndexFunc(b.Listeners, func(e Endpoint) bool { return e.Name == listener })
	if i < 0 {
		return Endpoint{}, false
	}
	return b.Listeners[i], true
}

// Dir is the directory that a byte of [Partition.Dirs] stands for; zero for [NoDir].
func (b *Broker) Dir(place byte) UUID {
	if int(place) >= len(b.dirs) {
		return UUID{}
	}
	return b.dirs[place]
}

// DirPlace is the byte that stands for a directory in [Partition.Dirs], [NoDir] for one that was never registered.
func (b *Broker) DirPlace(dir UUID) byte {
	if i := slices.Index(b.dirs, dir); i >= 0 {
		return byte(i)
	}
	return NoDir
}

// retired is what is left of a broker that was removed while partitions still had replicas at it: what their directories
// mean, for when the id is registered again.
type retired struct {
	id   int32
	dirs []UUID
}

// KnownDirs is how many directories a broker id ever had, also one that is not registered now; there is room for
// [MaxDirs].
func (m *Image) KnownDirs(id int32) int {
	if b, ok := m.Broker(id); ok {
		return len(b.dirs)
	}
	if at, ok := findRetired(m.retired, id); ok {
		return len(m.retired[at].dirs)
	}
	return 0
}

func findRetired(all []retired, id int32) (int, bool) {
	return slices.BinarySearchFunc(all, id, func(r retired, id int32) int { return cmp.Compare(r.id, id) })
}

// MaxDirs bounds the directories that one broker id may have over its life.
const MaxDirs = NoDir

// Topic is a topic with its partitions.
type Topic struct {
	Name string
	ID   UUID

	configs []Setting // by key
	tags    []Tag
	count   int32
	tree    [][][][]Partition // blocks of blockSize partitions, at three levels of fanOut; the last ones are shorter
}

// NewTopic is a topic that is in no image, with settings: what a topic of these settings would be.
func NewTopic(name string, configs map[string]string) *Topic {
	t := &Topic{Name: name}
	for _, key := range slices.Sorted(maps.Keys(configs)) {
		t.configs = append(t.configs, Setting{key, configs[key]})
	}
	return t
}

// Setting is one configuration value.
type Setting struct{ Key, Value string }

// A change of a partition copies its block of blockSize, and above that two lists of fanOut and the one at the top, which
// has 61 for a million partitions. What a change costs is mostly what it copies: the garbage is looked through again and
// again, beside an image of hundreds of megabytes.
const (
	blockSize = 16
	fanOut    = 32
)

// Empty is the image before the first unit.
func Empty() *Image {
	return &Image{topics: topicTable{
		slots:  immutable.NewList[*Topic](),
		byName: immutable.NewMap[string, int32](nameHasher{}),
		byID:   immutable.NewMap[UUID, int32](uuidHasher{}),
	}}
}

// Index is the raft index of the last unit in the image.
func (m *Image) Index() uint64 { return m.index }

// ClusterID is empty until the cluster is formed.
func (m *Image) ClusterID() string { return m.clusterID }

// Level is the finalized metadata level.
func (m *Image) Level() uint32 { return m.level }

// NextProducerID is the first producer id that was never handed out.
func (m *Image) NextProducerID() int64 { return m.nextProducerID }

// Voters are the controllers, ordered by raft id. The slice must not be changed.
func (m *Image) Voters() []Voter { return m.voters }

// Voter finds a controller by raft id.
func (m *Image) Voter(raftID uint64) (*Voter, bool) {
	at, ok := m.findVoter(raftID)
	if !ok {
		return nil, false
	}
	return &m.voters[at], true
}

func (m *Image) findVoter(raftID uint64) (int, bool) {
	return slices.BinarySearchFunc(m.voters, raftID, func(v Voter, id uint64) int { return cmp.Compare(v.RaftID, id) })
}

// Brokers are the registered brokers, ordered by id. The slice must not be changed.
func (m *Image) Brokers() []*Broker { return m.brokers }

// Broker finds a registered broker.
func (m *Image) Broker(id int32) (*Broker, bool) {
	i, ok := m.findBroker(id)
	if !ok {
		return nil, false
	}
	return m.brokers[i], true
}

func (m *Image) findBroker(id int32) (int, bool) {
	return slices.BinarySearchFunc(m.brokers, id, func(b *Broker, id int32) int { return cmp.Compare(b.ID, id) })
}

// Topic finds a topic by name.
func (m *Image) Topic(name string) (*Topic, bool) {
	t, ok := m.TopicLike(name)
	if !ok || t.Name != name {
		return nil, false
	}
	return t, true
}

// TopicLike finds the topic whose name is name, or differs from it in '.' and '_' only.
func (m *Image) TopicLike(name string) (*Topic, bool) {
	slot, ok := m.topics.byName.Get(name)
	if !ok {
		return nil, false
	}
	return m.topics.at(slot), true
}

// TopicByID finds a topic by id.
func (m *Image) TopicByID(id UUID) (*Topic, bool) {
	slot, ok := m.topics.byID.Get(id)
	if !ok {
		return nil, false
	}
	return m.topics.at(slot), true
}

// Topics yields all topics in the order of their slots, which is the same on every node.
func (m *Image) Topics() iter.Seq[*Topic] {
	return func(yield func(*Topic) bool) {
		for it := m.topics.slots.Iterator(); !it.Done(); {
			if _, t := it.Next(); !yield(t) {
				return
			}
		}
	}
}

// NumTopics counts the topics.
func (m *Image) NumTopics() int { return int(m.topics.count()) }

// NumPartitions counts the partitions of all topics.
func (m *Image) NumPartitions() int { return m.partitions }

// NumPartitions counts the partitions of the topic, numbered from 0.
func (t *Topic) NumPartitions() int32 { return t.count }

// Partition is the state of partition i, which must not be changed. Any i may be asked for.
func (t *Topic) Partition(i int32) (*Partition, bool) {
	if i < 0 || i >= t.count {
		return nil, false
	}
	n := i / blockSize
	return &t.tree[n/(fanOut*fanOut)][n/fanOut%fanOut][n%fanOut][i%blockSize], true
}

// Config is the value that was set for the topic itself.
func (t *Topic) Config(key string) (string, bool) { return find(t.configs, key) }

func find(settings []Setting, key string) (string, bool) {
	i, ok := slices.BinarySearchFunc(settings, key, func(s Setting, key string) int { return cmp.Compare(s.Key, key) })
	if !ok {
		return "", false
	}
	return settings[i].Value, true
}

// BrokerConfigs are the values set for one broker, or with [EveryBroker] for all, ordered by key. The slice must not be
// changed.
func (m *Image) BrokerConfigs(node int32) []Setting {
	if i, ok := m.findNode(node); ok {
		return m.settings[i].Settings
	}
	return nil
}

// BrokerConfig is one of BrokerConfigs.
func (m *Image) BrokerConfig(node int32, key string) (string, bool) {
	return find(m.BrokerConfigs(node), key)
}

func (m *Image) findNode(node int32) (int, bool) {
	return slices.BinarySearchFunc(m.settings, node, func(s NodeSettings, node int32) int { return cmp.Compare(s.Node, node) })
}

// ConfiguredGroups are the groups with settings, ordered by name. The slice must not be changed.
func (m *Image) ConfiguredGroups() []GroupSettings { return m.groups }

// GroupConfigs are the values set for a consumer group, ordered by key. The slice must not be changed.
func (m *Image) GroupConfigs(group string) []Setting {
	if i, ok := m.findGroup(group); ok {
		return m.groups[i].Settings
	}
	return nil
}

// GroupConfig is one of GroupConfigs.
func (m *Image) GroupConfig(group, key string) (string, bool) {
	return find(m.GroupConfigs(group), key)
}

func (m *Image) findGroup(group string) (int, bool) {
	return slices.BinarySearchFunc(m.groups, group, func(s GroupSettings, group string) int { return cmp.Compare(s.Group, group) })
}

// Configs are the values set for the topic itself, ordered by key. The slice must not be changed.
func (t *Topic) Configs() []Setting { return t.configs }

// topicTable holds topics in dense slots. The hash maps lead to slots, not topics: only creating and removing a topic
// touches them.
type topicTable struct {
	slots  *immutable.List[*Topic]
	byName *immutable.Map[string, int32]
	byID   *immutable.Map[UUID, int32]
}

func (tt *topicTable) count() int32 { return int32(tt.slots.Len()) }

func (tt *topicTable) at(slot int32) *Topic { return tt.slots.Get(int(slot)) }
