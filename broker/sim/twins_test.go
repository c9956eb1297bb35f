package sim

import (
	"errors"
	"slices"

	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/liveness"
)

// double starts a second process of a broker's node: another machine was given the
// same node id. Beside the first it is to be refused; while the first stands still,
// or starts anew, or has lost its address to the second, it takes its place.
func (w *world) double(b *broker) {
	if !b.up || b.epoch == 0 || b.twin || w.doubled(b.node) {
		return
	}
	t := &broker{process: w.newProcess(b.name + ", twin"), node: b.node, before: -1, dir: b.otherDir, twin: true}
	if w.chance.IntN(3) == 0 { // of a copied disk
		t.dir = b.dir
	}
	lives := sec + w.chance.Int64N(15*sec)
	switch w.chance.IntN(4) {
	case 0:
		w.stats["second processes that start with the first"]++
		b.crash()
		w.begin(t, lives)
		w.after(w.chance.Int64N(200*ms), "start", b.again)
	case 1:
		w.stats["second processes beside the first"]++
		w.begin(t, lives)
	case 2:
		w.stats["second processes beside a paused one"]++
		w.pause(&b.process, 15*sec)
		w.begin(t, lives)
	default:
		if t.brief = w.chance.IntN(3) > 0; t.brief {
			lives = sec
		}
		w.moveAddress(b, t, lives)
	}
}

func (w *world) doubled(node int32) bool {
	return slices.ContainsFunc(w.twins, func(t *broker) bool { return t.node == node })
}

func (w *world) begin(t *broker, lives int64) {
	w.twins = append(w.twins, t)
	t.start()
	w.after(lives, "end", func() { w.endTwin(t) })
}

// moveAddress gives a broker's address to another process. Who has lost its address
// hears of nobody meanwhile, and an address moves no faster than a lease runs out:
// without that, it would prove nothing that another process answers there.
func (w *world) moveAddress(b, t *broker, lives int64) {
	var links [][2]*process
	for _, c := range w.controllers {
		links = append(links, [2]*process{&b.process, &c.process}, [2]*process{&c.process, &b.process})
	}
	const wait = 1500 * ms
	w.net.separate(links, wait+lives+100*ms)
	w.after(wait, "move", func() {
		if w.healed || w.doubled(b.node) {
			return
		}
		w.stats["second processes at a moved address"]++
		if b.lease.Holds(b.clock()) {
			w.broken("%s has been cut off for longer than a lease, and holds one", b.name)
		}
		b.elsewhere, b.displaced = t, true
		w.begin(t, lives)
	})
}

// endTwin ends the mistake.
func (w *world) endTwin(t *broker) {
	if i := slices.Index(w.twins, t); i >= 0 {
		w.twins = slices.Delete(w.twins, i, i+1)
		w.crashBroker(t)
	}
	for _, b := range w.brokers {
		if b.elsewhere == t {
			b.elsewhere = nil
		}
	}
}

func (w *world) everyBroker() []*broker { return append(slices.Clip(w.brokers), w.twins...) }

// seen is told that a controller found it. Some end then, with nothing done but
// that the first is taken for gone.
func (b *broker) seen() {
	if b.brief {
		b.w.after(ms, "end", func() { b.w.endTwin(b) })
	}
}

// listener is who answers at the address that an incarnation registered.
func (b *broker) listener() *broker {
	if b.elsewhere != nil {
		return b.elsewhere
	}
	return b
}

// dismissed hears that the controllers do not count on this incarnation, and ends.
func (b *broker) dismissed(c *controller, err error) {
	w := b.w
	switch dead := errors.Is(err, liveness.ErrDead); {
	case dead && !b.displaced:
		w.broken("%s lives, and %s took it for dead: %v", b.name, c.name, err)
	case dead:
		w.stats["found gone by who answers in its place"]++
	case w.replaced(b):
		w.stats["replaced, and stopped"]++
	default:
		w.broken("%s is registered, and %s says: %v", b.name, c.name, err)
	}
	w.tell("%s stops: %v", b.name, err)
	if b.stopping { // what it wants
		b.stopped()
		return
	}
	w.crashBroker(b)
}

// replaced tells whether another incarnation of the node is registered by now.
func (w *world) replaced(b *broker) bool {
	x, ok := w.oracle.img.Broker(b.node)
	return ok && x.Incarnation != b.incarnation
}

// replaced tells whether an incarnation asks for a place that it had and lost.
func (o *oracle) replaced(before *image.Image, r *image.OperationRecord) bool {
	x, ok := before.Broker(r.Node)
	return ok && o.registered[r.Incarnation] > 0 && x.Incarnation != r.Incarnation
}

// silence looks at a broker that is fenced because nobody hears of it. Who was given
// a lease was heard of by whoever is in office now, or before it took office; a
// second is what a lease may be confirmed before. It may be heard of again before
// its fence is committed.
func (o *oracle) silence(index uint64, old *image.Broker) {
	b := o.w.homes[old.Incarnation]
	o.w.stats["fences for silence"]++
	if b.up && b.incarnation == old.Incarnation && b.silent < 7*sec {
		o.w.broken("unit %d fences %s for its silence, and it had been given a lease %.1f s before", index, b.name, float64(b.silent)/1e9)
	}
}

// successor looks at a registration in the place of another incarnation.
func (o *oracle) successor(index uint64, old *image.Broker, r *image.BrokerRecord) {
	b := o.w.homes[old.Incarnation]
	if !b.up || b.incarnation != old.Incarnation {
		return
	}
	o.w.stats["living processes replaced"]++
	if b.lease.Holds(b.clock()) {
		o.w.broken("I15: unit %d registers incarnation %s of node %d, and %s lives and holds a lease", index, r.Incarnation, r.ID, b.name)
	}
	// When it was admitted, the unit that takes off the fence may have been under way.
	if units := o.w.stats["units"] - o.unfenced[old.Incarnation]; !old.Fenced && !b.displaced && units > 10 {
		o.w.broken("I15: unit %d registers incarnation %s of node %d, and %s lives and has not been fenced", index, r.Incarnation, r.ID, b.name)
	}
}
