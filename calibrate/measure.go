package calibrate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Options bound a measurement.
type Options struct {
	Dir      string        // data directory, on the disk to be measured
	Bytes    int64         // written to it at most
	Time     time.Duration // of everything
	MaxLoops int           // tried
	Say      func(text string)
}

// Spread is how long something took.
type Spread struct {
	Count    int
	P50, P99 time.Duration
}

// Sync is how long a write of some bytes and its sync took: to the end of a file
// that grows, and into one that was written before.
type Sync struct {
	Size             int
	Append, Recycled Spread
}

// Loops is what some loops did when each answer waited for another goroutine, as it
// does for the log.
type Loops struct {
	Count    int
	Yield    bool    // they yield before they block
	Rate     float64 // frames a second
	P50, P99 time.Duration
}

// Result is what was measured.
type Result struct {
	Syncs     []Sync // of ascending sizes
	Loops     []Loops
	ConnBytes int64 // memory of an idle connection in this process, kernel not counted; 0: not measured
	Written   int64 // bytes, to the disk
	Took      time.Duration
}

const (
	appendName   = "calibrate-append.tmp"
	recycledName = "calibrate-recycled.tmp"
	recycledSize = 1 << 20
	maxSyncs     = 200 // of one size and way
)

func sizes() []int { return []int{512, 4 << 10, 16 << 10, 64 << 10} }

// Least is the smallest Options.Bytes that makes sense: the file that is written
// again, and a few writes of each size.
const Least = 4 << 20

// Measure measures. Half of the time goes to the disk, the rest to the loops.
func Measure(ctx context.Context, o Options) (r Result, err error) {
	began := time.Now()
	if o.Bytes < Least {
		return r, fmt.Errorf("cannot measure with %d bytes written at most: at least %d are needed", o.Bytes, Least)
	}
	o.Say("syncs of the disk")
	if err := disk(ctx, &o, &r); err != nil {
		return r, err
	}
	o.Say("loops")
	if err := loops(ctx, &o, &r, o.Time-time.Since(began)); err != nil {
		return r, err
	}
	o.Say("memory of a connection")
	if r.ConnBytes, err = connection(ctx); err != nil {
		return r, err
	}
	r.Took = time.Since(began)
	return r, nil
}

// disk measures syncs, the two ways in turns, so that what else goes on hits both.
func disk(ctx context.Context, o *Options, r *Result) (err error) {
	grows, err := create(o.Dir, appendName)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove(grows)) }()
	again, err := create(o.Dir, recycledName)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove(again)) }()
	block := make([]byte, recycledSize)
	for i := range block { // nothing that a disk could leave out
		block[i] = byte(i*7 + i>>8)
	}
	if _, err := again.Write(block); err != nil {
		return fmt.Errorf("cannot write to the data directory: %w", err)
	}
	if err := again.Sync(); err != nil {
		return fmt.Errorf("cannot sync the data directory: %w", err)
	}
	r.Written = recycledSize
	end := time.Now().Add(o.Time / 2)
	for i, size := range sizes() {
		left := len(sizes()) - i
		until := time.Now().Add(time.Until(end) / time.Duration(left))
		budget := r.Written + (o.Bytes-r.Written)/int64(left)
		var took [2][]time.Duration
		at := int64(0)
		for n := 0; n < maxSyncs && (n < 3 || time.Now().Before(until)) && r.Written+2*int64(size) <= budget; n++ {
			if err := ctx.Err(); err != nil {
				return err
			}
			for way, f := range []*os.File{grows, again} {
				began := time.Now()
				if way == 0 {
					_, err = f.Write(block[:size])
				} else {
					_, err = f.WriteAt(block[:size], at)
				}
				if err == nil {
					err = unix.Fdatasync(int(f.Fd()))
				}
				if err != nil {
					return fmt.Errorf("cannot write and sync %d bytes in the data directory: %w", size, err)
				}
				took[way] = append(took[way], time.Since(began))
				r.Written += int64(size)
			}
			if at += int64(size); at+int64(size) > recycledSize {
				at = 0
			}
		}
		r.Syncs = append(r.Syncs, Sync{size, spread(took[0]), spread(took[1])})
	}
	return nil
}

func create(dir, name string) (*os.File, error) {
	// The directory may be another user's: what has the name is not written through.
	os.Remove(filepath.Join(dir, name))
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot measure the disk of the data directory: %w", err)
	}
	return f, nil
}

func remove(f *os.File) error { return errors.Join(f.Close(), os.Remove(f.Name())) }

// spread sorts all.
func spread(all []time.Duration) Spread {
	if len(all) == 0 {
		return Spread{}
	}
	slices.Sort(all)
	return Spread{len(all), all[(len(all)-1)/2], all[(len(all)-1)*99/100]}
}
