package session

import (
	"encoding/json"
	"net"
	"strings"
	"testing"
	"time"
)

// White space before the first request changes nothing; there may be a little of it
// only, and what begins with it and goes on in another way is no request.
func TestSpaceBeforeTheLogin(t *testing.T) {
	r := newRig(t, nil)
	const login = `{"method":"connect","id":"1","params":{"uid":"alice","deviceId":"d","deviceFlag":1}}`
	for name, c := range map[string]struct {
		pieces []string
		ok     bool
	}{
		"one space":               {[]string{" " + login}, true},
		"each kind":               {[]string{" \t\r\n" + login}, true},
		"an object in pieces":     {[]string{"\r\n" + login[:20], login[20:]}, true},
		"space for itself":        {[]string{"\n", " ", login}, true},
		"as much as there may be": {[]string{strings.Repeat(" ", maxSpace) + login}, true},
		"too much":                {[]string{strings.Repeat(" ", maxSpace+1) + login}, false},
		"nothing but space":       {[]string{strings.Repeat("\n", maxSpace+1)}, false},
		"no object behind it":     {[]string{" [" + login + "]"}, false},
		"another kind of space":   {[]string{"\v" + login}, false},
	} {
		conn, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for i, p := range c.pieces {
			if i > 0 {
				time.Sleep(10 * time.Millisecond) // most likely it is read for itself
			}
			_, _ = conn.Write([]byte(p)) // the answer tells
		}
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		var answer struct {
			Result *struct{ ReasonCode int }
		}
		err = json.NewDecoder(conn).Decode(&answer)
		if timeout, is := err.(net.Error); is && timeout.Timeout() {
			t.Errorf("%s: neither an answer nor an end", name)
		} else if ok := err == nil && answer.Result != nil && answer.Result.ReasonCode == 1; ok != c.ok {
			t.Errorf("%s: logged in is %t, %v", name, ok, err)
		}
	}
}
