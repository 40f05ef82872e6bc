package api

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"

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
	// maxHistory is how many messages one answer holds, historyBytes about how
	// many bytes of them, but always one message.
	maxHistory   = 1000
	historyBytes = 1 << 20
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
	switch {
	case ch == nil:
	case q.msgID != 0 || q.msgNo != "":
		s.search(r, ch, &q, &answer)
	case q.down:
		s.readDown(ch, &q, &answer)
	default:
		s.readUp(ch, &q, &answer)
	}
	reply(w, http.StatusOK, answer)
}

// take appends the messages of a page up to sequence to and returns their bytes.
func (p *past) take(page *message.Page, to uint64) (bytes int) {
	var r message.Record
	for i, seq := range page.Seqs {
		if seq > to {
			break
		}
		if err := page.Batch.Record(i, &r); err != nil {
			panic("BUG: a page that was read cannot be read: " + err.Error())
		}
		_, topic := r.Stream()
		p.Messages = append(p.Messages, entry{
			Seq: seq, ID: r.MessageID, From: string(r.FromUID), ClientMsgNo: string(r.ClientMsgNo),
			Timestamp: r.Timestamp, Expire: r.Expire, Topic: string(topic), Payload: append([]byte(nil), r.Payload...), flags: r.Flags, setting: r.Setting,
		})
		bytes += r.Size()
	}
	return bytes
}

// readUp reads from q.from on.
func (s *Server) readUp(ch *message.Channel, q *question, answer *past) {
	next, bytes := max(q.from, answer.First), 0
	for len(answer.Messages)+answer.Lost < q.limit && bytes < historyBytes && next <= answer.Last {
		page := s.page(ch, next, q.limit-len(answer.Messages)-answer.Lost)
		bytes += answer.take(page, answer.Last)
		answer.Lost += page.Lost
		page.Batch.Release()
		if page.Next == next { // dropped meanwhile
			break
		}
		next = page.Next
	}
	if next <= answer.Last {
		answer.Next = next
	}
}

// page reads a page. What cannot be read is in Lost, and in the log.
func (s *Server) page(ch *message.Channel, from uint64, limit int) *message.Page {
	page, err := s.archive.Read(ch, from, limit, historyBytes)
	if err != nil {
		s.o.Logger.Error("history is not complete", "channel", ch.ID, "from", from, "lost", page.Lost, "err", err)
	}
	return page
}

// readDown reads up to q.from, in steps from the newest to the oldest.
func (s *Server) readDown(ch *message.Channel, q *question, answer *past) {
	to := answer.Last
	if q.from > 0 {
		to = min(to, q.from)
	}
	var steps [][]entry
	count, bytes := 0, 0
	for to >= answer.First && to > 0 && count+answer.Lost < q.limit && bytes < historyBytes {
		n := uint64(min(historyStep, q.limit-count-answer.Lost))
		from := answer.First
		if to-answer.First >= n {
			from = to - n + 1
		}
		step := past{}
		for next := from; next <= to; {
			page := s.page(ch, next, int(to-next+1))
			before := len(step.Messages)
			bytes += step.take(page, to)
			if page.First <= next { // else retention was faster
				step.Lost += int(min(page.Next, to+1)-next) - (len(step.Messages) - before)
			}
			page.Batch.Release()
			if page.Next == next {
				break
			}
			next = page.Next
		}
		steps = append(steps, step.Messages)
		count += len(step.Messages)
		answer.Lost += step.Lost
		to = from - 1
	}
	for i := len(steps) - 1; i >= 0; i-- {
		answer.Messages = append(answer.Messages, steps[i]...)
	}
	if to >= answer.First {
		answer.Next = to
	}
}

// search looks for one message: one with an id where the time in the id says that
// it lies, and then, as any other, from the newest to the oldest.
func (s *Server) search(r *http.Request, ch *message.Channel, q *question, answer *past) {
	if q.msgID != 0 {
		near := past{First: answer.First, Last: answer.Last}
		near.First = s.seek(ch, q.msgID-idSlack, near)
		if near.Last = min(near.Last, s.seek(ch, q.msgID+idSlack, near)); near.First <= near.Last {
			if s.scan(r, ch, q, &near); len(near.Messages) > 0 {
				answer.Messages = near.Messages
				return
			}
		}
	}
	s.scan(r, ch, q, answer)
}

// idSlack is by how much the ids of a channel's messages are out of order where
// several loops give them: some milliseconds. After the clock was set they are by
// more, and the whole channel is looked through.
const idSlack = 1000 << message.IDTimeShift

// seek returns the first sequence of a stretch behind which ids are at least id, if
// they ascend, or one behind the stretch.
func (s *Server) seek(ch *message.Channel, id int64, in past) uint64 {
	low, high := in.First, in.Last+1
	var rec message.Record
	for low < high {
		mid := low + (high-low)/2
		page := s.page(ch, mid, 1)
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

// scan looks for one message in a stretch, from the newest to the oldest.
func (s *Server) scan(r *http.Request, ch *message.Channel, q *question, answer *past) {
	var rec message.Record
	for to := answer.Last; to >= answer.First && to > 0 && r.Context().Err() == nil; {
		from := answer.First
		if to-answer.First >= maxHistory {
			from = to - maxHistory + 1
		}
		for next := from; next <= to; {
			page := s.page(ch, next, int(to-next+1))
			for i, seq := range page.Seqs {
				if page.Batch.Record(i, &rec) == nil && seq <= to &&
					(q.msgID == 0 || rec.MessageID == q.msgID) &&
					(q.msgNo == "" || string(rec.ClientMsgNo) == q.msgNo) && (q.by == "" || string(rec.FromUID) == q.by) {
					one := message.Page{Batch: page.Batch, Seqs: page.Seqs[:i+1]}
					answer.take(&one, seq)
					answer.Messages = answer.Messages[len(answer.Messages)-1:]
					page.Batch.Release()
					return
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
}
