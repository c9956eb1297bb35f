// Package office is what the active controller does beside deciding. It watches the brokers and asks for the changes that
// their state calls for, keeps the members of the quorum to what the metadata says, and holds answers back until every
// broker that may be asked shows what they say. It begins when the quorum's core may decide and ends when it may not.
//
// # Duties of the caller
//
//  1. [Office.Take] behind every Advance of the core, before its answers are handed out.
//  2. [Office.Hold] with every answer of the core; what it returns goes to who asked.
//  3. [Office.Tick] with every tick of the core.
//  4. [Office.Supervise] when the core has nothing more to do: do what it says, and come back when it says. What it asked for
//     waits in the core then.
package office

import (
	"fmt"
	"slices"
	"time"

	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/liveness"
	"github.com/streambus/streambus/raftmeta/quorum"
)

const (
	// confirmEvery is how old a confirmation of the office becomes: leases are shorter by that.
	confirmEvery = 250 * time.Millisecond
	// pause is how long a command that failed is not asked for again: what refused it needs time to change.
	pause = 100 * time.Millisecond
)

// Config is who holds the office and how long silence is taken for life.
type Config struct {
	NodeID  int32
	RaftID  uint64
	Session time.Duration // see [liveness.Config]
	// Balance is how long partitions may be led by others than their first replicas, before those are elected that can lead.
	// 0 leaves it to people.
	Balance time.Duration
	// Unclean is how often partitions that nobody leads are looked at, for topics that have come to allow unclean elections. 0
	// is never.
	Unclean time.Duration
}

// Office belongs to one core. One goroutine owns both.
type Office struct {
	cfg  Config
	core *quorum.Core

	brokers   *liveness.Tracker // nil while the office is not held
	term      uint64
	confirmed time.Time // when a confirmation was last asked for
	// asked holds the commands of the office that are under way, with a zero time, and those that failed, with when.
	asked              map[about]time.Time
	uneven, leaderless time.Time // since when there are such partitions, or when they were last looked at; zero for none
	further            []step    // that are to be given: the next of commands that take several units, and what was not carried out
	fresh              []control.Request
}

// New is an office that is not held yet.
func New(cfg Config, core *quorum.Core) *Office { return &Office{cfg: cfg, core: core} }

// Held tells whether this controller is the active one, and has been since the last Take.
func (o *Office) Held() bool { return o.brokers != nil }

// Take keeps the office in step with the core, and returns what becomes of the answers that were held back when it ends.
func (o *Office) Take(now time.Time) []quorum.Answer {
	var answers []quorum.Answer
	term := o.core.Status().Term
	if o.Held() && (!o.core.Active() || term != o.term) {
		answers = o.Leave()
	}
	switch {
	case !o.core.Active():
	case o.Held():
		o.brokers.Image(now, o.core.Image())
	default:
		o.brokers = liveness.New(now, liveness.Config{Session: o.cfg.Session}, o.core.Image())
		o.term, o.asked = term, map[about]time.Time{}
		o.uneven, o.leaderless = time.Time{}, time.Time{}
		o.confirm(now)
		// The predecessor may have ended between the steps of moving leaders.
		o.ask(now, "a new active controller looks for partitions without a leader", &control.ElectLeaders{Leaderless: true})
	}
	return answers
}

// Leave ends the office; Take begins it anew if the core is still active. Who waited for a change to be seen everywhere is
// told that it is not known: asking again gets the same answer once it is seen.
func (o *Office) Leave() []quorum.Answer {
	if !o.Held() {
		return nil
	}
	// Whoever comes next has to be asked whether they may register.
	answers := o.core.Withdraw(func(cmd control.Command) bool {
		_, is := cmd.(*control.RegisterBroker)
		return is
	})
	for _, t := range o.brokers.Abandon() {
		answers = append(answers, quorum.Answer{Token: t.(quorum.Answer).Token, Err: quorum.ErrUnknown})
	}
	o.brokers, o.asked, o.further, o.fresh = nil, nil, nil, nil
	return answers
}

// Enqueue takes a request of somebody, unless it would register a broker in the place of one that may live, or while the
// office is not held and nobody can tell: that is answered at once.
func (o *Office) Enqueue(now time.Time, p quorum.Proposal) []quorum.Answer {
	if r, ok := p.Request.Command.(*control.RegisterBroker); ok {
		if !o.Held() {
			return []quorum.Answer{{Token: p.Token, Err: quorum.ErrNotLeader}}
		}
		if err := o.brokers.Admit(now, r.ID, r.Incarnation); err != nil {
			refusal := &control.Refusal{Code: control.DuplicateBrokerRegistration, Message: err.Error()}
			return []quorum.Answer{{Token: p.Token, Err: refusal}}
		}
	}
	o.core.Enqueue(p)
	return nil
}

// Hold keeps the answers that every broker has to see first, and those to what the office asked itself. A refusal rests on
// what others changed, which may be on its way to the brokers, so it waits as successes do.
func (o *Office) Hold(now time.Time, answers []quorum.Answer) (free []quorum.Answer) {
	for _, a := range answers {
		switch t := a.Token.(type) {
		case step:
			o.through(now, t, a)
			continue
		case confirmation:
			if a.Err == nil && o.Held() && t.term == o.term {
				o.brokers.Confirmed(t.asked)
			}
			continue
		}
		if a.Awaited && o.Held() && a.Decided() {
			o.brokers.Await(a.Index, a)
			continue
		}
		free = append(free, a)
	}
	return free
}

// confirmation is the token of a read that shows who leads: a majority answered it after it was asked.
type confirmation struct {
	asked time.Time
	term  uint64
}

// Tick has a majority confirm the office when that is due.
func (o *Office) Tick(now time.Time) {
	if o.Held() && now.Sub(o.confirmed) > confirmEvery {
		o.confirm(now)
	}
}

func (o *Office) confirm(now time.Time) {
	o.confirmed = now
	if o.core.Alone() {
		o.brokers.Confirmed(now)
		return
	}
	_ = o.core.Confirm(confirmation{now, o.term}) // an error: the office is not confirmed
}

// Heartbeat takes one of a broker. ErrNotLeader says that another controller is to be told: whoever is in office has applied
// what the broker has, and one that was deposed might find it not registered, or fenced, so that it may stop.
func (o *Office) Heartbeat(now time.Time, h liveness.Heartbeat) (liveness.Reply, error) {
	if !o.Held() || max(uint64(h.Epoch), h.Applied) > o.core.Image().Index() {
		return liveness.Reply{}, quorum.ErrNotLeader
	}
	if o.core.Alone() {
		o.confirm(now)
	}
	r, err := o.brokers.Heartbeat(now, h)
	if failed, asked := o.asked[about{"unfence", h.Node}]; asked && failed.IsZero() { // it is about to lead again
		r.ShouldShutDown = false
	}
	return r, err
}

// Closed says that a connection ended over which a broker sent heartbeats.
func (o *Office) Closed(node int32, incarnation image.UUID) {
	if o.Held() {
		o.brokers.Closed(node, incarnation)
	}
}

// Probe is a broker whose listener is to be dialled once.
type Probe struct {
	liveness.Broker
	term uint64 // of the office that wants to know
}

// Probed is what came of it.
func (o *Office) Probed(p Probe, found liveness.Finding, who image.UUID) {
	if o.Held() && o.term == p.term {
		o.brokers.Probed(p.Node, p.Incarnation, found, who)
	}
}

// Effects are what the caller has to do.
type Effects struct {
	Released []quorum.Answer
	Probes   []Probe
	Asked    []control.Request // what the core was asked for, to be told
	Changed  quorum.Change     // of the quorum, that was proposed, to be told
	Wake     time.Time         // when to come again if nothing happens before; zero for never
}

func (e *Effects) wake(at time.Time) {
	if e.Wake.IsZero() || at.Before(e.Wake) {
		e.Wake = at
	}
}

// Supervise looks at the brokers and at the members of the quorum.
func (o *Office) Supervise(now time.Time) (e Effects) {
	if !o.Held() {
		return e
	}
	e.Changed = o.reconcile(now)
	watched := o.brokers.Tick(now)
	for _, t := range watched.Released {
		e.Released = append(e.Released, t.(quorum.Answer))
	}
	e.Wake = watched.Wake
	o.further = slices.DeleteFunc(o.further, func(s step) bool {
		if now.Before(s.due) {
			e.wake(s.due)
			return false
		}
		e.wake(now)
		o.core.Enqueue(quorum.Proposal{Token: s, Request: s.request})
		return true
	})
	for _, f := range watched.Fence {
		o.ask(now, f.Reason, &control.FenceBroker{ID: f.Node, Epoch: f.Epoch, Reason: f.Reason})
	}
	for _, b := range watched.Unfence {
		o.ask(now, "it is there and has caught up", &control.UnfenceBroker{ID: b.Node, Epoch: b.Epoch})
	}
	for _, b := range watched.Shutdown {
		o.ask(now, "it stops", &control.BeginControlledShutdown{ID: b.Node, Epoch: b.Epoch})
	}
	img := o.core.Image()
	if due(&e, now, &o.uneven, o.cfg.Balance, img.NumNotPreferred()) {
		o.ask(now, "partitions are not led by their first replicas", &control.ElectLeaders{})
	}
	if due(&e, now, &o.leaderless, o.cfg.Unclean, img.NumLeaderless()) {
		o.ask(now, "nobody leads some partitions, whose topics may allow unclean elections by now", &control.ElectLeaders{Leaderless: true})
	}
	for _, b := range watched.Probe {
		e.Probes = append(e.Probes, Probe{b, o.term})
	}
	if len(o.fresh) > 0 {
		e.Asked, e.Wake = o.fresh, now
		o.fresh = nil
	}
	return e
}

// due tells whether partitions have been in a state for so long since they were last looked at. Where there are none, nobody
// has to come again for their sake.
func due(e *Effects, now time.Time, since *time.Time, every time.Duration, partitions int) bool {
	switch {
	case every <= 0:
		return false
	case partitions == 0:
		*since = time.Time{}
		return false
	case since.IsZero():
		*since = now
	}
	at := since.Add(every)
	if now.Before(at) {
		e.wake(at)
		return false
	}
	*since = now
	e.wake(now.Add(every))
	return true
}

// ask gives a command of the office's own, unless the same is under way: it may take many units, and its next step comes
// when this one is through.
func (o *Office) ask(now time.Time, cause string, cmd control.Command) {
	s := step{about: aboutOf(cmd), request: control.Request{Actor: fmt.Sprintf("controller %d", o.cfg.NodeID), Cause: cause, Command: cmd}}
	if failed, ok := o.asked[s.about]; ok && (failed.IsZero() || now.Before(failed.Add(pause))) {
		return
	}
	o.asked[s.about] = time.Time{}
	o.fresh = append(o.fresh, s.request)
	o.core.Enqueue(quorum.Proposal{Token: s, Request: s.request})
}

// step is the token of such a command.
type step struct {
	about   about
	request control.Request
	begun   bool      // it goes on with what was carried out in part
	due     time.Time // not before then
}

// about is what a command is, without its reasons.
type about struct {
	kind string
	node int32
}

func aboutOf(cmd control.Command) about {
	switch x := cmd.(type) {
	case *control.FenceBroker:
		return about{"fence", x.ID}
	case *control.UnfenceBroker:
		return about{"unfence", x.ID}
	case *control.BeginControlledShutdown:
		return about{"stop", x.ID}
	case *control.ElectLeaders:
		return about{fmt.Sprintf("elect %t", x.Leaderless), -1}
	default:
		return about{fmt.Sprintf("%T", cmd), -1}
	}
}

// through has a command given again that has more to do: by Supervise, so that everybody else has a turn before. One that was
// not carried out, as while leadership is being handed over, is asked for again by those that watch the brokers and the
// members; but none of them asks for the rest of one that is begun, or looks for partitions without a leader.
func (o *Office) through(now time.Time, s step, a quorum.Answer) {
	if !o.Held() {
		return
	}
	if a.Err != nil {
		if _, elects := s.request.Command.(*control.ElectLeaders); (s.begun || elects) && !a.Decided() {
			s.due = now.Add(pause)
			o.further = append(o.further, s)
			return
		}
		o.asked[s.about] = now
		return
	}
	s.begun = true
	switch reply := a.Reply.(type) {
	case *control.BrokerProgress:
		if reply.More {
			o.further = append(o.further, s)
			return
		}
	case *control.ElectedLeaders:
		if cmd, ok := s.request.Command.(*control.ElectLeaders); ok && reply.More {
			next := *cmd
			next.From = reply.Next
			s.request.Command = &next
			o.further = append(o.further, s)
			return
		}
	}
	delete(o.asked, s.about)
}
