package config

import (
	"errors"
	"fmt"
	"strings"
)

// Reload reads the configuration again as it was read first: the same file, the
// same flags, the same machine. c stays as it is.
func (c *Config) Reload() (*Config, error) { return c.again() }

// Adopt returns the configuration of a broker that runs with c and is to run on
// with what next says: next where a key may change while it runs, else c. live
// are the names of the keys that changed, restart of those that did and keep
// their value until the broker is started again. The error says why the two do
// not go together: then nothing of next may be used.
func (c *Config) Adopt(next *Config) (adopted *Config, live, restart []string, err error) {
	mixed := *next
	mixed.origin = make(map[string]string, len(next.origin))
	for _, k := range table() {
		mixed.origin[k.name] = next.origin[k.name]
		switch {
		case k.get(c) == k.get(next):
		case k.live:
			live = append(live, k.name)
		default:
			restart = append(restart, k.name)
			if p := k.set(&mixed, k.get(c)); p != nil {
				panic(fmt.Sprintf("BUG: %s cannot keep its value: found %s, expected %s", k.name, p.found, p.expected))
			}
			const waits = ", until the next start"
			mixed.origin[k.name] = strings.TrimSuffix(c.origin[k.name], waits) + waits
		}
	}
	if len(restart) > 0 { // both are sound, half of each need not be
		if problems := mixed.check(c.Hardware, 0); len(problems) > 0 {
			return nil, nil, nil, fmt.Errorf("this needs a restart: %w", errors.Join(problems...))
		}
	}
	return &mixed, live, restart, nil
}
