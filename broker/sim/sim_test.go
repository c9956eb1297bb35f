package sim

import (
	"fmt"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/quorum"
	"github.com/streambus/streambus/raftmeta/wal/memwal"
)

// simulate runs a world of faults for so many seconds, heals it, and sees it go on.
func simulate(t *testing.T, seed uint64, seconds int64) (w *world) {
	cryptotest.SetGlobalRandom(t, seed) // raft draws its election time-outs from there
	w = newWorld(t, seed)
	defer func() {
		if p := recover(); p != nil {
			w.broken("panic: %v\n%s", p, debug.Stack())
		}
	}()
	w.net.cut, w.net.slow = map[[2]*process]int{}, map[[2]*process]int64{}
	var voters []image.Voter
	for i := range w.plan.controllers {
		voters = append(voters, image.Voter{RaftID: uint64(i + 1), NodeID: int32(100 + i), Levels: image.OwnLevels})
	}
	for i := range voters {
		id := voters[i].RaftID
		c := &controller{process: w.newProcess(fmt.Sprintf("controller %d", id)), raftID: id, node: voters[i].NodeID, disk: memwal.New()}
		hs, snap := quorum.Genesis(clusterID, voters...)
		if i == 0 {
			img, err := image.DecodeImage(snap.GetData())
			if err != nil {
				t.Fatal(err)
			}
			w.oracle.img = img
		} else { // one forms the cluster, the others learn of it
			hs, snap = quorum.Stranger()
		}
		if err := c.disk.Form(id, hs, snap); err != nil {
			t.Fatal(err)
		}
		w.controllers = append(w.controllers, c)
	}
	for i := range int32(3) {
		w.brokers = append(w.brokers, &broker{process: w.newProcess(fmt.Sprintf("broker %d", i)), node: i, before: -1, dir: w.uuid(), otherDir: w.uuid()})
	}
	w.clients = w.newProcess("clients")
	w.clients.up = true
	for _, c := range w.controllers {
		c.start()
	}
	for _, b := range w.brokers {
		b.start()
	}
	w.work()
	if len(w.plan.recordTopics) > 0 {
		w.createRecordTopics()
		w.produce()
	}
	w.consume()
	w.after(sec, "fault", w.disturb)
	w.run(seconds * sec)
	w.heal()
	w.goOn()
	return w
}

// goOn is I10: without faults one more change goes through within ten election
// time-outs, once disks that stalled are back; and then everybody has it.
func (w *world) goOn() {
	const election = int64(quorum.ElectionTicks) * int64(tick)
	w.run(w.now + 6*sec)
	for _, b := range w.brokers {
		b.stopping = false
	}
	w.run(w.now + 3*sec) // those that have stopped are there again
	b := w.brokers[0]
	probe := b.begin("probe", &control.CreateTopic{Name: "probe", ID: w.uuid(), Partitions: 3, ReplicationFactor: 1}, true)
	probe.deadline, probe.count, probe.name = 1<<62, 3, "probe"
	probe.attempt()
	w.run(w.now + 10*election*10/9)
	if probe.outcome != success && w.failure == "" {
		w.broken("I10: everything is healed, and %s does not end", probe)
	}
	for _, b := range w.brokers {
		if b.epoch == 0 {
			w.broken("I10: everything is healed, and %s is not registered", b.name)
		}
	}
	w.run(w.now + 13*sec) // clients give up, the last heartbeats and polls
	if w.failure == "" {
		w.settledGroups()
	}
	w.still = true
	w.run(w.now + 2*sec)
	if w.failure == "" {
		w.oracle.quiet()
	}
	if w.failure == "" {
		w.truth.quiet()
	}
	if w.failure == "" {
		w.histories()
	}
}

// check reports a broken promise with how to see it again.
func (w *world) check(t *testing.T) {
	t.Helper()
	if w.failure == "" {
		return
	}
	t.Fatalf("seed %d, at %.4f s: %s\n\nThe plan was %+v. The last steps:\n%s\n\nSee it again with\n\tSTREAMBUS_SIM_SEED=%d STREAMBUS_SIM_SECONDS=%d go test -count=1 -run 'TestSim$' ./broker/sim",
		w.seed, float64(w.now)/1e9, w.failure, w.plan, w.story(), w.seed, env(t, "STREAMBUS_SIM_SECONDS", 60))
}

func env(t *testing.T, name string, otherwise int64) int64 {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		t.Fatalf("%s=%q is not a natural number", name, text)
	}
	return n
}

// TestSim runs seeds: STREAMBUS_SIM_SEEDS of them, of STREAMBUS_SIM_SECONDS each,
// from STREAMBUS_SIM_FIRST on; or the one of STREAMBUS_SIM_SEED. Without any of
// these it runs as many as take about a minute.
func TestSim(t *testing.T) {
	seeds := int64(50)
	if race { // which makes it thirteen times as slow, and there is one thread
		seeds = 1
	}
	seconds := env(t, "STREAMBUS_SIM_SECONDS", 60)
	first, count := env(t, "STREAMBUS_SIM_FIRST", 1), env(t, "STREAMBUS_SIM_SEEDS", seeds)
	if os.Getenv("STREAMBUS_SIM_SEED") != "" {
		first, count = env(t, "STREAMBUS_SIM_SEED", 0), 1
	}
	begun := time.Now()
	stats := map[string]int{}
	for seed := first; seed < first+count; seed++ {
		w := simulate(t, uint64(seed), seconds)
		w.check(t)
		if w.stats["elections"] == 0 || w.stats["faults"] == 0 || w.stats["successes"] == 0 {
			t.Errorf("seed %d had %d elections, %d faults and %d successes: it tests nothing", seed, w.stats["elections"], w.stats["faults"], w.stats["successes"])
		}
		for name, n := range w.stats {
			stats[name] += n
		}
	}
	t.Logf("%d seeds of %d s and what it takes to heal, %.0f s", count, seconds, time.Since(begun).Seconds())
	t.Log(table(stats))
	if count*seconds < enough {
		return
	}
	for _, name := range mustHappen {
		if stats[name] == 0 {
			t.Errorf("no %s in %d seeds: what they show is not what it looks like", name, count)
		}
	}
}

// enough seconds have all of mustHappen in them, or test less than they are said
// to.
const enough = 1800

var mustHappen = []string{
	"elections", "offices", "faults", "crashes of controllers", "crashes while writing", "pauses of controllers",
	"crashes of brokers", "pauses of brokers", "partitions", "one-way cuts", "messages lost", "messages twice", "slow links",
	"stalls of a sync", "forced elections", "snapshots installed", "snapshots to brokers", "compactions", "units of several entries",
	"topics of 10,000 partitions", "repeats", "unknown outcomes asked again", "leases", "deaths proved", "successes", "refusals",
	"full disks", "full disks of a majority", "writes without room", "starts without room", "syncs that failed", "starts refused",
	"jumps of wall time", "second processes beside the first", "second processes beside a paused one", "second processes at a moved address",
	"second processes that start with the first", "living processes replaced", "replaced, and stopped", "found gone by who answers in its place",
	"wiped disks", "members replaced", "fences", "unfences", "controlled shutdowns", "orderly stops", "partition changes", "replicas begin to move", "replicas have moved", "reads", "histories checked",
	"records acknowledged", "batches twice", "leaders of records", "in-sync replicas changed", "logs cut", "logs begun anew", "logs begun inside a batch", "records deleted", "power cuts", "torn tails", "stalls of a flush", "flushes that failed", "connections lost", "replicas given up", "logs compared",
	"groups loaded", "terms of coordinators over", "answers of coordinators held", "steps of coordinators refused", "offsets that a deposed coordinator shows",
	"joins", "assignments", "partitions given up for others", "consumers that left", "consumers that vanished", "consumers that all vanished", "consumers whose instance began anew", "groups deleted", "consumers that stalled",
	"offsets committed", "commits refused", "offsets shown", "offsets expired", "offsets shown to be expired", "groups begun anew", "groups settled",
}

func table(stats map[string]int) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(stats)) {
		fmt.Fprintf(&b, "\n%10d  %s", stats[name], name)
	}
	return b.String()
}

// A seed is a run: twice the same, step by step.
func TestSimReproducible(t *testing.T) {
	seeds := uint64(20)
	if race {
		seeds = 3
	}
	for seed := range seeds {
		first, second := simulate(t, seed, 5), simulate(t, seed, 5)
		if first.trace != second.trace || first.stats["steps"] != second.stats["steps"] {
			t.Fatalf("seed %d: %d steps with trace %x, then %d steps with %x", seed, first.stats["steps"], first.trace, second.stats["steps"], second.trace)
		}
	}
}
