package cli

import (
	"context"
	"flag"
	"fmt"

	"gatepost/config"
)

func configCommands() []command {
	return []command{
		{name: "show", brief: "print what run would do with the same flags, and where it comes from", run: configShow},
		{name: "example", brief: "print a file with every key as a comment", run: configExample},
	}
}

// configShow loads a configuration as run does, and starts nothing.
func configShow(_ context.Context, env Env, args []string) error {
	if env.describe != nil {
		f := runFlags()
		shown := newFlags("config show", "[flags of run]", configShowText)
		f.VisitAll(func(g *flag.Flag) { shown.Var(g.Value, g.Name, g.Usage) })
		env.describe(shown)
		return flag.ErrHelp
	}
	a, err := config.ParseArgs(args)
	if err != nil {
		return &usageError{"config show", err.Error()}
	}
	if a.Help {
		fmt.Fprintf(env.Stdout, "Usage: gatepost config show [flags of run]\n\n%s\n\nFlags:\n%s", configShowText, config.FlagHelp())
		return nil
	}
	if len(a.Rest) > 0 {
		return &usageError{"config show", fmt.Sprintf("takes no arguments, got %q", a.Rest)}
	}
	cfg, err := config.Load(a.File, a.Flags)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprint(env.Stdout, cfg.Show()); err != nil {
		return fmt.Errorf("cannot print: %w", err)
	}
	return nil
}

const configShowText = `Prints every key with its value and where that comes from, as a file that could be
used, and starts nothing. Of the application's addresses it prints scheme and host,
because the rest may be secret. Exit code 1: the configuration is wrong, and where.`

func configExample(_ context.Context, env Env, args []string) error {
	f := newFlags("config example", "", "Prints a configuration file with every key as a comment: what it is for, and what\nholds without it.")
	if err := f.none(env, args); err != nil {
		return err
	}
	if _, err := fmt.Fprint(env.Stdout, config.Example()); err != nil {
		return fmt.Errorf("cannot print: %w", err)
	}
	return nil
}
