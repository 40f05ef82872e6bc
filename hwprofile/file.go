package hwprofile

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"gatepost/settings"
)

//go:embed profiles
var embedded embed.FS // read only; the compiler wants a variable

// Kinds of embedded profiles, in the order in which they are laid over each
// other.
const (
	KindClass   = "class"
	KindBoard   = "board"
	KindStorage = "storage"
)

// File is one profile: what it says about itself, and values that package
// config understands.
type File struct {
	Path    string // for people: "mid.profile" is in the binary, "/etc/…" is a file
	Kind    string // of an embedded one
	Name    string
	About   string
	Match   []Rule // all must hold
	Facts   Facts  // of a board: a typical one, for "profile check --as"
	Values  []Value
	Advice  []Value // what a person may set on the system; never applied
	Measure []Value // [fingerprint] of calibrated.profile

	include []settings.Entry
}

// Rule is one line of [match]: any of the patterns fits the fact. In a pattern
// a * stands for any characters.
type Rule struct {
	Fact     string // "compatible", "dmi.product" …
	Patterns []string
	Line     int
}

// Value is one key with the place where it stands.
type Value struct {
	settings.Entry
	File string
}

// Place is FILE:LINE.
func (v *Value) Place() string { return v.File + ":" + strconv.Itoa(v.Line) }

// Embedded returns the profiles of one kind that are in the binary, in the order
// of their names; classes from the smallest machine to the largest.
func Embedded(kind string) (all []File) {
	for _, name := range names(kind) {
		all = append(all, load(kind, name))
	}
	return all
}

// names returns the names of the profiles of one kind in the order of Embedded.
func names(kind string) (all []string) {
	files, err := fs.Glob(embedded, "profiles/"+kind+"/*.profile")
	if err != nil {
		panic("BUG: " + err.Error())
	}
	for _, name := range files {
		all = append(all, strings.TrimSuffix(path.Base(name), ".profile"))
	}
	if kind == KindClass {
		order := []string{Tiny, Small, Mid, X86}
		slices.SortFunc(all, func(a, b string) int { return slices.Index(order, a) - slices.Index(order, b) })
	}
	return all
}

// text returns one embedded profile.
func text(kind, name string) []byte {
	text, err := embedded.ReadFile("profiles/" + kind + "/" + name + ".profile")
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return text
}

// rules returns the [match] of an embedded board, and reads no further.
func rules(board string) []Rule {
	text := text(KindBoard, board)
	if at := bytes.Index(text, []byte("\n[match]")); at >= 0 {
		if end := bytes.Index(text[at+1:], []byte("\n[")); end >= 0 {
			text = text[:at+1+end]
		}
	}
	return parsed(KindBoard, board, text).Match
}

// load reads one embedded profile; that it can be read is tested.
func load(kind, name string) File { return parsed(kind, name, text(kind, name)) }

func parsed(kind, name string, text []byte) File {
	f, problems := Parse(name+".profile", text, nil)
	if len(problems) > 0 {
		panic("BUG: " + errors.Join(problems...).Error())
	}
	f.Kind = kind
	return f
}

// Named finds an embedded profile.
func Named(name string) (f File, ok bool) {
	for _, kind := range []string{KindClass, KindBoard, KindStorage} {
		if _, err := fs.Stat(embedded, "profiles/"+kind+"/"+name+".profile"); err == nil && name != "" && !strings.Contains(name, "/") {
			return load(kind, name), true
		}
	}
	return File{}, false
}

// Parse reads a profile. beside reads a file next to it, by its base name, for
// include; nil when there is none. Every problem is found and named with its
// line; whether values are right is known to package config.
func Parse(name string, text []byte, beside func(name string) ([]byte, error)) (File, []error) {
	left := maxIncludes
	return parse(name, text, beside, nil, &left)
}

// maxIncludes is how many files one file may bring in, all together: two lines in
// each of twenty-five would be millions.
const maxIncludes = 32

// parse is Parse for a file that others include: chain are their names, left is
// how many more there may be.
func parse(at string, text []byte, beside func(string) ([]byte, error), chain []string, left *int) (File, []error) {
	f := File{Path: at, Name: strings.TrimSuffix(path.Base(at), ".profile")}
	entries, err := settings.Parse(at, text)
	if err != nil {
		return f, []error{err}
	}
	var problems []error
	own := f.Values
	for _, e := range entries {
		var p error
		section := e.Path[0]
		switch {
		case !slices.Contains([]string{"profile", "match", "facts", "advice", "fingerprint"}, section):
			own = append(own, Value{e, at})
		case len(e.Path) == 1 && !e.Table():
			p = fmt.Errorf("found %s, expected a section [%s]", settings.Describe(e.Value), section)
		case e.Table():
		case section == "profile":
			p = f.head(e)
		case section == "match":
			p = f.rule(e)
		case section == "facts":
			p = f.fact(e)
		case section == "advice":
			p = f.advise(e)
		default:
			if _, ok := e.Text(); !ok {
				p = fmt.Errorf("found %s, expected a text or a number", settings.Describe(e.Value))
			}
			f.Measure = append(f.Measure, Value{e, at})
		}
		if p != nil {
			problems = append(problems, fmt.Errorf("%s:%d: %s: %w", at, e.Line, e.Name(), p))
		}
	}
	chain = append(chain, at)
	for _, e := range f.include {
		below, errs := f.included(e, beside, chain, left)
		problems = append(problems, errs...)
		f.Values = append(f.Values, below.Values...)
		f.Advice = append(slices.Clip(below.Advice), f.Advice...)
	}
	f.Values = append(f.Values, own...)
	return f, problems
}

// included reads what one line of include names.
func (f *File) included(e settings.Entry, beside func(string) ([]byte, error), chain []string, left *int) (File, []error) {
	name := e.Value.(string)
	bad := func(format string, args ...any) []error {
		return []error{fmt.Errorf("%s:%d: profile.include: %s", f.Path, e.Line, fmt.Sprintf(format, args...))}
	}
	file := strings.TrimSuffix(name, ".profile") + ".profile"
	if strings.Contains(name, "/") || name == "" {
		return File{}, bad("found %q, expected the name of a profile in the binary or of a file beside this one", name)
	}
	// A file beside goes before one in the binary only when it is named as a file.
	text, err := []byte(nil), error(fs.ErrNotExist)
	for _, kind := range []string{KindClass, KindBoard, KindStorage} {
		if file == name || err == nil {
			break
		}
		text, err = embedded.ReadFile("profiles/" + kind + "/" + file)
	}
	at := file
	if err != nil && beside != nil {
		text, err = beside(file)
		at = path.Join(path.Dir(f.Path), file)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return File{}, bad("there is no profile %q, in the binary or beside this one%s", name, near(name, Names()))
	}
	if err != nil {
		return File{}, bad("%s", err)
	}
	if slices.Contains(chain, at) {
		return File{}, bad("%q goes round in a circle: %s", name, strings.Join(append(slices.Clip(chain), at), " includes "))
	}
	if *left--; *left < 0 {
		if *left < -1 {
			return File{}, nil // it was said
		}
		return File{}, bad("this is one more than the %d files that may be included", maxIncludes)
	}
	return parse(at, text, beside, chain, left)
}

// head is one line of [profile].
func (f *File) head(e settings.Entry) error {
	text, isText := e.Value.(string)
	switch e.Key() {
	case "profile.include":
		words, ok := texts(e.Value)
		if !ok {
			return fmt.Errorf("found %s, expected the name of a profile or a list of names", settings.Describe(e.Value))
		}
		for _, word := range words {
			f.include = append(f.include, settings.Entry{Path: e.Path, Value: word, Line: e.Line})
		}
		return nil
	case "profile.name", "profile.about":
		if !isText || strings.TrimSpace(text) == "" {
			return fmt.Errorf("found %s, expected a text that is not empty", settings.Describe(e.Value))
		}
		if e.Key() == "profile.name" {
			f.Name = text
		} else {
			f.About = text
		}
		return nil
	}
	return fmt.Errorf("no such key: name, about, include are possible")
}

// rule is one line of [match].
func (f *File) rule(e settings.Entry) error {
	fact := strings.TrimPrefix(e.Key(), "match.")
	if !slices.Contains(matchable(), fact) {
		return fmt.Errorf("no such fact%s: %s are possible", near(fact, matchable()), strings.Join(matchable(), ", "))
	}
	words, ok := texts(e.Value)
	if !ok {
		return fmt.Errorf("found %s, expected a text or a list of texts", settings.Describe(e.Value))
	}
	f.Match = append(f.Match, Rule{fact, words, e.Line})
	return nil
}

// advise is one line of [advice].
func (f *File) advise(e settings.Entry) error {
	subjects := []string{"sysctl", "irq", "block", "rps", "cpu", "system"}
	if len(e.Path) < 3 || !slices.Contains(subjects, e.Path[1]) {
		return fmt.Errorf("no such advice: it begins with one of %s", strings.Join(subjects, ", "))
	}
	if _, ok := e.Text(); !ok {
		return fmt.Errorf("found %s, expected a text or a number", settings.Describe(e.Value))
	}
	f.Advice = append(f.Advice, Value{e, f.Path})
	return nil
}

// fact is one line of [facts], which says what a typical board is.
func (f *File) fact(e settings.Entry) error {
	text, isText := e.Value.(string)
	n, isNumber := e.Value.(int64)
	switch key := e.Key(); {
	case key == "facts.arch" && isText:
		f.Facts.Arch = text
	case key == "facts.storage" && (text == SD || text == EMMC || text == NVMe):
		f.Facts.Storage = text
	case key == "facts.cpus" && isNumber && n > 0 && n <= 1024:
		f.Facts.CPUs = int(n)
	case key == "facts.page_kib" && isNumber && n >= 4 && n <= 64 && n&(n-1) == 0:
		f.Facts.PageSize = int(n * kib)
	case key == "facts.memory_mib" && isNumber && n > 0 && n < 1<<30:
		f.Facts.Memory = n * mib
	default:
		return fmt.Errorf(`found %s, expected one of arch (a text), cpus, memory_mib, page_kib (4, 16 or 64), storage ("sd", "emmc" or "nvme")`, settings.Describe(e.Value))
	}
	return nil
}

// Names lists all embedded profiles.
func Names() (all []string) {
	for _, kind := range []string{KindClass, KindBoard, KindStorage} {
		names, _ := fs.Glob(embedded, "profiles/"+kind+"/*.profile")
		for _, name := range names {
			all = append(all, strings.TrimSuffix(path.Base(name), ".profile"))
		}
	}
	return all
}

// texts takes a text or a list of them apart.
func texts(value any) ([]string, bool) {
	if s, ok := value.(string); ok {
		return []string{s}, s != ""
	}
	list, ok := value.([]any)
	var all []string
	for _, v := range list {
		s, isText := v.(string)
		if !isText || s == "" {
			return nil, false
		}
		all = append(all, s)
	}
	return all, ok && len(all) > 0
}

// near names the word that was probably meant: one that contains the other, or
// that begins alike.
func near(word string, words []string) string {
	for _, w := range words {
		if word != "" && (strings.Contains(w, word) || strings.Contains(word, w)) {
			return "; did you mean " + w + "?"
		}
	}
	for n := len(word) - 1; n >= 3; n-- {
		for _, w := range words {
			if strings.HasPrefix(w, word[:n]) {
				return "; did you mean " + w + "?"
			}
		}
	}
	return ""
}
