package main

import (
	"strings"
	"testing"
)

// TestCompareScripts: a line that differs, is missing, or is too much is one
// failure each, and does not move the others.
func TestCompareScripts(t *testing.T) {
	kafka := "s\ta\t1\ns\ta\t2\ns\tb\tx\ns\tc\ty\nend\tend\tend\n"
	for name, c := range map[string]struct {
		ours string
		want []string
	}{
		"the same":    {kafka, nil},
		"different":   {strings.Replace(kafka, "a\t2", "a\t3", 1), []string{"s, a #2\n  expected: 2\n  seen:     3"}},
		"missing":     {strings.Replace(kafka, "s\tb\tx\n", "", 1), []string{"s, b\n  expected: x\n  seen:     nothing"}},
		"too much":    {"s\tz\t0\n" + kafka, []string{"s, z\n  expected: nothing\n  seen:     0"}},
		"ended early": {strings.TrimSuffix(kafka, "end\tend\tend\n"), []string{"end, end\n  expected: end\n  seen:     nothing"}},
	} {
		r := &result{name: "part", met: map[int]bool{}}
		compareScripts(r, kafka, c.ours)
		if strings.Join(r.failures, "|") != strings.Join(c.want, "|") {
			t.Errorf("%s: %q", name, r.failures)
		}
	}
}

// TestExpectations: a reason holds for what it names and nothing else.
func TestExpectations(t *testing.T) {
	r := &result{name: "Java client", met: map[int]bool{}}
	r.check("configs, described streambus.flush", "nothing", "ack DEFAULT_CONFIG STRING")
	r.check("configs, described streambus.flush", "nothing", "os DEFAULT_CONFIG STRING")
	if r.checks != 2 || len(r.failures) != 1 || len(r.met) != 1 {
		t.Errorf("%+v", r)
	}
}
