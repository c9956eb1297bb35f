package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// report is what a run has found.
type report struct {
	ours, reference *target
	all             bool // every scenario was run
	scenarios       []*comparison
	met             []bool // of expected
}

// failed tells whether something is left to mend: a difference without a
// reason, a scenario that says nothing, a version that nobody asked for, a
// reason without a difference.
func (r *report) failed() bool {
	unexplained, _ := r.differences()
	return len(unexplained) > 0 || len(r.faults()) > 0
}

func (r *report) differences() (unexplained, explained []difference) {
	for _, c := range r.scenarios {
		for _, d := range c.differences {
			if d.Why == "" {
				unexplained = append(unexplained, d)
			} else {
				explained = append(explained, d)
			}
		}
	}
	return unexplained, explained
}

// faults are those of the run.
func (r *report) faults() []string {
	var faults []string
	if len(r.scenarios) == 0 {
		faults = append(faults, "no scenario was run")
	}
	for _, c := range r.scenarios {
		if c.fault != "" {
			faults = append(faults, c.name+": "+c.fault)
		}
	}
	if !r.all {
		return faults
	}
	for _, k := range r.keys() {
		if len(k.missing) > 0 {
			faults = append(faults, fmt.Sprintf("%s: no answer of version %s was compared", k.Name, k.missing))
		}
	}
	for i, met := range r.met {
		// What generated requests come upon is chance.
		if e := &expected[i]; !met && !e.perhaps && !strings.HasSuffix(e.scenario, "/generated") {
			faults = append(faults, "a difference is expected that is not there: "+expected[i].String())
		}
	}
	return faults
}

// keyRow is what was seen of one API.
type keyRow struct {
	Key       int16  `json:"key"`
	Name      string `json:"name"`
	Ours      string `json:"ours"`
	Reference string `json:"reference"`
	Versions  int    `json:"versions"` // compared
	Answers   int    `json:"answers"`
	missing   string
}

// keys has a row for each API that is advertised.
func (r *report) keys() []keyRow {
	covered := map[apiVersion]int{}
	for _, c := range r.scenarios {
		for v, n := range c.covered {
			covered[v] += n
		}
		for _, d := range c.differences {
			if d.Why != "" && d.Path == "" { // one did not answer, and that has a reason
				covered[apiVersion{d.key, d.version}]++
			}
		}
	}
	var rows []keyRow
	for _, key := range slices.Sorted(maps.Keys(r.ours.versions)) {
		o := r.ours.versions[key]
		row := keyRow{Key: key, Name: kmsg.NameForKey(key), Ours: o.String(), Reference: "none"}
		if t, ok := r.reference.versions[key]; ok {
			row.Reference = t.String()
		}
		var missing []string
		for v := o.min; v <= o.max; v++ {
			n := covered[apiVersion{key, v}]
			if n == 0 {
				missing = append(missing, fmt.Sprint(v))
				continue
			}
			row.Versions++
			row.Answers += n
		}
		row.missing = strings.Join(missing, ", ")
		rows = append(rows, row)
	}
	return rows
}

func (v versionRange) String() string { return fmt.Sprintf("%d-%d", v.min, v.max) }

// sums are the figures of the whole run.
type sums struct {
	Scenarios, Answers, Values int
	Unexplained, Explained     int
}

func (r *report) sums() sums {
	var s sums
	for _, c := range r.scenarios {
		s.Scenarios++
		s.Answers += c.answers
		s.Values += c.values
	}
	unexplained, explained := r.differences()
	s.Unexplained, s.Explained = len(unexplained), len(explained)
	return s
}

func (s sums) String() string {
	return fmt.Sprintf("%d scenarios, %d answers of each broker, %d values compared: %d differences with a reason, %d without", s.Scenarios, s.Answers, s.Values, s.Explained, s.Unexplained)
}

func (r *report) print(w io.Writer, format string) error {
	switch format {
	case "json":
		unexplained, explained := r.differences()
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(map[string]any{"sums": r.sums(), "keys": r.keys(), "unexplained": unexplained, "explained": explained, "faults": r.faults()})
	case "text":
		unexplained, _ := r.differences()
		for _, d := range unexplained {
			fmt.Fprintf(w, "%s: %s: %s\n    ours      %s\n    reference %s\n", d.Scenario, d.Step, d.Path, d.Ours, d.Reference)
		}
		for _, f := range r.faults() {
			fmt.Fprintln(w, "fault:", f)
		}
		_, err := fmt.Fprintln(w, r.sums())
		return err
	default:
		return fmt.Errorf("-o %s: must be text or json", format)
	}
}

// markdown is the report as a page.
func (r *report) markdown() string {
	var b strings.Builder
	b.WriteString("# Conformance\n\nThe same requests were sent to StreamBus and to Apache Kafka 4.4.0, one node each, and the answers compared field by field.\n")
	b.WriteString("`make compat` does it again and fails on any difference that is not listed here.\n\n")
	fmt.Fprintf(&b, "%s.\n\n", r.sums())
	b.WriteString("| key | API | served | Apache Kafka | versions compared | answers compared |\n|---|---|---|---|---|---|\n")
	for _, k := range r.keys() {
		fmt.Fprintf(&b, "| %d | %s | %s | %s | %d | %d |\n", k.Key, k.Name, k.Ours, k.Reference, k.Versions, k.Answers)
	}
	b.WriteString("\n## Differences, and why they are right\n\n| where | what | StreamBus | Apache Kafka | why |\n|---|---|---|---|---|\n")
	// One row for each reason: a reason covers many places.
	for i, e := range expected {
		if r.met[i] {
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", cell(e.scenario), cell(e.path), cell(e.ours), cell(e.reference), e.why)
		}
	}
	if unexplained, _ := r.differences(); len(unexplained) > 0 {
		b.WriteString("\n## Differences without a reason\n\n| scenario | step | what | StreamBus | Apache Kafka |\n|---|---|---|---|---|\n")
		for _, d := range unexplained {
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", d.Scenario, d.Step, cell(d.Path), cell(d.Ours), cell(d.Reference))
		}
	}
	return b.String()
}

func cell(pattern string) string {
	if pattern == "" {
		return "any"
	}
	return "`" + strings.ReplaceAll(pattern, "|", "\\|") + "`"
}
