package config

import (
	"bytes"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"gatepost/hwprofile"
	"gatepost/settings"
)

var update = flag.Bool("update", false, "write docs/configuration.md")

// board is a machine with room for everything the tests set.
func board() hwprofile.Profile {
	return hwprofile.For(hwprofile.Facts{Arch: "arm64", CPUs: 4, Memory: 4 * gib, PageSize: 4096})
}

const plenty = 1 << 20 // open files

func TestDefaults(t *testing.T) {
	c, err := load("", nil, nil, board(), plenty)
	if err != nil {
		t.Fatal(err)
	}
	if c.TCP != ":5100" || c.WS != ":5200" || c.HTTP != "127.0.0.1:5001" || c.Data != "data" || !c.Encryption {
		t.Errorf("found %+v, expected the documented ports, data and encryption", c)
	}
	if c.Net.Loops != 3 || c.Origin("net.loops") != "mid.profile:8, fitted to the machine" {
		t.Errorf("net.loops: found %d from %q, expected 3 from the profile", c.Net.Loops, c.Origin("net.loops"))
	}
	if c.Retry.First != 10*time.Second || c.Retry.Max != time.Minute || c.Retry.Tries != 5 || c.Retry.Tick != 100*time.Millisecond {
		t.Errorf("retry: found %+v", c.Retry)
	}
	if c.Net.MaxPayload != 32767 || !c.Net.Yield() || c.Origin("tcp") != "built-in" || c.Origin("nonsense") != "" {
		t.Errorf("found %+v", c.Net)
	}
	if c.HeapLimit() <= 0 || c.HeapLimit() >= c.Memory.Limit {
		t.Errorf("heap limit: found %d of %d", c.HeapLimit(), c.Memory.Limit)
	}
}

// TestEveryMachineStarts: no combination of memory and processors may refuse
// its own defaults, and few open files lower the connections.
func TestEveryMachineStarts(t *testing.T) {
	for _, arch := range []string{"arm", "amd64"} {
		for _, cpus := range []int{1, 2, 4, 16} {
			for _, memory := range []int64{0, 16 * mib, 48 * mib, 128 * mib, 500 * mib, 900 * mib, 1100 * mib, 2 * gib, 64 * gib} {
				for _, page := range []int{4096, 16384, 65536} {
					for _, files := range []uint64{0, 256, 1024, plenty} {
						prof := hwprofile.For(hwprofile.Facts{Arch: arch, CPUs: cpus, Memory: memory, PageSize: page})
						c, err := load("", nil, nil, prof, files)
						if err != nil {
							t.Fatalf("%s, %d open files: %s", prof, files, err)
						}
						rings := c.Net.RingPool + int64(c.Net.Loops)*c.Net.Scratch
						if heap := c.HeapLimit(); heap < hwprofile.BaseBytes+c.Queue.LogBytes+c.Queue.ApplyBytes || heap+rings > c.Memory.Limit {
							t.Fatalf("%s: a heap limit of %d bytes beside %d of rings", prof, heap, rings)
						}
						if files > 0 && c.Net.MaxConnections+ownFiles > int(files) {
							t.Fatalf("%s: %d connections with %d open files", prof, c.Net.MaxConnections, files)
						}
					}
				}
			}
		}
	}
}

// TestThisMachineStarts goes through the door that main uses.
func TestThisMachineStarts(t *testing.T) {
	if _, err := Load("", map[string]string{"tcp": ":0"}); err != nil {
		t.Fatal(err)
	}
	_, err := Load("/does/not/exist.toml", nil)
	if err == nil || !strings.Contains(err.Error(), "/does/not/exist.toml") {
		t.Errorf("a file that is missing: found %v", err)
	}
	big := t.TempDir() + "/big.toml"
	if err := os.WriteFile(big, bytes.Repeat([]byte("#\n"), settings.MaxFile), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err = Load(big, nil); err == nil || !strings.Contains(err.Error(), "1048576 bytes") {
		t.Errorf("a huge file: found %v", err)
	}
}

func TestFileAndFlags(t *testing.T) {
	file := `# comment
tcp = ":1"
encryption = false
http = "off"
broker.dedup_window = 77

[net]
out_limit = "128KiB" # above
idle_timeout = '90s'
"rate" = 10

[wal]
headroom = """128MiB"""
`
	c, err := load("a.toml", []byte(file), map[string]string{"tcp": "127.0.0.1:0", "net.out_limit": "64KiB"}, board(), plenty)
	if err != nil {
		t.Fatal(err)
	}
	if c.TCP != "127.0.0.1:0" || c.Encryption || c.HTTP != "" || c.Broker.DedupWindow != 77 ||
		c.Net.OutLimit != 64*kib || c.Net.IdleTimeout != 90*time.Second || c.Net.Rate != 10 || c.Wal.Headroom != 128*mib {
		t.Errorf("found %+v", c)
	}
	f := func(name, want string) {
		t.Helper()
		if got := c.Origin(name); got != want {
			t.Errorf("%s: found origin %q, expected %q", name, got, want)
		}
	}
	f("tcp", "flag --tcp")
	f("net.out_limit", "flag --net.out_limit")
	f("encryption", "a.toml:3")
	f("http", "a.toml:4")
	f("broker.dedup_window", "a.toml:5")
	f("net.idle_timeout", "a.toml:9")
	f("net.rate", "a.toml:10")
	f("wal.headroom", "a.toml:13")
	f("ws", "built-in")
}

// TestRefused is the person at 3 a.m.: every mistake is named with its place,
// what was found and what was expected.
func TestRefused(t *testing.T) {
	f := func(file string, want ...string) {
		t.Helper()
		_, err := load("g.toml", []byte(file), nil, board(), plenty)
		if err == nil {
			t.Errorf("%q was accepted", file)
			return
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q: found\n  %s\nexpected in it\n  %s", file, err, w)
			}
		}
	}
	// unknown names
	f("tpc = ':1'", "g.toml:1: tpc: no such key; did you mean tcp?")
	f("\n[net]\nlops = 2", "g.toml:3: net.lops: no such key; did you mean net.loops?")
	f("[nett]\nloops = 2", "g.toml:2: nett.loops: no such key; did you mean net.loops?")
	f("[nett]\n", "g.toml:1: nett: no such section")
	f("idle_timeout = '1m'", "did you mean net.idle_timeout?")
	f("'net.loops' = 2", `g.toml:1: "net.loops": no such key; did you mean net.loops?`)
	f("xyzzyxyzzyxyzzy = 2", "no such key; --help lists all keys")
	f("[net.loops]\nx = 2", "g.toml:2: net.loops.x: no such key; did you mean net.loops?")
	f("tcp.port = 2", "g.toml:1: tcp.port: no such key; did you mean tcp?")
	f("[tcp]\n", "g.toml:1: tcp: found a section, expected an address")
	// wrong shapes
	f("net = 3", "g.toml:1: net: found the bare number 3, expected a section [net]")
	f("\n[[net]]\nloops = 2", "g.toml:2: net: found a list of sections, expected a section [net]")
	f("[net]\nloops = '2'", `g.toml:2: net.loops: found the text "2", expected a whole number from 1 to 15`)
	f("[net]\nscratch = 65536", `g.toml:2: net.scratch: found the bare number 65536, expected a size such as "64KiB"`)
	f("encryption = 'yes'", `found the text "yes", expected true or false`)
	f("tcp = [':1']", `found a list, expected an address`)
	f("[retry]\ntries = 1.5", `found the fraction 1.5, expected a whole number from 1 to 100`)
	f("data = 2020-01-01", `found a date or time, expected a text`)
	f("net = { loops = 0 }", "g.toml:1: net.loops: found 0")
	// wrong values
	f("tcp = '5100'", `g.toml:1: tcp: found "5100", expected an address such as ":5100"`)
	f("tcp = 'localhost:http'", `found "localhost:http"`)
	f("tcp = ':65536'", `found ":65536"`)
	f("tcp = ''", `found "", expected an address`)
	f("data = ' '", "expected a text of printable characters")
	f("[net]\nscratch = '64k'", `unknown unit "k": one of B, KiB, MiB, GiB`)
	f("[net]\nscratch = '65536'", "no unit: one of")
	f("[net]\nscratch = '-64KiB'", "no whole number in front")
	f("[net]\nscratch = '99999999999GiB'", "too large a number")
	f("[net]\nscratch = '100KiB'", `found "100KiB", expected a size such as "64KiB" from 64KiB to 2MiB, a power of two`)
	f("[net]\nmax_payload = '32KiB'", "from 1B to 32767B")
	f("[net]\nidle_timeout = '180'", `found "180", expected a time such as "10s" from 1s to 24h`)
	f("[net]\nidle_timeout = '1ms'", "from 1s to 24h")
	f("[net]\nrate = -1", "from 1 to 1000000, or 0 for no limit")
	f("[net]\nwait = 'poll'", `found "poll", expected "yield" or "block"`)
	f("[net]\nloops = 9223372036854775807", "from 1 to 15")
	f("[log]\nlevel = 'loud'", `expected "debug" or "info" or "warn" or "error"`)
	// not TOML
	f("tcp = ", "g.toml:1: this is not TOML: ")
	f("a = 1\n\ntcp = ':1'\ntcp = ':2'", "g.toml:4: this is not TOML: ")
	f("a = '\xff'", "this is not TOML")
	// all mistakes at once, in order
	_, err := load("g.toml", []byte("tpc = 1\n[net]\nloops = 0\nrate = 'x'\n"), map[string]string{"wss": "1"}, board(), plenty)
	want := "g.toml:1: tpc: no such key; did you mean tcp?\n" +
		"g.toml:3: net.loops: found 0, expected a whole number from 1 to 15; nearest value: 1\n" +
		"g.toml:4: net.rate: found the text \"x\", expected a whole number from 1 to 1000000, or 0 for no limit\n" +
		"flag --wss: no such key; did you mean --ws?"
	if err == nil || err.Error() != want {
		t.Errorf("found\n%v\nexpected\n%s", err, want)
	}
}

// TestChecks: values that are fine alone and wrong together.
func TestChecks(t *testing.T) {
	f := func(flags string, files uint64, want ...string) {
		t.Helper()
		m := make(map[string]string)
		for _, word := range strings.Fields(flags) {
			name, value, _ := strings.Cut(word, "=")
			m[name] = value
		}
		_, err := load("", nil, m, board(), files)
		if len(want) == 0 {
			if err != nil {
				t.Errorf("%s: %s", flags, err)
			}
			return
		}
		if err == nil {
			t.Errorf("%s was accepted", flags)
			return
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: found\n  %s\nexpected in it\n  %s", flags, err, w)
			}
		}
	}
	f("tcp=off ws=off http=off", plenty, "nothing could be reached")
	f("tcp=off ws=off", plenty)
	f("tcp=:9 ws=:9", plenty, "tcp = :9 (flag --tcp) and ws = :9 (flag --ws) must differ")
	f("tcp=:0 ws=:0 http=[::1]:0", plenty)
	const sealed = " tls.cert_file=/c tls.key_file=/k"
	f("tcp=off ws=off http=off tls.tcp=:9"+sealed, plenty)
	f("tcp=off ws=off http=off tls.ws=:9"+sealed, plenty)
	f("tcp=off ws=off http=off tls.http=true"+sealed, plenty, "nothing could be reached")
	f("tcp=:9 tls.tcp=:9"+sealed, plenty, "tcp = :9 (flag --tcp) and tls.tcp = :9 (flag --tls.tcp) must differ")
	f("ws=:9 tls.ws=:9"+sealed, plenty, "ws = :9 (flag --ws) and tls.ws = :9 (flag --tls.ws) must differ")
	f("tls.tcp=:9 tls.ws=:9"+sealed, plenty, "must differ")
	f("tcp=:9 tls.tcp=:10 ws=:11 tls.ws=:12"+sealed, plenty)
	for _, same := range [][2]string{{":9", "127.0.0.1:9"}, {"127.0.0.1:9", "0.0.0.0:9"}, {"[::]:9", "0.0.0.0:9"}, {"[::]:9", "[::1]:9"}, {"localhost:9", "127.0.0.1:09"}, {"box.example:9", "box.example:9"}} {
		f("tcp="+same[0]+" ws="+same[1], plenty, "must differ")
	}
	for _, differ := range [][2]string{{"127.0.0.1:9", "127.0.0.2:9"}, {"0.0.0.0:9", "[::1]:9"}, {"[::1]:9", "127.0.0.1:9"}, {":9", ":10"}, {"a.example:9", "b.example:9"}} {
		f("tcp="+differ[0]+" ws="+differ[1], plenty)
	}
	f("http=:5001", plenty, "http = :5001 (flag --http) can be reached from other machines and asks for no token: set api.token_file")
	f("http=192.0.2.7:5001", plenty, "set api.token_file")
	f("http=:5001 api.token_file=/etc/gatepost/token", plenty)
	f("http=localhost:5001", plenty)
	f("net.ring_pool=8MiB net.loops=3", plenty, "gives each loop 2796202B, expected at least 4MiB")
	f("net.ring_pool=8MiB net.loops=2", plenty)
	f("net.partial_timeout=10s net.idle_timeout=5s", plenty, "must not be above")
	f("queue.log_bytes=64KiB", plenty, "queue.log_bytes = 64KiB (flag --queue.log_bytes) must not be below wal.group_bytes = 1MiB (mid.profile:25)")
	f("wal.roll_size=1MiB", plenty, "at least twice")
	f("wal.headroom=1MiB wal.group_bytes=2MiB", plenty, "one write could fill the disk")
	f("retry.first=2m", plenty, "retry.first = 2m (flag --retry.first) must not be above retry.max = 1m (built-in)")
	f("retry.first=50ms", plenty, "retry.tick = 100ms")
	f("net.max_connections=5000", 1024, "net.max_connections = 5000 (flag --net.max_connections) needs 5064 open files, the system allows 1024")
	f("net.max_connections=900", 1024)
	f("", 64, "needs 20064 open files, the system allows 64")
	f("net.max_connections=1", 64, "needs 65 open files, the system allows 64: raise it (ulimit -n, LimitNOFILE=) to 65 at least, no value of the key is small enough")
	f("net.max_connections=2", 65, "nearest value: 1")
	f("memory.limit=32MiB", plenty, "memory.limit = 32MiB (flag --memory.limit) is too little; nearest value: 231MiB. So much may rings, queues and tables take")
	f("net.ring_pool=1GiB", plenty, "memory.limit = 256MiB (mid.profile:38) is too little; nearest value: 1333MiB")
	f("net.ring_pool=1GiB memory.limit=2GiB", plenty)
	f("net.ring_pool=1GiB memory.limit=1200MiB", plenty, "memory.limit = 1200MiB (flag --memory.limit) is too little")

	prof := board()
	prof.Facts.PageSize = 65536 * 2
	if _, err := load("", nil, nil, prof, plenty); err == nil || !strings.Contains(err.Error(), "page size of 128KiB") {
		t.Errorf("large pages: found %v", err)
	}
}

func TestLoweredConnections(t *testing.T) {
	c, err := load("", nil, nil, board(), 1024)
	if err != nil {
		t.Fatal(err)
	}
	if want := "mid.profile:13, lowered to fit the limit of 1024 open files"; c.Net.MaxConnections != 960 || c.Origin("net.max_connections") != want {
		t.Errorf("found %d from %q, expected 960 from %q", c.Net.MaxConnections, c.Origin("net.max_connections"), want)
	}
}

// TestShow: what is shown is a file that gives the same configuration.
func TestShow(t *testing.T) {
	flags := map[string]string{"http": "off", "data": `a "quoted" \ name`, "net.idle_timeout": "1h0m30s", "log.level": "debug"}
	c, err := load("", nil, flags, board(), plenty)
	if err != nil {
		t.Fatal(err)
	}
	shown := c.Show()
	back, err := load("s.toml", []byte(shown), nil, board(), plenty)
	if err != nil {
		t.Fatalf("%s\n%s", err, shown)
	}
	for _, k := range table() {
		if k.get(c) != k.get(back) {
			t.Errorf("%s: found %s after the way round, expected %s", k.name, k.get(back), k.get(c))
		}
		if !strings.HasPrefix(back.Origin(k.name), "s.toml:") {
			t.Errorf("%s is not in the file", k.name)
		}
	}
}

// TestTable: the table itself is sound.
func TestTable(t *testing.T) {
	seen := make(map[string]bool)
	known := make(map[string]bool)
	for _, s := range sections() {
		known[s.name] = true
	}
	places := make(map[any]string)
	stated := make(map[string]bool) // by every class
	for i, class := range hwprofile.Embedded(hwprofile.KindClass) {
		states := make(map[string]bool)
		for _, v := range class.Values {
			if states[v.Key()] = true; !v.Table() && i > 0 && !stated[v.Key()] {
				t.Errorf("%s: %s is not in the other classes", v.Place(), v.Key())
			}
		}
		for name := range stated {
			if !states[name] {
				t.Errorf("class %s does not state %s", class.Name, name)
			}
		}
		stated = states
	}
	c, _ := defaults(board())
	for _, k := range table() {
		if seen[k.name] {
			t.Errorf("%s stands in the table twice", k.name)
		}
		seen[k.name] = true
		if !known[sectionOf(k.name)] {
			t.Errorf("%s: no such section", k.name)
		}
		if (k.builtin == "") != stated[k.name] {
			t.Errorf("%s needs a built-in default or one of the profile, not both", k.name)
		}
		if other := places[k.at(c)]; other != "" {
			t.Errorf("%s and %s are stored at the same place", k.name, other)
		}
		places[k.at(c)] = k.name
		if k.kind == integer && k.max > 1<<31-1 {
			t.Errorf("%s: the maximum of %d does not fit an int of 32 bits", k.name, k.max)
		}
		// all sizes but these become an int somewhere
		if k.kind == size && k.max > 1<<31-1 && k.name != "memory.limit" && k.name != "wal.headroom" && !strings.HasPrefix(k.name, "store.") {
			t.Errorf("%s: the maximum of %d does not fit an int of 32 bits", k.name, k.max)
		}
		if k.help == "" || !strings.HasSuffix(k.help, ".") {
			t.Errorf("%s: help is not a sentence", k.name)
		}
	}
}

func TestParseArgs(t *testing.T) {
	a, err := ParseArgs(strings.Fields("run --tcp :0 --encryption=false -net.loops 2 --config g.toml x -- --y"))
	if err != nil {
		t.Fatal(err)
	}
	if a.File != "g.toml" || a.Help || strings.Join(a.Rest, " ") != "run x --y" || len(a.Flags) != 3 ||
		a.Flags["tcp"] != ":0" || a.Flags["encryption"] != "false" || a.Flags["net.loops"] != "2" {
		t.Errorf("found %+v", a)
	}
	for _, arg := range []string{"-h", "--help"} {
		if a, err = ParseArgs([]string{arg}); err != nil || !a.Help {
			t.Errorf("%s: found %+v, %v", arg, a, err)
		}
	}
	f := func(line, want string) {
		t.Helper()
		if _, err := ParseArgs(strings.Fields(line)); err == nil || err.Error() != want {
			t.Errorf("%s: found %v, expected %s", line, err, want)
		}
	}
	f("--tpc :0", "--tpc: no such flag; did you mean --tcp?")
	f("--tcp", `flag --tcp: found no value, expected an address such as ":5100" or "127.0.0.1:5100" (port 0 takes a free one), or "off"`)
	f("--encryption --tcp :0", "flag --encryption: found no value, expected true or false")
	f("--config", "flag --config: found no value, expected the name of a file")
	f("--tcp :0 --tcp :1", "flag --tcp: found twice, expected once")
	f("--config a --config b", "flag --config: found twice, expected once")
}

func TestSizes(t *testing.T) {
	f := func(s string, want int64) {
		t.Helper()
		got, err := ParseSize(s)
		if err != nil || got != want {
			t.Errorf("%s: found %d, %v, expected %d", s, got, err, want)
		}
		if back, err := ParseSize(formatSize(got)); err != nil || back != got {
			t.Errorf("%s: found %d, %v after the way round", s, back, err)
		}
	}
	f("0B", 0)
	f("1B", 1)
	f("64KiB", 64<<10)
	f("64 KiB", 64<<10)
	f("1536KiB", 1536<<10)
	f("2GiB", 2<<30)
	f("8589934591GiB", 8589934591<<30)
}

func TestDurations(t *testing.T) {
	f := func(d time.Duration, want string) {
		t.Helper()
		if got := formatDuration(d); got != want {
			t.Errorf("found %s, expected %s", got, want)
		}
	}
	f(3*time.Minute, "3m")
	f(24*time.Hour, "24h")
	f(90*time.Second, "1m30s")
	f(time.Hour+30*time.Second, "1h0m30s")
	f(100*time.Millisecond, "100ms")
	f(10*time.Second, "10s")
}

func TestFlagHelp(t *testing.T) {
	help := FlagHelp()
	for _, k := range table() {
		if !strings.Contains(help, "  --"+k.name+" ") {
			t.Errorf("--%s is missing", k.name)
		}
	}
	for line := range strings.Lines(help) {
		if len(line) > 81 && !strings.HasPrefix(line, "  --") {
			t.Errorf("a line of %d bytes: %s", len(line), line)
		}
	}
}

// TestReference holds docs/configuration.md against the table.
func TestReference(t *testing.T) {
	const name = "../docs/configuration.md"
	if *update {
		if err := os.MkdirAll("../docs", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(Reference()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != Reference() {
		t.Errorf("%s is not what the table says; write it with: go test ./config -run TestReference -update", name)
	}
}

// FuzzLoad: no file makes Load panic, and what it accepts can be shown and read
// again.
func FuzzLoad(f *testing.F) {
	f.Add([]byte("tcp = ':1'\n[net]\nloops = 2\n"))
	f.Add([]byte("[[net]]\nloops = 2\n[net.loops]\n'a.b' = {c = [1, {d = 2}]}\n"))
	f.Add([]byte("net = {loops = 2, idle_timeout = '1m'}\n\"\" = 1\n"))
	f.Add([]byte("data = \"\\u007f\\n\"\r\nhttp = '''off'''\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		c, err := load("f.toml", file, nil, board(), plenty)
		if err != nil {
			return
		}
		back, err := load("s.toml", []byte(c.Show()), nil, board(), plenty)
		if err != nil {
			t.Fatalf("%s\n%s", err, c.Show())
		}
		for _, k := range table() {
			if k.get(c) != k.get(back) && !(k.isURL() && strings.Contains(c.Show(), notShown)) {
				t.Errorf("%s: found %s after the way round, expected %s", k.name, k.get(back), k.get(c))
			}
		}
	})
}
