package partition_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/raftmeta/image"
)

const self = 1

// A script is one partition's life. Each line is a step, and behind "=>" what
// comes of it:
//
//	lead EPOCH [isr=N] [replicas=N] [pe=N] [min=N] [os] [log=END,FLUSHED]
//	                                                    the image says that this broker leads
//	follow EPOCH                                        ... that another does
//	orphan EPOCH                                        ... that nobody does
//	at SECONDS                                          the clock
//	report BROKER END,FLUSHED [in=EPOCH] [epoch=N] [fenced]  a follower's fetch
//	tick [gone=BROKER]                                  time goes on, or the brokers change
//	proposal                                            => what the controller is asked for
//	altered ISR pe=N, declined                          ... and answers to the last proposal
//	fetched END HW, truncated END                       a follower's log
//	append END, flush END                               => hw N and the waits that end
//	await END all|leader|none TOKEN                     => waits, or durable
//	awaitstart OFFSET TOKEN                             => waits, or gone
//	may all|leader|none                                 => ok, or why nothing may be appended
//	knows EPOCH                                         => ok, or why such a client is refused
//	fail                                                => the waits that end
//	why BROKER                                          => what it is to the ISR, and why
//	seen BROKER                                         => its ends, and when it had all: written, flushed; when it fetched
//	lag                                                 => records this follower lacks, and what it waits for
type script struct {
	p               *partition.Partition
	logEnd, flushed int64
	now             time.Time
	asked           partition.Change
	gone            string // the broker that the metadata has as fenced
}

var acksOf = map[string]partition.Acks{"all": partition.AcksAll, "leader": partition.AcksLeader, "none": partition.AcksNone}

func (s *script) run(t *testing.T, line string) string {
	words := strings.Fields(line)
	number := func(i int) int64 {
		n, err := strconv.ParseInt(words[i], 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		return n
	}
	switch words[0] {
	case "lead", "follow", "orphan":
		return effects(s.p, s.update(words[0], int32(number(1)), words[2:]))
	case "append":
		s.logEnd = number(1)
		return effects(s.p, s.p.Appended(s.logEnd, s.now))
	case "flush":
		s.flushed = number(1)
		return effects(s.p, s.p.Flushed(s.flushed, s.now))
	case "at":
		s.now = time.Unix(number(1), 0)
		return "ok"
	case "report":
		e, err := s.p.Reported(s.report(words), partition.EpochEnd{Epoch: -1, End: -1}, 0, s.now)
		if err != nil {
			return reason(err)
		}
		return effects(s.p, e)
	case "tick":
		s.gone = strings.TrimPrefix(strings.Join(words[1:], ""), "gone=")
		return effects(s.p, s.p.Tick(s.now, func(id int32, _ int64) bool { return fmt.Sprint(id) != s.gone }))
	case "proposal":
		c, ok := s.p.Proposal()
		if !ok {
			return "none"
		}
		s.asked = c
		text := fmt.Sprint(c.ISR, " in ", c.LeaderEpoch, "/", c.PartitionEpoch)
		if c.Shrinks {
			text += " shrinks"
		}
		return text
	case "altered":
		var isr []int32
		for id := range strings.SplitSeq(words[1], ",") {
			n, _ := strconv.Atoi(id)
			isr = append(isr, int32(n))
		}
		pe, _ := strconv.Atoi(strings.TrimPrefix(words[2], "pe="))
		return effects(s.p, s.p.Altered(s.asked, int32(pe), isr, s.now))
	case "declined":
		return effects(s.p, s.p.Declined(s.asked, s.now))
	case "fetched":
		s.logEnd = number(1)
		return effects(s.p, s.p.Fetched(s.logEnd, number(2)))
	case "truncated":
		s.logEnd = number(1)
		s.flushed = min(s.flushed, s.logEnd)
		s.p.Truncated(s.logEnd, s.flushed)
		return effects(s.p, partition.Effects{})
	case "await":
		if s.p.Await(number(1), acksOf[words[2]], words[3]) {
			return "waits"
		}
		return "durable"
	case "awaitstart":
		if s.p.AwaitStart(number(1), words[2]) {
			return "waits"
		}
		return "gone"
	case "may":
		return reason(s.p.CheckAppend(acksOf[words[1]]))
	case "knows":
		return reason(s.p.CheckLeader(int32(number(1))))
	case "lag":
		return fmt.Sprint(s.p.Lag(), ": ", s.p.Waits())
	case "fail":
		return effects(s.p, partition.Effects{Failed: s.p.Fail()})
	}
	if words[0] == "why" || words[0] == "seen" {
		return s.of(words[0], int32(number(1)))
	}
	t.Fatalf("no step is called %q", words[0])
	return ""
}

func (s *script) of(what string, id int32) string {
	missing := func(id int32, _ int64) string {
		if fmt.Sprint(id) == s.gone {
			return "fenced"
		}
		return ""
	}
	at := func(t time.Time) string {
		if t.IsZero() {
			return "never"
		}
		return fmt.Sprint(t.Unix())
	}
	for _, f := range s.p.Followers(s.now, missing) {
		switch {
		case f.ID != id:
		case what == "why":
			return fmt.Sprint(f.Standing, ": ", f.Why)
		default:
			return fmt.Sprintf("%d,%d %s %s %s", f.LogEnd, f.FlushedEnd, at(f.LogCaughtUp), at(f.CaughtUp), at(f.Fetched))
		}
	}
	return "unknown"
}

func (s *script) report(words []string) partition.Report {
	id, _ := strconv.Atoi(words[1])
	r := partition.Report{Replica: int32(id), BrokerEpoch: 7, Eligible: true, LeaderEpoch: s.p.LeaderEpoch(), LastEpoch: -1}
	fmt.Sscanf(words[2], "%d,%d", &r.LogEnd, &r.FlushedEnd)
	for _, w := range words[3:] {
		if epoch, ok := strings.CutPrefix(w, "epoch="); ok {
			r.BrokerEpoch, _ = strconv.ParseInt(epoch, 10, 64)
		} else if start, ok := strings.CutPrefix(w, "start="); ok {
			r.LogStart, _ = strconv.ParseInt(start, 10, 64)
		} else if epoch, ok := strings.CutPrefix(w, "in="); ok {
			n, _ := strconv.Atoi(epoch)
			r.LeaderEpoch = int32(n)
		} else {
			r.Eligible = false
		}
	}
	return r
}

func (s *script) update(role string, epoch int32, words []string) partition.Effects {
	replicas := []int32{self, 2, 3}
	state := &image.Partition{Replicas: replicas, ISR: replicas[:1], Leader: self, LeaderEpoch: epoch}
	switch role {
	case "follow":
		state.Leader, state.ISR = 2, replicas[1:]
	case "orphan":
		state.Leader = image.NoLeader
	}
	settings := partition.Settings{MinISR: 1, MaxLag: 30 * time.Second}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		n, _ := strconv.Atoi(value)
		switch key {
		case "isr":
			state.ISR = replicas[:n]
		case "replicas":
			state.Replicas = replicas[:n]
		case "pe":
			state.PartitionEpoch = int32(n)
		case "min":
			settings.MinISR = n
		case "os":
			settings.FlushOS = true
		case "log":
			fmt.Sscanf(value, "%d,%d", &s.logEnd, &s.flushed)
		}
	}
	return s.p.Update(state, settings, s.logEnd, s.flushed, s.now)
}

func effects(p *partition.Partition, e partition.Effects) string {
	text := fmt.Sprint("hw ", p.HighWatermark())
	if e.Moved {
		text += " moved"
	}
	if e.Done != nil {
		text += fmt.Sprint(" done ", e.Done)
	}
	if e.Failed != nil {
		text += fmt.Sprint(" failed ", e.Failed)
	}
	if errors.Is(e.Failure, partition.ErrNotEnoughAfter) {
		text += " too few replicas by now"
	}
	if e.Propose {
		text += " proposes"
	}
	return text
}

func reason(err error) string {
	for name, e := range map[string]error{
		"not leader": partition.ErrNotLeader, "too few replicas": partition.ErrNotEnoughReplicas,
		"fenced": partition.ErrFencedEpoch, "unknown epoch": partition.ErrUnknownEpoch,
		"no replica": partition.ErrNotReplica,
	} {
		if errors.Is(err, e) {
			return name
		}
	}
	return map[bool]string{true: "ok", false: fmt.Sprint(err)}[err == nil]
}

var scripts = map[string]string{
	"nothing is known yet": `
		may all       => not leader
		may none      => not leader
		knows -1      => not leader
		append 5      => hw 0
		flush 5       => hw 0`,
	"an append is visible and acknowledged once flushed": `
		lead 0               => hw 0
		append 10            => hw 0
		await 10 all A       => waits
		flush 9              => hw 9 moved
		flush 10             => hw 10 moved done [A]
		await 10 all B       => durable
		await 11 none C      => durable`,
	"a flush that says nothing new moves nothing": `
		lead 0               => hw 0
		append 10            => hw 0
		flush 10             => hw 10 moved
		append 20            => hw 10
		flush 10             => hw 10
		flush 3              => hw 10
		await 10 leader A    => durable
		await 11 leader B    => waits`,
	"one flush ends many waits, in the order of their offsets": `
		lead 0               => hw 0
		append 30            => hw 0
		await 10 all A       => waits
		await 30 leader C    => waits
		await 20 all B       => waits
		flush 25             => hw 25 moved done [A B]
		flush 30             => hw 30 moved done [C]`,
	"a repeat waits for the old end, behind who waits for it already": `
		lead 0               => hw 0
		append 10            => hw 0
		await 10 all A       => waits
		append 20            => hw 0
		await 20 all B       => waits
		await 10 all A-again => waits
		flush 10             => hw 10 moved done [A A-again]
		flush 20             => hw 20 moved done [B]`,
	"the log as recovered is durable": `
		lead 4 log=50,50     => hw 50 moved
		await 50 all A       => durable
		append 51            => hw 50
		flush 51             => hw 51 moved`,
	"what is written and not flushed stays hidden when leadership begins": `
		lead 4 log=50,40     => hw 40 moved
		await 50 all A       => waits
		flush 50             => hw 50 moved done [A]`,
	"os: the end of the log counts as flushed": `
		lead 0 os            => hw 0
		append 10            => hw 10 moved
		await 10 all A       => durable
		await 10 leader B    => durable
		flush 4              => hw 10`,
	"os: a state from the image does not take the watermark back": `
		lead 0 os log=50,0   => hw 50 moved
		lead 0 os            => hw 50
		lead 1 os            => hw 50`,
	"os turned off: what was visible stays so": `
		lead 0 os log=50,0   => hw 50 moved
		lead 0               => hw 50
		append 60            => hw 50
		await 60 all A       => waits
		flush 55             => hw 55 moved
		flush 60             => hw 60 moved done [A]`,
	"os turned on ends the waits": `
		lead 0               => hw 0
		append 10            => hw 0
		await 10 all A       => waits
		lead 0 os            => hw 10 moved done [A]`,
	"a state in the same epoch keeps the waits": `
		lead 3               => hw 0
		append 10            => hw 0
		await 10 all A       => waits
		lead 3 min=1 pe=1    => hw 0
		flush 10             => hw 10 moved done [A]`,
	"a state that is older than what is known changes nothing": `
		lead 3 pe=5          => hw 0
		append 10            => hw 0
		await 10 all A       => waits
		follow 2             => hw 0
		lead 3 pe=4 isr=2    => hw 0
		flush 10             => hw 10 moved done [A]`,
	"a state of the image ends waits that the log has caught up with": `
		lead 3               => hw 0
		append 10            => hw 0
		await 10 all A       => waits
		lead 3 log=10,10     => hw 10 moved done [A]`,
	"a new epoch fails the waits: the log may be cut": `
		lead 3               => hw 0
		append 10            => hw 0
		await 10 all A       => waits
		lead 4               => hw 0 failed [A]
		flush 10             => hw 10 moved`,
	"losing leadership fails the waits, in order": `
		lead 3               => hw 0
		append 20            => hw 0
		await 20 all B       => waits
		await 10 leader A    => waits
		follow 4             => hw 0 failed [A B]
		may leader           => not leader
		append 30            => hw 0
		flush 30             => hw 0
		lead 5               => hw 30 moved`,
	"nobody leads": `
		lead 3               => hw 0
		orphan 4             => hw 0
		may all              => not leader`,
	"the watermark stays while another leads": `
		lead 3 log=9,9       => hw 9 moved
		follow 4 log=12,12   => hw 9
		lead 5               => hw 12 moved`,
	"a failed disk fails every wait once": `
		lead 0               => hw 0
		append 20            => hw 0
		await 10 all A       => waits
		await 20 leader B    => waits
		fail                 => hw 0 failed [B A]
		fail                 => hw 0
		flush 20             => hw 20 moved`,
	"min.insync.replicas counts for acks=all only": `
		lead 0 isr=1 min=2   => hw 0
		may all              => too few replicas
		may leader           => ok
		may none             => ok
		lead 0 isr=2 min=2   => hw 0
		may all              => ok`,
	"min.insync.replicas asks for no more replicas than there are": `
		lead 0 isr=1 replicas=1 min=2 => hw 0
		may all                       => ok
		lead 0 isr=1 replicas=2 min=3 => hw 0
		may all                       => too few replicas`,
	"a client's epoch": `
		lead 3               => hw 0
		knows -1             => ok
		knows 3              => ok
		knows 2              => fenced
		knows 0              => fenced
		knows 4              => unknown epoch
		lead 4               => hw 0
		knows 3              => fenced`,
	"a client's epoch where another leads: who is behind comes first, as in Kafka": `
		lead 3               => hw 0
		follow 4             => hw 0
		knows -1             => not leader
		knows 4              => not leader
		knows 3              => fenced
		knows 5              => unknown epoch`,

	"acks=1 waits for this disk only, and does not queue behind acks=all": `
		lead 0 isr=2         => hw 0
		append 20            => hw 0
		await 10 all A       => waits
		await 20 leader B    => waits
		flush 20             => hw 0 done [B]
		report 2 20,15       => hw 15 moved done [A]`,
	"the watermark is what every in-sync replica has on its disk, not what it has written": `
		lead 0 isr=3         => hw 0
		append 30            => hw 0
		flush 30             => hw 0
		report 2 30,20       => hw 0
		report 3 30,10       => hw 10 moved
		report 3 30,30       => hw 20 moved
		report 2 30,30       => hw 30 moved`,
	"a follower's flushed end is never beyond its log": `
		lead 0 isr=2         => hw 0
		append 30            => hw 0
		flush 30             => hw 0
		report 2 10,30       => hw 10 moved`,
	"os: what a follower has written counts": `
		lead 0 isr=2 os      => hw 0
		append 30            => hw 0
		report 2 20,0        => hw 20 moved`,
	"nothing moves until every in-sync replica has reported to this leader": `
		lead 0 isr=2 log=10,10 => hw 0
		report 2 10,10       => hw 10 moved
		append 20            => hw 10
		flush 20             => hw 10
		lead 1 isr=2         => hw 10
		report 2 15,15       => hw 15 moved`,
	"a follower enters once it has what may have been acknowledged": `
		lead 0 isr=1 log=10,10 => hw 10 moved
		report 2 5,5         => hw 10
		report 2 10,9        => hw 10
		report 2 10,10       => hw 10 proposes
		proposal             => [{1 -1} {2 7}] in 0/0
		report 2 10,10       => hw 10
		altered 1,2 pe=1     => hw 10
		proposal             => none`,
	"a follower that enters holds the watermark back before the controller answers": `
		lead 0 isr=1 log=10,10 => hw 10 moved
		report 2 10,10       => hw 10 proposes
		append 20            => hw 10
		flush 20             => hw 10
		at 100               => ok
		await 20 all A       => waits
		tick                 => hw 10
		report 2 20,20       => hw 20 moved done [A]`,
	"below the start of the epoch a follower may lack what another leader acknowledged": `
		fetched 20 5         => hw 5 moved
		lead 3 isr=1 replicas=2 min=2 log=20,20 => hw 5
		report 2 10,10       => hw 5
		report 2 20,20       => hw 5 proposes`,
	"a follower that is out of the ISR and keeps up holds the watermark back, so that it can enter": `
		lead 0 isr=1 log=10,10 => hw 10 moved
		report 2 10,10 fenced => hw 10
		append 20            => hw 10
		flush 20             => hw 20 moved
		report 2 20,10       => hw 20
		append 30            => hw 20
		flush 30             => hw 20
		report 2 30,20       => hw 20 proposes`,
	"one whose disk hangs does not": `
		lead 0 isr=1 log=10,10 => hw 10 moved
		append 20            => hw 10
		flush 20             => hw 20 moved
		report 2 20,10       => hw 20
		at 31                => ok
		append 30            => hw 20
		report 2 30,10       => hw 20
		flush 30             => hw 30 moved`,
	"a follower that is behind for too long is to leave, and counts until the controller has it": `
		lead 0 isr=2 log=10,10 => hw 0
		report 2 10,10       => hw 10 moved
		at 50                => ok
		append 20            => hw 10
		flush 20             => hw 10
		await 20 all A       => waits
		at 80                => ok
		tick                 => hw 10
		at 81                => ok
		tick                 => hw 10 proposes
		proposal             => [{1 -1}] in 0/0 shrinks
		tick                 => hw 10
		altered 1 pe=1       => hw 20 moved done [A]`,
	"who has everything stays, however long ago it said so": `
		lead 0 isr=2 log=10,10 => hw 0
		report 2 10,10       => hw 10 moved
		at 1000              => ok
		tick                 => hw 10
		append 20            => hw 10
		tick                 => hw 10`,
	"who follows at a distance is judged by when it had what there was then": `
		lead 0 isr=2         => hw 0
		append 10            => hw 0
		at 20                => ok
		append 20            => hw 0
		report 2 10,10       => hw 0
		at 30                => ok
		append 30            => hw 0
		tick                 => hw 0
		report 2 20,20       => hw 0
		at 50                => ok
		tick                 => hw 0
		at 51                => ok
		tick                 => hw 0 proposes`,
	"a flush that hangs is a lag too": `
		lead 0 isr=2         => hw 0
		append 10            => hw 0
		at 31                => ok
		report 2 10,0        => hw 0
		tick                 => hw 0 proposes`,
	"too few in sync: what waits fails at once, and nothing more is acknowledged": `
		lead 0 isr=2 min=2   => hw 0
		append 10            => hw 0
		await 10 all A       => waits
		await 10 leader B    => waits
		lead 0 isr=1 min=2 pe=1 => hw 0 failed [A] too few replicas by now
		flush 10             => hw 0 done [B]
		may all              => too few replicas`,
	"a proposal that is declined is made again when there is a reason": `
		lead 0 isr=1 log=10,10 => hw 10 moved
		report 2 10,10       => hw 10 proposes
		proposal             => [{1 -1} {2 7}] in 0/0
		declined             => hw 10
		proposal             => none
		tick gone=2          => hw 10
		tick                 => hw 10 proposes`,
	"the image answers a proposal too, and the late answer says nothing new": `
		lead 0 isr=1 log=10,10 => hw 10 moved
		report 2 10,10       => hw 10 proposes
		proposal             => [{1 -1} {2 7}] in 0/0
		lead 0 isr=1 pe=2    => hw 10 proposes
		altered 1,2 pe=1     => hw 10
		declined             => hw 10
		proposal             => [{1 -1} {2 7}] in 0/2`,
	"a former incarnation says nothing, a later one may take back what it said": `
		lead 0 isr=2         => hw 0
		append 20            => hw 0
		flush 20             => hw 0
		report 2 20,10       => hw 10 moved
		report 2 12,12 epoch=8 => hw 12 moved
		report 2 20,20       => no replica
		report 2 20,20 epoch=8 => hw 20 moved`,
	"what was said to another leader is no progress": `
		lead 3 isr=2         => hw 0
		append 10            => hw 0
		flush 10             => hw 0
		report 2 10,10 in=2  => fenced
		report 2 10,10 in=4  => unknown epoch
		report 2 10,10 in=-1 => no replica
		report 2 11,11       => hw 0
		report 2 9,9         => hw 9 moved`,
	"deleted records are gone when every follower has given them up that is there": `
		lead 0 isr=3         => hw 0
		append 10            => hw 0
		flush 10             => hw 0
		report 2 10,10       => hw 0
		report 3 10,10       => hw 10 moved
		awaitstart 5 A       => waits
		report 2 10,10 start=5 => hw 10
		report 3 10,10 start=4 => hw 10
		tick gone=3          => hw 10 done [A]
		awaitstart 5 B       => gone
		report 3 10,10 start=4 => hw 10
		awaitstart 5 C       => waits
		follow 1             => hw 10 failed [C]`,
	"a follower that begins another life is not waited for until it keeps up again": `
		lead 0 isr=2         => hw 0
		append 10            => hw 0
		flush 10             => hw 0
		report 2 10,10       => hw 10 moved
		tick gone=2          => hw 10
		lead 0 isr=1 pe=1    => hw 10
		append 20            => hw 10
		report 2 5,5 epoch=8 => hw 10
		flush 20             => hw 20 moved
		append 30            => hw 20
		report 2 20,20 epoch=8 => hw 20 proposes`,
	"who is no replica says nothing": `
		lead 0 isr=1         => hw 0
		report 9 0,0         => no replica
		follow 1             => hw 0
		report 2 0,0         => not leader`,
	"a follower's watermark is the leader's, as far as its own log goes": `
		follow 1             => hw 0
		fetched 10 0         => hw 0
		fetched 20 15        => hw 15 moved
		fetched 25 90        => hw 25 moved
		fetched 30 3         => hw 25
		truncated 28         => hw 25
		truncated 20         => hw 20`,

	"why: in sync": `
		lead 0 isr=2         => hw 0
		append 50            => hw 0
		at 3                 => ok
		why 2                => in: it has not fetched in this leader epoch, behind for 3s of the 30s that replica.lag.time.max.ms allows
		seen 2               => -1,-1 0 0 never
		report 2 50,20       => hw 0
		why 2                => in: flushed to 20 of 50, written to 50, behind for 3s of the 30s that replica.lag.time.max.ms allows
		seen 2               => 50,20 3 0 3
		at 5                 => ok
		report 2 50,50       => hw 0
		at 100               => ok
		why 2                => in: it has everything
		seen 2               => 50,50 100 100 5
		append 60            => hw 0
		at 101               => ok
		why 2                => in: flushed to 50 of 60, behind for 1s of the 30s that replica.lag.time.max.ms allows
		tick gone=2          => hw 0
		why 2                => in: the controllers have it as fenced
		why 1                => unknown
		follow 1             => hw 0
		why 2                => unknown`,
	"why: it leaves, is out, and comes back": `
		lead 0 isr=2 log=10,10 => hw 0
		report 2 10,10       => hw 10 moved
		append 50            => hw 10
		report 2 30,20       => hw 10
		flush 50             => hw 20 moved
		at 30                => ok
		why 2                => in: flushed to 20 of 50, written to 30, behind for 30s of the 30s that replica.lag.time.max.ms allows
		at 31                => ok
		why 2                => in: flushed to 20 of 50, written to 30, behind for 31s, more than replica.lag.time.max.ms (30s)
		tick                 => hw 20 proposes
		at 33                => ok
		why 2                => leaves: flushed to 20 of 50, written to 30, behind for 33s, more than replica.lag.time.max.ms (30s); asked for 2s ago
		proposal             => [{1 -1}] in 0/0 shrinks
		altered 1 pe=1       => hw 50 moved
		why 2                => out: flushed to 20 of 50, written to 30, behind for 33s, more than replica.lag.time.max.ms (30s); it may enter from 50 on, the high watermark
		append 60            => hw 50
		report 2 50,50 fenced => hw 50
		why 2                => out: flushed to 50 of 60, behind for 33s, more than replica.lag.time.max.ms (30s); it has reached 50, the high watermark, and is asked for with its next fetch
		at 34                => ok
		report 2 60,60       => hw 50 proposes
		at 36                => ok
		why 2                => enters: it has everything; asked for 2s ago
		proposal             => [{1 -1} {2 7}] in 0/1
		declined             => hw 50
		why 2                => out: it has everything; it is asked for with its next fetch
		tick gone=2          => hw 50
		why 2                => out: the controllers have it as fenced`,
	"why: it has said nothing, or nothing of use": `
		lead 3 isr=1 log=20,20 => hw 20 moved
		why 2                => out: it has not fetched in this leader epoch; it has not had everything in this leader epoch
		report 2 30,30       => hw 20
		why 2                => out: what its log ends with is not in this log: it has to cut it first
		seen 2               => -1,-1 never never 0
		report 2 20,-1       => hw 20
		why 2                => out: it fetches, and does not say what it has flushed; it has not had everything in this leader epoch
		report 2 9,9         => hw 20
		why 2                => out: flushed to 9 of 20; it has not had everything in this leader epoch; it may enter from 20 on, the high watermark
		report 3 20,20       => hw 20 proposes
		why 3                => enters: it has everything; asked for 0s ago
		report 2 20,20       => hw 20
		why 2                => out: it has everything; another change of those in sync is asked for, it is next`,
	"why: the epoch's begin counts, where the watermark is not there yet": `
		fetched 20 5         => hw 5 moved
		lead 3 isr=1 replicas=2 min=2 log=20,20 => hw 5
		report 2 10,10       => hw 5
		why 2                => out: flushed to 10 of 20; it has not had everything in this leader epoch; it may enter from 20 on, where this leader epoch began`,
	"why: os: written is flushed": `
		lead 0 isr=2 os      => hw 0
		append 30            => hw 0
		report 2 20,0        => hw 20 moved
		why 2                => in: written to 20 of 30, behind for 0s of the 30s that replica.lag.time.max.ms allows`,
	"what a follower lacks, and waits for": `
		lag                  => 0: an election: nobody leads
		follow 1             => hw 0
		lag                  => 0: more: it has all that it was told of
		fetched 10 25        => hw 10 moved
		lag                  => 15: records: it has written to 10, and 25 is acknowledged
		fetched 30 25        => hw 25 moved
		lag                  => 0: its disk: it has written to 30, and flushed to 0
		follow 1 log=30,30   => hw 25
		lag                  => 0: more: it has all that it was told of
		truncated 20         => hw 20
		lag                  => 5: records: it has written to 20, and 25 is acknowledged
		follow 2             => hw 20
		lag                  => 0: more: it has all that it was told of
		orphan 3             => hw 20
		lag                  => 0: an election: nobody leads`,
}

func TestScripts(t *testing.T) {
	for name, text := range scripts {
		t.Run(name, func(t *testing.T) {
			s := &script{p: partition.New(self, 0), now: time.Unix(0, 0)}
			for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
				step, want, _ := strings.Cut(line, "=>")
				if got := s.run(t, strings.TrimSpace(step)); got != strings.TrimSpace(want) {
					t.Fatalf("%s => %s, want %s", strings.TrimSpace(step), got, strings.TrimSpace(want))
				}
			}
		})
	}
}

// Whatever happens in whatever order, a wait ends once: with success only when
// what it waits for is durable, by failure only when leadership or the disk is
// lost. The watermark never goes back and never passes what is flushed.
func TestEveryWaitEndsOnce(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 0))
		type waiting struct {
			end  int64
			acks partition.Acks
		}
		var logEnd, flushed, watermark int64
		epoch, leading := int32(0), false
		open, next := map[int]waiting{}, 0
		p := partition.New(self, 0)
		check := func(e partition.Effects, mayFail bool) {
			for _, token := range e.Done {
				w, ok := open[token.(int)]
				if !ok || flushed < w.end {
					t.Fatalf("seed %d: wait %d for %+v ended at flushed %d, open %v", seed, token, w, flushed, ok)
				}
				delete(open, token.(int))
			}
			for _, token := range e.Failed {
				if _, ok := open[token.(int)]; !ok || !mayFail {
					t.Fatalf("seed %d: wait %d failed", seed, token)
				}
				delete(open, token.(int))
			}
			hw := p.HighWatermark()
			if hw < watermark || hw > flushed || e.Moved != (hw > watermark) || leading && hw != flushed {
				t.Fatalf("seed %d: watermark %d after %d, flushed %d, moved %v", seed, hw, watermark, flushed, e.Moved)
			}
			watermark = hw
			for token, w := range open {
				if w.end <= flushed {
					t.Fatalf("seed %d: wait %d for %d goes on at flushed %d", seed, token, w.end, flushed)
				}
			}
		}
		for range 200 {
			switch rng.IntN(6) {
			case 0:
				was, before := leading, epoch
				leading = rng.IntN(3) > 0
				state := &image.Partition{Replicas: []int32{1, 2}, ISR: []int32{1}, Leader: 2}
				if leading {
					state.Leader = self
				}
				if leading != was || rng.IntN(2) == 0 {
					epoch++
				}
				state.LeaderEpoch = epoch
				check(p.Update(state, partition.Settings{MinISR: 1}, logEnd, flushed, time.Time{}), was && epoch != before)
			case 1, 2:
				if leading {
					logEnd += 1 + rng.Int64N(9)
					check(p.Appended(logEnd, time.Time{}), false)
				}
			case 3, 4:
				end, acks := rng.Int64N(logEnd+1), []partition.Acks{-1, 0, 1}[rng.IntN(3)]
				if leading && p.Await(end, acks, next) {
					if acks == partition.AcksNone || end <= flushed {
						t.Fatalf("seed %d: a wait for %d with acks %d at flushed %d", seed, end, acks, flushed)
					}
					open[next] = waiting{end, acks}
					next++
				}
			case 5:
				flushed = max(flushed, rng.Int64N(logEnd+1))
				check(p.Flushed(flushed, time.Time{}), false)
			}
		}
		failed := p.Fail()
		slices.SortFunc(failed, func(a, b any) int { return a.(int) - b.(int) })
		if len(slices.Compact(failed)) != len(open) {
			t.Fatalf("seed %d: %d waits were open, %d failed in the end", seed, len(open), len(failed))
		}
	}
}
