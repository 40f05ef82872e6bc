package netio

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const short = 60 * time.Millisecond

func TestTimeouts(t *testing.T) {
	half := message(100, 1)[:50]
	for name, c := range map[string]struct {
		o    Options
		open func(*Conn) // nil: established
		do   func(c *net.TCPConn)
		want error
	}{
		"nothing comes after the login":  {o: Options{IdleTimeout: short}, want: ErrIdle},
		"no login":                       {o: Options{LoginTimeout: short}, open: func(*Conn) {}, want: ErrLogin},
		"a frame stays incomplete":       {o: Options{PartialTimeout: short}, do: func(c *net.TCPConn) { c.Write(half) }, want: ErrPartial},
		"no PROXY header":                {o: Options{LoginTimeout: short, ProxyProtocol: true}, do: func(c *net.TCPConn) { c.Write([]byte("PROXY ")) }},
		"half closed and reads nothing":  {o: Options{IdleTimeout: short}, do: func(c *net.TCPConn) { c.CloseWrite() }, want: io.EOF},
		"pinged before, silent after it": {o: Options{IdleTimeout: short}, do: func(c *net.TCPConn) { c.Write(message(1, 1)) }, want: ErrIdle},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate()
			g.open = c.open
			s := serve(t, c.o, g)
			conn := dial(t, s.TCPAddr())
			if c.do != nil {
				c.do(conn)
			}
			eventually(t, "all closed", func() bool {
				return s.Loops()[0].Stats().Accepted.Load() == 1 && s.Conns() == 0
			})
			if c.want != nil && g.closedWith(c.want) != 1 {
				t.Fatalf("closed with %v, want %v", g.reasons, c.want)
			}
		})
	}
}

func TestTimeoutsBeforeTheHandlerSeesAnything(t *testing.T) {
	g := newGate()
	s := serve(t, Options{LoginTimeout: short}, g)
	dial(t, s.WSAddr()).Write([]byte("GET / HTTP/1.1\r\n"))
	eventually(t, "closed for want of a login", func() bool { return s.Loops()[0].Stats().ClosedLogin.Load() == 1 })
	if opened, closed := g.count(); opened+closed != 0 {
		t.Fatalf("the handler saw %d opened, %d closed", opened, closed)
	}
}

func TestActiveConnectionsOutliveTheTimeouts(t *testing.T) {
	g := newGate()
	s := serve(t, Options{IdleTimeout: 20 * short, LoginTimeout: short, PartialTimeout: 20 * short}, g)
	c, w := dial(t, s.TCPAddr()), dialWS(t, s)
	for end := time.Now().Add(5 * short); time.Now().Before(end); time.Sleep(short / 6) {
		for _, c := range []stream{c, w} {
			c.Write(message(3, 1))
			if err := expect(c, message(3, 1)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, n := g.count(); n != 0 {
		t.Fatalf("%d closed", n)
	}
}

func TestAPausedConnectionIsNotIdle(t *testing.T) {
	g := newGate()
	var resume atomic.Bool
	g.read = func(c *Conn) error {
		if !resume.Load() {
			c.PauseRead()
			return nil
		}
		return echo(c)
	}
	g.round = func(time.Time) time.Duration {
		if resume.Load() {
			for id := range g.live {
				if c := g.loop.Lookup(id); c != nil {
					c.ResumeRead()
				}
			}
		}
		return -1
	}
	s := serve(t, Options{IdleTimeout: short, PartialTimeout: short}, g)
	c := dial(t, s.TCPAddr())
	c.Write(message(3, 1))
	time.Sleep(4 * short)
	resume.Store(true)
	s.Loops()[0].Wake()
	if err := expect(c, message(3, 1)); err != nil {
		t.Fatal(err)
	}
}

// TestAUsedUpPoolDelaysAndTheOldestIncompleteFrameGoes: half frames take all
// rings. Whole frames of others are served on, further half frames wait in the
// kernel, and the oldest ones are closed after the deadline, so that those
// that waited are served.
func TestAUsedUpPoolDelaysAndTheOldestIncompleteFrameGoes(t *testing.T) {
	everywhere(t, func(t *testing.T, dialIt func(testing.TB, *Server) stream) {
		g := newGate()
		s := serve(t, Options{PoolBytes: minPool, PartialTimeout: 2 * time.Second}, g)
		good := dialIt(t, s)
		st := s.Loops()[0].Stats()
		half := message(100, 1)[:50]
		var slow []stream
		for range 48 { // three quarters of 64 rings
			c := dialIt(t, s)
			c.Write(half)
			slow = append(slow, c)
		}
		eventually(t, "input rings are used up", func() bool {
			s.Loops()[0].Wake()
			return st.RingsLent.Load() >= 48
		})
		if tcp, ok := good.(*net.TCPConn); ok { // whole frames pass without a ring
			for i := range uint64(20) {
				tcp.Write(message(1000, i))
				if err := expect(tcp, message(1000, i)); err != nil {
					t.Fatal(err)
				}
			}
		}
		late := dialIt(t, s)
		late.Write(half)
		eventually(t, "the late one waits", func() bool { return st.Starved.Load() > 0 })
		stop := make(chan struct{})
		defer close(stop)
		go func() { // a drip of bytes does not make a frame younger
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(100 * time.Millisecond):
					if i < 40 {
						slow[0].Write([]byte{0})
					}
				}
			}
		}()
		eventually(t, "incomplete ones are closed", func() bool { return g.closedWith(ErrPartial) > 0 })
		late.Write(message(100, 1)[50:])
		if err := expect(late, message(100, 1)); err != nil {
			t.Fatal(err)
		}
		good.Write(message(10, 1))
		if err := expect(good, message(10, 1)); err != nil {
			t.Fatal(err)
		}
	})
}

func TestMaxConnsRefusesTheNext(t *testing.T) {
	s := serve(t, Options{MaxConns: 3}, newGate())
	var all []*net.TCPConn
	for range 3 {
		all = append(all, dial(t, s.TCPAddr()))
	}
	eventually(t, "three are open", func() bool { return s.Conns() == 3 })
	if n, err := dial(t, s.TCPAddr()).Read(make([]byte, 1)); n != 0 || err == nil {
		t.Fatalf("the fourth: %d, %v", n, err)
	}
	all[0].Close()
	eventually(t, "one is gone", func() bool { return s.Conns() == 2 })
	c := dial(t, s.TCPAddr())
	c.Write(message(1, 1))
	if err := expect(c, message(1, 1)); err != nil {
		t.Fatal(err)
	}
}

// TestDescriptorsRunOut runs a server in a child process that may open few
// descriptors: more clients come than fit.
func TestDescriptorsRunOut(t *testing.T) {
	if os.Getenv("NETIO_CHILD") != "" {
		t.Skip("is the child")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildServesWithFewDescriptors$", "-test.v")
	cmd.Env = append(os.Environ(), "NETIO_CHILD=1")
	in, _ := cmd.StdinPipe()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	start(t, cmd)
	defer func() {
		in.Close()
		rest, _ := io.ReadAll(out)
		if err := cmd.Wait(); err != nil {
			t.Errorf("child: %v\n%s", err, rest)
		}
	}()
	var address string
	for address == "" {
		var word string
		if _, err := fmt.Fscan(out, &word); err != nil {
			t.Fatal(err)
		}
		if a, ok := strings.CutPrefix(word, "address="); ok {
			address = a
		}
	}
	at, _ := net.ResolveTCPAddr("tcp", address)
	var all []*net.TCPConn
	for range 150 { // 104 descriptors
		all = append(all, dial(t, at))
	}
	talk := func(c *net.TCPConn) bool {
		c.SetDeadline(time.Now().Add(20 * time.Second))
		c.Write(message(8, 3))
		return expect(c, message(8, 3)) == nil
	}
	for round := range 3 {
		for i, c := range all[:60] {
			if !talk(c) {
				t.Fatalf("round %d: established connection %d is not served", round, i)
			}
		}
	}
	cpu := func() time.Duration { // of the child, user and system
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')'):]))
		var user, system int
		fmt.Sscan(f[12], &user)
		fmt.Sscan(f[13], &system)
		return time.Duration(user+system) * 10 * time.Millisecond
	}
	before := cpu()
	time.Sleep(time.Second)
	if used := cpu() - before; used > 500*time.Millisecond { // spinning would be a whole second
		t.Errorf("the server used %v of CPU in one second of waiting for descriptors", used)
	} else {
		t.Logf("CPU while descriptors are out: %v in 1 s", used)
	}
	for _, c := range all[:60] {
		c.Close()
	}
	for i, c := range all[60:] {
		if !talk(c) {
			t.Fatalf("connection %d is not served after descriptors came back", 60+i)
		}
	}
}

// start starts the test binary again, which an emulator may not be able to.
func start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); errors.Is(err, unix.ENOEXEC) {
		t.Skip("cannot start a child: ", err)
	} else if err != nil {
		t.Fatal(err)
	}
}

func TestChildServesWithFewDescriptors(t *testing.T) {
	if os.Getenv("NETIO_CHILD") == "" {
		t.Skip("runs as a child of TestDescriptorsRunOut")
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 104, Max: 104}); err != nil {
		t.Fatal(err)
	}
	g := newGate()
	s := serve(t, Options{WaitYield: true, LoginTimeout: -1}, g)
	fmt.Printf("\naddress=%s\n", s.TCPAddr())
	io.Copy(io.Discard, os.Stdin)
	if n := s.Loops()[0].Stats().AcceptPauses.Load(); n == 0 {
		t.Error("descriptors never ran out")
	}
}

func TestAnIdleConnectionIsSmall(t *testing.T) {
	size := unsafe.Sizeof(Conn{})
	ws := unsafe.Sizeof(webSocket{})
	t.Logf("a connection: %d bytes, a WebSocket's besides: %d", size, ws)
	if size+ws > 250 {
		t.Errorf("an idle WebSocket connection takes %d bytes, at most 250", size+ws)
	}
}

// TestTenThousandIdleConnections measures the memory of a server in a child
// process. Each connection sends a frame first.
func TestTenThousandIdleConnections(t *testing.T) {
	if testing.Short() || os.Getenv("NETIO_CHILD") != "" {
		t.Skip("opens many descriptors")
	}
	conns := 10_000
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); uint64(lim.Cur) < uint64(conns+100) {
		t.Skipf("needs %d descriptors, the limit is %d", conns+100, lim.Cur)
	}
	for _, kind := range []string{"tcp", "websocket"} {
		t.Run(kind, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestChildHoldsIdleConnections$", "-test.v")
			cmd.Env = append(os.Environ(), "NETIO_CHILD="+kind)
			in, _ := cmd.StdinPipe()
			out, _ := cmd.StdoutPipe()
			start(t, cmd)
			defer func() {
				in.Close()
				io.Copy(io.Discard, out)
				cmd.Wait()
			}()
			port := int(answer(t, out, "port="))
			send := message(20, 1)
			if kind == "websocket" {
				send = append([]byte(upgradeRequest), frame(0x80|opBinary, send)...)
			}
			var fds []int
			defer func() {
				for _, fd := range fds {
					unix.Close(fd)
				}
			}()
			connect := func(n int) (heap, rss float64) {
				for range n {
					fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
					if err != nil {
						t.Fatal(err)
					}
					fds = append(fds, fd)
					if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
						t.Fatal(err)
					}
					unix.Write(fd, send)
				}
				fmt.Fprintln(in, len(fds))
				return answer(t, out, "heap="), answer(t, out, "rss=")
			}
			heap0, rss0 := connect(300) // warm
			heap1, rss1 := connect(conns - 300)
			more := float64(conns - 300)
			heap, rss := (heap1-heap0)/more, (rss1-rss0)/more
			t.Logf("%d idle connections: %.0f bytes of heap and %.0f bytes of RSS each; the process has %.1f MB", conns, heap, rss, rss1/1e6)
			if heap > 250 || rss > 512 && !raceDetector { // which keeps books of its own
				t.Errorf("an idle connection takes %.0f bytes of heap and %.0f of RSS, at most 250 and 512", heap, rss)
			}
		})
	}
}

// answer reads words of the child until one begins with key.
func answer(t *testing.T, out io.Reader, key string) (v float64) {
	t.Helper()
	for {
		var word string
		if _, err := fmt.Fscan(out, &word); err != nil {
			t.Fatalf("child says no %s: %v", key, err)
		}
		if s, ok := strings.CutPrefix(word, key); ok {
			fmt.Sscan(s, &v)
			return v
		}
	}
}

func TestChildHoldsIdleConnections(t *testing.T) {
	kind := os.Getenv("NETIO_CHILD")
	if kind == "" {
		t.Skip("runs as a child of TestTenThousandIdleConnections")
	}
	h := new(quiet)
	s, err := New(Options{LoginTimeout: -1})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen([]string{"127.0.0.1:0"}, []string{"127.0.0.1:0"}); err != nil {
		t.Fatal(err)
	}
	go s.Loops()[0].Run(h)
	at := s.TCPAddr().(*net.TCPAddr)
	if kind == "websocket" {
		at = s.WSAddr().(*net.TCPAddr)
	}
	fmt.Printf("\nport=%d\n", at.Port)
	for {
		var n int64
		if _, err := fmt.Scan(&n); err != nil {
			break
		}
		st := s.Loops()[0].Stats()
		eventually(t, "all frames arrived and all rings are back", func() bool {
			s.Loops()[0].Wake()
			return h.frames.Load() == n && st.RingsLent.Load() == 0
		})
		heap, rss := memory(t)
		fmt.Printf("\nheap=%f\nrss=%f\n", heap, rss)
	}
	s.Close()
}

// quiet takes frames and answers nothing, without memory of its own.
type quiet struct{ frames atomic.Int64 }

func (q *quiet) OnOpen(c *Conn) { c.SetEstablished() }
func (q *quiet) OnRead(c *Conn) error {
	if len(c.Peek()) >= 24 {
		c.Discard(24)
		q.frames.Add(1)
	}
	return nil
}
func (q *quiet) OnWritable(*Conn)                {}
func (q *quiet) OnBreach(*Conn, error)           {}
func (q *quiet) OnClose(*Conn, error)            {}
func (q *quiet) OnRound(time.Time) time.Duration { return -1 }

// memory returns the live heap and the process's resident bytes.
func memory(t *testing.T) (heap, rss float64) {
	t.Helper()
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	var size, resident float64
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip(err)
	}
	fmt.Sscan(string(b), &size, &resident)
	return float64(m.HeapAlloc), resident * float64(os.Getpagesize())
}
