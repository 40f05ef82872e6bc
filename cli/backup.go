package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"gatepost/backup"
)

// takeBackup writes a backup of a running broker into a file.
func takeBackup(ctx context.Context, env Env, args []string) error {
	f := newFlags("backup", "FILE", "Writes everything that was acknowledged up to now into FILE, a tar archive, while\nthe broker runs. 'gatepost restore' makes a data directory of it. FILE is new or a\nplain file; - is standard output.")
	addr := f.String("http", DefaultHTTP, "`HOST:PORT` of the broker's HTTP")
	words, err := f.parse(env, args)
	if err != nil {
		return err
	}
	if len(words) != 1 {
		return f.wrong("needs the file, got %q", words)
	}
	out, err := create(env, words[0], 0o600)
	if err != nil {
		return fmt.Errorf("cannot write the backup: %w", err)
	}
	defer out.drop()
	req, err := request(ctx, "POST", *addr, "/backup", nil)
	if err != nil {
		return err
	}
	res, err := do(req)
	if err != nil {
		return fmt.Errorf("cannot reach the broker's HTTP at %s: %w; is it running, and is --http right?", *addr, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10)) // what did not come is not said
		return refusal(res.StatusCode, text, *addr, "take a backup")
	}
	began := time.Now()
	n, err := io.Copy(out, res.Body)
	if err != nil {
		return fmt.Errorf("cannot finish the backup after %d bytes and %v: %w; the broker's log says why: it breaks off a backup that is read too slowly or too long, or when its disk gets full",
			n, time.Since(began).Round(time.Second), err)
	}
	if err := out.commit(); err != nil {
		return fmt.Errorf("cannot write the backup: %w", err)
	}
	if out.toStdout() {
		fmt.Fprintf(env.Stderr, "%d bytes\n", n)
		return nil
	}
	_, err = fmt.Fprintf(env.Stdout, "%s, %d bytes\n", words[0], n)
	return err
}

// restore makes a data directory of a backup.
func restore(_ context.Context, env Env, args []string) error {
	f := newFlags("restore", "FILE DIR", "Makes the data directory DIR, which must be empty or not there, of a backup. Every\nbyte is checked. FILE may be - for standard input.")
	words, err := f.parse(env, args)
	if err != nil {
		return err
	}
	if len(words) != 2 {
		return f.wrong("needs the file and the directory, got %q", words)
	}
	in := env.Stdin
	if words[0] != "-" {
		opened, err := os.Open(words[0])
		if err != nil {
			return fmt.Errorf("cannot restore: %w", err)
		}
		defer opened.Close()
		in = opened
	}
	return backup.Restore(in, words[1], func(dir string) error {
		v, err := examine(dir)
		if err != nil {
			return err
		}
		v.print(env)
		if !v.Whole {
			return fmt.Errorf("what the backup holds is damaged")
		}
		return nil
	})
}
