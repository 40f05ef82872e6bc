package cli

import (
	"context"

	"gatepost/wal"
)

// dumpLog looks into a log.
func dumpLog(_ context.Context, env Env, args []string) error {
	f := newFlags("wal dump", "DIR", "Lists generations, groups and records of the log in a data directory; no payloads.\nThe broker may be running.")
	words, err := f.parse(env, args)
	if err != nil {
		return err
	}
	if len(words) != 1 {
		return f.wrong("needs the data directory, got %q", words)
	}
	if err := needData(words[0]); err != nil {
		return err
	}
	return unread(wal.Dump(env.Stdout, words[0]))
}
