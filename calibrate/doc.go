// Package calibrate measures a machine and says what suits it: how the log is
// written, how many loops there are and how they wait.
//
// Measure does the work and has the side effects: a file in the data directory,
// whose lock the caller holds, and sockets on the loopback interface. Everything
// behind it is pure: Result.Choices makes values of figures, Text a profile of
// values, Picture a drawing of figures.
//
// It is bounded in time and in bytes written, which wear out a flash. Whatever ends
// it, it removes its file; a file that a power cut left behind is removed by the
// next one. Nothing of what a broker keeps is read or written.
package calibrate
