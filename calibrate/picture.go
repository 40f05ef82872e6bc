package calibrate

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"time"
)

// Picture draws the figures: syncs by size, and loops. It is an SVG that needs
// nothing else.
func Picture(r *Result, title string) []byte {
	var b bytes.Buffer
	fmt.Fprint(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="760" height="620" font-family="sans-serif" font-size="12">`+"\n")
	fmt.Fprint(&b, `<rect width="760" height="620" fill="white"/>`+"\n")
	text := func(x, y float64, anchor, s string) {
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`+"\n", x, y, anchor, html.EscapeString(s))
	}
	fmt.Fprintf(&b, `<text x="20" y="24" font-size="15">%s</text>`+"\n", html.EscapeString(title))
	text(20, 48, "start", "Time of a write and its sync, by size; thin lines: p99")
	low, high := math.Inf(1), 0.0
	for _, s := range r.Syncs {
		for _, d := range []time.Duration{s.Append.P50, s.Append.P99, s.Recycled.P50, s.Recycled.P99} {
			if v := d.Seconds(); v > 0 {
				low, high = min(low, v), max(high, v)
			}
		}
	}
	const left, right, top, bottom = 90.0, 560.0, 66.0, 300.0
	if high > 0 {
		floor, ceil := math.Floor(math.Log10(low)), math.Ceil(math.Log10(high))
		if ceil == floor {
			ceil++
		}
		y := func(d time.Duration) float64 {
			return bottom - (math.Log10(max(d.Seconds(), low))-floor)/(ceil-floor)*(bottom-top)
		}
		x := func(i int) float64 {
			return left + float64(i)*(right-left)/float64(max(len(r.Syncs)-1, 1))
		}
		for e := floor; e <= ceil; e++ {
			d := time.Duration(math.Pow(10, e) * 1e9)
			fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="#ddd"/>`+"\n", left, right, y(d), y(d))
			text(left-8, y(d)+4, "end", d.String())
		}
		for i, s := range r.Syncs {
			text(x(i), bottom+18, "middle", fmt.Sprintf("%d B", s.Size))
		}
		for n, line := range []struct {
			name, color string
			width       float64
			of          func(Sync) time.Duration
		}{
			{"appended", "#c0392b", 2.5, func(s Sync) time.Duration { return s.Append.P50 }},
			{"", "#c0392b", 1, func(s Sync) time.Duration { return s.Append.P99 }},
			{"written again", "#2471a3", 2.5, func(s Sync) time.Duration { return s.Recycled.P50 }},
			{"", "#2471a3", 1, func(s Sync) time.Duration { return s.Recycled.P99 }},
		} {
			fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" stroke-width="%.1f" points="`, line.color, line.width)
			for i, s := range r.Syncs {
				fmt.Fprintf(&b, "%.1f,%.1f ", x(i), y(line.of(s)))
			}
			fmt.Fprint(&b, `"/>`+"\n")
			if line.name != "" {
				at := top + 10 + float64(n)*10
				fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="%s" stroke-width="2.5"/>`+"\n", right+20, right+44, at, at, line.color)
				text(right+50, at+4, "start", line.name)
			}
		}
	}
	text(20, 350, "start", "Frames a second through loops, each answered behind another goroutine; p99 beside it")
	most := 1.0
	for _, l := range r.Loops {
		most = max(most, l.Rate)
	}
	for i, l := range r.Loops {
		at := 368 + float64(i)*28
		color, wait := "#7f8c8d", "block"
		if l.Yield {
			color, wait = "#27ae60", "yield"
		}
		text(left, at+14, "end", fmt.Sprintf("%d, %s", l.Count, wait))
		fmt.Fprintf(&b, `<rect x="%.1f" y="%.1f" width="%.1f" height="18" fill="%s"/>`+"\n", left+8, at, l.Rate/most*400, color)
		text(left+16+l.Rate/most*400, at+14, "start", fmt.Sprintf("%.0f k, %v", l.Rate/1000, l.P99.Round(10*time.Microsecond)))
	}
	fmt.Fprint(&b, "</svg>\n")
	return b.Bytes()
}
