package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
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
	req, err := http.NewRequestWithContext(ctx, method, "http://"+addr+path, content)
	if err != nil {
		return 0, nil, fmt.Errorf("cannot use the address %q: HOST:PORT is needed: %w", addr, err)
	}
	res, err := http.DefaultClient.Do(req)
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

// channel creates and changes groups.
func channel(ctx context.Context, env Env, args []string) error {
	f := newFlags("channel", "create ID [--members A,B]\nadd ID --members A,B\nremove ID --members A,B\ndelete ID",
		"Creates a group and changes its members. It returns when the change is durable.")
	addr := f.String("http", DefaultHTTP, "`HOST:PORT` of the broker's HTTP")
	members := f.String("members", "", "`UIDS`, separated by commas")
	reset := f.Bool("reset", false, "with create: replace the members there are")
	words, err := f.parse(env, args)
	if err != nil {
		return err
	}
	if len(words) != 2 {
		return f.wrong("needs what to do and the group's id, got %q", words)
	}
	path, ok := map[string]string{
		"create": "/channel", "add": "/channel/subscriber_add", "remove": "/channel/subscriber_remove", "delete": "/channel/delete",
	}[words[0]]
	if !ok {
		return f.wrong("cannot %q a channel: create, add, remove, delete are possible", words[0])
	}
	body := map[string]any{"channel_id": words[1], "channel_type": 2}
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
