package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Short runs, in which one node after the other is killed, paused, stopped, cut off,
// and has a bad disk. The long ones are those of make soak.
func TestRun(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "streambus")
	build := exec.Command("go", "build", "-o", bin, "./cmd/streambus")
	build.Dir, build.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	disks := []string{"damage", "full"}
	if err := canMount(t.TempDir()); err != nil {
		t.Log("without the fault full:", err)
		disks = disks[:1]
	}
	for name, run := range map[string]struct {
		span  time.Duration
		kinds []string
	}{
		"processes": {25 * time.Second, []string{"kill", "pause", "stop", "storm"}},
		"network":   {25 * time.Second, []string{"cut", "one way"}},
		"disks":     {10 * time.Second, disks},
	} {
		t.Run(name, func(t *testing.T) {
			p := plan{
				bin: bin, dir: t.TempDir(), nodes: 3, partitions: 6, producers: 3, consumers: 2, rate: 1000, span: run.span,
				kinds: run.kinds, least: 500 * time.Millisecond, most: 2 * time.Second, seed: uint64(time.Now().UnixNano()),
				log: func(s string) { t.Log(s) },
			}
			r, err := p.run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("seed %d: %.0f records a second were acknowledged, faults %v, longest gaps %v ms", r.Seed, r.PerSecond, r.Faults, r.GapMs)
			if len(r.Anomalies) > 0 {
				t.Errorf("what clients saw cannot be:\n%s", r.Anomalies)
			}
			if r.GivenUp > 0 {
				t.Errorf("%d records were given up by clients with default retries: %v", r.GivenUp, r.Errors)
			}
			if r.Acked < 1000 || len(r.Faults) == 0 {
				t.Errorf("%d records and faults %v: it tests nothing", r.Acked, r.Faults)
			}
		})
	}
}
