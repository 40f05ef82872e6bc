package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatepost/config"
)

// channelCommands are the commands of channels: of groups, unless --type says
// otherwise.
func channelCommands() []command {
	return []command{
		memberChange{name: "create", brief: "make a channel and add members", text: "Makes a channel, if there is none, and adds members.",
			path: "/channel", field: "subscribers", optional: true, option: "reset", means: "replace the members there are"}.command(),
		memberChange{name: "add", brief: "add members", text: "Adds members to a channel.",
			path: "/channel/subscriber_add", field: "subscribers", option: "temp", means: "as guests: they get what is sent while they are online"}.command(),
		memberChange{name: "remove", brief: "remove members", text: "Removes members from a channel.",
			path: "/channel/subscriber_remove", every: "/channel/subscriber_remove_all", field: "subscribers"}.command(),
		{name: "delete", brief: "remove a channel", run: deleteChannel},
		{name: "lists", brief: "show members, who may not send, and who alone may", run: channelLists},
		{name: "info", brief: "show a channel, or set what holds for it", run: channelInfo},
		memberChange{name: "deny", brief: "put users on the list of those who may not send",
			text: "Puts users on the channel's list of those who may not send to it. With --type 1,\nID is a person: to whom they may not send.",
			path: "/channel/blacklist_add", field: "uids"}.command(),
		memberChange{name: "undeny", brief: "take them off that list", text: "Takes users off the list of 'gatepost channel deny'.",
			path: "/channel/blacklist_remove", every: "/channel/blacklist_remove_all", field: "uids"}.command(),
		memberChange{name: "allow", brief: "put users on the list of those who alone may send",
			text: "Puts users on the channel's list of those who may send to it. While anybody is\non it, only they may. With --type 1, ID is a person: see broker.person_allow_list.",
			path: "/channel/whitelist_add", field: "uids"}.command(),
		memberChange{name: "disallow", brief: "take them off that list", text: "Takes users off the list of 'gatepost channel allow'. When nobody is left on it,\nall members may send.",
			path: "/channel/whitelist_remove", every: "/channel/whitelist_remove_all", field: "uids"}.command(),
		{name: "keep", brief: "set how much of a channel is kept", run: keepChannel},
	}
}

// memberChange is a command that changes members or a list.
type memberChange struct {
	name, brief, text string
	path              string
	field             string // of the names in the body
	every             string // path that takes all names off; "": there is none
	option, means     string // a flag, "reset" or "temp"; "": there is none
	optional          bool   // --members is
}

func (c memberChange) command() command {
	return command{name: c.name, brief: c.brief, run: c.run}
}

func (c memberChange) run(ctx context.Context, env Env, args []string) error {
	usage := "ID --members A,B"
	switch {
	case c.optional:
		usage = "ID [--members A,B]"
	case c.every != "":
		usage += "\nID --all"
	}
	f := newFlags("channel "+c.name, usage, c.text+"\nIt returns when that is durable.")
	addr, typ := f.http(), f.channelType()
	members := f.String("members", "", "`UIDS`, separated by commas")
	every, option := new(bool), new(bool)
	if c.every != "" {
		every = f.Bool("all", false, "all there are")
	}
	if c.option != "" {
		option = f.Bool(c.option, false, c.means)
	}
	id, err := f.one(env, args, "the channel's id")
	if err != nil {
		return err
	}
	switch {
	case *every && *members != "":
		return f.wrong("give one of --members and --all")
	case *members == "" && !*every && !c.optional:
		return f.wrong("--members is missing")
	}
	if (c.field == "uids" || c.name == "add") && c.every == "" { // the broker would make one
		if _, err := existing(ctx, *addr, id, *typ); err != nil {
			return err
		}
	}
	body := map[string]any{"channel_id": id, "channel_type": *typ}
	if *members != "" {
		body[c.field] = strings.Split(*members, ",")
	}
	if *option {
		body[map[string]string{"reset": "reset", "temp": "temp_subscriber"}[c.option]] = 1
	}
	path := c.path
	if *every {
		path = c.every
	}
	return change(ctx, env, *addr, path, body, "change the channel")
}

func deleteChannel(ctx context.Context, env Env, args []string) error {
	f := newFlags("channel delete", "ID", "Removes a channel with its members, lists and messages. It returns when that is\ndurable.")
	addr, typ := f.http(), f.channelType()
	id, err := f.one(env, args, "the channel's id")
	if err != nil {
		return err
	}
	if _, err := existing(ctx, *addr, id, *typ); err != nil { // the broker would say that it is gone
		return err
	}
	return change(ctx, env, *addr, "/channel/delete", map[string]any{"channel_id": id, "channel_type": *typ}, "remove the channel")
}

func keepChannel(ctx context.Context, env Env, args []string) error {
	f := newFlags("channel keep", "ID [--max-age TIME] [--max-messages N] [--max-bytes SIZE]\nID --of-type",
		`Sets how much of one channel is kept, whatever the configuration says of its
type: of a group, or with --uid of the pair of users --uid and ID. What is not
named has no bound. With --of-type the configuration holds again. Whole blocks
are dropped, the oldest first, from the next checkpoint on.`)
	addr := f.http()
	uid := f.String("uid", "", "the other `UID` of a pair of users")
	maxAge := f.Duration("max-age", 0, "`TIME` since a message was taken in, like 720h")
	maxMessages := f.Int64("max-messages", 0, "`N` messages")
	var maxBytes int64
	f.Func("max-bytes", "`SIZE` of what is on the disk, like 10MiB", func(text string) (err error) {
		maxBytes, err = config.ParseSize(text)
		return err
	})
	ofType := f.Bool("of-type", false, "the configuration of the channel's type holds")
	id, err := f.one(env, args, "the channel's id")
	if err != nil {
		return err
	}
	body := map[string]any{"channel_id": id, "channel_type": 2}
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
	return change(ctx, env, *addr, "/channel/keep", body, "set what is kept of the channel")
}

// setting is a flag of a channel: its name on the command line and over HTTP.
type setting struct{ name, field, means string }

func settings() []setting {
	return []setting{
		{"ban", "ban", "nobody may send"},
		{"disband", "disband", "it is dissolved: nobody may send"},
		{"send-ban", "send_ban", "the person (--type 1) may not send anywhere"},
		{"allow-stranger", "allow_stranger", "whoever is not on the person's list may send to them"},
		{"large", "large", "it has many members"},
	}
}

// state is what a channel is, as the broker says it.
type state map[string]any

func stateOf(ctx context.Context, addr, id string, typ int) (state, error) {
	s := state{}
	err := ask(ctx, "GET", addr, "/channel/info?"+where(id, typ), nil, &s, "show the channel")
	return s, err
}

func where(id string, typ int) string {
	return url.Values{"channel_id": {id}, "channel_type": {strconv.Itoa(typ)}}.Encode()
}

// existing is stateOf for a change: a channel that nobody has made is refused, since
// the broker would make one of a name that was not meant. A person is always there.
func existing(ctx context.Context, addr, id string, typ int) (state, error) {
	s, err := stateOf(ctx, addr, id, typ)
	var no *failure
	switch {
	case !errors.As(err, &no) || no.status != http.StatusNotFound:
		return s, err
	case typ == 1:
		return state{}, nil
	}
	return nil, fmt.Errorf("cannot change channel %q: there is none of type %d; 'gatepost channel create' makes it", id, typ)
}

func channelInfo(ctx context.Context, env Env, args []string) error {
	usage := "ID"
	for _, s := range settings() {
		usage += fmt.Sprintf(" [--[no-]%s]", s.name)
	}
	f := newFlags("channel info", usage, "Shows how many members a channel has and what holds for it. With flags it sets\nthose and leaves the others as they are; it returns when that is durable.")
	addr, typ, asJSON := f.http(), f.channelType(), f.Bool("json", false, "print JSON")
	for _, s := range settings() {
		f.Bool(s.name, false, s.means)
		f.Bool("no-"+s.name, false, "not so")
	}
	id, err := f.one(env, args, "the channel's id")
	if err != nil {
		return err
	}
	wanted := map[string]int{}
	f.Visit(func(g *flag.Flag) {
		name, off := strings.CutPrefix(g.Name, "no-")
		i := slices.IndexFunc(settings(), func(s setting) bool { return s.name == name })
		if i < 0 {
			return
		}
		value := 1
		if off != (g.Value.String() == "false") { // --ban=false is --no-ban
			value = 0
		}
		field := settings()[i].field
		if was, twice := wanted[field]; twice && was != value {
			err = f.wrong("give one of --%s and --no-%s", name, name)
		}
		wanted[field] = value
	})
	if err != nil {
		return err
	}
	if len(wanted) == 0 {
		now, err := stateOf(ctx, *addr, id, *typ)
		if err != nil {
			return err
		}
		return showState(env, now, *asJSON)
	}
	now, err := existing(ctx, *addr, id, *typ)
	if err != nil {
		return err
	}
	body := map[string]any{"channel_id": id, "channel_type": *typ}
	for _, s := range settings() { // all of them: the broker takes what is not there for 0
		if body[s.field] = 0; now[s.field] != nil {
			body[s.field] = now[s.field]
		}
		if v, ok := wanted[s.field]; ok {
			body[s.field] = v
		}
	}
	return change(ctx, env, *addr, "/channel/info", body, "change the channel")
}

func showState(env Env, s state, asJSON bool) error {
	if asJSON {
		return printJSON(env, s)
	}
	for _, name := range []string{"channel_id", "channel_type", "members", "ban", "disband", "send_ban", "allow_stranger", "large"} {
		if _, err := fmt.Fprintf(env.Stdout, "%-15s %v\n", name, s[name]); err != nil {
			return fmt.Errorf("cannot print: %w", err)
		}
	}
	return nil
}

func channelLists(ctx context.Context, env Env, args []string) error {
	f := newFlags("channel lists", "ID", "Shows the members of a channel, guests included, who of them may not send, and\nwho alone may. With --type 1: who may not send to a person, and who may.")
	addr, typ, asJSON := f.http(), f.channelType(), f.Bool("json", false, "print one JSON object")
	id, err := f.one(env, args, "the channel's id")
	if err != nil {
		return err
	}
	answer := map[string]any{"channel_id": id, "channel_type": *typ}
	var lines strings.Builder
	for _, l := range []struct{ name, word, path string }{
		{"members", "member", "/channel/subscribers"}, {"denied", "denied", "/channel/blacklist"}, {"allowed", "allowed", "/channel/whitelist"},
	} {
		var list []struct{ UID string }
		if err := ask(ctx, "GET", *addr, l.path+"?"+where(id, *typ), nil, &list, "show the channel"); err != nil {
			return err
		}
		uids := []string{}
		for _, e := range list {
			uids = append(uids, e.UID)
		}
		slices.Sort(uids)
		answer[l.name] = uids
		for _, uid := range uids {
			fmt.Fprintf(&lines, "%-8s %s\n", l.word, uid)
		}
	}
	if *asJSON {
		return printJSON(env, answer)
	}
	_, err = fmt.Fprint(env.Stdout, lines.String())
	return err
}
