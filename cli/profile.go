package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"gatepost/config"
	"gatepost/hwprofile"
)

// profileCommands show and check the sizes that the machine got.
func profileCommands() []command {
	return []command{
		{name: "show", brief: "print every size and limit with where it came from", run: profileShow},
		{name: "list", brief: "list the profiles in the binary", run: profileList},
		{name: "detect", brief: "say which profiles fit this machine and why", run: profileDetect},
		{name: "check", brief: "hold a profile against this machine or another", run: profileCheck},
	}
}

// as is a flag for a board other than this one.
func (f *flags) as() *string {
	return f.String("as", "", "for the board `NAME`, as 'gatepost profile list' has it, instead of this machine")
}

func (f *flags) json() *bool { return f.Bool("json", false, "print JSON") }

// machine returns the facts of the board that was named, or of this machine.
func machine(as string) (func(data string) hwprofile.Facts, error) {
	if as == "" {
		return func(data string) hwprofile.Facts { return hwprofile.This(data).Facts() }, nil
	}
	facts, err := hwprofile.As(as)
	return func(string) hwprofile.Facts { return facts }, err
}

func profileShow(_ context.Context, env Env, args []string) error {
	f := newFlags("profile show", "[flags]", "Prints every size, count, limit and interval with the file and line that it comes\nfrom; a file without a directory is in the binary. Give --config and --set as to run.")
	file := f.String("config", "", "read settings from the TOML `FILE`")
	as, asJSON := f.as(), f.json()
	set := make(map[string]string)
	f.Func("set", "`KEY=VALUE`, as a flag of run; may be given several times", func(text string) error {
		key, value, ok := strings.Cut(text, "=")
		if !ok {
			return errors.New("KEY=VALUE is possible")
		}
		set[key] = value
		return nil
	})
	if err := f.none(env, args); err != nil {
		return err
	}
	facts, err := machine(*as)
	if err != nil {
		return f.wrong("%s", err)
	}
	cfg, err := config.LoadAs(*file, set, facts)
	if err != nil {
		return err
	}
	for _, w := range cfg.Hardware.Warnings {
		fmt.Fprintln(env.Stderr, "gatepost profile show: "+w)
	}
	return printProfile(env, cfg, *asJSON)
}

// printProfile prints what came out.
func printProfile(env Env, cfg *config.Config, asJSON bool) error {
	type advice struct {
		What  string `json:"what"`
		Value string `json:"value"`
		From  string `json:"from"`
	}
	var advised []advice
	for _, a := range cfg.Hardware.Advice() {
		text, _ := a.Text()
		advised = append(advised, advice{strings.TrimPrefix(a.Key(), "advice."), text, a.Place()})
	}
	if asJSON {
		return printJSON(env, map[string]any{"profile": cfg.Hardware.String(), "values": cfg.Lines(), "advice": advised})
	}
	fmt.Fprintf(env.Stdout, "profile %s (%s)\n\n", cfg.Hardware, cfg.Hardware.Facts)
	for _, l := range cfg.Lines() {
		fmt.Fprintf(env.Stdout, "%-28s %-12s %s\n", l.Key, l.Value, l.Origin)
	}
	if len(advised) > 0 {
		fmt.Fprint(env.Stdout, "\nAdvice for the system; gatepost changes none of it:\n")
	}
	for _, a := range advised {
		fmt.Fprintf(env.Stdout, "%-41s %-12s %s\n", a.What, a.Value, a.From)
	}
	return nil
}

func profileList(_ context.Context, env Env, args []string) error {
	f := newFlags("profile list", "[flags]", "Lists the profiles in the binary: classes, boards and storage.")
	asJSON := f.json()
	if err := f.none(env, args); err != nil {
		return err
	}
	type line struct {
		Kind  string `json:"kind"`
		Name  string `json:"name"`
		About string `json:"about"`
	}
	var all []line
	for _, kind := range []string{hwprofile.KindClass, hwprofile.KindBoard, hwprofile.KindStorage} {
		for _, p := range hwprofile.Embedded(kind) {
			all = append(all, line{kind, p.Name, p.About})
		}
	}
	if *asJSON {
		return printJSON(env, all)
	}
	for _, l := range all {
		fmt.Fprintf(env.Stdout, "%-8s %-12s %s\n", l.Kind, l.Name, l.About)
	}
	return nil
}

func profileDetect(_ context.Context, env Env, args []string) error {
	f := newFlags("profile detect", "[flags]", "Says which profiles are laid over each other on this machine. --explain says which\nfacts were found where, and of every profile why it was taken or not.")
	explain := f.Bool("explain", false, "facts and reasons")
	data := f.String("data", "data", "data `DIR`ectory, whose disk counts")
	dir := f.String("dir", "/etc/gatepost/profile.d", "`DIR`ectory of the profiles of this machine")
	root := f.String("root", "", "read facts from a copy of /sys and /proc in `DIR`")
	as, asJSON := f.as(), f.json()
	if err := f.none(env, args); err != nil {
		return err
	}
	facts, err := machine(*as)
	if err != nil {
		return f.wrong("%s", err)
	}
	found := facts(*data)
	if *root != "" {
		system := hwprofile.This(*data)
		system.Root = os.DirFS(*root)
		found = system.Facts()
	}
	p := hwprofile.For(found)
	if *as == "" {
		err = p.Extend(*dir, *data)
	}
	if *asJSON {
		return errors.Join(err, printJSON(env, map[string]any{"profile": p.String(), "facts": p.Facts.Sources, "choices": p.Choices, "warnings": p.Warnings}))
	}
	fmt.Fprintf(env.Stdout, "profile %s (%s)\n", p, p.Facts)
	for _, w := range p.Warnings {
		fmt.Fprintf(env.Stdout, "warning: %s\n", w)
	}
	if *explain {
		fmt.Fprint(env.Stdout, "\nFacts:\n")
		for _, s := range p.Facts.Sources {
			value := s.Value
			if value == "" {
				value = "not known"
			}
			fmt.Fprintf(env.Stdout, "  %-14s %s (%s)\n", s.Fact, value, s.From)
		}
		fmt.Fprint(env.Stdout, "\nProfiles, later ones win:\n")
		for _, c := range p.Choices {
			mark := "-"
			if c.Taken {
				mark = "+"
			}
			fmt.Fprintf(env.Stdout, "  %s %-10s %-12s %s\n", mark, c.Kind, c.Name, c.Why)
		}
	}
	return err
}

func profileCheck(_ context.Context, env Env, args []string) error {
	f := newFlags("profile check", "FILE [flags]", "Reads a profile, lays it over those in the binary and holds the outcome against this\nmachine or a board. Says every problem with its line and the nearest right value;\nexit code 1 if there is one.")
	data := f.String("data", "data", "data `DIR`ectory, whose disk counts")
	as, asJSON := f.as(), f.json()
	name, err := f.one(env, args, "the file of a profile")
	if err != nil {
		return err
	}
	facts, err := machine(*as)
	if err != nil {
		return f.wrong("%s", err)
	}
	file, problems := hwprofile.ReadFile(name)
	cfg, more := config.CheckProfile(file, facts(*data))
	if problems = append(problems, more...); len(problems) > 0 {
		for _, p := range problems {
			fmt.Fprintln(env.Stderr, p)
		}
		return errReported
	}
	if *asJSON {
		return printProfile(env, cfg, true)
	}
	fmt.Fprintf(env.Stdout, "%s is right for %s\n", file.Path, cfg.Hardware.Facts)
	for _, l := range cfg.Lines() {
		if strings.HasPrefix(l.Origin, file.Path+":") {
			fmt.Fprintf(env.Stdout, "%-28s %s\n", l.Key, l.Value)
		}
	}
	return nil
}
