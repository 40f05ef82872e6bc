package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options is what a measurement can be told.
type options struct {
	ctx                       context.Context // until a signal says that it is enough
	gatepost, mosquitto, nats string          // programs
	version                   string          // what the first of them says it is
	work                      string          // where servers have their directories
	warm, measure             time.Duration
	runs, size                int
	vary                      []string // KEY=VALUE,VALUE...: Gatepost with each
}

// record is one run, as a line of JSON.
type record struct {
	Workload string `json:"workload"`
	Server   string `json:"server"`
	Run      int    `json:"run"`
	Values   row    `json:"values"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	var o options
	var serve, listen, only, servers, lines, table, plot string
	var peers bool
	flag.StringVar(&serve, "serve", "", "be a floor: `append|recycled|echo`")
	flag.StringVar(&listen, "listen", "127.0.0.1:0", "`ADDR` of the floor")
	flag.StringVar(&o.work, "work", "", "`DIR` for what the servers write; its disk is what is measured (default: a temporary one here)")
	flag.StringVar(&o.gatepost, "gatepost", "bin/gatepost", "`FILE`")
	flag.StringVar(&o.mosquitto, "mosquitto", "mosquitto", "`FILE`")
	flag.StringVar(&o.nats, "nats", "bin/nats-server", "`FILE`")
	flag.BoolVar(&peers, "peers", false, "measure the others too")
	flag.StringVar(&only, "workloads", "", "`NAMES` to run, separated by commas (default: all)")
	flag.StringVar(&servers, "servers", "", "`NAMES` to run, separated by commas (default: all that --peers allows)")
	flag.Func("vary", "`KEY=VALUE,VALUE...`: measure Gatepost with each value of a key of its configuration, and nothing else; again for more keys", func(s string) error {
		if !strings.Contains(s, "=") {
			return errors.New("KEY=VALUE is needed")
		}
		o.vary = append(o.vary, s)
		return nil
	})
	flag.IntVar(&o.runs, "runs", 5, "runs of each, the servers by turns")
	flag.IntVar(&o.size, "size", 256, "`BYTES` of a payload")
	flag.DurationVar(&o.warm, "warm", time.Second, "time before measuring")
	flag.DurationVar(&o.measure, "time", 4*time.Second, "time to measure")
	flag.StringVar(&lines, "json", "", "`FILE` for a line of JSON a run")
	flag.StringVar(&table, "markdown", "", "`FILE` for the tables (default: standard output)")
	flag.StringVar(&plot, "svg", "", "`FILE` for the picture")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("what is %q?", flag.Arg(0))
	}
	if serve != "" {
		return serveFloor(serve, o.work, listen, recycledSize, func(string) {})
	}
	if o.size < stamp {
		return fmt.Errorf("--size is %d, at least %d are needed", o.size, stamp)
	}
	// The server that runs is killed, so that the run fails and all that is deferred is
	// done; a second signal ends at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	o.ctx = ctx
	if o.work == "" {
		dir, err := os.MkdirTemp(".", ".bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		o.work = dir
	}
	chosen := func(name, list string) bool {
		return list == "" || slices.Contains(strings.Split(list, ","), name)
	}
	var records []record
	var log *json.Encoder
	if lines != "" {
		f, err := os.Create(lines)
		if err != nil {
			return err
		}
		defer f.Close()
		log = json.NewEncoder(f)
	}
	var failures []error
	which := slices.DeleteFunc(workloads(), func(w workload) bool { return !chosen(w.name, only) })
	all := slices.DeleteFunc(kinds(o), func(k *kind) bool { return !chosen(k.name, servers) || k.peer && !peers })
	for _, k := range all {
		if _, err := exec.LookPath(k.program); err != nil {
			return fmt.Errorf("cannot measure %s: %w", k.name, err)
		}
	}
	o.version = said(o.gatepost, "version") // before it is built again
	for _, w := range which {
		for i := range o.runs {
			for _, k := range all { // by turns: what disturbs the machine disturbs all of them
				if !w.fits(k) {
					continue
				}
				values, err := w.run(k, o)
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err != nil {
					err = fmt.Errorf("%s, %s, run %d: %w", w.name, k.name, i+1, err)
					fmt.Fprintln(os.Stderr, "bench:", err)
					failures = append(failures, err)
					continue
				}
				r := record{w.name, k.name, i + 1, values}
				records = append(records, r)
				if log != nil {
					if err := log.Encode(r); err != nil {
						return err
					}
				}
				fmt.Fprintf(os.Stderr, "%-10s %-20s %d of %d: %s\n", w.name, k.name, i+1, o.runs, brief(w, values))
			}
		}
	}
	out := os.Stdout
	if table != "" {
		f, err := os.Create(table)
		if err != nil {
			return err
		}
		defer f.Close()
		out = f
	}
	report(out, o, which, all, records)
	if plot != "" {
		if err := os.WriteFile(plot, picture(all, records), 0o644); err != nil {
			return err
		}
	}
	return errors.Join(failures...)
}

func brief(w workload, values row) string {
	var parts []string
	for _, c := range w.columns[:min(4, len(w.columns))] {
		parts = append(parts, c+" "+show(values[c]))
	}
	return strings.Join(parts, ", ")
}
