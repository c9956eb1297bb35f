package main

import (
	"slices"
	"testing"
)

// sound is a history without an anomaly: two producers, one partition each and one
// that they share, a record of which nobody knows whether it was appended and one
// that was not.
func sound() *History {
	return &History{
		Sends: [][]Sent{
			{{Value{0, 1}, 0, Acked, 0}, {Value{0, 2}, 0, Acked, 1}, {Value{0, 3}, 1, Acked, 1}, {Value{0, 4}, 0, Unknown, -1}, {Value{0, 5}, 0, Acked, 3}},
			{{Value{1, 1}, 1, Acked, 0}, {Value{1, 2}, 1, Unknown, -1}, {Value{1, 3}, 1, Acked, 2}},
		},
		Reads: [][]Read{
			{{Value{0, 1}, 0, 0}, {Value{1, 1}, 1, 0}, {Value{0, 2}, 0, 1}},
			{{Value{1, 1}, 1, 0}, {Value{0, 1}, 0, 0}, {Value{0, 2}, 0, 1}, {Value{0, 4}, 0, 2}, {Value{0, 5}, 0, 3}, {Value{0, 3}, 1, 1}, {Value{1, 3}, 1, 2}},
		},
	}
}

func TestSoundHistory(t *testing.T) {
	if a := Check(sound()); len(a) > 0 {
		t.Errorf("it has\n%s", a)
	}
}

// Every anomaly, planted into a sound history, is found, and is taken for nothing
// that it is not.
func TestPlantedAnomalies(t *testing.T) {
	planted := map[string]struct {
		plant func(*History)
		also  []string // what follows from it
	}{
		"lost write":          {func(h *History) { h.Reads[0] = h.Reads[0][:2]; h.Reads[1] = slices.Delete(h.Reads[1], 2, 3) }, nil},
		"unseen":              {func(h *History) { h.Sends[0] = append(h.Sends[0], Sent{Value{0, 6}, 0, Acked, 4}) }, nil},
		"unexpected value":    {func(h *History) { h.Reads[1] = append(h.Reads[1], Read{Value{0, 99}, 0, 4}) }, nil},
		"duplicate":           {func(h *History) { h.Reads[1] = append(h.Reads[1], Read{Value{1, 3}, 1, 3}) }, nil},
		"inconsistent offset": {func(h *History) { h.Reads[0][2].Value = Value{0, 4} }, []string{"duplicate"}},
		"wrong offset":        {func(h *History) { h.Sends[0][4].Offset = 2 }, nil},
		"wrong partition":     {func(h *History) { h.Sends[0][3].Partition = 1 }, nil},
		"reorder":             {func(h *History) { h.Sends[0][0].N, h.Sends[0][1].N = 2, 1; swap(h) }, nil},
		"poll skip":           {func(h *History) { h.Reads[0] = slices.Delete(h.Reads[0], 0, 1) }, nil},
		"nonmonotonic poll":   {func(h *History) { h.Reads[0] = append(h.Reads[0], Read{Value{0, 1}, 0, 0}) }, nil},
	}
	for _, k := range kinds {
		x, ok := planted[k.name]
		if !ok {
			t.Errorf("%s is not planted", k.name)
			continue
		}
		h := sound()
		x.plant(h)
		a := Check(h)
		for _, other := range kinds {
			if got := len(a[other.name]) > 0; got != (other.name == k.name || slices.Contains(x.also, other.name)) {
				t.Errorf("%s was planted, %s found: %v\n%s", k.name, other.name, got, a)
			}
		}
	}
}

// swap has readers see the first two records of partition 0 the other way round.
func swap(h *History) {
	for _, reads := range h.Reads {
		for i := range reads {
			if v := &reads[i].Value; v.Producer == 0 && v.N < 3 {
				v.N = 3 - v.N
			}
		}
	}
}
