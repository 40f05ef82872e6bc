package cli

import (
	"context"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
)

// topic is what can stand behind one command: words, flags, files. Completion and
// manual are written from topics.
type topic struct {
	path  string // of names; "" is gatepost itself
	brief string
	words []word // that can follow
	files bool   // the arguments are names of files
	flags []option
	decl  *flags // nil: it has commands of its own
}

// word is a word and what it means.
type word struct{ text, means string }

// option is a flag.
type option struct {
	name, kind, means string
	without           string   // what holds if it is not given; "": nothing to say
	values            []string // that can be listed
	files             bool     // the value is the name of a file
}

// topics returns a command and all below it.
func (c *command) topics(path string) (all []topic) {
	t := topic{path: path, brief: c.brief}
	if c.sub != nil {
		for i := range c.sub {
			t.words = append(t.words, word{c.sub[i].name, c.sub[i].brief})
			all = append(all, c.sub[i].topics(join(path, c.sub[i].name))...)
		}
		return append([]topic{t}, all...)
	}
	t.decl = c.flags()
	for _, field := range strings.Fields(t.decl.usage) {
		t.files = t.files || field == "FILE" || field == "DIR"
	}
	if first, _, _ := strings.Cut(t.decl.usage, " "); strings.Contains(first, "|") {
		for _, w := range choices(first) {
			t.words = append(t.words, word{text: w})
		}
	}
	t.decl.VisitAll(func(g *flag.Flag) {
		o := option{name: g.Name}
		o.kind, o.means = explain(g)
		o.values, o.files = choices(o.kind), o.kind == "FILE"
		switch g.DefValue {
		case "", "0", "0s", "false":
		default:
			o.without = g.DefValue
		}
		t.flags = append(t.flags, o)
	})
	return []topic{t}
}

// choices returns the words of a placeholder such as app|web|N: what is in capital
// letters stands for something else.
func choices(placeholder string) (all []string) {
	parts := strings.Split(placeholder, "|")
	if len(parts) < 2 {
		return nil
	}
	for _, p := range parts {
		if p == strings.ToLower(p) {
			all = append(all, p)
		}
	}
	return all
}

// completion prints a script for a shell.
func completion(_ context.Context, env Env, args []string) error {
	f := newFlags("completion", "bash|zsh|fish", `Prints a script that completes commands, flags and some of their values:

  gatepost completion bash > /etc/bash_completion.d/gatepost
  gatepost completion zsh > /usr/share/zsh/vendor-completions/_gatepost
  gatepost completion fish > /etc/fish/completions/gatepost.fish`)
	shell, err := f.one(env, args, "the shell")
	if err != nil {
		return err
	}
	write := map[string]func(io.Writer, []topic) error{"bash": bashScript, "zsh": zshScript, "fish": fishScript}[shell]
	if write == nil {
		return f.wrong("there is no script for %q: bash, zsh and fish are possible", shell)
	}
	root := command{sub: commands()}
	if err := write(env.Stdout, root.topics("")); err != nil {
		return fmt.Errorf("cannot print: %w", err)
	}
	return nil
}

// quoted makes texts words of a shell's language, with something between them.
func quoted(between string, texts ...string) string {
	all := make([]string, 0, len(texts))
	for _, t := range texts {
		all = append(all, "'"+strings.ReplaceAll(t, "'", `'\''`)+"'")
	}
	return strings.Join(all, between)
}

// places returns the patterns of all commands as "PATH NAME", PATH being of the
// command above, for a case of a shell.
func places(topics []topic, between string) string {
	var all []string
	for _, t := range topics[1:] {
		i := strings.LastIndexByte(t.path, ' ')
		all = append(all, t.path[:max(i, 0)]+" "+t.path[i+1:])
	}
	return quoted(between, all...)
}

// values groups the flags that take a value by what the value can be: "" cannot be
// listed, "\x00" is a file, else words. Of each it returns the "PATH --FLAG".
func values(topics []topic) (kinds []string, flags map[string][]string) {
	flags = make(map[string][]string)
	for _, t := range topics {
		for _, o := range t.flags {
			if o.kind == "" {
				continue
			}
			kind := strings.Join(o.values, " ")
			if o.files {
				kind = "\x00"
			}
			if flags[kind] == nil {
				kinds = append(kinds, kind)
			}
			flags[kind] = append(flags[kind], t.path+" --"+o.name)
		}
	}
	slices.Sort(kinds)
	return kinds, flags
}

func bashScript(w io.Writer, topics []topic) error {
	var b strings.Builder
	fmt.Fprintf(&b, `# Completion of gatepost, written by 'gatepost completion bash'.
_gatepost() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} at= words= options= files= i
    COMPREPLY=()
    if [[ $cur == "=" ]]; then
        cur=
    elif [[ $prev == "=" ]]; then
        prev=${COMP_WORDS[COMP_CWORD-2]}
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$at ${COMP_WORDS[i]}" in
        %s) at="${at:+$at }${COMP_WORDS[i]}" ;;
        esac
    done
    case "$at $prev" in
`, places(topics, "|"))
	kinds, flags := values(topics)
	for _, kind := range kinds {
		fmt.Fprintf(&b, "    %s) ", quoted("|", flags[kind]...))
		switch kind {
		case "":
			b.WriteString("return ;;\n")
		case "\x00":
			b.WriteString("compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- \"$cur\"); return ;;\n")
		default:
			fmt.Fprintf(&b, "COMPREPLY=($(compgen -W %s -- \"$cur\")); return ;;\n", quoted("", kind))
		}
	}
	b.WriteString("    esac\n    case \"$at\" in\n")
	for _, t := range topics {
		var names, options []string
		for _, w := range t.words {
			names = append(names, w.text)
		}
		for _, o := range t.flags {
			options = append(options, "--"+o.name)
		}
		files := ""
		if t.files {
			files = " files=1"
		}
		fmt.Fprintf(&b, "    %s) words=%s options=%s%s ;;\n", quoted("", t.path), quoted("", strings.Join(names, " ")), quoted("", strings.Join(append(options, "--help"), " ")), files)
	}
	b.WriteString(`    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$cur"))
    elif [[ -n $files ]]; then
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    else
        COMPREPLY=($(compgen -W "$words" -- "$cur"))
    fi
}
complete -F _gatepost gatepost
`)
	_, err := io.WriteString(w, b.String())
	return err
}

func zshScript(w io.Writer, topics []topic) error {
	var b strings.Builder
	fmt.Fprintf(&b, `#compdef gatepost
# Completion of gatepost, written by 'gatepost completion zsh'.
_gatepost() {
    local at= i
    local -a names options
    for ((i = 2; i < CURRENT; i++)); do
        case "$at ${words[i]}" in
        %s) at="${at:+$at }${words[i]}" ;;
        esac
    done
    case "$at ${words[CURRENT-1]}" in
`, places(topics, "|"))
	kinds, flags := values(topics)
	for _, kind := range kinds {
		fmt.Fprintf(&b, "    %s) ", quoted("|", flags[kind]...))
		switch kind {
		case "":
			b.WriteString("return ;;\n")
		case "\x00":
			b.WriteString("_files; return ;;\n")
		default:
			fmt.Fprintf(&b, "compadd -- %s; return ;;\n", kind)
		}
	}
	b.WriteString("    esac\n    case \"$at\" in\n")
	line := func(name, means string) string {
		if means = firstLine(means); means == "" {
			return quoted("", name)
		}
		return quoted("", strings.ReplaceAll(name, ":", `\:`)+":"+means)
	}
	for _, t := range topics {
		fmt.Fprintf(&b, "    %s)\n        names=(", quoted("", t.path))
		for _, w := range t.words {
			fmt.Fprintf(&b, " %s", line(w.text, w.means))
		}
		b.WriteString(")\n        options=(")
		for _, o := range t.flags {
			fmt.Fprintf(&b, " %s", line("--"+o.name, o.means))
		}
		fmt.Fprintf(&b, " %s)\n", line("--help", "explain it"))
		if t.files {
			b.WriteString("        [[ ${words[CURRENT]} == -* ]] || { _files; return }\n")
		}
		b.WriteString("        ;;\n")
	}
	b.WriteString(`    esac
    if [[ ${words[CURRENT]} == -* ]]; then
        _describe -o 'flag' options
    else
        _describe 'command' names
    fi
}
if [[ "${funcstack[1]}" == _gatepost ]]; then
    _gatepost "$@"
else
    compdef _gatepost gatepost
fi
`)
	_, err := io.WriteString(w, b.String())
	return err
}

func firstLine(text string) string {
	text, _, _ = strings.Cut(text, "\n")
	return text
}

func fishScript(w io.Writer, topics []topic) error {
	var b strings.Builder
	fmt.Fprintf(&b, `# Completion of gatepost, written by 'gatepost completion fish'.
function __gatepost_at
    set -l at ''
    set -l line (commandline -opc)
    for word in $line[2..-1]
        switch "$at $word"
            case %s
                set at (string trim -- "$at $word")
        end
    end
    test "$at" = "$argv[1]"
end
complete -c gatepost -f
`, places(topics, " "))
	for _, t := range topics {
		at := `complete -c gatepost -n "__gatepost_at '` + t.path + `'"`
		for _, w := range t.words {
			fmt.Fprintf(&b, "%s -a %s -d %s\n", at, w.text, fishText(w.means))
		}
		if t.files {
			fmt.Fprintf(&b, "%s -F\n", at)
		}
		for _, o := range t.flags {
			kind := ""
			switch {
			case o.files:
				kind = " -r -F"
			case len(o.values) > 0:
				kind = " -x -a " + fishText(strings.Join(o.values, " "))
			case o.kind != "":
				kind = " -x"
			}
			fmt.Fprintf(&b, "%s -l %s%s -d %s\n", at, o.name, kind, fishText(firstLine(o.means)))
		}
		fmt.Fprintf(&b, "%s -l help -d 'explain it'\n", at)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// fishText quotes a text for fish, where a backslash counts within quotes.
func fishText(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(text) + "'"
}
