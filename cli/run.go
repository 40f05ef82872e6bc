package cli

import (
	"context"
	"fmt"

	"gatepost/config"
	"gatepost/hwprofile"
)

// runBroker loads the configuration and hands over to main.
func runBroker(ctx context.Context, env Env, args []string) error {
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
	cfg, err := config.Load(a.File, a.Flags, hwprofile.Detect())
	if err != nil {
		return &usageError{"run", err.Error()}
	}
	return env.Run(ctx, cfg, env.Stdout)
}
