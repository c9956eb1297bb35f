package transport

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestDeliver(t *testing.T) {
	r := NewReceiver(2, cluster)
	sent := [][]byte{[]byte("one"), {}, []byte("three")}
	frame := encodeFrame(cluster, 1, 2, sent)
	_, got, err := r.Deliver(frame)
	if err != nil || fmt.Sprintf("%q", got) != `["one" "" "three"]` {
		t.Fatalf("%q, %v", got, err)
	}
	for n := range frame {
		if _, _, err := r.Deliver(frame[:n]); err == nil {
			t.Errorf("the first %d of %d bytes are taken", n, len(frame))
		}
	}
	for bit := range 8 * len(frame) {
		damaged := slices.Clone(frame)
		damaged[bit/8] ^= 1 << (bit % 8)
		if _, _, err := r.Deliver(damaged); err == nil {
			t.Errorf("bit %d may change", bit)
		}
	}
}

func TestNotMeantForThisNode(t *testing.T) {
	other := encodeFrame(cluster, 1, 2, nil)
	other[0] = 2
	for _, c := range []struct {
		self  uint64
		frame []byte
		want  string
	}{
		{2, encodeFrame("other", 0xa1, 2, nil), `raft node a1 of cluster "other" speaks to raft node 2 of cluster "a cluster": check the addresses in controller.quorum.voters`},
		{3, encodeFrame(cluster, 1, 2, nil), "raft node 1 speaks to raft node 2, and this is raft node 3"},
		{2, encodeFrame(cluster, 2, 2, nil), "another node says that it is raft node 2, which is this one"},
		{2, other, "a frame of raft messages has format 2, and this node reads format 1: run the same version on all nodes"},
	} {
		_, _, err := NewReceiver(c.self, cluster).Deliver(c.frame)
		if err == nil || err.Error() != c.want {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}

// header is that of a piece of a snapshot of size bytes.
func header(size int64, change func(*piece)) []byte {
	h := piece{Format: format, Cluster: cluster, From: 1, To: 2, ID: 7, Size: size, Sum: make([]byte, 32)}
	if change != nil {
		change(&h)
	}
	b, err := json.Marshal(h)
	if err != nil {
		panic(err)
	}
	return b
}

func TestPiecesThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		header []byte
		data   int
		want   string
	}{
		{[]byte("{"), 0, "the header of a piece"},
		{header(1, func(h *piece) { h.Format = 9 }), 0, "has format 9, and this node reads format 1"},
		{header(1, func(h *piece) { h.Cluster = "other" }), 0, `of cluster "other" speaks to`},
		{header(1, func(h *piece) { h.To = 5 }), 0, "and this is raft node 2"},
		{header(maxSnapshot+1, nil), 0, "at most 268435456"},
		{header(-1, nil), 0, "a snapshot of -1 bytes"},
		{header(1, func(h *piece) { h.Meta = make([]byte, maxMeta+1) }), 0, "of description"},
		{header(2*pieceSize, nil), pieceSize + 1, "in pieces of 1048577"},
		{header(10, nil), 5, "came before its beginning"},
	} {
		r := NewReceiver(2, cluster)
		_, _, err := r.Chunk(c.header, make([]byte, c.data))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %s", err, c.want)
		}
		if len(r.pieces.by) > 0 {
			t.Errorf("%s: it is kept", c.want)
		}
	}
	r := NewReceiver(2, cluster)
	r.Chunk(header(10, nil), nil)
	if _, _, err := r.Chunk(header(10, nil), make([]byte, 11)); err == nil || err.Error() != "a snapshot of 10 bytes has more" {
		t.Errorf("11 bytes of 10: %v", err)
	}
	r.Chunk(header(10, nil), nil)
	if _, whole, err := r.Chunk(header(10, nil), make([]byte, 10)); whole != nil || err == nil || !strings.Contains(err.Error(), "was damaged on its way") {
		t.Errorf("another sum: %v, %v", whole, err)
	}
}

// A snapshot that begins makes an end to the sender's last, and a sender for which there is no room makes an end to the
// others'.
func TestNewerSnapshot(t *testing.T) {
	r := NewReceiver(2, cluster)
	take := func(from, id uint64, offset int64, data int) int64 {
		t.Helper()
		next, whole, err := r.Chunk(header(maxSnapshot, func(h *piece) { h.From, h.ID, h.Offset = from, id, offset }), make([]byte, data))
		if err != nil || whole != nil {
			t.Fatal(whole, err)
		}
		return next
	}
	take(1, 7, 0, 0)
	if next := take(1, 7, 0, 10); next != 10 {
		t.Errorf("after 10 bytes it wants %d", next)
	}
	if next := take(1, 7, 3, 10); next != 10 {
		t.Errorf("after a piece from elsewhere it wants %d", next)
	}
	if next := take(1, 7, 0, 0); next != 10 {
		t.Errorf("asked again it wants %d", next)
	}
	if next := take(1, 8, 0, 0); next != 0 {
		t.Errorf("of a newer one it wants %d", next)
	}
	take(1, 8, 0, 10)
	take(3, 1, 0, 0)
	r.pieces.by[3].data = make([]byte, maxSnapshot-pieceSize)
	if got := slices.Sorted(maps.Keys(r.pieces.by)); !slices.Equal(got, []uint64{1, 3}) {
		t.Errorf("with room for both it keeps those of %v", got)
	}
	take(1, 8, 10, pieceSize)
	if got := slices.Sorted(maps.Keys(r.pieces.by)); !slices.Equal(got, []uint64{1}) {
		t.Errorf("without room for both it keeps those of %v", got)
	}
	for from := range uint64(100) {
		take(from+100, 1, 0, 0)
	}
	if n := len(r.pieces.by); n > maxSenders {
		t.Errorf("%d senders are kept", n)
	}
}

func FuzzDeliver(f *testing.F) {
	f.Add(encodeFrame(cluster, 1, 2, [][]byte{[]byte("one"), []byte("two")}))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if _, messages, err := NewReceiver(2, cluster).Deliver(frame); err == nil {
			if _, again, err := NewReceiver(2, cluster).Deliver(encodeFrame(cluster, 1, 2, messages)); err != nil || fmt.Sprint(again) != fmt.Sprint(messages) {
				t.Fatalf("%q, %q, %v", messages, again, err)
			}
		}
	})
}

func FuzzChunk(f *testing.F) {
	f.Add(header(10, nil), []byte{}, header(10, nil), []byte("12345"))
	f.Add([]byte(`{"format":1}`), []byte{1}, []byte("null"), []byte{})
	f.Fuzz(func(t *testing.T, h1, d1, h2, d2 []byte) {
		r := NewReceiver(2, cluster)
		r.Chunk(h1, d1)
		if next, whole, err := r.Chunk(h2, d2); err == nil && (next < 0 || next > int64(len(d1)+len(d2)) || whole != nil && int64(len(whole.Data)) != next) {
			t.Fatalf("%d, %v", next, whole)
		}
	})
}
