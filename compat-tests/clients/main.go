// Command clients has client libraries do what applications do, on a cluster of
// three brokers, and compares what each reads and writes with what franz-go does:
//
//	go run ./clients                              # on containers of docker-compose.yml
//	go run ./clients -cluster processes           # on local processes
//	go run ./clients -bootstrap host:9092,...     # on any other brokers
//
// Beside that, groups of every kind of member read an input while members and
// brokers come and go, on a cluster of local processes:
//
//	go run ./clients -cluster processes -only "a group churns" -rounds 10
//
// It prints a table, and with -json the same as JSON. Where no docker engine can be
// had it falls back to local processes. The last line says what it ran on.
package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/streambus/streambus/compat-tests/clients/driver"
)

// caseTime bounds a try: a client that waits for ever has failed.
const caseTime = 90 * time.Second

// library is a client library. open gives one for a single try, and what ends it.
type library struct {
	Name    string
	Version string
	blurred bool // see try
	open    func(bootstrap []string) (driver.Client, func() error, error)
}

// Outcome is what came of one case with one library.
type outcome struct {
	Case    string  `json:"case"`
	Client  string  `json:"client"`
	Version string  `json:"version"`
	Outcome string  `json:"outcome"` // passed, failed, or skipped
	Detail  string  `json:"detail,omitempty"`
	Seconds float64 `json:"seconds"`
}

type report struct {
	Cluster           string    `json:"cluster"`
	ReplicationFactor int       `json:"replication_factor"`
	Outcomes          []outcome `json:"outcomes"`
}

type options struct {
	kind, bootstrap, broker, root, json string
	factor, rounds                      int
	only                                *regexp.Regexp
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "member" {
		if err := member(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "clients:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.StringVar(&o.kind, "cluster", "compose", "compose, or processes")
	flag.StringVar(&o.bootstrap, "bootstrap", "", "brokers to use instead, as host:port,...")
	flag.StringVar(&o.broker, "broker", "../bin/streambus", "the binary, for local processes")
	flag.StringVar(&o.root, "root", "..", "the project's directory, for containers")
	flag.IntVar(&o.factor, "factor", 3, "replicas of each partition")
	flag.IntVar(&o.rounds, "rounds", 1, "how often members come and go and a broker is killed")
	flag.StringVar(&o.json, "json", "", "a file for the results as JSON")
	only := flag.String("only", "", "the cases to run, as an expression for CLIENT: CASE")
	flag.Parse()
	var err error
	if o.only, err = regexp.Compile(*only); err == nil && o.kind != "compose" && o.kind != "processes" {
		err = fmt.Errorf("-cluster %s: must be compose or processes", o.kind)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "clients:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	failed, err := run(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "clients:", err)
	}
	if failed || err != nil {
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (failed bool, err error) {
	dir, err := os.MkdirTemp("", "clients")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	libraries, err := find(ctx, dir)
	if err != nil {
		return false, err
	}
	r := report{ReplicationFactor: o.factor}
	if err := runCases(ctx, o, dir, libraries, &r); err != nil {
		return false, err
	}
	if err := runChurn(ctx, o, dir, libraries, &r); err != nil {
		return false, err
	}
	for _, x := range r.Outcomes {
		failed = failed || x.Outcome == "failed"
	}
	if o.json != "" {
		text, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return failed, err
		}
		if err := os.WriteFile(o.json, append(text, '\n'), 0o644); err != nil {
			return failed, err
		}
	}
	print(r, libraries)
	return failed, nil
}

// runCases runs the cases that are wanted, each with each library.
func runCases(ctx context.Context, o options, dir string, libraries []library, r *report) (err error) {
	r.Cluster = "local processes"
	wanted := func(l library, x testCase) bool { return o.only.MatchString(l.Name + ": " + x.name) }
	if !slices.ContainsFunc(libraries, func(l library) bool {
		return slices.ContainsFunc(cases, func(x testCase) bool { return wanted(l, x) })
	}) {
		return nil
	}
	c, err := startCluster(ctx, o, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	r.Cluster = c.what
	for _, l := range libraries {
		for _, x := range cases {
			if wanted(l, x) {
				r.Outcomes = append(r.Outcomes, attempt(ctx, l, x, c, int16(o.factor)))
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	return nil
}

// runChurn has the groups of the wanted kinds churn. Brokers that were not
// started here are none to be killed.
func runChurn(ctx context.Context, o options, dir string, libraries []library, r *report) error {
	if o.bootstrap != "" || o.rounds == 0 {
		return nil
	}
	unwanted := func(k kind) bool { return !o.only.MatchString(k.Name + ": " + churnCase) }
	if len(slices.DeleteFunc(kinds(prepared{}), unwanted)) == 0 {
		return nil
	}
	p, err := prepare(ctx, dir, libraries)
	if err != nil {
		return err
	}
	outcomes, err := churn(ctx, slices.DeleteFunc(kinds(p), unwanted), o.broker, dir, o.rounds)
	r.Outcomes = append(r.Outcomes, outcomes...)
	return err
}

// startCluster starts what -cluster says, or the next best.
func startCluster(ctx context.Context, o options, dir string) (*cluster, error) {
	if o.bootstrap != "" {
		return given(o.bootstrap), nil
	}
	if o.kind == "processes" {
		return processes(ctx, o.broker, dir)
	}
	e, none := findEngine(ctx, dir)
	if none != nil {
		c, err := processes(ctx, o.broker, dir)
		if err == nil {
			c.what = fmt.Sprintf("local processes, not on containers: %v", none)
		}
		return c, err
	}
	c, err := containers(ctx, o.root, e)
	if err != nil {
		return nil, errors.Join(err, e.close())
	}
	down := c.close
	c.close = func() error { return errors.Join(down(), e.close()) }
	return c, nil
}

// find gets the libraries ready.
func find(ctx context.Context, dir string) ([]library, error) {
	said, err := exec.CommandContext(ctx, "kcat", "-V").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("kcat: %w: apt-get install kcat", err)
	}
	librdkafka := regexp.MustCompile(`librdkafka \S+`).Find(said)
	bin, kafkago, err := build(ctx, dir, "kafkago", "github.com/segmentio/kafka-go")
	if err != nil {
		return nil, err
	}
	self, _ := debug.ReadBuildInfo()
	nothing := func() error { return nil }
	return []library{
		{"kcat", string(bytes.TrimRight(librdkafka, ",")), false, func(b []string) (driver.Client, func() error, error) { return kcat{b}, nothing, nil }},
		{"franz-go", version(self, "github.com/twmb/franz-go"), false, func(b []string) (driver.Client, func() error, error) { return franz{b}, nothing, nil }},
		{"kafka-go", kafkago, true, func(b []string) (driver.Client, func() error, error) {
			p, err := start(bin, b)
			if err != nil {
				return nil, nil, err
			}
			return p, p.close, nil
		}},
	}, nil
}

// build makes a library's program, and says which version of the library it has.
func build(ctx context.Context, dir, name, module string) (bin, has string, err error) {
	bin = filepath.Join(dir, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-C", filepath.Join("clients", name), "-o", bin, ".")
	cmd.Env = append(os.Environ(), "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", "", fmt.Errorf("building %s: %w\n%s", name, err, out)
	}
	built, err := buildinfo.ReadFile(bin)
	if err != nil {
		return "", "", err
	}
	return bin, version(built, module), nil
}

func version(b *debug.BuildInfo, module string) string {
	for _, m := range b.Deps {
		if m.Path == module {
			return m.Version
		}
	}
	return "unknown"
}

// attempt runs one case with one library, on a topic of its own.
func attempt(ctx context.Context, l library, x testCase, c *cluster, factor int16) outcome {
	begun := time.Now()
	got := outcome{Case: x.name, Client: l.Name, Version: l.Version, Outcome: "passed"}
	ctx, cancel := context.WithTimeout(ctx, caseTime)
	defer cancel()
	err := func() (err error) {
		client, end, err := l.open(c.bootstrap)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, end()) }()
		t := &try{client: client, ours: franz{c.bootstrap}, cluster: c, factor: factor, blurred: l.blurred}
		t.topic = fmt.Sprintf("clients.%s.%s.%x", l.Name, strings.ReplaceAll(x.name, " ", "-"), begun.UnixNano())
		if err := t.ours.createTopic(ctx, t.topic, 3, factor); err != nil {
			return err
		}
		return x.run(ctx, t)
	}()
	got.Seconds = time.Since(begun).Round(time.Millisecond).Seconds()
	if skipped := driver.Unsupported(""); errors.As(err, &skipped) {
		got.Outcome, got.Detail = "skipped", string(skipped)
	} else if err != nil {
		got.Outcome, got.Detail = "failed", err.Error()
	}
	return got
}

// place is a cell of the table.
type place struct{ name, client string }

func printCases(tab io.Writer, at map[place]outcome, libraries []library) {
	fmt.Fprint(tab, "CASE")
	for _, l := range libraries {
		fmt.Fprintf(tab, "\t%s (%s)", l.Name, l.Version)
	}
	fmt.Fprintln(tab)
	for _, c := range cases {
		row := c.name
		for _, l := range libraries {
			x, ran := at[place{c.name, l.Name}]
			cell := "-"
			if ran {
				cell = fmt.Sprintf("%s %.1f s", x.Outcome, x.Seconds)
			}
			row += "\t" + cell
		}
		fmt.Fprintln(tab, row)
	}
}

// print writes the table, below it what failed and why something was left out, and
// what it all ran on.
func print(r report, libraries []library) {
	at := map[place]outcome{}
	count := map[string]int{}
	for _, x := range r.Outcomes {
		at[place{x.Case, x.Client}] = x
		count[x.Outcome]++
	}
	tab := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	if len(r.Outcomes) > 0 && r.Outcomes[0].Case != churnCase {
		printCases(tab, at, libraries)
	}
	for _, x := range r.Outcomes {
		if x.Case == churnCase {
			fmt.Fprintf(tab, "%s\t%s (%s)\t%s %.1f s\n", churnCase, x.Client, x.Version, x.Outcome, x.Seconds)
		}
	}
	tab.Flush()
	for _, x := range r.Outcomes {
		if x.Outcome != "passed" {
			fmt.Printf("%s: %s: %s: %s\n", x.Client, x.Case, x.Outcome, x.Detail)
		}
	}
	fmt.Printf("%d passed, %d skipped, %d failed, with replication factor %d, on %s\n", count["passed"], count["skipped"], count["failed"], r.ReplicationFactor, r.Cluster)
}
