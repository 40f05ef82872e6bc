package api

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"

	"gatepost/message"
	"gatepost/wukong"
)

// rule is the body of a request that sets how much of one channel is kept: of
// a group, or of the pair of uid and channel_id.
type rule struct {
	ID          string `json:"channel_id"`
	Type        int    `json:"channel_type"`
	UID         string `json:"uid"`
	MaxAge      *int64 `json:"max_age"` // seconds; 0: no bound
	MaxMessages *int64 `json:"max_messages"`
	MaxBytes    *int64 `json:"max_bytes"`
	OfType      bool   `json:"of_type"` // the rule of its type holds again
}

// keep sets how much of a channel is kept. It takes effect with the next
// checkpoint.
func (s *Server) keep(w http.ResponseWriter, r *http.Request) {
	var c rule
	err := decode(w, r, smallBody, &c)
	var record message.Record
	if err == nil {
		record, err = c.record()
	}
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot set what is kept of a channel: %w", err))
		return
	}
	s.carryOut(w, r, fmt.Sprintf("channel %q", c.ID), []message.Record{record}, message.ReasonSuccess)
}

func (c *rule) record() (r message.Record, err error) {
	if err := checkChannel(uint8(c.Type), c.ID); err != nil {
		return r, err
	}
	if c.Type == int(message.ChannelPerson) {
		if err := checkName("uid, the other one of the pair,", c.UID); err != nil {
			return r, err
		}
	}
	switch {
	case c.Type == int(message.ChannelGroup) && c.UID != "":
		return r, errors.New("uid goes with a pair of users (channel_type 1), not with a group")
	case c.Type != int(message.ChannelPerson) && c.Type != int(message.ChannelGroup):
		return r, fmt.Errorf("channel_type is %d, pairs of users (1) and groups (2) are possible", c.Type)
	case c.OfType == (c.MaxAge != nil || c.MaxMessages != nil || c.MaxBytes != nil):
		return r, errors.New("say one or more of max_age (seconds), max_messages, max_bytes, where 0 is no bound, or of_type")
	}
	r = message.Record{Kind: message.KindKeep, ChannelType: uint8(c.Type), ChannelID: []byte(c.ID)}
	if c.Type == int(message.ChannelPerson) {
		r.ChannelID = wukong.PersonChannel(nil, []byte(c.UID), []byte(c.ID))
	}
	if c.OfType {
		r.Payload = message.AppendKeep(nil, nil)
		return r, nil
	}
	var k message.Keep
	for _, v := range []struct {
		name string
		from *int64
		to   *int64
		most int64
	}{
		{"max_age", c.MaxAge, (*int64)(&k.Age), math.MaxInt64 / int64(time.Second)},
		{"max_messages", c.MaxMessages, &k.Count, math.MaxInt64},
		{"max_bytes", c.MaxBytes, &k.Bytes, math.MaxInt64},
	} {
		if v.from == nil {
			continue
		}
		if *v.from < 0 || *v.from > v.most {
			return r, fmt.Errorf("%s is %d, 0 to %d are possible", v.name, *v.from, v.most)
		}
		*v.to = *v.from
	}
	k.Age *= time.Second
	r.Payload = message.AppendKeep(nil, &k)
	return r, nil
}
