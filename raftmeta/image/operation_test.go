package image

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// answered is an image with one more operation whose reply is its sequence.
func answered(img *Image, node int32, incarnation int, seq, done uint64) *Image {
	img, _ = Apply(img, img.Index()+1, []Record{&OperationRecord{
		Operation: Operation{Node: node, Incarnation: uuid(incarnation), Seq: seq, Done: done}, Reply: fmt.Append(nil, seq)}})
	return img
}

// misfit is what a panic says.
func misfit(f func()) (text string) {
	defer func() { text = fmt.Sprint(recover()) }()
	f()
	return ""
}

func TestResults(t *testing.T) {
	img := Empty()
	for seq := uint64(1); seq <= 5; seq++ {
		img = answered(img, 4, 1, seq, 0)
	}
	img = answered(img, 4, 1, 9, 0) // others were refused, and answered without a unit
	img = answered(img, 2, 7, 1, 0)
	before := img
	check := func(img *Image, node int32, incarnation int, done uint64, seqs ...uint64) {
		t.Helper()
		if n := img.NumResults(node, uuid(incarnation)); n != len(seqs) {
			t.Fatalf("%d results, want %v", n, seqs)
		}
		if got, known := img.Done(node, uuid(incarnation)); got != done || known != (done > 0 || len(seqs) > 0) {
			t.Fatalf("done %d, %v", got, known)
		}
		for seq := range uint64(12) {
			r, found := img.Result(Operation{Node: node, Incarnation: uuid(incarnation), Seq: seq})
			want := false
			for _, s := range seqs {
				want = want || s == seq
			}
			if found != want || found && (r.Seq != seq || string(r.Reply) != fmt.Sprint(seq) || r.Index == 0) {
				t.Fatalf("the result of %d is %+v, %v", seq, r, found)
			}
		}
	}
	check(img, 4, 1, 0, 1, 2, 3, 4, 5, 9)
	check(img, 2, 7, 0, 1)
	check(img, 4, 2, 0)
	check(img, 3, 1, 0)
	if r, _ := img.Result(Operation{Node: 4, Incarnation: uuid(1), Seq: 3}); r.Index != 3 {
		t.Fatalf("operation 3 was carried out by unit %d", r.Index)
	}

	// A repeat is answered from the table. In the log it means that somebody did not look there.
	for name, op := range map[string]func(){
		"again":      func() { answered(img, 4, 1, 3, 0) },
		"below done": func() { answered(answered(img, 4, 1, 10, 8), 4, 1, 7, 0) },
	} {
		if text := misfit(op); !strings.Contains(text, "was carried out before") {
			t.Errorf("%s: %q", name, text)
		}
	}

	// Who has the answers says so with a later operation, and never less than before.
	img = answered(img, 4, 1, 10, 4)
	check(img, 4, 1, 4, 4, 5, 9, 10)
	img = answered(img, 4, 1, 11, 2)
	check(img, 4, 1, 4, 4, 5, 9, 10, 11)

	// The controllers' own changes have no answers.
	own, _ := Apply(img, img.Index()+1, []Record{&OperationRecord{Actor: "controller"}})
	check(own, 0, 0, 0)

	restored, err := DecodeImage(img.Encode())
	if err != nil || !bytes.Equal(restored.Encode(), img.Encode()) || !reflect.DeepEqual(restored.origins, img.origins) {
		t.Fatalf("another table behind a snapshot: %v", err)
	}
	check(restored, 4, 1, 4, 4, 5, 9, 10, 11)

	// The next process of the node counts anew, and nobody asks for the one before.
	img = answered(img, 4, 2, 1, 0)
	check(img, 4, 2, 0, 1)
	check(img, 4, 1, 0)
	check(img, 2, 7, 0, 1)
	check(before, 4, 1, 0, 1, 2, 3, 4, 5, 9)
}

func TestResultsAreBounded(t *testing.T) {
	img := Empty()
	for seq := range uint64(MaxResults) {
		img = answered(img, 1, 1, seq+1, 0)
	}
	if n := img.NumResults(1, uuid(1)); n != MaxResults {
		t.Fatalf("%d results", n)
	}
	if text := misfit(func() { answered(img, 1, 1, MaxResults+1, 0) }); !strings.Contains(text, "more than 4096 operations") {
		t.Errorf("%q", text)
	}
	if n := answered(img, 1, 1, MaxResults+1, MaxResults).NumResults(1, uuid(1)); n != 2 {
		t.Errorf("%d results are left", n)
	}
}
