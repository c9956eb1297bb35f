package main

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func topicCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "topic", Short: "List, describe, create, alter and delete topics"}
	cmd.AddCommand(topicList(), topicDescribe(), topicCreate(), topicAlter(), topicDelete(), topicDeleteRecords())
	return cmd
}

// withSession runs do with a session, and bounds all it asks.
func (r *remote) withSession(cmd *cobra.Command, do func(context.Context, *session) error) error {
	s, err := r.open(cmd.Context())
	if err != nil {
		return err
	}
	defer s.close()
	ctx, cancel := context.WithTimeout(cmd.Context(), r.timeout)
	defer cancel()
	return do(ctx, s)
}

// topicID is an id as Kafka prints it.
func topicID(id kadm.TopicID) string { return base64.RawURLEncoding.EncodeToString(id[:]) }

func topicList() *cobra.Command {
	var r *remote
	var out output
	var internal bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List topics",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.withSession(cmd, func(ctx context.Context, s *session) error {
				meta, err := s.admin.Metadata(ctx)
				if err != nil {
					return s.failed("listing topics", err)
				}
				if !internal {
					meta.Topics.FilterInternal()
				}
				return printTopics(cmd.OutOrStdout(), out, meta.Topics.Sorted())
			})
		},
	}
	r, out = remoteFlags(cmd), outputFlag(cmd)
	cmd.Flags().BoolVar(&internal, "internal", false, "internal topics as well")
	return cmd
}

func printTopics(w io.Writer, out output, topics []kadm.TopicDetail) error {
	type row struct {
		Name       string `json:"name"`
		ID         string `json:"id"`
		Partitions int    `json:"partitions"`
		Replicas   int    `json:"replicas"`
		Internal   bool   `json:"internal"`
	}
	rows := []row{}
	for _, t := range topics {
		rows = append(rows, row{t.Topic, topicID(t.ID), len(t.Partitions), t.Partitions.NumReplicas(), t.IsInternal})
	}
	return out.print(w, rows, func(w io.Writer) {
		fmt.Fprintln(w, "NAME\tPARTITIONS\tREPLICAS")
		for _, r := range rows {
			fmt.Fprintf(w, "%s\t%d\t%d\n", r.Name, r.Partitions, r.Replicas)
		}
	})
}

func topicDescribe() *cobra.Command {
	var r *remote
	var out output
	cmd := &cobra.Command{
		Use:   "describe NAME...",
		Short: "Describe topics: partitions, their leaders, replicas and offsets, and the settings that were set",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			return r.withSession(cmd, func(ctx context.Context, s *session) error {
				var all []topicDescription
				var errs []error
				for _, name := range distinct(names) {
					d, err := s.describe(ctx, name)
					if err != nil {
						errs = append(errs, err)
						continue
					}
					all = append(all, d)
				}
				if len(all) > 0 {
					errs = append(errs, out.print(cmd.OutOrStdout(), all, func(w io.Writer) {
						for i, d := range all {
							if i > 0 {
								fmt.Fprintln(w)
							}
							d.text(w)
						}
					}))
				}
				return errors.Join(errs...)
			})
		},
	}
	r, out = remoteFlags(cmd), outputFlag(cmd)
	cmd.ValidArgsFunction = r.completeTopics
	return cmd
}

type topicDescription struct {
	Name       string                 `json:"name"`
	ID         string                 `json:"id"`
	Internal   bool                   `json:"internal"`
	Settings   map[string]string      `json:"settings"`
	Partitions []partitionDescription `json:"partitions"`
}

type partitionDescription struct {
	Partition int32   `json:"partition"`
	Leader    int32   `json:"leader"`
	Epoch     int32   `json:"epoch"`
	Replicas  []int32 `json:"replicas"`
	ISR       []int32 `json:"isr"`
	Start     *int64  `json:"start"` // nil: nobody could tell
	End       *int64  `json:"end"`
	Error     string  `json:"error,omitempty"`
}

func (s *session) describe(ctx context.Context, name string) (topicDescription, error) {
	t, err := s.topic(ctx, name)
	if err != nil {
		return topicDescription{}, err
	}
	d := topicDescription{Name: name, ID: topicID(t.ID), Internal: t.IsInternal}
	if d.Settings, err = s.settings(ctx, name); err != nil {
		return d, err
	}
	starts, ends, err := s.ends(ctx, name)
	if err != nil {
		return d, err
	}
	for _, p := range t.Partitions.Sorted() {
		row := partitionDescription{Partition: p.Partition, Leader: p.Leader, Epoch: p.LeaderEpoch, Replicas: p.Replicas, ISR: p.ISR}
		start, startErr := listed(starts, name, p.Partition)
		end, endErr := listed(ends, name, p.Partition)
		if err := cmp.Or(p.Err, startErr, endErr); err != nil {
			row.Error = err.Error()
		} else {
			row.Start, row.End = &start, &end
		}
		d.Partitions = append(d.Partitions, row)
	}
	return d, nil
}

// settings are those that were set on the topic itself.
func (s *session) settings(ctx context.Context, name string) (map[string]string, error) {
	configs, err := s.admin.DescribeTopicConfigs(ctx, name)
	if err != nil {
		return nil, s.failed("settings of topic "+name, err)
	}
	set := map[string]string{}
	for _, c := range configs {
		if c.Err != nil {
			return nil, refused(name, c.Err, c.ErrMessage)
		}
		for _, e := range c.Configs {
			if e.Source == kmsg.ConfigSourceDynamicTopicConfig {
				set[e.Key] = e.MaybeValue()
			}
		}
	}
	return set, nil
}

func (d topicDescription) text(w io.Writer) {
	fmt.Fprintf(w, "topic:\t%s\nid:\t%s\n", d.Name, d.ID)
	for i, key := range slices.Sorted(maps.Keys(d.Settings)) {
		label := ""
		if i == 0 {
			label = "settings:"
		}
		fmt.Fprintf(w, "%s\t%s=%s\n", label, key, d.Settings[key])
	}
	fmt.Fprintln(w, "PARTITION\tLEADER\tEPOCH\tREPLICAS\tISR\tSTART\tEND")
	for _, p := range d.Partitions {
		fmt.Fprintf(w, "%d\t%d\t%d\t%s\t%s\t", p.Partition, p.Leader, p.Epoch, commas(p.Replicas), commas(p.ISR))
		if p.Error != "" {
			fmt.Fprintln(w, p.Error)
			continue
		}
		fmt.Fprintf(w, "%d\t%d\n", *p.Start, *p.End)
	}
}

func topicCreate() *cobra.Command {
	var r *remote
	var out output
	var count int32
	var factor int16
	var settings []string
	var ifNotExists bool
	cmd := &cobra.Command{
		Use:   "create NAME...",
		Short: "Create topics",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			switch {
			case cmd.Flags().Changed("partitions") && count < 1:
				return usagef("--partitions %d: must be at least 1", count)
			case cmd.Flags().Changed("replication-factor") && factor < 1:
				return usagef("--replication-factor %d: must be at least 1", factor)
			}
			configs := map[string]*string{}
			for _, c := range settings {
				key, value, err := keyValue("config", c)
				if err != nil {
					return err
				}
				configs[key] = &value
			}
			return r.withSession(cmd, func(ctx context.Context, s *session) error {
				names := distinct(names)
				created, err := s.admin.CreateTopics(ctx, count, factor, configs, names...)
				if err != nil {
					return s.failed("creating topics", err)
				}
				var rows []createdTopic
				var errs []error
				for _, name := range names {
					t, err := created.On(name, nil)
					err = cmp.Or(err, t.Err)
					switch {
					case err == nil:
						rows = append(rows, createdTopic{name, topicID(t.ID), t.NumPartitions, t.ReplicationFactor})
					case !ifNotExists || !errors.Is(err, kerr.TopicAlreadyExists):
						errs = append(errs, refused(name, err, t.ErrMessage))
					}
				}
				return errors.Join(append(errs, printRows(cmd, out, rows, func(w io.Writer, t createdTopic) {
					fmt.Fprintf(w, "created topic %s: %s, replication factor %d\n", t.Name, counted(int64(t.Partitions), "partition"), t.Replicas)
				}))...)
			})
		},
	}
	r, out = remoteFlags(cmd), outputFlag(cmd)
	f := cmd.Flags()
	f.Int32Var(&count, "partitions", -1, "how many partitions (default: the broker's num.partitions)")
	f.Int16Var(&factor, "replication-factor", -1, "on how many brokers each partition is (default: the broker's default.replication.factor)")
	f.StringArrayVar(&settings, "config", nil, "a setting of the topics as key=value (repeatable)")
	f.BoolVar(&ifNotExists, "if-not-exists", false, "succeed if a topic is there already, as it is")
	noDefault(cmd, "partitions", "replication-factor")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

type createdTopic struct {
	Name       string `json:"name"`
	ID         string `json:"id"`
	Partitions int32  `json:"partitions"`
	Replicas   int16  `json:"replicas"`
}

func topicAlter() *cobra.Command {
	var r *remote
	var out output
	var count int
	var set, unset []string
	cmd := &cobra.Command{
		Use:   "alter NAME",
		Short: "Add partitions to a topic, or change its settings",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			more := cmd.Flags().Changed("partitions")
			var changes []kadm.AlterConfig
			for _, s := range set {
				key, value, err := keyValue("set", s)
				if err != nil {
					return err
				}
				changes = append(changes, kadm.AlterConfig{Op: kadm.SetConfig, Name: key, Value: &value})
			}
			for _, key := range unset {
				changes = append(changes, kadm.AlterConfig{Op: kadm.DeleteConfig, Name: key})
			}
			switch {
			case !more && len(changes) == 0:
				return usagef("topic %s: nothing to alter: --partitions, --set or --unset say what", name)
			case more && count < 1:
				return usagef("--partitions %d: must be at least 1", count)
			}
			return r.withSession(cmd, func(ctx context.Context, s *session) error {
				if err := s.alter(ctx, name, more, count, changes); err != nil {
					return err
				}
				t, err := s.topic(ctx, name)
				if err != nil {
					return err
				}
				settings, err := s.settings(ctx, name)
				if err != nil {
					return err
				}
				row := alteredTopic{name, len(t.Partitions), settings}
				return out.print(cmd.OutOrStdout(), row, func(w io.Writer) {
					fmt.Fprintf(w, "altered topic %s: %s", name, counted(int64(row.Partitions), "partition"))
					for _, key := range slices.Sorted(maps.Keys(settings)) {
						fmt.Fprintf(w, ", %s=%s", key, settings[key])
					}
					fmt.Fprintln(w)
				})
			})
		},
	}
	r, out = remoteFlags(cmd), outputFlag(cmd)
	cmd.Flags().IntVar(&count, "partitions", 0, "how many partitions it shall have: more than now")
	cmd.Flags().StringArrayVar(&set, "set", nil, "a setting as key=value (repeatable)")
	cmd.Flags().StringArrayVar(&unset, "unset", nil, "a setting that goes back to the broker's (repeatable)")
	noDefault(cmd, "partitions")
	cmd.ValidArgsFunction = r.completeTopic
	return cmd
}

type alteredTopic struct {
	Name       string            `json:"name"`
	Partitions int               `json:"partitions"`
	Settings   map[string]string `json:"settings"`
}

// alter asks for partitions and settings, which are two calls: each is first
// only checked, so that a refusal of one does not leave the other done.
func (s *session) alter(ctx context.Context, name string, more bool, count int, changes []kadm.AlterConfig) error {
	calls := []struct {
		wanted      bool
		check, make func() error
	}{
		{len(changes) > 0, s.altering(ctx, s.admin.ValidateAlterTopicConfigs, name, changes), s.altering(ctx, s.admin.AlterTopicConfigs, name, changes)},
		{more, s.growing(ctx, s.admin.ValidateUpdatePartitions, name, count), s.growing(ctx, s.admin.UpdatePartitions, name, count)},
	}
	for _, c := range calls {
		if c.wanted {
			if err := c.check(); err != nil {
				return err
			}
		}
	}
	for _, c := range calls {
		if c.wanted {
			if err := c.make(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *session) altering(ctx context.Context, call func(context.Context, []kadm.AlterConfig, ...string) (kadm.AlterConfigsResponses, error), name string, changes []kadm.AlterConfig) func() error {
	return func() error {
		rs, err := call(ctx, changes, name)
		if err != nil {
			return s.failed("altering topic "+name, err)
		}
		row, err := rs.On(name, nil)
		return refused(name, cmp.Or(err, row.Err), row.ErrMessage)
	}
}

func (s *session) growing(ctx context.Context, call func(context.Context, int, ...string) (kadm.CreatePartitionsResponses, error), name string, count int) func() error {
	return func() error {
		rs, err := call(ctx, count, name)
		if err != nil {
			return s.failed("adding partitions to topic "+name, err)
		}
		row, err := rs.On(name, nil)
		return refused(name, cmp.Or(err, row.Err), row.ErrMessage)
	}
}

func topicDelete() *cobra.Command {
	var r *remote
	var out output
	var ifExists bool
	cmd := &cobra.Command{
		Use:   "delete NAME...",
		Short: "Delete topics with all their records",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			return r.withSession(cmd, func(ctx context.Context, s *session) error {
				names := distinct(names)
				deleted, err := s.admin.DeleteTopics(ctx, names...)
				if err != nil {
					return s.failed("deleting topics", err)
				}
				var rows []deletedTopic
				var errs []error
				for _, name := range names {
					t, err := deleted.On(name, nil)
					err = cmp.Or(err, t.Err)
					switch {
					case err == nil:
						rows = append(rows, deletedTopic{name, topicID(t.ID)})
					case !ifExists || !errors.Is(err, kerr.UnknownTopicOrPartition):
						errs = append(errs, refused(name, err, t.ErrMessage))
					}
				}
				return errors.Join(append(errs, printRows(cmd, out, rows, func(w io.Writer, t deletedTopic) {
					fmt.Fprintln(w, "deleted topic", t.Name)
				}))...)
			})
		},
	}
	r, out = remoteFlags(cmd), outputFlag(cmd)
	cmd.Flags().BoolVar(&ifExists, "if-exists", false, "succeed if a topic is not there")
	cmd.ValidArgsFunction = r.completeTopics
	return cmd
}

type deletedTopic struct {
	Name string `json:"name"`
	ID   string `json:"id"`
}

func topicDeleteRecords() *cobra.Command {
	var r *remote
	var out output
	var ids partitions
	var before *place
	cmd := &cobra.Command{
		Use:   "delete-records NAME --partition N,...|all --before PLACE",
		Short: "Delete the records of a topic before an offset or a time, for good",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, name := range []string{"partition", "before"} {
				if !cmd.Flags().Changed(name) {
					return usagef("--%s is needed: it says what is deleted", name)
				}
			}
			return r.withSession(cmd, func(ctx context.Context, s *session) error {
				rows, err := s.deleteRecords(ctx, args[0], &ids, before)
				return errors.Join(err, printRows(cmd, out, rows, func(w io.Writer, p startOf) {
					fmt.Fprintf(w, "topic %s: partition %d starts at %d\n", args[0], p.Partition, p.Start)
				}))
			})
		},
	}
	r, out = remoteFlags(cmd), outputFlag(cmd)
	cmd.Flags().Var(&ids, "partition", "the partitions: one, several with commas, or all")
	before = placeFlag(cmd.Flags(), "before", "", "the first record to keep: "+placeHelp)
	cmd.ValidArgsFunction = r.completeTopic
	return cmd
}

type startOf struct {
	Partition int32 `json:"partition"`
	Start     int64 `json:"start"`
}

func (s *session) deleteRecords(ctx context.Context, name string, ids *partitions, before *place) ([]startOf, error) {
	t, err := s.topic(ctx, name)
	if err != nil {
		return nil, err
	}
	some, err := ids.of(t)
	if err != nil {
		return nil, err
	}
	all, err := s.bounds(ctx, name, some)
	if err != nil {
		return nil, err
	}
	at, err := s.offsets(ctx, name, before, all)
	if err != nil {
		return nil, err
	}
	var request kadm.Offsets
	for id, offset := range at {
		if offset > all[id].end {
			return nil, fmt.Errorf("topic %s: partition %d ends at %d: --before %d is beyond that", name, id, all[id].end, offset)
		}
		request.AddOffset(name, id, offset, -1)
	}
	deleted, err := s.admin.DeleteRecords(ctx, request)
	if err != nil {
		return nil, s.failed("deleting records of topic "+name, err)
	}
	var rows []startOf
	var errs []error
	for _, p := range deleted.Sorted() {
		if p.Err != nil {
			errs = append(errs, fmt.Errorf("topic %s: partition %d: %w", name, p.Partition, p.Err))
			continue
		}
		rows = append(rows, startOf{p.Partition, p.LowWatermark})
	}
	return rows, errors.Join(errs...)
}

// printRows prints what was done; nothing if nothing was.
func printRows[T any](cmd *cobra.Command, out output, rows []T, text func(io.Writer, T)) error {
	if len(rows) == 0 {
		return nil
	}
	return out.print(cmd.OutOrStdout(), rows, func(w io.Writer) {
		for _, row := range rows {
			text(w, row)
		}
	})
}

// distinct drops names that are given twice: a request may name each once.
func distinct(names []string) []string {
	var some []string
	for _, name := range names {
		if !slices.Contains(some, name) {
			some = append(some, name)
		}
	}
	return some
}

func commas(ids []int32) string {
	words := make([]string, len(ids))
	for i, id := range ids {
		words[i] = strconv.Itoa(int(id))
	}
	return strings.Join(words, ",")
}

func counted(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
