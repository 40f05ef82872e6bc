package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// effect is how a key of a profile is seen at work: by a broker that is started
// with a value of its own, or by a test that is named as package and function,
// where the part needs to be driven by hand. That main hands the value over to
// the part is held by TestEveryKeyIsWired.
type effect struct {
	set   []string // KEY=VALUE
	check func(t *testing.T, b *broker)
	by    string
}

// keyEffects has every key that "gatepost profile show" prints.
func keyEffects() map[string]effect {
	by := func(name string) effect { return effect{by: name} }
	sees := func(check func(t *testing.T, b *broker), set ...string) effect { return effect{set: set, check: check} }
	reports := func(metric string, want float64, set string) effect {
		return sees(func(t *testing.T, b *broker) {
			if got := b.metric(metric); got != want {
				t.Errorf("%s is %v, want %v", metric, got, want)
			}
		}, set)
	}
	option := func(level, name, want int, set string) effect {
		return sees(func(t *testing.T, b *broker) {
			fd := b.socketOf(b.must(t, dialer{uid: "alice"}).conn)
			defer unix.Close(fd)
			if got, err := unix.GetsockoptInt(fd, level, name); err != nil || got != want {
				t.Errorf("the socket option is %d, want %d: %v", got, want, err)
			}
		}, set)
	}
	ends := func(counter string, sent func(t *testing.T, b *broker) net.Conn, set ...string) effect {
		return sees(func(t *testing.T, b *broker) {
			c := sent(t, b)
			defer c.Close()
			c.SetReadDeadline(time.Now().Add(never))
			var p [4096]byte
			for {
				if _, err := c.Read(p[:]); err != nil {
					break
				}
			}
			if b.metric(counter) != 1 {
				t.Errorf("%s is %v, want 1", counter, b.metric(counter))
			}
		}, set...)
	}
	nothing := func(t *testing.T, b *broker) net.Conn {
		c, err := dialTCP(b.tcp)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	half := func(t *testing.T, b *broker) net.Conn {
		c := b.must(t, dialer{uid: "alice"})
		p := c.make(nil, send{channel: "bob", kind: person}, []byte("half"))
		c.raw(t, p[:len(p)/2])
		return c.conn
	}
	const nobody = "nobody"

	return map[string]effect{
		// One descriptor of epoll for each loop, and the runtime's own.
		"net.loops": sees(func(t *testing.T, b *broker) {
			if n := b.descriptors("anon_inode:[eventpoll]"); n != 4 {
				t.Errorf("%d descriptors of epoll, want 4", n)
			}
		}, "net.loops=3"),
		// The first half of a mirrored ring is mapped at the beginning of its file.
		"net.scratch": sees(func(t *testing.T, b *broker) {
			if !b.maps("memfd:gatepost-ring", 64<<10) {
				t.Error("no ring of 64 KiB is mapped")
			}
		}, "net.scratch=64KiB"),
		// What has gathered is read in as many rounds as the budget asks for.
		"net.read_budget": sees(func(t *testing.T, b *broker) {
			c := b.must(t, dialer{uid: "alice"})
			const pings = 32 << 10
			before := b.metric("gatepost_rounds_total")
			b.freeze()
			c.raw(t, bytes.Repeat([]byte{typePing << 4}, pings))
			b.signal(syscall.SIGCONT)
			c.mu.Lock()
			if !c.wait(never, func() bool { return c.pongs == pings }) {
				t.Errorf("%d of %d pongs", c.pongs, pings)
			}
			c.mu.Unlock()
			if n := b.metric("gatepost_rounds_total") - before; n < pings/(4<<10) {
				t.Errorf("%d bytes were read in %v rounds, 4 KiB each", pings, n)
			}
		}, "net.read_budget=4KiB"),
		// More than the default holds back, and still pushed at once.
		"net.out_limit": sees(func(t *testing.T, b *broker) {
			bob := b.must(t, dialer{uid: "bob", rcvbuf: 4096})
			bob.pause(true)
			alice := b.must(t, dialer{uid: "alice"})
			const n = 40
			for i := range n {
				alice.tell(t, "bob", strconv.Itoa(i), strings.Repeat("x", 16<<10))
			}
			b.until("gatepost_recvs_total", n)
			if v := b.metric("gatepost_behind"); v != 0 {
				t.Errorf("%v channels are being caught up", v)
			}
		}, "net.out_limit=1MiB"),
		// Not enough for half a frame of everybody.
		"net.ring_pool": sees(func(t *testing.T, b *broker) {
			for i := range 100 {
				c := b.must(t, dialer{uid: fmt.Sprint("half", i)})
				p := c.make(nil, send{channel: "bob", kind: person}, make([]byte, 8<<10))
				c.raw(t, p[:len(p)/2])
			}
			b.until("gatepost_ring_starved_total", 1)
		}, "net.ring_pool=4MiB"),
		"net.idle_timeout": ends(`gatepost_closed_total{by="idle"}`, func(t *testing.T, b *broker) net.Conn {
			return b.must(t, dialer{uid: "alice"}).conn
		}, "net.idle_timeout=1s", "net.partial_timeout=1s"),
		"net.login_timeout":   ends(`gatepost_closed_total{by="login"}`, nothing, "net.login_timeout=100ms"),
		"net.partial_timeout": ends(`gatepost_closed_total{by="partial"}`, half, "net.partial_timeout=100ms"),
		// It asks once a round, and is asking now.
		"net.wait": sees(func(t *testing.T, b *broker) {
			alice := b.must(t, dialer{uid: "alice"})
			for range 20 {
				alice.ping(t)
			}
			if waits, rounds := b.metric("gatepost_epoll_waits_total"), b.metric("gatepost_rounds_total"); waits > rounds+2 {
				t.Errorf("%v calls for %v rounds", waits, rounds)
			}
		}, "net.wait=block", "net.loops=1"),
		"net.max_connections": sees(func(t *testing.T, b *broker) {
			b.must(t, dialer{uid: "alice"})
			if c, _, err := b.login(dialer{uid: "bob"}); err == nil {
				c.close()
				t.Error("a second connection was taken")
			}
		}, "net.max_connections=1"),
		"net.backlog": sees(func(t *testing.T, b *broker) {
			fd := b.listener(b.tcp)
			defer unix.Close(fd)
			info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
			if err != nil || info.Sacked != 7 { // of a listener: what may wait
				t.Errorf("%d connections may wait, want 7: %v", info.Sacked, err)
			}
		}, "net.backlog=7"),
		"net.unsent":             option(unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, 8<<10, "net.unsent=8KiB"),
		"net.user_timeout":       option(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 7000, "net.user_timeout=7s"),
		"net.keepalive_idle":     option(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 11, "net.keepalive_idle=11s"),
		"net.keepalive_interval": option(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 12, "net.keepalive_interval=12s"),
		"net.keepalive_count":    option(unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 13, "net.keepalive_count=13"),
		"net.max_payload":        by("e2e.TestReload"),
		"net.rate":               by("e2e.TestReload"),

		"queue.log_items":     reports(`gatepost_queue_max_items{queue="log"}`, 99, "queue.log_items=99"),
		"queue.log_bytes":     reports(`gatepost_queue_max_bytes{queue="log"}`, 3<<20, "queue.log_bytes=3MiB"),
		"queue.apply_items":   reports(`gatepost_queue_max_items{queue="apply"}`, 99, "queue.apply_items=99"),
		"queue.apply_bytes":   reports(`gatepost_queue_max_bytes{queue="apply"}`, 3<<20, "queue.apply_bytes=3MiB"),
		"queue.mailbox_items": reports(`gatepost_queue_max_items{queue="loop 0"}`, 99, "queue.mailbox_items=99"),
		"queue.mailbox_bytes": reports(`gatepost_queue_max_bytes{queue="loop 0"}`, 3<<20, "queue.mailbox_bytes=3MiB"),

		// The other one keeps files to use them again.
		"wal.engine": sees(func(t *testing.T, b *broker) {
			b.rolls(3)
			for _, name := range files(t, filepath.Join(b.dir, "log")) {
				if strings.HasPrefix(filepath.Base(name), "spare") {
					t.Errorf("there is a file %s", name)
				}
			}
		}, "wal.engine=tidwall", "wal.roll_size=1MiB", "wal.group_bytes=256KiB"),
		"wal.roll_size": sees(func(t *testing.T, b *broker) { b.rolls(3) }, "wal.roll_size=1MiB", "wal.group_bytes=256KiB"),
		// No bound on speed: it cannot be faster than it has to wait.
		"wal.linger": sees(func(t *testing.T, b *broker) {
			alice := b.must(t, dialer{uid: "alice"})
			began := time.Now()
			for i := range 20 {
				alice.tell(t, nobody, strconv.Itoa(i), "x")
			}
			if took := time.Since(began); took < 100*time.Millisecond {
				t.Errorf("20 groups that wait for 5 ms took %v", took)
			}
		}, "wal.linger=5ms"),
		// What came while the broker could not read would fit into one group of the
		// default. A group ends with the record that fills it.
		"wal.group_bytes": sees(func(t *testing.T, b *broker) {
			const n, size = 20, 30 << 10
			var senders []*client
			for i := range n {
				senders = append(senders, b.must(t, dialer{uid: fmt.Sprint("sender", i)}))
			}
			before := b.metric("gatepost_wal_groups_total")
			b.freeze()
			for _, c := range senders {
				c.post(t, send{channel: nobody, kind: person}, strings.Repeat("x", size))
			}
			b.signal(syscall.SIGCONT)
			for _, c := range senders {
				c.nextAck(t)
			}
			if groups := b.metric("gatepost_wal_groups_total") - before; groups < n*size/(64<<10+size+4096) {
				t.Errorf("%d messages of 30 KiB in %v groups of 64 KiB", n, groups)
			}
		}, "wal.group_bytes=64KiB"),
		"wal.group_items": by("wal.TestGroupsAreBounded"),
		"wal.headroom":    by("e2e.TestFullDisk"),

		"store.budget":              by("e2e.TestReload"),
		"store.person_max_age":      by("e2e.TestReload"),
		"store.person_max_messages": by("e2e.TestReload"),
		"store.person_max_bytes":    by("e2e.TestReload"),
		"store.group_max_age":       by("e2e.TestReload"),
		"store.group_max_messages":  by("e2e.TestReload"),
		"store.group_max_bytes":     by("e2e.TestReload"),

		"broker.dedup_window": sees(func(t *testing.T, b *broker) {
			alice := b.must(t, dialer{uid: "alice"})
			first := alice.tell(t, nobody, "first", "x")
			if again := alice.tell(t, nobody, "first", "x"); again.id != first.id {
				t.Error("the same message has two ids")
			}
			alice.tell(t, nobody, "second", "x")
			if again := alice.tell(t, nobody, "first", "x"); again.id == first.id {
				t.Error("the last message but one is still known")
			}
		}, "broker.dedup_window=1"),
		"broker.max_group_members": by("e2e.TestReload"),
		"broker.max_channels": sees(func(t *testing.T, b *broker) {
			b.channel("first", "alice")
			body := object{"channel_id": "second", "channel_type": group, "subscribers": []string{"alice"}}
			if code, text, err := b.call("POST", "/channel", body); err != nil || code == 200 {
				t.Errorf("a second group: %d %s %v", code, text, err)
			}
		}, "broker.max_channels=1"),
		"broker.user_channels": by("e2e.TestADeviceCannotUseUpTheChannels"),

		"retry.first": by("e2e.TestReload"),
		"retry.max":   by("e2e.TestReload"),
		"retry.tries": by("e2e.TestReload"),
		"retry.tick":  by("ack.TestNothingIsEarlyAndAllIsAtMostOneTickLate"),

		"session.inflight_max": sees(func(t *testing.T, b *broker) {
			bob := b.must(t, dialer{uid: "bob", noAck: true})
			alice := b.must(t, dialer{uid: "alice"})
			for i := range 10 {
				alice.tell(t, "bob", strconv.Itoa(i), "x")
			}
			for range 3 {
				bob.nextRecv(t)
			}
			bob.ping(t)
			bob.silent(t)
		}, "session.inflight_max=3"),
		"session.inflight_total": by("e2e.TestInflightTotal"),
		// What was acknowledged is not yet in the log, and comes again.
		"session.cursor_interval": sees(func(t *testing.T, b *broker) {
			bob := b.must(t, dialer{uid: "bob"})
			b.must(t, dialer{uid: "alice"}).tell(t, "bob", "", "x")
			bob.nextRecv(t)
			settled()
			b.kill()
			b.start()
			b.must(t, dialer{uid: "bob"}).nextRecv(t)
		}, "session.cursor_interval=10m"),

		// Who comes takes the place of one who is idle.
		"api.max_connections": sees(func(t *testing.T, b *broker) {
			for range 4 {
				c, err := dialTCP(b.http)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				fmt.Fprintf(c, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
				c.SetReadDeadline(time.Now().Add(never))
				if _, err := c.Read(make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
			}
			b.until("gatepost_http_displaced_total", 1)
		}, "api.max_connections=2"),
		"api.max_reads":   by("api.TestRequestsWaitForASlot"),
		"api.max_changes": by("api.TestRequestsWaitForASlot"),
		"api.max_sends":   by("api.TestRequestsWaitForASlot"),

		"tls.max_connections": by("e2e.TestReload"),
		"webhook.timeout":     by("e2e.TestReload"),
		"datasource.timeout":  by("e2e.TestDatasourceThatIsBad"),
		"datasource.max_age":  by("e2e.TestDatasource"),

		"memory.limit":      reports("gatepost_memory_limit_bytes", 777<<20, "memory.limit=777MiB"),
		"memory.gc_percent": reports("gatepost_gc_percent", 77, "memory.gc_percent=77"),
	}
}

// Every key that a profile may set is seen at work; a new one is not forgotten.
func TestEveryKeyHasAnEffect(t *testing.T) {
	out, err := exec.Command(binPath, "profile", "show", "--json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var shown struct {
		Values []struct{ Key string }
	}
	if err := json.Unmarshal(out, &shown); err != nil || len(shown.Values) < 50 {
		t.Fatalf("%d keys: %v", len(shown.Values), err)
	}
	effects := keyEffects()
	for _, v := range shown.Values {
		e, ok := effects[v.Key]
		delete(effects, v.Key)
		switch {
		case !ok:
			t.Errorf("%s: nobody has seen it at work", v.Key)
		case e.check == nil:
			checkNamedTest(t, v.Key, e.by)
		default:
			t.Run(v.Key, func(t *testing.T) {
				options := []option{plain}
				for _, pair := range e.set {
					key, value, _ := strings.Cut(pair, "=")
					options = append(options, set(key, value))
				}
				e.check(t, start(t, options...))
			})
		}
	}
	for key := range effects {
		t.Errorf("%s is no key", key)
	}
}

// checkNamedTest looks for a test by package and function. One of this package
// has to name the key that it is about.
func checkNamedTest(t *testing.T, key, name string) {
	t.Helper()
	pkg, test, _ := strings.Cut(name, ".")
	sources, err := filepath.Glob("../" + pkg + "/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, source := range sources {
		text, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		_, body, found := strings.Cut(string(text), "\nfunc "+test+"(")
		if !found {
			continue
		}
		body, _, _ = strings.Cut(body, "\n}\n")
		if pkg == "e2e" && !strings.Contains(body, `"`+key+`"`) {
			t.Errorf("%s: %s does not set it", key, name)
		}
		return
	}
	t.Errorf("%s: there is no test %s", key, name)
}

// metric reads one line of /metrics, its name with its labels.
func (b *broker) metric(name string) float64 {
	b.t.Helper()
	code, text, err := b.call("GET", "/metrics", nil)
	if err != nil || code != 200 {
		b.t.Fatalf("GET /metrics: %d %v", code, err)
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				b.t.Fatal(err)
			}
			return v
		}
	}
	b.t.Fatalf("there is no %s", name)
	return 0
}

// until waits for a metric to get to at least a value.
func (b *broker) until(name string, value float64) {
	b.t.Helper()
	for end := time.Now().Add(never); b.metric(name) < value; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("%s stays at %v, want %v", name, b.metric(name), value)
		}
	}
}

// descriptors counts those of the process that are a link to a name.
func (b *broker) descriptors(name string) (n int) {
	b.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", b.pid())
	entries, err := os.ReadDir(dir)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && to == name {
			n++
		}
	}
	return n
}

// maps says whether the process has a mapping of a file from its beginning that
// is so many bytes long.
func (b *broker) maps(file string, size uint64) bool {
	b.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", b.pid()))
	if err != nil {
		b.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var from, to, offset uint64
		var mode string
		if n, _ := fmt.Sscanf(line, "%x-%x %s %x", &from, &to, &mode, &offset); n == 4 && strings.Contains(line, file) && offset == 0 && to-from == size {
			return true
		}
	}
	return false
}

// rolls sends n MiB and a bit and wants as many generations of the log for it.
func (b *broker) rolls(n int) {
	b.t.Helper()
	alice := b.must(b.t, dialer{uid: "alice"})
	for i := range n * 40 {
		alice.tell(b.t, "nobody", strconv.Itoa(i), strings.Repeat("x", 30<<10))
	}
	b.until("gatepost_checkpoints_total", float64(n))
}

// socketOf returns a descriptor of the broker's end of a connection.
func (b *broker) socketOf(c net.Conn) int {
	b.t.Helper()
	return b.socket(func(fd int) bool {
		peer, err := unix.Getpeername(fd)
		return err == nil && address(peer) == c.LocalAddr().String()
	})
}

// listener returns a descriptor of the socket that listens on an address.
func (b *broker) listener(addr string) int {
	b.t.Helper()
	return b.socket(func(fd int) bool {
		own, err := unix.Getsockname(fd)
		listens, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		return err == nil && listens == 1 && address(own) == addr
	})
}

// socket returns a descriptor of the first socket of the process that is meant;
// it is the caller's.
func (b *broker) socket(meant func(fd int) bool) int {
	b.t.Helper()
	needRoot(b.t, "the descriptors of another process")
	process, err := unix.PidfdOpen(b.pid(), 0)
	if err != nil {
		b.t.Fatal(err)
	}
	defer unix.Close(process)
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", b.pid()))
	if err != nil {
		b.t.Fatal(err)
	}
	for _, e := range entries {
		n, _ := strconv.Atoi(e.Name())
		fd, err := unix.PidfdGetfd(process, n, 0)
		if err != nil {
			continue // closed meanwhile
		}
		if meant(fd) {
			return fd
		}
		unix.Close(fd)
	}
	b.t.Fatal("the broker has no such socket")
	return -1
}

func address(sa unix.Sockaddr) string {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return net.JoinHostPort(net.IP(sa.Addr[:]).String(), strconv.Itoa(sa.Port))
	case *unix.SockaddrInet6:
		return net.JoinHostPort(net.IP(sa.Addr[:]).String(), strconv.Itoa(sa.Port))
	}
	return ""
}
