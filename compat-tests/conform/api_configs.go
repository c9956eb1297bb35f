package main

import "github.com/twmb/franz-go/pkg/kmsg"

func init() {
	eachVersion(kmsg.DescribeConfigs, "topic", func(s *session, v int16) {
		topic := s.create(1, "retention.ms=1000", "cleanup.policy=compact")
		for _, all := range []bool{false, true} {
			ask[*kmsg.DescribeConfigsResponse](s, describeConfigs(v, kmsg.ConfigResourceTypeTopic, topic, all, nil))
		}
		ask[*kmsg.DescribeConfigsResponse](s, describeConfigs(v, kmsg.ConfigResourceTypeTopic, topic, true, []string{"retention.ms", "no.such.key", "segment.bytes", "retention.ms"}))
		ask[*kmsg.DescribeConfigsResponse](s, describeConfigs(v, kmsg.ConfigResourceTypeTopic, topic, true, []string{}))
	})
	eachVersion(kmsg.DescribeConfigs, "broker", func(s *session, v int16) {
		for _, name := range []string{"1", ""} {
			ask[*kmsg.DescribeConfigsResponse](s, describeConfigs(v, kmsg.ConfigResourceTypeBroker, name, true, nil))
		}
	})
	eachVersion(kmsg.DescribeConfigs, "what is not there", func(s *session, v int16) {
		for _, r := range []struct {
			kind kmsg.ConfigResourceType
			name string
		}{
			{kmsg.ConfigResourceTypeTopic, s.topic()}, {kmsg.ConfigResourceTypeTopic, ""}, {kmsg.ConfigResourceTypeTopic, "a/b"},
			{kmsg.ConfigResourceTypeBroker, "7"}, {kmsg.ConfigResourceTypeBroker, "x"}, {kmsg.ConfigResourceTypeBroker, "-1"},
			{0, "x"}, {1, "x"}, {99, "x"}, {-1, "x"},
		} {
			s.try(describeConfigs(v, r.kind, r.name, false, nil))
		}
		topic := s.create(1)
		req := describeConfigs(v, kmsg.ConfigResourceTypeTopic, topic, false, []string{"retention.ms"})
		req.Resources = append(req.Resources, describeConfigs(v, kmsg.ConfigResourceTypeTopic, s.topic(), false, nil).Resources...)
		req.Resources = append(req.Resources, describeConfigs(v, kmsg.ConfigResourceTypeTopic, topic, false, []string{"segment.ms"}).Resources...)
		ask[*kmsg.DescribeConfigsResponse](s, req)
		req.Resources = nil
		ask[*kmsg.DescribeConfigsResponse](s, req)
	})

	eachVersion(kmsg.IncrementalAlterConfigs, "topic", func(s *session, v int16) {
		topic := s.create(1)
		alter := func(validate bool, edits ...edit) {
			req := at(kmsg.NewPtrIncrementalAlterConfigsRequest(), v)
			req.ValidateOnly = validate
			req.Resources = append(req.Resources, incremental(kmsg.ConfigResourceTypeTopic, topic, edits...))
			s.try(req)
			s.settle()
			ask[*kmsg.DescribeConfigsResponse](s, describeConfigs(4, kmsg.ConfigResourceTypeTopic, topic, false, []string{"retention.ms", "cleanup.policy", "max.message.bytes", "compression.type"}))
		}
		alter(false, edit{"retention.ms", 0, ptr("5")})
		alter(true, edit{"retention.ms", 0, ptr("6")})
		alter(false, edit{"retention.ms", 1, nil})
		alter(false, edit{"retention.ms", 1, nil})
		alter(false, edit{"no.such.key", 0, ptr("5")})
		alter(false, edit{"no.such.key", 1, nil})
		alter(false, edit{"retention.ms", 0, nil})
		alter(false, edit{"retention.ms", 0, ptr("x")})
		alter(false, edit{"retention.ms", 2, ptr("5")})
		alter(false, edit{"retention.ms", 3, ptr("5")})
		alter(false, edit{"retention.ms", 7, ptr("5")})
		alter(false, edit{"cleanup.policy", 2, ptr("compact")})
		alter(false, edit{"cleanup.policy", 2, ptr("compact")})
		alter(false, edit{"cleanup.policy", 3, ptr("delete")})
		alter(false, edit{"cleanup.policy", 3, ptr("never-there")})
		alter(false, edit{"cleanup.policy", 2, ptr("x")})
		alter(false, edit{"retention.ms", 0, ptr("7")}, edit{"max.message.bytes", 0, ptr("-5")})
		alter(false, edit{"retention.ms", 0, ptr("7")}, edit{"max.message.bytes", 0, ptr("500")})
		alter(false, edit{"retention.ms", 0, ptr("8")}, edit{"retention.ms", 0, ptr("9")})
		alter(false, edit{"retention.ms", 0, ptr("8")}, edit{"retention.ms", 1, nil})
		alter(false)
		alter(false, edit{"", 0, ptr("1")})
	})
	eachVersion(kmsg.IncrementalAlterConfigs, "resources", func(s *session, v int16) {
		a, b := s.create(1), s.create(1)
		set := edit{"retention.ms", 0, ptr("5")}
		send := func(rs ...kmsg.IncrementalAlterConfigsRequestResource) {
			req := at(kmsg.NewPtrIncrementalAlterConfigsRequest(), v)
			req.Resources = rs
			s.try(req)
		}
		send(incremental(kmsg.ConfigResourceTypeTopic, a, set), incremental(kmsg.ConfigResourceTypeTopic, s.topic(), set), incremental(kmsg.ConfigResourceTypeTopic, b, edit{"x", 0, ptr("y")}))
		send(incremental(kmsg.ConfigResourceTypeTopic, a, set), incremental(kmsg.ConfigResourceTypeTopic, a, set))
		send(incremental(kmsg.ConfigResourceTypeTopic, "", set))
		send(incremental(kmsg.ConfigResourceTypeTopic, "a/b", set))
		send(incremental(0, "x", set))
		send(incremental(99, "x", set))
		send()
	})
	eachVersion(kmsg.IncrementalAlterConfigs, "broker", func(s *session, v int16) {
		alter := func(name string, edits ...edit) {
			req := at(kmsg.NewPtrIncrementalAlterConfigsRequest(), v)
			req.Resources = append(req.Resources, incremental(kmsg.ConfigResourceTypeBroker, name, edits...))
			s.try(req)
			s.settle()
			ask[*kmsg.DescribeConfigsResponse](s, describeConfigs(4, kmsg.ConfigResourceTypeBroker, "1", true, []string{"log.retention.ms", "message.max.bytes", "num.partitions"}))
		}
		alter("1", edit{"log.retention.ms", 0, ptr("86400000")})
		alter("", edit{"log.retention.ms", 0, ptr("96400000")}, edit{"message.max.bytes", 0, ptr("2000000")})
		alter("1", edit{"log.retention.ms", 1, nil})
		alter("", edit{"log.retention.ms", 1, nil}, edit{"message.max.bytes", 1, nil})
		alter("7", edit{"log.retention.ms", 0, ptr("1")})
		alter("x", edit{"log.retention.ms", 0, ptr("1")})
		alter("1", edit{"log.retention.ms", 0, ptr("x")})
		alter("1", edit{"broker.id", 0, ptr("5")})
		alter("1", edit{"log.dirs", 0, ptr("/tmp")})
		alter("", edit{"log.dirs", 0, ptr("/tmp")})
	})

	eachVersion(kmsg.ListConfigResources, "kinds", func(s *session, v int16) {
		s.create(1)
		group := s.group()
		set := func(e edit) {
			req := at(kmsg.NewPtrIncrementalAlterConfigsRequest(), 1)
			req.Resources = append(req.Resources, incremental(kmsg.ConfigResourceTypeGroupConfig, group, e))
			quietly[*kmsg.IncrementalAlterConfigsResponse](s, req)
			s.settle()
		}
		list := func(kinds ...int8) {
			req := at(kmsg.NewPtrListConfigResourcesRequest(), v)
			req.ResourceTypes = kinds
			ask[*kmsg.ListConfigResourcesResponse](s, req)
		}
		set(edit{"consumer.session.timeout.ms", 0, ptr("50000")}) // of a group that is not there
		list()
		for _, kind := range []int8{0, 1, 2, 3, 4, 8, 16, 32, 64, -1} {
			list(kind)
			list(kind, 4)
		}
		list(2, 4, 32, 2)
		set(edit{"consumer.session.timeout.ms", 1, nil})
		list(32)
	})

	eachVersion(kmsg.AlterConfigs, "topic", func(s *session, v int16) {
		topic := s.create(1, "retention.ms=5", "cleanup.policy=compact")
		alter := func(validate bool, kv ...string) {
			req := at(kmsg.NewPtrAlterConfigsRequest(), v)
			req.ValidateOnly = validate
			r := kmsg.NewAlterConfigsRequestResource()
			r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, topic
			for i := 0; i < len(kv); i += 2 {
				c := kmsg.NewAlterConfigsRequestResourceConfig()
				c.Name, c.Value = kv[i], &kv[i+1]
				if kv[i+1] == "null" {
					c.Value = nil
				}
				r.Configs = append(r.Configs, c)
			}
			req.Resources = append(req.Resources, r)
			s.try(req)
			s.settle()
			ask[*kmsg.DescribeConfigsResponse](s, describeConfigs(4, kmsg.ConfigResourceTypeTopic, topic, false, []string{"retention.ms", "cleanup.policy", "max.message.bytes"}))
		}
		alter(true, "max.message.bytes", "500")
		alter(false, "max.message.bytes", "500")
		alter(false, "max.message.bytes", "-5", "retention.ms", "8")
		alter(false, "retention.ms", "8", "retention.ms", "9")
		alter(false, "no.such.key", "9")
		alter(false, "retention.ms", "null")
		alter(false)
	})
	eachVersion(kmsg.AlterConfigs, "resources", func(s *session, v int16) {
		for _, name := range []string{s.topic(), "", "a/b"} {
			for _, kind := range []kmsg.ConfigResourceType{kmsg.ConfigResourceTypeTopic, 0, 99} {
				req := at(kmsg.NewPtrAlterConfigsRequest(), v)
				r := kmsg.NewAlterConfigsRequestResource()
				r.ResourceType, r.ResourceName = kind, name
				req.Resources = append(req.Resources, r)
				s.try(req)
			}
		}
		// Apache Kafka never answers a request that names a resource twice.
		s.try(at(kmsg.NewPtrAlterConfigsRequest(), v))
	})
}

func describeConfigs(version int16, kind kmsg.ConfigResourceType, name string, everything bool, keys []string) *kmsg.DescribeConfigsRequest {
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.SetVersion(version)
	req.IncludeSynonyms, req.IncludeDocumentation = everything, everything
	r := kmsg.NewDescribeConfigsRequestResource()
	r.ResourceType, r.ResourceName, r.ConfigNames = kind, name, keys
	req.Resources = append(req.Resources, r)
	return req
}

// edit is one change of a setting: 0 sets, 1 deletes, 2 appends, 3 subtracts.
type edit struct {
	key   string
	op    int8
	value *string
}

func incremental(kind kmsg.ConfigResourceType, name string, edits ...edit) kmsg.IncrementalAlterConfigsRequestResource {
	r := kmsg.NewIncrementalAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName = kind, name
	for _, e := range edits {
		c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		c.Name, c.Op, c.Value = e.key, kmsg.IncrementalAlterConfigOp(e.op), e.value
		r.Configs = append(r.Configs, c)
	}
	return r
}
