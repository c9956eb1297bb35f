// Command kgotests runs franz-go's own tests of its client against this broker, on
// one node and on three. The tests ship with the module. passes.txt says which of them
// pass: one that fails, or that does not run any more, is an error.
package main

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/streambus/streambus/compat-tests/server"
)

// unserved are the tests of what this release does not serve.
const unserved = "Txn|Share|SCRAM"

//go:embed passes.txt
var passes string

func main() {
	bin := flag.String("broker", "../bin/streambus", "the broker's binary")
	list := flag.Bool("list", false, "print the tests that pass on one node, for passes.txt")
	flag.Parse()
	if err := run(*bin, *list); err != nil {
		fmt.Fprintln(os.Stderr, "kgotests:", err)
		os.Exit(1)
	}
}

func run(bin string, list bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	bin, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "kgotests")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	tests, err := compile(ctx, dir)
	if err != nil {
		return err
	}
	for _, x := range []struct {
		nodes   int
		only    string
		records int
	}{{1, "", 50_000}, {3, "GroupETL|GroupSimple", 100_000}} {
		began := time.Now()
		passed, err := against(ctx, bin, dir, tests, x.nodes, x.only, x.records)
		if err != nil {
			return fmt.Errorf("on %d nodes: %w", x.nodes, err)
		}
		if list {
			fmt.Println(strings.Join(passed, "\n"))
			return nil
		}
		missing := slices.DeleteFunc(strings.Fields(passes), func(name string) bool {
			return slices.Contains(passed, name) || !matches(x.only, name)
		})
		if len(missing) > 0 {
			return fmt.Errorf("on %d nodes these tests have not passed: %s", x.nodes, strings.Join(missing, " "))
		}
		fmt.Printf("franz-go's tests on %d nodes: %d passed, %.0f s; not run: %s\n", x.nodes, len(passed), time.Since(began).Seconds(), unserved)
	}
	return nil
}

func matches(only, name string) bool {
	return only == "" || slices.ContainsFunc(strings.Split(only, "|"), func(part string) bool { return strings.Contains(name, part) })
}

const testBinary = "kgo.test"

// compile makes the test binary of the module's package, and returns where that is.
func compile(ctx context.Context, dir string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/twmb/franz-go").Output()
	if err != nil {
		return "", fmt.Errorf("where franz-go is: %w", err)
	}
	// The module cache is read-only, and a test binary is made in its module.
	module := filepath.Join(dir, "franz-go")
	if err := os.CopyFS(module, os.DirFS(strings.TrimSpace(string(out)))); err != nil {
		return "", err
	}
	at := filepath.Join(module, "pkg", "kgo")
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-o", testBinary, ".")
	cmd.Dir = at
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compiling: %w\n%s", err, text)
	}
	return at, nil
}

// against runs the tests and returns the names of those that passed.
func against(ctx context.Context, bin, dir, tests string, nodes int, only string, records int) (passed []string, err error) {
	where, err := os.MkdirTemp(dir, "nodes")
	if err != nil {
		return nil, err
	}
	var all []*server.Server
	if nodes == 1 {
		var one *server.Server
		if one, err = server.StreamBus(ctx, bin, where, nil); one != nil {
			all = append(all, one)
		}
	} else {
		all, err = server.Cluster(ctx, bin, where, nodes, nil)
	}
	defer func() {
		for _, s := range all {
			err = errors.Join(err, s.Kill())
		}
	}()
	if err != nil {
		return nil, err
	}
	var seeds []string
	for _, s := range all {
		seeds = append(seeds, s.Addr)
	}
	cmd := exec.CommandContext(ctx, "go", "tool", "test2json", "./"+testBinary, "-test.v=test2json", "-test.timeout=8m", "-test.skip="+unserved, "-test.run="+only)
	cmd.Dir = tests
	cmd.Env = append(os.Environ(), "KGO_SEEDS="+strings.Join(seeds, ","), fmt.Sprint("KGO_TEST_RF=", nodes), fmt.Sprint("KGO_TEST_RECORDS=", records))
	out, runErr := cmd.Output()
	var failed []string
	said := map[string]*bytes.Buffer{}
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var e struct{ Action, Test, Output string }
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Test == "" {
			continue
		}
		switch e.Action {
		case "output":
			if said[e.Test] == nil {
				said[e.Test] = &bytes.Buffer{}
			}
			said[e.Test].WriteString(e.Output)
		case "pass":
			passed = append(passed, e.Test)
		case "fail":
			failed = append(failed, e.Test)
		}
	}
	slices.Sort(passed)
	if len(failed) > 0 || runErr != nil {
		for _, name := range failed {
			text := said[name].String()
			fmt.Fprintf(os.Stderr, "--- %s\n%s\n", name, text[max(0, len(text)-4000):])
		}
		return nil, errors.Join(fmt.Errorf("failed: %s", strings.Join(failed, " ")), runErr)
	}
	return passed, nil
}
