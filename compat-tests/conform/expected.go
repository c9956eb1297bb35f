package main

import (
	"fmt"
	"path"
	"strings"
)

// expectation is a difference that is as it should be. Patterns are those of
// path.Match, without its slashes; an empty one matches everything.
type expectation struct {
	scenario, step, path string
	ours, reference      string
	why                  string
}

// expected are the differences that have a reason. One that does not turn up
// any more is reported: it may be forgotten.
var expected = []expectation{}

// explain finds the reasons of differences, and tells which expectations were
// met.
func explain(ds []difference, met []bool) {
	for i := range ds {
		for j, e := range expected {
			if e.matches(&ds[i]) {
				ds[i].Why = e.why
				met[j] = true
				break
			}
		}
	}
}

func (e *expectation) matches(d *difference) bool {
	return match(e.scenario, d.Scenario) && match(e.step, d.Step) && match(e.path, d.Path) && match(e.ours, d.Ours) && match(e.reference, d.Reference)
}

func match(pattern, text string) bool {
	if pattern == "" {
		return true
	}
	// Brackets stand for themselves here, and slashes are nothing special.
	pattern = strings.NewReplacer("/", "\x00", "[", `\[`, "]", `\]`).Replace(pattern)
	ok, err := path.Match(pattern, strings.ReplaceAll(text, "/", "\x00"))
	if err != nil {
		panic(fmt.Sprintf("conform: %s: %v", pattern, err)) // the patterns are constants
	}
	return ok
}

func (e *expectation) String() string {
	return fmt.Sprintf("%s, %s %s: %s here and %s there: %s", e.scenario, e.step, e.path, e.ours, e.reference, e.why)
}
