package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// many calls f n times, workers at a time.
func many(n, workers int, f func(i int)) {
	var next atomic.Int64
	var done sync.WaitGroup
	for range workers {
		done.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	done.Wait()
}

// slow is a connection that writes a byte now and then, until the other side has
// enough of it or it is over.
func slow(b *broker, first, drip string, over func() bool) error {
	c, err := dialTCP(b.http)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := io.WriteString(c, first); err != nil {
		return nil // made room already
	}
	for at := 0; !over(); at++ {
		if _, err := io.WriteString(c, drip[at%len(drip):at%len(drip)+1]); err != nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil
}

// ended reports whether an error says that the other side ended the connection.
func ended(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// Without the token of the HTTP API nobody gets in, and nobody who tries keeps
// those out who have it: neither by the number of requests and connections, nor by
// their size, nor by taking long.
func TestHostileHTTP(t *testing.T) {
	const token = "a-token-of-some-length"
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := start(t, plain) // for its description
	c := open.contract(t)
	open.end()
	b := start(t, plain, set("api.token_file", path), set("log.level", "error"))

	// request makes one on a connection of its own, or with a client.
	request := func(client *http.Client, method, target, token, body string) (int, string, error) {
		r, err := http.NewRequest(method, "http://"+b.http+target, strings.NewReader(body))
		if err != nil {
			return 0, "", err
		}
		if token != "" {
			r.Header.Set("token", token)
		}
		if client == nil {
			client = &http.Client{Timeout: never, Transport: &http.Transport{DisableKeepAlives: true}}
		}
		resp, err := client.Do(r)
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text), err
	}
	if code, text, err := request(nil, "POST", "/channel", token, `{"channel_id":"g","channel_type":2,"subscribers":["server"]}`); code != 200 {
		t.Fatalf("%d %s %v", code, text, err)
	}

	// The good ones: two who talk, and the application's server, on a connection
	// that it keeps and on one for each request.
	stop := make(chan struct{})
	var good sync.WaitGroup
	var sent [2]atomic.Int64
	var again atomic.Int64
	for i, client := range []*http.Client{{Timeout: never, Transport: &http.Transport{}}, nil} {
		good.Go(func() {
			for ; ; sent[i].Add(1) {
				select {
				case <-stop:
					return
				default:
				}
				body := fmt.Sprintf(`{"channel_id":"g","channel_type":2,"client_msg_no":"%d-%d","payload":"eA=="}`, i, sent[i].Load())
				code, text, err := request(client, "POST", "/message/send", token, body)
				for range 3 { // a new connection may be ended on a box that is slow to read from it; asking again does no harm
					if client == nil && ended(err) {
						again.Add(1)
						code, text, err = request(client, "POST", "/message/send", token, body)
					}
				}
				if code != 200 || err != nil {
					t.Errorf("the application's server %d was disturbed: message %d: %d %s %v", i, sent[i].Load(), code, text, err)
					return
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	x, y := b.must(t, dialer{uid: "alice"}), b.must(t, dialer{uid: "bob"})
	good.Go(func() {
		n, err := talk(x, y, stop)
		if err != nil {
			t.Errorf("messages were disturbed: %v", err)
		}
		t.Logf("%d messages went on", n)
	})
	before := b.status("VmHWM")

	paths := slices.Sorted(maps.Keys(c.Paths))
	many(len(paths), 16, func(i int) {
		for method, o := range c.Paths[paths[i]] {
			target, body := o.example(paths[i])
			want := 401
			if o.Security != nil {
				want = 200
			}
			for _, tried := range []string{"", token[:len(token)-1], token + "x", strings.ToUpper(token)} {
				code, text, err := request(nil, strings.ToUpper(method), target, tried, body)
				var said struct {
					Status any
					Msg    string
				}
				if jerr := json.Unmarshal([]byte(text), &said); code != want || err != nil || jerr != nil || want == 401 && (said.Status != 401.0 || said.Msg == "") {
					t.Errorf("%s %s with token %q: %d %s %v, want %d", method, target, tried, code, text, err, want)
				}
			}
		}
	})
	if free := slices.Collect(func(yield func(string) bool) {
		for path, methods := range c.Paths {
			for _, o := range methods {
				if o.Security != nil && !yield(path) {
					return
				}
			}
		}
	}); !slices.Equal(free, []string{"/health"}) {
		t.Errorf("without a token: %v", free)
	}

	phase := func(name string, n, workers int, attack func(i int) error) {
		t.Helper()
		began := time.Now()
		var failed atomic.Int64
		var first atomic.Value
		many(n, workers, func(i int) {
			if err := attack(i); err != nil && failed.Add(1) == 1 {
				first.Store(err)
			}
		})
		b.running()
		t.Logf("%s: %d in %v, peak RSS %d MiB", name, n, time.Since(began).Round(time.Millisecond), b.status("VmHWM")>>20)
		if n := failed.Load(); n > 0 {
			t.Errorf("%s: %d failed, the first one: %v", name, n, first.Load())
		}
	}
	phase("wrong tokens", 400, 60, func(i int) error {
		code, text, err := request(nil, "GET", "/varz", fmt.Sprintf("guess-number-%08d", i), "")
		if code == 401 || ended(err) {
			return nil
		}
		return fmt.Errorf("%d %s %v", code, text, err)
	})
	// The slow ones go on until the application's server has sent on, both ways.
	slowly := func(name, first, drip string) {
		t.Helper()
		goal := [2]int64{sent[0].Load() + 100, sent[1].Load() + 5}
		end := time.Now().Add(never)
		phase(name, 150, 150, func(int) error {
			over := func() bool {
				return sent[0].Load() >= goal[0] && sent[1].Load() >= goal[1] || time.Now().After(end)
			}
			for !over() {
				if err := slow(b, first, drip, over); err != nil {
					return err
				}
			}
			return nil
		})
		for i := range sent {
			if n := sent[i].Load(); n < goal[i] {
				t.Errorf("%s: the application's server %d did not go on: %d of %d messages", name, i, n, goal[i])
			}
		}
	}
	slowly("slow headers", "GET /varz HTTP/1.1\r\nHost: x\r\nX: ", "a")
	slowly("slow bodies", "POST /message/send HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{", " ")
	slowly("slow bodies in chunks", "POST /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n")
	phase("nothing said", 2000, 100, func(int) error {
		c, err := dialTCP(b.http)
		if err == nil {
			c.Close()
		}
		return err
	})
	large := strings.Repeat("x", 1<<20)
	phase("header floods", 200, 50, func(i int) error {
		c, err := dialTCP(b.http)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(never))
		first := "GET /health HTTP/1.1\r\nHost: x\r\n"
		if i%2 == 0 {
			_, err = io.WriteString(c, first+"X: "+large+"\r\n\r\n")
		} else {
			_, err = io.WriteString(c, first+strings.Repeat("X: y\r\n", len(large)/6)+"\r\n")
		}
		if err == nil || ended(err) {
			resp, rerr := http.ReadResponse(bufio.NewReader(c), nil)
			if rerr == nil {
				resp.Body.Close()
				if resp.StatusCode == 431 {
					return nil
				}
				return fmt.Errorf("status %d", resp.StatusCode)
			}
			err = rerr
		}
		if ended(err) {
			return nil
		}
		return err
	})
	huge := `{"channel_id":"g","channel_type":2,"subscribers":["` + strings.Repeat(large, 4) + `"]}`
	for _, with := range []string{"", token} {
		want := map[string]int{"": 401, token: 400}[with]
		phase(fmt.Sprintf("bodies of 4 MiB, with the token: %t", with != ""), 60, 20, func(int) error {
			code, text, err := request(nil, "POST", "/channel", with, huge)
			if code == want || ended(err) {
				return nil
			}
			return fmt.Errorf("%d %s %v", code, text, err)
		})
	}
	close(stop)
	good.Wait()
	after := b.status("VmHWM")
	t.Logf("the application's server sent %d messages on one connection, %d on one each, of which %d were made again; peak RSS %d MiB before, %d MiB after", sent[0].Load(), sent[1].Load(), again.Load(), before>>20, after>>20)
	if after > before+64<<20 {
		t.Errorf("the peak of RSS grew from %d to %d MiB", before>>20, after>>20)
	}
	if said := b.log.String(); strings.Contains(said, "panic") || strings.Contains(said, "goroutine ") || strings.Contains(said, token) {
		t.Errorf("a panic or the token in the output:\n%s", tail(said, 40))
	}
	_, text, err := request(nil, "GET", "/varz", token, "")
	var n struct {
		Unauthorized int64 `json:"gatepost_http_unauthorized_total"`
		Displaced    int64 `json:"gatepost_http_displaced_total"`
	}
	if jerr := json.Unmarshal([]byte(text), &n); err != nil || jerr != nil || n.Unauthorized < 500 || n.Displaced == 0 {
		t.Errorf("/varz counts %+v: %v %v", n, err, jerr)
	}
	t.Logf("%d requests were not let in, %d connections made room", n.Unauthorized, n.Displaced)
}
