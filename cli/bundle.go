package cli

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"gatepost/config"
	"gatepost/hwprofile"
	"gatepost/wal"
)

// Bounds of a bundle, so that it can be mailed from a gateway.
const (
	maxEntry   = 4 << 20  // bytes of one file in it, before compression
	maxBundle  = 32 << 20 // of all
	maxSecret  = 64 << 10 // bytes of a file with a secret that are looked for
	minSecret  = 6        // shorter texts are in every log by chance
	entryTime  = 20 * time.Second
	serviceEnv = "/etc/default/gatepost" // flags of run under systemd
	serviceDir = "/var/lib/gatepost"     // its data
)

// bundle is one that is being written.
type bundle struct {
	out     *tar.Writer
	made    time.Time
	left    int // bytes
	secrets []string
	entries []bundleEntry
}

// bundleEntry is a line of the manifest.
type bundleEntry struct {
	Name   string `json:"name"`
	Bytes  int    `json:"bytes"`
	SHA256 string `json:"sha256"`
	Cut    bool   `json:"cut,omitempty"`   // there was more
	Error  string `json:"error,omitempty"` // what of it could not be had
	MS     int64  `json:"ms"`
}

// supportBundle collects what somebody elsewhere needs to tell what is wrong.
func supportBundle(ctx context.Context, env Env, args []string) error {
	f := newFlags("support-bundle", "--output FILE [flags]", `Collects what is needed to find out elsewhere what is wrong with a box: version,
configuration, profile, machine, disks, names and sizes of the files of data, the
journal, health, counters and connections of a running broker, and of a stopped
one what 'gatepost check' says. Tokens, keys and addresses of the application
are left out, and taken out of the journal; messages are not in it, names of users
are. manifest.json says what could not be had. It changes nothing.`)
	var output string
	f.StringVar(&output, "output", "", "`FILE` to write, a .tar.gz of at most 32 MiB before compression; - is\nstandard output")
	f.StringVar(&output, "o", "", "`FILE`, the same")
	file := f.String("config", "", "the broker's configuration `FILE`; without it what the unit and GATEPOST_ARGS\nin "+serviceEnv+" say")
	data := f.String("data", "", "the data `DIR`; without it that of the unit, of the\nconfiguration, or "+serviceDir)
	web := f.String("http", "", "`HOST:PORT` of the broker's HTTP; without it that of the configuration")
	limit := f.Duration("timeout", 2*time.Minute, "`TIME` that all of it may take")
	if err := f.none(env, args); err != nil {
		return err
	}
	switch {
	case output == "":
		return f.wrong("--output is missing")
	case *limit <= 0:
		return f.wrong("--timeout is %v, more than 0 is possible", *limit)
	}
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	out, err := create(env, output, 0o600)
	if err != nil {
		return fmt.Errorf("cannot write the bundle: %w", err)
	}
	defer out.drop()
	packed := gzip.NewWriter(out)
	b := &bundle{out: tar.NewWriter(packed), made: time.Now().UTC().Truncate(time.Second), left: maxBundle}
	if err := b.collect(ctx, env, *file, *data, *web); err != nil {
		return fmt.Errorf("cannot write the bundle: %w", err)
	}
	err = errors.Join(b.out.Close(), packed.Close())
	if err == nil {
		err = out.commit()
	}
	if err != nil {
		return fmt.Errorf("cannot write the bundle: %w", err)
	}
	for _, e := range b.entries {
		if e.Error != "" {
			fmt.Fprintf(env.Stderr, "gatepost support-bundle: %s: %s\n", e.Name, e.Error)
		}
	}
	if out.toStdout() {
		return nil
	}
	_, err = fmt.Fprintf(env.Stdout, "%s, %d files\n", output, len(b.entries))
	return err
}

// collect fills it. The error is one of writing; what cannot be had is in the
// manifest.
func (b *bundle) collect(ctx context.Context, env Env, file, data, web string) error {
	flags, problem := serviceFlags(file, serviceEnv)
	if file == "" {
		shown, _ := program("systemctl", "show", "gatepost.service", "--property", "ExecStart")(ctx) // without systemd there is none
		maps.Copy(flags.Flags, unitFlags(string(shown)))
	}
	cfg, err := config.Load(flags.File, flags.Flags)
	if err != nil {
		problem = errors.Join(problem, errors.New(config.RedactError(err)))
		b.hide(slices.Collect(maps.Values(flags.Flags))...)
		b.hideQuoted(flags.File)
		// The box runs with something, and the rest is worth having.
		if cfg, err = config.Load("", nil); err != nil {
			problem = errors.Join(problem, err)
			cfg = &config.Config{}
		}
	}
	shown := cfg.Redacted()
	b.hide(shown.Hidden...)
	for _, name := range append(shown.Files, os.Getenv(tokenVariable)) {
		b.hideFile(name)
	}
	if data == "" {
		data = cfg.Data
		if cfg.Origin("data") == "built-in" && isDir(serviceDir) {
			data = serviceDir // the unit says so, by whatever name it is installed
		}
	}
	if web == "" {
		web = localHTTP(cfg)
	}

	var down bool
	get := func(path string) func(context.Context) ([]byte, error) {
		return func(ctx context.Context) ([]byte, error) {
			if web == "" {
				return nil, errors.New("the configuration says that there is no HTTP")
			}
			status, text, err := call(ctx, "GET", web, path, nil)
			down = down || err != nil
			if err == nil && status != http.StatusOK && path != "/health" {
				err = fmt.Errorf("HTTP %d; %s names a file with the token", status, tokenVariable)
			}
			return text, err
		}
	}
	for _, s := range []struct {
		name string
		read func(context.Context) ([]byte, error)
	}{
		{"version.txt", func(context.Context) ([]byte, error) { return versions(env), nil }},
		{"config.toml", func(context.Context) ([]byte, error) { return []byte(shown.Text), problem }},
		{"profile.json", func(context.Context) ([]byte, error) {
			return json.MarshalIndent(map[string]any{"values": cfg.Lines(), "warnings": cfg.Hardware.Warnings}, "", "  ")
		}},
		{"machine.txt", func(context.Context) ([]byte, error) { return machineFacts(data) }},
		{"disks.txt", func(context.Context) ([]byte, error) { return disks(data) }},
		{"files.txt", func(ctx context.Context) ([]byte, error) { return listing(ctx, data) }},
		{"health.json", get("/health")},
		{"metrics.txt", get("/metrics")},
		{"varz.json", get("/varz")},
		{"connz.json", get("/connz?limit=1000")},
		{"unit.txt", program("systemctl", "show", "gatepost.service", "--no-pager", "--property",
			"ActiveState,SubState,Result,StatusText,NRestarts,ExecMainStatus,ExecMainStartTimestamp,MemoryCurrent,MemoryPeak,TasksCurrent,LimitNOFILE,FragmentPath,DropInPaths,UnitFileState")},
		{"journal.txt", program("journalctl", "--unit", "gatepost.service", "--no-pager", "--output", "short-precise", "--lines", "5000")},
		{"check.json", func(ctx context.Context) ([]byte, error) { return checked(ctx, data, down) }},
	} {
		if err := b.add(ctx, s.name, s.read); err != nil {
			return err
		}
	}
	host, _ := os.Hostname() // the manifest says nothing then
	return b.add(ctx, "manifest.json", func(context.Context) ([]byte, error) {
		return json.MarshalIndent(map[string]any{
			"made": b.made.Format(time.RFC3339), "host": host, "version": env.Version, "data": data, "http": web, "files": b.entries,
		}, "", "  ")
	})
}

// add puts a file into the bundle: its end if it is a log, otherwise its beginning.
func (b *bundle) add(ctx context.Context, name string, read func(context.Context) ([]byte, error)) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(map[string]time.Duration{"check.json": time.Hour}[name], entryTime))
	defer cancel()
	text, err := read(ctx)
	text = b.scrub(text)
	e := bundleEntry{Name: name, MS: time.Since(began).Milliseconds()}
	room := min(maxEntry, b.left)
	if name == "manifest.json" {
		room = len(text)
	}
	if over := len(text) - room; over > 0 {
		e.Cut = true
		if name == "journal.txt" {
			text = text[over:]
		}
		text = text[:room]
	}
	if err != nil {
		e.Error = string(b.scrub([]byte(err.Error())))
	}
	sum := sha256.Sum256(text)
	e.Bytes, e.SHA256 = len(text), hex.EncodeToString(sum[:])
	b.left -= len(text)
	b.entries = append(b.entries, e)
	if err := b.out.WriteHeader(&tar.Header{Name: "gatepost-support/" + name, Mode: 0o600, Size: int64(len(text)), ModTime: b.made}); err != nil {
		return err
	}
	_, err = b.out.Write(text)
	return err
}

// hide remembers texts that must not leave the box.
func (b *bundle) hide(texts ...string) {
	for _, t := range texts {
		if t = strings.TrimSpace(t); len(t) >= minSecret && !slices.Contains(b.secrets, t) {
			b.secrets = append(b.secrets, t)
		}
	}
	// The longest first: one may be a part of another.
	slices.SortFunc(b.secrets, func(x, y string) int { return len(y) - len(x) })
}

// hideFile remembers the lines of a file. One that cannot be read cannot have
// been said by this process either.
func (b *bundle) hideFile(name string) {
	if name == "" {
		return
	}
	f, err := os.Open(name)
	if err != nil {
		return
	}
	defer f.Close()
	text, _ := io.ReadAll(io.LimitReader(f, maxSecret)) // what was read counts
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "-----") { // PEM
			b.hide(line)
		}
	}
}

// hideQuoted remembers what stands in quotes in a configuration that cannot be
// used: the journal has lines that quote it.
func (b *bundle) hideQuoted(name string) {
	text, err := os.ReadFile(name)
	if err != nil {
		return
	}
	quoted := config.Quoted(text[:min(len(text), 1<<20)])
	b.hide(quoted.Hidden...)
	for _, f := range quoted.Files {
		b.hideFile(f)
	}
}

func (b *bundle) scrub(text []byte) []byte {
	for _, s := range b.secrets {
		text = bytes.ReplaceAll(text, []byte(s), []byte("(removed)"))
	}
	return text
}

// unitFlags are the flags in ExecStart= of the unit, as systemctl shows it:
//
//	ExecStart={ path=/usr/bin/gatepost ; argv[]=/usr/bin/gatepost run --data DIR $GATEPOST_ARGS ; ...
func unitFlags(shown string) map[string]string {
	_, line, _ := strings.Cut(shown, "argv[]=")
	line, _, _ = strings.Cut(line, " ;")
	words := strings.Fields(line)
	run := slices.Index(words, "run")
	words = slices.DeleteFunc(words[run+1:], func(w string) bool { return strings.HasPrefix(w, "$") })
	a, err := config.ParseArgs(words)
	if run < 0 || err != nil {
		return nil // no unit of ours: what else there is decides
	}
	return a.Flags
}

// serviceFlags are the flags that the service is started with besides those of the
// unit.
func serviceFlags(file, env string) (config.Args, error) {
	none := config.Args{File: file, Flags: make(map[string]string)}
	if file != "" {
		return none, nil
	}
	text, err := os.ReadFile(env)
	if errors.Is(err, fs.ErrNotExist) {
		return none, nil
	}
	if err != nil {
		return none, fmt.Errorf("cannot tell the broker's flags: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "GATEPOST_ARGS="); ok {
			a, err := config.ParseArgs(strings.Fields(strings.Trim(value, `"'`)))
			if err != nil {
				// It may quote a secret.
				return none, fmt.Errorf("cannot use GATEPOST_ARGS of %s; 'gatepost config show' with the same flags says why", env)
			}
			return a, nil
		}
	}
	return none, nil
}

// localHTTP is where a broker with that configuration can be asked on its box.
func localHTTP(cfg *config.Config) string {
	host, port, err := net.SplitHostPort(cfg.HTTP)
	if err != nil {
		return ""
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	addr := net.JoinHostPort(host, port)
	if cfg.TLS.HTTP {
		addr = "https://" + addr
	}
	return addr
}

func versions(env Env) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "gatepost %s (%s, %s/%s)\n", env.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	if info, ok := debug.ReadBuildInfo(); ok {
		fmt.Fprintf(&b, "\n%s", info)
	}
	return b.Bytes()
}

// machine is what kernel and firmware say of it.
func machineFacts(data string) ([]byte, error) {
	var b bytes.Buffer
	facts := hwprofile.This(data).Facts()
	fmt.Fprintf(&b, "%s\n", facts)
	for _, s := range facts.Sources {
		fmt.Fprintf(&b, "%s: %s (%s)\n", s.Fact, s.Value, s.From)
	}
	err := readAll(&b, "/proc/version", "/etc/os-release", "/proc/uptime", "/proc/loadavg", "/proc/meminfo", "/proc/pressure/*",
		"/sys/devices/system/cpu/online", "/sys/firmware/devicetree/base/model", "/sys/class/dmi/id/sys_vendor", "/sys/class/dmi/id/product_name",
		"/proc/sys/fs/file-nr", "/proc/sys/net/core/somaxconn", "/proc/sys/vm/max_map_count", "/proc/sys/vm/overcommit_memory")
	return b.Bytes(), err
}

// disks is how much room there is, and on what.
func disks(data string) ([]byte, error) {
	var b bytes.Buffer
	var problems []error
	for _, dir := range []string{data, "/"} {
		var st syscall.Statfs_t
		if err := syscall.Statfs(dir, &st); err != nil {
			problems = append(problems, fmt.Errorf("cannot tell the room of %s: %w", dir, err))
			continue
		}
		block := uint64(st.Bsize)
		fmt.Fprintf(&b, "%s: %d MiB, %d MiB free, %d MiB for everybody, %d of %d inodes free, type %#x\n",
			dir, st.Blocks*block>>20, st.Bfree*block>>20, st.Bavail*block>>20, st.Ffree, st.Files, int64(st.Type))
	}
	problems = append(problems, readAll(&b, "/proc/partitions", "/sys/block/*/device/model", "/sys/block/*/device/name", "/sys/block/*/queue/rotational",
		"/sys/block/*/queue/scheduler", "/sys/block/*/queue/write_cache", "/sys/block/*/ro"))
	return b.Bytes(), errors.Join(problems...)
}

// readAll appends small files, of which some are only on some machines.
func readAll(b *bytes.Buffer, patterns ...string) error {
	var problems []error
	for _, p := range patterns {
		names, err := filepath.Glob(p)
		if err != nil {
			return err
		}
		for _, name := range names[:min(len(names), 64)] {
			f, err := os.Open(name)
			if err != nil {
				problems = append(problems, err)
				continue
			}
			text, err := io.ReadAll(io.LimitReader(f, 64<<10))
			f.Close()
			if err != nil {
				problems = append(problems, err)
			}
			fmt.Fprintf(b, "\n== %s\n%s\n", name, bytes.Trim(text, "\x00\n"))
		}
	}
	return errors.Join(problems...)
}

// listing is names and sizes of the files of data, not what is in them.
func listing(ctx context.Context, data string) ([]byte, error) {
	const most = 10_000
	var b bytes.Buffer
	n := 0
	err := filepath.WalkDir(data, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if n++; n > most {
			return fmt.Errorf("there are more than %d files", most)
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // deleted meanwhile
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %12d %s %s\n", info.Mode(), info.Size(), info.ModTime().UTC().Format(time.RFC3339), name)
		return ctx.Err()
	})
	return b.Bytes(), err
}

// program is what a program prints, if it is there.
func program(name string, args ...string) func(context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.WaitDelay = time.Second
		var out, said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &limited{&out}, &limited{&said}
		if err := cmd.Run(); err != nil {
			return out.Bytes(), fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(said.Bytes()))
		}
		return out.Bytes(), nil
	}
}

// limited keeps the end of what is written.
type limited struct{ *bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > 2*maxEntry {
		l.Next(min(l.Len(), len(p)+maxEntry/2))
	}
	return l.Buffer.Write(p)
}

// checked is what check says of a stopped broker's data. Check takes no lock, so
// as not to stand in the way of a start.
func checked(ctx context.Context, data string, down bool) ([]byte, error) {
	if !down {
		return nil, errors.New("the broker runs; 'gatepost check' is for one that is stopped")
	}
	if err := needData(data); err != nil {
		return nil, err
	}
	lock, err := wal.Lock(data)
	if err != nil {
		return nil, err
	}
	lock.Close()
	type answer struct {
		v   verdict
		err error
	}
	done := make(chan answer, 1)
	go func() {
		v, err := examine(data)
		done <- answer{v, err}
	}()
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("the check was not done in time (--timeout): %w", ctx.Err())
	case a := <-done:
		text, err := json.MarshalIndent(a.v, "", "  ")
		return text, errors.Join(a.err, err)
	}
}

func isDir(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}
