package e2e

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// What a message costs may not grow unseen. These tests count and never look at a
// clock: system calls by the kernel, bytes at the block device, allocations by
// Go's runtime, instructions on an emulated processor. Each bound has what was
// measured beside it, and what would break it.

// marcher sends in lock step: a window of SENDs in one write, and the next one
// when the last answer of it is there. So it is known how often a broker has
// to read and to write, whatever the machine does meanwhile.
type marcher struct {
	*client
	channels []string // that it sends to in turn
	kind     byte
	sent     int
	left     atomic.Int64 // answers to this window that are still to come
	refused  atomic.Int64
	done     chan struct{}
	out      []byte
	noise    *rand.ChaCha8
	took     []time.Duration // of each window
}

const guardWindow, guardPayload = 64, 256

func newMarcher(t testing.TB, b *broker, uid string, kind byte, channels ...string) *marcher {
	m := &marcher{channels: channels, kind: kind, done: make(chan struct{}, 1), noise: rand.NewChaCha8([32]byte{1})}
	m.client = b.must(t, dialer{uid: uid, buffer: 64 << 10, onAck: func(a sendack) {
		if a.reason != reasonSuccess {
			m.refused.Add(1)
		}
		if m.left.Add(-1) == 0 {
			m.done <- struct{}{}
		}
	}})
	return m
}

// march sends so many windows.
func (m *marcher) march(windows int) error {
	payload := []byte(strings.Repeat("boiler 7: 71.25 degrees, valve open; ", 10)[:guardPayload])
	noise := payload[guardPayload*6/10:] // 60 % packs, as in gatepost bench
	for range windows {
		m.out = m.out[:0]
		m.left.Store(guardWindow)
		for range guardWindow {
			m.sent++
			m.noise.Read(noise)
			m.out = m.make(m.out, send{channel: m.channels[m.sent%len(m.channels)], kind: m.kind, no: strconv.Itoa(m.sent)}, payload)
		}
		began := time.Now()
		if err := m.write(m.out); err != nil {
			return err
		}
		select {
		case <-m.done:
			m.took = append(m.took, time.Since(began))
		case <-time.After(never):
			return fmt.Errorf("%s waits for %d answers: %v", m.uid, m.left.Load(), m.alive())
		}
	}
	if n := m.refused.Load(); n > 0 {
		return fmt.Errorf("%d messages of %s were refused", n, m.uid)
	}
	return nil
}

// march lets all of them send so many windows each.
func march(t testing.TB, all []*marcher, windows int) {
	t.Helper()
	errs := make([]error, len(all))
	each(len(all), len(all), func(_, i int) { errs[i] = all[i].march(windows) })
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// pairs are senders to one person each, who is online if received is not nil
// and then counts there.
func pairs(t testing.TB, b *broker, n int, received *atomic.Int64) []*marcher {
	all := make([]*marcher, n)
	for i := range all {
		to := fmt.Sprint("to", i)
		if received != nil {
			b.must(t, dialer{uid: to, buffer: 64 << 10, onRecv: func(*recv) { received.Add(1) }})
		}
		all[i] = newMarcher(t, b, fmt.Sprint("from", i), person, to)
	}
	return all
}

// counters are the numbers of /varz; histograms are left out.
type counters map[string]float64

func (b *broker) counters() counters {
	b.t.Helper()
	var all map[string]any
	b.ask(b.t, "GET", "/varz", "", 200, &all)
	c := counters{}
	for name, v := range all {
		if n, ok := v.(float64); ok {
			c[name] = n
		}
	}
	return c
}

func (c counters) since(before counters) counters {
	grown := counters{}
	for name, n := range c {
		grown[name] = n - before[name]
	}
	return grown
}

// calls counts the system calls of the broker while f runs, by name. The kernel
// counts, through strace: the broker's own counters could be wrong as the
// code is. It makes each call slower, which changes none of the numbers below.
func (b *broker) calls(f func()) map[string]int {
	b.t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		unable(b.t, "%v; scripts/setup.sh installs it", err)
	}
	table := filepath.Join(b.t.TempDir(), "calls")
	said := &logBuffer{}
	cmd := exec.Command("strace", "-f", "-c", "-U", "name,calls", "-o", table, "-p", strconv.Itoa(b.pid()))
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	defer cmd.Process.Kill()
	for end := time.Now().Add(never); !strings.Contains(said.String(), "attached"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) || strings.Contains(said.String(), "not permitted") {
			unable(b.t, "strace -p: %s", said)
		}
	}
	f()
	cmd.Process.Signal(syscall.SIGINT)
	cmd.Wait() // ends by the signal
	text, err := os.ReadFile(table)
	if err != nil {
		b.t.Fatal(err)
	}
	n := map[string]int{}
	for line := range strings.Lines(string(text)) {
		if word := strings.Fields(line); len(word) == 2 {
			if count, err := strconv.Atoi(word[1]); err == nil && word[0] != "total" {
				n[word[0]] = count
			}
		}
	}
	if len(n) == 0 {
		b.t.Fatalf("strace counted nothing:\n%s\n%s", said, text)
	}
	return n
}

// work is how many of these calls move bytes or ask something. The others are
// how Go and the loops wait, run and keep their memory; how often they do
// depends on how the machine was shared in that moment.
func work(calls map[string]int) (n int) {
	calls = maps.Clone(calls)
	for _, waits := range []string{"epoll_pwait", "futex", "nanosleep", "sched_yield", "restart_syscall", "getpid", "tgkill", "rt_sigreturn", "clone", "clone3", "rt_sigprocmask",
		"gettid", "sigaltstack", "madvise", "mmap", "munmap", "mprotect", "sched_getaffinity"} {
		delete(calls, waits)
	}
	for _, k := range calls {
		n += k
	}
	return n
}

// atMost fails with what was measured when it is above the bound.
func atMost(t testing.TB, what string, got, bound float64) {
	t.Helper()
	t.Logf("%s: %.4g, at most %.4g", what, got, bound)
	if got > bound {
		t.Errorf("%s: %.4g, want at most %.4g; see the comment at this bound", what, got, bound)
	}
}

// The system calls of a durable publish: 50 connections, windows of 64.
func TestGuardCallsOfPublish(t *testing.T) {
	const senders, windows = 50, 40
	b := start(t, plain, set("log.level", "warn"), set("wal.roll_size", "256MiB")) // no checkpoint
	all := pairs(t, b, senders, nil)
	march(t, all, 5)
	before := b.counters()
	calls := b.calls(func() { march(t, all, windows) })
	grown := b.counters().since(before)
	groups := grown["gatepost_wal_groups_total"]
	t.Logf("%d windows in %.0f groups: %v", senders*windows, groups, calls)
	syncs, writes := calls["fdatasync"]+calls["fsync"], calls["pwrite64"]+calls["pwritev"]
	if groups == 0 || float64(syncs) != groups || float64(writes) != groups || grown["gatepost_wal_syncs_total"] != groups {
		t.Errorf("%d syncs (%v by the broker's own count) and %d writes of the log for %v groups, want one each",
			syncs, grown["gatepost_wal_syncs_total"], writes, groups)
	}
	// 1.90 to 2.00 measured, 1.87 with one processor, where 2.1 is the aim: a window
	// is one read and one write, and a group at most one wake of the loop. The rest is
	// for windows that arrive in two pieces, as they do on a machine that has other
	// work (2.19 with a process that had taken all memory). A write for each SENDACK
	// would make it 60.
	sockets := float64(calls["read"] + calls["write"])
	atMost(t, "reads and writes a window and group", sockets/(senders*windows+groups), 3)
	// Beside its write and its sync a group looks once how full the disk is: 1.00
	// to 1.01 measured. A second call for each group, or one for each window, is
	// above; rings that are mapped meanwhile are not.
	atMost(t, "other calls a group", (float64(work(calls)-syncs-writes)-sockets)/groups, 1.5)
}

// The system calls of a group of 100 who are online: what is for one
// connection leaves in one write a round.
func TestGuardCallsOfFanout(t *testing.T) {
	const members, windows = 100, 40
	b := start(t, plain, set("log.level", "warn"), set("wal.roll_size", "256MiB"),
		set("session.cursor_interval", "10m")) // read positions are written by the clock, which is not counted here
	uids := []string{"from"}
	var got atomic.Int64
	for i := range members {
		uid := fmt.Sprint("to", i)
		b.must(t, dialer{uid: uid, buffer: 64 << 10, onRecv: func(*recv) { got.Add(1) }})
		uids = append(uids, uid)
	}
	b.channel("g", uids...)
	all := []*marcher{newMarcher(t, b, "from", group, "g")}
	deliver := func(windows int) {
		want := got.Load() + int64(windows*guardWindow*members)
		march(t, all, windows)
		await(t, &got, want)
	}
	deliver(2)
	before := b.counters()
	calls := b.calls(func() { deliver(windows) })
	grown := b.counters().since(before)
	t.Logf("%d windows: %v", windows, calls)
	const deliveries = windows * guardWindow * members
	// 0.039 to 0.058 measured: apply hands the 64 messages of a window to the loop
	// in one to three portions, and RECVACKs come back in as many. How many depends
	// on who runs when, so the bound leaves room for eight. A write for each RECV
	// would make it above 1.
	// Whatever the calls are called: what belongs to the log is taken off.
	log := calls["fdatasync"] + calls["fsync"] + calls["pwrite64"] + calls["pwritev"] + calls["statfs"] + calls["fstatfs"]
	atMost(t, "calls a delivery", float64(work(calls)-log)/deliveries, 0.25)
	// 1.20 measured: a message is in the log once, and with it 51 bytes of names
	// and framing, whoever receives it.
	atMost(t, "bytes of the log a byte of payload", grown["gatepost_wal_bytes_total"]/(windows*guardWindow*guardPayload), 1.3)
	if n := grown["gatepost_recvs_total"]; n != deliveries {
		t.Errorf("%v RECVs for %d deliveries", n, deliveries)
	}
}

// What the whole process puts on the heap between a SEND and the RECVACK of it.
func TestGuardAllocations(t *testing.T) {
	const senders, windows = 8, 300
	b := start(t, plain, set("log.level", "warn"))
	var got atomic.Int64
	all := pairs(t, b, senders, &got)
	mallocs := func() float64 {
		n, ok := b.counters()["gatepost_go_mallocs_total"]
		if !ok || n == 0 {
			t.Fatal("the broker does not say how much it allocates")
		}
		return n
	}
	least := float64(senders * windows * guardWindow)
	for range 4 { // the first time fills pools and tables
		before, want := mallocs(), got.Load()+senders*windows*guardWindow
		march(t, all, windows)
		await(t, &got, want)
		least = min(least, mallocs()-before)
	}
	// 0.016 to 0.024 measured: one or two for each window of 64, with the HTTP
	// requests that ask for the number and with checkpoints. One allocation for
	// each message would make it above 1, two more for each window 0.053.
	atMost(t, "allocations a message", least/(senders*windows*guardWindow), 0.05)
}

// What reaches the device for each byte that clients sent: log, history and
// what the file system adds. On a file system of its own, which nobody else
// writes to.
func TestGuardBytes(t *testing.T) {
	const senders, windows = 50, 500
	d := newDisk(t, 2048)
	b := start(t, plain, set("log.level", "warn"), inDir(filepath.Join(d.dir, "data")), set("wal.roll_size", "16MiB"))
	all := pairs(t, b, senders, nil)
	march(t, all, 100) // the log's files are there, and one checkpoint or more
	written, before := d.written(t), b.counters()
	march(t, all, windows)
	grown := b.counters().since(before)
	device := d.written(t) - written
	t.Logf("%v checkpoints", grown["gatepost_checkpoints_total"])
	if grown["gatepost_checkpoints_total"] < 3 {
		t.Errorf("%v checkpoints in so many rolls, want at least 3", grown["gatepost_checkpoints_total"])
	}
	const payload = senders * windows * guardWindow * guardPayload
	// 1.25 measured, the same every time: 64 bytes of names, numbers and framing
	// for 256 of payload.
	atMost(t, "bytes of the log a byte of payload", grown["gatepost_wal_bytes_total"]/payload, 1.3)
	// Issue E wants 2.7. 1.9 to 2.4 measured, by how many checkpoints it takes: the
	// log is 1.25, rounded up to whole pages for each group, and the history, packed,
	// about 0.5. Writing the log twice would make it above 3.
	atMost(t, "bytes to the device a byte of payload", float64(device)/payload, 2.7)
}

// written is how many bytes have reached the device, once all has that was
// written to its files.
func (d *disk) written(t testing.TB) int64 {
	t.Helper()
	command(t, "sync", "-f", d.dir)
	device := filepath.Base(strings.TrimSpace(command(t, "findmnt", "-n", "-o", "SOURCE", d.dir)))
	text, err := os.ReadFile("/sys/block/" + device + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	const sectorsWritten, sector = 6, 512 // Documentation/block/stat.rst
	n, err := strconv.ParseInt(strings.Fields(string(text))[sectorsWritten], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n * sector
}

// The instructions of the whole process for one message, from SEND to RECVACK,
// and for one message with many channels, which must not be more. Counted on an
// emulated processor, because virtual machines seldom lend the counters of theirs;
// so they are the same on every machine.
func TestGuardInstructions(t *testing.T) {
	for _, tool := range []string{"valgrind", "callgrind_control"} {
		if _, err := exec.LookPath(tool); err != nil {
			unable(t, "%v; scripts/setup.sh installs it", err)
		}
	}
	if runtime.GOARCH != "amd64" {
		t.Skip("the bounds are those of amd64")
	}
	const senders, windows = 8, 20
	dir := t.TempDir()
	b := start(t, plain, set("log.level", "warn"), set("wal.roll_size", "256MiB"), set("broker.max_channels", "100000"),
		withEnv("GODEBUG=asyncpreemptoff=1"), // callgrind and the signals of preemption do not get on
		// Its threads run one at a time, and without fairness one that looks for work may
		// keep the one that has it from running: a start once hung for good.
		withShell(fmt.Sprintf(`exec valgrind --tool=callgrind --fair-sched=try --vgdb-prefix='%s/vgdb' --callgrind-out-file='%[1]s/part' "$0" "$@"`, dir)))
	control := func(what string) {
		t.Helper()
		if said := command(t, "callgrind_control", "--vgdb-prefix="+dir+"/vgdb", what, strconv.Itoa(b.pid())); !strings.Contains(said, "OK") {
			t.Fatalf("callgrind_control %s: %s", what, said)
		}
	}
	parts := 0
	// instructions of a message: the least of some rounds, because now and then
	// the collector runs, or a loop looks once more before it sleeps.
	instructions := func(all []*marcher, got *atomic.Int64) float64 {
		t.Helper()
		var each []float64
		for range 4 {
			control("--zero")
			want := int64(0)
			if got != nil {
				want = got.Load() + senders*windows*guardWindow
			}
			march(t, all, windows)
			if got != nil {
				await(t, got, want)
			}
			control("--dump")
			parts++
			text, err := os.ReadFile(filepath.Join(dir, fmt.Sprint("part.", parts)))
			if err != nil {
				t.Fatal(err)
			}
			_, total, _ := strings.Cut(string(text), "\ntotals: ")
			total, _, _ = strings.Cut(total, "\n")
			n, err := strconv.Atoi(total)
			if err != nil {
				t.Fatal(err)
			}
			each = append(each, float64(n)/(senders*windows*guardWindow))
		}
		t.Logf("%.0f", each)
		return slices.Min(each)
	}
	var got atomic.Int64
	delivered := pairs(t, b, senders, &got)
	// 9,053 to 9,062 measured: the same code gives the same number to some thousandths.
	// Some 300 of them are the CRC32C of the record by itself, which proves damage, with
	// the processor's instruction for it. The rest is for another release of Go, and for
	// what the emulator takes over from the real processor, such as the width of its copies.
	atMost(t, "instructions a message, SEND to RECVACK", instructions(delivered, &got), 9_500)

	few := make([]*marcher, senders)
	many := make([]*marcher, senders)
	for i := range few {
		few[i] = newMarcher(t, b, fmt.Sprint("few", i), person, fmt.Sprint("absent", i, "-few")) // as long as the others
		var others []string
		for k := range 640 {
			others = append(others, fmt.Sprint("absent", i, "-", k))
		}
		many[i] = newMarcher(t, b, fmt.Sprint("many", i), person, others...)
	}
	march(t, few, 1)
	one := instructions(few, nil)
	march(t, many, 10) // the channels are there
	other := instructions(many, nil)
	// 6,132 of 5,994 measured. Walking a list of the channels would make it above 2.
	atMost(t, "instructions a message with 5,120 channels, by those with 8", other/one, 1.1)
}

// await waits until n has reached want.
func await(t testing.TB, n *atomic.Int64, want int64) {
	t.Helper()
	for end := time.Now().Add(never); n.Load() < want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d of %d messages came", n.Load(), want)
		}
	}
}
