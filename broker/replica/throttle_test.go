package replica

import "testing"

func TestThrottledReplicas(t *testing.T) {
	for list, want := range map[string]string{
		"":                     "...",
		"*":                    "xxx",
		" * ,":                 "xxx",
		"0:1":                  "x..",
		"2:1, 0:1,1:2,,0:3":    "x.x",
		"1:01":                 ".x.",
		"99999999999:1,1:1":    ".x.",
		"1:99999999999,0:2":    "...",
		"4294967296:1":         "...",
		"0:4294967297,2:1,2:1": "..x",
	} {
		at, got := throttledAt(list, 1), ""
		for p := range int32(3) {
			got += map[bool]string{true: "x", false: "."}[at.has(p)]
		}
		if got != want {
			t.Errorf("%q: %s, want %s", list, got, want)
		}
	}
}
