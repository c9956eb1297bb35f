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

// exitUsage is for what was asked wrongly. 1 is for damage, and for what cannot be read.
const exitUsage = 2

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
	var output string
	var verify bool
	var segment inspect.SegmentOptions
	cmd.PersistentFlags().StringVarP(&output, "output", "o", "text", "text or json, a line for each thing")
	add := func(use, short string, do func(i *inspect.Inspector, file string) error) *cobra.Command {
		sub := &cobra.Command{Use: use, Short: short, Run: func(sub *cobra.Command, args []string) {
			if len(args) != 1 {
				usage(sub, fmt.Errorf("%d files were given, one is shown at a time", len(args)))
			}
			if output != "text" && output != "json" {
				usage(sub, fmt.Errorf("--output %s: must be text or json", output))
			}
			out := bufio.NewWriter(os.Stdout)
			i := inspect.New(vfs.ReadOnly(), out, output == "json")
			err := errors.Join(do(i, args[0]), out.Flush())
			if err != nil {
				fmt.Fprintln(os.Stderr, "streambus:", err)
			}
			if err != nil || i.Damaged > 0 {
				os.Exit(1)
			}
		}}
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
	cmd.Run = func(cmd *cobra.Command, args []string) {
		usage(cmd, fmt.Errorf("%q is no kind of file: see streambus inspect --help", args))
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		usage(cmd, err)
		return nil
	})
	return cmd
}

func usage(cmd *cobra.Command, err error) {
	fmt.Fprintf(os.Stderr, "streambus: %v\nusage: %s\n", err, cmd.UseLine())
	os.Exit(exitUsage)
}
