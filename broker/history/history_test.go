package history

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage/vfs"
)

var begin = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func id(n byte) (u image.UUID) { u[15] = n; return u }

func number(n int32) *int32 { return &n }

// life is a short history: each element is one operation.
func life(t *testing.T) [][]image.Record {
	t.Helper()
	op := func(actor, cause string) image.Record { return &image.OperationRecord{Actor: actor, Cause: cause} }
	p := image.Partition{Replicas: []int32{1, 2}, ISR: []int32{1, 2}, Dirs: "\x00\x00", Leader: 1}
	moved := p
	moved.Leader, moved.LeaderEpoch, moved.PartitionEpoch, moved.ISR, moved.ELR = 2, 1, 1, []int32{2}, []int32{1}
	return [][]image.Record{
		{&image.ClusterRecord{ClusterID: "c", Level: 2}},
		{op("broker 1", "it started"), &image.BrokerRecord{ID: 1, Fenced: true}, &image.BrokerRecord{ID: 2}},
		{op("controller 7", "it is there"), &image.BrokerChangeRecord{ID: 1}},
		{op("User:a", "CreateTopics"), &image.TopicRecord{Name: "t-1", ID: id(1), Configs: []image.Setting{{Key: "k", Value: "v"}}},
			&image.PartitionsRecord{Topic: id(1), Partitions: []image.Partition{p, p}},
			op("User:b", "CreateTopics"), &image.TopicRecord{Name: "u", ID: id(2)}},
		{op("controller 7", "its process is gone"), &image.BrokerChangeRecord{ID: 1, Fenced: true}, &image.PartitionChangeRecord{Topic: id(1), Index: 1, Partition: moved}},
		{op("User:a", "DeleteTopics"), &image.TopicRemovalRecord{Topic: id(2)}},
	}
}

func write(t *testing.T, fs vfs.FS, l *Log) {
	t.Helper()
	img := image.Empty()
	for i, records := range life(t) {
		for _, r := range records { // brokers keep their epochs
			if c, ok := r.(*image.BrokerChangeRecord); ok {
				b, _ := img.Broker(c.ID)
				c.Epoch = b.Epoch
			}
		}
		next, _ := image.Apply(img, uint64(i+1), records)
		now := begin.Add(time.Duration(i) * time.Minute)
		if err := l.Append(now, Explain(now, img, next, records)); err != nil {
			t.Fatal(err)
		}
		img = next
	}
}

func ask(t *testing.T, fs vfs.FS, q Question) string {
	t.Helper()
	var lines []string
	err := Read(fs, "/h", q, func(e Entry) bool {
		for _, c := range e.Changes {
			about := c.Topic
			if c.Partition != nil {
				about = fmt.Sprintf("%s/%d", c.Topic, *c.Partition)
			}
			if c.Broker != nil {
				about = fmt.Sprintf("broker %d", *c.Broker)
			}
			lines = append(lines, strings.TrimSpace(fmt.Sprintf("%d %s/%s %s: %s", e.Index, e.Actor, e.Cause, about, c.What)))
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

func TestWhatIsAskedFor(t *testing.T) {
	fs := vfs.NewMem()
	l, err := Open(fs, "/h", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	write(t, fs, l)
	created := `4 User:a/CreateTopics t-1: created with id AAAAAAAAAAAAAAAAAAAAAQ, settings: k=v
4 User:a/CreateTopics t-1: 2 partitions from number 0
`
	for name, c := range map[string]struct {
		q    Question
		want string
	}{
		"a partition": {Question{Topic: "t-1", Partition: number(1)}, created + `4 User:a/CreateTopics t-1/1: created on 1,2, led by 1
5 controller 7/its process is gone t-1/1: leader 2, was 1; leader epoch 1, was 0; in sync 2, was 1,2; eligible 1, was none`},
		"its neighbour": {Question{Topic: "t-1", Partition: number(0)}, created + `4 User:a/CreateTopics t-1/0: created on 1,2, led by 1`},
		"a topic":       {Question{Topic: "u"}, "4 User:b/CreateTopics u: created with id AAAAAAAAAAAAAAAAAAAAAg, settings: none\n6 User:a/DeleteTopics u: deleted"},
		"a broker":      {Question{Broker: number(1)}, "2 broker 1/it started broker 1: registered with epoch 2, fenced until it has caught up\n3 controller 7/it is there broker 1: unfenced\n5 controller 7/its process is gone broker 1: fenced"},
		"the cluster since": {Question{Cluster: true, Since: begin.Add(90 * time.Second)},
			"3 controller 7/it is there broker 1: unfenced\n5 controller 7/its process is gone broker 1: fenced"},
		"nothing": {Question{Topic: "x"}, ""},
	} {
		if got := ask(t, fs, c.q); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, c.want)
		}
	}
	enough := 0
	if err := Read(fs, "/h", Question{Cluster: true}, func(Entry) bool { enough++; return false }); err != nil || enough != 1 {
		t.Errorf("%d entries after the first was enough, %v", enough, err)
	}
}

// What is said of many partitions takes a line that names them, and is read as said of each; so is what earlier releases
// wrote, a change for each.
func TestManyPartitions(t *testing.T) {
	const many = 10_000
	created := &image.PartitionsRecord{Topic: id(1)}
	for i := range int32(many) {
		created.Partitions = append(created.Partitions, image.Partition{Replicas: []int32{i % 3, 3}, ISR: []int32{i % 3, 3}, Dirs: "\x00\x00", Leader: i % 3})
	}
	records := []image.Record{&image.TopicRecord{Name: "t", ID: id(1)}, created}
	img, _ := image.Apply(image.Empty(), 1, records)
	fs := vfs.NewMem()
	l, err := Open(fs, "/h", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Append(begin, Explain(begin, image.Empty(), img, records)); err != nil {
		t.Fatal(err)
	}
	if l.size > 6*many {
		t.Errorf("%d bytes tell of %d partitions", l.size, many)
	}
	if err := l.Append(begin, []Entry{{Index: 2, Changes: []Change{{Topic: "t", Partition: number(7), What: "as ever"}}}}); err != nil {
		t.Fatal(err)
	}
	head := "1 / t: created with id AAAAAAAAAAAAAAAAAAAAAQ, settings: none\n1 / t: 10000 partitions from number 0\n"
	if got, want := ask(t, fs, Question{Topic: "t", Partition: number(7)}), head+"1 / t/7: created on 1,3, led by 1\n2 / t/7: as ever"; got != want {
		t.Errorf("of a partition:\n%s\nwant\n%s", got, want)
	}
	if got := ask(t, fs, Question{Topic: "t"}); strings.Count(got, ": created on ") != many || !strings.Contains(got, "t/9999: created on 0,3, led by 0") {
		t.Errorf("of the topic there are %d lines", strings.Count(got, "\n"))
	}
	if got := ask(t, fs, Question{Topic: "u"}) + ask(t, fs, Question{Cluster: true}); got != "" {
		t.Errorf("of others: %s", got)
	}
}

// Files are begun anew in time, and end when they are too old; a torn line hides nothing but itself.
func TestFilesEnd(t *testing.T) {
	fs := vfs.NewMem()
	l, err := Open(fs, "/h", 48*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	day := func(i int) time.Time { return begin.Add(time.Duration(i) * 25 * time.Hour) }
	for i := range 8 {
		if err := l.Append(day(i), []Entry{{Time: day(i), Index: uint64(i), Changes: cluster("day")}}); err != nil {
			t.Fatal(err)
		}
	}
	names, err := segments(fs, "/h")
	if err != nil || len(names) != 3 {
		t.Fatalf("files %v, %v", names, err)
	}
	f, err := fs.Open(filepath.Join("/h", names[1]))
	if err != nil {
		t.Fatal(err)
	}
	size, _ := f.Size()
	if _, err := f.WriteAt([]byte(`{"time":"20`), size); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, fs, Question{Cluster: true}); strings.Count(got, "\n") != 2 {
		t.Errorf("after a torn line:\n%s", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	// Another life writes on in a file of its own.
	if l, err = Open(fs, "/h", 48*time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(day(8), []Entry{{Time: day(8), Index: 8, Changes: cluster("day")}}); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, fs, Question{Cluster: true}); !strings.Contains(got, "8 /") || !strings.Contains(got, "7 /") {
		t.Errorf("after another start:\n%s", got)
	}
}

// What answers the most is bounded, however busy the cluster is.
func TestFilesAreBounded(t *testing.T) {
	fs := vfs.NewMem()
	l, err := Open(fs, "/h", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	big := []Entry{{Time: begin, Changes: cluster("%s", strings.Repeat("x", 4<<20))}}
	for i := range 40 {
		if err := l.Append(begin.Add(time.Duration(i)*time.Millisecond), big); err != nil {
			t.Fatal(err)
		}
	}
	names, err := segments(fs, "/h")
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	for _, name := range names {
		info, err := fs.Stat(filepath.Join("/h", name))
		if err != nil {
			t.Fatal(err)
		}
		sum += info.Size
	}
	if sum > maxBytes+segmentBytes || sum < maxBytes/2 {
		t.Fatalf("%d bytes in %d files", sum, len(names))
	}
}

// Where a replica goes is told when it begins, when something else is wanted, and at the end.
func TestMovesAreTold(t *testing.T) {
	at := image.Partition{Replicas: []int32{1, 2}, ISR: []int32{1}, Leader: 1}
	begun, changed, ended := at, at, at
	begun.Replicas, begun.Moving = []int32{1, 3, 2}, &image.Reassignment{Adding: []int32{3}, Removing: []int32{2}}
	changed.Replicas, changed.Moving = begun.Replicas, &image.Reassignment{Adding: []int32{3}}
	ended.Replicas = begun.Replicas
	for _, c := range []struct {
		a, b image.Partition
		want string
	}{
		{at, begun, "replicas 1,3,2, was 1,2; adding 3, was none; removing 2, was none"},
		{begun, changed, "removing none, was 2"},
		{changed, ended, "adding none, was 3"},
	} {
		if got := difference(&c.a, &c.b); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
}
