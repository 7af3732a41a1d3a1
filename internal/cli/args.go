package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"dayfly.dev/dayfly/internal/usererr"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
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

// strict makes cobra's own commands mind what they are given.
func strict(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Args = func(_ *cobra.Command, words []string) error {
				found, rest, err := root.Find(words)
				if err == nil && len(rest) > 0 && found.HasSubCommands() {
					err = found.Args(found, rest)
				}
				return err
			}
		case "completion":
			group(cmd)
			for _, shell := range cmd.Commands() {
				shell.Args = takes(cobra.NoArgs)
			}
		}
	}
}

// flagError says what a flag takes, rather than what its parser made of it.
func flagError(cmd *cobra.Command, err error) error {
	wrong, ok := errors.AsType[*pflag.InvalidValueError](err)
	takes := ""
	if ok {
		takes = map[string]string{
			"int": "a number", "int32": "a number", "bool": "true or false", "duration": "a time such as 90s, 15m or 8h",
		}[wrong.GetFlag().Value.Type()]
	}
	if takes != "" {
		err = fmt.Errorf("--%s takes %s, not %q", wrong.GetFlag().Name, takes, wrong.GetValue())
	}
	return usererr.New(usererr.Usage, "see: "+cmd.CommandPath()+" --help", "%s", err)
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
