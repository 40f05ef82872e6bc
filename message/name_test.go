package message

import (
	"strings"
	"testing"
)

func TestWhatMayBeAName(t *testing.T) {
	long := strings.Repeat("n", MaxName)
	for name, fine := range map[string]bool{
		"alice": true, "7f6c1f0a-4d1e-4a53-9a06-1d0c3c2b9a11": true, "用户1": true, "a|b": true, "a b": true, "é😀": true, long: true, "a\u00a0b": true, "a\u2028": true,
		"\x00": false, "a\nb": false, "a\x1f": false, "a\x7f": false, "a\u0080": false, "\u009fa": false, "\xff": false, "a\xe2\x82": false,
		"\xed\xa0\x80": false, "a\ufffd": false, long + "n": false, strings.Repeat("é", MaxName/2) + "é": false,
	} {
		for what, err := range map[string]error{
			"uid": CheckUID(name), "uid in bytes": CheckUID([]byte(name)), "name": CheckName([]byte(name), MaxName), "group": CheckChannelID(ChannelGroup, []byte(name)),
			"client_msg_no": CheckName(name, MaxName),
		} {
			if (err == nil) != fine {
				t.Errorf("%s %q: %v", what, name, err)
			}
		}
	}
	for _, uid := range []string{"", " ", "a@b", "a#", "&", "a____cmd", "a____event"} {
		if CheckUID(uid) == nil {
			t.Errorf("%q may be a uid", uid)
		}
	}
	// Half a surrogate of an escape in JSON.
	if err := CheckName("\ufffd", MaxName); err == nil || !strings.Contains(err.Error(), "U+FFFD at byte 0") {
		t.Error(err)
	}
	if err := CheckName("", 0); err != nil {
		t.Error(err)
	}
}

func TestWhatMayBeAChannelID(t *testing.T) {
	const long = "7f6c1f0a-4d1e-4a53-9a06-1d0c3c2b9a11"
	for _, c := range []struct {
		typ  uint8
		id   string
		fine bool
	}{
		{ChannelPerson, "a", true}, {ChannelGroup, long, true}, {ChannelGroup, " a", true}, {ChannelGroup, "用户1", true}, {ChannelGroup, "\u3000a", true},
		{ChannelGroup, "", false}, {ChannelGroup, "  ", false}, {ChannelGroup, "\u3000", false}, {ChannelGroup, "\u00a0 ", false}, {ChannelGroup, "\n", false},
		{ChannelGroup, "@", false}, {ChannelGroup, "a#", false}, {ChannelGroup, "&" + long, false}, {ChannelGroup, long + "@", false}, {ChannelPerson, "a@b", false},
		{ChannelAgent, "a@b", true}, {ChannelAgent, "a", false}, {ChannelAgent, "a@", false}, {ChannelAgent, "a@b@c", false}, {ChannelAgent, "a@b#", false},
		{ChannelTopic, "a@b", true}, {ChannelTopic, "a", true}, {ChannelTopic, "@&", false},
		{ChannelGroup, "a____cmd", false}, {ChannelGroup, "a____event", false}, {ChannelTopic, "a@b____cmd", false},
	} {
		if err := CheckChannelID(c.typ, []byte(c.id)); (err == nil) != c.fine {
			t.Errorf("type %d, %q: %v", c.typ, c.id, err)
		}
	}
}

func TestAllocsOfCheckName(t *testing.T) {
	name := []byte("7f6c1f0a-4d1e-4a53-9a06-1d0c3c2b9a11-é😀")
	if n := testing.AllocsPerRun(100, func() {
		if CheckName(name, MaxName) != nil || CheckChannelID(ChannelGroup, name) != nil {
			t.Fatal()
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Wherever in a name a byte stands, it counts.
func TestEveryByteOfANameCounts(t *testing.T) {
	for n := 1; n <= 20; n++ {
		for at := range n {
			for c := range 256 {
				name := []byte(strings.Repeat("~", n))
				name[at] = byte(c)
				if fine := c >= ' ' && c < 0x7f; (CheckName(name, MaxName) == nil) != fine || plain(name) != fine {
					t.Fatalf("%q: %v, plain %v", name, CheckName(name, MaxName), plain(name))
				}
			}
		}
	}
}
