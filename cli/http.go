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
)

// DefaultHTTP is where a broker with built-in settings serves HTTP.
const DefaultHTTP = "127.0.0.1:5001"

// maxAnswer is how many bytes an answer may have: 10,000 members with the longest
// names there can be.
const maxAnswer = 16 << 20

// call makes one HTTP request and returns the status and the body.
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
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return 0, nil, fmt.Errorf("cannot read the broker's answer: %w", err)
	}
	if len(text) > maxAnswer {
		return 0, nil, fmt.Errorf("cannot read the broker's answer: it has more than %d bytes; is %s the broker's HTTP address?", maxAnswer, addr)
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

// failure is returned when the broker has answered, and refused.
type failure struct {
	status int
	text   string
}

func (e *failure) Error() string { return e.text }

// refusal is what a broker at addr said with a status other than 200.
func refusal(status int, text []byte, addr, what string) *failure {
	var said struct{ Msg string }
	if json.Unmarshal(text, &said) != nil || said.Msg == "" {
		said.Msg = fmt.Sprintf("cannot %s: HTTP %d from %s; is that the broker's HTTP address?", what, status, addr)
	}
	if status == http.StatusUnauthorized {
		said.Msg = fmt.Sprintf("cannot %s: %s; %s names a file with it", what, said.Msg, tokenVariable)
	}
	return &failure{status, said.Msg}
}

// ask makes one HTTP request and reads the answer into answer, if that is not nil.
// The error is a *failure when the broker said no; what is what cannot be done
// then, for brokers that do not say.
func ask(ctx context.Context, method, addr, path string, body, answer any, what string) error {
	status, text, err := call(ctx, method, addr, path, body)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return refusal(status, text, addr, what)
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("cannot %s: the answer of %s is not what is expected: %w; is that the broker's HTTP address?", what, addr, err)
	}
	return nil
}

// change asks for a change, and says when it is durable.
func change(ctx context.Context, env Env, addr, path string, body any, what string) error {
	if err := ask(ctx, "POST", addr, path, body, nil, what); err != nil {
		return err
	}
	_, err := fmt.Fprintln(env.Stdout, "done")
	return err
}

// printJSON prints one thing on a line of its own.
func printJSON(env Env, v any) error {
	e := json.NewEncoder(env.Stdout)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("cannot print: %w", err)
	}
	return nil
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
