package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"syscall"

	"gatepost/config"
)

// Exit codes of Main. A wrong configuration of run has one of its own, EX_CONFIG
// of sysexits.h, because 2 is also that of a Go program that panics or gets a
// SIGABRT: a service manager must start the one again and the other not.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitConfig = 78
)

// Env is what the commands get from outside.
type Env struct {
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Version string
	// Run starts the broker and returns when it has ended; it ends in an
	// orderly way when ctx is cancelled. It is supplied by main.
	Run func(ctx context.Context, cfg *config.Config, out io.Writer) error
}

// command is one subcommand. run gets the arguments behind its name.
type command struct {
	name  string
	brief string
	run   func(ctx context.Context, env Env, args []string) error
}

// commands is in the order of the help text.
func commands() []command {
	return []command{
		{"run", "start the broker", runBroker},
		{"send", "send a message and wait until it is durable", sendMessage},
		{"listen", "print the messages a user receives", listen},
		{"history", "print the messages of a channel that are kept", history},
		{"channel", "create groups and change their members", channel},
		{"status", "show how a running broker is doing", status},
		{"backup", "write everything of a running broker into one file", takeBackup},
		{"restore", "make a data directory of a backup", restore},
		{"check", "read all data of a stopped broker and say what is damaged", check},
		{"repair", "take what is damaged out of the way of a stopped broker", repair},
		{"wal", "look into the log of a stopped or running broker", walCommand},
		{"bench", "measure a running broker and check what it answers", bench},
		{"version", "print the version", version},
	}
}

// Main runs the subcommand named by args[0] (args is without the program name)
// and returns the exit code. SIGINT and SIGTERM end a command in an orderly
// way; a second one kills the process.
func Main(args []string, env Env) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the second signal gets its default effect
	return dispatch(ctx, args, env)
}

// dispatch is Main without the signals.
func dispatch(ctx context.Context, args []string, env Env) int {
	if len(args) == 0 {
		help(env.Stderr)
		return exitUsage
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		if len(args) < 2 {
			help(env.Stdout)
			return exitOK
		}
		args = []string{args[1], "--help"}
	case "--version", "-version":
		args = []string{"version"}
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return exitCode(env, args[0], c.run(ctx, env, args[1:]))
		}
	}
	fmt.Fprintf(env.Stderr, "gatepost: there is no command %q; 'gatepost help' lists them\n", args[0])
	return exitUsage
}

// exitCode says err to the person and turns it into a number.
func exitCode(env Env, name string, err error) int {
	var u *usageError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.As(err, &u):
		fmt.Fprintf(env.Stderr, "gatepost %s: %s\nsee 'gatepost %s --help'\n", u.command, u.text, u.command)
		if name == "run" {
			return exitConfig
		}
		return exitUsage
	case errors.Is(err, errReported):
		return exitFailed
	}
	fmt.Fprintf(env.Stderr, "gatepost %s: %v\n", name, err)
	return exitFailed
}

// errReported is returned when a command failed and has already said so.
var errReported = errors.New("failed, as reported above")

// usageError is returned when the command line is wrong.
type usageError struct{ command, text string }

func (e *usageError) Error() string { return e.command + ": " + e.text }

func help(w io.Writer) {
	fmt.Fprint(w, "Gatepost, a message broker for gateways.\n\nUsage: gatepost COMMAND [flags]\n\nCommands:\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-9s %s\n", c.name, c.brief)
	}
	fmt.Fprint(w, "\n'gatepost COMMAND --help' explains one of them.\n"+
		"Where a broker asks for a token over HTTP, "+tokenVariable+" names a file with it.\n"+
		"Exit codes: 0 done; 1 failed, refused, or a check did not hold; 2 wrong command line;\n78 wrong configuration or command line of run.\n")
}

// flags is a FlagSet that allows flags behind arguments ("channel create G
// --members a,b") and prints help with two dashes. Behind "--" everything is
// an argument.
type flags struct {
	*flag.FlagSet
	usage string // arguments, one line for each form
	text  string // what the command does, and examples
}

func newFlags(name, usage, text string) *flags {
	f := &flags{flag.NewFlagSet(name, flag.ContinueOnError), usage, text}
	f.SetOutput(io.Discard) // errors come back as usageError, help is ours
	return f
}

// parse returns the arguments that are not flags. The error is a usageError,
// or flag.ErrHelp after the help has been printed.
func (f *flags) parse(env Env, args []string) ([]string, error) {
	var positional []string
	for {
		if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
			f.help(env.Stdout)
			return nil, err
		} else if err != nil {
			return nil, f.wrong("%s", strings.Replace(err.Error(), "not defined: -", "not defined: --", 1))
		}
		rest := f.Args()
		if n := len(args) - len(rest); n > 0 && args[n-1] == "--" {
			return append(positional, rest...), nil
		}
		if len(rest) == 0 {
			return positional, nil
		}
		positional, args = append(positional, rest[0]), rest[1:]
	}
}

// none is parse for a command that takes flags only.
func (f *flags) none(env Env, args []string) error {
	positional, err := f.parse(env, args)
	if err == nil && len(positional) > 0 {
		return f.wrong("takes no arguments, got %q", positional)
	}
	return err
}

func (f *flags) wrong(format string, args ...any) error {
	return &usageError{f.Name(), fmt.Sprintf(format, args...)}
}

func (f *flags) help(w io.Writer) {
	for i, line := range strings.Split(f.usage, "\n") {
		fmt.Fprintf(w, "%s gatepost %s %s\n", [2]string{"Usage:", "      "}[min(i, 1)], f.Name(), line)
	}
	fmt.Fprintf(w, "\n%s\n", strings.TrimSpace(f.text))
	first := true
	f.VisitAll(func(g *flag.Flag) {
		if first {
			fmt.Fprint(w, "\nFlags:\n")
			first = false
		}
		kind, usage := flag.UnquoteUsage(g)
		left := "--" + g.Name
		if kind != "" {
			left += " " + kind
		}
		switch g.DefValue {
		case "", "0", "0s", "false":
		default:
			usage += " (default " + g.DefValue + ")"
		}
		fmt.Fprintf(w, "  %-22s %s\n", left, strings.ReplaceAll(usage, "\n", "\n"+strings.Repeat(" ", 25)))
	})
}
