package message

import (
	"testing"
	"time"
)

// Whatever the clock says, ids are positive and ascend, and what is not believed
// leaves no mark on those of the right time.
func TestIDsWhateverTheClockSays(t *testing.T) {
	at := func(year int) time.Time { return time.Date(year, 3, 1, 0, 0, 0, 0, time.UTC) }
	for _, floor := range []int64{0, 7, 900_000_000_000_000_000} {
		ids := NewIDs(HTTPMaker, floor)
		last := floor
		for _, year := range []int{1970, 2019, 2026, 1970, 2088, 2090, 2100, 2261, 2026, 2086, 2026} {
			for range 3 {
				id := ids.Next(at(year))
				if id <= last {
					t.Fatalf("%d: id %d comes after %d", year, id, last)
				}
				last = id
			}
			if year == 2261 && last>>IDTimeShift > at(2070).UnixMilli()-epoch {
				t.Errorf("the clock of %d was followed: %d", year, last)
			}
			if follows := FollowsClock(at(year)); follows != (year > 2020 && year < 2088) {
				t.Errorf("the clock of %d is followed: %v", year, follows)
			}
		}
	}
}
