package raftmeta

import (
	"context"
	"time"
)

// reserveEvery is how often it is looked whether the log has its reserve: how soon that a disk is full is told, and how
// soon there is a reserve again once there is room.
const reserveEvery = 2 * time.Second

// keepReserve sees to the raft log's reserve until ctx ends, and says when there is none. It is beside the loop: making a
// reserve may take a while where a file system has to write it.
func (c *Controller) keepReserve(ctx context.Context) {
	ticker := time.NewTicker(reserveEvery)
	defer ticker.Stop()
	first := true
	for {
		bytes, err := c.log.Reserve()
		switch before := c.NoReserve(); {
		case err == nil && before != nil:
			c.cfg.Logger.Info("the raft log has its reserve for a full disk again")
		case err != nil && first:
			c.cfg.Logger.Warn("a full disk will end this node at once", "reason", err)
		case err != nil && before == nil:
			c.cfg.Logger.Error("the disk is full; the node ends when the space that was kept for the metadata is used up as well", "reason", err)
		}
		c.metrics.reserve.Set(float64(bytes))
		first = false
		c.unreserved.Store(&err)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// NoReserve says why the raft log has no reserve for a full disk, and what to do. It is nil as long as it has one.
func (c *Controller) NoReserve() error {
	if err := c.unreserved.Load(); err != nil {
		return *err
	}
	return nil
}
