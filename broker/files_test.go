package broker

import (
	"bytes"
	"log/slog"
	"math"
	"strings"
	"testing"
)

func TestFilesAreDivided(t *testing.T) {
	for limit, want := range map[uint64]fileBudget{
		64:             {16, 16},
		256:            {64, 64},
		1024:           {256, 384},
		20_000:         {4096, 11_680},
		1 << 20:        {4096, 1<<20 - 8320},
		math.MaxUint64: {4096, math.MaxInt32 - 8320},
	} {
		got := divideFiles(limit)
		if got != want {
			t.Errorf("of %d: %+v, want %+v", limit, got, want)
		}
		if uint64(got.logs+got.connections) >= limit {
			t.Errorf("of %d: %+v is more than all", limit, got)
		}
	}
}

func TestFewFilesAreExplained(t *testing.T) {
	for _, c := range []struct {
		maxConnections int64
		limit          uint64
		connections    int
		said           []string
	}{
		{math.MaxInt32, 1024, 384, []string{"ulimit -Hn", "limit=1024", "connections=384"}},
		{math.MaxInt32, fewFiles, 4872, nil},
		{100, 1024, 100, []string{"ulimit -Hn"}},
		{5000, 20_000, 5000, nil},
		{20_000, 20_000, 20_000, []string{"max.connections is more", "room=11680"}},
	} {
		var log bytes.Buffer
		got := limitFiles(c.maxConnections, c.limit, slog.New(slog.NewTextHandler(&log, nil)))
		if got.connections != c.connections {
			t.Errorf("%+v: %d connections", c, got.connections)
		}
		for _, want := range c.said {
			if !strings.Contains(log.String(), want) {
				t.Errorf("%+v: no %q in %s", c, want, log.String())
			}
		}
		if c.said == nil && log.Len() > 0 {
			t.Errorf("%+v: %s", c, log.String())
		}
	}
}
