package api

import (
	"net/http"
	"strings"
	"testing"

	"gatepost/message"
)

// A change or a message of which nobody knows whether it is stored is neither a
// success nor a refusal, whichever request made it.
func TestUnknownOutcomeIsSaid(t *testing.T) {
	s, log := newServer(t, "alice", "bob")
	s.SetLimits(Limits{MaxMembers: 10, MaxPayload: 100})
	log.answer = message.ReasonUnknown
	for path, body := range map[string]string{
		"/message/send":           `{"channel_id":"g","channel_type":2,"from_uid":"alice","client_msg_no":"n","payload":"eA=="}`,
		"/message/sendbatch":      `{"subscribers":["bob"],"from_uid":"alice","client_msg_no":"n","payload":"eA=="}`,
		"/channel":                group("h", "alice"),
		"/channel/subscriber_add": `{"channel_id":"g","channel_type":2,"subscribers":["carol"]}`,
	} {
		code, text := post(s, path, body)
		if code != http.StatusGatewayTimeout || !strings.Contains(text, "outcome unknown") || !strings.Contains(text, "does no harm") {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
}
