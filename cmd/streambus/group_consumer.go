package main

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// describeConsumers describes a group of the consumer protocol (KIP-848).
func (s *session) describeConsumers(ctx context.Context, name string) (d groupDescription, err error) {
	described, err := s.admin.DescribeConsumerGroups(ctx, name)
	if err != nil {
		return d, err
	}
	g := described[name]
	if g.Err != nil {
		return d, g.Err
	}
	d = groupDescription{
		Group: name, State: g.State, Protocol: g.AssignorName, Coordinator: g.Coordinator.NodeID, Members: []memberOfGroup{}, Offsets: []offsetsOfAGroup{},
	}
	committed, err := s.admin.FetchOffsets(ctx, name)
	if err != nil {
		return d, err
	}
	all := committed.Offsets().TopicsSet()
	owners := map[string]map[int32]string{}
	for _, m := range g.Members {
		d.Members = append(d.Members, memberOfGroup{m.MemberID, m.InstanceID, m.ClientID, m.ClientHost})
		all.Merge(m.Assignment)
		m.Assignment.Each(func(topic string, partition int32) {
			if owners[topic] == nil {
				owners[topic] = map[int32]string{}
			}
			owners[topic][partition] = m.MemberID
		})
	}
	if len(all) == 0 {
		return d, nil
	}
	ends, err := s.admin.ListEndOffsets(ctx, all.Topics()...)
	if err != nil {
		return d, err
	}
	all.Each(func(topic string, partition int32) {
		row := offsetsOfAGroup{Topic: topic, Partition: partition, Committed: -1, Lag: -1, Member: owners[topic][partition]}
		end, known := ends.Lookup(topic, partition)
		if o, ok := committed.Lookup(topic, partition); ok {
			row.Committed = o.At
		}
		if known && end.Err == nil {
			row.End = end.Offset
			if row.Committed >= 0 {
				row.Lag = max(0, row.End-row.Committed)
			}
		}
		d.Lag += max(0, row.Lag)
		d.Offsets = append(d.Offsets, row)
	})
	slices.SortFunc(d.Offsets, func(a, b offsetsOfAGroup) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return d, nil
}

// described is a group by whichever protocol it is.
func (s *session) described(ctx context.Context, name string, classic kadm.DescribedGroupLag) (groupDescription, error) {
	err := classic.Error()
	if err == nil && classic.State == "Dead" {
		err = kerr.GroupIDNotFound
	}
	if !errors.Is(err, kerr.GroupIDNotFound) {
		return describeGroup(classic), groupRefused(name, err)
	}
	d, err := s.describeConsumers(ctx, name)
	return d, groupRefused(name, err)
}
