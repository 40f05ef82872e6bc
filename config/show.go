package config

import (
	"fmt"
	"strconv"
	"strings"
)

// Show writes the configuration as a TOML file that Load would read back to the
// same values, each line with its origin as a comment. What may be secret in an
// address of the application is left out, and its line is a comment: it is printed
// on screens and into tickets.
func (c *Config) Show() string {
	return c.show(func(k *key) (value string, whole bool) {
		if value = k.get(c); k.isURL() && value != "off" {
			if shown, _ := redactURL(value); strings.Contains(shown, notShown) {
				return shown, false
			}
		}
		return value, true
	})
}

// show is Show with values of another origin, of which some are not whole.
func (c *Config) show(of func(*key) (value string, whole bool)) string {
	var b strings.Builder
	keys := table()
	for _, s := range sections() {
		if s.name != "" {
			fmt.Fprintf(&b, "\n[%s]\n", s.name)
		}
		for _, k := range keys {
			if sectionOf(k.name) != s.name {
				continue
			}
			value, whole := of(&k)
			if k.quoted() {
				value = strconv.Quote(value)
			}
			name := k.name[strings.LastIndexByte(k.name, '.')+1:]
			origin := c.Origin(k.name)
			if !whole {
				name, origin = "# "+name, origin+"; shown in part, as it may hold a secret"
			}
			fmt.Fprintf(&b, "%-40s # %s\n", name+" = "+value, origin)
		}
	}
	return b.String()
}
