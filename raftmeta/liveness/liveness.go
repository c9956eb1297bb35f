// Package liveness is what the active controller knows of the brokers and writes down nowhere: who was heard of, who may
// answer from its image, who has applied what, whose process is gone. It dies with the office.
//
// # Leases
//
// A broker that holds a lease answers Metadata from its image, and a change is answered when everybody who may hold one
// has applied it. Clocks are taken to run at 0.9 to 1.1 of the true rate, every one at its own. A lease of length L is
// counted by the broker from when it sent its heartbeat, and lasts at most L/0.9 of true time after it was received; this
// side waits for L*1.1/0.9 of its own clock, which is that at least. Whoever is behind anything that was awaited gets no
// lease: its heartbeat may have been under way when the answer left, and nobody may be waited for longer than one lease.
//
// Two things would break this over a change of office:
//
//   - A deposed controller that has not noticed grants on. So a lease counts from the last moment at which a majority
//     confirmed the office, if that is before the heartbeat: none runs longer than L behind what the successor, elected
//     after it, takes for the beginning of its own office.
//   - A broker may hold a lease that its predecessor granted and be fenced since. So the successor takes everybody who is
//     registered for a holder, fenced or not. An incarnation that was replaced is not in its image any more, so one is
//     replaced only when it holds no lease, and gets none from then on: see [Tracker.Admit].
//
// # Stops
//
// A broker may stop that is fenced, once nobody sends it clients any more. A deposed controller that has not noticed may take
// one for fenced that leads again. So a majority has to confirm the office behind the first heartbeat that says that the
// broker wants to stop: from then on every successor is told so too, and gives it nothing to lead. What a successor did for a
// heartbeat of before that came late, the broker's own image shows, see [Reply.Stops].
//
// # Duties of the caller
//
//  1. Make a Tracker when the controller takes office: when its image has everything that was committed before.
//  2. Hand in what happens, in order; then Tick, and again when its Wake has come.
//  3. Ask Admit before a RegisterBroker is handed to the quorum.
package liveness

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// Reasons to refuse a heartbeat or a registration.
var (
	ErrNotRegistered = errors.New("the broker is not registered")
	ErrStale         = errors.New("another incarnation of the broker is registered")
	ErrDead          = errors.New("the broker's process was found gone")
	ErrDuplicate     = errors.New("another process has registered with this node id and may be alive")
)

// again is after how long a change that was asked for and does not show in the image is asked for again.
const again = time.Second

// unheard is after how long a broker is probed again that leads, and has no connection here that could close: one that has
// not come to a new office yet, or not come back. If it ends before it does, nothing else would tell before its session ends.
const unheard = 300 * time.Millisecond

// stuck is how long a broker that stops leads as much as before until it is taken for all that others can lead.
const stuck = 250 * time.Millisecond

// step is what a clock may jump when it is read.
const step = time.Millisecond

// Config is how long silence is taken for life.
type Config struct {
	Session time.Duration // without a heartbeat, then the broker is fenced; 0 means 9 s, as in Apache Kafka
	Lease   time.Duration // 0 means 1 s; all controllers of a cluster have the same
}

// Heartbeat is what a broker says of itself.
type Heartbeat struct {
	Node         int32
	Incarnation  image.UUID
	Epoch        int64
	Applied      uint64 // index of the image it answers from
	WantFence    bool   // it is not ready for clients
	WantShutdown bool   // it stops once its partitions are led by others; not taken back
}

// Reply is the answer to a heartbeat.
type Reply struct {
	Lease          time.Duration // from when the broker sent the heartbeat; 0 for none
	Fenced         bool
	CaughtUp       bool // its image has its registration
	ShouldShutDown bool // nobody needs it any more
}

// Stops tells whether a broker that wants to stop may do so now, by the answer and by its own image, in which it may have come
// to lead since it asked.
func (r Reply) Stops(img *image.Image, node int32, incarnation image.UUID) bool {
	me, ok := img.Broker(node)
	return r.ShouldShutDown && (!ok || me.Incarnation != incarnation || img.Count(node, image.Leads) == 0)
}

// Broker is one incarnation, as the controller names it in what it asks for.
type Broker struct {
	Node        int32
	Incarnation image.UUID
	Epoch       int64
}

// Fence is a broker to be fenced, and why.
type Fence struct {
	Broker
	Reason string
}

// Effects are what the caller has to do, in the order of node ids; what was released, in the order of indexes.
type Effects struct {
	Released []any
	Fence    []Fence
	Unfence  []Broker
	// Shutdown brokers want to stop: their partitions are to be led by others. They are fenced once they lead nothing.
	Shutdown []Broker
	Probe    []Broker  // whose listener is to be dialled once
	Wake     time.Time // when to Tick again if nothing happens before; zero for never
}

// Finding is what a dial to a broker's listener came to.
type Finding int

// Findings of a probe.
const (
	NoAnswer Finding = iota // says nothing
	Refused                 // nobody listens: the process is gone
	Alive                   // some incarnation said hello
)

// Tracker is the knowledge of one office. One goroutine owns it.
type Tracker struct {
	cfg       Config
	img       *image.Image
	brokers   []*broker // by node; replaced incarnations before the one that is registered
	waiting   []wait    // by index
	floor     uint64    // the highest index that was awaited, here or before
	confirmed time.Time // a majority had this node in office then
}

type broker struct {
	Broker
	registered bool
	fenced     bool
	gone       bool      // its process; for ever
	heard      time.Time // last, or when it was first known
	lease      time.Time // until then it may believe that it holds one
	applied    uint64    // 0 while that is unknown
	wantFence  bool
	left       bool      // marked as on its way out by an office before this one, which did not end what it began
	stops      time.Time // when it was first heard that it wants to stop, zero if it does not
	superseded bool      // another incarnation may be registered any time
	probe      bool
	connected  bool      // it was heard of here, and the connection has not closed
	probedAt   time.Time // last
	asked      ask
	askedAt    time.Time
	leads      int       // when last looked at while it stops
	leadsSince time.Time // that many
	fencedAt   uint64    // index of the image that showed it
	why        string    // gone
}

type ask int

const (
	askNothing ask = iota
	askFence
	askUnfence
	askShutdown
)

type wait struct {
	index uint64
	token any
}

// New takes office. Every registered broker gets a session; every one may hold a lease; all are to be probed.
func New(now time.Time, cfg Config, img *image.Image) *Tracker {
	cfg.Session = cmp.Or(cfg.Session, 9*time.Second)
	cfg.Lease = cmp.Or(cfg.Lease, time.Second)
	t := &Tracker{cfg: cfg, floor: img.Index()}
	t.Image(now, img)
	for i, b := range t.brokers {
		b.lease = now.Add(longest(cfg.Lease))
		b.probe = true
		b.left = !b.fenced && img.Brokers()[i].InControlledShutdown
	}
	return t
}

// longest is what a lease may last on this side's clock, if the other side's is slow and this one fast.
func longest(lease time.Duration) time.Duration { return lease*11/9 + step }

// Confirmed says that a majority had this node in office at a time: a read of the quorum that was begun then came back.
func (t *Tracker) Confirmed(at time.Time) {
	if at.After(t.confirmed) {
		t.confirmed = at
	}
}

// Image is the newest one that is applied here.
func (t *Tracker) Image(now time.Time, img *image.Image) {
	before := t.img
	t.img = img
	if before != nil && sameSlice(before.Brokers(), img.Brokers()) {
		return
	}
	for _, b := range t.brokers {
		if x, ok := img.Broker(b.Node); b.registered && (!ok || x.Epoch != b.Epoch) {
			b.registered = false
		}
	}
	for _, x := range img.Brokers() {
		b := t.registered(x.ID)
		if b == nil {
			b = &broker{Broker: Broker{x.ID, x.Incarnation, x.Epoch}, registered: true, heard: now}
			b.setFenced(x.Fenced, img.Index())
			t.brokers = slices.Insert(t.brokers, t.after(x.ID), b)
			continue
		}
		if b.fenced != x.Fenced {
			b.setFenced(x.Fenced, img.Index())
		}
		b.left = b.left && !x.Fenced && x.InControlledShutdown
	}
}

func (b *broker) setFenced(fenced bool, index uint64) {
	b.fenced, b.fencedAt = fenced, index
	b.asked = askNothing
}

// sameSlice tells whether two lists of images are one, which they are when no unit between them touched it.
func sameSlice(a, b []*image.Broker) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// after is the place behind everything that is known of a node.
func (t *Tracker) after(node int32) int {
	at, _ := slices.BinarySearchFunc(t.brokers, int64(node)+1, func(b *broker, id int64) int { return cmp.Compare(int64(b.Node), id) })
	return at
}

// registered is the incarnation of a node that is in the image, nil for none.
func (t *Tracker) registered(node int32) *broker {
	at := t.after(node) - 1
	if at < 0 || t.brokers[at].Node != node || !t.brokers[at].registered {
		return nil
	}
	return t.brokers[at]
}

// Heartbeat takes one that was received at a time, which may lie behind the last Tick: the answer to it may have waited for
// a majority to confirm the office. An error is one of those above, and nothing has changed then. Only brokers that are
// not fenced get leases.
func (t *Tracker) Heartbeat(now time.Time, h Heartbeat) (Reply, error) {
	b := t.registered(h.Node)
	switch {
	case b == nil:
		return Reply{}, fmt.Errorf("broker %d: %w", h.Node, ErrNotRegistered)
	case b.Incarnation != h.Incarnation || b.Epoch != h.Epoch:
		return Reply{}, fmt.Errorf("broker %d with epoch %d: %w with epoch %d", h.Node, h.Epoch, ErrStale, b.Epoch)
	case b.gone:
		return Reply{}, fmt.Errorf("broker %d: %w: %s", h.Node, ErrDead, b.why)
	}
	if now.After(b.heard) {
		b.heard = now
	}
	b.connected = true
	b.applied = max(b.applied, h.Applied)
	b.wantFence = h.WantFence
	if b.stops.IsZero() && h.WantShutdown {
		b.stops = now
	}
	r := Reply{Fenced: b.fenced, CaughtUp: b.applied >= uint64(b.Epoch)}
	if b.fenced {
		r.ShouldShutDown = b.stopping() && !t.confirmed.Before(b.stops) && t.seen(now, b)
		return r, nil
	}
	if t.confirmed.IsZero() || b.superseded || h.Applied < t.floor {
		return r, nil
	}
	if r.Lease = t.cfg.Lease - max(0, now.Sub(t.confirmed)); r.Lease <= 0 {
		r.Lease = 0
		return r, nil
	}
	if end := now.Add(longest(r.Lease)); end.After(b.lease) {
		b.lease = end
	}
	return r, nil
}

func (b *broker) stopping() bool { return !b.stops.IsZero() }

// seen tells whether no broker sends clients to a fenced one any more, itself included.
func (t *Tracker) seen(now time.Time, b *broker) bool {
	for _, x := range t.brokers {
		if (x == b || x.holds(now)) && x.applied < b.fencedAt {
			return false
		}
	}
	return true
}

// holds tells whether a broker may believe that it holds a lease. One that was fenced or replaced may.
func (b *broker) holds(now time.Time) bool { return !b.gone && now.Before(b.lease) }

// Closed says that a connection from a broker ended, which a process does that ends: it is to be probed.
func (t *Tracker) Closed(node int32, incarnation image.UUID) {
	if b := t.find(node, incarnation); b != nil && !b.gone {
		b.probe, b.connected = true, false
	}
}

func (t *Tracker) find(node int32, incarnation image.UUID) *broker {
	at := slices.IndexFunc(t.brokers, func(b *broker) bool { return b.Node == node && b.Incarnation == incarnation })
	if at < 0 {
		return nil
	}
	return t.brokers[at]
}

// Probed is what a dial to the listener of an incarnation found: who is the one that said hello, where one did.
func (t *Tracker) Probed(node int32, incarnation image.UUID, found Finding, who image.UUID) {
	b := t.find(node, incarnation)
	if b == nil || b.gone {
		return
	}
	switch {
	case found == Refused:
		b.gone, b.why = true, "its listener refuses connections"
	case found == Alive && who != incarnation:
		b.gone, b.why = true, "another process answers in its place"
	}
}

// Admit tells whether an incarnation may be registered now. Another one that is registered must be gone, or fenced and
// without a lease; until then the answer is ErrDuplicate, and the other one is probed.
func (t *Tracker) Admit(now time.Time, node int32, incarnation image.UUID) error {
	b := t.registered(node)
	if b == nil || b.Incarnation == incarnation || b.gone {
		return nil
	}
	if b.fenced && !b.holds(now) {
		b.superseded = true
		return nil
	}
	b.probe = true
	return fmt.Errorf("broker %d: %w: it was heard of %s ago; give this one another node.id, or stop that one", node, ErrDuplicate, now.Sub(b.heard).Round(step))
}

// Await holds back an answer until everybody who may hold a lease has applied the index of its unit.
func (t *Tracker) Await(index uint64, token any) {
	t.floor = max(t.floor, index)
	at, _ := slices.BinarySearchFunc(t.waiting, index, func(w wait, index uint64) int { // behind its equals
		if w.index <= index {
			return -1
		}
		return 1
	})
	t.waiting = slices.Insert(t.waiting, at, wait{index, token})
}

// Abandon gives back the tokens that wait, in order: the office is over. What they stand for was done, and may not be seen
// everywhere.
func (t *Tracker) Abandon() []any {
	tokens := released(t.waiting)
	t.waiting = nil
	return tokens
}

func released(ws []wait) []any {
	var tokens []any
	for _, w := range ws {
		tokens = append(tokens, w.token)
	}
	return tokens
}

// Tick tells what is to be done now. What it tells is taken for done, but for changes of the image, which are asked for
// again until they show.
func (t *Tracker) Tick(now time.Time) Effects {
	var e Effects
	t.release(now, &e)
	t.brokers = slices.DeleteFunc(t.brokers, func(b *broker) bool { return !b.registered && !b.holds(now) })
	for _, b := range t.brokers {
		alone := b.registered && !b.fenced && !b.connected && !b.gone
		if b.probe && !b.gone || alone && !now.Before(b.probedAt.Add(unheard)) {
			e.Probe = append(e.Probe, b.Broker)
			b.probedAt = now
		}
		b.probe = false
		if alone {
			e.wake(b.probedAt.Add(unheard))
		}
		if b.registered {
			t.demand(now, b, &e)
		}
	}
	return e
}

// release lets go what all holders have applied.
func (t *Tracker) release(now time.Time, e *Effects) {
	seen := ^uint64(0)
	for _, b := range t.brokers {
		if b.holds(now) {
			seen = min(seen, b.applied)
		}
	}
	n, _ := slices.BinarySearchFunc(t.waiting, seen, func(w wait, seen uint64) int {
		if w.index <= seen {
			return -1
		}
		return 1
	})
	e.Released = released(t.waiting[:n])
	t.waiting = slices.Delete(t.waiting, 0, n)
	if len(t.waiting) == 0 {
		return
	}
	for _, b := range t.brokers {
		if b.holds(now) && b.applied < t.waiting[0].index {
			e.wake(b.lease)
		}
	}
}

func (e *Effects) wake(at time.Time) {
	if e.Wake.IsZero() || at.Before(e.Wake) {
		e.Wake = at
	}
}

// demand asks for the change that a broker's state calls for, if any.
func (t *Tracker) demand(now time.Time, b *broker, e *Effects) {
	want, reason := t.want(now, b, e)
	if want == askNothing {
		b.asked = askNothing
		return
	}
	if b.asked == want && now.Before(b.askedAt.Add(again)) {
		e.wake(b.askedAt.Add(again))
		return
	}
	b.asked, b.askedAt = want, now
	e.wake(now.Add(again))
	switch want {
	case askFence:
		b.left = false // it is this office's doing from now on
		e.Fence = append(e.Fence, Fence{b.Broker, reason})
	case askUnfence:
		e.Unfence = append(e.Unfence, b.Broker)
	case askShutdown:
		e.Shutdown = append(e.Shutdown, b.Broker)
	}
}

func (t *Tracker) want(now time.Time, b *broker, e *Effects) (ask, string) {
	silent := now.Sub(b.heard)
	over := silent > t.cfg.Session
	if !over && !b.gone && !b.fenced {
		e.wake(b.heard.Add(t.cfg.Session + 1))
	}
	if b.fenced {
		if over || b.gone || b.wantFence || b.stopping() || b.applied < uint64(b.Epoch) {
			return askNothing, ""
		}
		return askUnfence, ""
	}
	switch {
	case b.gone:
		return askFence, "its process is gone: " + b.why
	case over:
		return askFence, fmt.Sprintf("no heartbeat for %s", silent.Round(step))
	case b.wantFence:
		return askFence, "it is not ready for clients"
	case b.stopping():
		return t.stop(now, b, e)
	case b.left && !b.superseded && b.applied >= uint64(b.Epoch): // it is there after all, and shall gain again
		return askUnfence, ""
	}
	return askNothing, ""
}

// stop lets a broker go on to its end. What nobody else can lead it leads to the last, so that the number of what it leads
// may stay above zero.
func (t *Tracker) stop(now time.Time, b *broker, e *Effects) (ask, string) {
	leads := t.img.Count(b.Node, image.Leads)
	if leads == 0 {
		return askFence, "it stops, and leads nothing any more"
	}
	if x, ok := t.img.Broker(b.Node); leads != b.leads || !ok || !x.InControlledShutdown {
		b.leads, b.leadsSince = leads, now
		return askShutdown, ""
	}
	if last := b.leadsSince.Add(stuck); now.Before(last) {
		e.wake(last)
		return askShutdown, ""
	}
	return askFence, fmt.Sprintf("it stops, and nobody else can lead %d of its partitions", leads)
}
