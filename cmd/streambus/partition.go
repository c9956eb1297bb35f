package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/streambus/streambus/broker"
	"github.com/streambus/streambus/broker/replica"
)

func partitionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "partition TOPIC | TOPIC-PARTITION",
		Short: "Tell which replicas are in sync, which are not, and why",
		Long: `Tell which replicas of a partition are in sync, which are not, and why: by the
numbers that its leader judges by, if the node leads it that answers on
--admin-listen. Another replica tells what it knows, and who leads. With a topic
that is all partitions of which the node has a replica.

A name that ends in a dash and a number is taken for a partition; a topic of such
a name is asked for with --topic.`,
		Args: cobra.MaximumNArgs(1),
	}
	admin := adminFlag(cmd, "broker")
	topic := cmd.Flags().String("topic", "", "the topic, whatever its name looks like")
	watch := cmd.Flags().Bool("watch", false, "ask again every second, until an interrupt")
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		q := url.Values{}
		switch {
		case *topic != "" && len(args) == 0:
			q.Set("topic", *topic)
		case *topic != "" || len(args) == 0:
			return usagef("say what about: TOPIC or TOPIC-PARTITION")
		default:
			nameQuery(q, args[0])
		}
		addr, err := admin()
		if err != nil {
			return err
		}
		p := &partitionView{addr: addr, path: "/partition?" + q.Encode(), out: out, w: cmd.OutOrStdout()}
		if !*watch {
			return p.show(cmd.Context())
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		signal.Ignore(syscall.SIGPIPE) // a reader that has enough is no failure
		return p.watch(ctx, cmd.ErrOrStderr())
	}
	return cmd
}

// partitionView is what is asked, and where it is shown.
type partitionView struct {
	addr, path string
	out        output
	w          io.Writer
}

func (p *partitionView) show(ctx context.Context) error {
	body, err := askAdmin(ctx, "broker", p.addr, p.path)
	if err != nil {
		return err
	}
	if p.out.json() {
		_, err := p.w.Write(body)
		return err
	}
	var a broker.Partitions
	if err := json.Unmarshal(body, &a); err != nil {
		return err
	}
	return p.out.print(p.w, a, func(w io.Writer) { writePartitions(w, &a) })
}

// watch shows again and again until ctx ends. A node that does not answer may be
// about to come back, unless it did not from the first.
func (p *partitionView) watch(ctx context.Context, errs io.Writer) error {
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for first := true; ; first = false {
		if !p.out.json() {
			p.turnPage(first)
		}
		switch err := p.show(ctx); {
		case ctx.Err() != nil || errors.Is(err, syscall.EPIPE):
			return nil
		case err != nil && first:
			return err
		case err != nil:
			fmt.Fprintln(errs, "streambus:", err)
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// turnPage clears a terminal, and leaves a line between pages elsewhere.
func (p *partitionView) turnPage(first bool) {
	if f, ok := p.w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprint(p.w, "\x1b[H\x1b[2J")
	} else if !first {
		fmt.Fprintln(p.w)
	}
}

func writePartitions(w io.Writer, a *broker.Partitions) {
	for i := range a.Partitions {
		if i > 0 {
			fmt.Fprintln(w)
		}
		writePartition(w, a, &a.Partitions[i])
	}
	if a.LeftOut > 0 {
		fmt.Fprintf(w, "\n%d more partitions are left out: ask for one, as TOPIC-PARTITION\n", a.LeftOut)
	}
}

func writePartition(w io.Writer, a *broker.Partitions, s *replica.State) {
	fmt.Fprintf(w, "partition\t%s-%d\n", s.Topic, s.Partition)
	epochs := fmt.Sprintf("leader epoch %d, partition epoch %d", s.LeaderEpoch, s.PartitionEpoch)
	switch {
	case s.Leader < 0:
		fmt.Fprintf(w, "leader\tnobody, %s; this is what node %d knows\n", epochs, a.Node)
	case s.Leader == a.Node:
		fmt.Fprintf(w, "leader\tnode %d, %s\n", s.Leader, epochs)
	default:
		fmt.Fprintf(w, "leader\tnode %d, %s; ask it about the others: this is what node %d knows, which follows\n", s.Leader, epochs, a.Node)
	}
	fmt.Fprintf(w, "replicas\t%s\nin sync\t%s; min.insync.replicas is %d\n", ids(s.Replicas), ids(s.ISR), s.MinISR)
	if s.PendingISR != nil {
		fmt.Fprintf(w, "asked for\t%s in sync; the controllers have not answered\n", ids(s.PendingISR))
	}
	if s.Error != "" {
		fmt.Fprintf(w, "error\t%s\n", s.Error)
		return
	}
	flush := "none yet"
	if a.LastFlush > 0 {
		flush = fmt.Sprintf("took %.2f ms", a.LastFlush)
	}
	fmt.Fprintf(w, "log\t%d to %d, flushed to %d, high watermark %d; %d bytes in %d segments\nlast flush\t%s (of the whole data directory)\n",
		s.LogStart, s.LogEnd, s.FlushedEnd, s.HighWatermark, s.Bytes, s.Segments, flush)
	if s.Following != nil {
		writeFollowing(w, a.Time, s.Following)
		for _, t := range s.Throttled {
			fmt.Fprintf(w, "throttled\t%s\n", throttle(&t, "follower.replication.throttled.rate"))
		}
	} else {
		writeFollowers(w, a, s)
	}
}

// writeFollowing is of a replica that does not lead.
func writeFollowing(w io.Writer, now time.Time, f *replica.Following) {
	link := "none"
	if !f.Connected.IsZero() {
		link = fmt.Sprintf("connected for %s, %d fetches under way, last answer %s ago", since(now, f.Connected), f.UnderWay, since(now, f.Answered))
	}
	fmt.Fprintf(w, "link\t%s\nlag\t%d acknowledged records\nwaits for\t%s\n", link, f.Lag, f.Waits)
	if f.Error != "" {
		fmt.Fprintf(w, "error\t%s\n", f.Error)
	}
}

// writeFollowers is the table of a leader.
func writeFollowers(w io.Writer, a *broker.Partitions, s *replica.State) {
	fmt.Fprintln(w, "\nNODE\tISR\tWRITTEN\tFLUSHED\tBEHIND\tFETCHED\tLINK\tWHY")
	fmt.Fprintf(w, "%d\tin\t%d\t%d\t-\t-\t-\tit leads\n", a.Node, s.LogEnd, s.FlushedEnd)
	for i := range s.Followers {
		f := &s.Followers[i]
		link := "-"
		if at := slices.IndexFunc(a.Followers, func(h broker.Heard) bool { return h.Node == f.ID }); at >= 0 {
			link = since(a.Time, a.Followers[at].Last) + " ago"
		}
		fetched := since(a.Time, f.Fetched)
		if !f.Fetched.IsZero() {
			fetched += " ago"
		}
		why := f.Why
		if at := slices.IndexFunc(s.Throttled, func(t replica.Throttled) bool { return t.ID == f.ID }); at >= 0 {
			why += "; throttled " + throttle(&s.Throttled[at], "leader.replication.throttled.rate")
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", f.ID, f.Standing, end(f.LogEnd), end(f.FlushedEnd), since(a.Time, f.CaughtUp), fetched, link, why)
	}
}

// throttle says what bounds a replica, and by which setting of the node that was asked.
func throttle(t *replica.Throttled, by string) string {
	text := fmt.Sprintf("by %s=%d, with all that are throttled on this node", by, t.Rate)
	if t.Wait > 0 {
		text += fmt.Sprintf("; nothing for %s", (time.Duration(t.Wait) * time.Millisecond).Round(time.Millisecond))
	}
	return text
}

// end is an offset, or a dash for one that is not known.
func end(offset int64) string {
	if offset < 0 {
		return "-"
	}
	return fmt.Sprint(offset)
}

// since is how long ago something was, or a dash for never.
func since(now, then time.Time) string {
	if then.IsZero() {
		return "-"
	}
	d := max(0, now.Sub(then))
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(100 * time.Millisecond).String()
}

func ids(nodes []int32) string {
	return strings.Trim(fmt.Sprint(nodes), "[]")
}
