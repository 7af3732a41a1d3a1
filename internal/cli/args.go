package cli

import (
	"fmt"
	"slices"
	"strings"

	"dayfly.dev/dayfly/internal/usererr"
	"github.com/spf13/cobra"
)

// takes checks how many words a command is given.
func takes(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, words []string) error {
		if err := check(cmd, words); err != nil {
			return usererr.New(usererr.Usage, "see: "+cmd.CommandPath()+" --help", "%s", err)
		}
		return nil
	}
}

// group makes cmd a command that only holds others: it prints its help, and suggests what a mistyped word may mean.
func group(cmd *cobra.Command) {
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	cmd.SuggestionsMinimumDistance = 2
	cmd.Args = func(cmd *cobra.Command, words []string) error {
		if len(words) == 0 {
			return nil
		}
		fix := "see: " + cmd.CommandPath() + " --help"
		if near := cmd.SuggestionsFor(words[0]); len(near) > 0 {
			fix = "did you mean: " + cmd.CommandPath() + " " + strings.Join(near, " or ") + "?"
		}
		return usererr.New(usererr.Usage, fix, "there is no command %q", cmd.CommandPath()+" "+words[0])
	}
}

// format is the value of -o.
type format string

var formats = []string{"table", "json", "yaml"}

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "FORMAT" }
func (f *format) Set(s string) error {
	if !slices.Contains(formats, s) {
		return fmt.Errorf("it is one of %s", strings.Join(formats, ", "))
	}
	*f = format(s)
	return nil
}

func outputFlag(cmd *cobra.Command, f *format) {
	*f = "table"
	cmd.Flags().VarP(f, "output", "o", strings.Join(formats, ", "))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
}
