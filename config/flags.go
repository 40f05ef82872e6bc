package config

import (
	"fmt"
	"strings"
)

// Args is a command line taken apart.
type Args struct {
	File  string            // --config FILE
	Flags map[string]string // key name -> value as typed, for Load
	Help  bool              // -h, --help
	Rest  []string          // everything that is not a flag, in order
}

// ParseArgs takes a command line apart. Every key of the table is a flag of the
// same name that takes a value: --tcp :0, --tcp=:0, --encryption=false. After
// "--" nothing is a flag. Values are checked by Load.
func ParseArgs(args []string) (Args, error) {
	a := Args{Flags: make(map[string]string)}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			a.Rest = append(a.Rest, args...)
			return a, nil
		}
		if !strings.HasPrefix(arg, "-") || arg == "-" {
			a.Rest = append(a.Rest, arg)
			continue
		}
		name, value, given := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
		if name == "h" || name == "help" {
			a.Help = true
			continue
		}
		if name == "set" { // --set KEY=VALUE is --KEY=VALUE
			if !given {
				if len(args) == 0 {
					return a, fmt.Errorf("flag --set: found no value, expected KEY=VALUE")
				}
				value, args = args[0], args[1:]
			}
			if name, value, given = strings.Cut(value, "="); !given {
				return a, fmt.Errorf("flag --set %s: expected KEY=VALUE", name)
			}
		}
		k, known := find(name)
		if !known && name != "config" {
			return a, fmt.Errorf("%s: no such flag%s", arg, suggestion("--", name))
		}
		if !given {
			if len(args) == 0 || strings.HasPrefix(args[0], "--") {
				expected := "the name of a file"
				if known {
					expected = k.expected()
				}
				return a, fmt.Errorf("flag --%s: found no value, expected %s", name, expected)
			}
			value, args = args[0], args[1:]
		}
		if _, twice := a.Flags[name]; twice || name == "config" && a.File != "" {
			return a, fmt.Errorf("flag --%s: found twice, expected once", name)
		}
		if name == "config" {
			a.File = value
			continue
		}
		a.Flags[name] = value
	}
	return a, nil
}

// Flag is what is said of one flag.
type Flag struct {
	Name    string
	Value   string // stands for it; the words of a choice with "|" between them
	Default string
	Help    string
}

// Flags lists the flags of all keys, in the order of the documentation.
func Flags() (all []Flag) {
	keys := table()
	for _, s := range sections() {
		for _, k := range keys {
			if sectionOf(k.name) == s.name {
				all = append(all, Flag{k.name, k.placeholder(), k.defaultText(), k.help})
			}
		}
	}
	return all
}

// FlagHelp is the text about flags for --help: one entry a key, as wide as an
// old terminal.
func FlagHelp() string {
	var b strings.Builder
	b.WriteString("  --config FILE\n        read settings from a TOML file\n  --set KEY=VALUE\n        the same as --KEY VALUE\n")
	for _, f := range Flags() {
		fmt.Fprintf(&b, "  --%s %s (%s)\n", f.Name, f.Value, f.Default)
		wrap(&b, f.Help, "        ", 80)
	}
	return b.String()
}

// placeholder stands for a value in the help text.
func (k *key) placeholder() string {
	switch k.kind {
	case address:
		return "ADDRESS"
	case boolean:
		return "true|false"
	case integer:
		return "NUMBER"
	case size:
		return "SIZE"
	case duration:
		return "TIME"
	case choice:
		return strings.Join(k.words, "|")
	default:
		return "TEXT"
	}
}

func (k *key) defaultText() string {
	if k.builtin == "" {
		return "default: from the profile"
	}
	return "default: " + k.builtin
}

// sectionOf returns the part of a key name before the dot, "" when there is
// none.
func sectionOf(name string) string {
	section, _, found := strings.Cut(name, ".")
	if !found {
		return ""
	}
	return section
}

// wrap writes text in lines of at most width bytes, each behind the indent.
func wrap(b *strings.Builder, text, indent string, width int) {
	line := indent
	for _, word := range strings.Fields(text) {
		if line != indent && len(line)+1+len(word) > width {
			b.WriteString(line + "\n")
			line = indent
		}
		if line != indent {
			line += " "
		}
		line += word
	}
	b.WriteString(line + "\n")
}
