package control

import (
	"slices"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// Commands about a broker change its state and the partitions it has a part in. Where more than [MaxChanges] partitions
// have to change, the reply says so, and the command is to be given again until it does not. Each cut between them is safe,
// also if nobody goes on:
//
//   - A broker that is fenced, removed or replaced by its next incarnation first stops gaining: with the first changes it is
//     marked as on its way out, so that it is not elected, enters no ISR and gets no new replica. Then it loses what it
//     leads, then what it is in sync with, and with the last changes, in one unit, it is fenced, removed or replaced. So
//     what was taken from it stays taken, no fenced broker ever leads, and a new incarnation never finds itself where the old
//     one was. Fencing first would leave partitions led by a fenced broker; fencing last without the mark would give
//     back to the broker what was just taken.
//   - A broker that is unfenced is so from the first unit on, and then elected where nobody leads. Electing first would have a
//     fenced broker lead. A partition that was not reached yet has no leader, as before.
//   - A broker in controlled shutdown is marked first, and leads on until another does.
//
// A mark that was left behind by a controller that failed is taken off by UnfenceBroker, or by going on. The next one gives
// the former once it has heard of the broker, see package liveness.

// BrokerProgress is the reply to commands about a broker.
type BrokerProgress struct {
	// More says that the same command has to be given again.
	More bool
	// Leads is how many partitions the broker leads after this step.
	Leads int
}

func progress(m *image.Image, id int32, s *sweep) *BrokerProgress {
	leads := m.Count(id, image.Leads)
	for _, r := range s.records {
		change := r.(*image.PartitionChangeRecord)
		t, _ := m.TopicByID(change.Topic)
		p, _ := t.Partition(change.Index)
		if p.Leader == id {
			leads--
		}
		if change.Partition.Leader == id {
			leads++
		}
	}
	return &BrokerProgress{More: s.more, Leads: leads}
}

// registered finds a broker's incarnation.
func registered(m *image.Image, id int32, epoch int64) (*image.Broker, error) {
	b, ok := m.Broker(id)
	var err error
	switch {
	case !ok:
		_, err = refuse(BrokerNotRegistered, "Broker ID %d is not currently registered", id)
	case b.Epoch != epoch:
		_, err = refuse(StaleBrokerEpoch, "Expected broker epoch %d, but got broker epoch %d", b.Epoch, epoch)
	}
	return b, err
}

func leaving(b *image.Broker) *image.BrokerChangeRecord {
	return &image.BrokerChangeRecord{ID: b.ID, Epoch: b.Epoch, Fenced: b.Fenced, InControlledShutdown: true}
}

// decision is the next state of a partition, and whether it differs.
type decision func(rules, *image.Partition) (image.Partition, bool)

// takeOut goes through what a broker leads, then through its places in other ISRs.
func (s *sweep) takeOut(m *image.Image, id int32, decide decision) {
	s.run(m.Partitions(id, image.Leads), decide)
	s.run(m.Partitions(id, image.InSync), func(r rules, p *image.Partition) (image.Partition, bool) {
		if p.Leader == id { // had its turn
			return *p, false
		}
		return decide(r, p)
	})
}

// dropEligible goes through a broker's places in ELRs, where its replica is lost.
func (s *sweep) dropEligible(m *image.Image, id int32, lost func(*image.Partition) bool) {
	s.run(m.OutOfSync(id), func(r rules, p *image.Partition) (image.Partition, bool) {
		if !slices.Contains(p.ELR, id) || !lost(p) {
			return *p, false
		}
		return turn{after: s.after, rules: r, isr: p.ISR, lost: id}.settle(p)
	})
}

// lead lets a broker lead what nobody leads.
func (s *sweep) lead(m *image.Image, id int32) {
	s.run(m.Leaderless(id), func(r rules, p *image.Partition) (image.Partition, bool) {
		next, _ := turn{after: s.after, rules: r, isr: p.ISR, lost: noBroker}.settle(p)
		return next, next.Leader != image.NoLeader
	})
}

// RegisterBroker makes an incarnation of a broker known. Its epoch is the index of the unit that does. It is fenced: it leads
// once UnfenceBroker says that it is there and has caught up.
//
// From then on nobody counts on what an earlier incarnation led or was in sync with: others lead, or nobody does, and if the
// new one is to lead it does so in another leader epoch. What the earlier one wrote and never flushed may be gone, and by
// the epoch its readers find out. For the same reason a replica is eligible only if the earlier incarnation ended in order,
// and the new one has its directory. But the last one in sync stays in the ISR: its directory may come back, and nobody else
// has everything that was acknowledged. A directory that was wiped has another id.
type RegisterBroker struct {
	ID          int32
	Incarnation image.UUID
	Listeners   []image.Endpoint
	Rack        string
	Dirs        []image.UUID
	Levels      image.Levels
	// PreviousBrokerEpoch is the epoch that the broker had when it last stopped in order, below 0 for none: what KIP-966
	// keeps in the file of a clean shutdown.
	PreviousBrokerEpoch int64
}

// Eval implements Command. Checks stand in the order of Kafka's ClusterControlManager.registerBroker.
func (c *RegisterBroker) Eval(m *image.Image, _ time.Time) (Result, error) {
	old, known := m.Broker(c.ID)
	if known && old.Incarnation == c.Incarnation {
		return Result{Reply: progress(m, c.ID, &sweep{})}, nil
	}
	// Whether the incarnation that is registered may be alive, the active controller has looked at: see liveness.Tracker.Admit.
	if err := c.check(m); err != nil {
		return Result{}, err
	}
	record := &image.BrokerRecord{
		ID: c.ID, Incarnation: c.Incarnation, Listeners: c.Listeners, Rack: c.Rack, Dirs: c.Dirs, Levels: c.Levels, Fenced: true,
	}
	s := &sweep{after: as(m, record)}
	if known { // else its replicas, if it has any, are the last ones in sync: UnregisterBroker took the others out
		c.replace(s, m, old)
	}
	var mark image.Record = record
	if s.more { // the old incarnation goes first; nobody is the new one until that is done
		mark = leaving(old)
	}
	return Result{Records: append([]image.Record{mark}, s.records...), Reply: progress(m, c.ID, s)}, nil
}

func (c *RegisterBroker) check(m *image.Image) error {
	var err error
	switch had := m.KnownDirs(c.ID); {
	case c.ID < 0:
		_, err = refuse(InvalidRegistration, "Broker id %d is negative", c.ID)
	case len(c.Dirs) == 0:
		_, err = refuse(InvalidRegistration, "No directories specified in request")
	case had+len(c.Dirs) > image.MaxDirs:
		_, err = refuse(TooManyDirectories, "broker %d has had %d data directories, and an id can have %d: give it a new node.id", c.ID, had, image.MaxDirs)
	}
	for i, dir := range c.Dirs {
		switch {
		case err != nil:
			return err
		case dir.IsZero():
			_, err = refuse(InvalidRegistration, "Reserved directory ID in request")
		case slices.Contains(c.Dirs[:i], dir):
			_, err = refuse(InvalidRegistration, "Duplicate directory ID in request")
		}
		for _, b := range m.Brokers() {
			if err == nil && b.ID != c.ID && slices.Contains(b.Dirs, dir) {
				_, err = refuse(InvalidRegistration, "Broker %d is already registered with directory %s", b.ID, dir)
			}
		}
	}
	if level := m.Level(); err == nil && (level < c.Levels.Min || level > c.Levels.Max) {
		_, err = refuse(UnsupportedVersion, "Unable to register because the broker does not support finalized version %d of %s. The broker wants a version between %d and %d, inclusive.",
			level, MetadataVersion, c.Levels.Min, c.Levels.Max)
	}
	return err
}

// replace takes the earlier incarnation out. The new one cannot stand for all that it had. Both are meant by the same id.
func (c *RegisterBroker) replace(s *sweep, m *image.Image, old *image.Broker) {
	clean := c.PreviousBrokerEpoch == old.Epoch
	now, _ := s.after.Broker(c.ID)
	lost := func(p *image.Partition) bool {
		place := p.Dirs[slices.Index(p.Replicas, c.ID)]
		return !clean || place != image.NoDir && !slices.Contains(c.Dirs, now.Dir(place))
	}
	s.takeOut(m, c.ID, func(r rules, p *image.Partition) (image.Partition, bool) {
		t := turn{after: s.after, rules: r, isr: without(p.ISR, c.ID), lost: noBroker}
		if lost(p) {
			t.lost = c.ID
		}
		return t.settle(p)
	})
	s.dropEligible(m, c.ID, lost)
}

// FenceBroker takes a broker for gone: it leads nothing and is in sync with nothing, but for the partitions of which it is
// the last one in sync.
type FenceBroker struct {
	ID     int32
	Epoch  int64
	Reason string // for the history, the command does not look at it
}

// Eval implements Command.
func (c *FenceBroker) Eval(m *image.Image, _ time.Time) (Result, error) {
	b, err := registered(m, c.ID, c.Epoch)
	if err != nil {
		return Result{}, err
	}
	if b.Fenced {
		return Result{Reply: &BrokerProgress{}}, nil
	}
	return takenOut(m, b, &image.BrokerChangeRecord{ID: b.ID, Epoch: b.Epoch, Fenced: true}, noBroker)
}

// takenOut is a step of taking a broker out, of which last is the end.
func takenOut(m *image.Image, b *image.Broker, last image.Record, lost int32) (Result, error) {
	s := &sweep{after: as(m, last)}
	s.takeOut(m, b.ID, func(r rules, p *image.Partition) (image.Partition, bool) {
		return turn{after: s.after, rules: r, isr: without(p.ISR, b.ID), lost: lost}.settle(p)
	})
	if lost == b.ID {
		s.dropEligible(m, b.ID, func(*image.Partition) bool { return true })
	}
	mark := []image.Record{last}
	if s.more {
		mark[0] = leaving(b)
	}
	return Result{Records: append(mark, s.records...), Reply: progress(m, b.ID, s)}, nil
}

// UnfenceBroker takes a broker for being there. It leads what nobody leads and it can, and may enter ISRs.
type UnfenceBroker struct {
	ID    int32
	Epoch int64
}

// Eval implements Command.
func (c *UnfenceBroker) Eval(m *image.Image, _ time.Time) (Result, error) {
	b, err := registered(m, c.ID, c.Epoch)
	if err != nil {
		return Result{}, err
	}
	unfenced := &image.BrokerChangeRecord{ID: b.ID, Epoch: b.Epoch}
	s := &sweep{after: as(m, unfenced)}
	s.lead(m, b.ID)
	var mark []image.Record
	if !b.Active() {
		mark = append(mark, unfenced)
	}
	return Result{Records: append(mark, s.records...), Reply: progress(m, b.ID, s)}, nil
}

// BeginControlledShutdown moves leadership away from a broker that is about to stop, and takes it out of ISRs, where others
// can do without it. What nobody else can lead it leads on. The command may be given as often as one likes: others may have
// come into sync.
type BeginControlledShutdown struct {
	ID    int32
	Epoch int64
}

// Eval implements Command.
func (c *BeginControlledShutdown) Eval(m *image.Image, _ time.Time) (Result, error) {
	b, err := registered(m, c.ID, c.Epoch)
	if err != nil {
		return Result{}, err
	}
	if b.Fenced {
		return Result{Reply: &BrokerProgress{}}, nil
	}
	s := &sweep{after: as(m, leaving(b))}
	decide := func(r rules, p *image.Partition) (image.Partition, bool) {
		r.unclean = false // it is still there, with everything
		next, changed := turn{after: s.after, rules: r, isr: without(p.ISR, b.ID), lost: noBroker}.settle(p)
		return next, changed && next.Leader != image.NoLeader
	}
	s.takeOut(m, b.ID, decide)
	var mark []image.Record
	if !b.InControlledShutdown {
		mark = append(mark, leaving(b))
	}
	return Result{Records: append(mark, s.records...), Reply: progress(m, b.ID, s)}, nil
}

// UnregisterBroker forgets a broker that will not come back, whether it is there or not. Its replicas stay assigned to it.
type UnregisterBroker struct{ ID int32 }

// Eval implements Command.
func (c *UnregisterBroker) Eval(m *image.Image, _ time.Time) (Result, error) {
	b, ok := m.Broker(c.ID)
	if !ok {
		return refuse(BrokerNotRegistered, "Broker ID %d is not currently registered", c.ID)
	}
	return takenOut(m, b, &image.BrokerRemovalRecord{ID: b.ID, Epoch: b.Epoch}, b.ID)
}
