// Package adopt brings topics of Apache Kafka into a data directory of this
// broker: the metadata says whose logs they are, storage copies them.
package adopt

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/streambus/streambus/broker/inspect"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage"
	"github.com/streambus/streambus/storage/vfs"
)

// Topics copies topics from a data directory of Apache Kafka into one of
// StreamBus whose metadata has them, with as many partitions, and whose logs do
// not. Neither may be in use. It tells out what it has copied.
func Topics(out io.Writer, dir, from string, topics []string) (err error) {
	// It is not made here: there would be no topics in it.
	id, err := storage.ReadIdentity(vfs.ReadOnly(), filepath.Join(dir, "meta.properties"))
	if err != nil {
		return fmt.Errorf("%s is no data directory of StreamBus: %w", dir, err)
	}
	d, err := storage.OpenDir(vfs.OS(), dir)
	if err != nil {
		return err
	}
	// What the checkpoints say of logs that are not opened here stays.
	defer func() { err = errors.Join(err, closeAsFound(d)) }()
	img, err := inspect.Metadata(dir)
	if err != nil {
		return err
	}
	source, err := storage.OpenSource(vfs.ReadOnly(), from)
	if err != nil {
		return err
	}
	logs, err := source.Logs()
	if err != nil {
		return err
	}
	if !source.Clean() {
		fmt.Fprintf(out, "%s was not left by an orderly stop: what is torn at the ends of logs is left behind\n", from)
	}
	for _, name := range topics {
		if err := onlyHere(img, name, id.NodeID); err != nil {
			return err
		}
		if err := topic(out, d, source, logs, img, name); err != nil {
			return err
		}
	}
	return nil
}

// closeAsFound leaves the directory as clean as it was.
func closeAsFound(d *storage.Dir) error {
	if d.Clean() {
		return d.Close(time.Now())
	}
	return d.CloseDirty()
}

// onlyHere checks that a topic is on one node alone: what is copied is in its
// directory, and another replica would be there without it, and might lead.
func onlyHere(img *image.Image, name string, node int32) error {
	t, ok := img.Topic(name)
	if !ok {
		return fmt.Errorf("StreamBus has no topic %s: start it, make the topic with as many partitions as Kafka has, and stop it", name)
	}
	for i := range t.NumPartitions() {
		if p, _ := t.Partition(i); !slices.Equal(p.Replicas, []int32{node}) {
			return fmt.Errorf("%s-%d is on brokers %v, and would be copied to broker %d alone: make the topic with replicas on no other", name, i, p.Replicas, node)
		}
	}
	return nil
}

// topic copies all partitions of one topic.
func topic(out io.Writer, d *storage.Dir, source *storage.Source, logs []string, img *image.Image, name string) error {
	t, _ := img.Topic(name)
	there := 0
	for _, l := range logs {
		if i := strings.LastIndexByte(l, '-'); l[:i] == name {
			there++
		}
	}
	if n := int(t.NumPartitions()); there != n {
		return fmt.Errorf("topic %s has %d partitions in StreamBus and %d in Kafka's directory", name, n, there)
	}
	for i := range t.NumPartitions() {
		log := fmt.Sprintf("%s-%d", name, i)
		if !slices.Contains(logs, log) {
			return fmt.Errorf("%s is not in Kafka's directory", log)
		}
		s, err := d.Adopt(source, log, t.ID, time.Now())
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "adopted %s: offsets %d to %d, %d batches in %d segments, %d bytes\n", log, s.Start, s.End, s.Batches, s.Segments, s.Bytes)
	}
	return nil
}
