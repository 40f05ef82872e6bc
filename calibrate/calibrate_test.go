package calibrate

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"gatepost/hwprofile"
)

func ms(n float64) time.Duration { return time.Duration(n * float64(time.Millisecond)) }

func syncOf(appended, recycled float64) Sync {
	return Sync{4 << 10, Spread{10, ms(appended), ms(2 * appended)}, Spread{10, ms(recycled), ms(2 * recycled)}}
}

// Figures become values.
func TestChoices(t *testing.T) {
	for _, c := range []struct {
		about string
		r     Result
		want  map[string]string
	}{
		{"a disk that likes to write again", Result{Syncs: []Sync{syncOf(1.2, 0.4)}}, map[string]string{"wal.engine": `"recycled"`, "wal.linger": `"0s"`}},
		{"no difference to speak of", Result{Syncs: []Sync{syncOf(0.95, 1)}}, map[string]string{"wal.engine": `"recycled"`, "wal.linger": `"0s"`}},
		{"a disk that likes to append", Result{Syncs: []Sync{syncOf(0.5, 1)}}, map[string]string{"wal.engine": `"tidwall"`, "wal.linger": `"0s"`}},
		{"a slow card", Result{Syncs: []Sync{syncOf(30, 12)}}, map[string]string{"wal.engine": `"recycled"`, "wal.linger": `"3ms"`}},
		{"a very slow card", Result{Syncs: []Sync{syncOf(90, 60)}}, map[string]string{"wal.engine": `"recycled"`, "wal.linger": `"5ms"`}},
		{"more loops bring little", Result{Loops: []Loops{
			{1, true, 95_000, ms(1), ms(3)}, {1, false, 40_000, ms(2), ms(4)}, {2, true, 100_000, ms(1), ms(3)}, {2, false, 60_000, ms(2), ms(4)}}},
			map[string]string{"net.loops": "1", "net.wait": `"yield"`}},
		{"more loops bring much", Result{Loops: []Loops{{1, true, 50_000, ms(1), ms(3)}, {2, true, 80_000, ms(1), ms(3)}, {3, true, 100_000, ms(1), ms(3)}, {4, true, 101_000, ms(1), ms(3)}}},
			map[string]string{"net.loops": "3", "net.wait": `"yield"`}},
		{"fast, with a long tail", Result{Loops: []Loops{{1, true, 98_000, ms(1), ms(40)}, {2, true, 100_000, ms(1), ms(3)}}},
			map[string]string{"net.loops": "2", "net.wait": `"yield"`}},
		{"blocking is better", Result{Loops: []Loops{{1, true, 50_000, ms(1), ms(3)}, {1, false, 90_000, ms(1), ms(3)}}},
			map[string]string{"net.loops": "1", "net.wait": `"block"`}},
		{"nothing was measured", Result{}, map[string]string{}},
	} {
		got := map[string]string{}
		for _, choice := range c.r.Choices() {
			got[choice.Key] = choice.Value
			if len(choice.Why) == 0 {
				t.Errorf("%s: nobody says why %s", c.about, choice.Key)
			}
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: %v, want %v", c.about, got, c.want)
		}
		for key, value := range c.want {
			if got[key] != value {
				t.Errorf("%s: %s is %s, want %s", c.about, key, got[key], value)
			}
		}
	}
}

// A card that is too fast is said to be; a disk of a server is not.
func TestCardsThatAreTooFast(t *testing.T) {
	r := Result{Syncs: []Sync{syncOf(0.03, 0.02)}}
	if w := r.Warnings(hwprofile.Facts{Storage: hwprofile.SD}); len(w) != 1 {
		t.Errorf("warnings %q", w)
	}
	if w := r.Warnings(hwprofile.Facts{Storage: hwprofile.NVMe}); len(w) != 0 {
		t.Errorf("warnings %q", w)
	}
}

// A measurement stays inside its bounds and leaves nothing; what it says can be read
// as a profile and as a picture.
func TestMeasure(t *testing.T) {
	dir := t.TempDir()
	const budget = 5 << 20
	r, err := Measure(context.Background(), Options{Dir: dir, Bytes: budget, Time: 2 * time.Second, MaxLoops: 2, Say: func(string) {}})
	if err != nil {
		t.Fatal(err)
	}
	if r.Written > budget || len(r.Syncs) != 4 || len(r.Loops) != 4 {
		t.Errorf("%+v", r)
	}
	for _, s := range r.Syncs {
		if s.Append.Count < 3 || s.Append.P50 <= 0 || s.Append.P99 < s.Append.P50 || s.Recycled.Count != s.Append.Count {
			t.Errorf("%+v", s)
		}
	}
	for _, l := range r.Loops {
		if l.Rate <= 0 || l.P99 < l.P50 {
			t.Errorf("%+v", l)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("it leaves %v, %v", left, err)
	}
	facts := hwprofile.Facts{Arch: "arm64", CPUs: 2, Disk: `a "disk"`}
	f, problems := hwprofile.Parse("/data/calibrated.profile", Text(r.Choices(), &r, facts, "1", time.Now()), nil)
	values := 0
	for _, v := range f.Values {
		if len(v.Path) == 2 { // others are sections
			values++
		}
	}
	if len(problems) > 0 || f.Name != "calibrated" || values != 4 || len(f.Measure) != len(facts.Fingerprint()) {
		t.Errorf("%v: %+v", problems, f)
	}
	d := xml.NewDecoder(bytes.NewReader(Picture(&r, "a <title>")))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if empty := string(Picture(&Result{}, "nothing")); strings.Contains(empty, "NaN") || strings.Contains(empty, "Inf") {
		t.Error("a picture of nothing has no numbers")
	}
}

// It ends when it is told to, and leaves nothing then either.
func TestMeasureEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	dir := t.TempDir()
	if _, err := Measure(ctx, Options{Dir: dir, Bytes: Least, Time: time.Minute, MaxLoops: 1, Say: func(string) {}}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("it leaves %v, %v", left, err)
	}
	if _, err := Measure(context.Background(), Options{Dir: dir, Bytes: Least - 1}); err == nil {
		t.Error("too little to write is enough")
	}
}
