package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/streambus/streambus/broker/history"
)

func whyCommand() *cobra.Command {
	var since string
	cmd := &cobra.Command{
		Use:   "why TOPIC | TOPIC-PARTITION | broker N | cluster",
		Short: "Tell what changed, when, by whom, and because of what",
		Long: `Tell what changed in the metadata, when, by whom, and because of what, as the
node has seen it that answers on --admin-listen.

A name that ends in a dash and a number is taken for a partition; a topic of such
a name is asked for with --topic.`,
		Args: cobra.MaximumNArgs(2),
	}
	var topic string
	admin := adminFlag(cmd, "broker")
	cmd.Flags().StringVar(&since, "since", "", "how far back: 90m, 24h, or a time as 2006-01-02T15:04:05Z; everything there is by default")
	cmd.Flags().StringVar(&topic, "topic", "", "the topic, whatever its name looks like")
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		q, err := whyQuery(topic, since, args, time.Now())
		if err != nil {
			return err
		}
		addr, err := admin()
		if err != nil {
			return err
		}
		return askWhy(cmd.OutOrStdout(), addr, q, out)
	}
	return cmd
}

// whyQuery makes the query of the admin route.
func whyQuery(topic, since string, args []string, now time.Time) (url.Values, error) {
	q := url.Values{}
	switch {
	case topic != "" && len(args) == 0:
		q.Set("topic", topic)
	case topic != "" || len(args) == 0:
		return nil, usagef("say what about: TOPIC, TOPIC-PARTITION, broker N, or cluster")
	case args[0] == "cluster" && len(args) == 1:
	case args[0] == "broker" && len(args) == 2:
		if _, err := strconv.ParseUint(args[1], 10, 31); err != nil {
			return nil, usagef("broker %s: must be a node id", args[1])
		}
		q.Set("broker", args[1])
	case len(args) == 2:
		return nil, usagef("%s %s: say TOPIC, TOPIC-PARTITION, broker N, or cluster", args[0], args[1])
	default:
		nameQuery(q, args[0])
	}
	if since == "" {
		return q, nil
	}
	if d, err := time.ParseDuration(since); err == nil {
		q.Set("since", now.Add(-d).Format(time.RFC3339Nano))
		return q, nil
	}
	at, err := time.Parse(time.RFC3339, since)
	if err != nil {
		return nil, usagef("--since %s: must be a duration as 90m, or a time as 2006-01-02T15:04:05Z", since)
	}
	q.Set("since", at.Format(time.RFC3339Nano))
	return q, nil
}

// nameQuery asks for a topic, or for a partition where the name ends as one's does.
func nameQuery(q url.Values, name string) {
	q.Set("topic", name)
	if at := strings.LastIndexByte(name, '-'); at > 0 {
		if _, err := strconv.ParseUint(name[at+1:], 10, 31); err == nil {
			q.Set("topic", name[:at])
			q.Set("partition", name[at+1:])
		}
	}
}

func askWhy(w io.Writer, admin string, q url.Values, out output) error {
	client := http.Client{Timeout: 30 * time.Second}
	resp, err := client.Get("http://" + admin + "/why?" + q.Encode())
	if err != nil {
		return fmt.Errorf("no broker answers on its admin listener: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		return fmt.Errorf("%s", strings.TrimSpace(string(text)))
	}
	if out.json() {
		_, err := io.Copy(w, resp.Body)
		return err
	}
	lines := json.NewDecoder(bufio.NewReader(resp.Body))
	known := false
	for {
		var e history.Entry
		if err := lines.Decode(&e); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
		known = true
		fmt.Fprintf(w, "%s  %s, for %s (unit %d)\n", e.Time.Local().Format("2006-01-02 15:04:05.000"), e.Actor, e.Cause, e.Index)
		for _, c := range e.Changes {
			fmt.Fprintf(w, "    %s: %s\n", subject(c), c.What)
		}
	}
	if !known {
		fmt.Fprintln(w, "nothing is known to have changed")
	}
	return nil
}

func subject(c history.Change) string {
	switch {
	case c.Broker != nil:
		return fmt.Sprintf("broker %d", *c.Broker)
	case c.Topic == "":
		return "cluster"
	case c.Partition != nil:
		return fmt.Sprintf("%s-%d", c.Topic, *c.Partition)
	}
	return c.Topic
}
