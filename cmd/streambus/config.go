package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/streambus/streambus/broker/config"
)

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
			key, text, err := keyValue("set", s)
			if err != nil {
				return nil, err
			}
			if err := cfg.Set(key, text, config.Flag, "--set"); err != nil {
				return nil, usageError{err}
			}
		}
		for i, s := range shortcuts {
			if !f.Changed(s.flag) {
				continue
			}
			if err := cfg.Set(s.key, values[i], config.Flag, "--"+s.flag); err != nil {
				return nil, usageError{err}
			}
		}
		return cfg, nil
	}
}

// configCommand prints what serve would run with.
func configCommand() *cobra.Command {
	var load func() (*config.Config, error)
	var out output
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
			return printConfig(cmd.OutOrStdout(), cfg.Entries(), all, out)
		},
	}
	out = outputFlag(cmd)
	load = configFlags(cmd.Flags())
	cmd.Flags().BoolVar(&all, "all", false, "settings that nobody set as well")
	return cmd
}

func printConfig(w io.Writer, entries []config.Entry, all bool, out output) error {
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
	return out.print(w, rows, func(w io.Writer) {
		for _, r := range rows {
			fmt.Fprintf(w, "%s=%s\t%s\t%s\n", r.Key, r.Value, r.Source, r.Where)
		}
	})
}
