package cli

import (
	"context"
	"flag"
	"fmt"

	"gatepost/config"
)

// runFlags are the flags of run, for whoever lists them: config reads them.
func runFlags() *flags {
	f := newFlags("run", "[flags]", "Starts the broker. Without flags it is complete: sizes come from the machine.\nEvery flag is also a key of the file.")
	f.String("config", "", "read settings from the TOML `FILE`")
	f.String("set", "", "`KEY=VALUE`, the same as --KEY VALUE")
	for _, k := range config.Flags() {
		f.String(k.Name, "", "`"+k.Value+"`: "+k.Help+" ("+k.Default+")")
	}
	return f
}

// runBroker loads the configuration and hands over to main.
func runBroker(ctx context.Context, env Env, args []string) error {
	if env.describe != nil {
		env.describe(runFlags())
		return flag.ErrHelp
	}
	a, err := config.ParseArgs(args)
	if err != nil {
		return &usageError{"run", err.Error()}
	}
	if a.Help {
		fmt.Fprintf(env.Stdout, "Usage: gatepost run [flags]\n\nStarts the broker. Without flags it is complete: sizes come from the machine.\n\nFlags, each also a key of the file:\n%s", config.FlagHelp())
		return nil
	}
	if len(a.Rest) > 0 {
		return &usageError{"run", fmt.Sprintf("takes no arguments, got %q", a.Rest)}
	}
	switch a.Flags["encryption"] { // the words people use for a switch
	case "on":
		a.Flags["encryption"] = "true"
	case "off":
		a.Flags["encryption"] = "false"
	}
	cfg, err := config.Load(a.File, a.Flags)
	if err != nil {
		return &usageError{"run", err.Error()}
	}
	return env.Run(ctx, cfg, env.Stdout)
}
