package handler_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/storage/vfs"
)

// alterGroup changes settings of group g, each "name=value" to set or "-name" to take
// back, and returns the code.
func alterGroup(n *node, validateOnly bool, changes ...string) protocol.ErrorCode {
	n.t.Helper()
	q := kmsg.IncrementalAlterConfigsRequestResource{ResourceType: kmsg.ConfigResourceTypeGroupConfig, ResourceName: "g"}
	for _, change := range changes {
		c := kmsg.IncrementalAlterConfigsRequestResourceConfig{Op: kmsg.IncrementalAlterConfigOpDelete, Name: strings.TrimPrefix(change, "-")}
		if name, value, ok := strings.Cut(change, "="); ok {
			c.Op, c.Name, c.Value = kmsg.IncrementalAlterConfigOpSet, name, &value
		}
		q.Configs = append(q.Configs, c)
	}
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.Version, req.ValidateOnly = 1, validateOnly
	req.Resources = append(req.Resources, q)
	return code(answer[*kmsg.IncrementalAlterConfigsResponse](n, req).Resources[0].ErrorCode)
}

// A group's session outlasts its heartbeats, whichever of the two is set, taken back or
// left as it is.
func TestSettingsOfAGroupTogether(t *testing.T) {
	const session, heartbeat = "consumer.session.timeout.ms", "consumer.heartbeat.interval.ms"
	n := newNode(t, vfs.NewMem(), "group.consumer.min.session.timeout.ms=6000", "group.consumer.max.heartbeat.interval.ms=50000")
	for _, step := range []struct {
		changes []string
		want    protocol.ErrorCode
		set     string // of the group, after that
	}{
		{[]string{session + "=10000", heartbeat + "=10000"}, protocol.InvalidConfig, "[]"},
		{[]string{session + "=10000"}, 0, "[{consumer.session.timeout.ms 10000}]"},
		{[]string{heartbeat + "=10000"}, protocol.InvalidConfig, "[{consumer.session.timeout.ms 10000}]"},
		{[]string{heartbeat + "=20000", "-" + session}, 0, "[{consumer.heartbeat.interval.ms 20000}]"},
		{[]string{session + "=10000"}, protocol.InvalidConfig, "[{consumer.heartbeat.interval.ms 20000}]"},
		{[]string{session + "=10000", "-" + heartbeat}, 0, "[{consumer.session.timeout.ms 10000}]"},
		{[]string{session + "=11000", "retention.ms=5"}, protocol.InvalidConfig, "[{consumer.session.timeout.ms 10000}]"},
		{[]string{"-retention.ms"}, 0, "[{consumer.session.timeout.ms 10000}]"},
	} {
		if got := alterGroup(n, false, step.changes...); got != step.want {
			t.Errorf("%v: %v, want %v", step.changes, got, step.want)
		}
		if got := fmt.Sprint(n.img.GroupConfigs("g")); got != step.set {
			t.Errorf("after %v the group has %v, want %v", step.changes, got, step.set)
		}
	}

	// What replaces all settings is looked at without those that there were.
	value := "20000"
	req := kmsg.NewPtrAlterConfigsRequest()
	req.Version = 2
	req.Resources = []kmsg.AlterConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeGroupConfig, ResourceName: "g",
		Configs: []kmsg.AlterConfigsRequestResourceConfig{{Name: heartbeat, Value: &value}}}}
	if got := code(answer[*kmsg.AlterConfigsResponse](n, req).Resources[0].ErrorCode); got != 0 {
		t.Errorf("replacing: %v", got)
	}
	if got := fmt.Sprint(n.img.GroupConfigs("g")); got != "[{consumer.heartbeat.interval.ms 20000}]" {
		t.Errorf("the group has %v", got)
	}
}

// Settings of kinds of groups that are not served are kept, and the log says that they
// do nothing.
func TestInertSettingsOfAGroup(t *testing.T) {
	const set = "share.session.timeout.ms=50000"
	n := newNode(t, vfs.NewMem())
	for _, step := range []struct {
		validateOnly bool
		change, logs string
	}{
		{true, set, ""},
		{false, "consumer.session.timeout.ms=50000", ""},
		{false, set, "group=g setting=share.session.timeout.ms value=50000"},
		{false, "share.session.timeout.ms=45000", ""}, // as it is without
		{false, "-share.session.timeout.ms", ""},
	} {
		n.log.Reset()
		if got := alterGroup(n, step.validateOnly, step.change); got != 0 {
			t.Errorf("%s: %v", step.change, got)
		}
		if got := n.log.String(); !strings.Contains(got, step.logs) || (got == "") != (step.logs == "") {
			t.Errorf("%s logs %q, want %q", step.change, got, step.logs)
		}
	}
}

// TestListConfigResources: each kind is listed by itself, with the topics and groups that
// have settings, and the brokers that clients are sent to.
func TestListConfigResources(t *testing.T) {
	n := newNode(t, vfs.NewMem())
	n.topic("t", 1, nil)
	if got := alterGroup(n, false, "consumer.session.timeout.ms=50000"); got != 0 {
		t.Fatal(got)
	}
	versions(t, protocol.KeyListConfigResources, func(t *testing.T, v int16) {
		n.t = t
		for _, x := range []struct {
			kinds []int8
			want  string
			code  protocol.ErrorCode
		}{
			{nil, "[32 g] [4 1] [2 t]", 0},
			{[]int8{2}, "[2 t]", 0},
			{[]int8{4, 32, 4}, "[32 g] [4 1]", 0},
			{[]int8{8}, "", 0},
			{[]int8{2, 1}, "", protocol.UnsupportedVersion},
		} {
			if v == 0 {
				x.want, x.code = "", 0
			}
			req := kmsg.NewPtrListConfigResourcesRequest()
			req.Version, req.ResourceTypes = v, x.kinds
			if v == 0 {
				req.ResourceTypes = nil // it has no such field
			}
			resp := answer[*kmsg.ListConfigResourcesResponse](n, req)
			var rows []string
			for _, r := range resp.ConfigResources {
				rows = append(rows, fmt.Sprintf("[%d %s]", r.Type, r.Name))
			}
			if got := strings.Join(rows, " "); got != x.want || code(resp.ErrorCode) != x.code {
				t.Errorf("%v: %s, %v, want %s, %v", x.kinds, got, code(resp.ErrorCode), x.want, x.code)
			}
		}
	})
}
