package cli

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// script is what completion prints for a shell, in a file.
func script(t *testing.T, shell string) string {
	t.Helper()
	var out, said bytes.Buffer
	if code := dispatch(t.Context(), []string{"completion", shell}, Env{Stdout: &out, Stderr: &said}); code != exitOK {
		t.Fatalf("completion %s: exit code %d\n%s", shell, code, said.String())
	}
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// bash completes what the tables have: commands, flags, values and files.
func TestBashCompletes(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("there is no bash")
	}
	path := script(t, "bash")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		line string // words, the last one is being typed; "." is an empty one
		want string
	}{
		{"gatepost ch", "channel check"},
		{"gatepost channel cr", "create"},
		{"gatepost channel a", "add allow"},
		{"gatepost channel create g --m", "--members"},
		{"gatepost channel create --re", "--reset"},
		{"gatepost channel undeny --re", ""},
		{"gatepost user system .", "add remove list"},
		{"gatepost user token --device .", "app web pc"},
		{"gatepost user token --device = w", "web"},
		{"gatepost user token --device =", "app web pc"},
		{"gatepost user token a --level m", "master"},
		{"gatepost user token a --token-file .", "a file"},
		{"gatepost user token --http .", ""},
		{"gatepost completion .", "bash zsh fish"},
		{"gatepost tail --from e", "end"},
		{"gatepost bench --mode f", "fanout"},
		{"gatepost run --wal.e", "--wal.engine"},
		{"gatepost run --wal.engine r", "recycled"},
		{"gatepost run --encryption .", "true false"},
		{"gatepost check a", "a file"},
		{"gatepost send --uid channel cr", ""}, // a value is no command
		{"gatepost --he", "--help"},
		{"gatepost wal dump --h", "--help"},
	} {
		words := strings.Fields(c.line)
		if last := len(words) - 1; words[last] == "." {
			words[last] = ""
		}
		text := fmt.Sprintf("source %s\nCOMP_WORDS=(%s) COMP_CWORD=%d\n_gatepost\nprintf '%%s\\n' \"${COMPREPLY[@]}\"\n", path, quoted(" ", words...), len(words)-1)
		cmd := exec.Command(bash, "--norc", "--noprofile", "-u", "-c", text)
		cmd.Dir = dir
		var said bytes.Buffer
		cmd.Stderr = &said
		out, err := cmd.Output()
		if got := strings.Join(strings.Split(strings.TrimSpace(string(out)), "\n"), " "); err != nil || got != c.want || said.Len() > 0 {
			t.Errorf("%s: completes to %q, want %q; %v\n%s", c.line, got, c.want, err, said.String())
		}
	}
}

// The scripts are of the shells' languages, where the shell is there, and have
// every command and flag in any case.
func TestScriptsAreWhole(t *testing.T) {
	root := command{sub: commands()}
	topics := root.topics("")
	if len(topics) < 30 {
		t.Fatalf("%d commands: the tables are not read right", len(topics))
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		path := script(t, shell)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range topics {
			for _, w := range p.words {
				if !strings.Contains(string(text), w.text) {
					t.Errorf("%s: there is no %s %s", shell, p.path, w.text)
				}
			}
			for _, o := range p.flags {
				name := map[string]string{"bash": "--" + o.name, "zsh": "'--" + o.name, "fish": "-l " + o.name}[shell]
				if !strings.Contains(string(text), name) {
					t.Errorf("%s: there is no %s --%s", shell, p.path, o.name)
				}
			}
		}
		if _, err := exec.LookPath(shell); err != nil {
			t.Logf("there is no %s to look at the script", shell)
			continue
		}
		if out, err := exec.Command(shell, "-n", path).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s -n: %v\n%s", shell, err, out)
		}
	}
}

// Every command explains itself: in its help is every flag, and nothing is done
// when it is asked for its flags.
func TestEveryCommandExplainsItself(t *testing.T) {
	root := command{sub: commands()}
	for _, p := range root.topics("")[1:] {
		var out, said bytes.Buffer
		code := dispatch(t.Context(), append(strings.Fields(p.path), "--help"), Env{Stdout: &out, Stderr: &said})
		if code != exitOK || !strings.HasPrefix(out.String(), "Usage: gatepost "+p.path) || said.Len() > 0 {
			t.Errorf("%s --help: exit code %d\n%s%s", p.path, code, out.String(), said.String())
		}
		for _, o := range p.flags {
			if !strings.Contains(out.String(), "  --"+o.name) {
				t.Errorf("%s --help does not say --%s", p.path, o.name)
			}
		}
		if p.brief == "" || p.decl != nil && p.decl.Name() != p.path {
			t.Errorf("%s has no brief, or its flags say another name", p.path)
		}
		for line := range strings.Lines(out.String()) {
			if len(line) > 121 {
				t.Errorf("%s --help has a line of %d bytes: %s", p.path, len(line), line)
			}
		}
	}
	for name, want := range map[string]string{"a|b|N": "a b", "end": "", "HOST:PORT": "", "SEQ|end": "end"} {
		if got := choices(name); strings.Join(got, " ") != want {
			t.Errorf("%s: choices %q, want %s", name, got, want)
		}
	}
}

// The manual page has every command and flag, and is roff without a complaint.
func TestManual(t *testing.T) {
	var out, said bytes.Buffer
	if code := dispatch(context.Background(), []string{"man"}, Env{Stdout: &out, Stderr: &said, Version: "1.2-3"}); code != exitOK {
		t.Fatalf("exit code %d\n%s", code, said.String())
	}
	lines := strings.Split(out.String(), "\n")
	root := command{sub: commands()}
	for _, p := range root.topics("") {
		if p.decl == nil {
			continue
		}
		if !slices.Contains(lines, `.SS "gatepost `+roff(p.path)+`"`) {
			t.Errorf("%s is not in it", p.path)
		}
		p.decl.VisitAll(func(g *flag.Flag) {
			if !strings.Contains(out.String(), `\fB\-\-`+roff(g.Name)+`\fR`) {
				t.Errorf("%s --%s is not in it", p.path, g.Name)
			}
		})
	}
	if got := roff(".a\n'b\n\\-x"); got != "\\&.a\n\\&'b\n\\e\\-x" {
		t.Errorf("roff makes %q", got)
	}
	if _, err := exec.LookPath("groff"); err != nil {
		t.Skip("there is no groff to read it")
	}
	cmd := exec.Command("groff", "-man", "-ww", "-z")
	cmd.Stdin = &out
	if text, err := cmd.CombinedOutput(); err != nil || len(text) > 0 {
		t.Errorf("groff: %v\n%s", err, text)
	}
}
