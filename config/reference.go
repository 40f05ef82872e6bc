package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"gatepost/hwprofile"
)

// Reference is the documentation of every key as Markdown. docs/configuration.md
// is this text; `go test ./config -run TestReference -update` writes it.
func Reference() string {
	var b strings.Builder
	b.WriteString(referenceIntro)
	keys := table()
	for _, s := range sections() {
		title := "Top level"
		if s.name != "" {
			title = "[" + s.name + "]"
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n| key | value | default | live | meaning |\n|---|---|---|---|---|\n", title, s.help)
		for _, k := range keys {
			if sectionOf(k.name) != s.name {
				continue
			}
			live := ""
			if k.live {
				live = "yes"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", k.name, cell(k.expected()), k.referenceDefault(), live, cell(k.help))
		}
	}
	b.WriteString(referenceProfiles())
	return b.String()
}

const referenceIntro = `# Configuration

This page is generated from the table of keys in package config.

Gatepost needs no configuration file. A value comes from the last of these that
has one: the built-in default, the hardware profiles (see [profiles.md](profiles.md)), the file,
the flag.

* **File**: TOML, given with ` + "`--config FILE`" + `. Keys with a dot live in a section:
  ` + "`net.loops`" + ` is ` + "`loops`" + ` under ` + "`[net]`" + `.
* **Flags**: every key is a flag of the same name, ` + "`--net.loops 2`" + ` or ` + "`--net.loops=2`" + `.
  ` + "`--set net.loops=2`" + ` is the same, for scripts that have keys and values.
* **Sizes** are whole numbers with a unit, B, KiB, MiB or GiB, and **times** are written
  like ` + "`100ms`, `10s`, `1m30s`" + `. Both are quoted in the file and the unit is required.

A key that does not exist and a value that is out of range stop the start; the
message names the file and line, what was found and what was expected. The
values are also held against each other and against the machine: everything that
can fill up must fit into ` + "`memory.limit`" + `, and ` + "`net.max_connections`" + ` must fit the limit
of open files.

SIGHUP (` + "`systemctl reload gatepost`" + `) makes a running broker read the file again. Keys
with "yes" in the column "live" take their new value at once, and nobody is
disconnected; the log names those that changed and need a restart. Flags stay what they were
at the start. A file that does not pass changes nothing. What token, certificate
and secret files hold is read again too.

` + "```toml" + `
# A small example.
data = "/var/lib/gatepost"
tcp = ":5100"

[net]
max_connections = 2000
idle_timeout = "5m"

[memory]
limit = "96MiB"
` + "```" + `
`

// referenceDefault is the default of a key for the reference. A key that the
// profile sets shows the four classes, or one value when they agree.
func (k *key) referenceDefault() string {
	if k.builtin != "" {
		if k.quoted() {
			return "`" + strconv.Quote(k.builtin) + "`"
		}
		return "`" + k.builtin + "`"
	}
	values := k.ofClasses()
	if len(slices.Compact(slices.Clone(values))) == 1 {
		return values[0]
	}
	return strings.Join(values, " · ")
}

// ofClasses returns what the classes say of a key, the smallest first.
func (k *key) ofClasses() (values []string) {
	for _, class := range hwprofile.Embedded(hwprofile.KindClass) {
		for _, v := range class.Values {
			if v.Key() == k.name {
				text, _ := v.Text()
				values = append(values, text)
			}
		}
	}
	return values
}

func referenceProfiles() string {
	return `
## The profiles

Four values in the column "default" are those of the classes ` + "`tiny` · `small` · `mid` · `x86`" + `.
The class is chosen at start and said in the log:

| class | chosen when |
|---|---|
| ` + "`tiny`" + ` | one processor, or at most 512 MiB of memory |
| ` + "`small`" + ` | at most 1 GiB |
| ` + "`mid`" + ` | more than 1 GiB, not a PC |
| ` + "`x86`" + ` | a PC with more than 1 GiB |

Memory is the smaller of what is installed and what the control group allows.
` + "`net.loops`" + ` of ` + "`mid` and `x86`" + ` follows the processors: one fewer than there are, at
least 1 and at most 4. ` + "`memory.limit`" + ` is lowered to 40 % of the memory, and on
machines with very little of it the pools, queues and tables are halved until
they fit.
`
}

// cell makes a text safe for a table.
func cell(s string) string { return strings.ReplaceAll(s, "|", "\\|") }
