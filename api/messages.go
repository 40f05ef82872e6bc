package api

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatepost/message"
	"gatepost/queue"
	"gatepost/wukong"
)

// Messages over HTTP: paths, fields and conventions are those of the public
// servers, with two differences on purpose. 200 means that the message is on
// disk, and says its sequence. The same client_msg_no of a sender again gives the
// first answer again.

// systemUID sends what has no from_uid, as with the public servers.
const systemUID = "____system"

// header is the flags of a message, each 0 or 1.
type header struct {
	NoPersist int `json:"no_persist"`
	RedDot    int `json:"red_dot"`
	SyncOnce  int `json:"sync_once"`
}

func (h header) flags() (flags uint8, err error) {
	for _, f := range []struct {
		name  string
		value int
		flag  uint8
	}{{"no_persist", h.NoPersist, wukong.FlagNoPersist}, {"red_dot", h.RedDot, wukong.FlagRedDot}, {"sync_once", h.SyncOnce, wukong.FlagSyncOnce}} {
		switch f.value {
		case 0:
		case 1:
			flags |= f.flag
		default:
			return 0, fmt.Errorf("header.%s is %d, 0 and 1 are possible", f.name, f.value)
		}
	}
	return flags, nil
}

func headerOf(flags uint8) (h header) {
	bit := func(flag uint8) int { return int(min(flags&flag, 1)) }
	return header{NoPersist: bit(wukong.FlagNoPersist), RedDot: bit(wukong.FlagRedDot), SyncOnce: bit(wukong.FlagSyncOnce)}
}

// outgoing is the body of /message/send and /message/sendbatch.
type outgoing struct {
	Header      header   `json:"header"`
	ClientMsgNo string   `json:"client_msg_no"`
	FromUID     string   `json:"from_uid"`
	ID          string   `json:"channel_id"`
	Type        int      `json:"channel_type"`
	Expire      uint32   `json:"expire"`    // seconds; 0: never
	Stream      int      `json:"is_stream"` // 1: pieces of it come as events
	Subscribers []string `json:"subscribers"`
	Payload     []byte   `json:"payload"` // base64
}

// checkName checks the id of a user.
func checkName(field, name string) error {
	if err := message.CheckUID(name); err != nil {
		return fmt.Errorf("%s is %.200q: %w", field, name, err)
	}
	return nil
}

// checkNo checks a client_msg_no.
func checkNo(no string) error {
	if err := message.CheckName(no, message.MaxClientMsgNo); err != nil {
		return fmt.Errorf("client_msg_no: %w", err)
	}
	return nil
}

// record makes the record of a message to one channel, without id and time.
func (s *Server) record(m *outgoing, to string) (r message.Record, err error) {
	flags, err := m.Header.flags()
	if err != nil {
		return r, err
	}
	if m.FromUID == "" {
		m.FromUID = systemUID
	}
	if m.ClientMsgNo == "" {
		var no [16]byte
		rand.Read(no[:])
		m.ClientMsgNo = hex.EncodeToString(no[:])
	}
	if err := checkName("from_uid", m.FromUID); err != nil {
		return r, err
	}
	if err := checkType(m.Type); err != nil {
		return r, err
	}
	if err := checkChannel(uint8(m.Type), to); err != nil {
		return r, err
	}
	most := s.limits.Load().MaxPayload
	switch {
	case m.Payload == nil:
		return r, errors.New("payload is missing; \"\" is an empty message")
	case len(m.Payload) > most:
		return r, fmt.Errorf("payload has %d bytes, the limit is %d (net.max_payload)", len(m.Payload), most)
	}
	if err := checkNo(m.ClientMsgNo); err != nil {
		return r, err
	}
	setting := uint8(0)
	switch m.Stream {
	case 0:
	case 1:
		setting = wukong.SettingStream
	default:
		return r, fmt.Errorf("is_stream is %d, 0 and 1 are possible", m.Stream)
	}
	return message.Record{
		Kind: message.KindMessage, Flags: flags | message.FlagServer, Setting: setting, ChannelType: uint8(m.Type), Expire: m.Expire,
		ChannelID: storageID(m.Type, m.FromUID, to), FromUID: []byte(m.FromUID), ClientMsgNo: []byte(m.ClientMsgNo), Payload: m.Payload,
	}, nil
}

// divert gives commands that are stored to the channel that is for them.
func divert(r *message.Record) {
	if r.Flags&wukong.FlagSyncOnce != 0 && r.Flags&wukong.FlagNoPersist == 0 {
		r.ChannelID = message.CommandsOf(nil, r.ChannelID)
	}
}

// storageID returns under which id a channel is kept.
func storageID(channelType int, uid, id string) []byte {
	if channelType == int(message.ChannelPerson) {
		return wukong.PersonChannel(nil, []byte(uid), []byte(id))
	}
	return []byte(id)
}

// send answers POST /message/send.
func (s *Server) send(w http.ResponseWriter, r *http.Request) {
	var m outgoing
	err := decode(w, r, maxBody, &m)
	if err == nil && len(m.Subscribers) > 0 {
		s.command(w, r, &m)
		return
	}
	var record message.Record
	if err == nil {
		record, err = s.record(&m, m.ID)
	}
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot send: %w", err))
		return
	}
	if s.source != nil && s.core.Access().Barred(record.ChannelType, record.ChannelID, record.FromUID) == message.ReasonSuccess {
		s.inquire(r.Context(), &record)
	}
	reason := s.core.Access().MayPublishAny(record.ChannelType, record.ChannelID, record.FromUID)
	divert(&record)
	volatile := m.Header.NoPersist == 1
	if reason != message.ReasonSuccess {
		if !message.Revocable(reason) {
			refuse(w, reason, m.ID)
			return
		}
		record, volatile = asRefused(&record, reason), true
	}
	answers, status, err := s.commit(r.Context(), []message.Record{record}, volatile)
	switch {
	case err != nil:
		fail(w, status, fmt.Errorf("cannot send to %q: %w", m.ID, err))
	case answers[0].reason != message.ReasonSuccess:
		refuse(w, answers[0].reason, m.ID)
	default:
		reply(w, http.StatusOK, map[string]any{"status": http.StatusOK, "data": map[string]any{
			"client_msg_no": m.ClientMsgNo, "message_id": answers[0].id, "message_seq": answers[0].seq}})
	}
}

// inquire waits until the application has said who is in the channel of a message,
// if it is to be asked.
func (s *Server) inquire(ctx context.Context, r *message.Record) {
	id, arrived := s.enlist(1)
	defer s.dismiss(id)
	if !s.source.Inquire(r.ChannelType, r.ChannelID, string(r.FromUID), id, uint16(s.o.Outbox), time.Now()) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.Wait)
	defer cancel()
	select {
	case <-arrived:
	case <-ctx.Done():
	}
}

// command sends to persons by name instead of to a channel: that is for commands.
func (s *Server) command(w http.ResponseWriter, r *http.Request, m *outgoing) {
	if m.Header.SyncOnce != 1 {
		fail(w, http.StatusBadRequest, errors.New("cannot send: header.sync_once must be 1 with subscribers"))
		return
	}
	if failed, reasons, ok := s.sendMany(w, r, m); ok && len(failed) > 0 {
		fail(w, http.StatusServiceUnavailable, fmt.Errorf("cannot send to %d of %d persons, among them %q: %s", len(failed), len(m.Subscribers), failed[0], reasons[0]))
	} else if ok {
		reply(w, http.StatusOK, map[string]any{"status": http.StatusOK})
	}
}

func refuse(w http.ResponseWriter, reason uint8, id string) {
	status, why := http.StatusServiceUnavailable, "see the broker's log"
	switch reason {
	case message.ReasonSubscriberNotExist, message.ReasonChannelNotExist:
		status, why = http.StatusNotFound, "there is no such channel"
	case message.ReasonBan, message.ReasonDisband:
		status, why = http.StatusForbidden, "the channel is banned or disbanded"
	case message.ReasonSendBan:
		status, why = http.StatusForbidden, "from_uid may not send"
	case message.ReasonNotAllowSend:
		why = errCrowded.Error()
	case message.ReasonSystemError:
		why = "the log takes nothing, see /health"
	}
	reply(w, status, map[string]any{"status": status, "reason": reason, "msg": fmt.Sprintf("cannot send to %q: %s", id, why)})
}

// sendBatch answers POST /message/sendbatch: one message to many persons.
func (s *Server) sendBatch(w http.ResponseWriter, r *http.Request) {
	var m outgoing
	if err := decode(w, r, maxBody, &m); err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot send: %w", err))
		return
	}
	failed, reasons, ok := s.sendMany(w, r, &m)
	if ok {
		reply(w, http.StatusOK, map[string]any{"status": http.StatusOK, "fail_uids": failed, "reason": reasons})
	}
}

// sendMany sends one message to many persons. It returns who did not get it, and
// why, or answers the request itself.
func (s *Server) sendMany(w http.ResponseWriter, r *http.Request, m *outgoing) (failed, reasons []string, ok bool) {
	var err error
	if len(m.Subscribers) == 0 || m.ID != "" {
		err = errors.New("subscribers, and no channel_id, are expected")
	} else if n := len(m.Subscribers); n > maxBatch {
		err = fmt.Errorf("there are %d subscribers, the limit is %d", n, maxBatch)
	}
	m.Type = int(message.ChannelPerson)
	var records []message.Record
	for _, uid := range m.Subscribers {
		if err != nil {
			break
		}
		var record message.Record
		if record, err = s.record(m, uid); err == nil {
			records = append(records, record)
		}
	}
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot send: %w", err))
		return nil, nil, false
	}
	failed, reasons = []string{}, []string{}
	// Those that are refused may be resends: see asRefused.
	var admitted, refused part
	for i := range records {
		reason := s.core.Access().MayPublishAny(records[i].ChannelType, records[i].ChannelID, records[i].FromUID)
		divert(&records[i])
		switch {
		case reason == message.ReasonSuccess:
			admitted.add(records[i], m.Subscribers[i])
		case message.Revocable(reason):
			refused.add(asRefused(&records[i], reason), m.Subscribers[i])
		default:
			failed, reasons = append(failed, m.Subscribers[i]), append(reasons, wukong.Reason(reason).String())
		}
	}
	for _, p := range []struct {
		part
		volatile bool
	}{{admitted, m.Header.NoPersist == 1}, {refused, true}} {
		if len(p.records) == 0 {
			continue
		}
		answers, status, err := s.commit(r.Context(), p.records, p.volatile)
		if err != nil {
			fail(w, status, fmt.Errorf("cannot send to %d persons: %w", len(p.records), err))
			return nil, nil, false
		}
		for i, a := range answers {
			if a.reason != message.ReasonSuccess {
				failed, reasons = append(failed, p.to[i]), append(reasons, wukong.Reason(a.reason).String())
			}
		}
	}
	return failed, reasons, true
}

// part is some of the messages of a request, and to whom they go.
type part struct {
	records []message.Record
	to      []string
}

func (p *part) add(r message.Record, to string) {
	p.records, p.to = append(p.records, r), append(p.to, to)
}

// asRefused is what asks apply for the answer to a message that is refused: the
// first one, if it is the resend of a message that is stored, or else the reason.
func asRefused(r *message.Record, reason uint8) message.Record {
	return message.Record{Kind: message.KindRefused, Setting: reason, ChannelType: r.ChannelType,
		ChannelID: r.ChannelID, FromUID: r.FromUID, ClientMsgNo: r.ClientMsgNo}
}

// answer is what became of a record.
type answer struct {
	part   int
	reason uint8
	id     int64
	seq    uint64
}

// errCrowded says that a request would make one channel too many.
var errCrowded = errors.New("channel limit reached (broker.max_channels)")

// commit gives records ids and times, hands them to the log as one batch, and
// waits for all answers, which come in the order of the records. One that would make
// a channel too many is refused and not in the batch. After an error
// status is the one to answer with: 503 if nothing happened, 504 if the outcome is
// unknown.
func (s *Server) commit(ctx context.Context, records []message.Record, volatile bool) (answers []answer, status int, err error) {
	id, arrived := s.enlist(len(records))
	defer s.dismiss(id)
	b := message.NewBatch(volatile)
	answers = make([]answer, len(records))
	now, access := time.Now(), s.core.Access()
	s.mu.Lock()
	for i := range records {
		r := &records[i]
		r.Timestamp = now.UnixMilli()
		claimed, ok := false, true
		if !volatile {
			claimed, ok = access.Claim(r, true, now)
		}
		if !ok {
			answers[i] = answer{part: i, reason: message.ReasonNotAllowSend}
			continue
		}
		if r.Kind == message.KindMessage || r.Kind == message.KindChannel { // see message.Channel
			r.MessageID = s.ids.Next(now)
		}
		b.Add(r, message.Origin{Conn: id, ClientSeq: uint32(i), MessageID: r.MessageID, Loop: uint16(s.o.Outbox), Claimed: claimed})
	}
	s.mu.Unlock()
	asked := b.Len()
	if asked == 0 {
		b.Release()
		return answers, http.StatusOK, nil
	}
	giveUp := func() {
		access.ReleaseAll(b)
		b.Release()
	}
	deadline := time.NewTimer(s.o.Wait)
	defer deadline.Stop()
	for {
		err := s.log.Propose(b)
		if err == nil {
			break
		}
		if !errors.Is(err, queue.ErrFull) {
			giveUp()
			return nil, http.StatusServiceUnavailable, err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			giveUp()
			return nil, http.StatusServiceUnavailable, fmt.Errorf("the request ended before the log took it: %w", ctx.Err())
		case <-deadline.C:
			giveUp()
			return nil, http.StatusServiceUnavailable, fmt.Errorf("the log was busy for %v, try again", s.o.Wait)
		}
	}
	for range asked {
		select {
		case a := <-arrived:
			if a.reason == message.ReasonUnknown {
				return nil, http.StatusGatewayTimeout, errors.New("outcome unknown: the log could not write and does not know what the disk has; asking again, with the same client_msg_no, does no harm")
			}
			answers[a.part] = a
		case <-ctx.Done():
			return nil, http.StatusGatewayTimeout, fmt.Errorf("outcome unknown: the request ended before the log answered (%w); asking again does no harm", ctx.Err())
		case <-deadline.C:
			return nil, http.StatusGatewayTimeout, fmt.Errorf("outcome unknown: the log did not answer within %v; asking again does no harm", s.o.Wait)
		}
	}
	return answers, http.StatusOK, nil
}

// stored is one message of an answer, as the public servers give it.
type stored struct {
	Header      header `json:"header"`
	Setting     uint8  `json:"setting"`
	ID          int64  `json:"message_id"`
	IDText      string `json:"message_idstr"` // the same, for languages whose numbers are doubles
	ClientMsgNo string `json:"client_msg_no"`
	// What is known of the streams of a message that has some; see Server.show.
	End        uint8      `json:"end,omitempty"`
	EndReason  uint8      `json:"end_reason,omitempty"`
	Error      string     `json:"error,omitempty"`
	StreamData []byte     `json:"stream_data,omitempty"` // base64
	Meta       *eventMeta `json:"event_meta,omitempty"`
	Hint       *eventHint `json:"event_sync_hint,omitempty"`

	Seq       uint64 `json:"message_seq"`
	From      string `json:"from_uid"`
	Channel   string `json:"channel_id"`
	Type      int    `json:"channel_type"`
	Topic     string `json:"topic,omitempty"`
	Expire    uint32 `json:"expire"`
	Timestamp int64  `json:"timestamp"` // unix seconds
	Payload   []byte `json:"payload"`   // base64
}

// place names a channel as a user sees it.
type place struct {
	UID  string `json:"login_uid"`
	ID   string `json:"channel_id"`
	Type int    `json:"channel_type"`
}

// check also checks who asks where the channel is one of two persons, unless what
// is set of one person is meant.
func (p *place) check(pair bool) error {
	if err := checkType(p.Type); err != nil {
		return err
	}
	if pair && p.Type == int(message.ChannelPerson) {
		if err := checkName("login_uid", p.UID); err != nil {
			return err
		}
	}
	return checkChannel(uint8(p.Type), p.ID)
}

func checkType(t int) error {
	if t < 1 || t > int(message.ChannelAgents) {
		return fmt.Errorf("channel_type is %d, 1 to %d are possible", t, message.ChannelAgents)
	}
	return nil
}

func (p *place) find(a Archive) (ch *message.Channel, first, last uint64) {
	return a.Find(uint8(p.Type), storageID(p.Type, p.UID, p.ID))
}

func (p *place) show(entries []entry) []stored {
	all := make([]stored, 0, len(entries))
	for i := range entries {
		e := &entries[i]
		if e.From == systemUID { // has no name for clients
			e.From = ""
		}
		all = append(all, stored{Header: headerOf(e.flags), Setting: e.setting, ID: e.ID, IDText: strconv.FormatInt(e.ID, 10),
			ClientMsgNo: e.ClientMsgNo, Seq: e.Seq, From: e.From, Channel: p.ID, Type: p.Type, Topic: e.Topic,
			Expire: e.Expire, Timestamp: e.Timestamp / 1000, Payload: e.Payload})
	}
	return all
}

// stretch is the body of /channel/messagesync.
type stretch struct {
	place
	Start uint64 `json:"start_message_seq"` // included; 0: the oldest, or going down or without an end the newest
	End   uint64 `json:"end_message_seq"`   // not included; 0: no end
	Limit int    `json:"limit"`             // 0: 100
	Mode  int    `json:"pull_mode"`         // 0 down, 1 up
	// Summary of streams: "basic" is without what their pieces add up to.
	Summary string `json:"event_summary_mode"`
}

// messageSync answers POST /channel/messagesync. However they are asked for,
// messages come in ascending order.
func (s *Server) messageSync(w http.ResponseWriter, r *http.Request) {
	var c stretch
	err := decode(w, r, smallBody, &c)
	if err == nil {
		err = c.check(true)
	}
	if err == nil && c.Limit < 0 {
		err = fmt.Errorf("limit is %d, 1 to %d are possible", c.Limit, maxHistory)
	}
	if c.Limit = min(c.Limit, maxHistory); c.Limit == 0 {
		c.Limit = 100
	}
	if err == nil && c.Mode != 0 && c.Mode != 1 {
		err = fmt.Errorf("pull_mode is %d, 0 (down) and 1 (up) are possible", c.Mode)
	}
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot read messages: %w", err))
		return
	}
	ch, first, last := c.find(s.archive)
	rd := s.reader(r.Context())
	rd.each = textSize(c.ID)
	found := past{First: first, Last: last}
	q := question{from: c.Start, limit: c.Limit, down: c.Mode == 0 || c.Start == 0 && c.End == 0}
	switch {
	case ch == nil:
	case q.down:
		found.First = max(first, min(c.End, maxSeq)+1)
		rd.readDown(ch, &q, &found)
	default:
		if c.End > 0 {
			found.Last = min(last, c.End-1)
		}
		rd.readUp(ch, &q, &found)
	}
	more := 0
	if found.Next != 0 {
		more = 1
	}
	shown := rd.show(&c.place, found.Messages, strings.EqualFold(strings.TrimSpace(c.Summary), "basic"))
	if rd.err != nil {
		rd.fail(w, "messages")
		return
	}
	reply(w, http.StatusOK, map[string]any{"start_message_seq": c.Start, "end_message_seq": c.End, "more": more, "messages": shown})
}

// picked is the body of /messages.
type picked struct {
	place
	Seqs []uint64 `json:"message_seqs"`
	IDs  []int64  `json:"message_ids"`
	Nos  []string `json:"client_msg_nos"`
}

// messages answers POST /messages: those with the sequences, ids and numbers
// asked for, ascending.
func (s *Server) messages(w http.ResponseWriter, r *http.Request) {
	var c picked
	err := decode(w, r, smallBody, &c)
	if err == nil {
		err = c.check(true)
	}
	if n := len(c.Seqs) + len(c.IDs) + len(c.Nos); err == nil && (n == 0 || n > maxPicked) {
		err = fmt.Errorf("%d messages are asked for by message_seqs, message_ids and client_msg_nos, 1 to %d are possible", n, maxPicked)
	}
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot read messages: %w", err))
		return
	}
	ch, first, last := c.find(s.archive)
	rd := s.reader(r.Context())
	rd.room, rd.each = 4*historyBytes, textSize(c.ID)
	found := past{First: first, Last: last}
	more := 0 // 1: not all of those asked for were looked for
	if ch != nil {
		want := newWanted()
		for _, id := range c.IDs {
			want.ids[id] = struct{}{}
		}
		for _, no := range c.Nos {
			want.nos[no] = struct{}{}
		}
		if !want.found() {
			if rd.search(ch, want, 0, &found); found.Next > 0 {
				more = 1
			}
		}
		for _, seq := range c.Seqs {
			one := past{First: seq, Last: seq}
			switch {
			case seq < first || seq > last:
			case rd.room <= 0:
				more = 1
			default:
				rd.readUp(ch, &question{from: seq, limit: 1}, &one)
				found.Messages = append(found.Messages, one.Messages...)
			}
		}
	}
	all := found.Messages
	slices.SortFunc(all, func(a, b entry) int { return cmp.Compare(a.Seq, b.Seq) })
	all = slices.CompactFunc(all, func(a, b entry) bool { return a.Seq == b.Seq })
	shown := rd.show(&c.place, all, false)
	if rd.err != nil {
		rd.fail(w, "messages")
		return
	}
	reply(w, http.StatusOK, map[string]any{"start_message_seq": 0, "end_message_seq": 0, "more": more, "messages": shown})
}

// message answers POST /message: the one with an id or a number.
func (s *Server) message(w http.ResponseWriter, r *http.Request) {
	var c struct {
		place
		ID int64  `json:"message_id"`
		No string `json:"client_msg_no"`
	}
	err := decode(w, r, smallBody, &c)
	if err == nil {
		err = c.check(true)
	}
	if err == nil && (c.ID == 0) == (c.No == "") {
		err = errors.New("one of message_id and client_msg_no is expected")
	}
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot read a message: %w", err))
		return
	}
	s.one(w, r, c.place, question{msgID: c.ID, msgNo: c.No})
}

// placeOf reads a channel from the parameters of a GET.
func placeOf(v url.Values, pair bool) (p place, err error) {
	p = place{UID: v.Get("login_uid"), ID: v.Get("channel_id")}
	if p.Type, err = strconv.Atoi(v.Get("channel_type")); err != nil {
		return p, fmt.Errorf("channel_type is %q, a number is expected", v.Get("channel_type"))
	}
	return p, p.check(pair)
}

// numberOf reads a number from the parameters of a GET.
func numberOf(v url.Values, name string, without, most int) (int, error) {
	text := v.Get(name)
	if text == "" {
		return without, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > most {
		return 0, fmt.Errorf("%s is %q, a number from 0 to %d is expected", name, text, most)
	}
	return n, nil
}

// newestSeq answers GET /channel/max_message_seq; 0: there is no message.
func (s *Server) newestSeq(w http.ResponseWriter, r *http.Request) {
	p, err := placeOf(r.URL.Query(), true)
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot read the newest sequence: %w", err))
		return
	}
	_, _, last := p.find(s.archive)
	reply(w, http.StatusOK, map[string]any{"message_seq": last})
}

// lastMessage answers GET /channel/last_message, byClientMsgNo GET
// /message/byclientmsgno.
func (s *Server) lastMessage(w http.ResponseWriter, r *http.Request) {
	s.single(w, r, question{limit: 1, down: true})
}

func (s *Server) byClientMsgNo(w http.ResponseWriter, r *http.Request) {
	v := r.URL.Query()
	no := v.Get("client_msg_no")
	if no == "" {
		fail(w, http.StatusBadRequest, errors.New("cannot read a message: client_msg_no is missing"))
		return
	}
	s.single(w, r, question{msgNo: no, by: v.Get("from_uid")})
}

func (s *Server) single(w http.ResponseWriter, r *http.Request, q question) {
	p, err := placeOf(r.URL.Query(), true)
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot read a message: %w", err))
		return
	}
	s.one(w, r, p, q)
}

// one answers with the message that a question is for.
func (s *Server) one(w http.ResponseWriter, r *http.Request, p place, q question) {
	ch, first, last := p.find(s.archive)
	found := past{First: first, Last: last}
	rd := s.reader(r.Context())
	switch {
	case ch == nil:
	case q.msgNo != "" || q.msgID != 0:
		rd.search(ch, q.wanted(), 0, &found)
	default:
		rd.readDown(ch, &q, &found)
	}
	shown := rd.show(&p, found.Messages[:min(len(found.Messages), 1)], false)
	switch {
	case rd.err != nil:
		rd.fail(w, "a message")
	case len(shown) > 0:
		reply(w, http.StatusOK, shown[0])
	case found.Next > 0:
		reply(w, http.StatusNotFound, map[string]any{"status": http.StatusNotFound, "next_seq": found.Next,
			"msg": fmt.Sprintf("cannot read a message: there is none among the newest, sequences %d to %d; GET /history with from=%d looks further", found.Next+1, last, found.Next)})
	default:
		fail(w, http.StatusNotFound, errors.New("cannot read a message: there is none"))
	}
}
