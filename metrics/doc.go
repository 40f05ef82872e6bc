// Package metrics counts and measures, and shows the result as Prometheus text
// and as JSON.
//
// Counter, Gauge and Histogram are plain values, ready at zero: whoever counts
// keeps them as fields of its own struct and touches them without a lock, a
// look-up or an allocation. A Registry knows their names; main builds it and
// hands it to the HTTP side. There is no global one, so that two brokers can
// live in one process.
//
//	var sent metrics.Counter
//	r := metrics.NewRegistry()
//	r.Counter("gatepost_sent_total", "Messages sent.", &sent, "protocol", "wukong")
//
// Packages that keep their own numbers need not know this one: CounterFunc and
// GaugeFunc ask them when somebody looks.
//
// # Ownership
//
// Values belong to whoever declared them and must not be copied after first
// use. All methods of all types may be called from any goroutine.
//
// # Exactness
//
// A histogram sorts by a relative error of at most 1/16 (see Histogram). Values
// read while others write are each exact, but not all of one instant.
//
// # After a crash
//
// Nothing is kept: counters start at zero, which scrapers understand.
package metrics
