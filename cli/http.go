package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"gatepost/config"
)

// DefaultHTTP is where a broker with built-in settings serves HTTP.
const DefaultHTTP = "127.0.0.1:5001"

// call makes one HTTP request and returns the status and the body, 4 MiB at most.
func call(ctx context.Context, method, addr, path string, body any) (int, []byte, error) {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return 0, nil, fmt.Errorf("cannot write the request: %w", err)
		}
		content = bytes.NewReader(text)
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	req, err := request(ctx, method, addr, path, content)
	if err != nil {
		return 0, nil, err
	}
	res, err := do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("cannot reach the broker's HTTP at %s: %w; is it running, and is --http right?", addr, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	if err != nil {
		return 0, nil, fmt.Errorf("cannot read the broker's answer: %w", err)
	}
	return res.StatusCode, text, nil
}

// do makes a request, inside TLS where its address says so.
func do(req *http.Request) (*http.Response, error) {
	o, err := trust()
	if err != nil {
		return nil, err
	}
	client := http.Client{Transport: &http.Transport{TLSClientConfig: o, DisableKeepAlives: true}}
	return client.Do(req)
}

// tokenVariable names a file with the broker's HTTP token.
const tokenVariable = "GATEPOST_TOKEN_FILE"

// request makes an HTTP request, with the broker's token if there is one.
func request(ctx context.Context, method, addr, path string, content io.Reader) (*http.Request, error) {
	base := addr
	if !strings.HasPrefix(addr, "https://") {
		base = "http://" + addr
	}
	req, err := http.NewRequestWithContext(ctx, method, base+path, content)
	if err != nil {
		return nil, fmt.Errorf("cannot use the address %q: HOST:PORT is needed: %w", addr, err)
	}
	file := os.Getenv(tokenVariable)
	if file == "" {
		return req, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the broker's token (%s): %w", tokenVariable, err)
	}
	token, _, _ := strings.Cut(string(text), "\n")
	req.Header.Set("token", strings.TrimSpace(token))
	return req, nil
}

// channel creates and changes groups.
func channel(ctx context.Context, env Env, args []string) error {
	f := newFlags("channel", "create ID [--members A,B]\nadd ID --members A,B\nremove ID --members A,B\ndelete ID\nkeep ID [--max-age T] [--max-messages N] [--max-bytes SIZE]\nkeep ID --of-type",
		`Creates a group and changes its members. It returns when the change is durable.

keep sets how much of one channel is kept, whatever the configuration says of
its type: of a group, or with --uid of the pair of users --uid and ID. What is
not named has no bound. With --of-type the configuration holds again. Whole
blocks are dropped, the oldest first, from the next checkpoint on.`)
	addr := f.String("http", DefaultHTTP, "`HOST:PORT` of the broker's HTTP")
	members := f.String("members", "", "`UIDS`, separated by commas")
	reset := f.Bool("reset", false, "with create: replace the members there are")
	uid := f.String("uid", "", "with keep: the other `UID` of a pair of users")
	maxAge := f.Duration("max-age", 0, "with keep: `TIME` since a message was taken in, like 720h")
	maxMessages := f.Int64("max-messages", 0, "with keep: messages")
	var maxBytes int64
	f.Func("max-bytes", "with keep: `SIZE` of what is on the disk, like 10MiB", func(text string) (err error) {
		maxBytes, err = config.ParseSize(text)
		return err
	})
	ofType := f.Bool("of-type", false, "with keep: the configuration of the channel's type holds")
	words, err := f.parse(env, args)
	if err != nil {
		return err
	}
	if len(words) != 2 {
		return f.wrong("needs what to do and the group's id, got %q", words)
	}
	path, ok := map[string]string{
		"create": "/channel", "add": "/channel/subscriber_add", "remove": "/channel/subscriber_remove", "delete": "/channel/delete", "keep": "/channel/keep",
	}[words[0]]
	if !ok {
		return f.wrong("cannot %q a channel: create, add, remove, delete, keep are possible", words[0])
	}
	body := map[string]any{"channel_id": words[1], "channel_type": 2}
	if words[0] == "keep" {
		switch {
		case *maxAge < 0 || *maxAge%time.Second != 0:
			return f.wrong("--max-age is %v, whole seconds are possible", *maxAge)
		case *ofType:
			body["of_type"] = true
		default:
			body["max_age"], body["max_messages"], body["max_bytes"] = int64(*maxAge/time.Second), *maxMessages, maxBytes
		}
		if *uid != "" {
			body["channel_type"], body["uid"] = 1, *uid
		}
	}
	if *members != "" {
		body["subscribers"] = strings.Split(*members, ",")
	} else if words[0] == "add" || words[0] == "remove" {
		return f.wrong("--members is missing")
	}
	if *reset {
		body["reset"] = 1
	}
	status, text, err := call(ctx, "POST", *addr, path, body)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		var answer struct{ Msg string }
		if json.Unmarshal(text, &answer) != nil || answer.Msg == "" {
			answer.Msg = fmt.Sprintf("cannot change the channel: HTTP %d from %s; is that the broker's HTTP address?", status, *addr)
		}
		return fmt.Errorf("%s", answer.Msg)
	}
	_, err = fmt.Fprintln(env.Stdout, "done")
	return err
}

// status shows how a broker is doing.
func status(ctx context.Context, env Env, args []string) error {
	f := newFlags("status", "[flags]", "Shows health and counters of a running broker. Exit code 1: it is not well.")
	addr := f.String("http", DefaultHTTP, "`HOST:PORT` of the broker's HTTP")
	asJSON := f.Bool("json", false, "print the counters as JSON")
	if err := f.none(env, args); err != nil {
		return err
	}
	code, health, err := call(ctx, "GET", *addr, "/health", nil)
	if err != nil {
		return err
	}
	_, text, err := call(ctx, "GET", *addr, "/varz", nil)
	if err != nil {
		return err
	}
	if *asJSON {
		fmt.Fprintf(env.Stdout, "%s\n", bytes.TrimSpace(text))
	} else {
		var values map[string]any
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		if err := d.Decode(&values); err != nil {
			return fmt.Errorf("cannot read the counters from %s: %w", *addr, err)
		}
		var names []string
		for name, v := range values {
			if _, simple := v.(json.Number); simple {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		for _, name := range names {
			fmt.Fprintf(env.Stdout, "%-42s %s\n", strings.TrimPrefix(name, "gatepost_"), values[name])
		}
	}
	if code != http.StatusOK {
		return fmt.Errorf("cannot call it well: %s", bytes.TrimSpace(health))
	}
	if !*asJSON {
		fmt.Fprintf(env.Stdout, "well, %s\n", time.Now().Format(time.RFC3339))
	}
	return nil
}
