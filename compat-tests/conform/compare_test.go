package main

import (
	"strings"
	"testing"
)

func answer(value any) []step {
	return []step{{label: "1 Fetch v12", key: 1, version: 12, answered: true, value: value}}
}

func rows(names ...string) []any {
	var list []any
	for _, n := range names {
		list = append(list, map[string]any{"Topic": n, "ErrorCode": "NONE"})
	}
	return list
}

// Whatever differs is told, and told where.
func TestDifferencesAreFound(t *testing.T) {
	same := map[string]any{"Code": "NONE", "End": int64(5), "List": rows("a", "b"), "Null": nil}
	with := func(key string, v any) map[string]any {
		m := map[string]any{}
		for k, v := range same {
			m[k] = v
		}
		m[key] = v
		return m
	}
	for name, c := range map[string]struct {
		ours []step
		want string
	}{
		"nothing":             {answer(same), ""},
		"an error code":       {answer(with("Code", "1 OFFSET_OUT_OF_RANGE")), `.Code "1 OFFSET_OUT_OF_RANGE" "NONE"`},
		"a number":            {answer(with("End", int64(6))), `.End 6 5`},
		"a number as a text":  {answer(with("End", "5")), `.End "5" 5`},
		"a row that is gone":  {answer(with("List", rows("a"))), `.List 1 entries 2 entries`},
		"the order of rows":   {answer(with("List", rows("b", "a"))), `.List[0].Topic "b" "a"`},
		"empty for null":      {answer(with("Null", []any{})), `.Null [] null`},
		"one answer too few":  {nil, ` the scenario was over goes on`},
		"one answer too many": {append(answer(same), answer(same)...), ` goes on the scenario was over`},
		"no answer":           {[]step{{label: "1 Fetch v12", value: errClosed.Error()}}, ` "the connection is closed" map[`},
	} {
		got := compare("x", c.ours, answer(same))
		if c.want == "" && len(got.differences) > 0 || c.want != "" && len(got.differences) == 0 {
			t.Errorf("%s: %v", name, got.differences)
			continue
		}
		if c.want == "" {
			continue
		}
		d := got.differences[0]
		if text := d.Path + " " + d.Ours + " " + d.Reference; !strings.HasPrefix(text, c.want) {
			t.Errorf("%s: %s, want %s", name, text, c.want)
		}
	}
	if c := compare("x", nil, nil); c.fault == "" {
		t.Error("a scenario that compares nothing is no fault")
	}
}

// A reason covers what it says and nothing else.
func TestReasonsMatch(t *testing.T) {
	d := difference{Scenario: "Produce/times", Step: "3 Produce v9", Path: ".Topics[0].ErrorMessage", Ours: `"a text"`, Reference: "null"}
	for _, c := range []struct {
		e    expectation
		want bool
	}{
		{expectation{}, true},
		{expectation{scenario: "Produce/*", path: "*ErrorMessage", reference: "null"}, true},
		{expectation{scenario: "Fetch/*"}, false},
		{expectation{path: ".Topics[*].ErrorMessage"}, true},
		{expectation{path: ".Topics[1].ErrorMessage"}, false},
		{expectation{step: "3 Produce v?"}, false},
		{expectation{ours: "null"}, false},
	} {
		if got := c.e.matches(&d); got != c.want {
			t.Errorf("%+v: %v", c.e, got)
		}
	}
}
