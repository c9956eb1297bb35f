package main

import (
	"fmt"
	"maps"
	"slices"
)

// difference is one place where the brokers differ.
type difference struct {
	Scenario  string `json:"scenario"`
	Step      string `json:"step"`
	Path      string `json:"path"`
	Ours      string `json:"ours"`
	Reference string `json:"reference"`
	Why       string `json:"why,omitempty"` // why that is right, where somebody said so

	key, version int16
}

// comparison is what a scenario came to.
type comparison struct {
	name        string
	answers     int // of both sides, compared
	values      int // compared
	differences []difference
	fault       string // of the scenario itself
	covered     map[apiVersion]int
}

type apiVersion struct{ key, version int16 }

// compare holds the two transcripts of a scenario against each other.
func compare(name string, ours, reference []step) *comparison {
	c := &comparison{name: name, covered: map[apiVersion]int{}}
	for i := range max(len(ours), len(reference)) {
		switch {
		case i >= len(ours):
			c.differ(reference[i], "", "the scenario was over", "goes on")
			return c
		case i >= len(reference):
			c.differ(ours[i], "", "goes on", "the scenario was over")
			return c
		case ours[i].label != reference[i].label:
			c.differ(ours[i], "", "asked "+ours[i].label, "asked "+reference[i].label)
			return c
		}
		if ours[i].answered && reference[i].answered {
			c.answers++
			c.covered[apiVersion{ours[i].key, ours[i].version}]++
		}
		c.values += c.value(ours[i], "", ours[i].value, reference[i].value)
	}
	if c.values == 0 {
		c.fault = "it compared nothing"
	}
	return c
}

func (c *comparison) differ(at step, path string, ours, reference any) {
	c.differences = append(c.differences, difference{
		Scenario: c.name, Step: at.label, Path: path,
		Ours: fmt.Sprint(ours), Reference: fmt.Sprint(reference), key: at.key, version: at.version,
	})
}

// value compares two values and returns how many leaves that were.
func (c *comparison) value(at step, path string, ours, reference any) int {
	switch o := ours.(type) {
	case map[string]any:
		if r, ok := reference.(map[string]any); ok {
			n := 0
			for _, k := range slices.Sorted(maps.Keys(o)) {
				n += c.value(at, path+"."+k, o[k], r[k])
			}
			for _, k := range slices.Sorted(maps.Keys(r)) {
				if _, ok := o[k]; !ok {
					n += c.value(at, path+"."+k, nil, r[k])
				}
			}
			return n
		}
	case []any:
		if r, ok := reference.([]any); ok {
			return 1 + c.list(at, path, o, r)
		}
	}
	if fmt.Sprintf("%T %v", ours, ours) != fmt.Sprintf("%T %v", reference, reference) {
		c.differ(at, path, show(ours), show(reference))
	}
	return 1
}

// list compares entries that are told apart by a name or a key by that, and
// others by their places.
func (c *comparison) list(at step, path string, ours, reference []any) int {
	for _, by := range []string{"Name", "ApiKey"} {
		o, ok1 := keyed(ours, by)
		r, ok2 := keyed(reference, by)
		if ok1 && ok2 && len(o)+len(r) > 0 {
			return c.keyed(at, path, o, r)
		}
	}
	if len(ours) != len(reference) {
		c.differ(at, path, fmt.Sprintf("%d entries", len(ours)), fmt.Sprintf("%d entries", len(reference)))
		return 0
	}
	n := 0
	for i := range ours {
		n += c.value(at, fmt.Sprintf("%s[%d]", path, i), ours[i], reference[i])
	}
	return n
}

// keyed gives the entries by one of their fields, if it tells them apart.
func keyed(list []any, by string) (entries map[string]any, ok bool) {
	entries = map[string]any{}
	for _, e := range list {
		m, _ := e.(map[string]any)
		key, has := m[by]
		if !has || entries[fmt.Sprint(key)] != nil {
			return nil, false
		}
		entries[fmt.Sprint(key)] = e
	}
	return entries, true
}

func (c *comparison) keyed(at step, path string, ours, reference map[string]any) int {
	n := 0
	for _, key := range slices.Sorted(maps.Keys(reference)) {
		if o, ok := ours[key]; ok {
			n += c.value(at, path+"["+key+"]", o, reference[key])
		} else {
			c.differ(at, path+"["+key+"]", "not there", "there")
		}
	}
	for _, key := range slices.Sorted(maps.Keys(ours)) {
		if _, ok := reference[key]; !ok {
			c.differ(at, path+"["+key+"]", "there", "not there")
		}
	}
	return n
}

func show(v any) string {
	if v == nil {
		return "null"
	}
	if t, ok := v.(string); ok {
		return fmt.Sprintf("%q", t)
	}
	return fmt.Sprint(v)
}
