package main

import (
	"github.com/spf13/cobra"

	"github.com/streambus/streambus/broker/adopt"
)

// adoptCommand copies partitions out of a data directory of Apache Kafka.
func adoptCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "adopt KAFKA-DIR TOPIC...",
		Short: "Copy topics out of a data directory of Apache Kafka",
		Long: `Copy topics out of a data directory of Apache Kafka, into one of StreamBus.

Both brokers must be stopped. The topics must have been made in StreamBus, with as
many partitions as they have in Kafka, and never been written to. Every batch is
checked; offsets, timestamps, records and what is known of producers stay as they
are. Kafka's directory is only read.`,
		Args: cobra.MinimumNArgs(2),
	}
	dir := cmd.Flags().String("data-dir", "data", "StreamBus's data directory")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return adopt.Topics(cmd.OutOrStdout(), *dir, args[0], args[1:])
	}
	return cmd
}
