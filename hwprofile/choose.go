package hwprofile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"gatepost/settings"
)

// Names of the classes, from the smallest machine to the largest.
const (
	Tiny  = "tiny"  // one processor, or at most 512 MiB
	Small = "small" // at most 1 GiB
	Mid   = "mid"   // everything else that is not a PC
	X86   = "x86"   // a PC with more than 1 GiB
)

// Profile is what was chosen for a machine: files laid over each other, later
// ones win. The first Built of them are in the binary and are fitted to the
// machine; the rest was written for it by somebody and is taken as it is.
type Profile struct {
	Facts    Facts
	Layers   []File
	Built    int
	Choices  []Choice
	Warnings []string // for the log
}

// Choice is why a profile was taken or not.
type Choice struct {
	Kind  string `json:"kind"`
	Name  string `json:"name"`
	Taken bool   `json:"taken"`
	Why   string `json:"why"`
}

// String names the layers: "mid + rpi4 + sd".
func (p Profile) String() string {
	var names []string
	for _, l := range p.Layers {
		names = append(names, l.Name)
	}
	return strings.Join(names, " + ")
}

// Class is the name of the class.
func (p Profile) Class() string { return p.Layers[0].Name }

// Advice is what the layers advise, later ones last.
func (p Profile) Advice() (all []Value) {
	for _, l := range p.Layers {
		all = append(all, l.Advice...)
	}
	return all
}

// For chooses class, board and storage for a machine. It has no side effects.
func For(f Facts) Profile {
	p := Profile{Facts: f}
	name, why := class(f)
	for _, c := range names(KindClass) { // only what is taken is read, which is most of the time that this takes
		taken := c == name
		if taken {
			p.Layers = append(p.Layers, load(KindClass, c))
		}
		p.choose(KindClass, c, taken, why)
	}
	p.board()
	for _, s := range names(KindStorage) {
		taken := f.Storage == s
		because := fmt.Sprintf("the data directory is on %s", f.Storage)
		if f.Storage == "" {
			because = "it is not known what the data directory is on"
		}
		if taken {
			p.Layers = append(p.Layers, load(KindStorage, s))
		}
		p.choose(KindStorage, s, taken, because)
	}
	p.Built = len(p.Layers)
	return p
}

func (p *Profile) choose(kind, name string, taken bool, why string) {
	p.Choices = append(p.Choices, Choice{kind, name, taken, why})
}

// class chooses by processors and memory.
func class(f Facts) (name, why string) {
	usable := f.Usable()
	machine := fmt.Sprintf("%s, %d processors, %d MiB", f.Arch, f.CPUs, usable/mib)
	switch {
	case f.CPUs <= 1 || usable <= 512*mib:
		return Tiny, machine + ": one processor or at most 512 MiB is tiny"
	case usable <= 1024*mib:
		return Small, machine + ": at most 1 GiB is small"
	case f.Arch == "amd64" || f.Arch == "386":
		return X86, machine + ": a PC with more than 1 GiB is x86"
	default:
		return Mid, machine + ": more than 1 GiB and no PC is mid"
	}
}

// board takes the board that fits best: by the most specific name of the device
// tree, then by DMI, then by the processor. Two that fit equally well are none.
func (p *Profile) board() {
	type candidate struct {
		name string
		rank int
	}
	var fit []candidate
	whys := make(map[string]string)
	boards := names(KindBoard)
	for _, b := range boards {
		rank, why := p.Facts.fits(rules(b))
		if rank >= 0 {
			fit = append(fit, candidate{b, rank})
		}
		whys[b] = why
	}
	sort.SliceStable(fit, func(i, j int) bool { return fit[i].rank < fit[j].rank })
	tie := len(fit) > 1 && fit[0].rank == fit[1].rank
	if tie {
		p.Warnings = append(p.Warnings, fmt.Sprintf("the profiles %s and %s fit this board equally well: neither is taken", fit[0].name, fit[1].name))
	}
	for _, b := range boards {
		taken := len(fit) > 0 && !tie && fit[0].name == b
		if taken {
			p.Layers = append(p.Layers, load(KindBoard, b))
		}
		p.choose(KindBoard, b, taken, whys[b])
	}
}

// fits reports how well rules fit, smaller is better, -1 if they do not.
func (f *Facts) fits(rules []Rule) (rank int, why string) {
	if len(rules) == 0 {
		return -1, "it has no [match]"
	}
	rank = 2000 // the processor
	var held []string
	for _, r := range rules {
		at, ok := f.holds(&r)
		if !ok {
			found := strings.Join(f.of(r.Fact), " ")
			if found == "" {
				found = "not known"
			}
			return -1, fmt.Sprintf("%s is %s, not %s", r.Fact, found, strings.Join(r.Patterns, " or "))
		}
		held = append(held, r.Fact+" is "+f.of(r.Fact)[at])
		switch {
		case r.Fact == "compatible":
			rank = min(rank, at)
		case strings.HasPrefix(r.Fact, "dmi."):
			rank = min(rank, 1000)
		}
	}
	return rank, strings.Join(held, ", ")
}

// As is the machine that a board file describes.
func As(name string) (Facts, error) {
	b, ok := Named(name)
	if !ok || b.Kind != KindBoard {
		var all []string
		for _, f := range Embedded(KindBoard) {
			all = append(all, f.Name)
		}
		return Facts{}, fmt.Errorf("there is no board %q%s: %s are possible", name, near(name, all), strings.Join(all, ", "))
	}
	f := b.Facts
	for _, r := range b.Match {
		if r.Fact == "compatible" {
			f.Compatible = []string{strings.ReplaceAll(r.Patterns[0], "*", "")}
		}
		if r.Fact == "cpu" {
			f.CPU = strings.ReplaceAll(r.Patterns[0], "*", "")
		}
	}
	return f, nil
}

// Extend lays the files of a machine over what is in the binary: *.profile of a
// directory in the order of their names, as far as their [match] holds, then
// calibrated.profile beside the directory and in the data directory. What was
// measured and cannot be used is left out with a warning: a box starts without it
// as it did before.
func (p *Profile) Extend(dir, data string) error {
	entries, err := os.ReadDir(dir) // in the order of their names
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot list the profiles: %w", err)
	}
	var problems []error
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") || filepath.Ext(entry.Name()) != ".profile" {
			continue
		}
		f, errs := ReadFile(filepath.Join(dir, entry.Name()))
		problems = append(problems, errs...)
		taken, why := true, "it has no [match]"
		if len(f.Match) > 0 {
			var rank int
			rank, why = p.Facts.fits(f.Match)
			taken = rank >= 0
		}
		f.Kind = "local"
		p.choose(f.Kind, f.Name, taken, why)
		if taken {
			p.Layers = append(p.Layers, f)
		}
	}
	for _, place := range []string{filepath.Dir(dir), data} {
		name := filepath.Join(place, "calibrated.profile")
		if _, err := os.Stat(name); err != nil {
			continue
		}
		f, errs := ReadFile(name)
		f.Kind = measured
		if len(errs) > 0 {
			p.Warnings = append(p.Warnings, fmt.Sprintf("%s is ignored: %v; run gatepost calibrate again", name, errors.Join(errs...)))
			p.choose(f.Kind, f.Name, false, "it cannot be used")
			continue
		}
		if why := p.Facts.changed(f.Measure); why != "" {
			p.Warnings = append(p.Warnings, fmt.Sprintf("%s was measured on another machine and is ignored: %s; run gatepost calibrate again", name, why))
			p.choose(f.Kind, f.Name, false, why)
			continue
		}
		p.choose(f.Kind, f.Name, true, "its fingerprint is that of this machine")
		p.Layers = append(p.Layers, f)
	}
	return errors.Join(problems...)
}

// measured is the kind of a file that gatepost calibrate has written.
const measured = "calibrated"

// WithoutMeasured is the profile without what was measured, and a warning that says
// why; false if there was nothing of it.
func (p Profile) WithoutMeasured(why error) (Profile, bool) {
	layers := slices.DeleteFunc(slices.Clone(p.Layers), func(f File) bool { return f.Kind == measured })
	if len(layers) == len(p.Layers) {
		return p, false
	}
	p.Layers = layers
	p.Choices = slices.Clone(p.Choices)
	for i := range p.Choices {
		if p.Choices[i].Kind == measured {
			p.Choices[i].Taken, p.Choices[i].Why = false, "its values cannot be used"
		}
	}
	p.Warnings = append(slices.Clip(p.Warnings), fmt.Sprintf("calibrated.profile is ignored, its values cannot be used here: %v; run gatepost calibrate again", why))
	return p, true
}

// ReadFile reads a profile from a file; what it includes may lie beside it.
func ReadFile(name string) (File, []error) {
	if !strings.Contains(name, "/") {
		name = "./" + name // names without a directory are those in the binary
	}
	text, err := settings.ReadFile("the profile", name)
	if err != nil {
		return File{Path: name}, []error{err}
	}
	return Parse(name, text, func(base string) ([]byte, error) {
		beside := filepath.Join(filepath.Dir(name), base)
		if _, err := os.Stat(beside); err != nil {
			return nil, fs.ErrNotExist
		}
		return settings.ReadFile("the profile", beside)
	})
}
