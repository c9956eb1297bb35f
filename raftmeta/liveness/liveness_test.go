package liveness

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

var start = time.Unix(1_700_000_000, 0)

type registration struct {
	node        int32
	incarnation byte
	epoch       int64
	fenced      bool
}

// imageOf is an image of an index with brokers in it.
func imageOf(index uint64, bs ...registration) *image.Image {
	slices.SortFunc(bs, func(a, b registration) int { return int(a.epoch - b.epoch) })
	img := image.Empty()
	for _, b := range bs {
		img, _ = image.Apply(img, uint64(b.epoch), []image.Record{&image.BrokerRecord{ID: b.node, Incarnation: image.UUID{b.incarnation}, Fenced: b.fenced}})
	}
	img, _ = image.Apply(img, index, nil)
	return img
}

// led is an image in which nodes lead a partition each.
func led(img *image.Image, nodes ...int32) *image.Image {
	r := &image.PartitionsRecord{Topic: image.UUID{9}}
	for _, n := range nodes {
		r.Partitions = append(r.Partitions, image.Partition{Replicas: []int32{n}, ISR: []int32{n}, Dirs: "\xff", Leader: n})
	}
	img, _ = image.Apply(img, img.Index()+1, []image.Record{&image.TopicRecord{Name: "t", ID: image.UUID{9}}, r})
	return img
}

type script struct {
	t   *testing.T
	now time.Time
	*Tracker
}

// office is taken over brokers 1 to n, with incarnations 1 to n and epochs 11 to 10+n, at index 20.
func newScript(t *testing.T, fenced bool, n int32) *script {
	return &script{t, start, New(start, Config{}, imageOf(20, registrations(fenced, n)...))}
}

func registrations(fenced bool, n int32) (all []registration) {
	for i := range n {
		all = append(all, registration{i + 1, byte(i + 1), int64(i) + 11, fenced})
	}
	return all
}

func (s *script) wait(d time.Duration) { s.now = s.now.Add(d) }

// beat is a heartbeat of a broker that a majority confirms.
func (s *script) beat(node int32, applied uint64, change ...func(*Heartbeat)) Reply {
	s.t.Helper()
	s.Confirmed(s.now)
	h := Heartbeat{Node: node, Incarnation: image.UUID{byte(node)}, Epoch: int64(node) + 10, Applied: applied}
	for _, c := range change {
		c(&h)
	}
	r, err := s.Heartbeat(s.now, h)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// expect compares what a Tick asks for, in words.
func (s *script) expect(want ...string) Effects {
	s.t.Helper()
	e := s.Tick(s.now)
	var got []string
	for _, token := range e.Released {
		got = append(got, fmt.Sprint("release ", token))
	}
	for _, f := range e.Fence {
		got = append(got, fmt.Sprintf("fence %d/%d: %s", f.Node, f.Epoch, f.Reason))
	}
	for _, b := range e.Unfence {
		got = append(got, fmt.Sprintf("unfence %d/%d", b.Node, b.Epoch))
	}
	for _, b := range e.Shutdown {
		got = append(got, fmt.Sprintf("shutdown %d/%d", b.Node, b.Epoch))
	}
	for _, b := range e.Probe {
		got = append(got, fmt.Sprint("probe ", b.Node))
	}
	if !slices.Equal(got, want) {
		s.t.Fatalf("%s after the beginning: got %q, want %q", s.now.Sub(start), got, want)
	}
	return e
}

func wantFence(h *Heartbeat) { h.WantFence = true }
func wantStop(h *Heartbeat)  { h.WantShutdown = true }

func TestSilenceEndsASession(t *testing.T) {
	s := newScript(t, false, 2)
	s.expect("probe 1", "probe 2")
	s.beat(1, 20)
	s.beat(2, 20)
	e := s.expect()
	if want := start.Add(9*time.Second + 1); e.Wake != want {
		t.Errorf("wakes at %s, not when the sessions end", e.Wake)
	}
	s.wait(5 * time.Second)
	s.beat(2, 20)
	s.wait(4 * time.Second)
	s.expect()
	s.wait(time.Millisecond)
	s.expect("fence 1/11: no heartbeat for 9.001s")
	s.expect() // it was asked for
	s.wait(time.Second)
	s.expect("fence 1/11: no heartbeat for 10.001s") // and did not happen
	s.Image(s.now, imageOf(21, registration{1, 1, 11, true}, registration{2, 2, 12, false}))
	s.wait(2 * time.Second)
	s.beat(2, 20)
	s.expect()
	if r := s.beat(1, 19); !r.Fenced || !r.CaughtUp || r.Lease != 0 {
		t.Errorf("a fenced broker gets %+v", r)
	}
	s.expect("unfence 1/11")
}

func TestUnfence(t *testing.T) {
	for _, c := range []struct {
		what    string
		applied uint64
		change  func(*Heartbeat)
		want    []string
	}{
		{"its registration is applied", 11, func(*Heartbeat) {}, []string{"unfence 1/11"}},
		{"its registration is not applied", 10, func(*Heartbeat) {}, nil},
		{"it wants to be fenced", 11, wantFence, nil},
		{"it stops", 11, wantStop, nil},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := newScript(t, true, 1)
			s.expect("probe 1")
			s.beat(1, c.applied, c.change)
			s.expect(c.want...)
			s.wait(500 * time.Millisecond)
			s.expect()
		})
	}
}

func TestFenceOnRequest(t *testing.T) {
	s := newScript(t, false, 1)
	s.expect("probe 1")
	s.beat(1, 20, wantFence)
	s.expect("fence 1/11: it is not ready for clients")
}

func TestProofOfDeath(t *testing.T) {
	for _, c := range []struct {
		what  string
		found Finding
		who   image.UUID
		want  []string
	}{
		{"refused", Refused, image.UUID{}, []string{"release 21", "fence 1/11: its process is gone: its listener refuses connections"}},
		{"another", Alive, image.UUID{7}, []string{"release 21", "fence 1/11: its process is gone: another process answers in its place"}},
		{"itself", Alive, image.UUID{1}, nil},
		{"silence", NoAnswer, image.UUID{}, nil},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := newScript(t, false, 1)
			s.expect("probe 1")
			s.beat(1, 20)
			s.Await(21, 21)
			s.expect()
			s.Closed(1, image.UUID{1})
			s.expect("probe 1")
			s.Probed(1, image.UUID{1}, c.found, c.who)
			s.expect(c.want...)
			if _, err := s.Heartbeat(s.now, Heartbeat{Node: 1, Incarnation: image.UUID{1}, Epoch: 11}); errors.Is(err, ErrDead) != (c.want != nil) {
				t.Errorf("a heartbeat that was under way: %v", err)
			}
		})
	}
}

// Who has no connection here that could close, and may have ended, is asked again until
// it has one.
func TestUnheard(t *testing.T) {
	s := newScript(t, false, 2)
	s.expect("probe 1", "probe 2")
	s.beat(2, 20)
	if e := s.expect(); e.Wake != start.Add(300*time.Millisecond) {
		t.Errorf("wakes at %s", e.Wake)
	}
	s.wait(300 * time.Millisecond)
	s.expect("probe 1")
	s.Probed(1, image.UUID{1}, Alive, image.UUID{1})
	s.wait(299 * time.Millisecond)
	s.expect()
	s.wait(time.Millisecond)
	s.expect("probe 1")
	s.beat(1, 20)
	s.wait(time.Second)
	s.expect()
	s.Closed(1, image.UUID{1})
	s.expect("probe 1")
	s.wait(300 * time.Millisecond)
	s.expect("probe 1")
	s.Probed(1, image.UUID{1}, Refused, image.UUID{})
	s.expect("fence 1/11: its process is gone: its listener refuses connections")
}

func TestHeartbeatsOfOthersAreRefused(t *testing.T) {
	s := newScript(t, false, 1)
	for want, h := range map[error]Heartbeat{
		ErrNotRegistered: {Node: 2, Incarnation: image.UUID{2}, Epoch: 12},
		ErrStale:         {Node: 1, Incarnation: image.UUID{2}, Epoch: 11},
	} {
		if _, err := s.Heartbeat(s.now, h); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	if _, err := s.Heartbeat(s.now, Heartbeat{Node: 1, Incarnation: image.UUID{1}, Epoch: 10}); !errors.Is(err, ErrStale) {
		t.Errorf("an old epoch: %v", err)
	}
}

func TestAwait(t *testing.T) {
	s := newScript(t, false, 3)
	s.expect("probe 1", "probe 2", "probe 3")
	s.wait(2 * time.Second) // what the predecessor granted is over
	s.Await(20, "at once")
	s.expect("release at once", "probe 1", "probe 2", "probe 3")
	for node := range int32(3) {
		if r := s.beat(node+1, 20); r.Lease != time.Second {
			t.Fatalf("granted %s", r.Lease)
		}
	}
	s.Await(22, "c")
	s.Await(21, "a")
	s.Await(22, "d")
	s.expect()
	s.beat(1, 22)
	s.beat(2, 21)
	s.beat(3, 21)
	s.expect("release a")
	s.beat(2, 22)
	if r := s.beat(3, 21); r.Lease != 0 {
		t.Error("a broker that others wait for gets another lease")
	}
	e := s.expect()
	if want := s.now.Add(time.Second*11/9 + time.Millisecond); e.Wake != want {
		t.Errorf("wakes after %s, the lease may last %s", e.Wake.Sub(s.now), want.Sub(s.now))
	}
	s.now = e.Wake.Add(-1)
	s.expect()
	s.wait(1)
	s.expect("release c", "release d")
	if r := s.beat(3, 21); r.Lease != 0 {
		t.Error("a broker that is behind what was answered gets a lease")
	}
	s.Await(30, "e")
	if got := s.Abandon(); len(got) != 1 || got[0] != "e" || len(s.Abandon()) > 0 {
		t.Errorf("abandoned %v", got)
	}
}

// A broker that was fenced, or replaced, or taken from the image, may answer from its own until its lease is out.
func TestLeasesOutliveRegistrations(t *testing.T) {
	for what, img := range map[string]*image.Image{
		"fenced":       imageOf(21, registration{1, 1, 11, true}),
		"replaced":     imageOf(21, registration{1, 5, 21, true}),
		"unregistered": imageOf(21),
	} {
		t.Run(what, func(t *testing.T) {
			s := newScript(t, false, 1)
			s.expect("probe 1")
			s.beat(1, 20, wantFence)
			s.Image(s.now, img)
			s.Await(21, "x")
			e := s.expect()
			s.now = e.Wake
			s.expect("release x")
		})
	}
}

// The successor does not know which leases there are.
func TestNewOfficeWaitsALease(t *testing.T) {
	for _, fenced := range []bool{false, true} {
		s := newScript(t, fenced, 1)
		s.expect("probe 1")
		s.Await(21, "x")
		s.Tick(s.now.Add(time.Second)) // it may be probed again
		s.wait(time.Second)
		s.expect()
		s.wait(time.Second*2/9 + time.Millisecond)
		s.expect("release x")
	}
}

func TestAnOfficeThatNobodyConfirmsGrantsNothing(t *testing.T) {
	s := newScript(t, false, 1)
	h := Heartbeat{Node: 1, Incarnation: image.UUID{1}, Epoch: 11, Applied: 20}
	for _, c := range []struct {
		confirmed time.Duration // before the heartbeat
		want      time.Duration
	}{{0, time.Second}, {400 * time.Millisecond, 600 * time.Millisecond}, {time.Second, 0}, {time.Hour, 0}} {
		s.wait(10 * time.Hour)
		s.beat(1, 20)
		s.confirmed = s.now.Add(-c.confirmed)
		if r, err := s.Heartbeat(s.now, h); err != nil || r.Lease != c.want {
			t.Errorf("confirmed %s ago: %s, %v", c.confirmed, r.Lease, err)
		}
	}
	s = newScript(t, false, 1)
	if r, err := s.Heartbeat(s.now, h); err != nil || r.Lease != 0 {
		t.Errorf("never confirmed: %s, %v", r.Lease, err)
	}
}

func TestAdmit(t *testing.T) {
	other := image.UUID{7}
	s := newScript(t, false, 1)
	s.expect("probe 1")
	for what, err := range map[string]error{"the same": s.Admit(s.now, 1, image.UUID{1}), "new": s.Admit(s.now, 2, other)} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	s.beat(1, 20)
	err := s.Admit(s.now, 1, other)
	if !errors.Is(err, ErrDuplicate) || !strings.Contains(err.Error(), "node.id") {
		t.Fatalf("beside one that lives: %v", err)
	}
	s.expect("probe 1")
	fenced := registration{1, 1, 11, true}
	s.Image(s.now, imageOf(21, fenced))
	if err := s.Admit(s.now, 1, other); !errors.Is(err, ErrDuplicate) {
		t.Fatalf("beside one with a lease: %v", err)
	}
	s.wait(2 * time.Second)
	if err := s.Admit(s.now, 1, other); err != nil {
		t.Fatalf("after one that is fenced: %v", err)
	}
	s.Image(s.now, imageOf(22, registration{1, 1, 11, false}))
	if r := s.beat(1, 22); r.Lease != 0 {
		t.Error("a lease for one that may be replaced any time")
	}

	s = newScript(t, false, 1)
	s.Probed(1, image.UUID{1}, Refused, image.UUID{})
	if err := s.Admit(s.now, 1, other); err != nil {
		t.Fatalf("after one that is gone: %v", err)
	}
}

// A broker that stops: others lead, then it is fenced, and when nobody sends it clients any more it goes.
func TestControlledShutdown(t *testing.T) {
	s := newScript(t, false, 2)
	s.expect("probe 1", "probe 2")
	s.Image(s.now, led(imageOf(20, registrations(false, 2)...), 2, 1))
	s.beat(2, 21)
	s.beat(1, 21, wantStop)
	s.expect("shutdown 1/11")
	if r := s.beat(1, 21); r.ShouldShutDown {
		t.Fatal("it goes while it leads")
	}
	s.Image(s.now, led(imageOf(21, registrations(false, 2)...), 2, 2))
	s.expect("fence 1/11: it stops, and leads nothing any more")
	s.expect()
	fenced := imageOf(23, registration{1, 1, 11, true}, registration{2, 2, 12, false})
	s.Image(s.now, fenced)
	if r := s.beat(1, 23); r.ShouldShutDown {
		t.Fatal("it goes while another broker may send clients to it")
	}
	s.beat(2, 23)
	if r := s.beat(1, 23); !r.ShouldShutDown {
		t.Fatal("it does not go")
	}
	s.expect()
}

// A controller that was deposed and has not noticed may take a broker for fenced that leads elsewhere: it lets none stop that
// said so after a majority was last behind it.
func TestAnOfficeThatNobodyConfirmsLetsNobodyStop(t *testing.T) {
	s := newScript(t, true, 1)
	s.beat(1, 20)
	for _, confirmed := range []bool{false, true} {
		s.wait(time.Second)
		if confirmed {
			s.Confirmed(s.now)
		}
		r, err := s.Heartbeat(s.now, Heartbeat{Node: 1, Incarnation: image.UUID{1}, Epoch: 11, Applied: 20, WantShutdown: true})
		if err != nil || r.ShouldShutDown != confirmed {
			t.Errorf("confirmed %v: %+v, %v", confirmed, r, err)
		}
	}
}

func TestStops(t *testing.T) {
	img := led(imageOf(20, registrations(false, 2)...), 1)
	for _, c := range []struct {
		node        int32
		incarnation byte
		told, stops bool
	}{
		{1, 1, true, false}, // it leads
		{1, 7, true, true},  // another has its place
		{2, 2, true, true},
		{2, 2, false, false},
		{3, 3, true, true}, // it is not registered any more
	} {
		if got := (Reply{ShouldShutDown: c.told}).Stops(img, c.node, image.UUID{c.incarnation}); got != c.stops {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// A controller that failed while it fenced a broker has left it marked as on its way out. Once it is heard of it gains again,
// unless it is stopping, or this controller goes on with that.
func TestWhoWasLeftOnItsWayOut(t *testing.T) {
	marked := func(fenced bool) *image.Image {
		img := imageOf(20, registrations(fenced, 1)...)
		img, _ = image.Apply(img, 21, []image.Record{&image.BrokerChangeRecord{ID: 1, Epoch: 11, Fenced: fenced, InControlledShutdown: true}})
		return led(img, 1)
	}
	s := &script{t, start, New(start, Config{}, marked(false))}
	s.expect("probe 1") // it has not been heard of
	s.beat(1, 22)
	s.expect("unfence 1/11")
	img, _ := image.Apply(marked(false), 23, []image.Record{&image.BrokerChangeRecord{ID: 1, Epoch: 11}})
	s.Image(s.now, img)
	s.expect()
	again, _ := image.Apply(img, 24, []image.Record{&image.BrokerChangeRecord{ID: 1, Epoch: 11, InControlledShutdown: true}})
	s.Image(s.now, again) // by a command that is under way
	s.wait(time.Second)
	s.expect()

	s = &script{t, start, New(start, Config{}, marked(false))}
	s.expect("probe 1")
	s.beat(1, 22, wantStop)
	s.expect("shutdown 1/11")

	s = &script{t, start, New(start, Config{}, marked(false))}
	s.expect("probe 1")
	s.Probed(1, image.UUID{1}, Refused, image.UUID{})
	s.expect("fence 1/11: its process is gone: its listener refuses connections")
}

// What nobody else can lead holds a broker up for a moment only.
func TestControlledShutdownOfTheOnlyReplica(t *testing.T) {
	s := newScript(t, false, 1)
	s.expect("probe 1")
	img := led(imageOf(20, registrations(false, 1)...), 1)
	s.Image(s.now, img)
	s.beat(1, 21, wantStop)
	s.expect("shutdown 1/11")
	img, _ = image.Apply(img, 22, []image.Record{&image.BrokerChangeRecord{ID: 1, Epoch: 11, InControlledShutdown: true}})
	s.Image(s.now, img)
	e := s.expect()
	if want := s.now.Add(stuck); e.Wake != want {
		t.Fatalf("wakes after %s", e.Wake.Sub(s.now))
	}
	s.wait(stuck)
	s.expect("fence 1/11: it stops, and nobody else can lead 1 of its partitions")
}
