package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// past is a channel of a broker whose answers to /history are computed.
type past struct {
	first, last uint64
	damaged     map[uint64]bool
	page        int // messages of an answer
}

func (p *past) answer(from uint64) historyPage {
	h := historyPage{First: p.first, Last: p.last}
	seq := max(from, p.first)
	for ; seq <= p.last && len(h.Messages)+h.Lost < p.page; seq++ {
		if p.damaged[seq] {
			h.Lost++
			continue
		}
		h.Messages = append(h.Messages, message{Seq: seq, From: "a", Payload: []byte(fmt.Sprint("m", seq))})
	}
	if seq <= p.last {
		h.Next = seq
	}
	return h
}

// seqs are the sequences that were printed with --json.
func seqs(t *testing.T, out string) (all []string) {
	t.Helper()
	for line := range strings.Lines(out) {
		var m message
		if err := json.Unmarshal([]byte(line), &m); err != nil || string(m.Payload) != fmt.Sprint("m", m.Seq) {
			t.Fatalf("%v in %q", err, line)
		}
		all = append(all, strconv.FormatUint(m.Seq, 10))
	}
	return all
}

// Every message is printed once, through pages, failures and damage; what is
// missing is said.
func TestTail(t *testing.T) {
	for _, c := range []struct {
		name  string
		from  string
		count int
		// answers are given in turn, the last one again and again; a text is a
		// failure: its status, and what is said.
		answers []any
		seqs    string
		said    []string
		quiet   bool // nothing may be said
		code    int
	}{
		{name: "from the oldest, in pages", from: "0", count: 7, answers: []any{&past{first: 1, last: 7, page: 2}}, seqs: "1 2 3 4 5 6 7", quiet: true},
		{name: "from a sequence", from: "4", count: 2, answers: []any{&past{first: 1, last: 5, page: 10}}, seqs: "4 5", quiet: true},
		{name: "from the end", from: "end", count: 2, answers: []any{&past{first: 1, last: 5, page: 10}, &past{first: 1, last: 5, page: 10}, &past{first: 1, last: 7, page: 10}}, seqs: "6 7", quiet: true},
		{name: "a channel that is empty yet", from: "end", count: 1, answers: []any{&past{page: 10}, &past{page: 10}, &past{first: 1, last: 1, page: 10}}, seqs: "1", quiet: true},
		{name: "from the oldest of nothing", from: "0", count: 1, answers: []any{&past{page: 10}, &past{first: 1, last: 1, page: 10}}, seqs: "1", quiet: true},
		{name: "what is ahead of the end", from: "4", count: 1, answers: []any{&past{first: 1, last: 2, page: 10}, &past{first: 1, last: 4, page: 10}}, seqs: "4", quiet: true},
		{name: "the broker is away", from: "1", count: 4, answers: []any{&past{first: 1, last: 2, page: 10}, "503 not now", "503 not now", &past{first: 1, last: 4, page: 10}},
			seqs: "1 2 3 4", said: []string{"not now; trying again", "answers again, going on with message 3"}},
		{name: "the broker is not there at the start", from: "1", count: 1, answers: []any{"503 not now"}, said: []string{"not now"}, code: 1},
		{name: "refused on the way", from: "1", count: 4, answers: []any{&past{first: 1, last: 2, page: 10}, "403 no member any more"}, seqs: "1 2", said: []string{"no member any more"}, code: 1},
		{name: "dropped before it came", from: "1", count: 4, answers: []any{&past{first: 1, last: 2, page: 10}, &past{first: 6, last: 7, page: 10}},
			seqs: "1 2 6 7", said: []string{"messages 3 to 5 are not kept any more"}},
		{name: "damaged", from: "1", count: 4, answers: []any{&past{first: 1, last: 8, page: 3, damaged: map[uint64]bool{2: true, 3: true, 4: true, 7: true}}},
			seqs: "1 5 6 8", said: []string{"messages 2 to 3 are damaged", "messages 4 to 4 are damaged", "messages 7 to 7 are damaged"}},
		{name: "damaged at the end", from: "1", count: 2, answers: []any{&past{first: 1, last: 3, page: 10, damaged: map[uint64]bool{2: true, 3: true}}, &past{first: 1, last: 4, page: 10}},
			seqs: "1 4", said: []string{"messages 2 to 3 are damaged"}},
		{name: "the channel went back", from: "1", count: 4, answers: []any{&past{first: 1, last: 3, page: 10}, &past{first: 1, last: 2, page: 10}, &past{first: 1, last: 3, page: 10}},
			seqs: "1 2 3 3", said: []string{"the newest message is 2 and was 3", "going on with 3"}},
	} {
		var mu sync.Mutex
		asked := 0
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			a := c.answers[min(asked, len(c.answers)-1)]
			if asked++; asked > 1000 {
				panic(http.ErrAbortHandler)
			}
			if text, ok := a.(string); ok {
				status, _ := strconv.Atoi(text[:3])
				w.WriteHeader(status)
				fmt.Fprintf(w, `{"msg":%q}`, text[4:])
				return
			}
			from, err := strconv.ParseUint(r.FormValue("from"), 10, 64)
			if err != nil || r.FormValue("group") != "g" || r.Form.Has("uid") {
				t.Errorf("%s: asked for %s", c.name, r.URL.RawQuery)
			}
			json.NewEncoder(w).Encode(a.(*past).answer(from))
		}))
		var out, said bytes.Buffer
		code := dispatch(t.Context(), []string{"tail", "--group", "g", "--from", c.from, "--count", fmt.Sprint(c.count), "--interval", "10ms", "--json", "--http", strings.TrimPrefix(s.URL, "http://")}, Env{Stdout: &out, Stderr: &said})
		s.Close()
		if got := strings.Join(seqs(t, out.String()), " "); got != c.seqs || code != c.code || c.quiet && said.Len() > 0 {
			t.Errorf("%s: exit code %d, printed %s, want %d and %s\n%s", c.name, code, got, c.code, c.seqs, said.String())
		}
		for _, w := range c.said {
			if strings.Count(said.String(), w) != 1 {
				t.Errorf("%s: said is not once %q:\n%s", c.name, w, said.String())
			}
		}
	}
}

// Nobody at the address is an error at once.
func TestTailNeedsABroker(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	var out, said bytes.Buffer
	if code := dispatch(t.Context(), []string{"tail", "--group", "g", "--http", ln.Addr().String()}, Env{Stdout: &out, Stderr: &said}); code != exitFailed || !strings.Contains(said.String(), "is it running") {
		t.Errorf("exit code %d\n%s", code, said.String())
	}
}

// An interrupt is no failure, not even while the broker is away.
func TestTailIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked++; asked == 1 {
			json.NewEncoder(w).Encode(historyPage{})
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		cancel()
	}))
	defer s.Close()
	if code := dispatch(ctx, []string{"tail", "--group", "g", "--interval", "10ms", "--http", strings.TrimPrefix(s.URL, "http://")}, Env{Stdout: io.Discard, Stderr: io.Discard}); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}
