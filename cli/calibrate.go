package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gatepost/calibrate"
	"gatepost/config"
	"gatepost/hwprofile"
	"gatepost/wal"
)

// measureMachine measures this machine and writes a profile of it.
func measureMachine(ctx context.Context, env Env, args []string) error {
	f := newFlags("calibrate", "[flags]", `Measures the disk of the data directory, the loops and the memory of a connection,
and writes DIR/calibrated.profile: the values that suit this machine, what was
measured, and by what the machine is known again. The broker must be stopped. It
takes effect with the next start; remove the file to take it back.`)
	data := f.String("data", "data", "`DIR` of the broker's data")
	var bytes int64 = 64 << 20
	f.Func("write-budget", "`SIZE` that is written to the disk at most (64MiB)", func(text string) (err error) {
		bytes, err = config.ParseSize(text)
		return err
	})
	limit := f.Duration("time", 90*time.Second, "`TIME` that it takes at most")
	dry := f.Bool("dry-run", false, "measure, print what would change, and write no profile")
	asJSON := f.json()
	report := f.String("report", "", "draw what was measured into the SVG `FILE`; - is standard output")
	if err := f.none(env, args); err != nil {
		return err
	}
	switch {
	case bytes < calibrate.Least:
		return f.wrong("--write-budget is %d, %d bytes and more are possible", bytes, calibrate.Least)
	case *limit < time.Second || *limit > time.Hour:
		return f.wrong("--time is %v, 1s to 1h are possible", *limit)
	}
	if *report != "" && *report != "-" {
		if err := plain(*report); err != nil { // before it has measured for a minute
			return fmt.Errorf("cannot write the report: %w", err)
		}
	}
	if err := plain(filepath.Join(*data, "calibrated.profile")); err != nil {
		return fmt.Errorf("cannot write the profile: %w", err)
	}
	lock, err := wal.Lock(*data)
	if err != nil {
		return err
	}
	defer lock.Close()
	fmt.Fprintf(env.Stderr, "measuring for %v at most, writing %d bytes at most to %s\n", *limit, bytes, *data)
	facts := hwprofile.This(*data).Facts()
	result, err := calibrate.Measure(ctx, calibrate.Options{Dir: *data, Bytes: bytes, Time: *limit * 9 / 10, MaxLoops: min(max(facts.CPUs, 1), 4),
		Say: func(text string) { fmt.Fprintf(env.Stderr, "  %s\n", text) }})
	if err != nil {
		return err
	}
	for _, w := range result.Warnings(facts) {
		fmt.Fprintf(env.Stderr, "warning: %s\n", w)
	}
	if *report != "" {
		picture := calibrate.Picture(&result, fmt.Sprintf("gatepost calibrate, %s, %s", facts, time.Now().Format(time.DateOnly)))
		if err := writeFile(env, *report, picture, 0o644); err != nil {
			return fmt.Errorf("cannot write the report: %w", err)
		}
	}
	name := filepath.Join(*data, "calibrated.profile")
	choices, refused := usable(result.Choices(), func(all []calibrate.Choice) error {
		file, problems := hwprofile.Parse(name, calibrate.Text(all, &result, facts, env.Version, time.Now()), nil)
		if len(problems) == 0 {
			_, problems = config.CheckProfile(file, facts)
		}
		return errors.Join(problems...)
	})
	for _, err := range refused {
		fmt.Fprintf(env.Stderr, "warning: %v\n", err)
	}
	if !*dry {
		if err := writeFile(env, name, calibrate.Text(choices, &result, facts, env.Version, time.Now()), 0o644); err != nil {
			return fmt.Errorf("cannot write the profile: %w", err)
		}
	}
	if *asJSON {
		return printJSON(env, map[string]any{"measured": result, "choices": choices, "facts": facts, "written": !*dry})
	}
	return printChoices(env, *data, name, choices, *dry)
}

// usable leaves out choices that do not fit the rest of what this machine gets, its
// memory above all, and says which.
func usable(all []calibrate.Choice, check func([]calibrate.Choice) error) (kept []calibrate.Choice, refused []error) {
	for _, c := range all {
		if err := check(append(slices.Clip(kept), c)); err != nil {
			refused = append(refused, fmt.Errorf("%s = %s measured best and is left out, it does not fit here: %w", c.Key, c.Value, err))
			continue
		}
		kept = append(kept, c)
	}
	return kept, refused
}

// printChoices says what a profile changes.
func printChoices(env Env, data, name string, choices []calibrate.Choice, dry bool) error {
	now, err := config.LoadAs("", map[string]string{"data": data}, func(data string) hwprofile.Facts { return hwprofile.This(data).Facts() })
	if err != nil {
		return err
	}
	before := make(map[string]config.Line)
	for _, l := range now.Lines() {
		before[l.Key] = l
	}
	for _, c := range choices {
		for _, why := range c.Why {
			fmt.Fprintf(env.Stdout, "# %s\n", why)
		}
		l := before[c.Key]
		value := strings.Trim(c.Value, `"`)
		switch {
		case !dry:
			fmt.Fprintf(env.Stdout, "%s = %s\n", c.Key, c.Value)
		case l.Value == value:
			fmt.Fprintf(env.Stdout, "  %s = %s (%s)\n", c.Key, l.Value, l.Origin)
		default:
			fmt.Fprintf(env.Stdout, "- %s = %s (%s)\n+ %s = %s\n", c.Key, l.Value, l.Origin, c.Key, value)
		}
	}
	if dry {
		_, err = fmt.Fprintf(env.Stdout, "nothing was written\n")
	} else {
		_, err = fmt.Fprintf(env.Stdout, "wrote %s; it holds from the next start on\n", name)
	}
	return err
}
