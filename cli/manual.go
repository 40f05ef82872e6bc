package cli

import (
	"context"
	"fmt"
	"strings"
)

// manual prints the manual page.
func manual(_ context.Context, env Env, args []string) error {
	f := newFlags("man", "", "Prints the manual page, for 'man -l -', or to install:\n\n  gatepost man > /usr/share/man/man1/gatepost.1")
	if err := f.none(env, args); err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, ".TH GATEPOST 1 \"\" %s \"User Commands\"\n", roffQuoted("gatepost "+env.Version))
	b.WriteString(".SH NAME\ngatepost \\- a message broker for gateways\n.SH SYNOPSIS\n.B gatepost\n.I COMMAND\n[flags]\n.SH COMMANDS\n")
	root := command{sub: commands()}
	for _, t := range root.topics("")[1:] {
		if t.decl == nil {
			continue
		}
		fmt.Fprintf(&b, ".SS %s\n%s.\n.PP\n.nf\n", roffQuoted("gatepost "+t.path), roff(strings.ToUpper(t.brief[:1])+t.brief[1:]))
		for _, line := range strings.Split(t.decl.usage, "\n") {
			fmt.Fprintf(&b, "%s\n", roff(strings.TrimSpace("gatepost "+t.path+" "+line)))
		}
		fmt.Fprintf(&b, "\n%s\n.fi\n", roff(strings.TrimSpace(t.decl.text)))
		for _, o := range t.flags {
			fmt.Fprintf(&b, ".TP\n\\fB\\-\\-%s\\fR %s\n%s\n", roff(o.name), roff(o.kind), roff(o.means))
			if o.without != "" {
				fmt.Fprintf(&b, "(default %s)\n", roff(o.without))
			}
		}
	}
	b.WriteString(".SH ENVIRONMENT\n.TP\n.B " + tokenVariable + "\nnames a file with the token that the broker asks for over HTTP.\n" +
		".SH EXIT STATUS\n0 done; 1 failed, refused, or a check did not hold; 2 wrong command line;\n78 wrong configuration or command line of run.\n")
	if _, err := fmt.Fprint(env.Stdout, b.String()); err != nil {
		return fmt.Errorf("cannot print: %w", err)
	}
	return nil
}

// roff makes a text stand for itself.
func roff(text string) string {
	lines := strings.Split(strings.NewReplacer(`\`, `\e`, "-", `\-`, "`", `\(ga`).Replace(text), "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}

func roffQuoted(text string) string { return `"` + strings.ReplaceAll(roff(text), `"`, `\(dq`) + `"` }
