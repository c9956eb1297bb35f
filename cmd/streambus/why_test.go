package main

import (
	"testing"
	"time"
)

func TestWhyQuery(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		topic, since string
		args         []string
		want         string // empty for wrong usage
	}{
		{"", "", []string{"orders"}, "topic=orders"},
		{"", "", []string{"orders-3"}, "partition=3&topic=orders"},
		{"", "", []string{"orders-x"}, "topic=orders-x"},
		{"orders-3", "", nil, "topic=orders-3"},
		{"", "", []string{"broker", "4"}, "broker=4"},
		{"", "90m", []string{"cluster"}, "since=2026-01-02T01%3A34%3A05Z"},
		{"", "2026-01-01T00:00:00Z", []string{"cluster"}, "since=2026-01-01T00%3A00%3A00Z"},
		{"", "", nil, ""},
		{"a", "", []string{"b"}, ""},
		{"", "", []string{"broker", "x"}, ""},
		{"", "", []string{"orders", "3"}, ""},
		{"", "yesterday", []string{"cluster"}, ""},
	} {
		q, err := whyQuery(c.topic, c.since, c.args, now)
		if got := q.Encode(); got != c.want || (err != nil) != (c.want == "" && c.since == "" || c.since == "yesterday") {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
}
