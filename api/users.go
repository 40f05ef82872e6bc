package api

import (
	"errors"
	"fmt"
	"net/http"

	"gatepost/broker"
	"gatepost/message"
)

// maxUIDs is how many users one request may name.
const maxUIDs = 10_000

// maxDevice is the largest device flag.
const maxDevice = int(message.AllDevices) - 1

// login is the body of /user/token and /user/device_quit.
type login struct {
	UID    string `json:"uid"`
	Token  string `json:"token"`
	Device int    `json:"device_flag"`  // -1 with device_quit: all
	Level  int    `json:"device_level"` // 0 slave, 1 master
}

// token answers POST /user/token: devices of one flag log in with it from now on.
func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	var c login
	err := decode(w, r, smallBody, &c)
	if err == nil {
		err = checkName("uid", c.UID)
	}
	switch {
	case err != nil:
	case c.Token == "":
		err = fmt.Errorf("token is empty, 1 to %d bytes are possible", maxToken)
	case message.CheckName(c.Token, maxToken) != nil:
		err = fmt.Errorf("token: %w", message.CheckName(c.Token, maxToken))
	case c.Device < 0 || c.Device > maxDevice:
		err = fmt.Errorf("device_flag is %d, 0 to %d are possible", c.Device, maxDevice)
	case c.Level != int(message.LevelSlave) && c.Level != int(message.LevelMaster):
		err = fmt.Errorf("device_level is %d, 0 (slave) and 1 (master) are possible", c.Level)
	}
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot set a token: %w", err))
		return
	}
	s.changeUser(w, r, []string{c.UID}, message.UserChange{Op: message.OpToken, Token: message.NewToken(uint8(c.Device), uint8(c.Level), []byte(c.Token))})
}

// deviceQuit answers POST /user/device_quit: the token is no longer good, and who
// is online with it is told so and ended.
func (s *Server) deviceQuit(w http.ResponseWriter, r *http.Request) {
	var c login
	err := decode(w, r, smallBody, &c)
	if err == nil {
		err = checkName("uid", c.UID)
	}
	if err == nil && (c.Device < -1 || c.Device > maxDevice) {
		err = fmt.Errorf("device_flag is %d, 0 to %d are possible, and -1 for all", c.Device, maxDevice)
	}
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot end a device: %w", err))
		return
	}
	device := message.AllDevices
	if c.Device >= 0 {
		device = uint8(c.Device)
	}
	s.changeUser(w, r, []string{c.UID}, message.UserChange{Op: message.OpQuit, Token: message.Token{Device: device}})
}

// offlinePush answers POST /user/offline_push, which the public servers do not
// have: whether devices of a flag are pushed what they missed when they connect.
func (s *Server) offlinePush(w http.ResponseWriter, r *http.Request) {
	var c struct {
		UID     string `json:"uid"`
		Device  int    `json:"device_flag"`
		Enabled int    `json:"enabled"` // 0 or 1
	}
	err := decode(w, r, smallBody, &c)
	if err == nil {
		err = checkName("uid", c.UID)
	}
	switch {
	case err != nil:
	case c.Device < 0 || c.Device > maxDevice:
		err = fmt.Errorf("device_flag is %d, 0 to %d are possible", c.Device, maxDevice)
	case c.Enabled != 0 && c.Enabled != 1:
		err = fmt.Errorf("enabled is %d, 0 and 1 are possible", c.Enabled)
	}
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot change what a device is pushed: %w", err))
		return
	}
	op := message.OpSilent
	if c.Enabled == 1 {
		op = message.OpPushed
	}
	s.changeUser(w, r, []string{c.UID}, message.UserChange{Op: op, Token: message.Token{Device: uint8(c.Device)}})
}

// changeUser commits one change of each user and answers the request.
func (s *Server) changeUser(w http.ResponseWriter, r *http.Request, uids []string, c message.UserChange) {
	parts := make([]message.Record, 0, len(uids))
	for _, uid := range uids {
		parts = append(parts, message.Record{Kind: message.KindUser, FromUID: []byte(uid), Payload: message.AppendUserChange(nil, &c)})
	}
	name := "users"
	if len(uids) == 1 {
		name = fmt.Sprintf("user %q", uids[0])
	}
	s.carryOut(w, r, name, parts, message.ReasonSuccess)
}

// systems returns the handler of POST /user/systemuids_add and _remove.
func (s *Server) systems(op message.UserOp) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var c struct {
			UIDs []string `json:"uids"`
		}
		err := decode(w, r, smallBody, &c)
		if n := len(c.UIDs); err == nil && (n == 0 || n > changeMembers) {
			err = fmt.Errorf("uids has %d entries, 1 to %d are possible", n, changeMembers)
		}
		for _, uid := range c.UIDs {
			if err == nil {
				err = checkName("uid", uid)
			}
		}
		if err != nil {
			fail(w, http.StatusBadRequest, fmt.Errorf("cannot change who may send everywhere: %w", err))
			return
		}
		s.changeUser(w, r, c.UIDs, message.UserChange{Op: op})
	}
}

// allSystems answers GET /user/systemuids.
func (s *Server) allSystems(w http.ResponseWriter, _ *http.Request) {
	uids := s.core.Access().Systems()
	if uids == nil {
		uids = []string{}
	}
	reply(w, http.StatusOK, uids)
}

// onlineStatus answers POST /user/onlinestatus: those of the users who are online,
// once for each device flag.
func (s *Server) onlineStatus(w http.ResponseWriter, r *http.Request) {
	var uids []string
	err := decode(w, r, maxBody, &uids)
	if err == nil && len(uids) > maxUIDs {
		err = fmt.Errorf("%d users are asked for, the limit is %d", len(uids), maxUIDs)
	}
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot tell who is online: %w", err))
		return
	}
	found, err := s.core.Connections(r.Context(), uids)
	if err != nil {
		fail(w, http.StatusServiceUnavailable, fmt.Errorf("cannot tell who is online: %w", err))
		return
	}
	type line struct {
		UID    string `json:"uid"`
		Device uint8  `json:"device_flag"`
		Online int    `json:"online"`
	}
	all := make([]line, 0, len(found))
	for _, c := range found {
		all = append(all, line{c.UID, c.Device, 1})
	}
	reply(w, http.StatusOK, all)
}

// end returns the handler of POST /conn/kick, which tells the client why, and of
// /conn/remove, which does not.
func (s *Server) end(reason uint8) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var c struct {
			UID  string `json:"uid"`
			Conn int64  `json:"conn_id"` // of /connz; 0: all of the user
		}
		err := decode(w, r, smallBody, &c)
		if err == nil {
			err = checkName("uid", c.UID)
		}
		if err != nil {
			fail(w, http.StatusBadRequest, fmt.Errorf("cannot end a connection: %w", err))
			return
		}
		var which *broker.Online
		if c.Conn != 0 {
			which = &broker.Online{Conn: uint64(c.Conn) >> loopBits, Loop: uint16(c.Conn) & (1<<loopBits - 1)}
		}
		switch n, err := s.core.End(r.Context(), c.UID, which, reason); {
		case errors.Is(err, r.Context().Err()) && err != nil:
			fail(w, http.StatusGatewayTimeout, fmt.Errorf("cannot end a connection: outcome unknown: the broker did not answer (%w); asking again does no harm", err))
		case err != nil:
			fail(w, http.StatusServiceUnavailable, fmt.Errorf("cannot end a connection: %w", err))
		case n == 0:
			fail(w, http.StatusNotFound, fmt.Errorf("cannot end a connection: %q has none, or not this one", c.UID))
		default:
			reply(w, http.StatusOK, map[string]any{"status": http.StatusOK, "ended": n})
		}
	}
}

// loopBits of the number of a connection say on which loop it is.
const loopBits = 4

// connz answers GET /connz: who is connected, limit of them.
func (s *Server) connz(w http.ResponseWriter, r *http.Request) {
	limit, err := numberOf(r.URL.Query(), "limit", 1000, maxUIDs)
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot show connections: %w", err))
		return
	}
	found, total, err := s.core.Everybody(r.Context(), limit)
	if err != nil {
		fail(w, http.StatusServiceUnavailable, fmt.Errorf("cannot show connections: %w", err))
		return
	}
	type line struct {
		ID     int64  `json:"id"`
		UID    string `json:"uid"`
		Device uint8  `json:"device_flag"`
		Level  uint8  `json:"device_level"`
		Loop   uint16 `json:"loop"`
	}
	all := make([]line, 0, len(found))
	for _, c := range found {
		l := line{ID: int64(c.Conn<<loopBits | uint64(c.Loop)), UID: c.UID, Device: c.Device, Loop: c.Loop}
		if c.Master {
			l.Level = message.LevelMaster
		}
		all = append(all, l)
	}
	reply(w, http.StatusOK, map[string]any{"connections": all, "total": total, "limit": limit, "offset": 0})
}
