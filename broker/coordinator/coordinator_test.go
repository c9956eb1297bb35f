package coordinator

import (
	"slices"
	"testing"

	"github.com/streambus/streambus/raftmeta/image"
)

// TestDeleted: offsets go of topics that are known to be deleted, by a change or between
// two images, and of no others.
func TestDeleted(t *testing.T) {
	next := func(was *image.Image, records ...image.Record) (*image.Image, *image.Delta) {
		return image.Apply(was, was.Index()+1, records)
	}
	topic := func(id byte, name string) image.Record {
		return &image.TopicRecord{ID: image.UUID{id}, Name: name}
	}
	gone := func(id byte) image.Record { return &image.TopicRemovalRecord{Topic: image.UUID{id}} }
	first, _ := next(image.Empty(), topic(1, "a"), topic(2, "b"), topic(3, "c"))
	one, d := next(first, gone(1))
	if got := deleted(first, one, d); !slices.Equal(got, []string{"a"}) {
		t.Errorf("by a change: %v", got)
	}
	later, _ := next(one, gone(2), gone(3), topic(4, "c"), topic(5, "d"))
	if got := slices.Sorted(slices.Values(deleted(first, later, image.Everything(later)))); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("between two images: %v", got)
	}
	if got := deleted(nil, later, image.Everything(later)); len(got) > 0 {
		t.Errorf("before the first image: %v", got)
	}
}
