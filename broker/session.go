package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/streambus/streambus/broker/peer"
	"github.com/streambus/streambus/raftmeta"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/liveness"
)

const (
	// beatTime is what a heartbeat waits for its answer: then the controller is
	// taken for gone, and another is tried.
	beatTime = 500 * time.Millisecond
	// silentTime is after how long without an answer a broker that stops does so
	// without the controllers.
	silentTime = 2 * time.Second
	// currentTime is what an answer waits for the index that it has to show.
	currentTime = 200 * time.Millisecond
	// registerPause is between two tries to register, at first; it doubles. The
	// former process of a node that was started anew is found gone within moments,
	// which is nothing to tell of.
	registerPause, longestPause = 2 * time.Millisecond, 100 * time.Millisecond
	registerQuiet               = 500 * time.Millisecond
)

// session is this broker's standing with the controllers: it registers, sends
// heartbeats, and knows whether the image may be answered from.
type session struct {
	controllers *peer.Controllers
	view        *raftmeta.View
	log         *slog.Logger
	broker      control.RegisterBroker
	actor       string
	stale       atomic.Uint64 // answers that were given from an image that may be old

	wake chan struct{} // holds a token when a heartbeat is due before its time

	mu       sync.Mutex // guards the following
	lease    liveness.Lease
	epoch    int64
	ready    bool
	stopping bool
	answered time.Time     // the last heartbeat
	admitted time.Time     // when the controllers counted on the broker first
	in       chan struct{} // closed once the controllers count on the broker
	out      chan struct{} // closed once nobody needs it any more
}

func newSession(c *peer.Controllers, v *raftmeta.View, log *slog.Logger, b control.RegisterBroker) *session {
	return &session{
		controllers: c, view: v, log: log, broker: b, actor: fmt.Sprintf("broker %d", b.ID),
		wake: make(chan struct{}, 1), in: make(chan struct{}), out: make(chan struct{}),
	}
}

// register makes the broker known, and returns when the image that knows it is
// applied here. While another process may be alive under its id it waits: such
// a one is found gone, or its session ends.
func (s *session) register(ctx context.Context) error {
	begun, told, pause := time.Now(), false, registerPause
	cause := "it started"
	if epoch := s.broker.PreviousBrokerEpoch; epoch >= 0 {
		cause = fmt.Sprintf("it started, and had stopped in order in epoch %d", epoch)
	}
	for {
		cmd := s.broker
		o := s.controllers.Submit(ctx, []control.Request{{Actor: s.actor, Cause: cause, Command: &cmd}})[0]
		r, refused := errors.AsType[*control.Refusal](o.Err)
		if refused && r.Code == control.DuplicateBrokerRegistration && ctx.Err() == nil {
			if !told && time.Since(begun) > registerQuiet {
				told = true
				s.log.Warn("waiting to register", "reason", r.Message)
			}
			select {
			case <-time.After(pause):
				pause = min(2*pause, longestPause)
				continue
			case <-ctx.Done():
			}
		}
		if p, ok := o.Reply.(*control.BrokerProgress); ok && p.More {
			continue // its former self had a part in more partitions than one unit changes
		}
		if o.Err != nil {
			return fmt.Errorf("the broker could not register with the controller: %w", o.Err)
		}
		if err := s.view.Wait(ctx, o.Index); err != nil {
			return fmt.Errorf("the broker is registered, and its metadata did not come as far: %w", err)
		}
		return s.registered()
	}
}

// currentEpoch is that of the registration.
func (s *session) currentEpoch() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch
}

func (s *session) registered() error {
	me, ok := s.view.Image().Broker(s.broker.ID)
	if !ok || me.Incarnation != s.broker.Incarnation {
		return fmt.Errorf("another process has registered as broker %d: give one of the two another node.id", s.broker.ID)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch = me.Epoch
	return nil
}

// setReady says that clients can be served.
func (s *session) setReady() {
	s.mu.Lock()
	s.ready = true
	s.mu.Unlock()
	s.hurry()
}

func (s *session) hurry() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// shown is told of every image that is answered from.
func (s *session) shown(index uint64, awaited bool) {
	s.mu.Lock()
	if awaited {
		s.lease.Applied(index)
	}
	if me, ok := s.view.Image().Broker(s.broker.ID); ok && me.Epoch == s.epoch && me.Active() && !isClosed(s.in) {
		close(s.in)
		s.admitted = time.Now()
		awaited = true // it may have a lease from now on
	}
	s.mu.Unlock()
	if awaited {
		s.hurry()
	}
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// run sends heartbeats until ctx ends, or this process has no place in the
// cluster any more.
func (s *session) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-s.wake:
		case <-ctx.Done():
			return nil
		}
		if err := s.beat(ctx); err != nil {
			return err
		}
		s.mu.Lock()
		next := s.lease.Next()
		s.mu.Unlock()
		timer.Reset(max(0, time.Until(next)))
	}
}

func (s *session) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, beatTime)
	defer cancel()
	sent := time.Now()
	s.mu.Lock()
	h := liveness.Heartbeat{
		Node: s.broker.ID, Incarnation: s.broker.Incarnation, Epoch: s.epoch, Applied: s.view.Image().Index(),
		WantFence: !s.ready, WantShutdown: s.stopping,
	}
	s.lease.Sent(sent, h.Applied)
	s.mu.Unlock()
	reply, err := s.controllers.Heartbeat(ctx, h)
	switch {
	case errors.Is(err, liveness.ErrStale), errors.Is(err, liveness.ErrNotRegistered), errors.Is(err, liveness.ErrDead):
		return s.over(err)
	case err != nil:
		s.log.Debug("a heartbeat was not answered", "error", err)
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answered = time.Now()
	s.lease.Granted(sent, reply.Lease)
	if reply.Stops(s.view.Image(), s.broker.ID, s.broker.Incarnation) && !isClosed(s.out) {
		close(s.out)
	}
	return nil
}

// over ends a broker that the controllers do not count on and will not again:
// another process has its id, or it was unregistered, or its listener was found
// closed and others lead what it led. Its next life is a broker like any other,
// where this one would answer clients for as long as nobody looks after it.
func (s *session) over(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopping {
		return fmt.Errorf("this broker must stop, and may be started again: %w", err)
	}
	if !isClosed(s.out) { // what it wants
		close(s.out)
	}
	return nil
}

// current is the image that answers may be given from: one that holds every
// change that was answered with success anywhere. If no controller can be reached
// it is the newest there is, and that is counted.
func (s *session) current(ctx context.Context) *image.Image {
	s.mu.Lock()
	holds := s.lease.Holds(time.Now())
	s.mu.Unlock()
	if holds {
		return s.view.Image()
	}
	ctx, cancel := context.WithTimeout(ctx, currentTime)
	defer cancel()
	index, err := s.controllers.Current(ctx)
	if err == nil {
		err = s.view.Wait(ctx, index)
	}
	if err != nil {
		s.stale.Add(1)
	}
	return s.view.Image()
}

// standing says why clients should not count on this broker, nil if they may. What is
// over within a session, as an election is, is nothing to tell of: nobody is fenced
// for it.
func (s *session) standing(img *image.Image, now time.Time, session time.Duration) error {
	if me, ok := img.Broker(s.broker.ID); !ok || me.Fenced {
		return errors.New("this broker is fenced: the controllers have not heard from it for its session, and others lead what it led")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	leased := s.admitted // the first lease comes after
	if until := s.lease.Until(); until.After(leased) {
		leased = until
	}
	switch silent, without := now.Sub(s.answered), now.Sub(leased); {
	case silent > session:
		return fmt.Errorf("no controller has answered for %s, more than broker.session.timeout.ms (%s): this broker is fenced, or will be", silent.Round(time.Millisecond), session)
	case without > session:
		return fmt.Errorf("the controllers have granted no lease for %s, more than broker.session.timeout.ms (%s): most of them are away, or this broker does not get what they decide", without.Round(time.Millisecond), session)
	}
	return nil
}

// hasOthers tells whether there are other brokers.
func (s *session) hasOthers() bool {
	return slices.ContainsFunc(s.view.Image().Brokers(), func(x *image.Broker) bool { return x.ID != s.broker.ID && !x.Fenced })
}

// leave gives the broker's partitions to others, and returns when nobody needs
// it any more, or ctx ends. A broker that is alone has nobody to give them to.
func (s *session) leave(ctx context.Context) {
	if !s.hasOthers() {
		return
	}
	s.mu.Lock()
	s.stopping = true
	s.answered = time.Now()
	s.mu.Unlock()
	s.hurry()
	silent := time.NewTimer(silentTime)
	defer silent.Stop()
	for {
		select {
		case <-s.out:
			return
		case <-ctx.Done():
			s.log.Warn("this broker stops before its partitions are led by others", "reason", context.Cause(ctx))
			return
		case <-silent.C:
		}
		s.mu.Lock()
		left := time.Until(s.answered.Add(silentTime))
		s.mu.Unlock()
		if left <= 0 {
			s.log.Warn("this broker stops before its partitions are led by others", "reason", "no controller answers")
			return
		}
		silent.Reset(left)
	}
}
