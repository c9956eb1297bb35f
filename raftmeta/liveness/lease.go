package liveness

import "time"

// renew is how often a broker reports: often enough that a lost heartbeat or two cost no lease.
const renew = 300 * time.Millisecond

// Lease is the broker's side: whether it may answer from its image without asking a controller, and when it has to report.
// One lock or goroutine owns it.
//
// Who answers asks Holds first and takes the image then: the other way round the image may be older than the lease.
type Lease struct {
	until    time.Time
	sent     time.Time
	reported uint64 // by the last heartbeat
	awaited  uint64
}

// Sent says that a heartbeat leaves, and what it reports as applied.
func (l *Lease) Sent(now time.Time, applied uint64) {
	l.sent, l.reported = now, max(l.reported, applied)
}

// Granted is what the answer to a heartbeat says that was sent at a time. Answers may come in any order.
func (l *Lease) Granted(sent time.Time, lease time.Duration) {
	if end := sent.Add(lease); lease > 0 && end.After(l.until) {
		l.until = end
	}
}

// Holds tells whether the image may be answered from.
func (l *Lease) Holds(now time.Time) bool { return now.Before(l.until) }

// Until is when the last one that was granted ends, zero if none was.
func (l *Lease) Until() time.Time { return l.until }

// Applied says that a unit that somebody waits for is in the image that is answered from.
func (l *Lease) Applied(index uint64) { l.awaited = max(l.awaited, index) }

// Next is when the next heartbeat is due: at once, which is the zero time, when somebody waits for what was not reported.
func (l *Lease) Next() time.Time {
	if l.awaited > l.reported {
		return time.Time{}
	}
	return l.sent.Add(renew)
}
