//go:build race

package netio

const raceDetector = true
