// Package follow turns committed units into images. Every broker runs it, whether a controller shares its process or
// not, and however the units reach it.
package follow

import (
	"fmt"

	"github.com/streambus/streambus/raftmeta/image"
)

// Batch is what a controller gives: a snapshot when the follower is too far behind for units, else units in order.
type Batch struct {
	Snapshot []byte
	Units    []Unit
}

// Unit is a committed unit in its form in the log.
type Unit struct {
	Index uint64
	Bytes []byte
}

// State is how far a follower is. Images only ever move forward.
type State struct {
	img     *image.Image
	cluster string
	hash    uint32
}

// Change is the next image and what differs from the one before.
type Change struct {
	Image *image.Image
	Delta *image.Delta
	// Records made the image out of the one before; there are none where it came as a snapshot.
	Records []image.Record
	// Awaited says that somebody waits until every broker shows the image.
	Awaited bool
}

// New knows nothing yet but whose units it takes.
func New(clusterID string) *State {
	return &State{img: image.Empty(), cluster: clusterID, hash: image.ClusterHash(clusterID)}
}

// Resume goes on from a snapshot that the follower took of its own image. An error says that it cannot be used: it is
// damaged, of a newer release, or of another cluster.
func Resume(clusterID string, snapshot []byte) (*State, error) {
	s := New(clusterID)
	_, err := s.Step(Batch{Snapshot: snapshot})
	return s, err
}

// Image is what the follower has applied, and Index how far.
func (s *State) Image() *image.Image { return s.img }

// Index is what the follower has applied.
func (s *State) Index() uint64 { return s.img.Index() }

// Step applies a batch. Units that were applied before, which another controller may give again, are passed over. An error says that the batch does not continue what was applied, or is damaged; nothing of the
// piece that it names was applied.
func (s *State) Step(b Batch) ([]Change, error) {
	var changes []Change
	if b.Snapshot != nil {
		img, err := image.DecodeImage(b.Snapshot)
		if err != nil {
			return nil, err
		}
		// The oldest logs begin with an image that names no cluster; their first unit does.
		if img.ClusterID() != "" && img.ClusterID() != s.cluster {
			return nil, fmt.Errorf("the metadata snapshot is of cluster %s, this node is of cluster %s: it has reached controllers of another cluster", img.ClusterID(), s.cluster)
		}
		if img.Index() < s.img.Index() {
			return nil, fmt.Errorf("a metadata snapshot of index %d came after index %d: the controllers have lost committed changes, or are of another cluster", img.Index(), s.img.Index())
		}
		s.img = img
		changes = append(changes, Change{Image: img, Delta: image.Everything(img), Awaited: true})
	}
	for _, raw := range b.Units {
		if raw.Index <= s.img.Index() {
			continue
		}
		u, err := image.DecodeUnit(raw.Bytes, s.hash)
		if err != nil {
			return changes, fmt.Errorf("metadata unit %d: %w", raw.Index, err)
		}
		if u.Base != s.img.Index() {
			return changes, fmt.Errorf("metadata unit %d follows %d, and %d is applied here", raw.Index, u.Base, s.img.Index())
		}
		img, d := image.Apply(s.img, raw.Index, u.Records)
		s.img = img
		changes = append(changes, Change{img, d, u.Records, u.Awaited})
	}
	return changes, nil
}
