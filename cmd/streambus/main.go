// Command streambus is the broker and its tools in one binary.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/streambus/streambus/broker"
	"github.com/streambus/streambus/storage/vfs"
)

// version is set by the linker.
var version = "dev"

func main() {
	root := &cobra.Command{
		Use:           "streambus",
		Short:         "A Kafka broker in one binary",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(serveCommand(), versionCommand(), healthCommand())
	if err := root.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "streambus:", err)
		os.Exit(1)
	}
}

func serveCommand() *cobra.Command {
	cfg := broker.NewConfig()
	cfg.Version = version
	var listeners, advertised string
	var settings []string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a broker",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, s := range settings {
				key, value, ok := strings.Cut(s, "=")
				if !ok {
					return fmt.Errorf("--set %s: must be of the form key=value", s)
				}
				if err := cfg.Set(key, value); err != nil {
					return err
				}
			}
			for key, value := range map[string]string{"listeners": listeners, "advertised.listeners": advertised} {
				if value != "" {
					if err := cfg.Set(key, value); err != nil {
						return err
					}
				}
			}
			return serve(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.DataDir, "data-dir", cfg.DataDir, "directory that holds everything this node keeps")
	f.StringVar(&listeners, "listeners", "", "where clients connect, as NAME://host:port (default PLAINTEXT://127.0.0.1:9092)")
	f.StringVar(&advertised, "advertised-listeners", "", "what clients are told to connect to, if not the listeners themselves")
	f.StringVar(&cfg.AdminListen, "admin-listen", cfg.AdminListen, "host:port of metrics and health over HTTP")
	f.StringArrayVar(&settings, "set", nil, "a setting as key=value, with the keys of Kafka's server.properties (repeatable)")
	return cmd
}

// serve runs a broker until SIGTERM or SIGINT. A second signal does not wait.
func serve(ctx context.Context, cfg broker.Config) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	b, err := broker.New(cfg, broker.Disk{FS: vfs.OS(), RaftLog: broker.OpenRaftLog}, log)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, stop)
	return b.Run(ctx)
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run:   func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), "streambus", version) },
	}
}

func healthCommand() *cobra.Command {
	var admin string
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask a broker on this host whether it is ready; the exit code is the answer",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client := http.Client{Timeout: 5 * time.Second}
			resp, err := client.Get("http://" + admin + "/health/ready")
			if err != nil {
				return fmt.Errorf("no broker answers on its admin listener: %w", err)
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
			if err != nil {
				return err
			}
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("not ready: %s", strings.TrimSpace(string(text)))
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	cmd.Flags().StringVar(&admin, "admin-listen", broker.NewConfig().AdminListen, "host:port of the broker's admin listener")
	return cmd
}
