package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/streambus/streambus/broker"
	"github.com/streambus/streambus/broker/config"
	"github.com/streambus/streambus/storage/vfs"
)

func serveCommand() *cobra.Command {
	var load func() (*config.Config, error)
	var format *choice
	var level string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a broker",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load()
			if err != nil {
				return err
			}
			log, err := newLogger(format.value, level)
			if err != nil {
				return err
			}
			return serve(cmd.Context(), cfg, log)
		},
	}
	load = configFlags(cmd.Flags())
	format = chosen(cmd, "log-format", "", "form of log lines", "text", "json")
	cmd.Flags().StringVar(&level, "log-level", "info", "least important log lines that are written: debug, info, warn or error")
	return cmd
}

func newLogger(format, level string) (*slog.Logger, error) {
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err != nil {
		return nil, usagef("--log-level %s: must be debug, info, warn or error", level)
	}
	options := &slog.HandlerOptions{Level: least}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, options)), nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options)), nil
}

// serve runs a broker until SIGTERM or SIGINT. A second signal does not wait.
func serve(ctx context.Context, cfg *config.Config, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer stop()
	b, err := broker.New(cfg, broker.Disk{FS: vfs.OS(), RaftLog: broker.OpenRaftLog}, log)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, stop)
	return b.Run(ctx)
}
