package broker

// welcome reports whether a connection that logged in may stay. The loop has checked
// its login; a ban, or a change of its token, may have come in between, and ended
// only connections that were here. Apply owns both, so this is final.
func (b *Broker) welcome(a *Attach) bool {
	if b.access.Banned([]byte(a.UID)) {
		return false
	}
	if a.Token == nil {
		return true
	}
	now := b.accounts[a.UID].Token(a.Device)
	return now != nil && *now == *a.Token
}
