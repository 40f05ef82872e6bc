// Package settings reads a TOML file into its keys, in the order in which they
// are written, each with its line. The configuration and the hardware profiles
// are read with it, so that both are equally strict and name places alike.
//
// It knows no key: what may stand in a file is decided by whoever asked. Nothing
// is kept and nothing is written.
package settings
