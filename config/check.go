package config

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"gatepost/hwprofile"
)

const (
	loopRings = 4 * mib // of a loop: what netio needs to take one frame of 1 MiB
	ownFiles  = 64      // descriptors for the log, epoll, listeners, HTTP and standard streams
)

// check holds the values against each other and against the machine. Each
// problem names all keys that take part and where their values came from.
func (c *Config) check(prof hwprofile.Profile, files uint64) []error {
	var problems []error
	refuse := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf(format, args...))
	}

	listeners := []struct{ name, address string }{{"tcp", c.TCP}, {"ws", c.WS}, {"tls.tcp", c.TLS.TCP}, {"tls.ws", c.TLS.WS}, {"http", c.HTTP}}
	open := 0
	for i, a := range listeners {
		if a.address == "" {
			continue
		}
		open++
		for _, b := range listeners[:i] {
			if b.address != "" && samePort(a.address, b.address) {
				refuse("%s and %s must differ: one port cannot serve both", c.say(b.name), c.say(a.name))
			}
		}
	}
	if open == 0 {
		refuse("tcp, ws, tls.tcp, tls.ws and http are all off (%s, %s, %s, %s, %s): nothing could be reached",
			c.Origin("tcp"), c.Origin("ws"), c.Origin("tls.tcp"), c.Origin("tls.ws"), c.Origin("http"))
	}

	if c.HTTP != "" && c.CheckHTTP(c.HTTP) != nil {
		refuse("%s can be reached from other machines and asks for no token: set api.token_file, or listen on 127.0.0.1", c.say("http"))
	}
	if page := int64(prof.Facts.PageSize); page > 0 && c.Net.Scratch%page != 0 {
		refuse("%s must be a multiple of this machine's page size of %s; nearest value: %s", c.say("net.scratch"), formatSize(page), formatSize(max((c.Net.Scratch+page/2)/page, 1)*page))
	}
	if share := c.Net.RingPool / int64(c.Net.Loops); share < loopRings {
		refuse("%s divided by %s gives each loop %s, expected at least %s: the largest frame would never fit; nearest value: net.ring_pool = %s",
			c.say("net.ring_pool"), c.say("net.loops"), formatSize(share), formatSize(loopRings), formatSize(loopRings*int64(c.Net.Loops)))
	} else if c.Net.OutLimit > share {
		refuse("%s must not be above a loop's share of %s; nearest value: %s", c.say("net.out_limit"), c.say("net.ring_pool"), formatSize(share))
	}
	if c.Net.PartialTimeout > c.Net.IdleTimeout {
		refuse("%s must not be above %s; nearest value: %s", c.say("net.partial_timeout"), c.say("net.idle_timeout"), formatDuration(c.Net.IdleTimeout))
	}
	if c.Queue.LogBytes < c.Wal.GroupBytes {
		refuse("%s must not be below %s: a group would never fill; nearest value: %s", c.say("queue.log_bytes"), c.say("wal.group_bytes"), formatSize(c.Wal.GroupBytes))
	}
	if c.Wal.RollSize < 2*c.Wal.GroupBytes {
		refuse("%s must be at least twice %s; nearest value: %s", c.say("wal.roll_size"), c.say("wal.group_bytes"), formatSize(2*c.Wal.GroupBytes))
	}
	if c.Wal.Headroom < c.Wal.GroupBytes {
		refuse("%s must not be below %s: one write could fill the disk; nearest value: %s", c.say("wal.headroom"), c.say("wal.group_bytes"), formatSize(c.Wal.GroupBytes))
	}
	if c.Retry.First > c.Retry.Max {
		refuse("%s must not be above %s; nearest value: %s", c.say("retry.first"), c.say("retry.max"), formatDuration(c.Retry.Max))
	}
	if c.Retry.Tick > c.Retry.First {
		refuse("%s must not be above %s; nearest value: %s", c.say("retry.tick"), c.say("retry.first"), formatDuration(c.Retry.First))
	}
	if least := 16 * c.Wal.RollSize; c.Store.Budget != 0 && c.Store.Budget < least {
		refuse("%s is too little: it must be at least 16 times %s; nearest value: %s", c.say("store.budget"), c.say("wal.roll_size"), formatSize(least))
	}
	if c.TLS.On() && (c.TLS.CertFile == "off" || c.TLS.KeyFile == "off") {
		refuse("tls.tcp, tls.ws and tls.http need tls.cert_file (%s) and tls.key_file (%s)", c.TLS.CertFile, c.TLS.KeyFile)
	}
	for name, address := range map[string]string{"webhook.url": c.Webhook.URL, "datasource.url": c.Source.URL} {
		if u, err := url.Parse(address); address != "off" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
			refuse("%s (%s) is no address like https://example.org/hook", name, c.Origin(name)) // it may hold a secret
		}
	}
	_, sites := c.Net.Origins(false)
	for _, site := range sites {
		if u, err := url.Parse(site); site != "null" && (err != nil || u.Scheme == "" || u.Host == "" && u.Scheme != "file" || u.Path != "" || u.RawQuery != "" || u.User != nil) {
			refuse("%s: %q is no site like https://app.example.org, and not auto, same or any", c.say("net.ws_origins"), site)
		}
	}
	for name := range strings.SplitSeq(c.Webhook.Events, ",") {
		if name = strings.TrimSpace(name); !slices.Contains(events(), name) {
			refuse("%s: there is no event %q: %s are possible", c.say("webhook.events"), name, strings.Join(events(), ", "))
		}
	}
	problems = append(problems, c.checkMachine(prof.Facts)...)
	problems = append(problems, c.checkFiles(files)...)
	if ceiling := c.Ceiling(); ceiling > c.Memory.Limit {
		inside := ""
		if c.TLS.On() {
			inside = c.say("tls.max_connections") + ", "
		}
		refuse("%s is too little; nearest value: %s. So much may rings, queues and tables take ("+inside+"%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s; about %s a connection, %s a channel, %s a remembered message, %s a push in flight)",
			c.say("memory.limit"), formatMiB(ceiling),
			c.say("net.ring_pool"), c.say("queue.log_bytes"), c.say("queue.apply_bytes"), c.say("queue.mailbox_bytes"), c.say("net.loops"),
			c.say("wal.group_bytes"), c.say("wal.roll_size"), c.say("net.max_connections"), c.say("broker.max_channels"), c.say("broker.dedup_window"), c.say("session.inflight_total"),
			formatSize(hwprofile.ConnectionBytes), formatSize(hwprofile.ChannelBytes), formatSize(hwprofile.DedupBytes), formatSize(hwprofile.InflightBytes))
	}
	return problems
}

// CheckHTTP says why the HTTP API must not be served at an address: other
// machines reach it, and no token is asked for.
func (c *Config) CheckHTTP(address string) error {
	if c.API.Token() == "" && !thisMachine(address) {
		return fmt.Errorf("HTTP at %s can be reached from other machines and asks for no token: set api.token_file, or listen on 127.0.0.1", address)
	}
	return nil
}

// mapped is how many mappings of memory a ring of 64 KiB may cost at worst.
const mapped = 2

// checkMachine holds what somebody wrote against the machine, as far as it says
// what it has.
func (c *Config) checkMachine(f hwprofile.Facts) (problems []error) {
	if rings := (c.Net.RingPool + int64(c.Net.Loops)*c.Net.Scratch) / (64 * kib); f.MaxMaps > 0 && mapped*rings > int64(f.MaxMaps)/2 {
		problems = append(problems, fmt.Errorf("%s may take %d mappings of memory, more than half of the %d that the system allows a process: raise vm.max_map_count; nearest value: %s",
			c.say("net.ring_pool"), mapped*rings, f.MaxMaps, formatSize(int64(f.MaxMaps)/2/mapped*64*kib-int64(c.Net.Loops)*c.Net.Scratch)))
	}
	if most := f.DiskSize - c.Wal.Headroom; f.DiskSize > 0 && c.Store.Budget > most {
		problems = append(problems, fmt.Errorf("%s and %s are more than the disk of the data directory has, %s; nearest value: store.budget = %s",
			c.say("store.budget"), c.say("wal.headroom"), formatSize(f.DiskSize), formatSize(max(most/mib, 64)*mib)))
	}
	return problems
}

// checkFiles holds max_connections against the limit of open files. What the
// profile proposed is lowered; what somebody wrote is refused.
func (c *Config) checkFiles(files uint64) []error {
	need := uint64(c.Net.MaxConnections) + ownFiles
	if files == 0 || need <= files {
		return nil
	}
	const name = "net.max_connections"
	if k, _ := find(name); files > ownFiles && c.proposed(name) && k.inRange(int64(files-ownFiles)) {
		c.Net.MaxConnections = int(files - ownFiles)
		c.origin[name] += fmt.Sprintf(", lowered to fit the limit of %d open files", files)
		return nil
	}
	if files <= ownFiles {
		return []error{fmt.Errorf("%s needs %d open files, the system allows %d: raise it (ulimit -n, LimitNOFILE=) to %d at least, no value of the key is small enough",
			c.say(name), need, files, ownFiles+1)}
	}
	return []error{fmt.Errorf("%s needs %d open files, the system allows %d: raise it (ulimit -n, LimitNOFILE=) or lower the key; nearest value: %d", c.say(name), need, files, files-ownFiles)}
}

// events are what an application can be told of; see package api.
func events() []string { return []string{"msg.offline", "msg.notify", "user.onlinestatus"} }

// samePort reports whether the system would refuse the second of two addresses
// because of the first: the port is the same, and so is the host, or one of them is
// every host. With port 0 the system chooses.
func samePort(a, b string) bool {
	hostA, portA, _ := net.SplitHostPort(a)
	hostB, portB, _ := net.SplitHostPort(b)
	if a, err := strconv.Atoi(portA); err == nil {
		if b, err := strconv.Atoi(portB); err != nil || a != b || a == 0 {
			return false
		}
	} else if portA != portB {
		return false
	}
	ipA, ipB := listenIP(hostA), listenIP(hostB)
	switch {
	case ipA == nil || ipB == nil:
		return hostA == hostB
	case ipA.IsUnspecified() && ipB.IsUnspecified(), ipA.Equal(ipB):
		return true
	case ipA.IsUnspecified():
		return len(ipA) == net.IPv6len && ipA.To4() == nil || ipB.To4() != nil // :: is both families
	case ipB.IsUnspecified():
		return len(ipB) == net.IPv6len && ipB.To4() == nil || ipA.To4() != nil
	}
	return false
}

// listenIP is the address of a host that is listened on; nil: it is a name.
func listenIP(host string) net.IP {
	switch host {
	case "":
		return net.IPv6unspecified
	case "localhost":
		return net.IPv4(127, 0, 0, 1)
	}
	return net.ParseIP(host)
}

// say names a key with its value and where that came from.
func (c *Config) say(name string) string {
	k, _ := find(name)
	return fmt.Sprintf("%s = %s (%s)", name, k.get(c), c.Origin(name))
}

// formatMiB rounds up to whole MiB: a ceiling is a sum of odd bytes.
func formatMiB(n int64) string { return formatSize((n + mib - 1) / mib * mib) }

// thisMachine reports whether only this machine can reach an address.
func thisMachine(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false // refused elsewhere
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
