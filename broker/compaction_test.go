package broker

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/storage"
	"github.com/streambus/streambus/storage/batch"
	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

// Each replica of a compacted topic keeps the latest record of each key, in much
// less room than all of them took, while brokers are killed at whatever they do.
func TestCompactedTopic(t *testing.T) {
	c := newProcesses(t, asBoth, asBoth, asBoth)
	for _, p := range c.nodes {
		p.settings = []string{"log.cleaner.backoff.ms=100"}
		c.launch(p)
	}
	for _, p := range c.nodes {
		c.started(p)
	}
	c.submit(c.as(900, c.clusterID()), &control.CreateTopic{
		Name: "t", ID: newUUID(), Partitions: 1, ReplicationFactor: 3, Configs: map[string]string{
			"min.insync.replicas": "2", "cleanup.policy": "compact", "segment.bytes": "1048576", "min.cleanable.dirty.ratio": "0.01",
		},
	})
	const keys, rounds = 50, 6
	rng := rand.New(rand.NewPCG(1, 2))
	latest := make(map[string]string)
	for round := range rounds {
		for range 8 {
			b := batchtest.Batch{LeaderEpoch: -1, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1, BaseTimestamp: 1_700_000_000_000}
			for range 40 {
				key, value := fmt.Sprint("key ", rng.IntN(keys)), fmt.Sprint(round, " ", rng.Uint64())
				latest[key] = value
				b.Records = append(b.Records, batchtest.Record{Key: []byte(key), Value: []byte(value + strings.Repeat(".", 5000))})
			}
			c.putBatch("t", b.Encode())
		}
		if round%2 == 1 {
			p := c.nodes[round/2%3]
			p.signal(os.Kill)
			<-p.exited
			c.launch(p)
			c.started(p)
		}
	}
	c.inSync("t", 3)
	c.eventually("all replicas are compacted", func() error {
		for _, p := range c.nodes {
			if n := size(p, "t-0"); n > 4<<20 {
				return fmt.Errorf("node %d has %d bytes", p.id, n)
			}
		}
		return nil
	})
	for _, p := range c.nodes {
		c.terminate(p)
	}
	for _, p := range c.nodes {
		v, err := storage.Verify(vfs.OS(), p.data)
		if err != nil || v.Worst() > storage.Note {
			t.Errorf("node %d: %v, %v", p.id, v.Findings, err)
		}
		kept := make(map[string]string)
		for _, file := range segments(t, p, "t-0") {
			err := storage.EachBatch(vfs.OS(), file, func(b storage.StoredBatch) error {
				return batch.Contents(b.Bytes, b.Header, func(r batch.Content) error {
					kept[string(r.Key)] = strings.TrimRight(string(r.Value), ".")
					return nil
				})
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		for key, value := range latest {
			if kept[key] != value {
				t.Errorf("node %d has %q for %s, the latest is %q", p.id, kept[key], key, value)
			}
		}
	}
}

func segments(t *testing.T, p *process, log string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(p.data, log, "*.log"))
	if err != nil || len(files) == 0 {
		t.Fatalf("node %d has no segments of %s: %v", p.id, log, err)
	}
	return files
}

// size is that of a log's segments, as far as they are there when they are looked at.
func size(p *process, log string) (n int64) {
	files, _ := filepath.Glob(filepath.Join(p.data, log, "*.log"))
	for _, file := range files {
		if info, err := os.Stat(file); err == nil {
			n += info.Size()
		}
	}
	return n
}
