package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"gatepost/diskio"
	"gatepost/message"
	"gatepost/wukong"
)

// Archive reads messages back. Any goroutine may use it.
type Archive interface {
	// Find returns a channel, nil if it has no messages, and its oldest and
	// newest sequence.
	Find(channelType uint8, id []byte) (ch *message.Channel, first, last uint64)
	// Read returns a page from a sequence on; see broker.Store.
	Read(ch *message.Channel, from uint64, limit, maxBytes int) (*message.Page, error)
}

const (
	// maxHistory is how many messages one answer holds, historyBytes how many bytes
	// of them as they are written, but always one message.
	maxHistory   = 1000
	historyBytes = 1 << 20
	// historyLooks is how many messages one request reads to find those that it
	// answers with: by id, by client_msg_no, or among those that have expired.
	historyLooks = 65536
	// historyStep is how many sequences are read at once on the way down.
	historyStep = 64
	// maxSeq is above every sequence; what somebody asks for may be above that.
	maxSeq = 1<<63 - 1
)

// entry is one message of an answer.
type entry struct {
	Seq         uint64 `json:"message_seq"`
	ID          int64  `json:"message_id"`
	From        string `json:"from_uid"`
	ClientMsgNo string `json:"client_msg_no"`
	Timestamp   int64  `json:"timestamp"` // unix milliseconds
	Expire      uint32 `json:"expire,omitempty"`
	Topic       string `json:"topic,omitempty"`
	Payload     []byte `json:"payload"` // base64

	flags, setting uint8
}

// entryCost is how many bytes an answer has for a message beside its texts.
const entryCost = 400

// written is about how many bytes of an answer a message takes, and never fewer,
// without what is known of its streams.
func (e *entry) written() int {
	return entryCost + textSize(e.From) + textSize(e.ClientMsgNo) + textSize(e.Topic) + (len(e.Payload)+2)/3*4
}

// textSize is how many bytes of JSON a text takes, quotes included.
func textSize(s string) int {
	n := 2
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch i += size; {
		case r < ' ', r == '<', r == '>', r == '&', r == '\u2028', r == '\u2029', r == utf8.RuneError:
			n += 6 // \u0000
		case r == '"', r == '\\':
			n += 2
		default:
			n += size
		}
	}
	return n
}

// past is the answer to a request for history. Sequences from First to Last
// exist; Next is where to go on, in the direction asked for, 0 at the end;
// Lost counts those of the stretch that damage has taken.
type past struct {
	ChannelID   string  `json:"channel_id"`
	ChannelType uint8   `json:"channel_type"`
	First       uint64  `json:"first_seq"`
	Last        uint64  `json:"last_seq"`
	Next        uint64  `json:"next_seq"`
	Lost        int     `json:"lost"`
	Messages    []entry `json:"messages"` // ascending
}

// question is what history was asked.
type question struct {
	typ   uint8
	id    []byte
	uid   []byte
	from  uint64 // 0: the oldest, or going down the newest
	limit int
	down  bool
	msgID int64  // not 0: only this one
	msgNo string // not "": only the one with this client_msg_no
	by    string // sender of msgNo; "": anybody
}

// wanted are the messages that a question names.
func (q *question) wanted() *wanted {
	w := newWanted()
	w.by = q.by
	if q.msgID != 0 {
		w.ids[q.msgID] = struct{}{}
	}
	if q.msgNo != "" {
		w.nos[q.msgNo] = struct{}{}
	}
	return w
}

// wanted are messages that are looked for.
type wanted struct {
	ids map[int64]struct{}
	nos map[string]struct{}
	by  string // sender of them; "": anybody
}

func newWanted() *wanted {
	return &wanted{ids: make(map[int64]struct{}), nos: make(map[string]struct{})}
}

// take reports whether a message is looked for, and no longer looks for it.
func (w *wanted) take(r *message.Record) bool {
	if w.by != "" && string(r.FromUID) != w.by {
		return false
	}
	_, byID := w.ids[r.MessageID]
	_, byNo := w.nos[string(r.ClientMsgNo)]
	delete(w.ids, r.MessageID)
	delete(w.nos, string(r.ClientMsgNo))
	return byID || byNo
}

func (w *wanted) found() bool { return len(w.ids) == 0 && len(w.nos) == 0 }

func ask(v url.Values) (q question, err error) {
	q = question{limit: 100, uid: []byte(v.Get("uid")), msgNo: v.Get("client_msg_no"), by: v.Get("from_uid")}
	for name := range v {
		switch name {
		case "uid", "to", "group", "from", "limit", "order", "message_id", "client_msg_no", "from_uid":
		default:
			return q, fmt.Errorf("there is no parameter %q: uid, to, group, from, limit, order, message_id, client_msg_no and from_uid are possible", name)
		}
	}
	to, group := v.Get("to"), v.Get("group")
	switch {
	case len(q.uid) == 0 && (v.Has("uid") || group == ""):
		return q, fmt.Errorf("uid is missing: who asks; for a group the application may leave it out")
	case (to == "") == (group == ""):
		return q, fmt.Errorf("give one of to and group")
	case to != "":
		q.typ, q.id = message.ChannelPerson, wukong.PersonChannel(nil, q.uid, []byte(to))
	default:
		q.typ, q.id = message.ChannelGroup, []byte(group)
	}
	number := func(name string, max uint64) (n uint64) {
		if text := v.Get(name); text != "" && err == nil {
			if n, err = strconv.ParseUint(text, 10, 64); err != nil || n > max {
				err = fmt.Errorf("%s is %q, a number from 0 to %d is needed", name, text, max)
			}
		}
		return n
	}
	q.from = number("from", maxSeq)
	q.msgID = int64(number("message_id", 1<<63-1))
	if n := number("limit", maxHistory); n > 0 {
		q.limit = int(n)
	}
	switch order := v.Get("order"); order {
	case "", "up":
	case "down":
		q.down = true
	default:
		return q, fmt.Errorf("order is %q, up or down are possible", order)
	}
	return q, err
}

// history answers GET /history.
func (s *Server) history(w http.ResponseWriter, r *http.Request) {
	q, err := ask(r.URL.Query())
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot read history: %w", err))
		return
	}
	if q.typ == message.ChannelGroup && len(q.uid) > 0 && !s.core.Access().IsMember(q.typ, string(q.id), string(q.uid)) {
		fail(w, http.StatusForbidden, fmt.Errorf("cannot read history: %q is no member of group %q, or there is no such group", q.uid, q.id))
		return
	}
	ch, first, last := s.archive.Find(q.typ, q.id)
	if _, there := s.core.Access().Info(q.typ, string(q.id)); ch == nil && !there && q.typ == message.ChannelGroup {
		fail(w, http.StatusNotFound, fmt.Errorf("cannot read history: there is no group %q", q.id))
		return
	}
	answer := past{ChannelID: string(q.id), ChannelType: q.typ, First: first, Last: last, Messages: []entry{}}
	rd := s.reader(r.Context())
	switch {
	case ch == nil:
	case q.msgID != 0 || q.msgNo != "":
		rd.search(ch, q.wanted(), q.from, &answer)
	case q.down:
		rd.readDown(ch, &q, &answer)
	default:
		rd.readUp(ch, &q, &answer)
	}
	if rd.err != nil {
		rd.fail(w, "history")
		return
	}
	reply(w, http.StatusOK, answer)
}

// reader reads history for one request. When err is set nothing that it has read
// may be answered with: messages are missing in it that are not lost.
type reader struct {
	s   *Server
	ctx context.Context
	err error

	now           int64 // unix milliseconds: what has expired by then is not shown
	looks         int   // messages that it may still read
	each          int   // bytes of a message of the answer beside what is in its entry
	room          int   // bytes that the answer may still have, of messages
	events, bytes int   // that it may still read of events
}

// reader returns a reader for one request, with an answer of historyBytes.
func (s *Server) reader(ctx context.Context) *reader {
	return &reader{s: s, ctx: ctx, now: time.Now().UnixMilli(), looks: historyLooks, room: historyBytes, events: pageEvents, bytes: pageBytes}
}

// fail answers that something cannot be read now.
func (rd *reader) fail(w http.ResponseWriter, what string) {
	w.Header().Set("Retry-After", "1")
	fail(w, http.StatusServiceUnavailable, fmt.Errorf("cannot read %s now: %w; try again", what, rd.err))
}

// page reads a page, nil if the request is over: then err says why. What damage has
// taken is in Page.Lost, and in the log.
func (rd *reader) page(ch *message.Channel, from uint64, limit int) *message.Page {
	if rd.err == nil {
		rd.err = rd.ctx.Err()
	}
	if rd.err != nil {
		return nil
	}
	page, err := rd.s.archive.Read(ch, from, limit, historyBytes)
	switch diskio.Classify(err) {
	case diskio.OK:
	case diskio.Passing:
		page.Batch.Release()
		rd.err = err
		return nil
	default:
		rd.s.o.Logger.Error("history is not complete", "channel", ch.ID, "from", from, "lost", page.Lost, "err", err)
	}
	rd.looks -= len(page.Seqs) + page.Lost
	return page
}

// take appends the messages of a page up to sequence to that have not expired at
// now, in unix milliseconds. It returns how many of the page there are, with those.
func (p *past) take(page *message.Page, to uint64, now int64) (n int) {
	var r message.Record
	for i, seq := range page.Seqs {
		if seq > to {
			break
		}
		if err := page.Batch.Record(i, &r); err != nil {
			panic("BUG: a page that was read cannot be read: " + err.Error())
		}
		if n++; !r.Expired(now) {
			p.Messages = append(p.Messages, entryOf(&r, seq))
		}
	}
	return n
}

// expired counts the messages from a sequence to another that have expired, among
// those that the reader may still read.
func (rd *reader) expired(ch *message.Channel, from, to uint64) (n uint64) {
	var r message.Record
	for next := from; next <= to && rd.looks > 0; {
		page := rd.page(ch, next, int(min(to-next+1, maxHistory)))
		if page == nil {
			break
		}
		for i, seq := range page.Seqs {
			if seq <= to && page.Batch.Record(i, &r) == nil && r.Expired(rd.now) {
				n++
			}
		}
		page.Batch.Release()
		if page.Next <= next {
			break
		}
		next = page.Next
	}
	return n
}

// size is how many bytes of the answer messages take.
func (rd *reader) size(entries []entry) (bytes int) {
	for i := range entries {
		bytes += rd.each + entries[i].written()
	}
	return bytes
}

// entryOf copies a message out of its page.
func entryOf(r *message.Record, seq uint64) entry {
	_, topic := r.Stream()
	return entry{
		Seq: seq, ID: r.MessageID, From: string(r.FromUID), ClientMsgNo: string(r.ClientMsgNo),
		Timestamp: r.Timestamp, Expire: r.Expire, Topic: string(topic), Payload: append([]byte(nil), r.Payload...), flags: r.Flags, setting: r.Setting,
	}
}

// cut takes the room of messages, leaves out the last of them for which there is
// none, but never the first, and returns the first that was left out, or 0.
func (rd *reader) cut(p *past) (out uint64) {
	for i := range p.Messages {
		n := rd.size(p.Messages[i : i+1])
		if i > 0 && n > rd.room {
			out = p.Messages[i].Seq
			p.Messages = p.Messages[:i]
			return out
		}
		rd.room -= n
	}
	return 0
}

// readUp reads from q.from on.
func (rd *reader) readUp(ch *message.Channel, q *question, answer *past) {
	next, bytes := max(q.from, answer.First), 0
	for len(answer.Messages)+answer.Lost < q.limit && bytes < rd.room && next <= answer.Last && rd.looks > 0 {
		page := rd.page(ch, next, q.limit-len(answer.Messages)-answer.Lost)
		if page == nil {
			return
		}
		before := len(answer.Messages)
		answer.take(page, answer.Last, rd.now)
		bytes += rd.size(answer.Messages[before:])
		answer.Lost += page.Lost
		page.Batch.Release()
		if page.Next == next { // dropped meanwhile
			break
		}
		next = page.Next
	}
	if out := rd.cut(answer); out > 0 {
		next = out
	}
	if next <= answer.Last {
		answer.Next = next
	}
}

// readDown reads up to q.from, in steps from the newest to the oldest.
func (rd *reader) readDown(ch *message.Channel, q *question, answer *past) {
	to := answer.Last
	if q.from > 0 {
		to = min(to, q.from)
	}
	down := past{} // descending
	bytes := 0
	for to >= answer.First && to > 0 && len(down.Messages)+down.Lost < q.limit && bytes < rd.room && rd.looks > 0 {
		n := uint64(min(historyStep, q.limit-len(down.Messages)-down.Lost))
		from := answer.First
		if to-answer.First >= n {
			from = to - n + 1
		}
		step := past{}
		for next := from; next <= to; {
			page := rd.page(ch, next, int(to-next+1))
			if page == nil {
				return
			}
			taken := step.take(page, to, rd.now)
			if page.First <= next { // else retention was faster
				step.Lost += int(min(page.Next, to+1)-next) - taken
			}
			page.Batch.Release()
			if page.Next == next {
				break
			}
			next = page.Next
		}
		bytes += rd.size(step.Messages)
		slices.Reverse(step.Messages)
		down.Messages = append(down.Messages, step.Messages...)
		down.Lost += step.Lost
		to = from - 1
	}
	if out := rd.cut(&down); out > 0 {
		to = out
	}
	slices.Reverse(down.Messages)
	answer.Messages = append(answer.Messages, down.Messages...)
	answer.Lost += down.Lost
	if to >= answer.First {
		answer.Next = to
	}
}

// search looks for messages: those with an id where the time in the id says that
// they lie, and then all from the newest to the oldest, or from the sequence from
// down. Next is where it stopped, 0 if nothing is left to look at or to look for.
func (rd *reader) search(ch *message.Channel, want *wanted, from uint64, answer *past) {
	in := past{First: answer.First, Last: answer.Last}
	if from > 0 {
		in.Last = min(in.Last, from)
	}
	for id := range want.ids {
		near := in
		near.First = rd.seek(ch, id-idSlack, near)
		if near.Last = min(near.Last, rd.seek(ch, id+idSlack, near)); near.First <= near.Last {
			one := &wanted{ids: map[int64]struct{}{id: {}}, by: want.by}
			if rd.scan(ch, one, &near); one.found() {
				delete(want.ids, id)
				answer.Messages = append(answer.Messages, near.Messages...)
			}
		}
	}
	rd.scan(ch, want, &in)
	answer.Messages = append(answer.Messages, in.Messages...)
	answer.Next = in.Next
}

// idSlack is by how much the ids of a channel's messages are out of order where
// several loops give them: some milliseconds. After the clock was set they are by
// more, and the whole channel is looked through.
const idSlack = 1000 << message.IDTimeShift

// seek returns the first sequence of a stretch behind which ids are at least id, if
// they ascend, or one behind the stretch.
func (rd *reader) seek(ch *message.Channel, id int64, in past) uint64 {
	low, high := in.First, in.Last+1
	var rec message.Record
	for low < high {
		mid := low + (high-low)/2
		page := rd.page(ch, mid, 1)
		if page == nil {
			return high
		}
		below := len(page.Seqs) > 0 && page.Batch.Record(0, &rec) == nil && rec.MessageID < id
		next := page.Next
		page.Batch.Release()
		if below {
			low = max(mid+1, min(next, high))
		} else {
			high = mid
		}
	}
	return low
}

// scan looks for messages in a stretch, from the newest to the oldest, and appends
// them to it. Next is where it stopped for want of looks or of room, else 0.
func (rd *reader) scan(ch *message.Channel, want *wanted, in *past) {
	var rec message.Record
	to := in.Last
	for to >= in.First && to > 0 && !want.found() && rd.looks > 0 && rd.room > 0 {
		from := in.First
		if n := uint64(min(maxHistory, rd.looks)); to-in.First >= n {
			from = to - n + 1
		}
		for next := from; next <= to; {
			page := rd.page(ch, next, int(to-next+1))
			if page == nil {
				return
			}
			for i := len(page.Seqs) - 1; i >= 0; i-- {
				if seq := page.Seqs[i]; seq <= to && page.Batch.Record(i, &rec) == nil && want.take(&rec) && !rec.Expired(rd.now) {
					in.Messages = append(in.Messages, entryOf(&rec, seq))
					rd.room -= rd.size(in.Messages[len(in.Messages)-1:])
				}
			}
			page.Batch.Release()
			if page.Next == next {
				break
			}
			next = page.Next
		}
		to = from - 1
	}
	if to >= in.First && !want.found() {
		in.Next = to
	}
}
