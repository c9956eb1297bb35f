// Command streambus is the broker and its tools in one binary.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/streambus/streambus/broker"
	"github.com/streambus/streambus/broker/config"
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
	root.AddCommand(serveCommand(), configCommand(), versionCommand(), healthCommand(), inspectCommand())
	if err := root.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "streambus:", err)
		os.Exit(1)
	}
}

func serveCommand() *cobra.Command {
	var load func() (*config.Config, error)
	var format, level string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a broker",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load()
			if err != nil {
				return err
			}
			log, err := newLogger(format, level)
			if err != nil {
				return err
			}
			return serve(cmd.Context(), cfg, log)
		},
	}
	load = configFlags(cmd.Flags())
	cmd.Flags().StringVar(&format, "log-format", "text", "form of log lines: text or json")
	cmd.Flags().StringVar(&level, "log-level", "info", "least important log lines that are written: debug, info, warn or error")
	return cmd
}

// shortcuts are flags for settings that are often given by hand.
var shortcuts = []struct{ flag, key, usage string }{
	{"data-dir", "log.dirs", "directory that holds everything this node keeps"},
	{"listeners", "listeners", "where clients connect, as NAME://host:port"},
	{"advertised-listeners", "advertised.listeners", "what clients are told to connect to, if not the listeners themselves"},
	{"admin-listen", "streambus.admin.listen", "host:port of metrics and health over HTTP"},
}

// configFlags adds the flags that settings come by. What it returns puts
// together flags, environment and file.
func configFlags(f *pflag.FlagSet) func() (*config.Config, error) {
	cfg := config.New()
	cfg.Version = version
	var file string
	var settings []string
	f.StringVar(&file, "config", "", "file of settings, in the form of Kafka's server.properties")
	f.StringArrayVar(&settings, "set", nil, "a setting as key=value, with the keys of Kafka's server.properties (repeatable)")
	values := make([]string, len(shortcuts))
	for i, s := range shortcuts {
		f.StringVar(&values[i], s.flag, "", fmt.Sprintf("%s (%s)", s.usage, s.key))
	}
	return func() (*config.Config, error) {
		if file != "" {
			if err := cfg.ReadFile(file); err != nil {
				return nil, err
			}
		}
		if err := cfg.ReadEnvironment(os.Environ()); err != nil {
			return nil, err
		}
		for _, s := range settings {
			key, text, ok := strings.Cut(s, "=")
			if !ok {
				return nil, fmt.Errorf("--set %s: must be of the form key=value", s)
			}
			if err := cfg.Set(strings.TrimSpace(key), text, config.Flag, "--set"); err != nil {
				return nil, err
			}
		}
		for i, s := range shortcuts {
			if !f.Changed(s.flag) {
				continue
			}
			if err := cfg.Set(s.key, values[i], config.Flag, "--"+s.flag); err != nil {
				return nil, err
			}
		}
		return cfg, nil
	}
}

func newLogger(format, level string) (*slog.Logger, error) {
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level %s: must be debug, info, warn or error", level)
	}
	options := &slog.HandlerOptions{Level: least}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, options)), nil
	default:
		return nil, fmt.Errorf("--log-format %s: must be text or json", format)
	}
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

// configCommand prints what serve would run with.
func configCommand() *cobra.Command {
	var load func() (*config.Config, error)
	var output string
	var all bool
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print the settings in force and where each comes from, as serve would see them",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load()
			if err != nil {
				return err
			}
			for _, w := range cfg.Warnings() {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning:", w)
			}
			return printConfig(cmd.OutOrStdout(), cfg.Entries(), all, output)
		},
	}
	load = configFlags(cmd.Flags())
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	cmd.Flags().BoolVar(&all, "all", false, "settings that nobody set as well")
	return cmd
}

func printConfig(w io.Writer, entries []config.Entry, all bool, output string) error {
	type row struct {
		Key    string `json:"key"`
		Value  string `json:"value"`
		Source string `json:"source"`
		Where  string `json:"where,omitempty"`
		Acts   bool   `json:"acts"`
		Doc    string `json:"doc"`
	}
	rows := []row{}
	for _, e := range entries {
		if all || e.Origin != config.Default {
			rows = append(rows, row{e.Key.Name, e.Value, e.Origin.String(), e.Where, e.Key.Acts(e.Value), e.Key.Doc})
		}
	}
	switch output {
	case "json":
		return json.NewEncoder(w).Encode(rows)
	case "text":
		tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, r := range rows {
			fmt.Fprintf(tab, "%s=%s\t%s\t%s\n", r.Key, r.Value, r.Source, r.Where)
		}
		return tab.Flush()
	default:
		return fmt.Errorf("--output %s: must be text or json", output)
	}
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
	cmd.Flags().StringVar(&admin, "admin-listen", config.New().Get("streambus.admin.listen"), "host:port of the broker's admin listener")
	return cmd
}
