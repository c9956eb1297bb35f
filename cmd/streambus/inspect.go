package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/streambus/streambus/broker/inspect"
	"github.com/streambus/streambus/storage/vfs"
)

// inspectCommand shows files of a data directory, also beside the broker that runs there.
func inspectCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inspect",
		Short: "Show what the files of a data directory hold, and what is wrong with them",
		Long: `Show what the files of a data directory hold, and what is wrong with them.

Nothing is written and no lock is taken: it may be done while a broker runs. The
exit code is 0 if all is well, 1 if something is damaged or cannot be read, and
2 if the command was called wrongly.`,
	}
	var verify bool
	var segment inspect.SegmentOptions
	add := func(use, short string, do func(i *inspect.Inspector, file string) error) *cobra.Command {
		sub := &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1)}
		output := chosen(sub, "output", "o", "text or json, a line for each thing", "text", "json")
		sub.RunE = func(_ *cobra.Command, args []string) error {
			out := bufio.NewWriter(os.Stdout)
			i := inspect.New(vfs.ReadOnly(), out, output.value == "json")
			err := errors.Join(do(i, args[0]), out.Flush())
			if err == nil && i.Damaged > 0 {
				err = fmt.Errorf("%s is damaged in %d places, named above", args[0], i.Damaged)
			}
			return err
		}
		sub.Flags().BoolVar(&verify, "verify", false, "look for damage that reading alone does not meet")
		cmd.AddCommand(sub)
		return sub
	}
	s := add("segment FILE", "Show the batches of a segment (.log)", func(i *inspect.Inspector, file string) error {
		segment.Verify = verify
		return i.Segment(file, segment)
	})
	s.Flags().BoolVar(&segment.Records, "records", false, "each record, with the sizes of its key and value")
	s.Flags().BoolVar(&segment.Contents, "contents", false, "each record, with its key, value and headers")
	add("index FILE", "Show an offset or time index; --verify compares it with the segment beside it", func(i *inspect.Inspector, file string) error {
		return i.Index(file, verify)
	})
	add("raft FILE", "Show a raft log (raftmeta/log.db): where it stands, its entries, what they changed", (*inspect.Inspector).Raft)
	add("snapshot FILE", "Show a snapshot of producers or of the metadata, or the one that a raft log begins with", (*inspect.Inspector).Snapshot)
	add("checkpoint FILE", "Show a checkpoint, leader epochs, partition.metadata or meta.properties", (*inspect.Inspector).Checkpoint)
	add("dir DIR", "Read a whole data directory and hold its files against each other", (*inspect.Inspector).Dir)
	return cmd
}
