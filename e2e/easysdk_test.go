package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The dialogues of testdata/easysdk are what the clients of JSON-RPC write, and
// what they must read to go on:
//
//	websocket text     the kind of WebSocket message, text or binary; or tcp
//	> OBJECT           the client writes it
//	< OBJECT           the client reads it; * is a number, or the text of a message number
//	got PAYLOAD        what the client sent reaches another user with this payload
//	bob PAYLOAD        another user sends this payload to the client
//
// $me and $bob are the two users, $id and $seq those of the message that was
// read last. After the dialogue the client has acknowledged all that it read: at
// its next login it gets what is new and nothing else.
func TestEasySDKDialogues(t *testing.T) {
	b := start(t)
	files, err := filepath.Glob("testdata/easysdk/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			me, bob := name+"-user", name+"-bob"
			friend := b.must(t, dialer{uid: bob})
			values := map[string]string{"me": me, "bob": bob}
			fill := func(s string) string {
				return os.Expand(s, func(key string) string { return values[key] })
			}
			var how, login, welcome string
			open := func() *rpcRaw {
				c := b.rpc(t, how != "tcp")
				if how == "websocket binary" {
					c.Conn.(*wsConn).data = opBinary
				}
				return c
			}
			var c *rpcRaw
			for n, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
				kind, rest, _ := strings.Cut(line, " ")
				switch kind {
				case "#":
				case "tcp", "websocket":
					how = line
					c = open()
				case ">":
					if login == "" {
						login = fill(rest)
					}
					c.put(fill(rest))
				case "<":
					if welcome == "" {
						welcome = fill(rest)
					}
					match(t, fmt.Sprintf("%s line %d", file, n+1), c.next(), rest, values)
				case "got":
					if m := friend.nextRecv(t); string(m.payload) != rest || m.from != me {
						t.Fatalf("%s line %d: %q of %s reached the other user", file, n+1, m.payload, m.from)
					}
				case "bob":
					friend.tell(t, me, fmt.Sprint("line-", n+1), rest)
				default:
					t.Fatalf("%s line %d: %q", file, n+1, line)
				}
			}
			c.Close()
			friend.tell(t, me, "afterwards", "new")
			c = open().put(login)
			match(t, "next login", c.next(), welcome, values)
			if m := c.next(); !strings.Contains(m, `"clientMsgNo":"afterwards"`) {
				t.Errorf("pushed again after its acknowledgement: %s", m)
			}
		})
	}
}

// match compares what came with a line of a dialogue and notes the values that it
// names for the first time in a message.
func match(t *testing.T, where, got, want string, values map[string]string) {
	t.Helper()
	pattern := regexp.QuoteMeta(want)
	pattern = strings.ReplaceAll(pattern, `\*`, `[-0-9a-zA-Z]+`)
	for _, key := range []string{"id", "seq"} {
		pattern = strings.Replace(pattern, `\$`+key, `(?P<`+key+`>[0-9]+)`, 1)
	}
	for _, key := range []string{"me", "bob"} {
		pattern = strings.ReplaceAll(pattern, `\$`+key, regexp.QuoteMeta(values[key]))
	}
	re := regexp.MustCompile("^" + pattern + "$")
	found := re.FindStringSubmatch(got)
	if found == nil {
		t.Fatalf("%s:\ngot  %s\nwant %s", where, got, want)
	}
	for i, key := range re.SubexpNames() {
		if key != "" {
			values[key] = found[i]
		}
	}
}
