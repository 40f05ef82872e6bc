package cli

import (
	"context"
	"encoding/json"
	"fmt"
)

// connections lists who is connected.
func connections(ctx context.Context, env Env, args []string) error {
	f := newFlags("connections", "[flags]", "Lists connections: number, user, kind of device, level, and the loop that serves\nit. 'gatepost kick UID --conn N' ends one.")
	addr := f.http()
	limit := f.Int("limit", 1000, "`N` connections at most, up to 10000")
	asJSON := f.Bool("json", false, "print one JSON object per connection")
	if err := f.none(env, args); err != nil {
		return err
	}
	if *limit < 1 || *limit > 10_000 {
		return f.wrong("--limit is %d, 1 to 10000 are possible", *limit)
	}
	var answer struct {
		Connections []json.RawMessage
		Total       int
	}
	if err := ask(ctx, "GET", *addr, fmt.Sprintf("/connz?limit=%d", *limit), nil, &answer, "list connections"); err != nil {
		return err
	}
	for _, line := range answer.Connections {
		var c struct {
			ID     int64
			UID    string
			Device int `json:"device_flag"`
			Level  int `json:"device_level"`
			Loop   int
		}
		err := json.Unmarshal(line, &c)
		switch {
		case err != nil:
			return fmt.Errorf("cannot list connections: %w", err)
		case *asJSON:
			err = printJSON(env, line)
		default:
			level := "slave"
			if c.Level == 1 {
				level = "master"
			}
			_, err = fmt.Fprintf(env.Stdout, "%d  %s  %s  %s  loop %d\n", c.ID, c.UID, deviceName(c.Device), level, c.Loop)
		}
		if err != nil {
			return err
		}
	}
	if n := len(answer.Connections); n < answer.Total {
		fmt.Fprintf(env.Stderr, "gatepost connections: these are %d of %d\n", n, answer.Total)
	}
	return nil
}

// kick ends connections of a user.
func kick(ctx context.Context, env Env, args []string) error {
	f := newFlags("kick", "UID [--conn N]", "Ends the connections of a user, and tells the clients that they were kicked. They\nmay connect again; see 'gatepost user quit' for those that must not.")
	addr := f.http()
	conn := f.Int64("conn", 0, "only the connection with this `NUMBER`, of 'gatepost connections'")
	asJSON := f.Bool("json", false, "print JSON")
	uid, err := f.one(env, args, "the user's id")
	if err != nil {
		return err
	}
	if *conn < 0 {
		return f.wrong("--conn is %d, 'gatepost connections' shows the numbers", *conn)
	}
	var answer struct {
		Ended int `json:"ended"`
	}
	if err := ask(ctx, "POST", *addr, "/conn/kick", map[string]any{"uid": uid, "conn_id": *conn}, &answer, "end connections"); err != nil {
		return err
	}
	if *asJSON {
		return printJSON(env, answer)
	}
	_, err = fmt.Fprintf(env.Stdout, "ended %d\n", answer.Ended)
	return err
}
