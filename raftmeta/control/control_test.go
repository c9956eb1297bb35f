package control

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

func id(n int) (u image.UUID) {
	u[0], u[15] = 1, byte(n)
	return u
}

// cluster is an image that commands built: brokers 1 to n, each with one directory.
func cluster(t *testing.T, n int) *image.Image {
	t.Helper()
	img := apply(t, image.Empty(), &FormCluster{ClusterID: "c", Voters: []image.Voter{{RaftID: 7, NodeID: 1}}})
	for i := 1; i <= n; i++ {
		img = join(t, img, &RegisterBroker{ID: int32(i), Incarnation: id(i), Levels: image.OwnLevels, Dirs: []image.UUID{id(100 + i)}})
	}
	return img
}

// join registers a broker and unfences it.
func join(t *testing.T, img *image.Image, c *RegisterBroker) *image.Image {
	t.Helper()
	return unfence(t, apply(t, img, c), c.ID)
}

// apply evaluates a command that must not be refused.
func apply(t *testing.T, img *image.Image, c Command) *image.Image {
	t.Helper()
	r, err := c.Eval(img, time.Time{})
	if err != nil {
		t.Fatalf("%+v: %v", c, err)
	}
	if len(r.Records) == 0 {
		return img
	}
	next, _ := image.Apply(img, img.Index()+1, r.Records)
	return next
}

func epoch(img *image.Image, id int32) int64 {
	b, _ := img.Broker(id)
	return b.Epoch
}

// change gives a partition another state, as a later command would.
func change(t *testing.T, img *image.Image, topic string, i int32, edit func(*image.Partition)) *image.Image {
	t.Helper()
	tp, _ := img.Topic(topic)
	p, _ := tp.Partition(i)
	next := *p
	next.PartitionEpoch++
	edit(&next)
	img, _ = image.Apply(img, img.Index()+1, []image.Record{&image.PartitionChangeRecord{Topic: tp.ID, Index: i, Partition: next}})
	return img
}

func TestRefusals(t *testing.T) {
	three := cluster(t, 3)
	used := apply(t, three, &CreateTopic{Name: "a.b", ID: id(1), Partitions: 1, ReplicationFactor: 1})
	fence := func(img *image.Image, ids ...int32) *image.Image {
		for _, id := range ids {
			img = apply(t, img, &FenceBroker{ID: id, Epoch: epoch(img, id)})
		}
		return img
	}
	fenced := fence(three, 3)
	crowd := cluster(t, image.MaxReplicas+1)
	many := three
	for i := range 127 {
		many = apply(t, many, &RegisterBroker{ID: 1, Incarnation: id(i % 250), Levels: image.OwnLevels, Dirs: []image.UUID{{1: 1, 2: byte(i)}, {1: 2, 2: byte(i)}}})
	}
	short := func(partitions int32, rf int16) *CreateTopic {
		return &CreateTopic{Name: "t", ID: id(1), Partitions: partitions, ReplicationFactor: rf}
	}
	chosen := func(a ...[]int32) *CreateTopic {
		return &CreateTopic{Name: "t", ID: id(1), Partitions: -1, ReplicationFactor: -1, Assignments: a}
	}
	named := func(name string) *CreateTopic {
		return &CreateTopic{Name: name, ID: id(2), Partitions: 1, ReplicationFactor: 1}
	}
	for name, c := range map[string]struct {
		img  *image.Image
		cmd  Command
		code Code
		text string
	}{
		"other cluster":     {three, &FormCluster{ClusterID: "d", Voters: []image.Voter{{RaftID: 7, NodeID: 1}}}, WrongCluster, "cluster c"},
		"name empty":        {three, named(""), InvalidTopicName, "empty"},
		"name dot":          {three, named("."), InvalidTopicName, "'.'"},
		"name dots":         {three, named(".."), InvalidTopicName, "'..'"},
		"name long":         {three, named(strings.Repeat("x", 250)), InvalidTopicName, "249"},
		"name slash":        {three, named("a/b"), InvalidTopicName, "ASCII"},
		"name beyond ASCII": {three, named("é"), InvalidTopicName, "ASCII"},
		"topic exists":      {used, named("a.b"), TopicExists, "'a.b'"},
		"topic collides":    {used, named("a_b"), InvalidTopicName, "collides with existing topic: a.b"},
		"unknown config":    {three, &CreateTopic{Name: "t", Partitions: 1, ReplicationFactor: 1, Configs: map[string]string{"x.y": "1"}}, InvalidConfig, "x.y"},
		"bad config":        {three, &CreateTopic{Name: "t", Partitions: 1, ReplicationFactor: 1, Configs: map[string]string{"segment.bytes": "1"}}, InvalidConfig, "invalid value 1 for configuration segment.bytes"},
		"partitions 0":      {three, short(0, 1), InvalidPartitions, ""},
		"partitions -1":     {three, short(-1, 1), InvalidPartitions, ""},
		"partitions 10,001": {three, short(10_001, 1), PolicyViolation, "10000"},
		"partitions max":    {three, short(1<<31-1, 3), PolicyViolation, ""},
		"factor 0":          {three, short(1, 0), InvalidReplicationFactor, ""},
		"factor -1":         {three, short(1, -1), InvalidReplicationFactor, ""},
		"factor 4 of 3":     {three, short(1, 4), InvalidReplicationFactor, "The target replication factor of 4 cannot be reached because only 3 broker(s) are registered."},
		"factor 3 of 2":     {apply(t, three, &BeginControlledShutdown{ID: 3, Epoch: epoch(three, 3)}), short(1, 3), InvalidReplicationFactor, "2 broker(s)"},
		"all fenced":        {fence(three, 1, 2, 3), short(1, 1), InvalidReplicationFactor, "All brokers are currently fenced."},
		"factor 65":         {crowd, short(1, image.MaxReplicas+1), InvalidReplicationFactor, "at most 64"},
		"no brokers":        {cluster(t, 0), short(1, 1), InvalidReplicationFactor, "All brokers are currently fenced."},
		"no replica":        {three, chosen([]int32{}), InvalidReplicaAssignment, "empty replica list"},
		"other length":      {three, chosen([]int32{1, 2}, []int32{1}), InvalidReplicaAssignment, "a partition with 1 replica(s)"},
		"unknown broker":    {three, chosen([]int32{1, 9}), InvalidReplicaAssignment, "broker 9"},
		"negative broker":   {three, chosen([]int32{-1}), InvalidReplicaAssignment, "broker -1"},
		"fenced broker":     {fenced, chosen([]int32{1, 3}, []int32{3, 1}, []int32{3}), InvalidReplicaAssignment, "1 replica(s)"},
		"fenced brokers":    {fence(fenced, 2), chosen([]int32{1, 3}, []int32{3, 2}), InvalidReplicaAssignment, "partition 1 are fenced or in controlled shutdown"},
		"grow on fenced":    {fence(used, 2), &CreatePartitions{Topic: "a.b", Count: 2, Assignments: [][]int32{{2}}}, InvalidReplicaAssignment, "partition 1 are fenced"},
		"broker twice":      {three, chosen([]int32{1, 2, 1}), InvalidReplicaAssignment, "broker 1 more than once"},
		"too many chosen":   {three, chosen(make([][]int32, 10_001)...), PolicyViolation, "10000"},
		"too many replicas": {crowd, chosen(slices.Repeat([]int32{1}, 65)), InvalidReplicaAssignment, "at most 64"},
		"unknown sender":    {three, &AllocateProducerIDs{BrokerID: 9, Count: 1}, StaleBrokerEpoch, ""},
		"old epoch":         {three, &AllocateProducerIDs{BrokerID: 1, BrokerEpoch: epoch(three, 1) - 1, Count: 1}, StaleBrokerEpoch, ""},
		"no ids":            {three, &AllocateProducerIDs{BrokerID: 1, BrokerEpoch: epoch(three, 1)}, PolicyViolation, ""},
		"delete unknown":    {three, &DeleteTopic{Name: "t"}, UnknownTopic, "'t'"},
		"delete unknown id": {used, &DeleteTopic{ID: id(9)}, UnknownTopicID, ""},
		"grow unknown":      {three, &CreatePartitions{Topic: "t", Count: 2}, UnknownTopic, "'t'"},
		"grow by nothing":   {used, &CreatePartitions{Topic: "a.b", Count: 1}, InvalidPartitions, "already has 1"},
		"shrink":            {used, &CreatePartitions{Topic: "a.b", Count: -5}, InvalidPartitions, "not be an increase"},
		"grow too much":     {used, &CreatePartitions{Topic: "a.b", Count: 10_002}, PolicyViolation, "10000"},
		"grow, one chosen":  {used, &CreatePartitions{Topic: "a.b", Count: 3, Assignments: [][]int32{{1}}}, InvalidReplicaAssignment, "2 additional"},
		"grow, other count": {used, &CreatePartitions{Topic: "a.b", Count: 2, Assignments: [][]int32{{1, 2}}}, InvalidReplicaAssignment, "which have 1 replica(s)"},
		"grow, unknown":     {used, &CreatePartitions{Topic: "a.b", Count: 2, Assignments: [][]int32{{9}}}, InvalidReplicaAssignment, "broker 9"},
		"alter unknown":     {three, &AlterConfigs{Topic: "t"}, UnknownTopic, "'t'"},
		"alter wrongly":     {used, &AlterConfigs{Topic: "a.b", Changes: []ConfigChange{{Key: "segment.bytes", Value: "1"}}}, InvalidConfig, "segment.bytes"},
		"negative id":       {three, &RegisterBroker{ID: -1, Incarnation: id(9), Levels: image.OwnLevels, Dirs: []image.UUID{id(9)}}, InvalidRegistration, "negative"},
		"no directory":      {three, &RegisterBroker{ID: 9, Incarnation: id(9), Levels: image.OwnLevels}, InvalidRegistration, "No directories"},
		"zero directory":    {three, &RegisterBroker{ID: 9, Incarnation: id(9), Levels: image.OwnLevels, Dirs: []image.UUID{{}}}, InvalidRegistration, "Reserved"},
		"directory twice":   {three, &RegisterBroker{ID: 9, Incarnation: id(9), Levels: image.OwnLevels, Dirs: []image.UUID{id(9), id(9)}}, InvalidRegistration, "Duplicate"},
		"another's":         {three, &RegisterBroker{ID: 9, Incarnation: id(9), Levels: image.OwnLevels, Dirs: []image.UUID{id(103)}}, InvalidRegistration, "Broker 3 is already registered"},
		"too old":           {three, &RegisterBroker{ID: 9, Incarnation: id(9), Levels: image.Levels{Min: 1, Max: 1}, Dirs: []image.UUID{id(9)}}, UnsupportedVersion, "between 1 and 1"},
		"too new":           {three, &RegisterBroker{ID: 9, Incarnation: id(9), Levels: image.Levels{Min: 3, Max: 4}, Dirs: []image.UUID{id(9)}}, UnsupportedVersion, "between 3 and 4"},
		"fence nobody":      {three, &FenceBroker{ID: 9}, BrokerNotRegistered, "9"},
		"fence an old one":  {three, &FenceBroker{ID: 1, Epoch: 1}, StaleBrokerEpoch, "got broker epoch 1"},
		"unfence nobody":    {three, &UnfenceBroker{ID: 9}, BrokerNotRegistered, "9"},
		"unfence an old":    {three, &UnfenceBroker{ID: 1, Epoch: 1}, StaleBrokerEpoch, ""},
		"stop nobody":       {three, &BeginControlledShutdown{ID: 9}, BrokerNotRegistered, "9"},
		"stop an old one":   {three, &BeginControlledShutdown{ID: 1, Epoch: 1}, StaleBrokerEpoch, ""},
		"unregister nobody": {three, &UnregisterBroker{ID: 9}, BrokerNotRegistered, "Broker ID 9 is not currently registered"},
		"alter by nobody":   {three, &AlterPartition{BrokerID: 9}, StaleBrokerEpoch, ""},
		"alter by an old":   {three, &AlterPartition{BrokerID: 1, BrokerEpoch: 1}, StaleBrokerEpoch, ""},
		"alter too many":    {three, &AlterPartition{BrokerID: 1, BrokerEpoch: epoch(three, 1), Partitions: make([]ISRChange, 10_001)}, PolicyViolation, "10000"},
		"elect too many":    {three, &ElectLeaders{Partitions: make([]TopicPartition, MaxElections+1)}, PolicyViolation, "5000"},
		"voter without id":  {three, &PutVoter{}, InvalidRequest, "raft id"},
		"voter elsewhere":   {three, &PutVoter{Voter: image.Voter{RaftID: 7, NodeID: 2}}, DuplicateVoter, "node 1"},
		"voter of nowhere":  {three, &PutVoter{Voter: image.Voter{RaftID: 8, NodeID: 2}}, VoterNotFound, "add it first"},
		"voter twice":       {three, &PutVoter{Voter: image.Voter{RaftID: 8, NodeID: 1}, New: true}, DuplicateVoter, "already"},
		"last voter":        {three, &RemoveVoter{7}, InvalidRequest, "last"},
		"no such voter":     {three, &RemoveVoter{8}, VoterNotFound, "8"},
		"directories":       {many, &RegisterBroker{ID: 1, Incarnation: id(255), Levels: image.OwnLevels, Dirs: []image.UUID{id(1)}}, TooManyDirectories, "node.id"},
	} {
		r, err := c.cmd.Eval(c.img, time.Time{})
		var refusal *Refusal
		if !errors.As(err, &refusal) || refusal.Code != c.code || !strings.Contains(refusal.Message, c.text) {
			t.Errorf("%s: %v", name, err)
		}
		if r.Records != nil || r.Reply != nil {
			t.Errorf("%s: refused, and there is a result: %+v", name, r)
		}
	}
}

func TestFormClusterAgain(t *testing.T) {
	img := cluster(t, 0)
	if img.ClusterID() != "c" || img.Level() != image.Level || len(img.Voters()) != 1 || img.Voters()[0].RaftID != 7 || img.Voters()[0].NodeID != 1 {
		t.Fatalf("cluster %q, level %d, voters %v", img.ClusterID(), img.Level(), img.Voters())
	}
	r, err := (&FormCluster{ClusterID: "c", Voters: []image.Voter{{RaftID: 7, NodeID: 1}}}).Eval(img, time.Time{})
	if err != nil || len(r.Records) > 0 {
		t.Fatalf("formed again: %+v, %v", r, err)
	}
}

func TestPlacement(t *testing.T) {
	img := cluster(t, 5)
	leaders, replicas := map[int32]int{}, map[int32]int{}
	for n := range 50 {
		img = apply(t, img, &CreateTopic{Name: fmt.Sprintf("t%d", n), ID: id(n), Partitions: 2, ReplicationFactor: 3})
	}
	for tp := range img.Topics() {
		for i := range tp.NumPartitions() {
			p, _ := tp.Partition(i)
			leaders[p.Leader]++
			for j, r := range p.Replicas {
				if replicas[r]++; slices.Contains(p.Replicas[:j], r) {
					t.Fatalf("%s-%d is at %v", tp.Name, i, p.Replicas)
				}
				b, _ := img.Broker(r)
				if b.Dir(p.Dirs[j]) != b.Dirs[0] {
					t.Fatalf("%s-%d has directory %s at broker %d", tp.Name, i, b.Dir(p.Dirs[j]), r)
				}
			}
			if p.Leader != p.Replicas[0] || !slices.Equal(p.ISR, p.Replicas) || len(p.ELR) > 0 || p.LeaderEpoch != 0 || p.PartitionEpoch != 0 {
				t.Fatalf("%s-%d begins as %+v", tp.Name, i, p)
			}
		}
	}
	for b := int32(1); b <= 5; b++ {
		if leaders[b] < 15 || replicas[b] < 50 {
			t.Fatalf("leaders %v, replicas %v: uneven", leaders, replicas)
		}
	}
}

func TestCreateTopicReplies(t *testing.T) {
	img := cluster(t, 3)
	c := &CreateTopic{Name: "t", ID: id(1), Assignments: [][]int32{{3, 1}, {2, 3}}, Configs: map[string]string{"segment.bytes": "2000000", "max.message.bytes": "9"}}
	c.ValidateOnly = true
	r, err := c.Eval(img, time.Time{})
	if err != nil || len(r.Records) > 0 || *r.Reply.(*CreatedTopic) != (CreatedTopic{Partitions: 2, ReplicationFactor: 2}) {
		t.Fatalf("only validated: %+v, %v", r, err)
	}
	c.ValidateOnly = false
	r, err = c.Eval(img, time.Time{})
	if err != nil || *r.Reply.(*CreatedTopic) != (CreatedTopic{ID: id(1), Partitions: 2, ReplicationFactor: 2}) {
		t.Fatalf("created: %+v, %v", r, err)
	}
	tp, _ := apply(t, img, c).Topic("t")
	if !slices.Equal(tp.Configs(), []image.Setting{{Key: "max.message.bytes", Value: "9"}, {Key: "segment.bytes", Value: "2000000"}}) {
		t.Fatalf("configs %v", tp.Configs())
	}
	if p, _ := tp.Partition(1); p.Leader != 2 || !slices.Equal(p.Replicas, []int32{2, 3}) {
		t.Fatalf("partition 1 is %+v", p)
	}
}

func TestProducerIDsAreHandedOutOnce(t *testing.T) {
	img := cluster(t, 2)
	next := int64(0)
	for i := range 10 {
		b, _ := img.Broker(int32(i%2 + 1))
		c := &AllocateProducerIDs{BrokerID: b.ID, BrokerEpoch: b.Epoch, Count: 1000}
		r, err := c.Eval(img, time.Time{})
		if err != nil || *r.Reply.(*ProducerIDBlock) != (ProducerIDBlock{First: next, Count: 1000}) {
			t.Fatalf("%+v, %v", r.Reply, err)
		}
		img = apply(t, img, c)
		next += 1000
	}
}

// The states of a partition before broker 1 comes back, when it is registered and when it is unfenced: with its directory or
// without, after an orderly end or not. Two replicas must be in sync for an acknowledgement.
func TestRestart(t *testing.T) {
	const gone = image.NoLeader
	type set = []int32
	for name, c := range map[string]struct {
		isr, elr []int32
		leader   int32
		wiped    bool // broker 1 comes back with another directory
		clean    bool // it stopped in order
		lost     bool // broker 2 lost its directory before

		registered, unfenced string // from leader epoch 5 on
	}{
		"leads":                      {isr: set{1, 2, 3}, leader: 1, registered: "2/6 [2 3] []", unfenced: "2/6 [2 3] []"},
		"leads, clean":               {isr: set{1, 2, 3}, leader: 1, clean: true, registered: "2/6 [2 3] []", unfenced: "2/6 [2 3] []"},
		"leads with one":             {isr: set{1, 2}, leader: 1, registered: "2/6 [2] []", unfenced: "2/6 [2] []"},
		"leads with one, clean":      {isr: set{1, 2}, leader: 1, clean: true, registered: "2/6 [2] [1]", unfenced: "2/6 [2] [1]"},
		"the only one":               {isr: set{1}, leader: 1, registered: "-1/6 [1] []", unfenced: "1/7 [1] []"},
		"the only one, clean":        {isr: set{1}, leader: 1, clean: true, registered: "-1/6 [1] []", unfenced: "1/7 [1] []"},
		"another is eligible":        {isr: set{1}, elr: set{3}, leader: 1, registered: "3/6 [3] []", unfenced: "3/6 [3] []"},
		"another is, clean":          {isr: set{1}, elr: set{3}, leader: 1, clean: true, registered: "3/6 [3] [1]", unfenced: "3/6 [3] [1]"},
		"an eligible one is away":    {isr: set{1}, elr: set{2}, leader: 1, lost: true, registered: "-1/6 [] [2]", unfenced: "-1/6 [] [2]"},
		"away, clean":                {isr: set{1}, elr: set{2}, leader: 1, lost: true, clean: true, registered: "-1/6 [1] [2]", unfenced: "1/7 [1] [2]"},
		"the last eligible one":      {elr: set{1}, leader: gone, registered: "-1/5 [] [1]", unfenced: "1/6 [1] []"},
		"follows":                    {isr: set{1, 2, 3}, leader: 2, registered: "2/5 [2 3] []", unfenced: "2/5 [2 3] []"},
		"follows, clean":             {isr: set{1, 2, 3}, leader: 2, clean: true, registered: "2/5 [2 3] []", unfenced: "2/5 [2 3] []"},
		"follows with one":           {isr: set{1, 2}, leader: 2, registered: "2/5 [2] []", unfenced: "2/5 [2] []"},
		"follows with one, clean":    {isr: set{1, 2}, leader: 2, clean: true, registered: "2/5 [2] [1]", unfenced: "2/5 [2] [1]"},
		"follows out of sync":        {isr: set{2, 3}, leader: 2, registered: "2/5 [2 3] []", unfenced: "2/5 [2 3] []"},
		"eligible":                   {isr: set{2}, elr: set{1, 3}, leader: 2, registered: "2/5 [2] [3]", unfenced: "2/5 [2] [3]"},
		"eligible, clean":            {isr: set{2}, elr: set{1, 3}, leader: 2, clean: true, registered: "2/5 [2] [1 3]", unfenced: "2/5 [2] [1 3]"},
		"could have led":             {isr: set{1}, leader: gone, registered: "-1/5 [1] []", unfenced: "1/6 [1] []"},
		"could not have led":         {isr: set{2}, leader: gone, lost: true, registered: "-1/5 [2] []", unfenced: "-1/5 [2] []"},
		"wiped, leads":               {isr: set{1, 2, 3}, leader: 1, wiped: true, clean: true, registered: "2/6 [2 3] []", unfenced: "2/6 [2 3] []"},
		"wiped, leads, 2 lost":       {isr: set{1, 2, 3}, leader: 1, wiped: true, lost: true, registered: "3/6 [2 3] []", unfenced: "3/6 [2 3] []"},
		"wiped, follows":             {isr: set{1, 2, 3}, leader: 2, wiped: true, registered: "2/5 [2 3] []", unfenced: "2/5 [2 3] []"},
		"wiped, eligible":            {isr: set{2}, elr: set{1, 3}, leader: 2, wiped: true, clean: true, registered: "2/5 [2] [3]", unfenced: "2/5 [2] [3]"},
		"wiped, out of sync":         {isr: set{2, 3}, leader: 2, wiped: true, registered: "2/5 [2 3] []", unfenced: "2/5 [2 3] []"},
		"wiped, the last one":        {isr: set{1}, leader: 1, wiped: true, registered: "-1/6 [1] []", unfenced: "-1/6 [1] []"},
		"wiped, the last one, again": {isr: set{1}, leader: gone, wiped: true, registered: "-1/5 [1] []", unfenced: "-1/5 [1] []"},
	} {
		t.Run(name, func(t *testing.T) {
			img := apply(t, cluster(t, 3), &CreateTopic{Name: "t", ID: id(1), Assignments: [][]int32{{1, 2, 3}}, Configs: map[string]string{"min.insync.replicas": "2"}})
			img = change(t, img, "t", 0, func(p *image.Partition) { p.ISR, p.ELR, p.Leader, p.LeaderEpoch = c.isr, c.elr, c.leader, 5 })
			if c.lost {
				img, _ = image.Apply(img, img.Index()+1, []image.Record{&image.BrokerRecord{ID: 2, Dirs: []image.UUID{id(99)}}})
			}
			again := &RegisterBroker{ID: 1, Incarnation: id(50), Levels: image.OwnLevels, PreviousBrokerEpoch: -1, Dirs: []image.UUID{id(101)}}
			if c.wiped {
				again.Dirs = []image.UUID{id(201)}
			}
			if c.clean {
				again.PreviousBrokerEpoch = epoch(img, 1)
			}
			partitionEpoch := func(img *image.Image) int32 {
				tp, _ := img.Topic("t")
				p, _ := tp.Partition(0)
				return p.PartitionEpoch
			}
			becomes := func(next *image.Image, want string) {
				t.Helper()
				was, got := state(t, img, "t", 0), state(t, next, "t", 0)
				if got != want {
					t.Fatalf("%s became %s, want %s", was, got, want)
				}
				up := int32(1)
				if was == got {
					up = 0
				}
				if before, after := partitionEpoch(img), partitionEpoch(next); after != before+up {
					t.Fatalf("%s became %s, and partition epoch %d became %d", was, got, before, after)
				}
				img = next
			}
			becomes(apply(t, img, again), c.registered)
			if b, _ := img.Broker(1); b.Epoch != int64(img.Index()) || b.Incarnation != id(50) || !b.Fenced {
				t.Fatalf("broker %+v at index %d", b, img.Index())
			}
			becomes(unfence(t, img, 1), c.unfenced)
			if r, err := again.Eval(img, time.Time{}); err != nil || len(r.Records) > 0 || r.Reply.(*BrokerProgress).More {
				t.Fatalf("the same incarnation again: %+v, %v", r, err)
			}
		})
	}
}

// A directory that comes back finds its replicas where they were.
func TestDirectoryComesBack(t *testing.T) {
	img := apply(t, cluster(t, 1), &CreateTopic{Name: "t", ID: id(1), Partitions: 1, ReplicationFactor: 1})
	for i, want := range []struct {
		dir    image.UUID
		leader int32
	}{{id(101), 1}, {id(201), image.NoLeader}, {id(101), 1}} {
		img = join(t, img, &RegisterBroker{ID: 1, Incarnation: id(60 + i), Levels: image.OwnLevels, Dirs: []image.UUID{want.dir}})
		tp, _ := img.Topic("t")
		if p, _ := tp.Partition(0); p.Leader != want.leader {
			t.Fatalf("with directory %s the leader is %d", want.dir, p.Leader)
		}
	}
}

func TestCreatePartitionsGoOn(t *testing.T) {
	img := apply(t, cluster(t, 3), &CreateTopic{Name: "t", ID: id(1), Partitions: 2, ReplicationFactor: 2})
	img = apply(t, img, &CreatePartitions{Topic: "t", Count: 8})
	img = apply(t, img, &CreatePartitions{Topic: "t", Count: 9, Assignments: [][]int32{{3, 1}}})
	tp, _ := img.Topic("t")
	if tp.NumPartitions() != 9 {
		t.Fatalf("%d partitions", tp.NumPartitions())
	}
	for i := range int32(8) {
		p, _ := tp.Partition(i)
		before, _ := tp.Partition(max(i-1, 0))
		if len(p.Replicas) != 2 || i > 0 && p.Leader != before.Leader%3+1 {
			t.Errorf("partition %d is %+v behind %+v", i, p, before)
		}
	}
	if p, _ := tp.Partition(8); !slices.Equal(p.Replicas, []int32{3, 1}) || p.Leader != 3 {
		t.Errorf("the chosen partition is %+v", p)
	}
}

func TestDeletedTopicIsGone(t *testing.T) {
	img := apply(t, cluster(t, 1), &CreateTopic{Name: "t", ID: id(1), Partitions: 2, ReplicationFactor: 1})
	for _, c := range []*DeleteTopic{{Name: "t"}, {ID: id(1)}} {
		r, err := c.Eval(img, time.Time{})
		if err != nil || *r.Reply.(*DeletedTopic) != (DeletedTopic{"t", id(1)}) {
			t.Fatalf("%+v, %v", r, err)
		}
		if next := apply(t, img, c); next.NumTopics() != 0 || next.NumPartitions() != 0 {
			t.Fatalf("%d topics are left", next.NumTopics())
		}
	}
}

func TestAlterConfigs(t *testing.T) {
	img := apply(t, cluster(t, 1), &CreateTopic{Name: "t", ID: id(1), Partitions: 1, ReplicationFactor: 1, Configs: map[string]string{"retention.ms": "5", "segment.ms": "6"}})
	for _, c := range []struct {
		cmd  AlterConfigs
		want string
	}{
		{AlterConfigs{Changes: []ConfigChange{{Key: "retention.ms", Value: "7"}, {Key: "flush.ms", Value: "8"}, {Key: "segment.ms", Op: DeleteConfig}}}, "[{flush.ms 8} {retention.ms 7}]"},
		{AlterConfigs{Changes: []ConfigChange{{Key: "flush.ms", Value: "8"}}, Replace: true}, "[{flush.ms 8}]"},
		{AlterConfigs{Changes: []ConfigChange{{Key: "flush.ms", Value: "8"}}, ValidateOnly: true}, "[{retention.ms 5} {segment.ms 6}]"},
		{AlterConfigs{Changes: []ConfigChange{{Key: "cleanup.policy", Op: AppendConfig, Value: "compact,delete", Default: "delete"}}}, "[{cleanup.policy delete,compact} {retention.ms 5} {segment.ms 6}]"},
		{AlterConfigs{Changes: []ConfigChange{{Key: "cleanup.policy", Op: SubtractConfig, Value: "delete", Default: "delete"}}}, "[{cleanup.policy } {retention.ms 5} {segment.ms 6}]"},
		{AlterConfigs{Replace: true}, "[]"},
	} {
		broker := c.cmd
		broker.Node = 1
		c.cmd.Topic = "t"
		tp, _ := apply(t, img, &c.cmd).Topic("t")
		if got := fmt.Sprint(tp.Configs()); got != c.want {
			t.Errorf("%+v: %s, want %s", c.cmd, got, c.want)
		}
		on := apply(t, img, &AlterConfigs{Node: 1, Changes: []ConfigChange{{Key: "retention.ms", Value: "5"}, {Key: "segment.ms", Value: "6"}}})
		if got := fmt.Sprint(apply(t, on, &broker).BrokerConfigs(1)); got != c.want {
			t.Errorf("on a broker, %+v: %s, want %s", broker, got, c.want)
		}
		if r, err := (&AlterConfigs{Topic: "t", Changes: []ConfigChange{{Key: "retention.ms", Value: "5"}}}).Eval(img, time.Time{}); err != nil || r.Records != nil {
			t.Errorf("a change that changes nothing: %+v, %v", r, err)
		}
	}
}

// A process that is new asks to be registered and for its place among the controllers, in whatever order; before it is
// registered nothing else of it is taken, since the process before it may still be at work.
func TestFirstRequestsOfAProcess(t *testing.T) {
	img := cluster(t, 1)
	anew := image.Operation{Node: 1, Incarnation: id(200), Seq: 1}
	for _, c := range []struct {
		cmd   Command
		taken bool
	}{
		{&RegisterBroker{ID: 1}, true}, {&PutVoter{}, true}, {&DeleteTopic{Name: "t"}, false},
	} {
		_, err := Repeat(img, &Request{Operation: anew, Command: c.cmd})
		if (err == nil) != c.taken {
			t.Errorf("%T of a new process: %v", c.cmd, err)
		}
	}
}
