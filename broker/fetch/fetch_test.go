package fetch

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/broker/replica"
	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage"
	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

// never is longer than any test takes.
const never = time.Hour

// disk is the replicas of one topic on a file system in memory.
type disk struct {
	t        *testing.T
	img      *image.Image
	replicas *replica.Manager
	topic    *image.Topic
	current  atomic.Pointer[image.Image] // img for other goroutines
}

// newDisk makes a topic that every append is visible in at once, unless
// configs say otherwise.
func newDisk(t *testing.T, fs vfs.FS, partitions int32, configs map[string]string) *disk {
	t.Helper()
	dir, err := storage.OpenDir(fs, "/data")
	if err != nil {
		t.Fatal(err)
	}
	m := replica.New(replica.Config{NodeID: 1, RetentionInterval: time.Hour, MaxLag: time.Hour}, dir, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	ctx, stop := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { m.Run(ctx) })
	t.Cleanup(func() { stop(); run.Wait(); dir.CloseDirty() })
	d := &disk{t: t, img: image.Empty(), replicas: m}
	d.do(&control.FormCluster{ClusterID: "c"})
	d.join(1)
	if configs == nil {
		configs = map[string]string{"streambus.flush": "os"}
	}
	d.do(&control.CreateTopic{Name: "t", ID: image.UUID{7}, Partitions: partitions, ReplicationFactor: 1, Configs: configs})
	return d
}

func (d *disk) do(cmd control.Command) {
	d.t.Helper()
	res, err := cmd.Eval(d.img, time.Now())
	if err != nil {
		d.t.Fatal(err)
	}
	img, delta := image.Apply(d.img, d.img.Index()+1, res.Records)
	d.replicas.Apply(img, delta)
	d.img = img
	d.current.Store(img)
	d.topic, _ = img.Topic("t")
}

// join registers an incarnation of the broker and unfences it: what the one
// before led, nobody leads in between.
func (d *disk) join(incarnation byte) {
	d.t.Helper()
	d.do(&control.RegisterBroker{ID: 1, Incarnation: image.UUID{incarnation}, Levels: image.OwnLevels, Dirs: []image.UUID{{9}}})
	b, _ := d.img.Broker(1)
	d.do(&control.UnfenceBroker{ID: 1, Epoch: b.Epoch})
}

func (d *disk) replica(index int32) *replica.Replica {
	d.t.Helper()
	r, err := d.replicas.Find(d.topic.ID, index)
	if err != nil {
		d.t.Fatal(err)
	}
	return r
}

// append writes one batch of one record, and returns its size.
func (d *disk) append(index int32, value string) int {
	d.t.Helper()
	b := batchtest.Values(value).Encode()
	if _, err := d.replica(index).Append(b, partition.AcksLeader, nil, time.Now()); err != nil {
		d.t.Fatal(err)
	}
	return len(b)
}

// ask reads a partition from an offset, without limits.
func (d *disk) ask(index int32, offset int64) Ask {
	return Ask{Replica: d.replica(index), Offset: offset, LeaderEpoch: -1, LastEpoch: -1, MaxBytes: math.MaxInt32}
}

// cut puts two batches into a partition, and reads it under a limit between
// them: only then does a pass look into the file. size is that of each.
func (d *disk) cut(index int32) (ask Ask, size int32) {
	size = int32(d.append(index, "x"))
	d.append(index, "x")
	ask = d.ask(index, 0)
	ask.MaxBytes = size + 1
	return ask, size
}

// start sends the answer to the channel that it returns.
func start(f *Fetcher, req Request) chan []Row {
	rows := make(chan []Row, 1)
	f.Start(context.Background(), req, func(r []Row) { rows <- r })
	return rows
}

// now is the answer to a request that need not wait.
func now(t *testing.T, f *Fetcher, req Request) []Row {
	t.Helper()
	select {
	case rows := <-start(f, req):
		return rows
	default:
		t.Fatal("the request waits")
		return nil
	}
}

// batches is how many batches each row has.
func batches(t *testing.T, rows []Row) []int {
	t.Helper()
	var counts []int
	for i := range rows {
		b, err := rows[i].Records.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		whole, err := batchtest.Split(b)
		if err != nil {
			t.Fatalf("row %d: %v", i, err)
		}
		counts = append(counts, len(whole))
	}
	return counts
}

func (f *Fetcher) waiting() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.parked)
}

func TestOneOffset(t *testing.T) {
	d := newDisk(t, vfs.NewMem(), 1, nil)
	d.join(2) // it leads in leader epoch 2
	for range 3 {
		d.append(0, "x")
	}
	for _, c := range []struct {
		name    string
		offset  int64
		epoch   int32
		err     error
		batches int
		hw      int64
	}{
		{"the start", 0, -1, nil, 3, 3},
		{"the middle", 1, -1, nil, 2, 3},
		{"the end", 3, -1, nil, 0, 3},
		{"beyond the end", 4, -1, replica.ErrOffsetOutOfRange, 0, -1},
		{"far beyond the end", math.MaxInt64, -1, replica.ErrOffsetOutOfRange, 0, -1},
		{"before the start", -1, -1, replica.ErrOffsetOutOfRange, 0, -1},
		{"far before the start", math.MinInt64, -1, replica.ErrOffsetOutOfRange, 0, -1},
		{"the epoch in force", 0, 2, nil, 3, 3},
		{"an older epoch", 0, 1, partition.ErrFencedEpoch, 0, -1},
		{"the oldest epoch", 0, 0, partition.ErrFencedEpoch, 0, -1},
		{"an epoch to come", 0, 3, partition.ErrUnknownEpoch, 0, -1},
		{"the epoch is judged before the offset", 9, 1, partition.ErrFencedEpoch, 0, -1},
	} {
		ask := d.ask(0, c.offset)
		ask.LeaderEpoch = c.epoch
		// With nothing to read only an error is worth an answer; waiting is refused.
		rows := now(t, New(math.MaxInt32, 10, false), Request{Asks: []Ask{ask}, MinBytes: 1, MaxBytes: math.MaxInt32})
		if got := batches(t, rows)[0]; !errors.Is(rows[0].Err, c.err) || got != c.batches || rows[0].HighWatermark != c.hw {
			t.Errorf("%s: %d batches, high watermark %d, error %v", c.name, got, rows[0].HighWatermark, rows[0].Err)
		}
		if wait := (Request{Asks: []Ask{ask}, MinBytes: 1, MaxBytes: math.MaxInt32, MaxWait: never}); c.err != nil {
			now(t, New(math.MaxInt32, 10, false), wait)
		}
	}
}

// What is not flushed is there and cannot be seen: neither an error nor data.
func TestUnflushedIsEmpty(t *testing.T) {
	var hold sync.Mutex
	fs := vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op, _ string) error {
		if op == vfs.OpSync || op == vfs.OpSyncDir || op == vfs.OpSyncAll {
			hold.Lock()
			defer hold.Unlock()
		}
		return nil
	})
	d := newDisk(t, fs, 1, map[string]string{})
	hold.Lock()
	d.append(0, "a")
	d.append(0, "b")
	f := New(math.MaxInt32, 10, false)
	for offset, out := range []error{nil, nil, nil, replica.ErrOffsetOutOfRange} {
		rows := now(t, f, Request{Asks: []Ask{d.ask(0, int64(offset))}, MinBytes: 1, MaxBytes: 1 << 20})
		want := int64(0)
		if out != nil {
			want = -1
		}
		if !errors.Is(rows[0].Err, out) || rows[0].Records.Len() != 0 || rows[0].HighWatermark != want || rows[0].LogStart != want {
			t.Errorf("offset %d: %+v", offset, rows[0])
		}
	}
	waits := start(f, Request{Asks: []Ask{d.ask(0, 1)}, MinBytes: 1, MaxBytes: 1 << 20, MaxWait: never})
	hold.Unlock()
	if rows := <-waits; rows[0].Err != nil || batches(t, rows)[0] != 1 || rows[0].HighWatermark != 2 {
		t.Errorf("after the flush: %+v", rows[0])
	}
}

func TestLimits(t *testing.T) {
	d := newDisk(t, vfs.NewMem(), 4, nil)
	var size int32
	for _, p := range []int32{0, 1, 3} { // partition 2 is empty
		for range 4 {
			size = int32(d.append(p, "0123456789"))
		}
	}
	const all = math.MaxInt32
	for _, c := range []struct {
		name   string
		asks   []int32 // partitions
		max    int32   // of the request
		each   int32   // of each partition
		server int32   // fetch.max.bytes
		want   []int
	}{
		{"no limit", []int32{0, 1, 2, 3}, all, all, all, []int{4, 4, 0, 4}},
		{"the request's limit, in its order", []int32{0, 1, 2, 3}, 5 * size, all, all, []int{4, 1, 0, 0}},
		{"the request's limit, in another order", []int32{3, 2, 1, 0}, 5 * size, all, all, []int{4, 0, 1, 0}},
		{"a byte short of a batch", []int32{0, 1}, 6*size - 1, all, all, []int{4, 1}},
		{"each partition's limit", []int32{0, 1, 3}, all, 2 * size, all, []int{2, 2, 2}},
		{"a byte short of a batch in each", []int32{0, 1}, all, 3*size - 1, all, []int{2, 2}},
		{"the broker's limit", []int32{0, 1}, all, all, 5 * size, []int{4, 1}},
		{"the first batch is larger than the request's limit", []int32{0, 1}, 1, all, all, []int{1, 0}},
		{"the first batch is larger than the partition's limit", []int32{0, 1, 3}, all, 1, all, []int{1, 0, 0}},
		{"the first batch is larger than the broker's limit", []int32{0, 1}, all, all, 1, []int{1, 0}},
		{"the first batch there is, behind an empty partition", []int32{2, 1, 0}, 1, 1, all, []int{0, 1, 0}},
		{"no bytes at all", []int32{0, 1}, 0, 0, all, []int{1, 0}},
		{"fewer than no bytes", []int32{0, 1}, math.MinInt32, math.MinInt32, all, []int{1, 0}},
		{"the same partition twice", []int32{0, 0}, all, all, all, []int{4, 4}},
	} {
		req := Request{MaxBytes: c.max, MinBytes: 1}
		for _, p := range c.asks {
			ask := d.ask(p, 0)
			ask.MaxBytes = c.each
			req.Asks = append(req.Asks, ask)
		}
		if got := batches(t, now(t, New(c.server, 10, false), req)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v batches, want %v", c.name, got, c.want)
		}
	}
}

// An error takes no room, and does not cost the others their records.
func TestErrorsAmongRecords(t *testing.T) {
	d := newDisk(t, vfs.NewMem(), 2, nil)
	d.append(1, "x")
	asks := []Ask{{Err: replica.ErrUnknownPartition}, d.ask(0, 5), d.ask(1, 0)}
	rows := now(t, New(math.MaxInt32, 10, false), Request{Asks: asks, MinBytes: math.MaxInt32, MaxBytes: 1, MaxWait: never})
	if rows[0].Err != replica.ErrUnknownPartition || rows[0].HighWatermark != -1 || rows[0].LogStart != -1 {
		t.Errorf("refused: %+v", rows[0])
	}
	if !errors.Is(rows[1].Err, replica.ErrOffsetOutOfRange) || rows[1].HighWatermark != -1 {
		t.Errorf("out of range: %+v", rows[1])
	}
	if batches(t, rows)[2] != 1 {
		t.Errorf("records: %+v", rows[2])
	}
}

func TestWhatIsNotWorthWaiting(t *testing.T) {
	d := newDisk(t, vfs.NewMem(), 1, nil)
	size := int32(d.append(0, "x"))
	for _, c := range []struct {
		name string
		req  Request
	}{
		{"nothing is asked for", Request{MinBytes: 1, MaxBytes: 1, MaxWait: never}},
		{"enough", Request{Asks: []Ask{d.ask(0, 0)}, MinBytes: size, MaxBytes: 1 << 20, MaxWait: never}},
		{"no minimum", Request{Asks: []Ask{d.ask(0, 1)}, MinBytes: 0, MaxBytes: 1 << 20, MaxWait: never}},
		{"a negative minimum", Request{Asks: []Ask{d.ask(0, 1)}, MinBytes: -1, MaxBytes: 1 << 20, MaxWait: never}},
		{"no time", Request{Asks: []Ask{d.ask(0, 1)}, MinBytes: 1, MaxBytes: 1 << 20}},
		{"less than no time", Request{Asks: []Ask{d.ask(0, 1)}, MinBytes: 1, MaxBytes: 1 << 20, MaxWait: -1}},
		{"a minimum above the request's limit", Request{Asks: []Ask{d.ask(0, 0)}, MinBytes: size + 1, MaxBytes: size, MaxWait: never}},
	} {
		t.Run(c.name, func(t *testing.T) { now(t, New(math.MaxInt32, 10, false), c.req) })
	}
	t.Run("a minimum above the broker's limit", func(t *testing.T) {
		now(t, New(size, 10, false), Request{Asks: []Ask{d.ask(0, 0)}, MinBytes: size + 1, MaxBytes: 1 << 20, MaxWait: never})
	})
}

// There is enough, and the limits let less than that through since batches are
// not divided: more records would not change the answer.
func TestLimitsBetweenBatches(t *testing.T) {
	d := newDisk(t, vfs.NewMem(), 2, nil)
	var size int32
	for range 4 {
		size = int32(d.append(0, "x"))
		d.append(1, "x")
	}
	limited := d.ask(0, 0)
	limited.MaxBytes = 3*size - 1
	other := d.ask(1, 0)
	other.MaxBytes = 3*size - 1
	f := New(math.MaxInt32, 10, false)
	for name, req := range map[string]Request{
		"the partition's": {Asks: []Ask{limited}, MinBytes: 3*size - 1, MaxBytes: math.MaxInt32, MaxWait: never},
		"the request's":   {Asks: []Ask{d.ask(0, 0)}, MinBytes: 3*size - 1, MaxBytes: 3*size - 1, MaxWait: never},
		"two partitions'": {Asks: []Ask{limited, other}, MinBytes: 6*size - 2, MaxBytes: math.MaxInt32, MaxWait: never},
	} {
		t.Run(name, func(t *testing.T) { now(t, f, req) })
	}
	t.Run("less than the minimum", func(t *testing.T) {
		rows := start(f, Request{Asks: []Ask{limited}, MinBytes: 3 * size, MaxBytes: math.MaxInt32, MaxWait: never})
		d.append(0, "x")
		if f.waiting() != 1 {
			t.Fatal("a partition counts for more than its limit")
		}
		f.Close()
		<-rows
	})
}

func TestWaitingUntilThereIsEnough(t *testing.T) {
	d := newDisk(t, vfs.NewMem(), 3, nil)
	f := New(math.MaxInt32, 10, false)
	size := int32(len(batchtest.Values("x").Encode()))
	rows := start(f, Request{Asks: []Ask{d.ask(0, 0), d.ask(1, 0)}, MinBytes: 3 * size, MaxBytes: 1 << 20, MaxWait: never})
	d.append(0, "x")
	d.append(2, "x") // not asked for
	d.append(1, "x")
	if f.waiting() != 1 {
		t.Fatal("two of three batches were enough")
	}
	d.append(1, "x")
	if got := batches(t, <-rows); !slices.Equal(got, []int{1, 2}) {
		t.Errorf("%v batches", got)
	}
	if f.waiting() != 0 {
		t.Error("an answered request is kept")
	}
}

// Every look that finds too little must leave the request to be told again.
func TestToldAgain(t *testing.T) {
	looked := make(chan struct{}, 1)
	fs := vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op, _ string) error {
		if op == vfs.OpReadAt {
			select {
			case looked <- struct{}{}:
			default:
			}
		}
		return nil
	})
	d := newDisk(t, fs, 2, nil)
	cut, size := d.cut(1)
	rows := start(New(math.MaxInt32, 10, false), Request{Asks: []Ask{d.ask(0, 0), cut}, MinBytes: 3*size + 2, MaxBytes: 1 << 20, MaxWait: never})
	<-looked // in Start
	d.append(0, "x")
	<-looked
	d.append(0, "x")
	d.append(0, "x")
	if got := batches(t, <-rows); !slices.Equal(got, []int{3, 1}) {
		t.Errorf("%v batches", got)
	}
}

// What is appended behind the first pass over its partition, and before the
// request watches it, is found all the same.
func TestAppendBetweenReadingAndWatching(t *testing.T) {
	var between func()
	fs := vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op, _ string) error {
		if op != vfs.OpReadAt { // the guard of the disk looks at it meanwhile
			return nil
		}
		if f := between; f != nil {
			between = nil
			f()
		}
		return nil
	})
	d := newDisk(t, fs, 2, nil)
	cut, size := d.cut(1)
	between = func() { d.append(0, "x") } // partition 0 was found empty, 1 is being read
	rows := start(New(math.MaxInt32, 10, false), Request{Asks: []Ask{d.ask(0, 0), cut}, MinBytes: 2 * size, MaxBytes: 1 << 20, MaxWait: never})
	if got := batches(t, <-rows); !slices.Equal(got, []int{1, 1}) {
		t.Errorf("%v batches", got)
	}
}

func TestWhatEndsAWait(t *testing.T) {
	t.Run("closing", func(t *testing.T) {
		d := newDisk(t, vfs.NewMem(), 1, nil)
		f := New(math.MaxInt32, 10, false)
		d.append(0, "x")
		rows := start(f, Request{Asks: []Ask{d.ask(0, 0)}, MinBytes: 1 << 19, MaxBytes: 1 << 20, MaxWait: never})
		f.Close()
		if got := batches(t, <-rows); got[0] != 1 {
			t.Errorf("what there is: %v", got)
		}
	})
	t.Run("the time", func(t *testing.T) {
		d := newDisk(t, vfs.NewMem(), 1, nil)
		f := New(math.MaxInt32, 10, false)
		d.append(0, "x")
		begun := time.Now()
		rows := <-start(f, Request{Asks: []Ask{d.ask(0, 0)}, MinBytes: 1 << 19, MaxBytes: 1 << 20, MaxWait: 30 * time.Millisecond})
		if took := time.Since(begun); took < 30*time.Millisecond || batches(t, rows)[0] != 1 {
			t.Errorf("%v batches after %v", batches(t, rows), took)
		}
	})
	t.Run("the disk", func(t *testing.T) {
		var broken atomic.Bool
		fs := vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op, _ string) error {
			if broken.Load() && (op == vfs.OpSync || op == vfs.OpSyncAll || op == vfs.OpSyncDir) {
				return errors.New("no")
			}
			return nil
		})
		d := newDisk(t, fs, 2, map[string]string{})
		f := New(math.MaxInt32, 10, false)
		rows := start(f, Request{Asks: []Ask{d.ask(0, 0)}, MinBytes: 1, MaxBytes: 1 << 20, MaxWait: never})
		broken.Store(true)
		d.append(1, "another partition of the directory")
		if got := (<-rows)[0]; !errors.Is(got.Err, replica.ErrStorage) {
			t.Errorf("%+v", got)
		}
	})
}

// Once closed the fetcher answers at once.
func TestClosed(t *testing.T) {
	d := newDisk(t, vfs.NewMem(), 1, nil)
	f := New(math.MaxInt32, 10, false)
	f.Close()
	now(t, f, Request{Asks: []Ask{d.ask(0, 0)}, MinBytes: 1, MaxBytes: 1 << 20, MaxWait: never})
}

// A request whose connection ends is forgotten and not answered.
func TestAbandoned(t *testing.T) {
	d := newDisk(t, vfs.NewMem(), 1, nil)
	f := New(math.MaxInt32, 10, false)
	ctx, cancel := context.WithCancel(context.Background())
	f.Start(ctx, Request{Asks: []Ask{d.ask(0, 0)}, MinBytes: 1, MaxBytes: 1 << 20, MaxWait: never},
		func([]Row) { t.Error("an abandoned request was answered") })
	f.mu.Lock()
	var w *waiting
	for w = range f.parked {
	}
	f.mu.Unlock()
	cancel()
	for over := false; !over; {
		w.mu.Lock()
		over = w.over
		w.mu.Unlock()
	}
	d.append(0, "x")
	w.look(true)
	if f.waiting() != 0 {
		t.Error("an abandoned request is kept")
	}
}

// Whoever looks at a waiting request while it is being set up must find it
// complete: appends, time-outs, closing connections and the fetcher's end come
// at any moment, and each request is answered once or abandoned.
func TestRacesOfSettingUp(t *testing.T) {
	const partitions = 64 // registering with all of them takes a while
	d := newDisk(t, vfs.NewMem(), partitions, nil)
	for round := range 300 {
		f := New(math.MaxInt32, 10, false)
		asks := make([]Ask, partitions)
		for i := range asks {
			rows := now(t, f, Request{Asks: []Ask{d.ask(int32(i), 0)}, MaxBytes: 1})
			asks[i] = d.ask(int32(i), rows[0].HighWatermark)
		}
		ctx, cancel := context.WithCancel(context.Background())
		answers := make(chan []Row, 2)
		disturbed := make(chan struct{})
		go func() {
			defer close(disturbed)
			switch round % 4 {
			case 0, 1:
				d.append(0, "x") // the partition that is watched first
			case 2:
				f.Close()
			case 3:
				cancel()
			}
		}()
		wait := never
		if round%4 == 1 {
			wait = time.Nanosecond
		}
		f.Start(ctx, Request{Asks: asks, MinBytes: 1, MaxBytes: 1 << 20, MaxWait: wait}, func(r []Row) { answers <- r })
		<-disturbed
		if round%4 != 3 {
			<-answers
		}
		f.Close() // waits for whoever looks
		cancel()
		if len(answers) != 0 && round%4 != 3 {
			t.Fatal("a request was answered twice")
		}
		if f.waiting() != 0 {
			t.Fatal("a request is kept")
		}
	}
}

// The answer is written by hand, and must be what kmsg would have written.
func TestEncodingAgreesWithKmsg(t *testing.T) {
	d := newDisk(t, vfs.NewMem(), 3, nil)
	for i := range 20 {
		d.append(0, string(bytes.Repeat([]byte("v"), i*50)))
		d.append(1, "short")
	}
	code := func(err error) protocol.ErrorCode {
		if err == nil {
			return protocol.None
		}
		return protocol.OffsetOutOfRange
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for version := int16(4); version <= 18; version++ {
		for range 100 {
			req := kmsg.NewPtrFetchRequest()
			req.Version, req.IsolationLevel = version, int8(rng.IntN(2))
			fetch := Request{MaxBytes: rng.Int32N(20_000), MinBytes: 0}
			for range rng.IntN(4) {
				topic := kmsg.NewFetchRequestTopic()
				topic.Topic = string(bytes.Repeat([]byte("n"), len(req.Topics)+4*rng.IntN(80)))
				topic.TopicID = [16]byte{byte(rng.IntN(256)), 15: 1}
				topic.TopicID[1] = byte(len(req.Topics))
				for range 1 + rng.IntN(4) {
					p := kmsg.NewFetchRequestTopicPartition()
					p.Partition = rng.Int32N(1000)
					topic.Partitions = append(topic.Partitions, p)
					ask := d.ask(rng.Int32N(3), rng.Int64N(25)) // beyond 20 is an error
					ask.MaxBytes = rng.Int32N(20_000)
					if rng.IntN(8) == 0 {
						ask = Ask{Err: replica.ErrUnknownPartition}
					}
					fetch.Asks = append(fetch.Asks, ask)
				}
				req.Topics = append(req.Topics, topic)
			}
			rows := now(t, New(math.MaxInt32, 10, false), fetch)
			for i := range rows {
				if version >= 12 && rng.IntN(5) == 0 {
					rows[i].Diverging = Divergence{true, rng.Int32N(9), rng.Int64N(99)}
				}
			}
			want := kmsgAnswer(t, req, rows, code)
			a := Answer{Rows: rows}
			for _, topic := range req.Topics {
				for _, p := range topic.Partitions {
					a.Names = append(a.Names, Name{topic.Topic, topic.TopicID, p.Partition})
				}
			}
			answer := Encode(version, req.IsolationLevel, a, code)
			got := bytes.NewBuffer(slices.Clone(answer.Head))
			for _, p := range answer.Parts {
				before := got.Len()
				if n, err := p.WriteTo(got); err != nil || n != p.Len() || got.Len()-before != int(n) {
					t.Fatalf("a part of %d bytes wrote %d, %v", p.Len(), n, err)
				}
			}
			if !bytes.Equal(got.Bytes(), want.AppendTo(nil)) {
				t.Fatalf("version %d, %d rows:\n%x\nkmsg writes\n%x", version, len(rows), got.Bytes(), want.AppendTo(nil))
			}
			decoded := kmsg.NewPtrFetchResponse()
			decoded.Version = version
			if err := decoded.ReadFrom(got.Bytes()); err != nil || !bytes.Equal(decoded.AppendTo(nil), got.Bytes()) {
				t.Fatalf("version %d is not read back: %v", version, err)
			}
		}
	}
}

func kmsgAnswer(t *testing.T, req *kmsg.FetchRequest, rows []Row, code func(error) protocol.ErrorCode) *kmsg.FetchResponse {
	resp := req.ResponseKind().(*kmsg.FetchResponse)
	for _, topic := range req.Topics {
		rt := kmsg.NewFetchResponseTopic()
		rt.Topic, rt.TopicID = topic.Topic, topic.TopicID
		for _, p := range topic.Partitions {
			records, err := rows[0].Records.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			rp := kmsg.NewFetchResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p.Partition, int16(code(rows[0].Err))
			rp.HighWatermark, rp.LastStableOffset, rp.LogStartOffset = rows[0].HighWatermark, rows[0].HighWatermark, rows[0].LogStart
			if req.IsolationLevel == 1 || rows[0].Replica == nil {
				rp.AbortedTransactions = []kmsg.FetchResponseTopicPartitionAbortedTransaction{}
			}
			rp.RecordBatches = append([]byte{}, records...)
			if d := rows[0].Diverging; d.Found {
				rp.DivergingEpoch.Epoch, rp.DivergingEpoch.EndOffset = d.Epoch, d.End
			}
			rt.Partitions = append(rt.Partitions, rp)
			rows = rows[1:]
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}
