package control

import (
	"fmt"
	"slices"
	"testing"

	"github.com/streambus/streambus/raftmeta/image"
)

// racked has brokers 1, 2, 3 ... on the racks given.
func racked(t *testing.T, racks ...string) *image.Image {
	t.Helper()
	img := cluster(t, 0)
	for i, rack := range racks {
		n := i + 1
		img = join(t, img, &RegisterBroker{ID: int32(n), Incarnation: id(n), Rack: rack, Levels: image.OwnLevels, Dirs: []image.UUID{id(100 + n)}})
	}
	return img
}

// spreadOf counts what partitions of all topics are led by and lie on.
func spreadOf(img *image.Image) (leaders, replicas map[int32]int) {
	leaders, replicas = map[int32]int{}, map[int32]int{}
	for _, b := range img.Brokers() {
		leaders[b.ID], replicas[b.ID] = img.Count(b.ID, image.Leads), img.Count(b.ID, image.Holds)
	}
	return leaders, replicas
}

func within(counts map[int32]int, low, high int, except ...int32) bool {
	for id, n := range counts {
		if !slices.Contains(except, id) && (n < low || n > high) {
			return false
		}
	}
	return true
}

func TestPlacementOverRacks(t *testing.T) {
	for _, c := range []struct {
		racks                                           []string
		replicas                                        int16
		different, leadLow, leadHigh, low, high, firsts int
	}{
		{[]string{"a", "b", "c"}, 3, 3, 30, 30, 90, 90, 2},
		{[]string{"a", "a", "a", "b", "b", "b", "c", "c", "c"}, 3, 3, 10, 10, 29, 31, 4},
		{[]string{"a", "a", "a", "b", "b", "b", "c", "c", "c"}, 2, 2, 10, 10, 19, 21, 4},
		{[]string{"a", "a", "a", "b", "b", "b"}, 3, 2, 15, 15, 44, 46, 2},
		{[]string{"a", "a", "a", "b", "b", "c"}, 3, 3, 15, 15, 27, 90, 2}, // c has one of each
		{[]string{"", "", "", "", "", ""}, 3, 1, 15, 15, 44, 46, 3},
	} {
		t.Run(fmt.Sprint(c.racks, c.replicas), func(t *testing.T) {
			img := racked(t, c.racks...)
			img = apply(t, img, &CreateTopic{Name: "t", ID: id(77), Partitions: 30, ReplicationFactor: c.replicas})
			img = apply(t, img, &CreatePartitions{Topic: "t", Count: 90})
			tp, _ := img.Topic("t")
			followers := map[int32]map[int32]bool{}
			for i := range tp.NumPartitions() {
				p, _ := tp.Partition(i)
				racks := map[string]bool{}
				for j, r := range p.Replicas {
					racks[c.racks[r-1]] = true
					if slices.Contains(p.Replicas[:j], r) {
						t.Fatalf("partition %d is at %v", i, p.Replicas)
					}
				}
				if len(racks) != c.different {
					t.Fatalf("partition %d is at %v, on %d racks", i, p.Replicas, len(racks))
				}
				if followers[p.Leader] == nil {
					followers[p.Leader] = map[int32]bool{}
				}
				followers[p.Leader][p.Replicas[1]] = true
			}
			leaders, replicas := spreadOf(img)
			if !within(leaders, c.leadLow, c.leadHigh) || !within(replicas, c.low, c.high) {
				t.Fatalf("leaders %v, replicas %v", leaders, replicas)
			}
			for id, first := range followers { // who leads when it is gone
				if len(first) < c.firsts {
					t.Errorf("all that broker %d leads has its first follower at %v", id, first)
				}
			}
		})
	}
}

func TestPlacementWithFencedBrokers(t *testing.T) {
	img := fence(t, racked(t, "a", "a", "b", "b"), 1)
	img = apply(t, img, &CreateTopic{Name: "t", ID: id(7), Partitions: 30, ReplicationFactor: 2})
	leaders, replicas := spreadOf(img)
	if leaders[1] != 0 || replicas[1] != 0 || !within(leaders, 10, 10, 1) {
		t.Fatalf("leaders %v, replicas %v", leaders, replicas)
	}
	// Only where there are too few others do fenced brokers get replicas. They are out of sync.
	img = apply(t, img, &CreateTopic{Name: "u", ID: id(8), Partitions: 9, ReplicationFactor: 4})
	tp, _ := img.Topic("u")
	for i := range tp.NumPartitions() {
		p, _ := tp.Partition(i)
		if p.Leader == 1 || p.Replicas[0] == 1 || slices.Contains(p.ISR, 1) || len(p.ISR) != 3 || !p.HasReplica(1) {
			t.Fatalf("%+v", p)
		}
	}
	// Chosen by hand, one may be the first.
	img = apply(t, img, &CreateTopic{Name: "v", ID: id(9), Assignments: on(1, 3, 2)})
	if got := state(t, img, "v", 0); got != "3/0 [3 2] []" {
		t.Fatal(got)
	}
}

// A rack of which no broker is there gets replicas only where there are more of them than other racks.
func TestPlacementBesideDeadRacks(t *testing.T) {
	img := racked(t, "a", "b", "c", "a", "d", "b", "d") // 3, and 5 and 7, are to be fenced
	for _, id := range []int32{3, 5, 7} {
		img = fence(t, img, id)
	}
	for replicas, want := range map[int16]string{
		1: "0 fenced", 2: "0 fenced", 3: "1 fenced", 4: "2 fenced", 5: "2 fenced", 6: "2 fenced", 7: "3 fenced",
	} {
		img := apply(t, img, &CreateTopic{Name: "t", ID: id(int(replicas)), Partitions: 24, ReplicationFactor: replicas})
		tp, _ := img.Topic("t")
		on := map[int32]int{}
		for i := range tp.NumPartitions() {
			p, _ := tp.Partition(i)
			racks, fenced := map[string]bool{}, 0
			for _, id := range p.Replicas {
				b, _ := img.Broker(id)
				if racks[b.Rack] = true; b.Fenced {
					fenced++
					on[id]++
				}
			}
			if got := fmt.Sprint(fenced, " fenced"); got != want || len(racks) != min(4, int(replicas)) {
				t.Fatalf("%d replicas at %v: %s, on %d racks, want %s", replicas, p.Replicas, got, len(racks), want)
			}
		}
		if replicas == 3 && (on[3] != 12 || on[5]+on[7] != 12 || on[5] != on[7]) { // they take turns
			t.Errorf("replicas at those that are fenced: %v", on)
		}
	}
}

// Topics of one partition are led by those that lead little. A topic of many is spread evenly all the same.
func TestPlacementLooksAtLoad(t *testing.T) {
	img := racked(t, "", "", "")
	for n := range 9 {
		img = apply(t, img, &CreateTopic{Name: fmt.Sprint("old", n), ID: id(n), Assignments: [][]int32{{1}, {2}}})
	}
	for n := range 9 {
		img = apply(t, img, &CreateTopic{Name: fmt.Sprint("new", n), ID: id(20 + n), Partitions: 1, ReplicationFactor: 1})
	}
	if leaders, _ := spreadOf(img); leaders[3] != 9 {
		t.Fatalf("leaders %v", leaders)
	}
	before, _ := spreadOf(img)
	img = join(t, img, &RegisterBroker{ID: 4, Incarnation: id(4), Levels: image.OwnLevels, Dirs: []image.UUID{id(104)}})
	img = apply(t, img, &CreateTopic{Name: "large", ID: id(50), Partitions: 12, ReplicationFactor: 1})
	after, _ := spreadOf(img)
	for b := int32(1); b <= 4; b++ {
		if after[b]-before[b] != 3 {
			t.Fatalf("broker %d leads %d of the topic", b, after[b]-before[b])
		}
	}
}
