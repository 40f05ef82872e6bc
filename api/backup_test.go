package api

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// served runs a server whose backup is n bytes in pieces as an archive has them, and
// returns its address and where the outcome of each backup comes.
func served(t *testing.T, n int64, p pace) (addr string, outcomes <-chan error) {
	t.Helper()
	s, _ := newServer(t)
	s.pace = p
	done := make(chan error, 2*maxBackups)
	s.o.Backup = func(w io.Writer) (err error) {
		for piece, left := make([]byte, 32<<10), n; left > 0 && err == nil; left -= int64(len(piece)) {
			_, err = w.Write(piece)
		}
		done <- err
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ln) }()
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), <-ended); err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String(), done
}

// ends waits for the outcome of a backup.
func ends(t *testing.T, outcomes <-chan error) error {
	t.Helper()
	select {
	case err := <-outcomes:
		return err
	case <-time.After(time.Minute):
		t.Fatal("the backup goes on, and the log is kept for it")
		return nil
	}
}

// begin asks for a backup and reads nothing beyond the header.
func begin(t *testing.T, addr string) *http.Response {
	t.Helper()
	res, err := http.Post("http://"+addr+"/backup", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res
}

// A reader that stands still, or nearly so, gets no whole backup and keeps the log no
// longer than a window.
func TestBackupOfAReaderThatIsTooSlow(t *testing.T) {
	addr, outcomes := served(t, 1<<30, pace{window: 300 * time.Millisecond, bytes: 64 << 20, age: time.Hour})
	for name, each := range map[string]int{"it reads nothing": 0, "it reads a little all the time": 32 << 10} {
		res := begin(t, addr)
		stop := make(chan struct{})
		read := make(chan error, 1)
		go func() {
			for each > 0 {
				select {
				case <-stop:
					_, err := io.Copy(io.Discard, res.Body)
					read <- err
					return
				case <-time.After(10 * time.Millisecond):
					if _, err := io.CopyN(io.Discard, res.Body, int64(each)); err != nil {
						read <- err
						return
					}
				}
			}
			<-stop
			_, err := io.Copy(io.Discard, res.Body)
			read <- err
		}()
		err := ends(t, outcomes)
		close(stop)
		if err == nil || !strings.Contains(err.Error(), "broken off") || !strings.Contains(err.Error(), "should take") {
			t.Errorf("%s: the broker says %v", name, err)
		}
		if err := <-read; err == nil {
			t.Errorf("%s: the reader takes what came for a whole backup", name)
		}
	}
}

// A backup ends with its largest age, however fast it is read.
func TestBackupThatTakesTooLong(t *testing.T) {
	addr, outcomes := served(t, 1<<40, pace{window: time.Minute, bytes: 1, age: 200 * time.Millisecond})
	res := begin(t, addr)
	if _, err := io.Copy(io.Discard, res.Body); err == nil {
		t.Error("the reader takes what came for a whole backup")
	}
	if err := ends(t, outcomes); err == nil || !strings.Contains(err.Error(), "no backup may take longer") {
		t.Errorf("the broker says %v", err)
	}
}

// lingering is a response whose reader takes each piece in half a window.
type lingering struct {
	http.ResponseWriter
	p *patient
}

func (w *lingering) SetWriteDeadline(time.Time) error { return nil }
func (w *lingering) Write(b []byte) (int, error) {
	w.p.waited += w.p.pace.window / 2
	return len(b), nil
}

// Each window counts for itself: who keeps the pace gets everything, and who falls
// behind later is found out then.
func TestPaceOfEachWindow(t *testing.T) {
	w := new(lingering)
	w.p = &patient{ResponseWriter: w, control: http.NewResponseController(w), pace: pace{window: time.Hour, bytes: 8, age: 24 * time.Hour}, began: time.Now()}
	for i := range 100 {
		if _, err := w.p.Write(make([]byte, 4)); err != nil {
			t.Fatalf("piece %d of a reader that keeps the pace: %v", i, err)
		}
	}
	_, err := w.p.Write(make([]byte, 4))
	if _, late := w.p.Write(make([]byte, 3)); err != nil || late == nil {
		t.Errorf("4 bytes in half a window: %v, 7 in one: %v", err, late)
	}
	if w.p.sent != 407 {
		t.Errorf("%d bytes were counted, want 407", w.p.sent)
	}
}

// The third backup is told at once that two are under way, and may begin when one
// of them is over.
func TestTwoBackupsAtATime(t *testing.T) {
	addr, outcomes := served(t, 256<<20, backupPace())
	first, second := begin(t, addr), begin(t, addr)
	third := begin(t, addr)
	text, _ := io.ReadAll(third.Body)
	if third.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(text), "2 are under way") || third.Header.Get("Retry-After") == "" {
		t.Errorf("the third: %d %s", third.StatusCode, text)
	}
	if _, err := io.Copy(io.Discard, first.Body); err != nil {
		t.Error(err)
	}
	if err := ends(t, outcomes); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if again := begin(t, addr); again.StatusCode == http.StatusOK {
			break
		} else if time.Now().After(deadline) {
			t.Fatal("no place becomes free")
		}
	}
	second.Body.Close()
}
