package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// conformance runs the comparison of raw requests, which is a command of its own.
// It lists all topics there are and changes settings of brokers: it gets new ones.
func conformance(ctx context.Context, b *bench, r *result) (err error) {
	b.stop()
	dir := filepath.Join(b.dir, "raw")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if b.ours, b.kafka, err = b.pair(ctx, dir); err != nil {
		return err
	}
	bin := filepath.Join(b.dir, "conform")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", bin, "./conform").CombinedOutput(); err != nil {
		return fmt.Errorf("building conform: %w\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(ctx, 8*time.Minute)
	defer cancel()
	args := []string{"--against", b.ours.Addr, "--reference", b.kafka.Addr, "-o", "json"}
	if b.markdown != "" {
		args = append(args, "-markdown", b.markdown)
	}
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		return err
	}
	var found struct {
		Keys        []struct{ Answers int }
		Unexplained []struct{ Scenario, Step, Path, Ours, Reference string }
		Faults      []string
	}
	if jsonErr := json.Unmarshal(out, &found); jsonErr != nil {
		return fmt.Errorf("what conform printed: %w: %.2000s", jsonErr, out)
	}
	for _, k := range found.Keys {
		r.checks += k.Answers
	}
	for _, d := range found.Unexplained {
		r.check(strings.Join([]string{d.Scenario, d.Step, d.Path}, ", "), d.Reference, d.Ours)
	}
	for _, f := range found.Faults {
		r.check("the run", "no fault", f)
	}
	ok := err == nil
	r.check("conform's exit", strconv.FormatBool(len(r.failures) == 0), strconv.FormatBool(ok))
	return nil
}
