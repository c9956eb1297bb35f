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
