package metrics

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// ContentType is the HTTP content type of what WritePrometheus writes.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// Registry knows values by name. NewRegistry makes one.
type Registry struct {
	mu       sync.Mutex // guards families
	families []*family  // in the order of registration
}

// family is all values of one name, which differ in their labels.
type family struct {
	name, help, kind string
	series           []series
}

type series struct {
	labels string // `a="b",c="d"`, escaped; "" without labels
	int    func() int64
	float  func() float64
	hist   *Histogram
	unit   Unit
}

// Unit says what a histogram observes and so how it is shown.
type Unit struct {
	scale       float64 // shown = observed / scale
	first, last int     // the shown bounds are 2^first, 2^(first+2) … 2^last
}

// Seconds is the unit of histograms that observe nanoseconds. They are shown in
// seconds, with bounds from 16 µs to 69 s.
func Seconds() Unit { return Unit{1e9, 14, 36} }

// Plain is the unit of histograms that observe numbers or bytes. They are shown
// as they are, with bounds from 1 to 16 Mi.
func Plain() Unit { return Unit{1, 0, 24} }

// NewRegistry returns an empty registry.
func NewRegistry() *Registry { return &Registry{} }

// Counter makes c known. labels are pairs of name and value. A name may be
// registered again with other values of the same labels; a wrong name or the
// same series twice is a mistake in the program and panics. All of this holds
// for the other kinds too.
func (r *Registry) Counter(name, help string, c *Counter, labels ...string) {
	r.add(name, help, "counter", series{int: c.Load}, labels)
}

// CounterFunc makes a number known that others count. f is called each time
// somebody looks, from any goroutine; it must be quick and must not use the
// registry.
func (r *Registry) CounterFunc(name, help string, f func() int64, labels ...string) {
	r.add(name, help, "counter", series{int: f}, labels)
}

// Gauge makes g known.
func (r *Registry) Gauge(name, help string, g *Gauge, labels ...string) {
	r.add(name, help, "gauge", series{int: g.Load}, labels)
}

// GaugeFunc makes a value known that others keep; f as for CounterFunc.
func (r *Registry) GaugeFunc(name, help string, f func() float64, labels ...string) {
	r.add(name, help, "gauge", series{float: f}, labels)
}

// Histogram makes h known, which observes in the given unit.
func (r *Registry) Histogram(name, help string, unit Unit, h *Histogram, labels ...string) {
	r.add(name, help, "histogram", series{hist: h, unit: unit}, labels)
}

func (r *Registry) add(name, help, kind string, s series, labels []string) {
	if !regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`).MatchString(name) {
		panic(fmt.Sprintf("BUG: metric name %q: want letters, digits, _ and :, no digit first", name))
	}
	s.labels = joinLabels(name, labels)
	r.mu.Lock()
	defer r.mu.Unlock()
	at := slices.IndexFunc(r.families, func(f *family) bool { return f.name == name })
	if at < 0 {
		at = len(r.families)
		r.families = append(r.families, &family{name: name, help: help, kind: kind})
	}
	f := r.families[at]
	if f.kind != kind || f.help != help {
		panic(fmt.Sprintf("BUG: metric %s is registered as %s %q and again as %s %q", name, f.kind, f.help, kind, help))
	}
	if slices.ContainsFunc(f.series, func(old series) bool { return old.labels == s.labels }) {
		panic(fmt.Sprintf("BUG: metric %s{%s} is registered twice", name, s.labels))
	}
	f.series = append(f.series, s)
}

// joinLabels writes pairs of name and value as they stand between braces.
func joinLabels(metric string, labels []string) string {
	if len(labels)%2 != 0 {
		panic(fmt.Sprintf("BUG: metric %s has %d label strings: want pairs of name and value", metric, len(labels)))
	}
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
	var b strings.Builder
	for i := 0; i < len(labels); i += 2 {
		name := labels[i]
		if !regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`).MatchString(name) || strings.HasPrefix(name, "__") || name == "le" {
			panic(fmt.Sprintf("BUG: metric %s has a label %q: want letters, digits and _, no digit or __ first, not le", metric, name))
		}
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `%s="%s"`, name, escape.Replace(strings.ToValidUTF8(labels[i+1], "\uFFFD")))
	}
	return b.String()
}

// WritePrometheus writes all values in the Prometheus text format, version
// 0.0.4, with one Write. Its error is that of w.
func (r *Registry) WritePrometheus(w io.Writer) error {
	escape := strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	var b []byte
	r.mu.Lock()
	for _, f := range r.families {
		b = fmt.Appendf(b, "# HELP %s %s\n# TYPE %s %s\n", f.name, escape.Replace(f.help), f.name, f.kind)
		for i := range f.series {
			b = f.series[i].appendText(b, f.name)
		}
	}
	r.mu.Unlock()
	_, err := w.Write(b)
	return err
}

// WriteJSON writes all values as one JSON object with one Write: a number per
// series, named as in Prometheus; for a histogram an object with count, sum,
// p50, p90, p99, p999 and max in the unit shown. Its error is that of w.
func (r *Registry) WriteJSON(w io.Writer) error {
	b := []byte("{")
	r.mu.Lock()
	for _, f := range r.families {
		for i := range f.series {
			if len(b) > 1 {
				b = append(b, ',')
			}
			b = append(b, "\n  "...)
			b = f.series[i].appendJSON(b, f.name)
		}
	}
	r.mu.Unlock()
	b = append(b, "\n}\n"...)
	_, err := w.Write(b)
	return err
}

func (s *series) appendText(b []byte, name string) []byte {
	if s.hist == nil {
		b = appendName(b, name, s.labels)
		b = append(b, ' ')
		return append(s.appendValue(b), '\n')
	}
	snap := s.hist.Snapshot()
	open := s.labels
	if open != "" {
		open += ","
	}
	for e := s.unit.first; e <= s.unit.last; e += 2 {
		le := appendFloat(nil, float64(int64(1)<<e)/s.unit.scale)
		b = fmt.Appendf(b, "%s_bucket{%sle=\"%s\"} %d\n", name, open, le, snap.upTo(e))
	}
	b = fmt.Appendf(b, "%s_bucket{%sle=\"+Inf\"} %d\n", name, open, snap.Count)
	b = append(appendName(b, name+"_sum", s.labels), ' ')
	b = append(appendFloat(b, float64(snap.Sum)/s.unit.scale), '\n')
	b = append(appendName(b, name+"_count", s.labels), ' ')
	return append(strconv.AppendUint(b, snap.Count, 10), '\n')
}

func (s *series) appendJSON(b []byte, name string) []byte {
	key, _ := json.Marshal(string(appendName(nil, name, s.labels))) // a string cannot fail
	b = append(append(b, key...), ": "...)
	if s.hist == nil {
		if s.float != nil {
			return appendJSONFloat(b, s.float())
		}
		return s.appendValue(b)
	}
	snap := s.hist.Snapshot()
	b = fmt.Appendf(b, `{"count": %d, "sum": `, snap.Count)
	b = appendJSONFloat(b, float64(snap.Sum)/s.unit.scale)
	for _, p := range []struct {
		name string
		q    float64
	}{{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}, {"max", 1}} {
		b = fmt.Appendf(b, `, "%s": `, p.name)
		b = appendJSONFloat(b, float64(snap.Quantile(p.q))/s.unit.scale)
	}
	return append(b, '}')
}

func (s *series) appendValue(b []byte) []byte {
	if s.int != nil {
		return strconv.AppendInt(b, s.int(), 10)
	}
	return appendFloat(b, s.float())
}

func appendName(b []byte, name, labels string) []byte {
	b = append(b, name...)
	if labels != "" {
		b = fmt.Appendf(b, "{%s}", labels)
	}
	return b
}

// appendFloat writes v as Prometheus reads it: the shortest exact form, NaN,
// +Inf or -Inf.
func appendFloat(b []byte, v float64) []byte {
	return strconv.AppendFloat(b, v, 'g', -1, 64)
}

// appendJSONFloat writes null for what JSON has no number for.
func appendJSONFloat(b []byte, v float64) []byte {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return append(b, "null"...)
	}
	return appendFloat(b, v)
}
