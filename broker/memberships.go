package broker

import "slices"

// memberships is where one user is a member; nil is nowhere, until the first add. Most are in few channels: up to
// fewMemberships are looked through, beyond that there is a table. A table for
// each user took 250 bytes of the 1,050 that a pair of users with a channel takes.
type memberships struct {
	all []*membership            // in the order of their numbers
	by  map[*channel]*membership // nil up to fewMemberships
}

const fewMemberships = 8

func (s *memberships) len() int { return len(s.list()) }

// list returns all, valid until the next change.
func (s *memberships) list() []*membership {
	if s == nil {
		return nil
	}
	return s.all
}

// get returns the membership in a channel, nil if there is none.
func (s *memberships) get(ch *channel) *membership {
	if s != nil && s.by != nil {
		return s.by[ch]
	}
	for _, m := range s.list() {
		if m.channel == ch {
			return m
		}
	}
	return nil
}

// add takes in a membership in a channel in which there is none.
func (s *memberships) add(m *membership) {
	s.all = append(s.all, m)
	switch {
	case s.by != nil:
		s.by[m.channel] = m
	case len(s.all) > fewMemberships:
		s.by = make(map[*channel]*membership, 2*len(s.all))
		for _, m := range s.all {
			s.by[m.channel] = m
		}
	}
}

func (s *memberships) remove(m *membership) {
	if i := s.after(m.number - 1); i < len(s.all) && s.all[i] == m {
		s.all = slices.Delete(s.all, i, i+1)
	}
	delete(s.by, m.channel)
}
