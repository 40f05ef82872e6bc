// Package hwprofile turns a few facts about the machine into the sizes the
// broker starts with.
//
// Two halves: Detect reads the facts (processors, memory, the memory limit of
// the control group, page size) and never fails, because every source may be
// missing under a hardened service unit; For is a pure function from facts to
// a Profile, so every board can be tried in a test.
//
// A Profile holds defaults only. The configuration file and the flags have the
// last word, and package config checks the result as a whole.
//
// Nothing is kept and nothing is written: after a crash the same machine gets
// the same profile.
package hwprofile
