// Command streambus is the broker and its tools in one binary.
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "dev"

// The exit codes, beside 0. Scripts tell by them whether to try again.
const (
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a command line that cannot be obeyed, whatever the broker says.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func main() {
	root := &cobra.Command{
		Use:           "streambus",
		Short:         "A Kafka broker and its tools in one binary",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	// Cobra checks flags and arguments before this hook: what fails earlier is
	// wrong usage.
	accepted := false
	root.PersistentPreRun = func(*cobra.Command, []string) { accepted = true }
	root.AddCommand(serveCommand(), configCommand(), versionCommand(), healthCommand(), quorumCommand(), partitionCommand(), whyCommand(),
		topicCommand(), groupCommand(), produceCommand(), consumeCommand(), inspectCommand(), adoptCommand())
	root.InitDefaultCompletionCmd("")
	group(root)
	for _, c := range root.Commands() {
		if c.HasSubCommands() {
			group(c)
		}
	}
	cmd, err := root.ExecuteC()
	if err == nil {
		return
	}
	code := exitFailed
	if usage := (usageError{}); !accepted || errors.As(err, &usage) {
		code = exitUsage
		err = fmt.Errorf("%w (%s --help says more)", err, cmd.CommandPath())
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintln(os.Stderr, "streambus:", strings.TrimSpace(line))
	}
	os.Exit(code)
}

// group makes a command of commands refuse a name that is none of them. Left
// to itself, cobra prints the help and exits with 0.
func group(cmd *cobra.Command) {
	cmd.DisableFlagsInUseLine = true
	cmd.SuggestionsMinimumDistance = 2
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		err := fmt.Errorf("%q has no command %q", cmd.CommandPath(), args[0])
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			err = fmt.Errorf("%w: did you mean %s?", err, strings.Join(near, " or "))
		}
		return err
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	// The flags behind a name that is none are unknown for that reason.
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if cmd.HasSubCommands() {
			return cmp.Or(cmd.Args(cmd, cmd.Flags().Args()), err)
		}
		return err
	})
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run:   func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), "streambus", version) },
	}
}

// choice is a flag that takes one of a few words.
type choice struct {
	value string
	words []string
}

func (c *choice) String() string { return c.value }
func (c *choice) Type() string   { return strings.Join(c.words, "|") }
func (c *choice) Set(s string) error {
	for _, w := range c.words {
		if s == w {
			c.value = s
			return nil
		}
	}
	return fmt.Errorf("must be one of %s", strings.Join(c.words, ", "))
}

// chosen adds a flag of words, which complete in a shell. The first is the
// default.
func chosen(cmd *cobra.Command, name, short, usage string, words ...string) *choice {
	c := &choice{words[0], words}
	cmd.Flags().VarP(c, name, short, usage)
	complete := cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
	if err := cmd.RegisterFlagCompletionFunc(name, complete); err != nil {
		panic(err) // the flag is there: it was added two lines above
	}
	return c
}

// noDefault keeps the value that stands for "not given" out of the help.
func noDefault(cmd *cobra.Command, flags ...string) {
	for _, name := range flags {
		cmd.Flags().Lookup(name).DefValue = "0" // pflag shows any other
	}
}

// output is the form in which a command prints.
type output struct{ *choice }

func outputFlag(cmd *cobra.Command) output {
	return output{chosen(cmd, "output", "o", "form of what is printed", "text", "json")}
}

func (o output) json() bool { return o.value == "json" }

// print writes v as one line of JSON, or what text writes, in columns.
func (o output) print(w io.Writer, v any, text func(w io.Writer)) error {
	if o.json() {
		return newEncoder(w).Encode(v)
	}
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	text(tab)
	return tab.Flush()
}

func newEncoder(w io.Writer) *json.Encoder {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e
}

// keyValue splits what a flag says as key=value.
func keyValue(flag, s string) (key, value string, err error) {
	key, value, ok := strings.Cut(s, "=")
	if key = strings.TrimSpace(key); !ok || key == "" {
		return "", "", usagef("--%s %s: must be of the form key=value", flag, s)
	}
	return key, value, nil
}
