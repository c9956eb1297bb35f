package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/streambus/streambus/broker"
	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/broker/replica"
)

func TestPartition(t *testing.T) {
	b := newBroker(t)
	b.must(t, "", "topic", "create", "orders", "odd-7", "--partitions", "2")
	b.must(t, "1\n2\n3\n", "produce", "orders", "--partition", "1")
	ask := func(args ...string) string {
		t.Helper()
		out, errs, code := run(t, append([]string{"partition", "--admin-listen", b.admin}, args...)...)
		if code != 0 {
			t.Fatalf("%q: exit code %d, %s", args, code, errs)
		}
		return out
	}
	want := regexp.MustCompile(`^partition   orders-1
leader      node 1, leader epoch 0, partition epoch 0
replicas    1
in sync     1; min\.insync\.replicas is 1
log         0 to 3, flushed to 3, high watermark 3; \d+ bytes in 1 segments
last flush  took [0-9.]+ ms \(of the whole data directory\)

NODE  ISR  WRITTEN  FLUSHED  BEHIND  FETCHED  LINK  WHY
1     in   3        3        -       -        -     it leads
$`)
	if out := ask("orders-1"); !want.MatchString(out) {
		t.Errorf("one:\n%s", out)
	}
	for _, args := range [][]string{{"orders"}, {"--topic", "odd-7"}} {
		if out, name := ask(args...), args[len(args)-1]; strings.Count(out, "it leads") != 2 || !strings.Contains(out, "partition   "+name+"-0\n") || !strings.Contains(out, "partition   "+name+"-1\n") {
			t.Errorf("all of %s:\n%s", name, out)
		}
	}
	var a broker.Partitions
	if out := ask("orders-1", "-o", "json"); json.Unmarshal([]byte(out), &a) != nil || a.Node != 1 || len(a.Partitions) != 1 || a.Partitions[0].LogEnd != 3 || a.LastFlush <= 0 {
		t.Errorf("JSON: %s", out)
	}
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"nothing":       {nil, 2, "say what about"},
		"twice":         {[]string{"orders", "--topic", "orders"}, 2, "say what about"},
		"no topic":      {[]string{"nowhere"}, 1, "topic nowhere does not exist, as far as node 1 knows"},
		"no partition":  {[]string{"orders-2"}, 1, "topic orders has no partition 2: it has 2, from 0 to 1"},
		"nobody":        {[]string{"orders", "--admin-listen", "127.0.0.1:1"}, 1, "no broker answers on its admin listener"},
		"watch nowhere": {[]string{"nowhere", "--watch"}, 1, "topic nowhere does not exist"},
	} {
		out, errs, code := run(t, append([]string{"partition", "--admin-listen", b.admin}, c.args...)...)
		if code != c.code || out != "" || !strings.Contains(errs, c.want) {
			t.Errorf("%s: exit code %d, %q, %s", name, code, out, errs)
		}
	}
}

// What is watched changes, until an interrupt ends it.
func TestPartitionWatch(t *testing.T) {
	b := newBroker(t)
	b.must(t, "", "topic", "create", "orders")
	cmd := command(t.Context(), t, "partition", "orders-0", "--watch", "-o", "json", "--admin-listen", b.admin)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	lines := bufio.NewScanner(pipe)
	next := func() int64 {
		t.Helper()
		var a broker.Partitions
		if !lines.Scan() || json.Unmarshal(lines.Bytes(), &a) != nil || len(a.Partitions) != 1 {
			t.Fatalf("%q", lines.Text())
		}
		return a.Partitions[0].LogEnd
	}
	if end := next(); end != 0 {
		t.Errorf("it begins with %d", end)
	}
	b.must(t, "1\n", "produce", "orders")
	for next() != 1 {
	}
	cmd.Process.Signal(os.Interrupt)
	for lines.Scan() {
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("an interrupt: %v", err)
	}
}

// An interrupt is no failure, whatever is under way.
func TestPartitionWatchInterrupted(t *testing.T) {
	asked := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	}))
	defer silent.Close()
	cmd := command(t.Context(), t, "partition", "orders", "--watch", "--admin-listen", strings.TrimPrefix(silent.URL, "http://"))
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-asked:
	case <-time.After(20 * time.Second):
		t.Error("nothing was asked")
	}
	cmd.Process.Signal(os.Interrupt)
	if err := cmd.Wait(); err != nil || out.String() != "" {
		t.Errorf("%v, %s", err, out.String())
	}
}

func TestPartitionText(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	text := func(a broker.Partitions) string {
		var s strings.Builder
		a.Time = now
		if err := (&output{&choice{value: "text"}}).print(&s, a, func(w io.Writer) { writePartitions(w, &a) }); err != nil {
			t.Fatal(err)
		}
		return s.String()
	}
	of := replica.State{
		Topic: "orders", Partition: 3, Leader: 1, LeaderEpoch: 4, PartitionEpoch: 9, Replicas: []int32{1, 2, 3}, ISR: []int32{1, 2}, MinISR: 2,
		LogEnd: 50, FlushedEnd: 49, HighWatermark: 48, Bytes: 1000, Segments: 2,
	}
	leads := of
	leads.PendingISR = []int32{1, 2, 3}
	leads.Followers = []partition.FollowerState{
		{ID: 2, LogEnd: 50, FlushedEnd: 48, CaughtUp: ago(20 * time.Millisecond), Fetched: ago(4 * time.Millisecond), Standing: partition.In, Why: "so"},
		{ID: 3, LogEnd: -1, FlushedEnd: -1, Standing: partition.Enters, Why: "because"},
	}
	leads.Throttled = []replica.Throttled{{ID: 3, Rate: 1000, Wait: 2500}}
	got := text(broker.Partitions{Node: 1, LastFlush: 1.5, Followers: []broker.Heard{{Node: 2, Last: ago(90 * time.Second)}}, Partitions: []replica.State{leads}, LeftOut: 7})
	if want := `partition   orders-3
leader      node 1, leader epoch 4, partition epoch 9
replicas    1 2 3
in sync     1 2; min.insync.replicas is 2
asked for   1 2 3 in sync; the controllers have not answered
log         0 to 50, flushed to 49, high watermark 48; 1000 bytes in 2 segments
last flush  took 1.50 ms (of the whole data directory)

NODE  ISR     WRITTEN  FLUSHED  BEHIND  FETCHED  LINK       WHY
1     in      50       49       -       -        -          it leads
2     in      50       48       20ms    4ms ago  1m30s ago  so
3     enters  -        -        -       -        -          because; throttled by leader.replication.throttled.rate=1000, with all that are throttled on this node; nothing for 2.5s

7 more partitions are left out: ask for one, as TOPIC-PARTITION
`; got != want {
		t.Errorf("a leader:\n%s\nwant\n%s", got, want)
	}
	follows := of
	follows.Following = &replica.Following{Connected: ago(time.Hour), Answered: ago(time.Second), UnderWay: 1, Lag: 5, Waits: "for it"}
	follows.Throttled = []replica.Throttled{{ID: 2, Rate: 1000}}
	cut := of
	cut.Leader = -1
	cut.Following = &replica.Following{Waits: "an election: nobody leads", Error: "refused"}
	broken := of
	broken.Error = "the disk is gone"
	got = text(broker.Partitions{Node: 2, Partitions: []replica.State{follows, cut, broken}})
	if want := `partition   orders-3
leader      node 1, leader epoch 4, partition epoch 9; ask it about the others: this is what node 2 knows, which follows
replicas    1 2 3
in sync     1 2; min.insync.replicas is 2
log         0 to 50, flushed to 49, high watermark 48; 1000 bytes in 2 segments
last flush  none yet (of the whole data directory)
link        connected for 1h0m0s, 1 fetches under way, last answer 1s ago
lag         5 acknowledged records
waits for   for it
throttled   by follower.replication.throttled.rate=1000, with all that are throttled on this node

partition   orders-3
leader      nobody, leader epoch 4, partition epoch 9; this is what node 2 knows
replicas    1 2 3
in sync     1 2; min.insync.replicas is 2
log         0 to 50, flushed to 49, high watermark 48; 1000 bytes in 2 segments
last flush  none yet (of the whole data directory)
link        none
lag         0 acknowledged records
waits for   an election: nobody leads
error       refused

partition  orders-3
leader     node 1, leader epoch 4, partition epoch 9; ask it about the others: this is what node 2 knows, which follows
replicas   1 2 3
in sync    1 2; min.insync.replicas is 2
error      the disk is gone
`; got != want {
		t.Errorf("others:\n%s\nwant\n%s", got, want)
	}
}
