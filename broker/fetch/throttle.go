package fetch

import (
	"maps"
	"slices"
	"time"
)

// debt is how long a follower is not to be given records of a partition.
func (ask *Ask) debt(follower *Follower) time.Duration {
	if t := ask.Replica.Throttles(follower.ID); t != nil {
		return t.Wait(time.Now())
	}
	return 0
}

// charge counts what a follower is given, where that is throttled.
func charge(follower *Follower, rows []Row) {
	if follower == nil {
		return
	}
	for i := range rows {
		n := rows[i].Records.Len()
		if n == 0 {
			continue
		}
		if t := rows[i].Replica.Throttles(follower.ID); t != nil {
			t.Take(time.Now(), n)
		}
	}
}

// throttle has a pass give a follower no records of a partition while there is debt,
// and sees that it is looked at again when that is paid. That is for the pass alone,
// since the follower does not ask again.
func (s *session) throttle(p *part, ask *Ask) {
	if s.follower == nil || ask.Err != nil || ask.Quiet {
		return
	}
	wait := ask.debt(s.follower)
	if wait == 0 {
		return
	}
	ask.Quiet = true
	s.dirtyMu.Lock()
	defer s.dirtyMu.Unlock()
	s.held[p] = struct{}{}
	if s.hold == nil {
		s.hold = time.AfterFunc(wait, s.release)
	} else {
		s.hold.Reset(wait)
	}
}

// release marks what was held.
func (s *session) release() {
	s.dirtyMu.Lock()
	held := slices.Collect(maps.Keys(s.held))
	clear(s.held)
	s.dirtyMu.Unlock()
	for _, p := range held {
		s.mark(p)
	}
}
