package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// What can be done to a group is done: its offsets are shown, set and deleted, and not
// while somebody is in it.
func TestGroups(t *testing.T) {
	t.Run("classic protocol", func(t *testing.T) { testGroups(t) })
	t.Run("consumer protocol", func(t *testing.T) { testGroups(t, kgo.ServerSideBalancer()) })
}

func testGroups(t *testing.T, how ...kgo.Opt) {
	b := newBroker(t, "--set", "group.initial.rebalance.delay.ms=0")
	if out := b.must(t, "", "group", "list"); out != "GROUP  STATE  COORDINATOR\n" {
		t.Errorf("none: %q", out)
	}
	b.must(t, "", "topic", "create", "orders", "--partitions", "1")
	producing := time.Now()
	b.must(t, "1\n2\n3\n4\n", "produce", "orders")
	produced := time.Now()
	client, err := kgo.NewClient(append(how, kgo.SeedBrokers(b.address), kgo.ConsumerGroup("billing"), kgo.ConsumeTopics("orders"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit())...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	records := client.PollRecords(ctx, 3).Records()
	if err := client.CommitRecords(ctx, records...); err != nil || len(records) == 0 {
		t.Fatalf("%d records, %v", len(records), err)
	}
	n := int64(len(records))
	asked := time.Now()
	var described []groupDescription
	if err := json.Unmarshal([]byte(b.must(t, "", "group", "describe", "billing", "-o", "json")), &described); err != nil {
		t.Fatal(err)
	}
	d := described[0]
	if d.State != "Stable" || len(d.Members) != 1 || len(d.Offsets) != 1 || d.Offsets[0].Committed != n || d.Offsets[0].End != 4 || d.Lag != 4-n {
		t.Errorf("described: %+v", d)
	}
	if s := d.Offsets[0].LagSeconds; s == nil || *s < asked.Sub(produced).Seconds() || *s > time.Since(producing).Seconds()+0.001 {
		t.Errorf("behind for %v s, produced %v before it was asked", s, asked.Sub(produced))
	}
	r := b.tool(t, "", "group", "delete", "billing")
	if r.code != 1 || !strings.Contains(r.errs, "has members") {
		t.Errorf("deleted with a member: %+v", r)
	}
	r = b.tool(t, "", "group", "reset-offsets", "billing", "--to", "start", "--execute")
	if r.code != 1 || !strings.Contains(r.errs, "has members") {
		t.Errorf("reset with a member: %+v", r)
	}
	client.LeaveGroup()

	if out := b.must(t, "", "group", "reset-offsets", "billing", "--to", "start"); !strings.Contains(out, "Nothing was changed") {
		t.Errorf("as it would be: %q", out)
	}
	if out, want := b.must(t, "", "group", "reset-offsets", "billing", "--to", "-1", "--execute"), "TOPIC   PARTITION  COMMITTED  TO  END\norders  0          "; !strings.HasPrefix(out, want) {
		t.Errorf("reset: %q", out)
	}
	out := b.must(t, "", "group", "describe", "billing")
	if !strings.Contains(out, "state:        Empty\n") || !strings.Contains(out, "lag:          1\n") || !strings.Contains(out, "orders  0          3          4    1    ") || !strings.HasSuffix(out, "  -\n") || !strings.Contains(out, "LAG  SECONDS") {
		t.Errorf("described:\n%s", out)
	}
	if out := b.must(t, "", "group", "list"); out != "GROUP    STATE  COORDINATOR\nbilling  Empty  1\n" {
		t.Errorf("listed: %q", out)
	}
	if out := b.must(t, "", "group", "delete", "billing"); out != "deleted group billing\n" {
		t.Errorf("deleted: %q", out)
	}
	for _, args := range [][]string{{"describe", "billing"}, {"delete", "billing"}, {"reset-offsets", "billing", "--to", "start"}} {
		if r := b.tool(t, "", append([]string{"group"}, args...)...); r.code != 1 || !strings.HasPrefix(r.errs, "streambus: group billing does not exist") {
			t.Errorf("%v: %+v", args, r)
		}
	}
	if r := b.tool(t, "", "group", "reset-offsets", "billing"); r.code != 2 {
		t.Errorf("without a place: %+v", r)
	}
}
