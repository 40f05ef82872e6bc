package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// userCommands are the commands of users.
func userCommands() []command {
	return []command{
		{name: "token", brief: "set the token that devices log in with", run: userToken},
		{name: "quit", brief: "take the token of devices away and end them", run: userQuit},
		{name: "online", brief: "say who is online", run: userOnline},
		{name: "conversations", brief: "list a user's conversations", run: userConversations},
		{name: "system", brief: "who may send to every channel", sub: []command{
			{name: "add", brief: "let users send to every channel", run: systemChange("add", "Lets users send to every channel and person.")},
			{name: "remove", brief: "let them send where they are members", run: systemChange("remove", "Takes that back.")},
			{name: "list", brief: "show who may", run: systemList},
		}},
	}
}

func userToken(ctx context.Context, env Env, args []string) error {
	f := newFlags("user token", "UID [--device app|web|pc|N] [--level slave|master] [--token-file FILE]",
		`Sets the token that devices of one flag log in with; the one before is no longer
good, and who is online stays. Without --token-file a random token is made and
printed, once: the broker keeps a hash. Brokers look at tokens when
session.token_auth is on.`)
	addr := f.http()
	device := f.device(0, "the kind of device (app)")
	level := f.String("level", "slave", "`slave|master`: a login of a master ends the others of its flag")
	file := f.tokenFile("the token")
	asJSON := f.Bool("json", false, "print JSON")
	uid, err := f.one(env, args, "the user's id")
	if err != nil {
		return err
	}
	levels := []string{"slave", "master"}
	rank := slices.Index(levels, *level)
	if rank < 0 {
		return f.wrong("--level is %q: slave and master are possible", *level)
	}
	token, err := readToken(env, *file)
	if err != nil {
		return err
	}
	if token == "" {
		token = randomHex(16)
	}
	body := map[string]any{"uid": uid, "token": token, "device_flag": *device, "device_level": rank}
	if err := ask(ctx, "POST", *addr, "/user/token", body, nil, "set the token"); err != nil {
		return err
	}
	switch {
	case *asJSON && *file != "":
		delete(body, "token") // who gave it has it
		return printJSON(env, body)
	case *asJSON:
		return printJSON(env, body)
	case *file != "":
		token = "done"
	}
	_, err = fmt.Fprintln(env.Stdout, token)
	return err
}

func userQuit(ctx context.Context, env Env, args []string) error {
	f := newFlags("user quit", "UID [--device app|web|pc|N]", "Takes the token of a user's devices away and ends those that are online. It\nreturns when that is durable.")
	addr := f.http()
	device := f.device(-1, "the kind of device; without it all")
	uid, err := f.one(env, args, "the user's id")
	if err != nil {
		return err
	}
	return change(ctx, env, *addr, "/user/device_quit", map[string]any{"uid": uid, "device_flag": *device}, "end the devices")
}

func userOnline(ctx context.Context, env Env, args []string) error {
	f := newFlags("user online", "UID...", "Says of each user whether they are online, and with which kinds of device.")
	addr := f.http()
	asJSON := f.Bool("json", false, "print one JSON object per user")
	uids, err := f.parse(env, args)
	if err != nil {
		return err
	}
	if len(uids) == 0 {
		return f.wrong("needs users")
	}
	var found []struct {
		UID    string
		Device int `json:"device_flag"`
	}
	if err := ask(ctx, "POST", *addr, "/user/onlinestatus", uids, &found, "tell who is online"); err != nil {
		return err
	}
	devices := make(map[string][]int)
	for _, d := range found {
		devices[d.UID] = append(devices[d.UID], d.Device)
	}
	for _, uid := range uids {
		flags := devices[uid]
		slices.Sort(flags)
		if *asJSON {
			err = printJSON(env, map[string]any{"uid": uid, "online": len(flags) > 0, "device_flags": append([]int{}, flags...)})
		} else {
			word := "offline"
			var names []string
			for _, flag := range flags {
				names = append(names, deviceName(flag))
				word = "online  " + strings.Join(names, ",")
			}
			_, err = fmt.Fprintf(env.Stdout, "%s  %s\n", uid, word)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func systemChange(verb, text string) func(context.Context, Env, []string) error {
	return func(ctx context.Context, env Env, args []string) error {
		f := newFlags("user system "+verb, "UID...", text+" It returns when that is durable.")
		addr := f.http()
		uids, err := f.parse(env, args)
		if err != nil {
			return err
		}
		if len(uids) == 0 {
			return f.wrong("needs users")
		}
		return change(ctx, env, *addr, "/user/systemuids_"+verb, map[string]any{"uids": uids}, "change who may send everywhere")
	}
}

func systemList(ctx context.Context, env Env, args []string) error {
	f := newFlags("user system list", "", "Shows the users who may send to every channel and person.")
	addr := f.http()
	asJSON := f.Bool("json", false, "print a JSON array")
	if err := f.none(env, args); err != nil {
		return err
	}
	uids := []string{}
	if err := ask(ctx, "GET", *addr, "/user/systemuids", nil, &uids, "list who may send everywhere"); err != nil {
		return err
	}
	slices.Sort(uids)
	if *asJSON {
		return printJSON(env, uids)
	}
	for _, uid := range uids {
		if _, err := fmt.Fprintln(env.Stdout, uid); err != nil {
			return err
		}
	}
	return nil
}

func userConversations(ctx context.Context, env Env, args []string) error {
	f := newFlags("user conversations", "UID [flags]", "Lists the conversations of a user, the one with the newest message first: when\nthat was, channel, type, newest sequence, unread messages.")
	addr := f.http()
	unread := f.Bool("unread", false, "only those with unread messages")
	asJSON := f.Bool("json", false, "print one JSON object per conversation")
	uid, err := f.one(env, args, "the user's id")
	if err != nil {
		return err
	}
	const size = 1000 // as many as the broker answers at once
	body := map[string]any{"uid": uid, "page_size": size, "only_unread": 0}
	if *unread {
		body["only_unread"] = 1
	}
	for page := 1; ; page++ {
		body["page"] = page
		var lines []json.RawMessage
		if err := ask(ctx, "POST", *addr, "/conversation/sync", body, &lines, "list conversations"); err != nil {
			return err
		}
		for _, line := range lines {
			var c struct {
				ID     string `json:"channel_id"`
				Type   int    `json:"channel_type"`
				Unread uint64 `json:"unread"`
				Time   int64  `json:"timestamp"` // seconds
				Last   uint64 `json:"last_msg_seq"`
			}
			if err := json.Unmarshal(line, &c); err != nil {
				return fmt.Errorf("cannot list conversations: %w", err)
			}
			if *asJSON {
				err = printJSON(env, line)
			} else {
				_, err = fmt.Fprintf(env.Stdout, "%s  %s  type %d  seq %d  unread %d\n", time.Unix(c.Time, 0).Format(time.DateTime), c.ID, c.Type, c.Last, c.Unread)
			}
			if err != nil {
				return err
			}
		}
		if len(lines) < size {
			return nil
		}
	}
}
