package partition_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/raftmeta/image"
)

const self = 1

// A script is one partition's life. Each line is a step, and behind "=>" what
// comes of it:
//
//	lead EPOCH [isr=N] [min=N] [os] [log=END,FLUSHED]   the image says that this broker leads
//	follow EPOCH                                        ... that another does
//	orphan EPOCH                                        ... that nobody does
//	append END, flush END                               => hw N and the waits that end
//	await END all|leader|none TOKEN                     => waits, or durable
//	may all|leader|none                                 => ok, or why nothing may be appended
//	knows EPOCH                                         => ok, or why such a client is refused
//	fail                                                => the waits that end
type script struct {
	p               *partition.Partition
	logEnd, flushed int64
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
		return effects(s.p, s.p.Appended(s.logEnd))
	case "flush":
		s.flushed = number(1)
		return effects(s.p, s.p.Flushed(s.flushed))
	case "await":
		if s.p.Await(number(1), acksOf[words[2]], words[3]) {
			return "waits"
		}
		return "durable"
	case "may":
		return reason(s.p.CheckAppend(acksOf[words[1]]))
	case "knows":
		return reason(s.p.CheckLeader(int32(number(1))))
	case "fail":
		return effects(s.p, partition.Effects{Failed: s.p.Fail()})
	}
	t.Fatalf("no step is called %q", words[0])
	return ""
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
	settings := partition.Settings{MinISR: 1}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		n, _ := strconv.Atoi(value)
		switch key {
		case "isr":
			state.ISR = replicas[:n]
		case "replicas":
			state.Replicas = replicas[:n]
		case "min":
			settings.MinISR = n
		case "os":
			settings.FlushOS = true
		case "log":
			fmt.Sscanf(value, "%d,%d", &s.logEnd, &s.flushed)
		}
	}
	return s.p.Update(state, settings, s.logEnd, s.flushed)
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
	return text
}

func reason(err error) string {
	for name, e := range map[string]error{
		"not leader": partition.ErrNotLeader, "too few replicas": partition.ErrNotEnoughReplicas,
		"fenced": partition.ErrFencedEpoch, "unknown epoch": partition.ErrUnknownEpoch,
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
		lead 3 isr=2         => hw 0
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
		fail                 => hw 0 failed [A B]
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
}

func TestScripts(t *testing.T) {
	for name, text := range scripts {
		t.Run(name, func(t *testing.T) {
			s := &script{p: partition.New(self)}
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
		p := partition.New(self)
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
				check(p.Update(state, partition.Settings{MinISR: 1}, logEnd, flushed), was && epoch != before)
			case 1, 2:
				if leading {
					logEnd += 1 + rng.Int64N(9)
					check(p.Appended(logEnd), false)
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
				check(p.Flushed(flushed), false)
			}
		}
		failed := p.Fail()
		slices.SortFunc(failed, func(a, b any) int { return a.(int) - b.(int) })
		if len(slices.Compact(failed)) != len(open) {
			t.Fatalf("seed %d: %d waits were open, %d failed in the end", seed, len(open), len(failed))
		}
	}
}
