package replica

import (
	"context"
	"slices"
	"time"

	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/raftmeta/image"
)

const (
	// maxISRChanges bounds the partitions of one request to the controller.
	maxISRChanges = 1000
	// isrPause is what waits between a request without an answer and the next.
	isrPause = 100 * time.Millisecond
)

// ISRChange is what a leader asks the controller for.
type ISRChange struct {
	Topic     image.UUID
	Partition int32
	partition.Change
}

// ISRAnswer is what came of an ISRChange.
type ISRAnswer struct {
	Verdict        Verdict
	PartitionEpoch int32
	ISR            []int32
}

// Verdict says how an ISRChange ended.
type Verdict int

// Verdicts. The zero one is that nobody knows: it is asked for again.
const (
	Unanswered Verdict = iota
	Made
	Declined
	// Superseded says that the metadata has changed meanwhile, which the image will
	// tell. Until then both sets count.
	Superseded
)

// propose has the controller asked for a change.
func (m *Manager) propose(r *Replica) {
	m.isrMu.Lock()
	defer m.isrMu.Unlock()
	if r.proposes {
		return
	}
	r.proposes = true
	m.proposers = append(m.proposers, r)
	m.hurryISR()
}

func (m *Manager) hurryISR() {
	select {
	case m.proposed <- struct{}{}:
	default:
	}
}

// alterISRs asks the controller, one request at a time: what comes meanwhile
// gathers, and goes together.
func (m *Manager) alterISRs(ctx context.Context) error {
	for {
		select {
		case <-m.proposed:
		case <-ctx.Done():
			return nil
		}
		if m.alterISR(ctx) {
			continue
		}
		select {
		case <-time.After(isrPause):
		case <-ctx.Done():
			return nil
		}
	}
}

// alterISR makes one request. What is not answered is to be asked for again.
func (m *Manager) alterISR(ctx context.Context) (answered bool) {
	asking, changes := m.proposals()
	if len(changes) == 0 {
		return true
	}
	answered = true
	for i, a := range m.cfg.AlterISR(ctx, changes) {
		asking[i].altered(changes[i].Change, a)
		if a.Verdict == Unanswered {
			answered = false
			m.propose(asking[i])
		}
	}
	return answered
}

// proposals takes what waits to be asked for.
func (m *Manager) proposals() (asking []*Replica, changes []ISRChange) {
	m.isrMu.Lock()
	n := min(len(m.proposers), maxISRChanges)
	waiting := m.proposers[:n]
	m.proposers = slices.Clone(m.proposers[n:])
	for _, r := range waiting {
		r.proposes = false
	}
	if len(m.proposers) > 0 {
		m.hurryISR()
	}
	m.isrMu.Unlock()
	for _, r := range waiting {
		if c, ok := r.proposal(); ok {
			asking = append(asking, r)
			changes = append(changes, ISRChange{r.key.topic, r.key.partition, c})
		}
	}
	return asking, changes
}

func (r *Replica) proposal() (partition.Change, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.part.Proposal()
}

// altered is called once for each change that was asked for.
func (r *Replica) altered(c partition.Change, a ISRAnswer) {
	r.m.metrics.altered(c, a.Verdict)
	r.act(func(now time.Time) partition.Effects {
		switch a.Verdict {
		case Made:
			return r.part.Altered(c, a.PartitionEpoch, a.ISR, now)
		case Declined:
			return r.part.Declined(c, now)
		}
		return partition.Effects{}
	})
}

// lag looks for followers that are too far behind.
func (m *Manager) lag(ctx context.Context) error {
	tick := time.NewTicker(m.cfg.MaxLag / 2)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			m.judge(m.image.Load())
		case <-ctx.Done():
			return nil
		}
	}
}

// judge looks at the followers of all partitions that are led here.
func (m *Manager) judge(img *image.Image) {
	may := func(id int32, epoch int64) bool { return mayBeInSync(img, id, epoch) }
	for _, r := range m.all() {
		r.act(func(now time.Time) partition.Effects { return r.part.Tick(now, may) })
	}
}

// mayBeInSync tells whether the metadata has an incarnation of a broker as one
// that is there, and stays.
func mayBeInSync(img *image.Image, id int32, epoch int64) bool {
	b, ok := img.Broker(id)
	return ok && b.Epoch == epoch && b.Active()
}

// brokersDiffer tells whether a broker has come, gone, or changed its state.
func brokersDiffer(a, b *image.Image) bool {
	x, y := a.Brokers(), b.Brokers()
	if len(x) != len(y) {
		return true
	}
	for i := range x {
		if x[i] != y[i] {
			return true
		}
	}
	return false
}
