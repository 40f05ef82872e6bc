package e2e

import (
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestInstallDocument holds every command of docs/install.md against what there
// is: gatepost's commands and flags, programs that a Debian has, files of this
// repository and files that make writes. make package does what the commands of
// dpkg behind apt do.
func TestInstallDocument(t *testing.T) {
	text, err := os.ReadFile("../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	targets := strings.Fields(string(regexp.MustCompile(`(?m)^targets := (.*)$`).FindSubmatch(makefile)[1]))
	var archs []string
	for _, pair := range strings.Fields(string(regexp.MustCompile(`(?m)^debs \?= (.*)$`).FindSubmatch(makefile)[1])) {
		arch, _, _ := strings.Cut(pair, "=")
		archs = append(archs, arch)
	}
	// Words of programs that need more than to be there.
	verbs := map[string][]string{
		"apt":       {"install", "remove", "purge"},
		"systemctl": {"status", "restart", "start", "stop", "enable", "disable", "daemon-reload"},
	}
	// Where systemd is not installed, its programs need not be.
	foreign := []string{"systemctl", "journalctl", "systemd-sysusers", "systemd-tmpfiles", "apt"}

	commands := 0
	for line := range strings.Lines(string(text)) {
		line, indented := strings.CutPrefix(strings.TrimRight(line, "\n"), "    ")
		if !indented || strings.TrimSpace(line) == "" {
			continue
		}
		commands++
		command, _, _ := strings.Cut(line, " > ")
		words := strings.Fields(command)
		name := words[0]
		var flags, rest []string
		for _, w := range words[1:] {
			if strings.HasPrefix(w, "-") {
				flags = append(flags, w)
			} else {
				rest = append(rest, w)
			}
		}
		switch {
		case name == "gatepost" || strings.HasPrefix(name, "./gatepost-linux-"):
			var path []string
			help := ""
			for _, w := range words[1:] { // the longest name of a command
				if strings.HasPrefix(w, "-") {
					break
				}
				out, _, code := gatepost(t, append(slices.Clone(path), w, "--help")...)
				if code != 0 || !strings.HasPrefix(out, "Usage: gatepost "+strings.Join(append(slices.Clone(path), w), " ")) {
					break
				}
				path, help = append(path, w), out
			}
			if len(path) == 0 || strings.Contains(help, "COMMAND ...") {
				t.Errorf("%s: there is no such command", line)
			}
			for _, f := range flags {
				if f, _, _ = strings.Cut(f, "="); !strings.Contains(help, "  "+f+" ") {
					t.Errorf("%s: there is no %s", line, f)
				}
			}
		case verbs[name] != nil && (len(rest) == 0 || !slices.Contains(verbs[name], rest[0])):
			t.Errorf("%s: what is that?", line)
		default:
			if _, err := exec.LookPath(name); err != nil && !slices.Contains(foreign, name) {
				t.Errorf("%s: %v", line, err)
			}
		}
		// The files that are named.
		for _, w := range append(rest, name) {
			switch base := path.Base(w); {
			case strings.HasPrefix(base, "gatepost-linux-"):
				if !slices.Contains(targets, strings.TrimPrefix(base, "gatepost-linux-")) {
					t.Errorf("%s: make cross does not build %s (%v)", line, base, targets)
				}
			case strings.HasSuffix(base, ".deb"):
				arch := strings.TrimSuffix(base[strings.LastIndexByte(base, '_')+1:], ".deb")
				if !slices.Contains(archs, arch) {
					t.Errorf("%s: make deb does not build %s (%v)", line, base, archs)
				}
			case strings.HasPrefix(w, "systemd/"):
				if _, err := os.Stat("../" + w); err != nil {
					t.Errorf("%s: %v", line, err)
				}
			}
		}
	}
	if commands < 25 {
		t.Errorf("found %d commands in the document; is it read right?", commands)
	}
	// The table names each binary and package, and no other.
	for _, target := range targets {
		if !strings.Contains(string(text), "`gatepost-linux-"+target+"`") {
			t.Errorf("the document does not name gatepost-linux-%s", target)
		}
	}
	for _, arch := range archs {
		if !strings.Contains(string(text), "`gatepost_VERSION_"+arch+".deb`") {
			t.Errorf("the document does not name the package for %s", arch)
		}
	}
}
