package raftmeta

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/streambus/streambus/raftmeta/follow"
	"github.com/streambus/streambus/raftmeta/image"
)

// pullBytes is what a follower takes at a time.
const pullBytes = 4 << 20

// View is a broker's copy of the metadata. Readers take one pointer and no lock.
type View struct {
	img atomic.Pointer[image.Image]

	mu   sync.Mutex    // guards the following
	news chan struct{} // closed and replaced when img moves on
}

// NewView is a view of nothing yet.
func NewView() *View {
	v := &View{news: make(chan struct{})}
	v.img.Store(image.Empty())
	return v
}

// Image is the newest image that is published here.
func (v *View) Image() *image.Image { return v.img.Load() }

// Wait returns when the image holds everything up to index.
func (v *View) Wait(ctx context.Context, index uint64) error {
	for {
		v.mu.Lock()
		news := v.news
		v.mu.Unlock()
		if v.Image().Index() >= index {
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Source gives committed units behind an index, or a snapshot. It waits for some until there are any or ctx ends.
type Source func(ctx context.Context, after uint64, maxBytes int) (follow.Batch, error)

// Follow pulls committed units behind what state has until ctx ends or what comes cannot be right. Each image, that of state
// before all, is first published, so that the broker acts on it, and then becomes visible: who waits for an index finds what
// it gave rise to. shown is called then.
func (v *View) Follow(ctx context.Context, state *follow.State, source Source, publish func(follow.Change), shown func(index uint64, awaited bool)) error {
	take := func(changes ...follow.Change) {
		for _, c := range changes {
			publish(c)
			v.show(c.Image)
			shown(c.Image.Index(), c.Awaited)
		}
	}
	if state.Index() > 0 {
		take(follow.Change{Image: state.Image(), Delta: image.Everything(state.Image()), Awaited: true})
	}
	for {
		batch, err := source(ctx, state.Index(), pullBytes)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		changes, err := state.Step(batch)
		take(changes...)
		if err != nil {
			return err
		}
	}
}

func (v *View) show(img *image.Image) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.img.Store(img)
	close(v.news)
	v.news = make(chan struct{})
}
