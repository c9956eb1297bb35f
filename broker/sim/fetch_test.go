package sim

import (
	"errors"
	"slices"
	"time"

	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage"
	"github.com/streambus/streambus/storage/batch"
)

// conn is a connection of a follower to its leader: what is sent arrives in order,
// or neither it nor anything behind it.
type conn struct {
	client, server *broker
	lives          [2]int // of them
	broken         bool
	latest         [2]int64 // arrival there, and back
	lost           func()   // the client has noticed
}

func dial(client, server *broker, lost func()) *conn {
	c := &conn{client: client, server: server, lives: [2]int{client.life, server.life}, lost: lost}
	server.conns = append(slices.DeleteFunc(server.conns, func(x *conn) bool { return x.broken }), c)
	return c
}

// reset ends it, which the client notices soon.
func (c *conn) reset() {
	if c.broken {
		return
	}
	c.broken = true
	client := c.client
	client.w.after(client.w.records.Int64N(20*ms), "reset", func() {
		if client.up && client.life == c.lives[0] {
			client.at(client.w.now, "reset", c.lost)
		}
	})
}

func (c *conn) send(back bool, what string, arrive func()) {
	w, from, to, way := c.client.w, c.client, c.server, 0
	if back {
		from, to, way = to, from, 1
	}
	if c.broken || c.client.life != c.lives[0] {
		return
	}
	link := [2]*process{&from.process, &to.process}
	if w.net.cut[link] > 0 || w.records.IntN(4000) < w.net.loss { // it takes many losses to end a connection
		w.stats["connections lost"]++
		c.reset()
		return
	}
	delay := 50_000 + w.records.Int64N(ms)
	if s := w.net.slow[link]; s > 0 {
		delay += w.records.Int64N(s)
	}
	at := max(w.now+delay, c.latest[way]+1)
	c.latest[way] = at
	w.after(at-w.now, what, func() {
		switch { // what was on its way when a client crashed arrives
		case c.broken:
		case !to.up || to.life != c.lives[1-way] || w.net.cut[link] > 0:
			c.reset()
		default:
			to.at(w.now, what, func() {
				if !c.broken {
					arrive()
				}
			})
		}
	})
}

// source is where a follower gets its records.
type source struct {
	leader   int32
	conn     *conn
	underWay int
	said     partition.Report // last
}

// follow sees to it that the replica asks who leads.
func (r *replica) follow() {
	leader := r.part.Leader()
	if leader == r.b.node || leader == image.NoLeader {
		r.unfollow()
		return
	}
	if r.source == nil || r.source.leader != leader {
		r.connect(leader)
	}
	r.ask()
}

func (r *replica) unfollow() {
	if r.source != nil {
		r.source.conn.broken = true
		r.source = nil
	}
}

func (r *replica) connect(leader int32) {
	r.unfollow()
	s := &source{leader: leader}
	s.conn = dial(r.b, r.b.w.brokers[leader], func() { r.lost(s) })
	r.source = s
	if !s.conn.server.up {
		s.conn.reset()
	}
}

// lost goes on with another connection, a little later.
func (r *replica) lost(s *source) {
	if r.source != s {
		return
	}
	s.conn.broken = true
	r.b.in(time.Duration(5+r.b.w.records.IntN(100))*time.Millisecond, "connect", func() {
		if r.source == s {
			r.connect(s.leader)
			r.ask()
		}
	})
}

// ask sends a fetch: one waits for records, and another one reports what was
// flushed meanwhile.
func (r *replica) ask() {
	s := r.source
	if s == nil || s.conn.broken || s.underWay > 1 {
		return
	}
	end := r.log.EndOffset()
	rep := partition.Report{
		Replica: r.b.node, BrokerEpoch: r.b.epoch, LeaderEpoch: r.part.LeaderEpoch(), LogStart: r.log.StartOffset(),
		LogEnd: end, FlushedEnd: r.part.FlushedEnd(), LastEpoch: r.log.EpochAt(end),
	}
	if s.underWay == 1 && rep == s.said {
		return
	}
	s.said = rep
	s.underWay++
	done := false
	s.conn.send(false, "fetch", func() {
		s.conn.server.serve(s.conn, r.at, rep, func(a answer) {
			s.conn.send(true, "fetched", func() {
				if done = true; r.source == s {
					s.underWay--
					r.fetched(a, rep.LeaderEpoch)
				}
			})
		})
	})
	r.b.in(3*time.Second, "fetch time-out", func() {
		if !done && r.source == s && !s.conn.broken {
			r.lost(s)
		}
	})
}

// answer is a leader's, to a fetch.
type answer struct {
	partition.Answer
	highWatermark, logStart int64
	records                 []byte
	err                     error
}

// waiting is a fetch that has nothing to be told.
type waiting struct {
	conn  *conn
	rep   partition.Report
	reply func(answer)
}

// serve answers a fetch of a follower, at once or when there is something. A newer
// one ends one that waits.
func (b *broker) serve(c *conn, at place, rep partition.Report, reply func(answer)) {
	r := b.replica(at)
	if r == nil {
		reply(answer{err: errGone})
		return
	}
	rep.Eligible = b.mayBeInSync(rep.Replica, rep.BrokerEpoch)
	e, err := r.part.Reported(rep, r.epochEnd(rep.LastEpoch), r.log.StartOffset(), b.clock())
	older := r.waiting
	r.waiting = nil
	for _, x := range older {
		if x.rep.Replica == rep.Replica {
			a := r.nothing(x.rep)
			x.reply(a)
		} else {
			r.waiting = append(r.waiting, x)
		}
	}
	r.effects(e)
	if err != nil {
		reply(answer{err: err})
		return
	}
	if a, ok := r.answer(rep); ok {
		reply(a)
		return
	}
	x := &waiting{c, rep, reply}
	r.waiting = append(r.waiting, x)
	b.in(500*time.Millisecond, "fetch waited", func() {
		if i := slices.Index(r.waiting, x); i >= 0 {
			r.waiting = slices.Delete(r.waiting, i, i+1)
			x.reply(r.nothing(x.rep))
		}
	})
}

// serveWaiting looks whether there is something for those who wait.
func (r *replica) serveWaiting() {
	all := r.waiting
	r.waiting = nil
	for _, x := range all {
		if a, ok := r.answer(x.rep); ok {
			x.reply(a)
		} else {
			r.waiting = append(r.waiting, x)
		}
	}
}

// nothing is the answer without records.
func (r *replica) nothing(rep partition.Report) answer {
	if err := r.part.CheckLeader(rep.LeaderEpoch); err != nil {
		return answer{err: err}
	}
	r.told[rep.Replica] = r.part.HighWatermark()
	return answer{Answer: partition.Answer{LeaderEpoch: rep.LeaderEpoch, Base: -1}, highWatermark: r.part.HighWatermark(), logStart: r.log.StartOffset()}
}

// answer is what a follower is told now, if there is something.
func (r *replica) answer(rep partition.Report) (a answer, ok bool) {
	if a = r.nothing(rep); a.err != nil {
		return a, true
	}
	a.LogStart = a.logStart
	told, was := r.told[rep.Replica]
	if here, differs := r.part.Diverges(rep.LastEpoch, rep.LogEnd, r.epochEnd(rep.LastEpoch)); differs && rep.LastEpoch >= 0 {
		a.Differs, a.Diverging = true, here
		return a, true
	}
	region, err := r.log.Read(rep.LogEnd, r.log.EndOffset(), 1+r.b.w.records.Int64N(3000), true)
	switch {
	case errors.Is(err, storage.ErrOffsetOutOfRange):
		a.OutOfRange = true
		return a, true
	case err != nil:
		return answer{err: err}, true
	case region.Len() > 0:
		if a.records, err = region.Bytes(); err != nil {
			return answer{err: err}, true
		}
		h, err := batch.DecodeHeader(a.records)
		a.Base, a.Next = h.BaseOffset, h.LastOffset()+1
		return answer{a.Answer, a.highWatermark, a.logStart, a.records, err}, true
	}
	return a, !was || told != a.highWatermark || rep.LogStart < a.logStart
}

func (r *replica) epochEnd(epoch int32) (e partition.EpochEnd) {
	e.Epoch, e.End = r.log.EndOffsetForEpoch(epoch)
	return e
}

// fetched takes over what the leader of an epoch answered.
func (r *replica) fetched(a answer, epoch int32) {
	w, now := r.b.w, r.b.clock()
	if a.err != nil {
		r.askLater()
		return
	}
	if a.Differs {
		a.Ours = r.epochEnd(a.Diverging.Epoch)
	}
	do, at, err := r.part.Answered(a.Answer, r.log.StartOffset())
	switch {
	case err != nil:
		w.broken("%s follows %s: %v", r.b.name, r.name, err)
	case do == partition.Cut:
		w.stats["logs cut"]++
		w.tell("%s cuts %s at %d of %d", r.b.name, r.name, at, r.log.EndOffset())
		var end int64
		if end, err = r.log.TruncateTo(at, now); err == nil {
			r.part.Truncated(end, r.log.FlushedOffset())
			r.shown = min(r.shown, end)
		}
	case do == partition.Begin:
		w.stats["logs begun anew"]++
		w.tell("%s begins %s anew at %d", r.b.name, r.name, at)
		if err = r.log.Restart(at); err == nil {
			r.part.Truncated(at, at)
			r.shown = at
		}
		if err == nil && a.Base == at {
			w.stats["logs begun inside a batch"]++
			err = r.appendFetched(a, epoch)
		}
	case do == partition.Append:
		err = r.appendFetched(a, epoch)
	case r.part.LeaderEpoch() == epoch:
		err = r.advance(a, r.log.EndOffset())
	}
	switch {
	case errors.Is(err, errRefused):
		r.askLater()
	case err != nil:
		r.b.trouble(err)
		r.askLater()
	default:
		r.ask()
	}
}

// errRefused is what a log says to what a leader sent that was deposed meanwhile.
var errRefused = errors.New("not for this log")

func (r *replica) appendFetched(a answer, epoch int32) error {
	end, err := r.log.AppendFetched(a.records, epoch, r.b.clock())
	err = errors.Join(err, r.advance(a, end))
	r.b.flush()
	if _, failed := errors.AsType[*storage.FailedError](err); err != nil && !failed {
		r.b.w.stats["answers refused"]++
		return errRefused
	}
	return err
}

// advance is the shell's: the start first, and then the watermark.
func (r *replica) advance(a answer, end int64) (err error) {
	to := a.highWatermark
	if a.logStart > r.log.StartOffset() && a.logStart <= min(to, end) {
		err = r.log.AdvanceStart(a.logStart, r.b.clock())
	}
	if err != nil {
		to = min(to, r.part.HighWatermark())
	}
	r.effects(r.part.Fetched(end, to))
	return err
}

func (r *replica) askLater() {
	r.b.in(time.Duration(5+r.b.w.records.IntN(100))*time.Millisecond, "ask", r.ask)
}
