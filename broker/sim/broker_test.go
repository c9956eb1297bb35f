package sim

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/follow"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/liveness"
	"github.com/streambus/streambus/raftmeta/quorum"
	"github.com/streambus/streambus/storage"
	"github.com/streambus/streambus/storage/vfs"
)

// broker pulls units, holds a lease, and asks for changes in the name of clients.
type broker struct {
	process
	node        int32
	incarnation image.UUID
	dir         image.UUID
	otherDir    image.UUID // of a second process
	state       *follow.State
	img         *image.Image
	lease       liveness.Lease
	epoch       int64
	before      int64 // epoch when it last stopped in order, -1 for none
	stopping    bool
	hint        int // the controller that was active last
	pulling     uint64
	beating     uint64
	heard       uint64 // heartbeats that were answered

	active    bool    // its image has shown it so
	leased    int64   // when a controller last gave it a lease
	silent    int64   // for how long it had none, at most, when its fence for silence was asked for
	brief     bool    // a twin that ends when it is found
	twin      bool    // a second process of its node
	elsewhere *broker // who has its address, nil for itself
	displaced bool    // another had its address since this incarnation began

	disk         *vfs.Mem // of its logs
	failing      bool     // syncs of it do
	logs         *storage.Dir
	acting       bool // its image knows it
	replicas     []*replica
	coordinators []*coordinator
	proposers    []*replica // to ask the controller for
	altering     bool       // one request under way
	flushing     bool
	round        *storage.FlushRound
	conns        []*conn // of followers

	seq  uint64
	open []*op // by sequence
	wait []*op // answered, and not applied here yet
}

func (w *world) uuid() (id image.UUID) {
	binary.BigEndian.PutUint64(id[:], w.load.Uint64())
	binary.BigEndian.PutUint64(id[8:], w.load.Uint64())
	return id
}

// start begins a new incarnation, which knows nothing.
func (b *broker) start() {
	b.up, b.pausedUntil = true, 0
	b.life++
	b.incarnation = b.w.uuid()
	b.state, b.img, b.lease, b.epoch = follow.New(clusterID), image.Empty(), liveness.Lease{}, 0
	b.seq, b.open, b.wait, b.stopping = 0, nil, nil, false
	b.displaced, b.active, b.leased, b.silent = b.elsewhere != nil, false, -60*sec, 0
	b.w.homes[b.incarnation] = b
	if b.holdsRecords() {
		b.mount()
	}
	b.hint = b.w.load.IntN(len(b.w.controllers))
	b.w.tell("%s starts, incarnation %s", b.name, b.incarnation)
	b.pull()
	b.register()
}

func (b *broker) crash() {
	if !b.up {
		return
	}
	b.w.tell("%s crashes", b.name)
	for _, o := range b.open {
		o.end(unknown)
	}
	b.up, b.open, b.wait, b.before = false, nil, nil, -1
	if b.holdsRecords() {
		b.unmount()
	}
}

func (b *broker) holdsRecords() bool { return len(b.w.plan.recordTopics) > 0 && !b.twin }

// stopped is the end of an orderly stop.
func (b *broker) stopped() {
	epoch := b.epoch
	b.w.stats["orderly stops"]++
	if b.holdsRecords() {
		if err := b.logs.Close(b.clock()); err != nil && !b.failing {
			b.w.broken("%s: %v", b.name, err)
		}
	}
	b.crash()
	b.before = epoch
	b.w.after(b.w.chance.Int64N(2*sec), "start", b.again)
}

// again starts a broker, unless it lives or is not wanted any more.
func (b *broker) again() {
	if !b.up && (!b.twin || slices.Contains(b.w.twins, b)) {
		b.start()
	}
}

func (b *broker) register() {
	o := b.begin("register", &control.RegisterBroker{
		ID: b.node, Incarnation: b.incarnation, Dirs: []image.UUID{b.dir}, Levels: image.OwnLevels, PreviousBrokerEpoch: b.before,
	}, false)
	o.deadline, o.mayBeEmpty = 1<<62, true
	o.then = func() {
		if r, ok := o.reply.(*control.BrokerProgress); ok && r.More {
			b.w.stats["commands with more to do"]++
			b.register()
			return
		}
		x, ok := b.img.Broker(b.node)
		registered := b.w.oracle.registered
		switch {
		case ok && x.Incarnation == b.incarnation:
			b.epoch = x.Epoch
			if b.holdsRecords() {
				b.logs.SetBrokerEpoch(b.epoch)
				b.setAsideStrays()
			}
			b.beat()
		case ok && registered[b.incarnation] > 0 && registered[x.Incarnation] > registered[b.incarnation]:
			b.w.stats["replaced when hardly registered"]++
			b.w.crashBroker(b)
		default:
			b.w.broken("%s: its registration was answered with success and is not in its image", b.name)
		}
	}
	o.attempt()
}

// pull asks some controller for units, again and again.
func (b *broker) pull() {
	w := b.w
	if !b.up { // what it applied last was its end
		return
	}
	b.pulling++
	n, life := b.pulling, b.life
	c := w.controllers[w.load.IntN(len(w.controllers))]
	after := b.state.Index()
	w.net.send(&b.process, &c.process, "pull", func() {
		c.pull(after, func(batch follow.Batch) {
			w.net.send(&c.process, &b.process, "units", func() {
				if b.pulling == n && b.life == life {
					b.apply(c, batch)
					b.pull()
				}
			}, nil)
		})
	}, nil)
	b.in(1500*time.Millisecond, "pull again", func() {
		if b.pulling == n {
			b.pull()
		}
	})
}

func (b *broker) apply(c *controller, batch follow.Batch) {
	changes, err := b.state.Step(batch)
	if err != nil {
		b.w.broken("%s at index %d: what %s gave it: %v", b.name, b.state.Index(), c.name, err)
		return
	}
	for _, change := range changes {
		index := change.Image.Index()
		if index <= b.img.Index() && batch.Snapshot == nil {
			b.w.broken("%s went from index %d to %d", b.name, b.img.Index(), index)
		}
		b.img = change.Image
		b.w.oracle.image(b.name, b.img, batch.Snapshot != nil)
		if b.holdsRecords() {
			b.followImage()
		}
	}
	for _, u := range batch.Units {
		b.w.oracle.unit(b.name, u.Index, u.Bytes)
		if b.w.oracle.awaited[u.Index] {
			b.lease.Applied(u.Index)
		}
	}
	if batch.Snapshot != nil {
		b.lease.Applied(b.img.Index())
	}
	wait := b.wait
	b.wait = nil
	for _, o := range wait {
		o.visible()
	}
	hurry := b.lease.Next().IsZero()
	if me, ok := b.img.Broker(b.node); ok && me.Epoch == b.epoch && me.Active() && !b.active {
		b.active, hurry = true, true // it may have a lease from now on
	}
	if b.up && b.epoch > 0 && hurry {
		b.beat()
	}
}

// beat sends a heartbeat and sees to the next one.
func (b *broker) beat() {
	w := b.w
	b.beating++
	n, life := b.beating, b.life
	c := w.controllers[b.hint]
	sent := b.clock()
	h := liveness.Heartbeat{Node: b.node, Incarnation: b.incarnation, Epoch: b.epoch, Applied: b.img.Index(), WantShutdown: b.stopping}
	b.lease.Sent(sent, h.Applied)
	answered := false
	w.net.send(&b.process, &c.process, "heartbeat", func() {
		c.input(func() {
			r, err := c.office.Heartbeat(c.clock(), h)
			if r.Lease > 0 {
				b.leased = w.now
			}
			w.net.send(&c.process, &b.process, "lease", func() {
				if b.life == life {
					answered = true
					b.told(c, sent, r, err)
				}
			}, nil)
		})
	}, nil)
	b.at(b.when(b.lease.Next()), "beat", func() {
		if b.beating == n {
			if !answered {
				b.hint = (b.hint + 1) % len(w.controllers)
			}
			b.beat()
		}
	})
}

// told hears the answer to a heartbeat.
func (b *broker) told(c *controller, sent time.Time, r liveness.Reply, err error) {
	switch {
	case err == nil:
		b.heard++
		if r.Stops(b.img, b.node, b.incarnation) {
			// A twin may have taken its place meanwhile, and lead.
			if me, ok := b.w.oracle.img.Broker(b.node); ok && me.Incarnation == b.incarnation {
				if n := b.w.oracle.img.Count(b.node, image.Leads); n > 0 || !me.Fenced {
					b.w.broken("%s may stop, and leads %d partitions, fenced %v", b.name, n, me.Fenced)
				}
			}
			b.stopped()
			return
		}
		if r.Lease > 0 {
			b.w.stats["leases"]++
			b.lease.Granted(sent, r.Lease)
			b.w.oracle.lease(b)
		}
	case errors.Is(err, quorum.ErrNotLeader):
		if b.w.controllers[b.hint] == c {
			b.hint = (b.hint + 1) % len(b.w.controllers)
		}
	default:
		b.dismissed(c, err)
	}
}

// outcome is what a client hears.
type outcome int

const (
	pending outcome = iota
	success
	refused
	unknown
)

// op is what a client asks for, once, however often the broker has to ask.
type op struct {
	b          *broker
	life       int
	id         image.Operation
	kind       string
	cmd        control.Command
	awaited    bool
	deadline   int64 // by the broker's monotonic clock
	mayBeEmpty bool  // success may have written nothing
	outcome    outcome
	refusal    *control.Refusal
	index      uint64 // that a success is in, or a refusal rests on
	reply      any
	attempts   int
	try        int
	then       func()
	answered   func(reply any) // nil for none

	name          string // the topic it is about
	count         int32
	called, ended int64
	floor         uint64 // what was answered before it began
	read          *image.Topic
	readFound     bool
}

// begin makes an operation of this incarnation.
func (b *broker) begin(kind string, cmd control.Command, awaited bool) *op {
	b.seq++
	o := &op{
		b: b, life: b.life, kind: kind, cmd: cmd, awaited: awaited, called: b.w.now,
		id:       image.Operation{Node: b.node, Incarnation: b.incarnation, Seq: b.seq},
		deadline: b.mono() + sec + b.w.load.Int64N(20*sec),
	}
	o.floor = b.w.oracle.answered
	b.open = append(b.open, o)
	b.w.oracle.ops[opID{b.node, b.incarnation, b.seq}] = o
	b.w.oracle.order = append(b.w.oracle.order, o)
	b.w.stats["operations"]++
	return o
}

// attempt asks a controller, and again until an answer says what became of it.
func (o *op) attempt() {
	b, w := o.b, o.b.w
	if o.outcome != pending || b.life != o.life {
		return
	}
	if b.mono() > o.deadline {
		o.end(unknown)
		return
	}
	o.try++
	o.attempts++
	try := o.try
	if o.attempts > 1 {
		w.stats["repeats"]++
	}
	again := func(d time.Duration) {
		o.try++
		b.in(d, "again", func() {
			o.attempt()
		})
	}
	id := o.id
	id.Done = b.open[0].id.Seq
	raw, err := (&control.Request{Operation: id, Actor: b.name, Cause: o.kind, Awaited: o.awaited, Command: o.cmd}).Encode()
	if err != nil {
		w.broken("%v", err)
		return
	}
	c := w.controllers[b.hint]
	next := func() {
		if w.controllers[b.hint] == c {
			b.hint = (b.hint + 1) % len(w.controllers)
		}
	}
	w.net.send(&b.process, &c.process, "submit", func() {
		if o.try != try {
			return // the connection was closed meanwhile
		}
		c.input(func() {
			c.submit(raw, func(a quorum.Answer) {
				w.net.send(&c.process, &b.process, "outcome", func() {
					if o.try != try || o.outcome != pending || b.life != o.life {
						return
					}
					r, isRefusal := errors.AsType[*control.Refusal](a.Err)
					switch {
					case a.Err == nil:
						o.try++
						o.index, o.reply = a.Index, a.Reply
						o.hear(a.Reply)
						o.visible()
					case isRefusal && r.Code == control.DuplicateBrokerRegistration:
						w.stats["registrations put off"]++
						again(time.Duration(100+w.load.IntN(100)) * time.Millisecond)
					case isRefusal && r.Code == control.Superseded:
						o.end(unknown) // clients hear that it took too long
					case isRefusal:
						o.refusal, o.index = r, a.Index
						o.end(refused)
					case errors.Is(a.Err, quorum.ErrNotLeader):
						next()
						again(time.Duration(5+w.load.IntN(50)) * time.Millisecond)
					case errors.Is(a.Err, quorum.ErrUnknown):
						w.stats["unknown outcomes asked again"]++
						again(time.Duration(5+w.load.IntN(50)) * time.Millisecond)
					default:
						w.broken("%s: %v", o, a.Err)
					}
				}, nil)
			})
		})
	}, nil)
	b.in(time.Duration(500+w.load.IntN(1500))*time.Millisecond, "give up", func() {
		if o.try == try && o.outcome == pending && !o.waits() {
			next()
			o.attempt()
		}
	})
}

// hear passes on a reply, of which others do not wait until it is shown.
func (o *op) hear(reply any) {
	if do := o.answered; do != nil {
		o.answered = nil
		do(reply)
	}
}

func (o *op) waits() bool { return o.index > 0 }

// visible ends a success once the answering broker has applied it.
func (o *op) visible() {
	if o.b.img.Index() < o.index {
		o.b.wait = append(o.b.wait, o)
		return
	}
	o.end(success)
}

// end is what the client hears.
func (o *op) end(what outcome) {
	if o.outcome != pending {
		return
	}
	o.outcome, o.ended = what, o.b.w.now
	for i, x := range o.b.open {
		if x == o {
			o.b.open = append(o.b.open[:i:i], o.b.open[i+1:]...)
			break
		}
	}
	o.b.w.oracle.ended(o)
	if o.b.life == o.life && o.b.up {
		o.hear(nil)
	}
	if what == success && o.then != nil {
		o.then()
	}
	if what == refused && o.kind == "register" {
		o.b.w.broken("%s: %v", o, o.refusal)
	}
}
