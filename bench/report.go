package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// spread is the values of one column over the runs of a server.
type spread struct{ median, low, high float64 }

func spreadOf(values []float64) spread {
	s := slices.Clone(values)
	slices.Sort(s)
	m := s[len(s)/2]
	if len(s)%2 == 0 {
		m = (m + s[len(s)/2-1]) / 2
	}
	return spread{m, s[0], s[len(s)-1]}
}

// gather returns a column of a workload for one server, false if it has none.
func gather(records []record, workload, server, column string) (spread, bool) {
	var values []float64
	for _, r := range records {
		if v, ok := r.Values[column]; ok && r.Workload == workload && r.Server == server {
			values = append(values, v)
		}
	}
	if len(values) == 0 {
		return spread{}, false
	}
	return spreadOf(values), true
}

// runs is how many runs of a workload a server has come through.
func runs(records []record, workload, server string) (n int) {
	for _, r := range records {
		if r.Workload == workload && r.Server == server {
			n++
		}
	}
	return n
}

// show writes a number with three digits that count.
func show(v float64) string {
	switch a := math.Abs(v); {
	case a >= 1000:
		digits := fmt.Sprintf("%.0f", v)
		if a >= 100_000 {
			digits = fmt.Sprintf("%.0f", math.Round(v/1000)*1000)
		}
		for i := len(digits) - 3; i > 0; i -= 3 {
			digits = digits[:i] + "," + digits[i:]
		}
		return digits
	case a >= 100 || v == math.Trunc(v):
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// report writes a table for each workload that was chosen, with all servers that were
// and can do it: medians, and in brackets the lowest and the highest run.
func report(out io.Writer, o options, which []workload, all []*kind, records []record) {
	fmt.Fprintf(out, "Measured on %s on %s, %d processors, %s: %s, by a generator of %s. Payloads of %d bytes; %d runs of %v each after %v of warming up, the servers by turns; medians, in brackets the lowest and the highest run. Generator and server share the processors.\n",
		time.Now().Format("2006-01-02"), processor(), runtime.NumCPU(), kernel(), cmp.Or(o.version, "no gatepost"), runtime.Version(), o.size, o.runs, o.measure, o.warm)
	var versions []string
	for _, v := range []struct {
		name string
		text string
	}{{"mosquitto", said(o.mosquitto, "-h")}, {"nats", said(o.nats, "-v")}} {
		if line, _, _ := strings.Cut(v.text, "\n"); line != "" && slices.ContainsFunc(all, func(k *kind) bool { return strings.HasPrefix(k.name, v.name) }) {
			versions = append(versions, line)
		}
	}
	if len(versions) > 0 {
		fmt.Fprintf(out, "\nThe others: %s.\n", strings.Join(versions, "; "))
	}
	for _, w := range which {
		if !slices.ContainsFunc(all, w.fits) {
			continue
		}
		fmt.Fprintf(out, "\n### %s\n\n%s.\n\n| server | acknowledged means |", w.name, strings.ToUpper(w.says[:1])+w.says[1:])
		for _, c := range w.columns {
			fmt.Fprintf(out, " %s |", c)
		}
		fmt.Fprintf(out, " gatepost has |\n|%s\n", strings.Repeat("---|", len(w.columns)+3))
		own, measured := gather(records, w.name, "gatepost", w.columns[0])
		for _, k := range all {
			if !w.fits(k) {
				continue
			}
			name := k.name
			switch n := runs(records, w.name, k.name); {
			case n == 0:
				name = fmt.Sprintf("%s, 0 of %d runs, all failed", name, o.runs)
			case n < o.runs:
				name = fmt.Sprintf("%s, %d of %d runs, the others failed", name, n, o.runs)
			}
			fmt.Fprintf(out, "| %s | %s |", name, k.says)
			for _, c := range w.columns {
				s, ok := gather(records, w.name, k.name, c)
				low, high := show(s.low), show(s.high)
				switch {
				case !ok:
					fmt.Fprint(out, " - |")
				case low != high:
					fmt.Fprintf(out, " %s [%s-%s] |", show(s.median), low, high)
				default:
					fmt.Fprintf(out, " %s |", show(s.median))
				}
			}
			if first, ok := gather(records, w.name, k.name, w.columns[0]); ok && measured && first.median > 0 {
				fmt.Fprintf(out, " %s x |", show(own.median/first.median))
			} else {
				fmt.Fprint(out, " - |")
			}
			fmt.Fprintln(out)
		}
	}
}

// picture is the first column of the workloads as bars, the longest of each being
// the whole width; those of servers that lose messages in a power cut are pale.
func picture(all []*kind, records []record) []byte {
	const width, left, bar, top = 860, 190, 18, 34
	var b bytes.Buffer
	y := 10
	for _, w := range workloads() {
		var rows []*kind
		longest := 0.0
		for _, k := range all {
			if s, ok := gather(records, w.name, k.name, w.columns[0]); ok && !k.copies { // a hundred times as long
				rows = append(rows, k)
				longest = max(longest, s.median)
			}
		}
		if len(rows) == 0 || longest == 0 {
			continue
		}
		fmt.Fprintf(&b, `<text x="10" y="%d" font-weight="bold">%s: %s</text>`+"\n", y+14, w.name, w.columns[0])
		y += top - 10
		for _, k := range rows {
			s, _ := gather(records, w.name, k.name, w.columns[0])
			colour := "#9db8d9"
			if k.durable {
				colour = "#2f6db5"
			}
			if k.publishOnly {
				colour = "#b8b8b8"
			}
			length := s.median / longest * (width - left - 110)
			fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text><rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/><text x="%.1f" y="%d">%s</text>`+"\n",
				left-8, y+bar-5, k.name, left, y, length, bar-4, colour, left+length+6, y+bar-5, show(s.median))
			y += bar
		}
		y += 14
	}
	return fmt.Appendf(nil, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">
<rect width="100%%" height="100%%" fill="white"/>
%s<text x="10" y="%d" fill="#555">dark: acknowledged means synced; pale: lost in a power cut; grey: floors, which keep and deliver nothing</text>
</svg>
`, width, y+30, b.String(), y+14)
}

func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func kernel() string {
	text, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	release, _, _ := strings.Cut(strings.TrimSpace(string(text)), "-")
	return "Linux " + release
}

// said is what a program prints, trimmed; "" if it cannot be run.
func said(name string, args ...string) string {
	text, _ := exec.Command(name, args...).CombinedOutput()
	return strings.TrimSpace(string(text))
}
