// Command conform asks two brokers the same and compares what they answer,
// field by field: one that is to be like Apache Kafka, and Apache Kafka.
//
// A scenario is a script of requests that runs against each broker by itself,
// over a plain socket. Its answers are normalised (ids, times of now, addresses
// and the words of messages may differ; see normalize) and held against each
// other. A difference is an error unless expected.go says why it is right.
//
//	go run ./conform --against 127.0.0.1:9092 --reference 127.0.0.1:9093
//
// Scenarios make topics of their own, beginning with "c-", and leave them there;
// they change settings of the broker for a moment.
package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func main() {
	against := flag.String("against", "", "host:port of the broker to judge")
	reference := flag.String("reference", "", "host:port of Apache Kafka")
	only := flag.String("run", "", "regular expression: run the scenarios whose names match")
	seed := flag.Uint64("seed", 1, "what generated requests begin with")
	generated := flag.Int("generated", 100, "how many requests are generated for each API")
	format := flag.String("o", "text", "what is printed: text or json")
	markdown := flag.String("markdown", "", "file to write the report to as Markdown")
	flag.Parse()
	if *against == "" || *reference == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	wanted, err := regexp.Compile(*only)
	if err != nil {
		fmt.Fprintln(os.Stderr, "conform: -run:", err)
		os.Exit(2)
	}
	registerGenerated(*seed, *generated)
	r, err := judge(*against, *reference, wanted)
	if err == nil && *markdown != "" {
		err = os.WriteFile(*markdown, []byte(r.markdown()), 0o644)
	}
	if err == nil {
		err = r.print(os.Stdout, *format)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "conform:", err)
		os.Exit(1)
	}
	if r.failed() {
		os.Exit(1)
	}
}

// judge runs the scenarios against both brokers, one after the other.
func judge(against, reference string, wanted *regexp.Regexp) (*report, error) {
	ours, err := dialTarget("ours", against)
	if err != nil {
		return nil, err
	}
	theirs, err := dialTarget("the reference", reference)
	if err != nil {
		return nil, err
	}
	common := map[int16]versionRange{}
	for key, o := range ours.versions {
		if t, ok := theirs.versions[key]; ok {
			r := versionRange{max(o.min, t.min), min(o.max, t.max)}
			if newest := kmsg.RequestForKey(key).MaxVersion(); r.max > newest {
				r.max = newest
			}
			common[key] = r
		}
	}
	r := &report{ours: ours, reference: theirs, all: wanted.String() == "", met: make([]bool, len(expected))}
	slices.SortStableFunc(scenarios, func(a, b scenario) int { return strings.Compare(api(a.name), api(b.name)) })
	for _, sc := range scenarios {
		if !wanted.MatchString(sc.name) {
			continue
		}
		var (
			both sync.WaitGroup
			seen [2][]step
		)
		for i, t := range []*target{ours, theirs} {
			both.Go(func() { seen[i] = play(sc, t, common) })
		}
		both.Wait()
		c := compare(sc.name, seen[0], seen[1])
		explain(c.differences, r.met)
		r.scenarios = append(r.scenarios, c)
	}
	return r, nil
}

func api(scenario string) string {
	name, _, _ := strings.Cut(scenario, "/")
	return name
}
