// Package hwprofile turns a few facts about the machine into the sizes the
// broker starts with.
//
// Three steps: System.Facts reads facts out of a file tree (device tree, DMI,
// processors, the disk under the data directory, control group) and never
// fails, because every source may be missing under a hardened service unit; For
// chooses profiles for them, a pure function, so every board can be tried in a
// test; Extend lays over them the files that somebody wrote for this machine.
//
// Profiles are TOML files; those in the binary are under profiles/. What their
// keys mean is known to package config, which applies them and holds the result
// against the machine as a whole; Sizes.Fit makes what came from the binary fit
// the memory.
//
// Nothing is kept and nothing is written: after a crash the same machine gets
// the same profile.
package hwprofile
