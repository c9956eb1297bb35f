package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
)

func groupCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "group", Short: "List, describe and delete consumer groups, and reset their offsets"}
	cmd.AddCommand(groupList(), groupDescribe(), groupResetOffsets(), groupDelete())
	return cmd
}

func groupList() *cobra.Command {
	var r *remote
	var out output
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List consumer groups",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.withSession(cmd, func(ctx context.Context, s *session) error {
				groups, err := s.admin.ListGroups(ctx)
				if err != nil {
					return s.failed("listing groups", err)
				}
				type row struct {
					Group       string `json:"group"`
					State       string `json:"state"`
					Protocol    string `json:"protocolType"`
					Coordinator int32  `json:"coordinator"`
				}
				rows := []row{}
				for _, g := range groups.Sorted() {
					rows = append(rows, row{g.Group, g.State, g.ProtocolType, g.Coordinator})
				}
				return out.print(cmd.OutOrStdout(), rows, func(w io.Writer) {
					fmt.Fprintln(w, "GROUP\tSTATE\tCOORDINATOR")
					for _, g := range rows {
						fmt.Fprintf(w, "%s\t%s\t%d\n", g.Group, g.State, g.Coordinator)
					}
				})
			})
		},
	}
	r, out = remoteFlags(cmd), outputFlag(cmd)
	return cmd
}

type groupDescription struct {
	Group       string            `json:"group"`
	State       string            `json:"state"`
	Protocol    string            `json:"protocol"`
	Coordinator int32             `json:"coordinator"`
	Members     []memberOfGroup   `json:"members"`
	Offsets     []offsetsOfAGroup `json:"offsets"`
	Lag         int64             `json:"lag"` // of all partitions
}

type memberOfGroup struct {
	ID       string  `json:"id"`
	Instance *string `json:"instance,omitempty"`
	Client   string  `json:"client"`
	Host     string  `json:"host"`
}

type offsetsOfAGroup struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Committed int64  `json:"committed"` // -1: none
	End       int64  `json:"end"`
	Lag       int64  `json:"lag"` // records; -1: nobody knows
	// LagSeconds is how long ago the record at the committed offset was written; left
	// out where nobody knows, as brokers of another kind do not.
	LagSeconds *float64 `json:"lagSeconds,omitempty"`
	Member     string   `json:"member,omitempty"`
}

func groupDescribe() *cobra.Command {
	var r *remote
	var out output
	cmd := &cobra.Command{
		Use:   "describe GROUP...",
		Short: "Describe groups: members, committed offsets, and how far behind they are, in records and in seconds",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			return r.withSession(cmd, func(ctx context.Context, s *session) error {
				names = distinct(names)
				lags, err := s.admin.Lag(ctx, names...)
				if err != nil {
					return s.failed("describing groups", err)
				}
				var all []groupDescription
				var errs []error
				for _, name := range names {
					g, err := s.described(ctx, name, lags[name])
					if err != nil {
						errs = append(errs, err)
						continue
					}
					all = append(all, g)
				}
				if err := s.lagSeconds(ctx, all); err != nil {
					errs = append(errs, err)
				}
				if len(all) > 0 {
					errs = append(errs, out.print(cmd.OutOrStdout(), all, func(w io.Writer) {
						for i, g := range all {
							if i > 0 {
								fmt.Fprintln(w)
							}
							g.text(w)
						}
					}))
				}
				return errors.Join(errs...)
			})
		},
	}
	r, out = remoteFlags(cmd), outputFlag(cmd)
	cmd.ValidArgsFunction = r.completeGroups
	return cmd
}

func describeGroup(g kadm.DescribedGroupLag) groupDescription {
	d := groupDescription{Group: g.Group, State: g.State, Protocol: g.Protocol, Coordinator: g.Coordinator.NodeID, Members: []memberOfGroup{}, Offsets: []offsetsOfAGroup{}}
	for _, m := range g.Members {
		d.Members = append(d.Members, memberOfGroup{m.MemberID, m.InstanceID, m.ClientID, m.ClientHost})
	}
	for _, l := range g.Lag.Sorted() {
		row := offsetsOfAGroup{Topic: l.Topic, Partition: l.Partition, Committed: l.Commit.At, End: l.End.Offset, Lag: l.Lag}
		if l.Member != nil {
			row.Member = l.Member.MemberID
		}
		d.Lag += max(0, l.Lag)
		d.Offsets = append(d.Offsets, row)
	}
	return d
}

// lagSeconds asks the leaders when the records were written that groups come to next.
func (s *session) lagSeconds(ctx context.Context, groups []groupDescription) error {
	type place struct {
		topic     string
		partition int32
	}
	behind := map[place][]*offsetsOfAGroup{}
	for i := range groups {
		for j := range groups[i].Offsets {
			o := &groups[i].Offsets[j]
			if o.Lag == 0 {
				o.LagSeconds = new(float64)
			} else if o.Lag > 0 && o.Committed >= 0 {
				at := place{o.Topic, o.Partition}
				behind[at] = append(behind[at], o)
			}
		}
	}
	if len(behind) == 0 {
		return nil
	}
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	for at, rows := range behind {
		offsets := make([]int64, len(rows))
		for i, o := range rows {
			offsets[i] = o.Committed
		}
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.Timestamp = at.partition, -1
		protocol.PutWritten(&p.UnknownTags, offsets)
		t := kmsg.NewListOffsetsRequestTopic()
		t.Topic, t.Partitions = at.topic, append(t.Partitions, p)
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, s.client)
	if err != nil {
		return s.failed("asking how long groups are behind", err)
	}
	now := time.Now()
	for _, t := range resp.Topics {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			rows := behind[place{t.Topic, p.Partition}]
			written := protocol.ReadWritten(&p.UnknownTags)
			if len(written) != len(rows) {
				continue
			}
			for i, o := range rows {
				if written[i] >= 0 {
					seconds := max(0, now.Sub(time.UnixMilli(written[i])).Seconds())
					o.LagSeconds = &seconds
				}
			}
		}
	}
	return nil
}

func (g groupDescription) text(w io.Writer) {
	fmt.Fprintf(w, "group:\t%s\nstate:\t%s\ncoordinator:\t%d\n", g.Group, g.State, g.Coordinator)
	if g.Protocol != "" {
		fmt.Fprintf(w, "protocol:\t%s\n", g.Protocol)
	}
	fmt.Fprintf(w, "lag:\t%d\n", g.Lag)
	if len(g.Members) > 0 {
		fmt.Fprintln(w, "\nMEMBER\tCLIENT\tHOST")
		for _, m := range g.Members {
			fmt.Fprintf(w, "%s\t%s\t%s\n", m.ID, m.Client, m.Host)
		}
	}
	if len(g.Offsets) > 0 {
		fmt.Fprintln(w, "\nTOPIC\tPARTITION\tCOMMITTED\tEND\tLAG\tSECONDS\tMEMBER")
		for _, o := range g.Offsets {
			seconds := int64(-1)
			if o.LagSeconds != nil {
				seconds = int64(*o.LagSeconds)
			}
			fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%s\t%s\t%s\n", o.Topic, o.Partition, known(o.Committed), o.End, known(o.Lag), known(seconds), cmp.Or(o.Member, "-"))
		}
	}
}

// known is a number, or a hyphen where there is none.
func known(n int64) string {
	if n < 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

// groupRefused puts a refusal into words.
func groupRefused(group string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kerr.GroupIDNotFound):
		return fmt.Errorf("group %s does not exist: \"streambus group list\" says what there is", group)
	case errors.Is(err, kerr.NonEmptyGroup), errors.Is(err, kerr.UnknownMemberID):
		return fmt.Errorf("group %s has members, which would go on as before: stop them first", group)
	}
	return fmt.Errorf("group %s: %w", group, err)
}

// movedOffset is what becomes of a committed offset.
type movedOffset struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Committed int64  `json:"committed"` // -1: none
	To        int64  `json:"to"`
	End       int64  `json:"end"`
}

func groupResetOffsets() *cobra.Command {
	var r *remote
	var out output
	var topics []string
	var execute bool
	ids := partitions{all: true}
	var to *place
	cmd := &cobra.Command{
		Use:   "reset-offsets GROUP --to PLACE",
		Short: "Set a group's committed offsets; without --execute it says what would be set",
		Long: "Set the committed offsets of a group that has no members. PLACE is " + placeHelp + ".\n" +
			"The topics are those that the group has offsets of, or what --topic names. Nothing is changed without --execute.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if to.kind == atNone {
				return usagef("--to is missing: %s", placeHelp)
			}
			return r.withSession(cmd, func(ctx context.Context, s *session) error {
				rows, err := s.resets(ctx, args[0], topics, &ids, to)
				if err != nil {
					return err
				}
				if execute {
					if err := s.reset(ctx, args[0], rows); err != nil {
						return err
					}
				}
				return out.print(cmd.OutOrStdout(), rows, func(w io.Writer) {
					fmt.Fprintln(w, "TOPIC\tPARTITION\tCOMMITTED\tTO\tEND")
					for _, x := range rows {
						fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%d\n", x.Topic, x.Partition, known(x.Committed), x.To, x.End)
					}
					if !execute {
						fmt.Fprintln(w, "\nNothing was changed: --execute does it.")
					}
				})
			})
		},
	}
	r, out = remoteFlags(cmd), outputFlag(cmd)
	to = placeFlag(cmd.Flags(), "to", "", "where the group is to go on: "+placeHelp)
	cmd.Flags().StringArrayVarP(&topics, "topic", "t", nil, "a topic; may be given several times")
	cmd.Flags().VarP(&ids, "partition", "p", "the partitions: one, several with commas, or all")
	cmd.Flags().BoolVar(&execute, "execute", false, "set the offsets")
	cmd.ValidArgsFunction = r.completeGroups
	return cmd
}

// resets is what a place is in each partition. An offset outside of a partition is
// moved to its nearer end.
func (s *session) resets(ctx context.Context, group string, topics []string, ids *partitions, to *place) ([]movedOffset, error) {
	committed, err := s.admin.FetchOffsets(ctx, group)
	if err != nil {
		return nil, s.failed("group "+group, err)
	}
	if len(topics) == 0 {
		topics = slices.Sorted(maps.Keys(committed))
		if len(topics) == 0 {
			return nil, fmt.Errorf("group %s does not exist, or has no offsets: \"streambus group list\" says what there is, and --topic names a topic to begin with", group)
		}
	}
	rows := []movedOffset{}
	for _, topic := range distinct(topics) {
		t, err := s.topic(ctx, topic)
		if err != nil {
			return nil, err
		}
		some, err := ids.of(t)
		if err != nil {
			return nil, err
		}
		all, err := s.bounds(ctx, topic, some)
		if err != nil {
			return nil, err
		}
		at, err := s.offsets(ctx, topic, to, all)
		if err != nil {
			return nil, err
		}
		for _, id := range some {
			row := movedOffset{Topic: topic, Partition: id, Committed: -1, To: min(max(at[id], all[id].start), all[id].end), End: all[id].end}
			if o, ok := committed.Lookup(topic, id); ok {
				row.Committed = o.At
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}

func (s *session) reset(ctx context.Context, group string, rows []movedOffset) error {
	var offsets kadm.Offsets
	for _, x := range rows {
		offsets.AddOffset(x.Topic, x.Partition, x.To, -1)
	}
	answers, err := s.admin.CommitOffsets(ctx, group, offsets)
	if err != nil {
		return s.failed("group "+group, err)
	}
	return groupRefused(group, answers.Error())
}

func groupDelete() *cobra.Command {
	var r *remote
	cmd := &cobra.Command{
		Use:   "delete GROUP...",
		Short: "Delete groups that have no members, with their offsets",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			return r.withSession(cmd, func(ctx context.Context, s *session) error {
				answers, err := s.admin.DeleteGroups(ctx, distinct(names)...)
				if err != nil {
					return s.failed("deleting groups", err)
				}
				var errs []error
				for _, g := range answers.Sorted() {
					if err := groupRefused(g.Group, g.Err); err != nil {
						errs = append(errs, err)
						continue
					}
					fmt.Fprintf(cmd.OutOrStdout(), "deleted group %s\n", g.Group)
				}
				return errors.Join(errs...)
			})
		},
	}
	r = remoteFlags(cmd)
	cmd.ValidArgsFunction = r.completeGroups
	return cmd
}

// completeGroups completes the names of groups in a shell.
func (r *remote) completeGroups(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return r.complete(cmd, args, func(ctx context.Context, s *session) ([]string, error) {
		groups, err := s.admin.ListGroups(ctx)
		return groups.Groups(), err
	})
}
