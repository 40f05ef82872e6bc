package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"gatepost/hwprofile"
)

// tunable reports whether a key may stand in a profile: what has a size, a count,
// a limit or an interval, and the two ways of doing something that depend on the
// machine. Ports, files, names and rules belong to whoever runs the box.
func (k *key) tunable() bool {
	return k.kind == integer || k.kind == size || k.kind == duration || k.name == "net.wait" || k.name == "wal.engine"
}

// defaults is the configuration of a machine without a file and flags.
func defaults(prof hwprofile.Profile) (*Config, []error) {
	c := &Config{origin: make(map[string]string), Hardware: prof}
	for _, k := range table() {
		if k.builtin == "" {
			continue
		}
		if p := k.set(c, k.builtin); p != nil {
			panic(fmt.Sprintf("BUG: default of %s: found %s, expected %s", k.name, p.found, p.expected))
		}
		c.origin[k.name] = "built-in"
	}
	var problems []error
	for i, layer := range prof.Layers {
		problems = append(problems, c.layer(&layer)...)
		if i+1 == prof.Built {
			c.fit(prof.Facts)
		}
	}
	return c, problems
}

// layer applies one profile.
func (c *Config) layer(f *hwprofile.File) (problems []error) {
	for i := range f.Values {
		v := &f.Values[i]
		problems = append(problems, c.apply(v.File, &v.Entry, true)...)
	}
	return problems
}

// proposed reports whether the value of a key came from the binary: then it is
// made to fit the machine, and otherwise refused when it does not.
func (c *Config) proposed(name string) bool {
	origin := c.Origin(name)
	return origin == "built-in" || !strings.Contains(origin, "/") && strings.Contains(origin, ".profile:")
}

// sizes is what takes memory.
func (c *Config) sizes() hwprofile.Sizes {
	return hwprofile.Sizes{
		Loops:          c.Net.Loops,
		Scratch:        c.Net.Scratch,
		RingPool:       c.Net.RingPool,
		MaxConnections: c.Net.MaxConnections,
		LogBytes:       c.Queue.LogBytes,
		ApplyBytes:     c.Queue.ApplyBytes,
		MailboxBytes:   c.Queue.MailboxBytes,
		GroupBytes:     c.Wal.GroupBytes,
		RollSize:       c.Wal.RollSize,
		FileInMemory:   !c.Wal.Recycle(),
		DedupWindow:    c.Broker.DedupWindow,
		MaxChannels:    c.Broker.MaxChannels,
		InflightTotal:  c.Session.InflightTotal,
		MemoryLimit:    c.Memory.Limit,
	}
}

// fit makes what the layers in the binary say fit the machine.
func (c *Config) fit(f hwprofile.Facts) {
	s := c.sizes()
	s.Fit(f)
	number := func(name string, at *int, n int) {
		if *at != n {
			*at, c.origin[name] = n, c.origin[name]+", fitted to the machine"
		}
	}
	bytes := func(name string, at *int64, n int64) {
		if *at != n {
			*at, c.origin[name] = n, c.origin[name]+", fitted to the machine"
		}
	}
	number("net.loops", &c.Net.Loops, s.Loops)
	bytes("net.ring_pool", &c.Net.RingPool, s.RingPool)
	number("net.max_connections", &c.Net.MaxConnections, s.MaxConnections)
	bytes("queue.log_bytes", &c.Queue.LogBytes, s.LogBytes)
	bytes("queue.apply_bytes", &c.Queue.ApplyBytes, s.ApplyBytes)
	bytes("queue.mailbox_bytes", &c.Queue.MailboxBytes, s.MailboxBytes)
	bytes("wal.roll_size", &c.Wal.RollSize, s.RollSize)
	number("broker.dedup_window", &c.Broker.DedupWindow, s.DedupWindow)
	number("broker.max_channels", &c.Broker.MaxChannels, s.MaxChannels)
	number("session.inflight_total", &c.Session.InflightTotal, s.InflightTotal)
	bytes("memory.limit", &c.Memory.Limit, s.MemoryLimit)
}

// CheckProfile lays one profile over what the machine with the facts gets and
// returns the outcome, or every problem.
func CheckProfile(f hwprofile.File, facts hwprofile.Facts) (*Config, []error) {
	return checkProfile(f, facts, openFiles())
}

func checkProfile(f hwprofile.File, facts hwprofile.Facts, files uint64) (*Config, []error) {
	prof := hwprofile.For(facts)
	prof.Layers = append(prof.Layers, f)
	c, problems := defaults(prof)
	if len(problems) == 0 {
		problems = c.check(prof, files)
	}
	return c, problems
}

// nearest names the value next to a wrong one that would be right, where there
// is one.
func (k *key) nearest(text string) string {
	n, ok := k.meant(text)
	if !ok {
		return ""
	}
	if k.power {
		at := int64(1)
		for at < k.max && n-at > at*2-n {
			at *= 2
		}
		n = at
	}
	n = min(max(n, k.min), k.max)
	value := k.format(n)
	if k.quoted() {
		value = strconv.Quote(value)
	}
	return "; nearest value: " + value
}

// meant is the number that a wrong value was probably meant to be.
func (k *key) meant(text string) (int64, bool) {
	text = strings.TrimSpace(text)
	n, err := strconv.ParseInt(text, 10, 64)
	if err == nil {
		if k.kind == duration { // without a unit: seconds
			return min(n, math.MaxInt64/int64(time.Second)) * int64(time.Second), n >= 0
		}
		return n, k.kind == integer || k.kind == size
	}
	switch k.kind {
	case duration:
		d, err := time.ParseDuration(text)
		return int64(d), err == nil
	case size:
		if n, err := ParseSize(text); err == nil {
			return n, true
		}
		digits := len(text) - len(strings.TrimLeft(text, "0123456789"))
		for _, u := range units() { // "64k", "64 KB", "64kib"
			unit := strings.ToLower(strings.TrimSpace(text[digits:]))
			if unit != "" && strings.HasPrefix(strings.ToLower(u.name), unit[:1]) {
				if n, err := strconv.ParseInt(text[:digits], 10, 64); err == nil && n <= math.MaxInt64/u.bytes {
					return n * u.bytes, true
				}
			}
		}
	}
	return 0, false
}

// Line is one key with its value and where that came from.
type Line struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin string `json:"origin"`
}

// Lines lists every key that a profile may set.
func (c *Config) Lines() (all []Line) {
	for _, s := range sections() {
		for _, k := range table() {
			if sectionOf(k.name) == s.name && k.tunable() {
				all = append(all, Line{k.name, k.get(c), c.Origin(k.name)})
			}
		}
	}
	return all
}
