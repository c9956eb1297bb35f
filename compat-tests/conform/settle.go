package main

import (
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Apache Kafka answers changes of metadata when its controller has committed
// them, and its brokers follow a little later. What follows waits until they
// have, so that scenarios compare what brokers do and not how fast.

// settleTime is what a broker may take to follow.
const settleTime = 10 * time.Second

// until asks again until something is so.
func (s *session) until(what string, is func() bool) {
	for end := time.Now().Add(settleTime); ; time.Sleep(5 * time.Millisecond) {
		if is() {
			return
		}
		if time.Now().After(end) {
			s.note("waiting", -1, -1, what+" does not come about")
			panic(abort{})
		}
	}
}

// appear waits until all partitions of a topic have a leader that answers.
func (s *session) appear(name string, partitions int32) {
	req := listOffsets(6, name)
	for p := range partitions {
		row := kmsg.NewListOffsetsRequestTopicPartition()
		row.Partition, row.Timestamp, row.CurrentLeaderEpoch = p, -1, -1
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, row)
	}
	s.until(name+" with its leaders", func() bool {
		for _, p := range quietly[*kmsg.ListOffsetsResponse](s, req).Topics[0].Partitions {
			if p.ErrorCode != 0 {
				return false
			}
		}
		return true
	})
}

// vanish waits until a topic is gone.
func (s *session) vanish(name string) {
	req := metadata(9, name)
	req.AllowAutoTopicCreation = false
	s.until("the end of "+name, func() bool {
		return quietly[*kmsg.MetadataResponse](s, req).Topics[0].ErrorCode == 3
	})
}

// settle waits until the broker has followed every change that was answered:
// the log of changes has an order, and a last change of this session's own
// comes after all of them.
func (s *session) settle() {
	if s.marker == "" {
		s.marker = s.prefix + "marker"
		s.createAs(s.marker, 1)
	}
	s.marks++
	want := fmt.Sprint(1_000_000 + s.marks)
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.Resources = append(req.Resources, incremental(kmsg.ConfigResourceTypeTopic, s.marker, edit{"retention.ms", 0, &want}))
	quietly[*kmsg.IncrementalAlterConfigsResponse](s, req)
	ask := describeConfigs(1, kmsg.ConfigResourceTypeTopic, s.marker, false, []string{"retention.ms"})
	s.until("a change", func() bool {
		r := quietly[*kmsg.DescribeConfigsResponse](s, ask).Resources[0]
		return len(r.Configs) == 1 && r.Configs[0].Value != nil && *r.Configs[0].Value == want
	})
}
