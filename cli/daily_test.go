package cli

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// clerk is a broker's HTTP that writes down what it was asked and answers what it
// is told; 404 to what it does not know.
type clerk struct {
	answers map[string]string // by "METHOD /path"; beginning with a number: that status
	asked   []string          // with query and body
}

func (c *clerk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	line := r.Method + " " + r.URL.RequestURI()
	if len(body) > 0 {
		line += " " + string(body)
	}
	c.asked = append(c.asked, line)
	text, ok := c.answers[r.Method+" "+r.URL.Path]
	if !ok {
		text = `404 {"status":404,"msg":"cannot do it: there is no such thing"}`
	}
	status := 0
	if n, _ := fmt.Sscanf(text, "%d ", &status); n == 1 {
		_, text, _ = strings.Cut(text, " ")
		w.WriteHeader(status)
	}
	io.WriteString(w, text)
}

// run is a command line at a broker that is a clerk.
func (c *clerk) run(t *testing.T, stdin string, args ...string) (out, said string, code int) {
	t.Helper()
	s := httptest.NewServer(c)
	defer s.Close()
	var o, e bytes.Buffer
	code = dispatch(t.Context(), append(args, "--http", strings.TrimPrefix(s.URL, "http://")), Env{Stdin: strings.NewReader(stdin), Stdout: &o, Stderr: &e, Version: "1"})
	return o.String(), e.String(), code
}

// Each command asks for what it says and prints the answer.
func TestCommandsAsk(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(" from a file \nnot this\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const done = `{"status":200}`
	const ban = `{"channel_id":"g","channel_type":2,"members":2,"ban":1,"large":0,"disband":0,"send_ban":0,"allow_stranger":0}`
	for _, c := range []struct {
		line    string
		answers map[string]string
		asked   []string
		out     string
	}{
		{"channel create g --members a,b --reset", map[string]string{"POST /channel": done},
			[]string{`POST /channel {"channel_id":"g","channel_type":2,"reset":1,"subscribers":["a","b"]}`}, "done\n"},
		{"channel add g --type 9 --temp --members a", map[string]string{"GET /channel/info": `{"channel_id":"g","channel_type":9}`, "POST /channel/subscriber_add": done},
			[]string{"GET /channel/info?channel_id=g&channel_type=9", `POST /channel/subscriber_add {"channel_id":"g","channel_type":9,"subscribers":["a"],"temp_subscriber":1}`}, "done\n"},
		{"channel remove g --all", map[string]string{"POST /channel/subscriber_remove_all": done},
			[]string{`POST /channel/subscriber_remove_all {"channel_id":"g","channel_type":2}`}, "done\n"},
		{"channel deny g --members a", map[string]string{"GET /channel/info": ban, "POST /channel/blacklist_add": done},
			[]string{`GET /channel/info?channel_id=g&channel_type=2`, `POST /channel/blacklist_add {"channel_id":"g","channel_type":2,"uids":["a"]}`}, "done\n"},
		{"channel allow p --type 1 --members a", map[string]string{"POST /channel/whitelist_add": done},
			[]string{`GET /channel/info?channel_id=p&channel_type=1`, `POST /channel/whitelist_add {"channel_id":"p","channel_type":1,"uids":["a"]}`}, "done\n"},
		{"channel disallow g --members a", map[string]string{"POST /channel/whitelist_remove": done},
			[]string{`POST /channel/whitelist_remove {"channel_id":"g","channel_type":2,"uids":["a"]}`}, "done\n"},
		// What is not named stays as it is, though the broker takes it for 0.
		{"channel info g --disband --no-large", map[string]string{"GET /channel/info": ban, "POST /channel/info": done},
			[]string{`GET /channel/info?channel_id=g&channel_type=2`, `POST /channel/info {"allow_stranger":0,"ban":1,"channel_id":"g","channel_type":2,"disband":1,"large":0,"send_ban":0}`}, "done\n"},
		{"channel info p --type 1 --send-ban", map[string]string{"POST /channel/info": done},
			[]string{`GET /channel/info?channel_id=p&channel_type=1`, `POST /channel/info {"allow_stranger":0,"ban":0,"channel_id":"p","channel_type":1,"disband":0,"large":0,"send_ban":1}`}, "done\n"},
		{"channel lists g", map[string]string{"GET /channel/subscribers": `[{"uid":"b"},{"uid":"a"}]`, "GET /channel/blacklist": `[{"uid":"b"}]`, "GET /channel/whitelist": `[]`},
			[]string{`GET /channel/subscribers?channel_id=g&channel_type=2`, `GET /channel/blacklist?channel_id=g&channel_type=2`, `GET /channel/whitelist?channel_id=g&channel_type=2`}, "member   a\nmember   b\ndenied   b\n"},
		{"channel keep b --uid a --max-age 1h", map[string]string{"POST /channel/keep": done},
			[]string{`POST /channel/keep {"channel_id":"b","channel_type":1,"max_age":3600,"max_bytes":0,"max_messages":0,"uid":"a"}`}, "done\n"},
		{"user token a --token-file " + token + " --device pc --level master", map[string]string{"POST /user/token": done},
			[]string{`POST /user/token {"device_flag":2,"device_level":1,"token":"from a file","uid":"a"}`}, "done\n"},
		{"user token a --token-file - --json", map[string]string{"POST /user/token": done},
			[]string{`POST /user/token {"device_flag":0,"device_level":0,"token":"from stdin","uid":"a"}`}, `{"device_flag":0,"device_level":0,"uid":"a"}` + "\n"},
		{"user quit a", map[string]string{"POST /user/device_quit": done}, []string{`POST /user/device_quit {"device_flag":-1,"uid":"a"}`}, "done\n"},
		{"user quit a --device 7", map[string]string{"POST /user/device_quit": done}, []string{`POST /user/device_quit {"device_flag":7,"uid":"a"}`}, "done\n"},
		{"user online a b", map[string]string{"POST /user/onlinestatus": `[{"uid":"a","device_flag":7,"online":1},{"uid":"a","device_flag":1,"online":1}]`},
			[]string{`POST /user/onlinestatus ["a","b"]`}, "a  online  web,7\nb  offline\n"},
		{"user system list", map[string]string{"GET /user/systemuids": `["b","a"]`}, []string{"GET /user/systemuids"}, "a\nb\n"},
		{"user system remove a b", map[string]string{"POST /user/systemuids_remove": done}, []string{`POST /user/systemuids_remove {"uids":["a","b"]}`}, "done\n"},
		{"user conversations a --unread --json", map[string]string{"POST /conversation/sync": `[{"channel_id":"<g>","unread":2}]`},
			[]string{`POST /conversation/sync {"only_unread":1,"page":1,"page_size":1000,"uid":"a"}`}, `{"channel_id":"<g>","unread":2}` + "\n"},
		{"connections --limit 1", map[string]string{"GET /connz": `{"connections":[{"id":17,"uid":"a","device_flag":1,"device_level":1,"loop":1}],"total":2}`},
			[]string{"GET /connz?limit=1"}, "17  a  web  master  loop 1\n"},
		{"kick a --conn 17", map[string]string{"POST /conn/kick": `{"status":200,"ended":1}`}, []string{`POST /conn/kick {"conn_id":17,"uid":"a"}`}, "ended 1\n"},
		{"kick a --json", map[string]string{"POST /conn/kick": `{"status":200,"ended":3}`}, []string{`POST /conn/kick {"conn_id":0,"uid":"a"}`}, `{"ended":3}` + "\n"},
	} {
		k := clerk{answers: c.answers}
		out, said, code := k.run(t, "from stdin\nnot this\n", strings.Fields(c.line)...)
		if code != exitOK || out != c.out || !slices.Equal(k.asked, c.asked) {
			t.Errorf("gatepost %s: exit code %d\n%s%sasked %q\nwant  %q and\n%s", c.line, code, out, said, k.asked, c.asked, c.out)
		}
	}
}

// A random token is made, another one each time, and printed once.
func TestRandomToken(t *testing.T) {
	k := clerk{answers: map[string]string{"POST /user/token": `{"status":200}`}}
	first, _, _ := k.run(t, "", "user", "token", "a")
	second, _, code := k.run(t, "", "user", "token", "a")
	token := strings.TrimSpace(second)
	if code != exitOK || len(token) != 32 || strings.Trim(token, "0123456789abcdef") != "" || first == second || !strings.Contains(k.asked[1], token) {
		t.Errorf("exit code %d, tokens %q and %q, asked %q", code, first, second, k.asked)
	}
	k.answers = nil
	if out, said, code := k.run(t, "", "user", "token", "a"); code != exitFailed || out != "" {
		t.Errorf("a token that was refused: exit code %d, printed %q; %s", code, out, said)
	}
}

// What is wrong in a command line is said before anything is asked.
func TestWrongArguments(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("\ntoken\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		line string
		code int
		said string
	}{
		{"channel", 2, "create, add, remove"},
		{"channel make g", 2, `there is no "make": create, add`},
		{"channel create", 2, "needs the channel's id"},
		{"channel create g h", 2, "needs the channel's id"},
		{"channel create g --all", 2, "not defined: --all"},
		{"channel add g", 2, "--members is missing"},
		{"channel undeny g", 2, "--members is missing"},
		{"channel undeny g --all --members a", 2, "give one of"},
		{"channel add g --type two --members a", 2, `invalid value "two" for flag --type`},
		{"channel info g --ban --no-ban", 2, "give one of --ban and --no-ban"},
		{"channel info g --members a", 2, "not defined: --members"},
		{"channel keep g --max-age 1500ms", 2, "whole seconds"},
		{"user", 2, "token, quit, online"},
		{"user system", 2, "add, remove, list"},
		{"user system add", 2, "needs users"},
		{"user token", 2, "needs the user's id"},
		{"user token a secret", 2, "needs the user's id"},
		{"user token a --token secret", 2, "not defined: --token"},
		{"user token a --device tv", 2, "app, web, pc, or a number from 0 to 254"},
		{"user token a --device 255", 2, "app, web, pc, or a number from 0 to 254"},
		{"user token a --level boss", 2, "slave and master are possible"},
		{"user token a --token-file " + empty, 1, "1 to 4096 are possible"},
		{"user token a --token-file " + empty + "x", 1, "no such file"},
		{"user online", 2, "needs users"},
		{"kick", 2, "needs the user's id"},
		{"kick a --conn -1", 2, "--conn is -1"},
		{"connections --limit 0", 2, "1 to 10000 are possible"},
		{"connections a", 2, "takes no arguments"},
		{"tail", 2, "give one of --to and --group"},
		{"tail --to b", 2, "--uid is missing"},
		{"tail --to b --group g", 2, "give one of"},
		{"tail --group g --from start", 2, "--from is"},
		{"tail --group g --interval 1ms", 2, "10ms and more"},
		{"history --to b", 2, "--uid is missing"},
		{"send --uid a --to b --token-file - --addr 127.0.0.1:1", 2, "cannot both come from standard input"},
		{"completion", 2, "needs the shell"},
		{"completion csh", 2, "bash, zsh and fish"},
		{"wal", 2, "dump are possible"},
	} {
		k := clerk{}
		args := strings.Fields(c.line)
		var out, said bytes.Buffer
		code := dispatch(t.Context(), args, Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &said})
		if code != c.code || !strings.Contains(said.String(), c.said) || out.Len() > 0 || len(k.asked) > 0 {
			t.Errorf("gatepost %s: exit code %d, want %d and %q\n%s%s", c.line, code, c.code, c.said, out.String(), said.String())
		}
	}
}

// What the broker refuses is said in its words, and where it says nothing, what
// the person can look at.
func TestRefusals(t *testing.T) {
	for _, c := range []struct{ line, answer, said string }{
		{"kick a", `404 {"status":404,"msg":"cannot end a connection: \"a\" has none"}`, `"a" has none`},
		{"kick a", `404 page not found`, "is that the broker's HTTP address?"},
		{"kick a", `401 {"status":401,"msg":"the token of the HTTP API is missing or wrong (api.token_file)"}`, "GATEPOST_TOKEN_FILE names a file"},
		{"kick a", `a page of another server`, "is that the broker's HTTP address?"},
	} {
		k := clerk{answers: map[string]string{"POST /conn/kick": c.answer}}
		if out, said, code := k.run(t, "", strings.Fields(c.line)...); code != exitFailed || out != "" || !strings.Contains(said, c.said) {
			t.Errorf("%s answered with %s: exit code %d, %q; want %q", c.line, c.answer, code, said, c.said)
		}
	}
	for _, line := range []string{"channel info g --ban", "channel deny g --members a", "channel allow g --members a"} {
		k := clerk{}
		if _, said, code := k.run(t, "", strings.Fields(line)...); code != exitFailed || !strings.Contains(said, "gatepost channel create") || len(k.asked) != 1 {
			t.Errorf("gatepost %s of a channel that is not there: exit code %d, asked %q; %s", line, code, k.asked, said)
		}
	}
	k := clerk{answers: map[string]string{"GET /connz": `{"connections":[],"total":2}`}}
	if _, said, _ := k.run(t, "", "connections"); !strings.Contains(said, "0 of 2") {
		t.Errorf("connections that are left out: %q", said)
	}
	k = clerk{answers: map[string]string{"GET /user/systemuids": "[" + strings.Repeat(" ", maxAnswer) + "]"}}
	if _, said, code := k.run(t, "", "user", "system", "list"); code != exitFailed || !strings.Contains(said, "more than 16777216 bytes") {
		t.Errorf("an answer without end: exit code %d, %q", code, said)
	}
}

// All conversations are listed, however many pages that are.
func TestConversationsInPages(t *testing.T) {
	line := `{"channel_id":"g","channel_type":2,"unread":1,"timestamp":1,"last_msg_seq":3}`
	pages := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pages++
		n := 1000
		if pages == 3 {
			n = 5
		}
		fmt.Fprintf(w, "[%s]", strings.TrimSuffix(strings.Repeat(line+",", n), ","))
	}))
	defer s.Close()
	var out bytes.Buffer
	code := dispatch(t.Context(), []string{"user", "conversations", "a", "--http", strings.TrimPrefix(s.URL, "http://")}, Env{Stdout: &out, Stderr: io.Discard})
	if n := strings.Count(out.String(), "  g  type 2  seq 3  unread 1\n"); code != exitOK || n != 2005 || pages != 3 {
		t.Errorf("exit code %d, %d lines of %d pages", code, n, pages)
	}
}
