package broker

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/streambus/streambus/broker/group"
	"github.com/streambus/streambus/broker/peer"
	"github.com/streambus/streambus/raftmeta/image"
)

// lagWait bounds what a scrape waits for the leaders of partitions elsewhere. Of those
// that have not answered by then there is no lag: no figure is better than a wrong one.
const lagWait = 2 * time.Second

// lags tells how far groups are behind. Their coordinator has the offsets, the leaders
// of the partitions have the ends and the times. So a scrape asks each leader once, over
// a connection of its own, and what it tells is of that moment; where nobody scrapes
// nobody is asked. Scrapes that come at the same time take turns.
type lags struct {
	b   *Broker
	max int // partitions of groups that have series; a group without any counts for one

	mu   sync.Mutex // guards the following, and is held for as long as a scrape asks
	kept map[string]bool
}

func newLags(b *Broker) *lags {
	return &lags{b: b, max: int(b.cfg.Number("streambus.metrics.group.partitions"))}
}

// leftOut is what has no series.
type leftOut struct{ groups, partitions int }

// survey picks the groups that have series. Those that had them before come first, so
// that series do not come and go. l.mu is held.
func (l *lags) survey() (groups []group.Summary, left leftOut) {
	room, kept := l.max, map[string]bool{}
	fits := func(id string, offsets int) bool {
		n := max(1, offsets)
		if n > room {
			return false
		}
		room -= n
		kept[id] = true
		return true
	}
	groups = l.b.groups.Survey(func(id string, offsets int) bool { return l.kept[id] && fits(id, offsets) })
	groups = append(groups, l.b.groups.Survey(func(id string, offsets int) bool {
		if kept[id] {
			return false
		}
		if fits(id, offsets) {
			return true
		}
		left.groups++
		left.partitions += offsets
		return false
	})...)
	l.kept = kept
	return groups, left
}

// read is a partition that groups read.
type read struct {
	topic     string
	partition int32
}

// end is what its leader says: where it ends, and when the records were written that
// groups come to next, in ms or -1.
type end struct {
	high    int64
	written map[int64]int64 // by offset
}

// ends asks the leaders about all partitions that some groups have offsets of.
func (l *lags) ends(img *image.Image, groups []group.Summary) map[read]end {
	offsets := map[read][]int64{}
	for _, g := range groups {
		for _, c := range g.Offsets {
			p := read{c.Topic, c.Partition}
			offsets[p] = append(offsets[p], c.Offset)
		}
	}
	byLeader := map[int32][]peer.Progress{}
	for p, at := range offsets {
		t, ok := img.Topic(p.topic)
		if !ok || p.partition >= t.NumPartitions() {
			continue
		}
		slices.Sort(at)
		is, _ := t.Partition(p.partition)
		byLeader[is.Leader] = append(byLeader[is.Leader], peer.Progress{Topic: p.topic, Partition: p.partition, Offsets: slices.Compact(at)})
	}
	ctx, cancel := context.WithTimeout(context.Background(), lagWait)
	defer cancel()
	all := map[read]end{}
	var mu sync.Mutex // guards all
	var asking sync.WaitGroup
	for leader, asked := range byLeader {
		slices.SortFunc(asked, func(a, b peer.Progress) int { return strings.Compare(a.Topic, b.Topic) })
		asking.Go(func() {
			answers := l.ask(ctx, img, leader, asked)
			mu.Lock()
			defer mu.Unlock()
			for i, a := range answers {
				e := end{a.High, map[int64]int64{}}
				for j, at := range a.Written {
					e.written[asked[i].Offsets[j]] = at
				}
				all[read{asked[i].Topic, asked[i].Partition}] = e
			}
		})
	}
	asking.Wait()
	return all
}

// ask asks one leader, which may be this broker.
func (l *lags) ask(ctx context.Context, img *image.Image, leader int32, asked []peer.Progress) map[int]peer.Ends {
	if leader == l.b.cfg.NodeID() {
		return l.own(img, asked)
	}
	conn, err := l.b.dialBroker(ctx, leader)
	if err != nil {
		l.b.log.Debug("a leader was not asked how far groups are behind", "leader", leader, "error", err)
		return nil
	}
	defer conn.Close()
	answers, err := conn.Ends(ctx, asked)
	if err != nil {
		l.b.log.Debug("a leader did not say how far groups are behind", "leader", leader, "error", err)
	}
	return answers
}

func (l *lags) own(img *image.Image, asked []peer.Progress) map[int]peer.Ends {
	answers := map[int]peer.Ends{}
	for i, p := range asked {
		t, _ := img.Topic(p.Topic)
		rep, err := l.b.replicas.Find(t.ID, p.Partition)
		if err != nil {
			continue
		}
		if high, written, err := rep.Progress(p.Offsets); err == nil {
			answers[i] = peer.Ends{High: high, Written: written}
		}
	}
	return answers
}

// groups tells of the groups that are coordinated here.
func (sc *scrape) groups() {
	sc.lags.mu.Lock()
	defer sc.lags.mu.Unlock()
	groups, left := sc.lags.survey()
	sc.gauge(sc.withoutSeries, float64(left.groups), "groups")
	sc.gauge(sc.withoutSeries, float64(left.partitions), "group partitions")
	ends := sc.lags.ends(sc.img, groups)
	now := time.Now()
	for i := range groups {
		g := &groups[i]
		sc.gauge(sc.groupMembers, float64(g.Members), g.ID)
		for rest := g.Offsets; len(rest) > 0; {
			n := 1
			for n < len(rest) && rest[n].Topic == rest[0].Topic {
				n++
			}
			sc.groupTopic(g.ID, rest[:n], ends, now)
			rest = rest[n:]
		}
	}
}

// groupTopic tells of a group's offsets in one topic.
func (sc *scrape) groupTopic(id string, offsets []group.Committed, ends map[read]end, now time.Time) {
	var sum, lagSum int64
	known := 0
	for _, c := range offsets {
		of := []string{id, c.Topic, strconv.Itoa(int(c.Partition))}
		sc.gauge(sc.groupOffset, float64(c.Offset), of...)
		sum += c.Offset
		e, ok := ends[read{c.Topic, c.Partition}]
		if !ok {
			continue
		}
		known++
		lag := max(0, e.high-c.Offset)
		lagSum += lag
		sc.gauge(sc.groupLag, float64(lag), of...)
		if lag == 0 {
			sc.gauge(sc.groupLagSeconds, 0, of...)
		} else if at := e.written[c.Offset]; at >= 0 {
			sc.gauge(sc.groupLagSeconds, max(0, now.Sub(time.UnixMilli(at)).Seconds()), of...)
		}
	}
	sc.gauge(sc.groupOffsetSum, float64(sum), id, offsets[0].Topic)
	if known == len(offsets) {
		sc.gauge(sc.groupLagSum, float64(lagSum), id, offsets[0].Topic)
	}
}
