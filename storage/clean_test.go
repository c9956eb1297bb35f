package storage

import (
	"testing"

	"github.com/streambus/streambus/storage/vfs"
)

// The broker epoch of an orderly stop is there at the next start and no longer, in Kafka's form.
func TestBrokerEpochOfACleanStop(t *testing.T) {
	fs := vfs.NewMem()
	const marker = "/data/" + cleanName
	open := func(want int64) *Dir {
		t.Helper()
		d, err := OpenDir(fs, "/data")
		if err != nil {
			t.Fatal(err)
		}
		if got := d.BrokerEpoch(); got != want {
			t.Errorf("epoch %d, want %d", got, want)
		}
		return d
	}
	end := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	end(open(-1).Close(noon)) // of no broker yet
	d := open(-1)
	d.SetBrokerEpoch(42)
	end(d.Close(noon))
	if b, err := ReadFile(fs, marker); err != nil || string(b) != `{"version":0,"brokerEpoch":42}` {
		t.Errorf("the marker is %q, %v", b, err)
	}
	end(open(42).Close(noon)) // it never registered
	d = open(42)
	d.SetBrokerEpoch(50)
	end(d.CloseDirty())
	end(open(-1).CloseDirty())
	for content, want := range map[string]int64{
		`{"version":0,"brokerEpoch":7}`:           7,
		`{"version":0,"brokerEpoch":7,"more":1}`:  7,
		`{"version":0}`:                           -1,
		`{"version":0,"brokerEpoch":-1}`:          -1,
		`{"version":0,"brokerEpoch":"7"}`:         -1,
		`{"version":"new","brokerEpoch":7}`:       -1,
		"":                                        -1,
		"\x00\x00":                                -1,
		`{"version":0,"brokerEpoch":7}{"trailing`: -1,
	} {
		end(ReplaceFile(fs, marker, []byte(content)))
		d := open(want)
		if !d.Clean() {
			t.Errorf("%q: the directory was closed", content)
		}
		end(d.CloseDirty())
	}
}

// A log that is found and not opened is not vouched for: under a broker's epoch by
// no stop, and after a crash by none at all.
func TestUnreadLogsAreNotVouchedFor(t *testing.T) {
	for _, c := range []struct {
		name      string
		crashed   bool // before, and else stopped under epoch 42
		read      bool
		under     int64 // the next broker's epoch; 0: it never registers
		wantClean bool
		want      int64
	}{
		{name: "all are read", read: true, under: 50, wantClean: true, want: 50},
		{name: "all are read after a crash", crashed: true, read: true, under: 50, wantClean: true, want: 50},
		{name: "one is not", under: 50, wantClean: true, want: -1},
		{name: "one is not, and no broker registered", wantClean: true, want: 42},
		{name: "one is not after a crash", crashed: true, under: 50, want: -1},
		{name: "one is not after a crash, and no broker registered", crashed: true, want: -1},
	} {
		fs := vfs.NewMem()
		d := openDir(t, fs, "/data")
		d.SetBrokerEpoch(42)
		l, _ := openLog(t, d, small)
		all := fill(t, l, 20)
		flush(t, d)
		if c.crashed {
			must(t, d.CloseDirty())
		} else {
			must(t, d.Close(noon))
		}

		d = openDir(t, fs, "/data")
		if c.read {
			openLog(t, d, small)
		}
		if c.under > 0 {
			d.SetBrokerEpoch(c.under)
		}
		must(t, d.Close(noon))

		d = openDir(t, fs, "/data")
		if d.Clean() != c.wantClean || d.BrokerEpoch() != c.want {
			t.Errorf("%s: clean %v under epoch %d, want %v and %d", c.name, d.Clean(), d.BrokerEpoch(), c.wantClean, c.want)
		}
		l, _ = openLog(t, d, small)
		wantBatches(t, readAll(t, l, 1000), all)
		must(t, d.Close(noon))
	}
}
