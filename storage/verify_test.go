package storage

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/streambus/streambus/storage/batch"
	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

// verify holds the files of a data directory against each other, and fails the
// test over a finding that is not tolerated.
func verify(t testing.TB, fs vfs.FS, path string, tolerated ...Severity) *Verification {
	t.Helper()
	v, err := Verify(fs, path)
	must(t, err)
	for _, f := range v.Findings {
		if !slices.Contains(tolerated, f.Severity) {
			t.Error(f)
		}
	}
	return v
}

// lived is a closed data directory with everything in it that there can be: two
// logs with segments, codecs, epochs, producers, deleted records.
func lived(t testing.TB) *vfs.Mem {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	must(t, d.Format(Identity{"cluster", 1, [16]byte{9}}))
	for p := range 2 {
		l, _, err := d.OpenLog(fmt.Sprint("t-", p), withTopic(small, 1), noon)
		must(t, err)
		for i := range 40 {
			b := batchtest.Values(strings.Repeat("v", i), "w").At(int64(1000+i%7*10+i)).From(int64(i%3), 0, int32(i/3*2)).Encode()
			if i%5 > 0 {
				b = batchtest.Compressed(b, batch.Compression{Codec: batch.Codec(i % 5), Level: 1})
			}
			_, err := l.Append(b, int32(i/11), noon)
			must(t, err)
		}
		flush(t, d)
		must(t, l.AdvanceStart(29, noon))
	}
	_, err := d.Sweep(noon)
	must(t, err)
	must(t, d.Close(noon))
	return fs
}

func TestVerify(t *testing.T) {
	fs := lived(t)
	v := verify(t, fs, "/data")
	if len(v.Logs) != 2 || !v.Clean {
		t.Fatalf("%+v", v)
	}
	if l := v.Logs[1]; l.Name != "t-1" || l.Start != 29 || l.End != 80 || l.Segments < 3 || l.Batches < 20 {
		t.Errorf("%+v", l)
	}
	log := "/data/t-0/" + logFiles(t, fs)[1]
	logs := logFiles(t, fs)
	last, err := ReadFile(fs, "/data/t-0/"+logs[len(logs)-1])
	must(t, err)
	for name, c := range map[string]struct {
		damage func(fs vfs.FS) error
		worst  Severity
		want   string
	}{
		"segment gone":   {func(fs vfs.FS) error { return fs.Remove(log) }, Damage, "the log before it ends at"},
		"segment cut":    {func(fs vfs.FS) error { return cutFile(fs, log, 5) }, Damage, log + " at position"},
		"index gone":     {func(fs vfs.FS) error { return fs.Remove(strings.TrimSuffix(log, ".log") + ".index") }, Stale, "missing beside its segment"},
		"index cut":      {func(fs vfs.FS) error { return cutFile(fs, strings.TrimSuffix(log, ".log")+".index", 1) }, Stale, "bytes are left, an entry has 8"},
		"time index cut": {func(fs vfs.FS) error { return cutFile(fs, strings.TrimSuffix(log, ".log")+".timeindex", 12) }, Stale, "largest timestamp"},
		"epochs":         {func(fs vfs.FS) error { return writeFile(fs, "/data/t-0/"+epochsName, []byte("0\n2\n1 5\n"), true) }, Stale, epochsName + " at position 2"},
		"points":         {func(fs vfs.FS) error { return cutFile(fs, "/data/"+recoveryPointsName, 1) }, Damage, recoveryPointsName + " at position 11"},
		"starts":         {func(fs vfs.FS) error { return cutFile(fs, "/data/"+startsName, 7) }, Damage, startsName + " at position"},
		"point beyond": {func(fs vfs.FS) error {
			return writeFile(fs, "/data/"+recoveryPointsName, logOffsets{"t-0": 81}.encode(), true)
		}, Damage, fmt.Sprintf("%s at position %d: the log ends at offset 80, and was durable to 81", logs[len(logs)-1], len(last))},
		"directory gone":    {func(fs vfs.FS) error { return removeAll(fs, "/data/t-1") }, Damage, "t-1 to be durable"},
		"identity":          {func(fs vfs.FS) error { return cutFile(fs, "/data/"+identityName, 5) }, Damage, identityName},
		"metadata":          {func(fs vfs.FS) error { return cutFile(fs, "/data/t-0/"+metadataName, 5) }, Damage, metadataName},
		"a start too early": {func(fs vfs.FS) error { return writeFile(fs, "/data/"+startsName, logOffsets{"t-0": 1}.encode(), true) }, Damage, "the log begins with it"},
	} {
		disk := vfs.NewMem()
		copyTo(t, fs, "/data", disk)
		must(t, c.damage(disk))
		v, err := Verify(disk, "/data")
		must(t, err)
		if said := fmt.Sprint(v.Findings); v.Worst() != c.worst || !strings.Contains(said, c.want) {
			t.Errorf("%s: %s", name, said)
		}
	}
}

func logFiles(t testing.TB, fs vfs.FS) []string {
	names, err := fs.List("/data/t-0")
	must(t, err)
	return slices.DeleteFunc(names, func(n string) bool { return !strings.HasSuffix(n, ".log") })
}

func cutFile(fs vfs.FS, name string, n int) error {
	b, err := ReadFile(fs, name)
	if err != nil {
		return err
	}
	return writeFile(fs, name, b[:len(b)-n], true)
}

func removeAll(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	for _, n := range names {
		err = errors.Join(err, fs.Remove(filepath.Join(dir, n)))
	}
	return errors.Join(err, fs.Remove(dir))
}

// TestVerifyFindsFlips turns over an eleventh of the bits of all files that a log has.
// Each is found, with the file's name.
func TestVerifyFindsFlips(t *testing.T) {
	fs := lived(t)
	names, err := fs.List("/data/t-0")
	must(t, err)
	states := 0
	for _, name := range names {
		if name == metadataName { // another id is an id
			continue
		}
		file := filepath.Join("/data/t-0", name)
		whole, err := ReadFile(fs, file)
		must(t, err)
		history, _ := decodeEpochs(whole)
		history = history.from(29)
		for bit := len(name) % 11; bit < len(whole)*8; bit += 11 * oneOf {
			b := bytes.Clone(whole)
			b[bit/8] ^= 1 << (bit % 8)
			must(t, writeFile(fs, file, b, true))
			v, err := Verify(fs, "/data")
			must(t, err)
			epoch, last := epochField(whole, bit/8, name)
			if epoch && last < 29 { // nobody asks whose deleted records were
				continue
			}
			if es, err := decodeEpochs(b); name == epochsName && err == nil && slices.Equal(es.from(29), history) {
				continue // from an offset on that is deleted
			}
			if v.Worst() < Stale || !strings.Contains(fmt.Sprint(v.Findings), file) && !epoch {
				t.Fatalf("byte %d bit %d of %s: %v", bit/8, bit%8, file, v.Findings)
			}
			states++
		}
		must(t, writeFile(fs, file, whole, true))
	}
	verify(t, fs, "/data")
	t.Logf("%d states", states)
}

// epochField tells whether a byte is of a batch's leader epoch, and which offset
// that batch ends with. No CRC covers it: it is held against the history of epochs,
// and that may be blamed.
func epochField(segment []byte, at int, name string) (epoch bool, last int64) {
	for strings.HasSuffix(name, ".log") && at >= 0 {
		h, _ := batch.DecodeHeader(segment)
		if at >= 12 && at < 16 {
			return true, h.LastOffset()
		}
		segment, at = segment[h.Length:], at-int(h.Length)
	}
	return false, 0
}

// TestVerifyOfACrash: what a crash explains is no damage.
func TestVerifyOfACrash(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	l, _ := openLog(t, d, small)
	fill(t, l, 20)
	flush(t, d)
	must(t, d.Checkpoint())
	fill(t, l, 20)
	must(t, d.CloseDirty())
	log := "/data/t-0/" + logFiles(t, fs)[len(logFiles(t, fs))-1]
	must(t, cutFile(fs, log, 5))
	v, err := Verify(fs, "/data")
	must(t, err)
	if v.Clean || v.Worst() != Note || len(v.Findings) != 1 || v.Findings[0].File != log {
		t.Errorf("%+v", v)
	}
	openLog(t, openDir(t, fs, "/data"), small)
	verify(t, fs, "/data")
}
