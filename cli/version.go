package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
)

func version(_ context.Context, env Env, args []string) error {
	f := newFlags("version", "[flags]", "Prints the version of this binary.")
	asJSON := f.Bool("json", false, "print JSON")
	if err := f.none(env, args); err != nil {
		return err
	}
	if *asJSON {
		return json.NewEncoder(env.Stdout).Encode(map[string]string{
			"version": env.Version, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH,
		})
	}
	_, err := fmt.Fprintf(env.Stdout, "gatepost %s (%s, %s/%s)\n", env.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
