package config

import (
	"fmt"
	"strconv"
	"strings"
)

// Show writes the configuration as a TOML file that Load would read back to the
// same values, each line with its origin as a comment.
func (c *Config) Show() string {
	return c.show(func(k *key) string { return k.get(c) })
}

// show is Show with values of another origin.
func (c *Config) show(of func(*key) string) string {
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
			value := of(&k)
			if k.quoted() {
				value = strconv.Quote(value)
			}
			name := k.name[strings.LastIndexByte(k.name, '.')+1:]
			fmt.Fprintf(&b, "%-40s # %s\n", name+" = "+value, c.Origin(k.name))
		}
	}
	return b.String()
}
