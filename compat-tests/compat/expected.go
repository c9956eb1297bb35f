package main

import "regexp"

// expectation is a difference that is as it should be. All are regular
// expressions for the whole of what they match, but part, which is a name.
type expectation struct {
	part, what  string
	kafka, ours string
	why         string
}

// expected are the differences that have a reason. One that does not turn up any
// more is reported: it may be forgotten.
var expected = []expectation{}

// reason finds the expectation that a difference meets, or -1.
func reason(part, what, kafka, ours string) int {
	for i, e := range expected {
		if e.part == part && whole(e.what, what) && whole(e.kafka, kafka) && whole(e.ours, ours) {
			return i
		}
	}
	return -1
}

func whole(pattern, text string) bool {
	return regexp.MustCompile(`^(?s:` + pattern + `)$`).MatchString(text)
}
