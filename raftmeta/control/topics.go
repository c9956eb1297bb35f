package control

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// MaxPartitionsPerCommand bounds one CreateTopic and one CreatePartitions. It is checked before anything is allocated.
const MaxPartitionsPerCommand = 10_000

// maxTopicName is what leaves room for "-" and a partition number in a directory's name.
const maxTopicName = 249

// CreateTopic creates a topic with all its partitions.
type CreateTopic struct {
	Name              string
	ID                image.UUID // drawn by the sender, never used before
	Partitions        int32      // -1 with Assignments
	ReplicationFactor int16      // -1 with Assignments
	Assignments       [][]int32  // replicas of each partition, if the sender wants to choose
	Configs           map[string]string
	ValidateOnly      bool
}

// CreatedTopic is the reply.
type CreatedTopic struct {
	ID                image.UUID // zero if only validated
	Partitions        int32
	ReplicationFactor int16
}

// Eval implements Command. Checks stand in the order of Kafka's ReplicationControlManager.createTopic.
func (c *CreateTopic) Eval(m *image.Image, _ time.Time) (Result, error) {
	if err := ValidateTopicName(c.Name); err != nil {
		return Result{}, err
	}
	if err := c.checkCollision(m); err != nil {
		return Result{}, err
	}
	if err := image.ValidateTopicConfig(c.Configs); err != nil {
		return refuse(InvalidConfig, "%v", err)
	}
	assignments := c.Assignments
	if len(assignments) == 0 {
		var err error
		if assignments, err = c.place(m); err != nil {
			return Result{}, err
		}
	} else if err := checkAssignments(m, assignments, 0, len(assignments[0])); err != nil {
		return Result{}, err
	}
	reply := &CreatedTopic{Partitions: int32(len(assignments)), ReplicationFactor: int16(len(assignments[0]))}
	if c.ValidateOnly {
		return Result{Reply: reply}, nil
	}
	reply.ID = c.ID
	return Result{Records: c.records(m, assignments), Reply: reply}, nil
}

// ValidateTopicName refuses names that Kafka refuses: they are names of directories and of metrics.
func ValidateTopicName(name string) error {
	legal := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-'
	}
	reason := ""
	switch {
	case name == "":
		reason = "the name is empty"
	case name == "." || name == "..":
		reason = "'.' and '..' are no topic names"
	case len(name) > maxTopicName:
		reason = "the name is longer than 249 characters"
	case strings.ContainsFunc(name, func(r rune) bool { return !legal(r) }):
		reason = "the name has other characters than ASCII letters and digits, '.', '_' and '-'"
	default:
		return nil
	}
	_, err := refuse(InvalidTopicName, "Topic name is invalid: %s", reason)
	return err
}

// checkCollision refuses a name that exists, and one that metrics could not tell from another: in their names '.'
// becomes '_'.
func (c *CreateTopic) checkCollision(m *image.Image) error {
	t, exists := m.TopicLike(c.Name)
	if !exists {
		return nil
	}
	var err error
	if t.Name == c.Name {
		_, err = refuse(TopicExists, "Topic '%s' already exists.", c.Name)
	} else {
		_, err = refuse(InvalidTopicName, "Topic '%s' collides with existing topic: %s", c.Name, t.Name)
	}
	return err
}

// place chooses replicas.
func (c *CreateTopic) place(m *image.Image) ([][]int32, error) {
	var err error
	switch {
	case c.Partitions <= 0:
		_, err = refuse(InvalidPartitions, "Number of partitions was set to an invalid non-positive value.")
	case c.ReplicationFactor <= 0:
		_, err = refuse(InvalidReplicationFactor, "Replication factor must be larger than 0, or -1 to use the default value.")
	case c.Partitions > MaxPartitionsPerCommand:
		_, err = tooMany(int(c.Partitions))
	case c.ReplicationFactor > image.MaxReplicas:
		_, err = refuse(InvalidReplicationFactor, "Unable to replicate the partition %d time(s): at most %d replicas are possible.", c.ReplicationFactor, image.MaxReplicas)
	}
	if err != nil {
		return nil, err
	}
	return spread(newPlacer(m, c.ID, nil), 0, int(c.Partitions), int(c.ReplicationFactor))
}

// spread places count partitions of a topic, numbered from first.
func spread(p *placer, first, count, replicas int) ([][]int32, error) {
	if err := p.check(replicas); err != nil {
		return nil, err
	}
	assignments := make([][]int32, count)
	for i := range assignments {
		assignments[i] = p.place(first+i, replicas)
	}
	return assignments, nil
}

func tooMany(n int) (Result, error) {
	return refuse(PolicyViolation, "%d partitions in one topic: at most %d can be created at once", n, MaxPartitionsPerCommand)
}

// checkAssignments wants assignments of new partitions: brokers that are fenced may be chosen, but not only such.
func checkAssignments(m *image.Image, assignments [][]int32, first, factor int) error {
	var err error
	if len(assignments) > MaxPartitionsPerCommand {
		_, err = tooMany(len(assignments))
		return err
	}
	for i, replicas := range assignments {
		if refusal := checkReplicas(m, replicas); refusal != nil {
			return refusal
		}
		active := slices.ContainsFunc(replicas, func(id int32) bool {
			b, _ := m.Broker(id)
			return b.Active()
		})
		switch {
		case len(replicas) != factor:
			_, err = refuse(InvalidReplicaAssignment, "The manual partition assignment includes a partition with %d replica(s), but this is not consistent with previous partitions, which have %d replica(s).", len(replicas), factor)
		case !active:
			_, err = refuse(InvalidReplicaAssignment, "All brokers specified in the manual partition assignment for partition %d are fenced or in controlled shutdown.", first+i)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkReplicas is Kafka's validateManualPartitionAssignment.
func checkReplicas(m *image.Image, replicas []int32) *Refusal {
	switch {
	case len(replicas) == 0:
		return failure(InvalidReplicaAssignment, "The manual partition assignment includes an empty replica list.")
	case len(replicas) > image.MaxReplicas:
		return failure(InvalidReplicaAssignment, "The manual partition assignment includes a partition with %d replica(s), at most %d are possible.", len(replicas), image.MaxReplicas)
	}
	for i, id := range replicas {
		if _, ok := m.Broker(id); !ok {
			return failure(InvalidReplicaAssignment, "The manual partition assignment includes broker %d, but no such broker is registered.", id)
		}
		if slices.Contains(replicas[:i], id) {
			return failure(InvalidReplicaAssignment, "The manual partition assignment includes the broker %d more than once.", id)
		}
	}
	return nil
}

// records creates the topic and its partitions.
func (c *CreateTopic) records(m *image.Image, assignments [][]int32) []image.Record {
	topic := &image.TopicRecord{Name: c.Name, ID: c.ID}
	for _, key := range slices.Sorted(maps.Keys(c.Configs)) {
		topic.Configs = append(topic.Configs, image.Setting{Key: key, Value: c.Configs[key]})
	}
	return []image.Record{topic, newPartitions(m, c.ID, 0, assignments)}
}

// newPartitions are led by the first replica whose broker is there. All whose brokers are there are in sync.
func newPartitions(m *image.Image, topic image.UUID, first int32, assignments [][]int32) *image.PartitionsRecord {
	r := &image.PartitionsRecord{Topic: topic, First: first, Partitions: make([]image.Partition, len(assignments))}
	dirs := ""
	for i, replicas := range assignments {
		isr := pick(replicas, func(id int32) bool {
			b, ok := m.Broker(id)
			return ok && b.Active()
		})
		var room [image.MaxReplicas]byte
		if places := directories(m, replicas, room[:0]); string(places) != dirs { // neighbours share theirs
			dirs = string(places)
		}
		r.Partitions[i] = image.Partition{Replicas: replicas, ISR: isr, Dirs: dirs, Leader: isr[0]}
	}
	return r
}

// directories appends the first directory of each broker; there is one per broker.
func directories(m *image.Image, replicas []int32, places []byte) []byte {
	for _, id := range replicas {
		place := byte(image.NoDir)
		if b, ok := m.Broker(id); ok && len(b.Dirs) > 0 {
			place = b.DirPlace(b.Dirs[0])
		}
		places = append(places, place)
	}
	return places
}

// DeleteTopic removes a topic, by name or by id.
type DeleteTopic struct {
	Name string
	ID   image.UUID // of the topic, where no name is given
}

// DeletedTopic is the reply.
type DeletedTopic struct {
	Name string
	ID   image.UUID
}

// Eval implements Command.
func (c *DeleteTopic) Eval(m *image.Image, _ time.Time) (Result, error) {
	t, ok := m.Topic(c.Name)
	if c.Name == "" {
		if t, ok = m.TopicByID(c.ID); !ok {
			return refuse(UnknownTopicID, "This server does not host this topic ID.")
		}
	}
	if !ok {
		return unknownTopic(c.Name)
	}
	return Result{
		Records: []image.Record{&image.TopicRemovalRecord{Topic: t.ID}},
		Reply:   &DeletedTopic{Name: t.Name, ID: t.ID},
	}, nil
}

func unknownTopic(name string) (Result, error) {
	return refuse(UnknownTopic, "The topic '%s' does not exist.", name)
}

// CreatePartitions gives a topic more partitions.
type CreatePartitions struct {
	Topic        string
	Count        int32     // in all
	Assignments  [][]int32 // replicas of each new partition, nil if the sender does not want to choose
	ValidateOnly bool
}

// Eval implements Command. Checks stand in the order of Kafka's ReplicationControlManager.createPartitions.
func (c *CreatePartitions) Eval(m *image.Image, _ time.Time) (Result, error) {
	t, ok := m.Topic(c.Topic)
	if !ok {
		return unknownTopic(c.Topic)
	}
	have := t.NumPartitions()
	switch {
	case c.Count == have:
		return refuse(InvalidPartitions, "Topic already has %d partition(s).", have)
	case c.Count < have:
		return refuse(InvalidPartitions, "The topic %s currently has %d partition(s); %d would not be an increase.", t.Name, have, c.Count)
	case c.Count-have > MaxPartitionsPerCommand:
		return tooMany(int(c.Count - have))
	}
	for i := range have { // how many replicas the others shall have, the first one does not say then
		if p, _ := t.Partition(i); p.Moving != nil {
			return refuse(ReassignmentInProgress, "A partition reassignment is in progress for the topic '%s'.", t.Name)
		}
	}
	first, _ := t.Partition(0)
	factor, added := len(first.Replicas), int(c.Count-have)
	assignments := c.Assignments
	var err error
	switch {
	case assignments == nil:
		assignments, err = spread(newPlacer(m, t.ID, t), int(have), added, factor)
	case len(assignments) != added:
		_, err = refuse(InvalidReplicaAssignment, "Attempted to add %d additional partition(s), but only %d assignment(s) were specified.", added, len(assignments))
	default:
		err = checkAssignments(m, assignments, int(have), factor)
	}
	if err != nil || c.ValidateOnly {
		return Result{}, err
	}
	return Result{Records: []image.Record{newPartitions(m, t.ID, have, assignments)}}, nil
}
