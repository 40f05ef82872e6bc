package cli

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"gatepost/calibrate"
)

// profile runs "gatepost profile ..." and returns what it printed.
func profile(t *testing.T, line string) (code int, out, said string) {
	t.Helper()
	var o, e strings.Builder
	code = dispatch(t.Context(), append([]string{"profile"}, strings.Fields(line)...), Env{Stdout: &o, Stderr: &e})
	return code, o.String(), e.String()
}

// TestProfileShow: every value says in which line of which file it stands.
func TestProfileShow(t *testing.T) {
	code, out, said := profile(t, "show --as rpi4 --set net.loops=2 --set profile.dir=/nowhere/profile.d")
	if code != exitOK {
		t.Fatalf("exit code %d: %s", code, said)
	}
	for _, want := range []string{"profile mid + rpi4 + sd (arm64, 4 processors", "flag --net.loops", "mid.profile:12", "sd.profile:", "rpi4.profile:", "gatepost changes none of it", "irq.eth0"} {
		if !strings.Contains(out, want) {
			t.Errorf("found\n%s\nexpected in it %q", out, want)
		}
	}
	code, out, said = profile(t, "show --as zero2w --json --set profile.dir=/nowhere/profile.d")
	var shown struct {
		Profile string
		Values  []struct{ Key, Value, Origin string }
	}
	if err := json.Unmarshal([]byte(out), &shown); code != exitOK || err != nil || shown.Profile != "tiny + zero2w + sd" || len(shown.Values) < 40 {
		t.Errorf("exit code %d, %v, %s: %s %d values", code, err, said, shown.Profile, len(shown.Values))
	}
	if code, _, said = profile(t, "show --as rpi9"); code != exitUsage || !strings.Contains(said, `there is no board "rpi9"; did you mean rpi`) {
		t.Errorf("exit code %d: %s", code, said)
	}
}

func TestProfileList(t *testing.T) {
	code, out, said := profile(t, "list")
	if code != exitOK || strings.Count(out, "board ") != 15 || !strings.Contains(out, "storage  emmc") {
		t.Errorf("exit code %d, %s%s", code, out, said)
	}
}

// TestProfileDetect: facts come with their source, profiles with the reason.
func TestProfileDetect(t *testing.T) {
	root := t.TempDir()
	dir := root + "/sys/firmware/devicetree/base"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/compatible", []byte("radxa,rock-5b\x00rockchip,rk3588\x00"), 0o644); err != nil {
		t.Fatal(err)
	}
	code, out, said := profile(t, "detect --explain --dir /nowhere/profile.d --data "+root+" --root "+root)
	if code != exitOK {
		t.Fatalf("exit code %d: %s", code, said)
	}
	for _, want := range []string{"+ rock-5b", "compatible     radxa,rock-5b rockchip,rk3588 (/sys/firmware/devicetree/base/compatible)",
		"+ board      rock-5b      compatible is radxa,rock-5b", "- board      rpi5         compatible is radxa,rock-5b rockchip,rk3588, not raspberrypi,5-model-b*"} {
		if !strings.Contains(out, want) {
			t.Errorf("found\n%s\nexpected in it %q", out, want)
		}
	}
}

func TestProfileCheck(t *testing.T) {
	name := t.TempDir() + "/x.profile"
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("[net]\nmax_connections = 500\n")
	if code, out, said := profile(t, "check "+name+" --as rpi5"); code != exitOK || !strings.Contains(out, "is right for arm64, 4 processors") || !strings.Contains(out, "net.max_connections") {
		t.Errorf("exit code %d: %s%s", code, out, said)
	}
	write("[net]\nmax_connections = 500\nloops = 77\n")
	if code, _, said := profile(t, "check "+name+" --as rpi5"); code != exitFailed || !strings.Contains(said, name+":3: net.loops: found 77, expected a whole number from 1 to 15; nearest value: 15") {
		t.Errorf("exit code %d: %s", code, said)
	}
	if code, _, said := profile(t, "check "+name+".gone"); code != exitFailed || !strings.Contains(said, "cannot read the profile") {
		t.Errorf("exit code %d: %s", code, said)
	}
}

// What measured best and does not fit the rest is left out, and the rest is kept.
func TestCalibrateKeepsWhatFits(t *testing.T) {
	all := []calibrate.Choice{{Key: "wal.engine", Value: `"tidwall"`}, {Key: "net.loops", Value: "4"}, {Key: "net.wait", Value: `"block"`}}
	kept, refused := usable(all, func(some []calibrate.Choice) error {
		for _, c := range some {
			if c.Key == "net.loops" {
				return errors.New("net.ring_pool = 8MiB divided by net.loops = 4 is too little")
			}
		}
		return nil
	})
	if len(kept) != 2 || kept[1].Key != "net.wait" || len(refused) != 1 || !strings.Contains(refused[0].Error(), "net.loops = 4 measured best and is left out") {
		t.Errorf("kept %v, refused %v", kept, refused)
	}
}
