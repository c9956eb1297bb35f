package broker

import (
	"context"
	"errors"
	iofs "io/fs"
	"log/slog"
	"path/filepath"

	"github.com/streambus/streambus/raftmeta"
	"github.com/streambus/streambus/raftmeta/follow"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage"
	"github.com/streambus/streambus/storage/vfs"
)

const (
	// checkpointFile is within the data directory. A controller has its raft log
	// there, and no checkpoint.
	checkpointFile = "raftmeta/metadata.snapshot"
	// checkpointBytes of what came from controllers are worth a checkpoint: the next
	// start does not ask for them.
	checkpointBytes = 20 << 20
)

// checkpoint is the metadata on the disk of a broker that is no controller: it
// starts from it, and asks the controllers for what came later. Nothing depends on
// it; without it a start takes a whole snapshot from a controller.
type checkpoint struct {
	fs    vfs.FS
	file  string
	every int // bytes
	log   *slog.Logger

	bytes int               // that came since the last one; of who follows
	due   chan *image.Image // holds what is to be written
	index uint64            // of what is on the disk; of run, then of finish
}

func newCheckpoint(fs vfs.FS, dataDir string, log *slog.Logger) *checkpoint {
	return &checkpoint{fs: fs, file: filepath.Join(dataDir, checkpointFile), every: checkpointBytes, log: log, due: make(chan *image.Image, 1)}
}

// load is what there is to go on from. What cannot be used is removed: a
// controller has all of it.
func (c *checkpoint) load(clusterID string) *follow.State {
	data, err := storage.ReadFile(c.fs, c.file)
	if errors.Is(err, iofs.ErrNotExist) {
		return follow.New(clusterID)
	}
	var state *follow.State
	if err == nil {
		state, err = follow.Resume(clusterID, data)
	}
	if err != nil {
		c.log.Warn("the checkpoint of the metadata cannot be used and is removed; all of it is taken from a controller", "file", c.file, "reason", err)
		if err := c.fs.Remove(c.file); err != nil {
			c.log.Warn("the checkpoint of the metadata is left alone", "file", c.file, "error", err)
		}
		return follow.New(clusterID)
	}
	c.index = state.Index()
	c.log.Info("the metadata goes on from its checkpoint", "index", c.index)
	return state
}

// counted is a source that is counted. When it is asked for more, what came
// before is in the image.
func (c *checkpoint) counted(source raftmeta.Source, newest func() *image.Image) raftmeta.Source {
	return func(ctx context.Context, after uint64, maxBytes int) (follow.Batch, error) {
		if c.bytes >= c.every {
			select {
			case c.due <- newest():
				c.bytes = 0
			default: // the one before is not written yet
			}
		}
		batch, err := source(ctx, after, maxBytes)
		c.bytes += len(batch.Snapshot)
		for _, u := range batch.Units {
			c.bytes += len(u.Bytes)
		}
		return batch, err
	}
}

// run writes what is due until ctx ends: not who follows, who would be late.
func (c *checkpoint) run(ctx context.Context) {
	for {
		select {
		case img := <-c.due:
			c.write(img)
		case <-ctx.Done():
			return
		}
	}
}

// write puts an image in the place of the checkpoint. An image holds nothing that
// is not committed, so it is never wrong, whatever became of it later.
func (c *checkpoint) write(img *image.Image) {
	if img.Index() <= c.index {
		return
	}
	if err := storage.ReplaceFile(c.fs, c.file, img.Encode()); err != nil {
		c.log.Warn("a checkpoint of the metadata was not written; the next start takes more from a controller", "file", c.file, "error", err)
		return
	}
	c.index = img.Index()
}
