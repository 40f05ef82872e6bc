// Package config is the broker's configuration: one table of keys that drives
// the file parser, the flags, the checks, the --help text and
// docs/configuration.md.
//
// A value comes from the last of: built-in default, hardware profiles, TOML
// file, flag. Profiles are read with the same table: what has a size, a count, a
// limit or an interval may stand in one. Load returns a complete and checked Config or an error that names
// every wrong line as FILE:LINE, what was found there and what was expected; it
// never guesses and never ignores a key it does not know.
//
// The Config belongs to the caller. Nothing here is shared, cached or written,
// so there is nothing to promise after a crash but this: the same file, flags
// and machine give the same Config.
package config
