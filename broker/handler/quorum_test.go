package handler_test

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/handler"
	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/quorum"
	"github.com/streambus/streambus/storage/vfs"
)

// do carries out commands that must succeed, each until it is done.
func (n *node) do(cmds ...control.Command) {
	n.t.Helper()
	for _, cmd := range cmds {
		for more := true; more; {
			o := n.propose(context.Background(), "test", "test", cmd)[0]
			if o.Err != nil {
				n.t.Fatal(o.Err)
			}
			p, ok := o.Reply.(*control.BrokerProgress)
			more = ok && p.More
		}
	}
}

// arrive registers a broker and unfences it: what its process before led, nobody
// leads in between.
func (n *node) arrive(b *control.RegisterBroker) {
	n.t.Helper()
	n.do(b)
	n.unfence(b.ID)
}

// brokers registers others than 1, which need not be there.
func (n *node) brokers(ids ...int32) {
	n.t.Helper()
	for _, id := range ids {
		n.arrive(&control.RegisterBroker{
			ID: id, Incarnation: image.UUID{1, 15: byte(id)}, Levels: image.OwnLevels, Dirs: []image.UUID{{9, 14: 1, 15: byte(id)}},
			Listeners: []image.Endpoint{{Name: "PLAINTEXT", Host: "there", Port: uint16(id)}},
		})
	}
}

func (n *node) fence(id int32) {
	n.t.Helper()
	b, _ := n.img.Broker(id)
	n.do(&control.FenceBroker{ID: id, Epoch: b.Epoch})
}

func (n *node) unfence(id int32) {
	n.t.Helper()
	b, _ := n.img.Broker(id)
	n.do(&control.UnfenceBroker{ID: id, Epoch: b.Epoch})
}

func (n *node) assigned(name string, replicas ...[]int32) {
	n.t.Helper()
	n.ids++
	n.do(&control.CreateTopic{Name: name, ID: image.UUID{0: 2, 15: byte(n.ids)}, Partitions: -1, ReplicationFactor: -1, Assignments: replicas})
}

func (n *node) leader(topic string, partition int32) int32 {
	t, _ := n.img.Topic(topic)
	p, _ := t.Partition(partition)
	return p.Leader
}

// Every refusal has a code of Kafka's: one without would be UNKNOWN_SERVER_ERROR.
func TestRefusalsHaveCodes(t *testing.T) {
	n := newNode(t, vfs.NewMem())
	for name, refused := range refusalCodes(t) {
		n.answers = func([]control.Command) []handler.Outcome {
			return []handler.Outcome{{Err: &control.Refusal{Code: refused, Message: "no"}}}
		}
		resp := answer[*kmsg.UnregisterBrokerResponse](n, kmsg.NewPtrUnregisterBrokerRequest())
		if c := code(resp.ErrorCode); c == protocol.UnknownServerError || c == protocol.None || c.String() == fmt.Sprint(resp.ErrorCode) {
			t.Errorf("%s is answered as %v", name, c)
		}
	}
}

// A change that nobody decided in time, or of which nobody knows, is one to ask for again.
func TestUndecidedIsTimedOut(t *testing.T) {
	n := newNode(t, vfs.NewMem())
	for _, err := range []error{raftmeta.ErrNotLeader, raftmeta.ErrUnknown, context.DeadlineExceeded} {
		n.answers = func([]control.Command) []handler.Outcome {
			return []handler.Outcome{{Err: fmt.Errorf("somewhere: %w", err)}}
		}
		resp := answer[*kmsg.UnregisterBrokerResponse](n, kmsg.NewPtrUnregisterBrokerRequest())
		if c := code(resp.ErrorCode); c != protocol.RequestTimedOut {
			t.Errorf("%v is answered as %v", err, c)
		}
	}
}

// refusalCodes reads them where they are declared.
func refusalCodes(t *testing.T) map[string]control.Code {
	file, err := parser.ParseFile(token.NewFileSet(), "../../raftmeta/control/control.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	codes := map[string]control.Code{}
	for _, d := range file.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		if typ, ok := g.Specs[0].(*ast.ValueSpec).Type.(*ast.Ident); !ok || typ.Name != "Code" {
			continue
		}
		for i, s := range g.Specs {
			codes[s.(*ast.ValueSpec).Names[0].Name] = control.Code(i + 1)
		}
	}
	if codes["TopicExists"] != control.TopicExists || codes["Superseded"] != control.Superseded {
		t.Fatalf("the codes are read wrong: %v", codes)
	}
	return codes
}

func electLeaders(v int16, kind int8, topic string, partitions ...int32) *kmsg.ElectLeadersRequest {
	req := kmsg.NewPtrElectLeadersRequest()
	req.Version, req.ElectionType = v, kind
	row := kmsg.NewElectLeadersRequestTopic()
	row.Topic, row.Partitions = topic, partitions
	req.Topics = append(req.Topics, row)
	return req
}

func elected(rows []kmsg.ElectLeadersResponseTopic) string {
	text := ""
	for _, t := range rows {
		text += t.Topic
		for _, p := range t.Partitions {
			text += fmt.Sprintf(" %d:%v", p.Partition, code(p.ErrorCode))
		}
		text += "\n"
	}
	return text
}

func TestElectLeaders(t *testing.T) {
	versions(t, protocol.KeyElectLeaders, func(t *testing.T, v int16) {
		n := newNode(t, vfs.NewMem())
		n.brokers(2, 3)
		n.assigned("t", []int32{2, 3}, []int32{3, 2})
		n.assigned("s", []int32{2})
		n.assigned("u", []int32{3, 2})
		check := func(topic string, kind int8, want string, partitions ...int32) {
			t.Helper()
			req := electLeaders(v, kind, topic, partitions...)
			if len(partitions) == 0 {
				req.Topics = nil
			}
			resp := answer[*kmsg.ElectLeadersResponse](n, req)
			if got := elected(resp.Topics); resp.ErrorCode != 0 || got != want {
				t.Errorf("type %d of %s %v: error %d, %swant %s", kind, topic, partitions, resp.ErrorCode, got, want)
			}
		}
		n.fence(2)
		check("t", 0, "t 0:PREFERRED_LEADER_NOT_AVAILABLE 1:ELECTION_NOT_NEEDED 7:UNKNOWN_TOPIC_OR_PARTITION\n", 0, 1, 7)
		check("s", 0, "s 0:PREFERRED_LEADER_NOT_AVAILABLE\n", 0)
		if v >= 1 {
			check("t", 1, "t 0:ELECTION_NOT_NEEDED\n", 0)
			check("s", 1, "s 0:ELIGIBLE_LEADERS_NOT_AVAILABLE\n", 0)
			check("all", 1, "s 0:ELIGIBLE_LEADERS_NOT_AVAILABLE\n")
		}
		n.unfence(2)
		n.join("t", 0, 2, 3)
		check("all", 0, "t 0:NONE\n")
		check("all", 0, "")
		if got := n.leader("t", 0); got != 2 {
			t.Errorf("%d leads", got)
		}

		n.fence(2)
		n.unfence(2)
		n.fence(3) // u has nobody in sync that is there; 2 is there and may lack records
		if got := n.leader("u", 0); got != image.NoLeader {
			t.Fatalf("%d leads", got)
		}
		req := electLeaders(v, 1, "u", 0)
		want, leader := "u 0:NONE\n", int32(2)
		if v == 0 { // which has no types
			want, leader = "u 0:PREFERRED_LEADER_NOT_AVAILABLE\n", image.NoLeader
		}
		if got := elected(answer[*kmsg.ElectLeadersResponse](n, req).Topics); got != want || n.leader("u", 0) != leader {
			t.Errorf("%sand %d leads, want %s", got, n.leader("u", 0), want)
		}

		req = electLeaders(v, 2, "u", 0, 5)
		if resp := answer[*kmsg.ElectLeadersResponse](n, req); v >= 1 && (code(resp.ErrorCode) != protocol.InvalidRequest || elected(resp.Topics) != "u 0:INVALID_REQUEST 5:INVALID_REQUEST\n") {
			t.Errorf("a type that is none: error %d, %s", resp.ErrorCode, elected(resp.Topics))
		}
	})
}

// join has a leader take others into the ISR.
func (n *node) join(topic string, partition int32, isr ...int32) {
	n.t.Helper()
	n.follow(topic, partition, isr...)
	t, _ := n.img.Topic(topic)
	if p, _ := t.Partition(partition); !slices.Equal(p.ISR, isr) {
		n.t.Fatalf("in sync are %v", p.ISR)
	}
}

// follow has a leader say who is in sync.
func (n *node) follow(topic string, partition int32, isr ...int32) {
	n.t.Helper()
	t, _ := n.img.Topic(topic)
	p, _ := t.Partition(partition)
	leader, _ := n.img.Broker(p.Leader)
	change := control.ISRChange{Topic: t.ID, Partition: partition, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch}
	for _, id := range isr {
		change.ISR = append(change.ISR, control.ISRMember{ID: id, Epoch: -1})
	}
	n.do(&control.AlterPartition{BrokerID: leader.ID, BrokerEpoch: leader.Epoch, Partitions: []control.ISRChange{change}})
}

// More partitions than one command changes are done one command after the other.
func TestManyElections(t *testing.T) {
	n := newNode(t, vfs.NewMem())
	n.brokers(2)
	const many = control.MaxChanges + 10
	replicas := make([][]int32, many)
	for i := range replicas {
		replicas[i] = []int32{2}
	}
	n.assigned("a", replicas[:many/2]...)
	n.assigned("b", replicas[many/2:]...)
	n.fence(2)
	rows := func(req *kmsg.ElectLeadersRequest) map[string]int {
		n.decided = 0
		found := map[string]int{}
		for _, row := range answer[*kmsg.ElectLeadersResponse](n, req).Topics {
			for _, p := range row.Partitions {
				found[fmt.Sprint(row.Topic, p.ErrorCode)]++
			}
		}
		if n.decided != 2 {
			t.Errorf("%d commands", n.decided)
		}
		return found
	}
	req := electLeaders(2, 1, "a")
	req.Topics = nil
	if got := rows(req); got["a83"] != many/2 || got["b83"] != many/2 || len(got) != 2 {
		t.Errorf("of all: %v", got)
	}
	asked := make([]int32, many)
	for i := range asked {
		asked[i] = int32(i)
	}
	if got := rows(electLeaders(2, 1, "a", asked...)); got["a83"] != many/2 || got["a3"] != many-many/2 {
		t.Errorf("of those asked for: %v", got)
	}

	n.brokers(3)
	for i := range replicas {
		replicas[i] = []int32{3}
	}
	n.assigned("c", replicas...)
	n.decided = 0
	unregister := kmsg.NewPtrUnregisterBrokerRequest()
	unregister.BrokerID = 3
	resp := answer[*kmsg.UnregisterBrokerResponse](n, unregister)
	if _, known := n.img.Broker(3); known || resp.ErrorCode != 0 || n.decided < 2 {
		t.Errorf("unregistering: error %d, known %v, after %d commands", resp.ErrorCode, known, n.decided)
	}
	if resp := answer[*kmsg.UnregisterBrokerResponse](n, unregister); code(resp.ErrorCode) != protocol.BrokerIDNotRegistered || resp.ErrorMessage == nil {
		t.Errorf("again: %+v", resp)
	}
}

func TestUpdateFeatures(t *testing.T) {
	versions(t, protocol.KeyUpdateFeatures, func(t *testing.T, v int16) {
		n := newNode(t, vfs.NewMem())
		old, _ := image.Apply(n.img, n.img.Index()+1, []image.Record{&image.ClusterRecord{ClusterID: "the-cluster", Level: image.OldestLevel}})
		n.img = old
		update := func(level int16, typ int8) *kmsg.UpdateFeaturesRequest {
			req := kmsg.NewPtrUpdateFeaturesRequest()
			u := kmsg.NewUpdateFeaturesRequestFeatureUpdate()
			u.Feature, u.MaxVersionLevel, u.UpgradeType = control.MetadataVersion, level, typ
			req.Version, req.FeatureUpdates = v, append(req.FeatureUpdates, u)
			return req
		}
		check := func(req *kmsg.UpdateFeaturesRequest, want protocol.ErrorCode, level uint32) {
			t.Helper()
			resp := answer[*kmsg.UpdateFeaturesResponse](n, req)
			rows := 0
			if want == protocol.None && v < 2 {
				rows = 1
			}
			if code(resp.ErrorCode) != want || (resp.ErrorMessage == nil) != (want == protocol.None) || len(resp.Results) != rows || n.img.Level() != level {
				t.Errorf("%+v; level %d", resp, n.img.Level())
			}
			for _, told := range []int16{0, 3, 5} {
				versions := kmsg.NewPtrApiVersionsRequest()
				versions.Version, versions.ClientSoftwareName, versions.ClientSoftwareVersion = told, "test", "1"
				a := answer[*kmsg.ApiVersionsResponse](n, versions)
				if told == 0 {
					continue
				}
				if len(a.FinalizedFeatures) != 2 || len(a.SupportedFeatures) != map[int16]int{3: 1, 5: 2}[told] || a.FinalizedFeaturesEpoch != int64(n.img.Index()) {
					t.Fatalf("features %+v", a)
				}
				if g := a.FinalizedFeatures[0]; g.Name != control.GroupVersion || g.MaxVersionLevel != 1 {
					t.Errorf("features %+v", a)
				}
				f, s := a.FinalizedFeatures[1], a.SupportedFeatures[len(a.SupportedFeatures)-1]
				if f.MaxVersionLevel != int16(level) || f.Name != control.MetadataVersion || s.Name != f.Name || s.MinVersion != int16(image.OldestLevel) || s.MaxVersion != int16(image.Level) {
					t.Errorf("features %+v", a)
				}
			}
		}
		check(update(int16(image.Level)+1, 1), protocol.InvalidUpdateVersion, image.OldestLevel)
		other := update(1, 1)
		other.FeatureUpdates[0].Feature = "metadata.version"
		check(other, protocol.InvalidUpdateVersion, image.OldestLevel)
		if v >= 1 {
			try := update(int16(image.Level), 1)
			try.ValidateOnly = true
			check(try, protocol.None, image.OldestLevel)
			check(update(int16(image.Level), 2), protocol.InvalidUpdateVersion, image.OldestLevel)
		}
		check(update(int16(image.Level), 1), protocol.None, image.Level)
		down := update(int16(image.OldestLevel), 2)
		down.FeatureUpdates[0].AllowDowngrade = true
		check(down, protocol.InvalidUpdateVersion, image.Level)
		if text := *answer[*kmsg.UpdateFeaturesResponse](n, down).ErrorMessage; !strings.Contains(text, "it might delete metadata") {
			t.Errorf("a downgrade that is asked for as one: %s", text)
		}
	})
}

// Nobody is told features of a cluster that is not there yet.
func TestFeaturesBeforeTheCluster(t *testing.T) {
	n := newNode(t, vfs.NewMem())
	n.img = image.Empty()
	req := kmsg.NewPtrApiVersionsRequest()
	req.Version, req.ClientSoftwareName, req.ClientSoftwareVersion = 3, "test", "1"
	a := answer[*kmsg.ApiVersionsResponse](n, req)
	if len(a.SupportedFeatures) != 1 || len(a.FinalizedFeatures) != 0 || a.FinalizedFeaturesEpoch != -1 {
		t.Errorf("%+v", a)
	}
}

func voter(raft uint64, node int32, since uint64) image.Voter {
	return image.Voter{
		RaftID: raft, NodeID: node, DirectoryID: image.UUID{8, 15: byte(raft)}, Since: since, Levels: image.OwnLevels,
		Endpoints: []image.Endpoint{{Name: "CONTROLLER", Host: "there", Port: uint16(raft)}},
	}
}

func TestDescribeQuorum(t *testing.T) {
	n := newNode(t, vfs.NewMem())
	n.info = raftmeta.Info{
		Status: quorum.Status{Term: 5, Commit: 90}, Node: 1,
		Controllers: []image.Voter{voter(14, 3, 1), voter(11, 1, 1), voter(12, 2, 1), voter(13, 2, 7)},
		Progress: []quorum.Progress{
			{RaftID: 12, Match: 40}, {RaftID: 11, Match: 91, Active: true}, {RaftID: 13, Match: 88, Active: true, Learner: true}, {RaftID: 14, Match: 90, Active: true},
		},
	}
	ask := func(v int16, topic string, partitions ...int32) *kmsg.DescribeQuorumResponse {
		req := kmsg.NewPtrDescribeQuorumRequest()
		row := kmsg.NewDescribeQuorumRequestTopic()
		row.Topic = topic
		for _, p := range partitions {
			q := kmsg.NewDescribeQuorumRequestTopicPartition()
			q.Partition = p
			row.Partitions = append(row.Partitions, q)
		}
		req.Version, req.Topics = v, append(req.Topics, row)
		return answer[*kmsg.DescribeQuorumResponse](n, req)
	}
	versions(t, protocol.KeyDescribeQuorum, func(t *testing.T, v int16) {
		n.t = t
		resp := ask(v, "__cluster_metadata", 0)
		p := resp.Topics[0].Partitions[0]
		if resp.ErrorCode != 0 || p.ErrorCode != 0 || p.LeaderID != 1 || p.LeaderEpoch != 5 || p.HighWatermark != 90 {
			t.Errorf("%+v", resp)
		}
		state := func(rows []kmsg.DescribeQuorumResponseTopicPartitionReplicaState) (text string) {
			for _, r := range rows {
				text += fmt.Sprintf("%d at %d", r.ReplicaID, r.LogEndOffset)
				if v >= 1 {
					text += fmt.Sprintf(" heard %v caught up %v", r.LastFetchTimestamp > 0, r.LastCaughtUpTimestamp > 0)
				}
				if v >= 2 {
					text += fmt.Sprint(" dir ", r.ReplicaDirectoryID[15])
				}
				text += "\n"
			}
			return text
		}
		want := []string{
			"1 at 91\n2 at 40\n3 at 90\n|2 at 88\n",
			"1 at 91 heard true caught up true\n2 at 40 heard false caught up false\n3 at 90 heard true caught up true\n|2 at 88 heard true caught up false\n",
			"1 at 91 heard true caught up true dir 11\n2 at 40 heard false caught up false dir 12\n3 at 90 heard true caught up true dir 14\n|2 at 88 heard true caught up false dir 13\n",
		}[v]
		if got := state(p.CurrentVoters) + "|" + state(p.Observers); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
		if v >= 2 && (len(resp.Nodes) != 3 || resp.Nodes[2].NodeID != 3 || resp.Nodes[2].Listeners[0].Port != 14 || resp.Nodes[1].Listeners[0].Port != 13) {
			t.Errorf("nodes %+v", resp.Nodes)
		}
		for _, resp := range []*kmsg.DescribeQuorumResponse{ask(v, "__cluster_metadata", 1), ask(v, "t", 0), ask(v, "__cluster_metadata", 0, 0)} {
			if p := resp.Topics[0].Partitions[0]; resp.ErrorCode != 0 || code(p.ErrorCode) != protocol.UnknownTopicOrPartition || len(resp.Nodes) != 0 {
				t.Errorf("%+v", resp)
			}
		}
	})
}

func TestVoters(t *testing.T) {
	dir := image.UUID{8, 15: 22}
	versions(t, protocol.KeyAddRaftVoter, func(t *testing.T, v int16) {
		n := newNode(t, vfs.NewMem())
		var asked image.Endpoint
		n.reached = func(node int32, _ image.UUID, at image.Endpoint) (image.Voter, error) {
			asked = at
			x := voter(22, node, 0)
			x.Endpoints = []image.Endpoint{at}
			return x, nil
		}
		request := func(id int32, dir image.UUID, listeners ...string) *kmsg.AddRaftVoterRequest {
			req := kmsg.NewPtrAddRaftVoterRequest()
			req.Version, req.VoterID, req.VoterDirectoryID, req.TimeoutMillis = v, id, dir, 1000
			for i, name := range listeners {
				l := kmsg.NewAddRaftVoterRequestListener()
				l.Name, l.Host, l.Port = name, "there", uint16(i)
				req.Listeners = append(req.Listeners, l)
			}
			return req
		}
		wrong := request(2, dir, "CONTROLLER")
		id := "another"
		wrong.ClusterID = &id
		right := request(2, dir, "OTHER", "CONTROLLER")
		own := "the-cluster"
		right.ClusterID = &own
		for _, c := range []struct {
			req  *kmsg.AddRaftVoterRequest
			want protocol.ErrorCode
		}{
			{wrong, protocol.InconsistentClusterID},
			{request(-1, dir, "CONTROLLER"), protocol.InvalidRequest},
			{request(2, image.UUID{}, "CONTROLLER"), protocol.InvalidRequest},
			{request(2, dir, "OTHER"), protocol.InvalidRequest},
			{request(2, dir), protocol.InvalidRequest},
			{request(1, dir, "CONTROLLER"), protocol.DuplicateVoter},
		} {
			if resp := answer[*kmsg.AddRaftVoterResponse](n, c.req); code(resp.ErrorCode) != c.want || resp.ErrorMessage == nil || asked.Name != "" {
				t.Errorf("%+v: %+v, and %v was asked", c.req, resp, asked)
			}
		}
		for err, want := range map[error]protocol.ErrorCode{handler.ErrNoController: protocol.RequestTimedOut, handler.ErrOtherController: protocol.InvalidRequest} {
			there := n.reached
			n.reached = func(int32, image.UUID, image.Endpoint) (image.Voter, error) {
				return image.Voter{}, fmt.Errorf("%w: x", err)
			}
			if resp := answer[*kmsg.AddRaftVoterResponse](n, right); code(resp.ErrorCode) != want {
				t.Errorf("%v: %+v", err, resp)
			}
			n.reached = there
		}
		if resp := answer[*kmsg.AddRaftVoterResponse](n, right); resp.ErrorCode != 0 || asked != (image.Endpoint{Name: "CONTROLLER", Host: "there", Port: 1}) || len(n.img.Voters()) != 2 {
			t.Errorf("%+v, %v was asked, voters %v", resp, asked, n.img.Voters())
		}
		if resp := answer[*kmsg.AddRaftVoterResponse](n, right); code(resp.ErrorCode) != protocol.DuplicateVoter {
			t.Errorf("again: %+v", resp)
		}

		remove := kmsg.NewPtrRemoveRaftVoterRequest()
		for _, c := range []struct {
			cluster *string
			id      int32
			dir     image.UUID
			want    protocol.ErrorCode
		}{
			{&id, 2, dir, protocol.InconsistentClusterID}, {nil, -1, dir, protocol.InvalidRequest}, {nil, 2, image.UUID{}, protocol.InvalidRequest},
			{nil, 2, image.UUID{7}, protocol.VoterNotFound}, {nil, 3, dir, protocol.VoterNotFound}, {&own, 2, dir, protocol.None}, {nil, 2, dir, protocol.VoterNotFound},
		} {
			remove.ClusterID, remove.VoterID, remove.VoterDirectoryID = c.cluster, c.id, c.dir
			if resp := answer[*kmsg.RemoveRaftVoterResponse](n, remove); code(resp.ErrorCode) != c.want {
				t.Errorf("removing %+v: %+v", c, resp)
			}
		}
		if len(n.img.Voters()) != 1 {
			t.Errorf("voters %v", n.img.Voters())
		}
	})
}

// Whoever is told as the controller is among the brokers that are told.
func TestControllerOfClients(t *testing.T) {
	n := newNode(t, vfs.NewMem())
	n.brokers(0, 2, 3)
	check := func(want int32, brokers int) {
		t.Helper()
		m := answer[*kmsg.MetadataResponse](n, metadataOf(9))
		d := answer[*kmsg.DescribeClusterResponse](n, kmsg.NewPtrDescribeClusterRequest())
		if m.ControllerID != want || d.ControllerID != want || len(m.Brokers) != brokers || len(d.Brokers) != brokers {
			t.Errorf("%d and %d of %d and %d, want %d of %d", m.ControllerID, d.ControllerID, len(m.Brokers), len(d.Brokers), want, brokers)
		}
	}
	check(1, 4)
	n.fence(2)
	check(1, 3)
	n.fence(0)
	n.fence(1)
	check(3, 1)
	n.fence(3)
	check(-1, 0)
	all := kmsg.NewPtrDescribeClusterRequest()
	all.Version, all.EndpointType, all.IncludeFencedBrokers = 2, 1, true
	if d := answer[*kmsg.DescribeClusterResponse](n, all); len(d.Brokers) != 4 || !d.Brokers[2].IsFenced || d.ControllerID != -1 {
		t.Errorf("with those that are fenced: %+v", d)
	}
}

// On a controller listener the nodes of the cluster are its controllers (KIP-919).
func TestDescribeControllers(t *testing.T) {
	n := newNode(t, vfs.NewMem())
	n.conn = protocol.ConnInfo{Listener: "CONTROLLER", Side: protocol.Controllers}
	img, _ := image.Apply(n.img, n.img.Index()+1, []image.Record{
		&image.VoterRecord{Voter: voter(12, 2, 0)}, &image.VoterRecord{Voter: voter(13, 3, 0)},
	})
	n.img = img
	versions(t, protocol.KeyDescribeCluster, func(t *testing.T, v int16) {
		n.t = t
		req := kmsg.NewPtrDescribeClusterRequest()
		req.Version, req.EndpointType = v, 2
		for _, active := range []int32{-1, 1, 3} { // 1 has no such listener
			n.info.Node = active
			d := answer[*kmsg.DescribeClusterResponse](n, req)
			if v == 0 {
				if code(d.ErrorCode) != protocol.InvalidRequest {
					t.Errorf("%+v", d)
				}
				continue
			}
			want := int32(-1)
			if active == 3 {
				want = 3
			}
			if d.ErrorCode != 0 || d.EndpointType != 2 || d.ControllerID != want || len(d.Brokers) != 2 || d.Brokers[1].NodeID != 3 || d.Brokers[1].Port != 13 {
				t.Errorf("%+v", d)
			}
		}
		for typ, want := range map[int8]protocol.ErrorCode{1: protocol.MismatchedEndpointType, 3: protocol.UnsupportedEndpointType} {
			req.EndpointType = typ
			if d := answer[*kmsg.DescribeClusterResponse](n, req); v >= 1 && code(d.ErrorCode) != want {
				t.Errorf("type %d: %+v", typ, d)
			}
		}
	})
}
