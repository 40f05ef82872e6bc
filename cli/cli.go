package cli

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"gatepost/config"
)

// Exit codes of Main. A read error proves nothing of what is on the disk, neither that
// it is whole nor that it is damaged, and has one of its own. A wrong configuration of run has one of its own, EX_CONFIG
// of sysexits.h, because 2 is also that of a Go program that panics or gets a
// SIGABRT: a service manager must start the one again and the other not.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitUnread = 3
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

	describe func(*flags) // not nil: parse hands over the flags and nothing is done
}

// command is one subcommand. run gets the arguments behind its name; one with
// commands of its own has sub instead.
type command struct {
	name  string
	brief string
	run   func(ctx context.Context, env Env, args []string) error
	sub   []command
}

// commands is in the order of the help text. Help, completion and manual are made
// of it and of the flags that each command declares.
func commands() []command {
	return []command{
		{name: "run", brief: "start the broker", run: runBroker},
		{name: "send", brief: "send a message and wait until it is durable", run: sendMessage},
		{name: "listen", brief: "print the messages a user receives", run: listen},
		{name: "history", brief: "print the messages of a channel that are kept", run: history},
		{name: "tail", brief: "print the messages of a channel as they are stored", run: tail},
		{name: "channel", brief: "create and change channels, their members and lists", sub: channelCommands()},
		{name: "user", brief: "tokens, devices, who is online, conversations", sub: userCommands()},
		{name: "connections", brief: "list who is connected", run: connections},
		{name: "kick", brief: "end the connections of a user", run: kick},
		{name: "status", brief: "show how a running broker is doing", run: status},
		{name: "backup", brief: "write everything of a running broker into one file", run: takeBackup},
		{name: "restore", brief: "make a data directory of a backup", run: restore},
		{name: "check", brief: "read all data of a stopped broker and say what is damaged", run: check},
		{name: "repair", brief: "take what is damaged out of the way of a stopped broker", run: repair},
		{name: "wal", brief: "look into the log of a stopped or running broker", sub: []command{
			{name: "dump", brief: "list generations, groups and records", run: dumpLog},
		}},
		{name: "profile", brief: "sizes for this machine: where they come from, whether they fit", sub: profileCommands()},
		{name: "calibrate", brief: "measure this machine and write a profile of it", run: measureMachine},
		{name: "config", brief: "show the configuration, or an example of one", sub: configCommands()},
		{name: "selftest", brief: "send a message through a running broker, and say whether it came", run: selftest},
		{name: "support-bundle", brief: "collect what is needed to find out elsewhere what is wrong", run: supportBundle},
		{name: "bench", brief: "measure a running broker and check what it answers", run: bench},
		{name: "completion", brief: "print a script that completes commands in a shell", run: completion},
		{name: "man", brief: "print the manual page", run: manual},
		{name: "version", brief: "print the version", run: version},
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
	if len(args) > 0 && (args[0] == "--version" || args[0] == "-version") {
		args = []string{"version"}
	}
	if len(args) > 1 && isHelp(args[0]) {
		args = append(args[1:len(args):len(args)], "--help")
	}
	at, path := &command{sub: commands()}, ""
	for at.sub != nil {
		switch {
		case len(args) == 0 && path == "":
			help(env.Stderr)
			return exitUsage
		case len(args) == 0:
			return exitCode(env, path, &usageError{path, "needs to know what to do: " + at.names() + " are possible"})
		case isHelp(args[0]):
			at.help(env.Stdout, path)
			return exitOK
		}
		next := at.find(args[0])
		if next == nil && path == "" {
			fmt.Fprintf(env.Stderr, "gatepost: there is no command %q; 'gatepost help' lists them\n", args[0])
			return exitUsage
		}
		if next == nil {
			return exitCode(env, path, &usageError{path, fmt.Sprintf("there is no %q: %s are possible", args[0], at.names())})
		}
		at, path, args = next, join(path, args[0]), args[1:]
	}
	return exitCode(env, path, at.run(ctx, env, args))
}

func isHelp(word string) bool {
	return word == "help" || word == "-h" || word == "-help" || word == "--help"
}

// join appends the name of a command to the names in front of it.
func join(path, name string) string { return strings.TrimSpace(path + " " + name) }

func (c *command) find(name string) *command {
	for i := range c.sub {
		if c.sub[i].name == name {
			return &c.sub[i]
		}
	}
	return nil
}

func (c *command) names() string {
	var all []string
	for i := range c.sub {
		all = append(all, c.sub[i].name)
	}
	return strings.Join(all, ", ")
}

// flags returns what a command declares, without carrying it out.
func (c *command) flags() (declared *flags) {
	_ = c.run(context.Background(), Env{Stdout: io.Discard, Stderr: io.Discard, describe: func(f *flags) { declared = f }}, nil)
	return declared
}

// help prints what a command with commands of its own can do.
func (c *command) help(w io.Writer, path string) {
	if path == "" {
		help(w)
		return
	}
	fmt.Fprintf(w, "Usage: gatepost %s COMMAND ...\n\nCommands:\n", path)
	for i := range c.sub {
		fmt.Fprintf(w, "  %-11s %s\n", c.sub[i].name, c.sub[i].brief)
	}
	fmt.Fprintf(w, "\n'gatepost %s COMMAND --help' explains one of them.\n", path)
}

// exitCode says err to the person and turns it into a number.
func exitCode(env Env, name string, err error) int {
	var u *usageError
	var m *config.Mistake
	var unread *unreadError
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
	switch {
	case errors.As(err, &m):
		return exitConfig
	case errors.As(err, &unread):
		return exitUnread
	}
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
		fmt.Fprintf(w, "  %-11s %s\n", c.name, c.brief)
	}
	fmt.Fprint(w, "\n'gatepost COMMAND --help' explains one of them.\n"+
		"Where a broker asks for a token over HTTP, "+tokenVariable+" names a file with it.\n"+
		"Exit codes: 0 done; 1 failed, refused, or a check did not hold; 2 wrong command line;\n3 the disk could not be read, so that nothing is known;\n78 wrong configuration or command line of run.\n")
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
	if env.describe != nil {
		env.describe(f)
		return nil, flag.ErrHelp
	}
	var positional []string
	for {
		if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
			f.help(env.Stdout)
			return nil, err
		} else if err != nil {
			return nil, f.wrong("%s", strings.NewReplacer("not defined: -", "not defined: --", "flag -", "flag --", "argument: -", "argument: --").Replace(err.Error()))
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

// one is parse for a command that takes one argument.
func (f *flags) one(env Env, args []string, what string) (string, error) {
	words, err := f.parse(env, args)
	if err != nil {
		return "", err
	}
	if len(words) != 1 || words[0] == "" {
		return "", f.wrong("needs %s, got %q", what, words)
	}
	return words[0], nil
}

// http, channelType, device and tokenFile are flags of several commands.

func (f *flags) http() *string {
	return f.String("http", DefaultHTTP, "`HOST:PORT` of the broker's HTTP")
}

func (f *flags) channelType() *int {
	return f.Int("type", 2, "the channel's type, `N`: 1 person (ID is their uid), 2 group, others up to 12")
}

// device is a flag for a device flag. without is what holds if it is not given.
func (f *flags) device(without int, usage string) *int {
	n := &without
	f.Func("device", "`app|web|pc|N`, "+usage, func(text string) error {
		for i, name := range deviceNames() {
			if text == name {
				*n = i
				return nil
			}
		}
		v, err := strconv.Atoi(text)
		if err != nil || v < 0 || v > 254 {
			return fmt.Errorf("app, web, pc, or a number from 0 to 254 is possible")
		}
		*n = v
		return nil
	})
	return n
}

// deviceNames are the device flags that have a name.
func deviceNames() []string { return []string{"app", "web", "pc"} }

func deviceName(flag int) string {
	if names := deviceNames(); flag >= 0 && flag < len(names) {
		return names[flag]
	}
	return strconv.Itoa(flag)
}

func (f *flags) tokenFile(usage string) *string {
	return f.String("token-file", "", "`FILE` whose first line is "+usage+"; - is standard input")
}

// readToken reads a token from a file, never from the command line, which others
// can see; "" if there is no file.
func readToken(env Env, file string) (string, error) {
	if file == "" {
		return "", nil
	}
	in := env.Stdin
	if file != "-" {
		opened, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("cannot read the token: %w", err)
		}
		defer opened.Close()
		in = opened
	}
	line, err := bufio.NewReader(io.LimitReader(in, maxToken+2)).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", fmt.Errorf("cannot read the token: %w", err)
	}
	token := strings.TrimSpace(line)
	if token == "" || len(token) > maxToken {
		return "", fmt.Errorf("cannot use the token in %s: its first line has %d bytes, 1 to %d are possible", file, len(token), maxToken)
	}
	return token, nil
}

// maxToken is how many bytes a token may have.
const maxToken = 4096

func (f *flags) wrong(format string, args ...any) error {
	return &usageError{f.Name(), fmt.Sprintf(format, args...)}
}

func (f *flags) help(w io.Writer) {
	for i, line := range strings.Split(f.usage, "\n") {
		fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf("%s gatepost %s %s", [2]string{"Usage:", "      "}[min(i, 1)], f.Name(), line), " "))
	}
	fmt.Fprintf(w, "\n%s\n", strings.TrimSpace(f.text))
	first := true
	f.VisitAll(func(g *flag.Flag) {
		if first {
			fmt.Fprint(w, "\nFlags:\n")
			first = false
		}
		kind, usage := explain(g)
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

// explain returns what stands for the value of a flag, "" if it takes none, and
// what it means.
func explain(g *flag.Flag) (kind, means string) {
	kind, means = flag.UnquoteUsage(g)
	for _, between := range []string{", ", ": "} {
		means = strings.TrimPrefix(means, kind+between)
	}
	return kind, means
}
