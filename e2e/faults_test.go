package e2e

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A disk fails for a while, or for good, under a broker at work. Afterwards, on
// a disk that is well again, everything acknowledged is there once, in order, with
// the same sequences and ids, what was pushed and not acknowledged is delivered,
// and nothing is taken for damaged, because nothing is.

// fault is one case.
type fault struct {
	op     string // of faultOps
	fails  string // of faultErrors
	lasts  time.Duration
	engine string
	phase  string
	path   string
}

func (f fault) String() string {
	lasts, path := "for good", "everywhere"
	if f.lasts > 0 {
		lasts = "for " + f.lasts.String()
	}
	if f.path != "" {
		path = "in " + f.path
	}
	return fmt.Sprintf("%s %s %s %s %s %s", f.op, f.fails, lasts, path, f.phase, f.engine)
}

// faultOps are the calls that fail, by the name of the row.
var faultOps = map[string][]string{
	"read":     {"read"},
	"write":    {"write", "truncate", "allocate"},
	"fsync":    {"fsync"},
	"fsyncdir": {"fsyncdir"},
	"open":     {"open", "list"},
	"create":   {"create", "mkdir"},
	"rename":   {"rename"},
	"unlink":   {"unlink"},
	"all":      nil,
}

const slowed = "slow" // each call takes slowCall and succeeds

const slowCall = 150 // ms

var faultErrors = map[string]syscall.Errno{
	"EIO": syscall.EIO, "ENOSPC": syscall.ENOSPC, "EROFS": syscall.EROFS, "EMFILE": syscall.EMFILE, "ENOMEM": syscall.ENOMEM, slowed: 0,
}

// faultKinds are the errors that a call can really return.
var faultKinds = [][2]string{
	{"read", "EIO"}, {"write", "EIO"}, {"fsync", "EIO"}, {"fsyncdir", "EIO"}, {"open", "EIO"}, {"create", "EIO"}, {"rename", "EIO"}, {"unlink", "EIO"}, {"all", "EIO"},
	{"write", "ENOSPC"}, {"fsync", "ENOSPC"}, {"fsyncdir", "ENOSPC"}, {"create", "ENOSPC"}, {"rename", "ENOSPC"},
	{"write", "EROFS"}, {"create", "EROFS"}, {"rename", "EROFS"}, {"unlink", "EROFS"},
	{"open", "EMFILE"}, {"create", "EMFILE"},
	{"read", "ENOMEM"}, {"open", "ENOMEM"},
	{"read", slowed}, {"write", slowed}, {"fsync", slowed}, {"fsyncdir", slowed}, {"open", slowed}, {"create", slowed}, {"rename", slowed}, {"unlink", slowed},
}

var (
	faultPhases = []string{"at start", "steady", "in a checkpoint", "in retention", "in a backup"}
	faultTimes  = []time.Duration{300 * time.Millisecond, 3 * time.Second, 0}
)

// placesOf are the directories in which the broker makes such calls while it runs.
func placesOf(op string) []string {
	switch op {
	case "rename", "unlink":
		return []string{"/log/"}
	case "create", "fsyncdir":
		return []string{"/log/", "/blocks/"}
	}
	return []string{"/log/", "/blocks/", "/meta/"}
}

// allFaults is the whole product. Each case is there twice: everywhere, and in one
// of the directories.
func allFaults(r *rand.Rand) (all []fault) {
	for _, kind := range faultKinds {
		for _, phase := range faultPhases {
			for _, lasts := range faultTimes {
				for _, engine := range engines() {
					f := fault{kind[0], kind[1], lasts, engine, phase, ""}
					all = append(all, f)
					places := placesOf(f.op)
					f.path = places[r.IntN(len(places))]
					all = append(all, f)
				}
			}
		}
	}
	return all
}

// cover picks n of the cases so that as many pairs of their values as possible are
// met.
func cover(all []fault, n int, r *rand.Rand) (some []fault) {
	all = slices.Clone(all)
	r.Shuffle(len(all), func(i, k int) { all[i], all[k] = all[k], all[i] })
	type pair struct{ a, b string }
	met := map[pair]bool{}
	pairs := func(f fault) (list []pair) {
		values := []string{"op " + f.op, "error " + f.fails, "lasts " + f.lasts.String(), f.engine, f.phase, "path " + f.path}
		for i := range values {
			for k := range i {
				list = append(list, pair{values[k], values[i]})
			}
		}
		return list
	}
	for len(some) < n && len(all) > 0 {
		best, most := 0, -1
		for i, f := range all {
			count := 0
			for _, p := range pairs(f) {
				if !met[p] {
					count++
				}
			}
			if count > most {
				best, most = i, count
			}
		}
		for _, p := range pairs(all[best]) {
			met[p] = true
		}
		some = append(some, all[best])
		all = slices.Delete(all, best, best+1)
	}
	return some
}

// mustFaults are cases that once lost messages.
var mustFaults = []fault{
	{"read", "EIO", 3 * time.Second, "recycled", "at start", "/log/"},
	{"read", "EIO", 0, "recycled", "at start", ""},
	{"read", "EIO", 3 * time.Second, "recycled", "in a checkpoint", ""},
	{"open", "EMFILE", 3 * time.Second, "tidwall", "in a checkpoint", ""},
	{"read", "ENOMEM", 300 * time.Millisecond, "recycled", "in a checkpoint", "/log/"},
	{"write", "EROFS", 3 * time.Second, "recycled", "steady", ""},
}

// pendingFault says why a case cannot hold yet, "" if it must.
func pendingFault(f fault) string { return "" }

func TestDiskFaults(t *testing.T) {
	r := random(t)
	only, cases := os.Getenv("GATEPOST_FAULT"), allFaults(r)
	if !soak && only == "" {
		cases = cover(slices.DeleteFunc(cases, func(f fault) bool { return pendingFault(f) != "" }), 18, r)
	}
	cases = slices.DeleteFunc(append(slices.Clone(mustFaults), cases...), func(f fault) bool { return !strings.Contains(f.String(), only) })
	lanes := make(chan struct{}, pick(4, 8)) // they wait more than they work
	var mu sync.Mutex
	met, ran := 0, 0
	t.Run("all", func(t *testing.T) {
		for i, f := range cases {
			t.Run(f.String(), func(t *testing.T) {
				if why := pendingFault(f); why != "" && only == "" {
					t.Skip("pending: " + why)
				}
				ran++
				t.Parallel()
				lanes <- struct{}{}
				defer func() { <-lanes }()
				if hits := diskFault(t, f, rand.New(rand.NewPCG(seed, uint64(i)))); hits > 0 {
					mu.Lock()
					met++
					mu.Unlock()
				}
			})
		}
	})
	t.Logf("%d of %d cases met a call", met, ran)
	if met*4 < ran {
		t.Error("most faults met nobody: this proves little")
	}
}

// outbox is a sender that sends each message until it is acknowledged, one at a
// time, over as many connections as it takes.
type outbox struct {
	uid   string
	to    send
	acks  []sendack // of message k
	other int       // answers that were no success
}

func (o *outbox) number(k int) string { return fmt.Sprintf("%s-%d", o.uid, k) }

// inbox is a device that acknowledges what it gets.
type inbox struct {
	uid    string
	flag   byte
	mu     sync.Mutex
	ids    map[place]int64
	last   map[string]uint32 // of this connection
	wrong  []string
	client *client
}

func newInbox(uid string, flag byte) *inbox {
	return &inbox{uid: uid, flag: flag, ids: map[place]int64{}}
}

func (in *inbox) connect(b *broker, paused bool) error {
	in.mu.Lock()
	in.last = map[string]uint32{}
	in.mu.Unlock()
	c, ack, err := b.login(dialer{uid: in.uid, flag: in.flag, device: fmt.Sprint(in.uid, in.flag), rcvbuf: 16 << 10, onRecv: in.onRecv})
	if err != nil || c == nil {
		return fmt.Errorf("%s cannot log in: %v, reason %d", in.uid, err, ack.reason)
	}
	c.pause(paused)
	in.client = c
	return nil
}

func (in *inbox) onRecv(m *recv) {
	in.mu.Lock()
	defer in.mu.Unlock()
	last, met := in.last[m.channel]
	switch {
	case !met || m.seq == last+1:
	case m.seq <= last && m.dup():
	case m.seq <= last:
		in.wrong = append(in.wrong, fmt.Sprintf("%s: %v came again without DUP behind seq %d", in.uid, m, last))
	default:
		in.wrong = append(in.wrong, fmt.Sprintf("%s: %v behind seq %d", in.uid, m, last))
	}
	in.last[m.channel] = max(last, m.seq)
	at := place{m.channel, m.seq}
	if id, met := in.ids[at]; met && id != m.id {
		in.wrong = append(in.wrong, fmt.Sprintf("%s: %v had the id %d before", in.uid, m, id))
	}
	in.ids[at] = m.id
}

// trial is a broker on a disk that fails, and its clients.
type trial struct {
	t       *testing.T
	b       *broker
	fs      *faultFS
	senders []*outbox
	boxes   []*inbox
	size    int
	r       *rand.Rand
	stop    chan struct{} // nil while nobody sends
	work    sync.WaitGroup
	exits   int
	torn    bool // half of a write may be at the end of the metadata, and a copy of it in quarantine
	// patience is how long a device waits for the next message before it says that no
	// more comes: many times retry.first.
	patience time.Duration
}

const (
	trialBob, trialEar, trialGroup = "bob", "ear", "crowd"
	trialShed, trialKept           = "shed", 50 // a group of which not more is kept
)

func newTrial(t *testing.T, engine string, r *rand.Rand, options ...option) *trial {
	t.Helper()
	x := &trial{t: t, fs: newFaultFS(t), size: 4 << 10, r: r, patience: 20 * time.Second}
	x.b = start(t, append([]option{plain, inDir(filepath.Join(x.fs.dir, "data")), set("wal.engine", engine), smallBut("wal.roll_size", "1MiB", "wal.group_bytes", "256KiB"),
		set("wal.headroom", "1MiB"), set("session.cursor_interval", "100ms"), set("retry.first", "1s")}, options...)...)
	t.Cleanup(x.b.end) // before the file system goes
	x.b.channel(trialGroup, trialBob, trialEar, "s2", "s3")
	x.b.channel(trialShed, trialEar, "s4")
	x.b.post("/channel/keep", object{"channel_id": trialShed, "channel_type": group, "max_messages": trialKept})
	for i, to := range []send{{channel: trialBob, kind: person}, {channel: trialBob, kind: person}, {channel: trialGroup, kind: group}, {channel: trialGroup, kind: group}, {channel: trialShed, kind: group}} {
		x.senders = append(x.senders, &outbox{uid: fmt.Sprint("s", i), to: to})
	}
	x.boxes = []*inbox{newInbox(trialEar, 2), newInbox(trialBob, 2)}
	return x
}

// live connects everybody, and the senders begin. Bob's device reads nothing yet
// if late.
func (x *trial) live(late bool) error {
	x.stop = make(chan struct{})
	for i, in := range x.boxes {
		if err := in.connect(x.b, late && i == 1); err != nil {
			return err
		}
	}
	for _, o := range x.senders {
		c, ack, err := x.b.login(dialer{uid: o.uid, onRecv: func(*recv) {}})
		if err != nil || c == nil {
			return fmt.Errorf("%s cannot log in: %v, reason %d", o.uid, err, ack.reason)
		}
		x.work.Go(func() { x.send(o, c) })
	}
	return nil
}

// send sends until it is told to stop or the connection ends.
func (x *trial) send(o *outbox, c *client) {
	defer c.close()
	payload := make([]byte, x.size)
	r := rand.New(rand.NewPCG(seed, uint64(len(o.acks))))
	for i := range payload {
		payload[i] = byte(r.Uint32())
	}
	for {
		k := len(o.acks)
		binary.BigEndian.PutUint64(payload, uint64(k))
		s := o.to
		s.no = o.number(k)
		if c.write(c.make(nil, s, payload)) != nil {
			return
		}
		c.mu.Lock()
		c.wait(5*never, func() bool { return len(c.acks) > 0 })
		if len(c.acks) == 0 {
			c.mu.Unlock()
			return
		}
		a := c.acks[0]
		c.acks = c.acks[:0]
		c.mu.Unlock()
		if a.reason == reasonSuccess {
			o.acks = append(o.acks, a)
		} else {
			o.other++
		}
		select {
		case <-x.stop:
			return
		case <-time.After(16 * time.Millisecond): // 60 a second
		}
	}
}

// last ends the senders, each when it has its answer or its connection is gone.
func (x *trial) last() {
	if x.stop != nil {
		close(x.stop)
		x.work.Wait()
		x.stop = nil
	}
}

// quiet is last, and everybody hangs up.
func (x *trial) quiet() {
	x.last()
	for _, in := range x.boxes {
		if in.client != nil {
			in.client.pause(false)
			in.client.close()
		}
	}
}

// until waits until ready holds, and brings the broker up again whenever it has
// ended, as a service manager does. It returns false when that is not so for too
// long.
func (x *trial) until(limit time.Duration, ready func() bool) bool {
	for end := time.Now().Add(limit); !ready(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
		select {
		case <-x.b.exited:
			x.exits++
			x.quiet()
			if x.up(func() bool { return ready() || time.Now().After(end) }) {
				if err := x.live(false); err != nil {
					x.t.Logf("after a start in the middle of a fault: %v", err)
				}
			}
		default:
		}
	}
	return true
}

// up starts the broker until it gets ready, and says whether it did before enough
// holds.
func (x *trial) up(enough func() bool) bool {
	for !enough() {
		if err := x.b.launch(); err != nil {
			x.t.Fatal(err)
		}
		for running := true; running; {
			select {
			case <-x.b.ready:
				return true
			case <-x.b.exited:
				x.exits++
				running = false
			case <-time.After(10 * time.Millisecond):
				if enough() {
					return false
				}
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return false
}

// acked counts what was acknowledged. Only for a trial whose senders are quiet.
func (x *trial) acked() (n int) {
	for _, o := range x.senders {
		n += len(o.acks)
	}
	return n
}

// trouble is what /health says beside "ok"; "" if the broker is well or is not
// there.
func (x *trial) trouble() string {
	code, text, err := x.b.call("GET", "/health", nil)
	if err != nil || code == 200 {
		return ""
	}
	return text
}

// diskFault runs one case and returns how many calls it met.
func diskFault(t *testing.T, f fault, r *rand.Rand) int {
	x := newTrial(t, f.engine, r)
	plan := faultPlan{What: &faultCalls{Ops: faultOps[f.op], Path: f.path}, Errno: int(faultErrors[f.fails]), For: int(f.lasts.Milliseconds())}
	plan.Torn = (f.fails == "EIO" || f.fails == "ENOSPC") && r.IntN(2) == 0
	x.torn = plan.Torn
	if f.fails == slowed {
		plan.Delay = slowCall
	}
	if err := x.live(true); err != nil {
		t.Fatal(err)
	}
	checkpoints := func(n int) {
		t.Helper()
		if !x.until(never, func() bool { return strings.Count(x.b.log.String(), "msg=checkpoint ") >= n }) {
			t.Fatalf("no checkpoint %d", n)
		}
	}
	checkpoints(1)
	x.b.running()

	var copied *backupTry
	switch f.phase {
	case "at start":
		time.Sleep(time.Duration(r.IntN(500)) * time.Millisecond)
		x.b.kill()
		x.quiet()
		x.fs.plan(t, plan)
		began := time.Now()
		if x.up(func() bool { return f.lasts == 0 && x.exits > 0 || time.Since(began) > never }); time.Since(began) > never {
			t.Error("it neither gets ready nor ends")
		}
		if f.lasts > 0 || x.alive() {
			if err := x.live(true); err != nil {
				t.Log(err)
			}
		}
	case "steady":
		x.fs.plan(t, plan)
	case "in a checkpoint":
		plan.After = &faultCalls{Ops: []string{"read"}, Path: "/log/"}
		x.fs.plan(t, plan)
	case "in retention": // the second transaction of a checkpoint
		plan.After = &faultCalls{Ops: []string{"fsync"}, Path: "/meta/"}
		x.fs.plan(t, plan)
	case "in a backup":
		plan.After = &faultCalls{Ops: []string{"read"}, Path: "/blocks/"}
		x.fs.plan(t, plan)
		copied = x.backup()
	}
	if !x.until(never, func() bool { return x.fs.state(t).Begun }) {
		t.Fatalf("it does not begin: %+v", x.fs.state(t))
	}
	if late := x.boxes[1].client; late != nil {
		late.pause(false)
	}
	if f.lasts > 0 {
		if !x.until(never, func() bool { return x.fs.state(t).Over }) {
			t.Fatal("it does not end")
		}
	} else {
		x.until(time.Duration(1000+r.IntN(1000))*time.Millisecond, func() bool { return x.exits > 0 })
		if f.fails != slowed && x.fs.state(t).Hits > 0 && !x.until(never/3, func() bool { return x.exits > 0 || x.trouble() != "" }) {
			t.Errorf("the disk fails, %d calls so far, and /health does not say so", x.fs.state(t).Hits)
		}
	}
	hits := x.fs.state(t).Hits
	end := "killed"
	if x.alive() {
		if r.IntN(2) == 0 {
			end = "stopped"
			x.b.signal(syscall.SIGTERM)
			select {
			case <-x.b.exited:
			case <-time.After(never):
				t.Error("it does not stop")
			}
		}
		x.b.end()
	}
	x.quiet()
	x.fs.heal(t)
	if copied != nil {
		copied.judge(x)
	}
	lost, wrong := x.judge()
	if len(lost)+len(wrong) > 0 {
		t.Errorf("%d lost, %d wrong\n%s", len(lost), len(wrong), strings.Join(append(lost, wrong...)[:min(20, len(lost)+len(wrong))], "\n"))
	}
	others := 0
	for _, o := range x.senders {
		others += o.other
	}
	t.Logf("%d calls met, %d exits, then %s; %d acknowledged, %d refused, %d lost, %d wrong", hits, x.exits, end, x.acked(), others, len(lost), len(wrong))
	return hits
}

func (x *trial) alive() bool {
	select {
	case <-x.b.exited:
		return false
	default:
		return true
	}
}

// backupTry is a backup at work.
type backupTry struct {
	file string
	cmd  *exec.Cmd
	done chan error
}

func (x *trial) backup() *backupTry {
	x.t.Helper()
	c := &backupTry{file: filepath.Join(x.t.TempDir(), "box.tar"), done: make(chan error, 1)}
	c.cmd = exec.Command(binPath, "backup", "--http="+x.b.http, c.file)
	if err := c.cmd.Start(); err != nil {
		x.t.Fatal(err)
	}
	go func() { c.done <- c.cmd.Wait() }()
	return c
}

// judge wants a backup that is whole, or none.
func (c *backupTry) judge(x *trial) {
	x.t.Helper()
	select {
	case err := <-c.done:
		if err != nil {
			if exists(c.file) || exists(c.file+".part") {
				x.t.Error("a backup that failed left a file behind")
			}
			return
		}
	case <-time.After(never):
		c.cmd.Process.Kill()
		<-c.done
		x.t.Error("the backup does not end")
		return
	}
	to := filepath.Join(x.t.TempDir(), "restored")
	if _, said, code := gatepost(x.t, "restore", c.file, to); code != 0 {
		x.t.Errorf("the backup said that it is done, and cannot be restored: %s", said)
	} else if said, _, code := gatepost(x.t, "check", to); code != 0 || !strings.Contains(said, "whole") {
		x.t.Errorf("the backup said that it is done, and check says:\n%s", said)
	}
}

// judge starts the broker on the disk that is well again, lets everything be
// delivered, and looks at what is there: on devices that never connected before,
// also after one more start, and with the commands.
func (x *trial) judge() (lost, wrong []string) {
	t := x.t
	t.Helper()
	x.b.start()
	if err := x.live(false); err != nil {
		t.Fatal(err)
	}
	x.last() // each sends one more, or what had no answer before
	for _, o := range x.senders {
		if len(o.acks) == 0 || o.acks[len(o.acks)-1].reason != reasonSuccess {
			t.Fatalf("%s: nothing was acknowledged on a disk that is well", o.uid)
		}
	}
	lost = x.delivered()
	for _, in := range x.boxes {
		in.mu.Lock()
		wrong = append(wrong, in.wrong...)
		in.mu.Unlock()
	}
	x.quiet()
	for flag, when := range []string{"after the fault", "after one more start"} {
		if flag > 0 {
			x.b.kill()
			x.b.start()
		}
		l, w := x.audit(byte(flag), when)
		lost, wrong = append(lost, l...), append(wrong, w...)
	}
	for _, name := range []string{"gatepost_wal_gaps", "gatepost_store_damage", "gatepost_store_bad_blocks_total"} {
		if v := x.b.metric(name); v != 0 {
			wrong = append(wrong, fmt.Sprintf("%s is %v", name, v))
		}
	}
	x.b.stop()
	for line := range strings.Lines(x.b.log.String()) {
		if containsAny(line, "log damaged", "store damaged", "messages lost", "block is damaged") {
			wrong = append(wrong, "nothing is damaged, but: "+strings.TrimSpace(line))
		}
	}
	if said, more, code := gatepost(t, "check", x.b.dir); code != 0 || !strings.Contains(said, "whole") {
		wrong = append(wrong, fmt.Sprintf("check, exit code %d: %s%s", code, said, more))
	}
	if q, _ := os.ReadDir(filepath.Join(x.b.dir, "quarantine")); len(q) > 0 && !x.torn {
		wrong = append(wrong, fmt.Sprintf("%d things in quarantine", len(q)))
	}
	return lost, wrong
}

// delivered waits until the devices that were there have everything that was
// acknowledged, and returns what does not come. Nobody sends meanwhile.
func (x *trial) delivered() (lost []string) {
	missing := func() (list []string) {
		for _, in := range x.boxes {
			in.mu.Lock()
			for _, o := range x.senders {
				if o.to.channel == trialShed || o.to.channel == trialBob && in.uid != trialBob {
					continue
				}
				for k, a := range o.acks {
					if id, met := in.ids[place{o.seen(), a.seq}]; !met || id != a.id {
						list = append(list, fmt.Sprintf("%s did not get %s, %+v (%d)", in.uid, o.number(k), a, id))
					}
				}
			}
			in.mu.Unlock()
		}
		return list
	}
	for last, at := -1, time.Now(); ; time.Sleep(20 * time.Millisecond) {
		n := len(missing())
		if n == 0 {
			return nil
		}
		if n != last {
			last, at = n, time.Now()
		}
		if time.Since(at) > x.patience {
			return missing()
		}
	}
}

// seen is the channel as those who receive see it.
func (o *outbox) seen() string {
	if o.to.kind == person {
		return o.uid
	}
	return o.to.channel
}

// audit reads everything on two devices that never connected before.
func (x *trial) audit(flag byte, when string) (lost, wrong []string) {
	x.t.Helper()
	for _, uid := range []string{trialBob, trialEar} {
		l := newLedger()
		c := x.b.must(x.t, dialer{uid: uid, flag: flag, device: fmt.Sprint("audit", flag), onRecv: func(m *recv) {
			m.payload = slices.Clone(m.payload[:min(8, len(m.payload))]) // there may be many
			l.onRecv(m)
		}})
		want := map[string]*outbox{}
		for _, o := range x.senders {
			if (o.to.channel == trialBob) == (uid == trialBob) || o.to.channel == trialGroup && uid == trialBob {
				want[o.uid] = o
			}
		}
		ready := func() bool { // the last of each sender is there
			l.mu.Lock()
			defer l.mu.Unlock()
			left := len(want)
			for _, m := range l.got {
				if o := want[m.from]; o != nil && m.no == o.number(len(o.acks)-1) {
					left--
				}
			}
			return left <= 0
		}
		for last, at := -1, time.Now(); !ready(); time.Sleep(10 * time.Millisecond) {
			l.mu.Lock()
			n := len(l.got)
			l.mu.Unlock()
			if n != last {
				last, at = n, time.Now()
			}
			if time.Since(at) > x.patience {
				lost = append(lost, fmt.Sprintf("%s: a new device of %s gets %d messages and then no more", when, uid, n))
				break
			}
		}
		c.close()
		l.mu.Lock()
		got := map[place]*recv{}
		next, last := map[string]uint32{}, map[string]int{}
		for _, m := range l.got {
			if m.dup() && got[place{m.channel, m.seq}] != nil {
				continue
			}
			shed := m.channel == trialShed // what is not kept any more may go meanwhile
			if n := max(next[m.channel], 1); m.seq < n || m.seq > n && !shed {
				wrong = append(wrong, fmt.Sprintf("%s: %v, want seq %d", when, m, n))
			}
			next[m.channel] = m.seq + 1
			k := int(binary.BigEndian.Uint64(append(slices.Clone(m.payload), make([]byte, 8)...)))
			if before, met := last[m.from]; met && (k <= before || k > before+1 && !shed) {
				wrong = append(wrong, fmt.Sprintf("%s: %v is message %d of its sender, behind %d", when, m, k, before))
			}
			last[m.from] = k
			got[place{m.channel, m.seq}] = m
		}
		l.mu.Unlock()
		for _, o := range want {
			first := 0
			if o.to.channel == trialShed {
				first = max(0, len(o.acks)-trialKept)
			}
			for k, a := range o.acks[first:] {
				k += first
				if m := got[place{o.seen(), a.seq}]; m == nil || m.id != a.id || m.no != o.number(k) {
					lost = append(lost, fmt.Sprintf("%s: %s was acknowledged with %+v, there is %v", when, o.number(k), a, m))
				}
			}
		}
	}
	return lost, wrong
}

// A device is a thousand messages behind and reads on while the disk cannot be
// read for a while. It stays connected, acknowledges what is newer, and in the end
// it has everything, in order.
func TestBehindWhileReadsFail(t *testing.T) {
	for _, f := range []fault{{op: "read", fails: "EIO"}, {op: "open", fails: "EMFILE"}, {op: "read", fails: "EIO", path: "/blocks/"}, {op: "read", fails: "ENOMEM", path: "/log/"}}[:pick(2, 4)] {
		f.lasts, f.phase, f.engine = 2*time.Second, "with a device behind", engines()[0]
		t.Run(f.String(), func(t *testing.T) {
			if why := pendingFault(f); why != "" && os.Getenv("GATEPOST_FAULT") == "" {
				t.Skip("pending: " + why)
			}
			const behind = 1000
			x := newTrial(t, f.engine, random(t))
			if err := x.live(true); err != nil {
				t.Fatal(err)
			}
			x.b.until("gatepost_messages_total", behind*5/4) // a fifth is for others
			bob := x.boxes[1]
			x.fs.plan(t, faultPlan{What: &faultCalls{Ops: faultOps[f.op], Path: f.path}, Errno: int(faultErrors[f.fails]), For: int(f.lasts.Milliseconds())})
			bob.client.pause(false)
			if !x.until(never, func() bool { return x.fs.state(t).Over }) {
				t.Fatal("it does not end")
			}
			if hits := x.fs.heal(t).Hits; hits == 0 || x.exits > 0 {
				t.Errorf("%d reads failed, the broker ended %d times", hits, x.exits)
			}
			x.last()
			lost := x.delivered()
			if err := bob.client.alive(); err != nil {
				t.Errorf("bob's connection ended: %v", err)
			}
			x.quiet()
			x.b.kill()
			more, wrong := x.judge()
			if lost = append(lost, more...); len(lost)+len(wrong) > 0 {
				t.Errorf("%d lost, %d wrong\n%s", len(lost), len(wrong), strings.Join(append(lost, wrong...)[:min(20, len(lost)+len(wrong))], "\n"))
			}
			t.Logf("%d acknowledged", x.acked())
		})
	}
}

// The control: a disk that says that it wrote and did not. The same judgement must
// find what is lost.
func TestDiskFaultsControl(t *testing.T) {
	x := newTrial(t, "recycled", random(t))
	if err := x.live(false); err != nil {
		t.Fatal(err)
	}
	x.fs.plan(t, faultPlan{What: &faultCalls{Ops: []string{"write"}, Path: "/log/"}, Lie: true})
	if !x.until(never, func() bool { return x.fs.state(t).Hits > 20 }) {
		t.Fatal("nothing is written")
	}
	x.b.kill()
	x.quiet()
	x.fs.heal(t)
	x.patience = 2 * time.Second
	lost, wrong := x.judge()
	t.Logf("%d acknowledged, %d lost, %d wrong", x.acked(), len(lost), len(wrong))
	if len(lost) == 0 {
		t.Error("the rig finds no loss where writes were lost: it proves nothing")
	}
}
