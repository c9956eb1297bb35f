package server

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// sayAgain is how long a line about one peer stands for all of its kind.
	sayAgain = time.Minute
	// maxSubjects bounds what is remembered as said. Peers beyond it share a line.
	maxSubjects = 1000
)

// seldom lets a line through once per subject and interval: what anybody on the
// network can cause must not fill the log.
type seldom struct {
	mu   sync.Mutex // guards the following
	said map[subject]*saying
}

type subject struct {
	what string
	who  netip.Addr
}

type saying struct {
	at   time.Time
	kept int // lines that were not written since
}

// may tells whether a line may be written now, and how many were not since the
// last one.
func (s *seldom) may(now time.Time, what string, who netip.Addr) (ok bool, kept int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	about := subject{what, who}
	if s.said[about] == nil && len(s.said) >= maxSubjects {
		s.forget(now)
		if len(s.said) >= maxSubjects {
			about.who = netip.Addr{}
		}
	}
	last := s.said[about]
	if last == nil {
		if s.said == nil {
			s.said = map[subject]*saying{}
		}
		s.said[about] = &saying{at: now}
		return true, 0
	}
	if now.Sub(last.at) < sayAgain {
		last.kept++
		return false, 0
	}
	kept = last.kept
	*last = saying{at: now}
	return true, kept
}

// forget drops what may be said again.
func (s *seldom) forget(now time.Time) {
	for about, last := range s.said {
		if now.Sub(last.at) >= sayAgain {
			delete(s.said, about)
		}
	}
}
