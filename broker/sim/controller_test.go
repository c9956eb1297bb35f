package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"strings"
	"time"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/follow"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/liveness"
	"github.com/streambus/streambus/raftmeta/office"
	"github.com/streambus/streambus/raftmeta/quorum"
	"github.com/streambus/streambus/raftmeta/wal"
	"github.com/streambus/streambus/raftmeta/wal/memwal"
)

const (
	clusterID = "sim"
	tick      = 100 * time.Millisecond
	maxInbox  = 4096
	maxUnits  = 64 << 10 // bytes of units in one answer to a broker
)

// controller is a raft node with what its shell does: it writes, sends, publishes
// and holds the office.
type controller struct {
	process
	raftID uint64
	node   int32
	disk   *memwal.Log
	full   bool              // its disk
	flip   *wal.CorruptError // what the next start must be refused with
	core   *quorum.Core
	office *office.Office
	wake   int64

	writing *wal.Write // until it is durable the node does nothing else
	inbox   []func()

	units  []follow.Unit
	base   uint64 // index that the first of units follows
	polls  []poll
	mirror mirror
	since  int // units since the last snapshot
	saving bool
	seen   quorum.Status
}

// poll is a broker that waits for units.
type poll struct {
	after  uint64
	answer func(follow.Batch)
	until  int64
}

// start begins a life on what the disk holds.
func (c *controller) start() {
	w := c.w
	s, err := c.disk.Load()
	switch {
	case c.flip != nil:
		c.refused(err)
		return
	case err != nil:
		w.broken("%s cannot start: %v", c.name, err)
		return
	case c.full:
		c.disk.Fail(errFull)
		w.stats["starts without room"]++
	}
	c.up, c.pausedUntil = true, 0
	c.life++
	var origin image.UUID
	binary.BigEndian.PutUint64(origin[:], w.load.Uint64())
	w.oracle.restarted(c, &s)
	c.core, err = quorum.New(quorum.Config{
		RaftID: s.RaftID, ClusterID: clusterID, Origin: origin, HardState: s.HardState, Snapshot: s.Snapshot, Entries: s.Entries,
		Logger: &raft.DefaultLogger{Logger: stdlog.New(io.Discard, "", 0)},
	})
	if err != nil {
		w.broken("%s cannot start: %v", c.name, err)
		return
	}
	c.office = office.New(office.Config{NodeID: c.node, RaftID: c.raftID, Balance: 5 * time.Second, Unclean: 5 * time.Second}, c.core)
	c.writing, c.inbox, c.polls, c.units, c.saving, c.since = nil, nil, nil, nil, false, 0
	c.seen = quorum.Status{}
	c.base = c.core.Image().Index()
	c.mirror.load(&s)
	w.tell("%s starts: snapshot %d, last %d", c.name, s.Snapshot.GetMetadata().GetIndex(), c.mirror.last())
	c.in(time.Duration(w.chance.Int64N(int64(tick))), "tick", c.tick)
	if c.raftID > 1000 {
		c.join()
	}
	c.turn()
}

// crash loses what is in memory, and of the disk what was not synced.
func (c *controller) crash() {
	if !c.up {
		return
	}
	c.w.tell("%s crashes", c.name)
	if c.writing != nil && c.w.disk.IntN(2) == 0 {
		_ = c.save(*c.writing) // it was, and nobody heard of it
	}
	c.up, c.core = false, nil
	c.disk = c.disk.Crash(c.w.disk)
}

func (c *controller) tick() {
	c.input(func() {
		c.hold(c.core.Tick())
		c.office.Tick(c.clock())
	})
	c.in(tick, "tick", c.tick)
}

// input hands something to the node, once it is not busy writing.
func (c *controller) input(do func()) {
	if c.writing != nil {
		if len(c.inbox) < maxInbox {
			c.inbox = append(c.inbox, do)
		}
		return
	}
	do()
	c.turn()
}

// turn is the loop around the core, up to the next write that takes time.
func (c *controller) turn() {
	w := c.w
	if !c.up { // what it was given last was its end
		return
	}
	c.hold(c.core.Propose(c.clock()))
	p, ok, err := c.core.Ready()
	switch {
	case err != nil:
		w.broken("%s: %v", c.name, err)
	case ok:
		c.write(wal.Write(p))
	default:
		c.keepOffice()
		c.supervise()
	}
}

// write begins one. The node does nothing else until it is done.
func (c *controller) write(p wal.Write) {
	w := c.w
	c.writing = &p
	var d int64
	if p.Sync {
		d = w.disk.Int64N(w.plan.diskMicroseconds * 1000)
		w.stats["syncs"]++
		if w.plan.stalls && !w.healed && w.disk.IntN(1000) == 0 {
			d = sec + w.disk.Int64N(4*sec)
			w.stats["stalls of a sync"]++
			w.tell("%s: its disk stalls for %.1f s", c.name, float64(d)/1e9)
		}
	}
	c.at(w.now+d, "written", c.written)
}

func (c *controller) save(p wal.Write) error {
	err := c.disk.Save(p)
	if err == nil {
		c.mirror.save(p)
	}
	return err
}

// written goes on behind a write.
func (c *controller) written() {
	w := c.w
	err := c.save(*c.writing)
	c.writing = nil
	if err != nil {
		c.fail(err)
		return
	}
	done, err := c.core.Advance()
	if err != nil {
		w.broken("%s: %v", c.name, err)
		return
	}
	for _, m := range done.Messages {
		c.send(m)
	}
	if done.Restored {
		c.units, c.base = nil, c.core.Image().Index()
		w.stats["snapshots installed"]++
		w.oracle.image(c.name, c.core.Image(), true)
	}
	for _, u := range done.Units {
		w.oracle.unit(c.name, u.Index, u.Bytes)
		c.units = append(c.units, follow.Unit(u))
		c.since++
	}
	if len(done.Units) > 0 {
		w.oracle.image(c.name, c.core.Image(), false)
		for len(c.units) > 40 {
			c.base, c.units = c.units[0].Index, c.units[1:]
		}
		c.servePolls()
	}
	w.oracle.status(c)
	c.keepOffice()
	c.hold(done.Answers)
	c.snapshot()
	for c.up && c.writing == nil && len(c.inbox) > 0 && w.failure == "" {
		do := c.inbox[0]
		c.inbox = c.inbox[1:]
		do()
		c.turn()
	}
	if c.writing == nil && w.failure == "" {
		c.turn()
	}
}

// send carries a raft message. A snapshot is encoded when it leaves.
func (c *controller) send(m quorum.Message) {
	w := c.w
	w.oracle.message(c, m.Data)
	to := w.byRaftID(m.To)
	if to == nil {
		return
	}
	var data []byte
	if m.Snapshot != nil {
		data = m.Snapshot.Encode()
		w.stats["snapshots sent"]++
	}
	report := func(ok bool) {
		life := c.life
		w.after(1, "report", func() {
			if c.up && c.life == life {
				c.at(w.now, "report", func() {
					c.input(func() {
						if data != nil {
							c.core.SnapshotSent(m.To, ok)
						} else if !ok {
							c.core.Unreachable(m.To)
						}
					})
				})
			}
		})
	}
	reported := false
	w.net.send(&c.process, &to.process, "raft", func() {
		if data != nil && !reported {
			reported = true
			report(true)
		}
		to.input(func() {
			var err error
			if data != nil {
				err = to.core.StepSnapshot(m.Data, data)
			} else {
				err = to.core.Step(m.Data)
			}
			switch mine := to.raftID == m.To; {
			case !mine && err == nil:
				w.broken("%s took a message for raft id %d, which its lost disk had", to, m.To)
			case mine && err != nil && !errors.Is(err, raft.ErrStepPeerNotFound):
				w.broken("%s: a message from %s: %v", to.name, c.name, err)
			}
		})
	}, func() { report(false) })
}

func (w *world) byRaftID(id uint64) *controller {
	for _, c := range w.controllers {
		if c.raftID == id {
			return c
		}
	}
	return nil
}

// snapshot writes one when enough has happened, and forgets the log behind it.
func (c *controller) snapshot() {
	if c.since < c.w.plan.snapshotEvery || c.saving {
		return
	}
	snap, img := c.core.Snapshot()
	if snap == nil {
		return
	}
	c.since, c.saving = 0, true
	c.at(c.w.now+c.w.disk.Int64N(200*ms), "snapshot", func() {
		snap.Data = img.Encode()
		c.w.oracle.snapshot(c, snap.GetMetadata())
		c.saving = false
		if err := c.disk.SaveSnapshot(snap); err != nil { // the log grows until the next one
			c.w.stats["snapshots that failed"]++
			return
		}
		c.input(func() {
			to, err := c.core.Compact(snap, c.w.plan.keepEntries, 16<<20)
			if err == nil && to > 0 {
				c.mirror.compact(to)
				c.w.stats["compactions"]++
				if err := c.disk.Compact(to); err != nil {
					c.fail(err)
					return
				}
			}
			if err != nil {
				c.w.broken("%s: compacting: %v", c.name, err)
			}
		})
	})
}

// keepOffice keeps the office in step with the core.
func (c *controller) keepOffice() {
	held := c.office.Held()
	c.answer(c.office.Take(c.clock()))
	switch {
	case c.office.Held() && !held:
		c.w.tell("%s takes office, term %d, index %d", c.name, c.core.Status().Term, c.core.Image().Index())
		c.w.stats["offices"]++
		c.wake = 0
	case !c.office.Held() && held:
		c.w.tell("%s leaves office", c.name)
	}
}

// hold hands out answers, but for those that brokers have to see first.
func (c *controller) hold(answers []quorum.Answer) {
	for _, a := range answers {
		if r, ok := a.Reply.(*control.BrokerProgress); ok && r.More {
			c.w.stats["commands with more to do"]++
		}
	}
	c.answer(c.office.Hold(c.clock(), answers))
}

func (c *controller) answer(answers []quorum.Answer) {
	for _, a := range answers {
		a.Token.(func(quorum.Answer))(a)
	}
}

// supervise does what the office asks for.
func (c *controller) supervise() {
	e := c.office.Supervise(c.clock())
	c.answer(e.Released)
	for _, p := range e.Probes {
		c.probe(p)
	}
	for _, r := range e.Asked {
		switch x := r.Command.(type) {
		case *control.FenceBroker:
			c.w.tell("%s fences broker %d: %s", c.name, x.ID, x.Reason)
			c.w.stats["fences"]++
			if reg, ok := c.core.Image().Broker(x.ID); ok && strings.HasPrefix(x.Reason, "no heartbeat") {
				b := c.w.homes[reg.Incarnation]
				b.silent = max(b.silent, c.w.now-b.leased)
			}
		case *control.UnfenceBroker:
			c.w.stats["unfences"]++
		case *control.BeginControlledShutdown:
			c.w.stats["controlled shutdowns"]++
		}
	}
	if len(e.Changed.Promote) > 0 {
		c.w.stats["members replaced"]++
	}
	if at := max(c.w.now, c.when(e.Wake)); !e.Wake.IsZero() && (c.wake <= c.w.now || at < c.wake) {
		c.wake = at
		c.at(at, "office", func() { c.input(func() {}) })
	}
}

func (c *controller) probe(p office.Probe) {
	w := c.w
	to := w.homes[p.Incarnation].listener()
	w.stats["probes"]++
	found := func(f liveness.Finding, who image.UUID) {
		c.input(func() { c.office.Probed(p, f, who) })
	}
	if w.net.cut[[2]*process{&c.process, &to.process}] > 0 || w.net.cut[[2]*process{&to.process, &c.process}] > 0 || to.paused() {
		c.in(200*time.Millisecond, "probe", func() { found(liveness.NoAnswer, image.UUID{}) })
		return
	}
	c.in(time.Duration(1+w.wire.Int64N(5*ms)), "probe", func() {
		if !to.up {
			w.stats["deaths proved"]++
			found(liveness.Refused, image.UUID{})
			return
		}
		to.seen()
		found(liveness.Alive, to.incarnation)
	})
}

// batch is what a broker gets that has applied an index.
func (c *controller) batch(after uint64) (follow.Batch, bool) {
	img := c.core.Image()
	if after >= img.Index() {
		return follow.Batch{}, false
	}
	if after < c.base {
		c.w.stats["snapshots to brokers"]++
		return follow.Batch{Snapshot: img.Encode()}, true
	}
	var b follow.Batch
	size := 0
	for _, u := range c.units {
		if u.Index > after && (size == 0 || size+len(u.Bytes) <= maxUnits) {
			size += len(u.Bytes)
			b.Units = append(b.Units, u)
		} else if u.Index > after {
			break
		}
	}
	return b, true
}

// pull serves a broker's poll, at once or when there is something.
func (c *controller) pull(after uint64, answer func(follow.Batch)) {
	if b, ok := c.batch(after); ok {
		answer(b)
		return
	}
	if len(c.polls) < 64 {
		c.polls = append(c.polls, poll{after, answer, c.w.now + sec})
	}
}

func (c *controller) servePolls() {
	polls := c.polls
	c.polls = nil
	for _, p := range polls {
		if p.until > c.w.now {
			c.pull(p.after, p.answer)
		}
	}
}

// submit decides a request that came over the wire.
func (c *controller) submit(raw []byte, answer func(quorum.Answer)) {
	r, err := control.DecodeRequest(raw)
	if err != nil {
		c.w.broken("%s: %v", c.name, err)
		return
	}
	c.answer(c.office.Enqueue(c.clock(), quorum.Proposal{Token: answer, Request: r}))
}

// mirror is the log as the disk has it, in short.
type mirror struct {
	base    uint64 // entries up to here are in a snapshot or forgotten
	entries []entry
	hs      *pb.HardState

	synced     *pb.HardState // and durable
	syncedLast uint64
}

type entry struct {
	term uint64
	hash uint64
}

func shorten(e *pb.Entry) entry {
	return entry{e.GetTerm(), hashOf(e.GetData()) + uint64(e.GetType())}
}

func (m *mirror) load(s *wal.State) {
	*m = mirror{hs: s.HardState, base: s.Snapshot.GetMetadata().GetIndex()}
	if len(s.Entries) > 0 {
		m.base = s.Entries[0].GetIndex() - 1
	}
	for _, e := range s.Entries {
		m.entries = append(m.entries, shorten(e))
	}
	m.sync()
}

func (m *mirror) sync() { m.synced, m.syncedLast = m.hs, m.last() }

func (m *mirror) save(p wal.Write) {
	if p.HardState != nil {
		m.hs = proto.Clone(p.HardState).(*pb.HardState)
	}
	if p.Snapshot != nil {
		m.base, m.entries = p.Snapshot.GetMetadata().GetIndex(), nil
	}
	for _, e := range p.Entries {
		if at := e.GetIndex() - m.base - 1; at < uint64(len(m.entries)) {
			m.entries = m.entries[:at]
		}
		m.entries = append(m.entries, shorten(e))
	}
	if p.Sync {
		m.sync()
	} else if m.syncedLast > m.last() {
		m.syncedLast = m.last()
	}
}

func (m *mirror) compact(to uint64) {
	if to > m.base {
		m.entries = m.entries[min(to-m.base, uint64(len(m.entries))):]
		m.base = to
	}
}

func (m *mirror) last() uint64 { return m.base + uint64(len(m.entries)) }

func (m *mirror) at(index uint64) (entry, bool) {
	if index <= m.base || index > m.last() {
		return entry{}, false
	}
	return m.entries[index-m.base-1], true
}

func (c *controller) String() string { return fmt.Sprintf("%s (raft id %d)", c.name, c.raftID) }
