package main

import (
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() {
	eachVersion(kmsg.DescribeQuorum, "the controllers", func(s *session, v int16) {
		ask[*kmsg.DescribeQuorumResponse](s, describeQuorum(v, quorumTopic, 0))
		name := s.create(1)
		for _, req := range []*kmsg.DescribeQuorumRequest{
			describeQuorum(v, quorumTopic, 1), describeQuorum(v, quorumTopic), describeQuorum(v, quorumTopic, 0, 0),
			describeQuorum(v, name, 0), describeQuorum(v, "", 0), describeQuorum(v, quorumTopic, -1),
		} {
			s.try(req)
		}
		s.try(at(kmsg.NewPtrDescribeQuorumRequest(), v))
		both := describeQuorum(v, quorumTopic, 0)
		both.Topics = append(both.Topics, describeQuorum(v, name, 0).Topics...)
		s.try(both)
	})

	eachVersion(kmsg.ElectLeaders, "partitions", func(s *session, v int16) {
		a, b := s.create(2), s.create(1)
		for _, kind := range []int8{0, 1} {
			ask[*kmsg.ElectLeadersResponse](s, electLeaders(v, kind, a, 0, 1))
			ask[*kmsg.ElectLeadersResponse](s, electLeaders(v, kind, a, 2, -1, 0, 0))
			ask[*kmsg.ElectLeadersResponse](s, electLeaders(v, kind, a))
			ask[*kmsg.ElectLeadersResponse](s, electLeaders(v, kind, s.prefix+"none", 0, 7))
			ask[*kmsg.ElectLeadersResponse](s, electLeaders(v, kind, "", 0))
			req := electLeaders(v, kind, a, 0)
			req.Topics = append(req.Topics, electLeaders(v, kind, b, 0).Topics...)
			ask[*kmsg.ElectLeadersResponse](s, req)
			req.Topics = []kmsg.ElectLeadersRequestTopic{}
			ask[*kmsg.ElectLeadersResponse](s, req)
			req.Topics = nil // all
			ask[*kmsg.ElectLeadersResponse](s, req)
		}
		for _, kind := range []int8{2, -1} {
			s.try(electLeaders(v, kind, a, 0))
			req := electLeaders(v, kind, a)
			req.Topics = nil
			s.try(req)
		}
	})

	eachVersion(kmsg.AlterPartitionAssignments, "to the one broker there is", func(s *session, v int16) {
		a, b := s.create(2), s.create(1)
		for _, allow := range []bool{true, false} {
			for _, replicas := range [][]int32{{1}, nil, {}, {1, 1}, {2}, {1, 2}, {-1}, {1, -1}, {2, 2}} {
				ask[*kmsg.AlterPartitionAssignmentsResponse](s, reassign(v, allow, a, replicas, 0))
			}
			ask[*kmsg.AlterPartitionAssignmentsResponse](s, reassign(v, allow, a, []int32{1}, 1, 2, -1, 0))
			ask[*kmsg.AlterPartitionAssignmentsResponse](s, reassign(v, allow, a, nil, 1, 2, -1, 0))
			ask[*kmsg.AlterPartitionAssignmentsResponse](s, reassign(v, allow, a, []int32{1}))
			ask[*kmsg.AlterPartitionAssignmentsResponse](s, reassign(v, allow, s.prefix+"none", []int32{1}, 0, 7))
			ask[*kmsg.AlterPartitionAssignmentsResponse](s, reassign(v, allow, "", nil, 0))
			req := reassign(v, allow, a, []int32{1}, 0)
			req.Topics = append(req.Topics, reassign(v, allow, b, nil, 0).Topics...)
			ask[*kmsg.AlterPartitionAssignmentsResponse](s, req)
			req.Topics = []kmsg.AlterPartitionAssignmentsRequestTopic{}
			ask[*kmsg.AlterPartitionAssignmentsResponse](s, req)
		}
		ask[*kmsg.MetadataResponse](s, metadata(9, a, b))
	})

	eachVersion(kmsg.ListPartitionReassignments, "none", func(s *session, v int16) {
		a := s.create(2)
		ask[*kmsg.ListPartitionReassignmentsResponse](s, at(kmsg.NewPtrListPartitionReassignmentsRequest(), v)) // of all
		for _, partitions := range [][]int32{{0, 1}, {}, {7, -1}, {0, 0}} {
			ask[*kmsg.ListPartitionReassignmentsResponse](s, reassignments(v, a, partitions...))
			ask[*kmsg.ListPartitionReassignmentsResponse](s, reassignments(v, s.prefix+"none", partitions...))
			ask[*kmsg.ListPartitionReassignmentsResponse](s, reassignments(v, "", partitions...))
		}
		req := reassignments(v, a, 0)
		req.Topics = append(req.Topics, reassignments(v, a, 1).Topics...)
		ask[*kmsg.ListPartitionReassignmentsResponse](s, req)
		req.Topics = []kmsg.ListPartitionReassignmentsRequestTopic{}
		ask[*kmsg.ListPartitionReassignmentsResponse](s, req)
	})

	eachVersion(kmsg.UnregisterBroker, "brokers that are not there", func(s *session, v int16) {
		for _, id := range []int32{7, -1} {
			req := at(kmsg.NewPtrUnregisterBrokerRequest(), v)
			req.BrokerID = id
			ask[*kmsg.UnregisterBrokerResponse](s, req)
		}
	})

	eachVersion(kmsg.UpdateFeatures, "updates", func(s *session, v int16) {
		const none = "no.such.version"
		for _, req := range []*kmsg.UpdateFeaturesRequest{
			updateFeatures(v), updateFeatures(v, feature{none, 1, 1}), updateFeatures(v, feature{none, -1, 1}),
			updateFeatures(v, feature{none, 1, 0}), updateFeatures(v, feature{none, 1, 4}), updateFeatures(v, feature{none, 1, 2}),
			updateFeatures(v, feature{none, 1, 1}, feature{none + ".2", 1, 1}), updateFeatures(v, feature{"", 1, 1}),
			updateFeatures(v, feature{none, 0, 1}),
			updateFeatures(v, feature{"metadata.version", 1000, 1}), updateFeatures(v, feature{"metadata.version", 0, 1}),
			updateFeatures(v, feature{"metadata.version", 1, 1}), updateFeatures(v, feature{"metadata.version", -1, 3}),
		} {
			ask[*kmsg.UpdateFeaturesResponse](s, req)
			req.ValidateOnly = true
			ask[*kmsg.UpdateFeaturesResponse](s, req)
			for i := range req.FeatureUpdates {
				req.FeatureUpdates[i].AllowDowngrade = true
			}
			ask[*kmsg.UpdateFeaturesResponse](s, req)
		}
	})

	eachVersion(kmsg.AddRaftVoter, "requests that come to nothing", func(s *session, v int16) {
		other := [16]byte{7}
		for _, req := range []*kmsg.AddRaftVoterRequest{
			addRaftVoter(v, 7, other, "CONTROLLER"), // nobody listens there
			addRaftVoter(v, 1, other, "CONTROLLER"), // votes with another directory
			addRaftVoter(v, -1, other, "CONTROLLER"), addRaftVoter(v, 7, [16]byte{}, "CONTROLLER"),
			addRaftVoter(v, 7, other, "OTHER"), addRaftVoter(v, 7, other), addRaftVoter(v, -1, other),
		} {
			ask[*kmsg.AddRaftVoterResponse](s, req)
			req.ClusterID = ptr("another")
			ask[*kmsg.AddRaftVoterResponse](s, req)
			req.ClusterID = &s.clusterID
			ask[*kmsg.AddRaftVoterResponse](s, req)
		}
	})

	eachVersion(kmsg.RemoveRaftVoter, "requests that come to nothing", func(s *session, v int16) {
		for _, voter := range []int32{1, 7, -1} { // of the one there is, the directory is another
			for _, dir := range [][16]byte{{7}, {}} {
				req := at(kmsg.NewPtrRemoveRaftVoterRequest(), v)
				req.VoterID, req.VoterDirectoryID = voter, dir
				ask[*kmsg.RemoveRaftVoterResponse](s, req)
				req.ClusterID = ptr("another")
				ask[*kmsg.RemoveRaftVoterResponse](s, req)
				req.ClusterID = &s.clusterID
				ask[*kmsg.RemoveRaftVoterResponse](s, req)
			}
		}
	})
}

const quorumTopic = "__cluster_metadata"

func describeQuorum(v int16, topic string, partitions ...int32) *kmsg.DescribeQuorumRequest {
	req := at(kmsg.NewPtrDescribeQuorumRequest(), v)
	t := kmsg.NewDescribeQuorumRequestTopic()
	t.Topic = topic
	for _, p := range partitions {
		row := kmsg.NewDescribeQuorumRequestTopicPartition()
		row.Partition = p
		t.Partitions = append(t.Partitions, row)
	}
	req.Topics = append(req.Topics, t)
	return req
}

func electLeaders(v int16, kind int8, topic string, partitions ...int32) *kmsg.ElectLeadersRequest {
	req := at(kmsg.NewPtrElectLeadersRequest(), v)
	req.ElectionType, req.TimeoutMillis = kind, 10_000
	t := kmsg.NewElectLeadersRequestTopic()
	t.Topic, t.Partitions = topic, partitions
	req.Topics = append(req.Topics, t)
	return req
}

func reassign(v int16, allow bool, topic string, replicas []int32, partitions ...int32) *kmsg.AlterPartitionAssignmentsRequest {
	req := at(kmsg.NewPtrAlterPartitionAssignmentsRequest(), v)
	req.TimeoutMillis, req.AllowReplicationFactorChange = 10_000, allow
	t := kmsg.NewAlterPartitionAssignmentsRequestTopic()
	t.Topic = topic
	for _, i := range partitions {
		p := kmsg.NewAlterPartitionAssignmentsRequestTopicPartition()
		p.Partition, p.Replicas = i, replicas
		t.Partitions = append(t.Partitions, p)
	}
	req.Topics = append(req.Topics, t)
	return req
}

func reassignments(v int16, topic string, partitions ...int32) *kmsg.ListPartitionReassignmentsRequest {
	req := at(kmsg.NewPtrListPartitionReassignmentsRequest(), v)
	req.TimeoutMillis = 10_000
	t := kmsg.NewListPartitionReassignmentsRequestTopic()
	t.Topic, t.Partitions = topic, partitions
	req.Topics = append(req.Topics, t)
	return req
}

// feature is an update of one.
type feature struct {
	name  string
	level int16
	typ   int8
}

func updateFeatures(v int16, updates ...feature) *kmsg.UpdateFeaturesRequest {
	req := at(kmsg.NewPtrUpdateFeaturesRequest(), v)
	req.TimeoutMillis = 10_000
	for _, u := range updates {
		row := kmsg.NewUpdateFeaturesRequestFeatureUpdate()
		row.Feature, row.MaxVersionLevel, row.UpgradeType = u.name, u.level, u.typ
		req.FeatureUpdates = append(req.FeatureUpdates, row)
	}
	return req
}

func addRaftVoter(v int16, id int32, dir [16]byte, listeners ...string) *kmsg.AddRaftVoterRequest {
	req := at(kmsg.NewPtrAddRaftVoterRequest(), v)
	req.TimeoutMillis, req.VoterID, req.VoterDirectoryID = 3000, id, dir
	for _, name := range listeners {
		l := kmsg.NewAddRaftVoterRequestListener()
		l.Name, l.Host, l.Port = name, "127.0.0.1", 1
		req.Listeners = append(req.Listeners, l)
	}
	return req
}
