package config

import (
	"fmt"
	"strconv"
	"strings"
)

// Example is a configuration file with every key as a comment, and so one that
// changes nothing: what a package installs.
func Example() string {
	var b strings.Builder
	b.WriteString(exampleIntro)
	keys := table()
	for _, s := range sections() {
		b.WriteString("\n")
		wrap(&b, s.help, "# ", 79)
		if s.name != "" {
			fmt.Fprintf(&b, "[%s]\n", s.name)
		}
		for _, k := range keys {
			if sectionOf(k.name) != s.name {
				continue
			}
			b.WriteString("\n")
			wrap(&b, k.help, "# ", 79)
			value := k.builtin
			if k.builtin == "" {
				values := k.ofClasses()
				value = values[2] // mid
				wrap(&b, "Follows the machine: "+strings.Join(values, ", ")+".", "# ", 79)
			}
			if k.quoted() {
				value = strconv.Quote(value)
			}
			fmt.Fprintf(&b, "#%s = %s\n", k.name[strings.LastIndexByte(k.name, '.')+1:], value)
		}
	}
	return b.String()
}

const exampleIntro = `# Configuration of Gatepost. Nothing has to be set: each key stands here as a
# comment, with what holds without it. Take the # in front of a key away to
# change it, then look at the result and restart:
#
#   gatepost config show --config /etc/gatepost/gatepost.toml
#   systemctl restart gatepost
#
# Where four values follow the machine they are those of the classes tiny, small,
# mid and x86.
`
