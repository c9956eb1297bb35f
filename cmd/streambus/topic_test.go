package main

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestTopics(t *testing.T) {
	b := newBroker(t, "--set", "num.partitions=2")
	if out := b.must(t, "", "topic", "list"); out != "NAME  PARTITIONS  REPLICAS\n" {
		t.Errorf("none: %q", out)
	}
	out := b.must(t, "", "topic", "create", "orders", "payments", "orders", "--config", "retention.ms=3600000", "--config", "segment.bytes=1048576")
	if want := "created topic orders: 2 partitions, replication factor 1\ncreated topic payments: 2 partitions, replication factor 1\n"; out != want {
		t.Errorf("created: %q", out)
	}
	if out := b.must(t, "", "topic", "create", "orders", "--if-not-exists", "--partitions", "7"); out != "" {
		t.Errorf("created again: %q", out)
	}
	// What can be made is made, whatever becomes of the others.
	r := b.tool(t, "", "topic", "create", "orders", "audit", "--partitions", "1", "--replication-factor", "1", "-o", "json")
	if r.code != 1 || !strings.HasPrefix(r.out, `[{"name":"audit","id":"`) || r.errs != "streambus: topic orders is there already: \"streambus topic alter\" changes it\n" {
		t.Errorf("created in part: %+v", r)
	}
	if out, want := b.must(t, "", "topic", "list"), "NAME      PARTITIONS  REPLICAS\naudit     1           1\norders    2           1\npayments  2           1\n"; out != want {
		t.Errorf("listed:\n%swant\n%s", out, want)
	}

	if out := b.must(t, "", "topic", "alter", "orders", "--partitions", "3", "--set", "max.message.bytes=2000", "--unset", "segment.bytes"); out != "altered topic orders: 3 partitions, max.message.bytes=2000, retention.ms=3600000\n" {
		t.Errorf("altered: %q", out)
	}
	b.must(t, "1\n2\n3\n", "produce", "orders", "--partition", "1")
	if out := b.must(t, "", "topic", "delete-records", "orders", "--partition", "1", "--before", "2"); out != "topic orders: partition 1 starts at 2\n" {
		t.Errorf("records deleted: %q", out)
	}

	out = b.must(t, "", "topic", "describe", "orders", "-o", "json")
	var described []topicDescription
	if err := json.Unmarshal([]byte(out), &described); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	zero, two, three := int64(0), int64(2), int64(3)
	one := []int32{1}
	want := []topicDescription{{
		Name: "orders", ID: described[0].ID,
		Settings: map[string]string{"max.message.bytes": "2000", "retention.ms": "3600000"},
		Partitions: []partitionDescription{
			{Partition: 0, Leader: 1, Replicas: one, ISR: one, Start: &zero, End: &zero},
			{Partition: 1, Leader: 1, Replicas: one, ISR: one, Start: &two, End: &three},
			{Partition: 2, Leader: 1, Replicas: one, ISR: one, Start: &zero, End: &zero},
		},
	}}
	if !reflect.DeepEqual(described, want) || len(described[0].ID) != 22 {
		t.Errorf("described: %s", out)
	}
	r = b.tool(t, "", "topic", "describe", "nowhere", "audit")
	if r.code != 1 || !strings.HasPrefix(r.out, "topic:     audit\n") || !strings.HasPrefix(r.errs, "streambus: topic nowhere does not exist") {
		t.Errorf("described in part: %+v", r)
	}

	if out := b.must(t, "", "topic", "delete-records", "orders", "--partition", "all", "--before", "end", "-o", "json"); out != `[{"partition":0,"start":0},{"partition":1,"start":3},{"partition":2,"start":0}]`+"\n" {
		t.Errorf("records deleted: %q", out)
	}
	r = b.tool(t, "", "topic", "delete", "orders", "nowhere", "audit")
	if r.code != 1 || r.out != "deleted topic orders\ndeleted topic audit\n" || !strings.HasPrefix(r.errs, "streambus: topic nowhere does not exist") {
		t.Errorf("deleted in part: %+v", r)
	}
	if out := b.must(t, "", "topic", "delete", "orders", "--if-exists"); out != "" {
		t.Errorf("deleted again: %q", out)
	}
	var listed []struct{ Name string }
	if out := b.must(t, "", "topic", "list", "-o", "json"); json.Unmarshal([]byte(out), &listed) != nil || len(listed) != 1 || listed[0].Name != "payments" {
		t.Errorf("what is left: %s", out)
	}
}

func TestTopicRefusals(t *testing.T) {
	b := newBroker(t)
	b.must(t, "", "topic", "create", "orders", "--partitions", "2")
	none := `topic nowhere does not exist: "streambus topic create nowhere" creates it`
	b.refuses(t, map[string]refusal{
		"a name that is none":   {"", []string{"topic", "create", "a b"}, 1, "topic a b: "},
		"too many replicas":     {"", []string{"topic", "create", "x", "--replication-factor", "3"}, 1, "INVALID_REPLICATION_FACTOR"},
		"no such setting":       {"", []string{"topic", "create", "x", "--config", "colour=red"}, 1, "unknown topic config name: colour"},
		"describe":              {"", []string{"topic", "describe", "nowhere"}, 1, none},
		"alter":                 {"", []string{"topic", "alter", "nowhere", "--partitions", "2"}, 1, none},
		"set":                   {"", []string{"topic", "alter", "nowhere", "--set", "retention.ms=1"}, 1, none},
		"delete":                {"", []string{"topic", "delete", "nowhere"}, 1, none},
		"delete records":        {"", []string{"topic", "delete-records", "nowhere", "--partition", "0", "--before", "end"}, 1, none},
		"fewer partitions":      {"", []string{"topic", "alter", "orders", "--set", "retention.ms=1", "--partitions", "1"}, 1, "INVALID_PARTITIONS"},
		"a bad value":           {"", []string{"topic", "alter", "orders", "--set", "retention.ms=x", "--partitions", "3"}, 1, "retention.ms"},
		"no such partition":     {"", []string{"topic", "delete-records", "orders", "--partition", "2", "--before", "end"}, 1, "topic orders has no partition 2: it has 2, from 0 to 1"},
		"more than there is":    {"", []string{"topic", "delete-records", "orders", "--partition", "0", "--before", "1"}, 1, "partition 0 ends at 0: --before 1 is beyond that"},
		"records of many parts": {"", []string{"topic", "delete-records", "orders", "--partition", "0,9", "--before", "0"}, 1, "no partition 9"},
	})
	// Of a refused pair of changes neither is made.
	if out := b.must(t, "", "topic", "alter", "orders", "--unset", "retention.bytes"); out != "altered topic orders: 2 partitions\n" {
		t.Errorf("after refusals: %s", out)
	}
}
