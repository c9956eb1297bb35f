package inspect

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage"
	"github.com/streambus/streambus/storage/batch"
	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

var noon = time.UnixMilli(1_800_000_000_000)

// lived is a data directory with a log of two segments.
func lived(t testing.TB) *vfs.Mem {
	t.Helper()
	fs := vfs.NewMem()
	d, err := storage.OpenDir(fs, "/data")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Format(storage.Identity{ClusterID: "cluster", NodeID: 1, DirectoryID: [16]byte{9}}); err != nil {
		t.Fatal(err)
	}
	l, _, err := d.OpenLog("t-0", storage.LogConfig{SegmentBytes: 600, IndexIntervalBytes: 100, SegmentIndexBytes: 1000, TopicID: [16]byte{1}}, noon)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		b := batchtest.Values("a value", "another").At(int64(1000+i)).From(7, 0, int32(2*i))
		b.Records[0].Key = []byte("key")
		b.Records[0].Headers = []batchtest.Header{{Key: "h", Value: []byte("x")}}
		raw := b.Encode()
		if i%2 == 1 {
			raw = batchtest.Compressed(raw, batch.Compression{Codec: batch.Zstd, Level: 3})
		}
		if _, err := l.Append(raw, int32(i/5), noon); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(noon); err != nil {
		t.Fatal(err)
	}
	return fs
}

// said is what an inspection wrote, and how much damage it counted.
func said(t *testing.T, fs vfs.FS, asJSON bool, do func(*Inspector) error) (string, int) {
	t.Helper()
	var out bytes.Buffer
	i := New(fs, &out, asJSON)
	if err := do(i); err != nil {
		t.Error(err)
	}
	return out.String(), i.Damaged
}

const segment = "/data/t-0/00000000000000000000"

func TestWords(t *testing.T) {
	fs := lived(t)
	for name, c := range map[string]struct {
		do   func(*Inspector) error
		want []string
	}{
		"segment": {func(i *Inspector) error { return i.Segment(segment+".log", SegmentOptions{}) }, []string{
			"kind=batch position=0 ", " base_offset=2 last_offset=3 count=2 leader_epoch=0 codec=zstd ", "producer_id=7 producer_epoch=0 base_sequence=2", "crc_ok=true", "kind=segment"}},
		"records": {func(i *Inspector) error { return i.Segment(segment+".log", SegmentOptions{Records: true}) }, []string{
			"kind=record offset=0 timestamp=1000 key_size=3 value_size=7 headers=1\n", "kind=record offset=3 timestamp=1001 key_size=-1 value_size=7 headers=0\n"}},
		"contents": {func(i *Inspector) error { return i.Segment(segment+".log", SegmentOptions{Contents: true}) }, []string{
			`key=key value="a value" header.h=x`}},
		"index":      {func(i *Inspector) error { return i.Index(segment+".index", true) }, []string{"kind=entry offset=5 position=205"}},
		"time index": {func(i *Inspector) error { return i.Index(segment+".timeindex", true) }, []string{"kind=entry timestamp=1002 offset=5"}},
		"points": {func(i *Inspector) error { return i.Checkpoint("/data/recovery-point-offset-checkpoint") }, []string{
			"kind=offset log=t-0 offset=16"}},
		"epochs":    {func(i *Inspector) error { return i.Checkpoint("/data/t-0/leader-epoch-checkpoint") }, []string{"kind=epoch epoch=1 start_offset=10"}},
		"partition": {func(i *Inspector) error { return i.Checkpoint("/data/t-0/partition.metadata") }, []string{"topic_id=AQAAAAAAAAAAAAAAAAAAAA"}},
		"identity":  {func(i *Inspector) error { return i.Checkpoint("/data/meta.properties") }, []string{"cluster_id=cluster node_id=1"}},
		"producers": {func(i *Inspector) error { return i.Snapshot("/data/t-0/00000000000000000016.snapshot") }, []string{
			"producer_id=7 producer_epoch=0 first_sequence=14 last_sequence=15 first_offset=14 last_offset=15"}},
		"directory": {func(i *Inspector) error { return i.Dir("/data") }, []string{
			"kind=log name=t-0 start_offset=0 end_offset=16 ", "clean_shutdown=true logs=1 damaged=0"}},
	} {
		text, damaged := said(t, fs, false, c.do)
		for _, want := range c.want {
			if !strings.Contains(text, want) || damaged != 0 {
				t.Errorf("%s: %d damaged, no %q in\n%s", name, damaged, want, text)
			}
		}
		lines, _ := said(t, fs, true, c.do)
		for line := range strings.Lines(lines) {
			if v := map[string]any{}; json.Unmarshal([]byte(line), &v) != nil || v["kind"] == nil {
				t.Errorf("%s: %s", name, line)
			}
		}
	}
}

// Whatever a record holds, it comes out whole, and does nothing to a terminal.
func TestContentsAreWhole(t *testing.T) {
	fs := lived(t)
	b := batchtest.Values("a\x1b[31m\x9b", "")
	b.Records[0].Key, b.Records[0].Headers = []byte("\xff"), []batchtest.Header{{Key: "h", Value: []byte("\xfe")}}
	file, err := fs.Create("/data/t-0/other.log")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt(b.Encode(), 0); err != nil {
		t.Fatal(err)
	}
	show := func(i *Inspector) error { return i.Segment("/data/t-0/other.log", SegmentOptions{Contents: true}) }
	for asJSON, want := range map[bool]string{
		false: `key="\xff" value="a\x1b[31m\x9b" header.h="\xfe"`,
		true:  `"key_base64":"/w==","value_base64":"YRtbMzFtmw==","header.h_base64":"/g=="`,
	} {
		if text, _ := said(t, fs, asJSON, show); !strings.Contains(text, want) {
			t.Errorf("json %v: no %s in\n%s", asJSON, want, text)
		}
	}
}

func TestWhatIsNotAFileOfOurs(t *testing.T) {
	i := New(lived(t), io.Discard, false)
	for name, err := range map[string]error{
		"an index of another name":      i.Index("/data/t-0/x", false),
		"an index of aborted":           i.Index("/data/t-0/00000000000000000000.txnindex", false),
		"no segment":                    i.Segment("/data/t-0/x.log", SegmentOptions{}),
		"a checkpoint of another name":  i.Checkpoint("/data/x"),
		"a directory that is not there": i.Dir("/elsewhere"),
		"the directory of a log":        i.Dir("/data/t-0"),
	} {
		if err == nil {
			t.Errorf("%s was shown", name)
		}
	}
}

// FuzzFiles shows files of any content: damage is a line, and never a panic.
func FuzzFiles(f *testing.F) {
	fs := lived(f)
	files := []string{segment + ".log", segment + ".index", segment + ".timeindex", "/data/t-0/00000000000000000016.snapshot",
		"/data/t-0/leader-epoch-checkpoint", "/data/t-0/partition.metadata", "/data/recovery-point-offset-checkpoint", "/data/meta.properties"}
	for i, name := range files {
		file, err := fs.Open(name)
		if err != nil {
			f.Fatal(err)
		}
		size, _ := file.Size()
		b := make([]byte, size)
		if _, err := file.ReadAt(b, 0); err != nil && size > 0 {
			f.Fatal(err)
		}
		f.Add(uint8(i), b)
	}
	f.Fuzz(func(t *testing.T, which uint8, content []byte) {
		name := files[int(which)%len(files)]
		file, err := fs.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt(content, 0); err != nil {
			t.Fatal(err)
		}
		i := New(fs, io.Discard, which%2 == 0)
		switch int(which) % len(files) {
		case 0:
			err = i.Segment(name, SegmentOptions{Contents: true, Verify: true})
		case 1, 2:
			err = i.Index(name, true)
		case 3:
			err = i.Snapshot(name)
		default:
			err = i.Checkpoint(name)
		}
		if err != nil && !strings.Contains(err.Error(), "version") { // of meta.properties
			t.Fatal(err)
		}
		if err := i.Dir("/data"); err != nil && !strings.Contains(err.Error(), "version") {
			t.Fatal(err)
		}
	})
}

// The checkpoint of a broker without a raft log is shown, and damage to it is a line.
func TestCheckpointOfMetadata(t *testing.T) {
	fs := lived(t)
	const file = "/data/raftmeta/metadata.snapshot"
	put := func(b []byte) {
		t.Helper()
		if err := storage.ReplaceFile(fs, file, b); err != nil {
			t.Fatal(err)
		}
	}
	if err := fs.MkdirAll("/data/raftmeta"); err != nil {
		t.Fatal(err)
	}
	img, _ := image.Apply(image.Empty(), 7, []image.Record{&image.ClusterRecord{ClusterID: "elsewhere", Level: 1}})
	put(img.Encode())
	for want, show := range map[string]func(*Inspector) error{
		"kind=checkpoint file=" + file + " index=7": func(i *Inspector) error { return i.Dir("/data") },
		"it is of another cluster":                  func(i *Inspector) error { return i.Dir("/data") },
		"kind=metadata file=" + file + " index=7":   func(i *Inspector) error { return i.Snapshot(file) },
	} {
		if text, _ := said(t, fs, false, show); !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	put(append(img.Encode(), 1))
	for _, show := range []func(*Inspector) error{
		func(i *Inspector) error { return i.Dir("/data") },
		func(i *Inspector) error { return i.Snapshot(file) },
	} {
		if text, damaged := said(t, fs, false, show); damaged != 1 || !strings.Contains(text, "kind=damage file="+file) {
			t.Errorf("%d are damaged:\n%s", damaged, text)
		}
	}
}
