package config

import (
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
)

// Redacted is a configuration as it may leave the box.
type Redacted struct {
	Text   string   // as Show, without secrets
	Files  []string // that hold secrets; Text has their names
	Hidden []string // what was taken out of Text
}

const notShown = "(not shown)"

// Redacted returns the configuration without secrets. Of addresses of the
// application only scheme and host are left: what comes behind is often a secret.
// Of a key that names a file anything but an absolute path is left out, because
// somebody may have written the secret itself there.
func (c *Config) Redacted() Redacted {
	var r Redacted
	r.Text = c.show(func(k *key) (value string, whole bool) {
		value = k.get(c)
		switch {
		case value == "off" || value == "":
		case strings.HasSuffix(k.name, "_file") && filepath.IsAbs(value):
			r.Files = append(r.Files, value)
		case strings.HasSuffix(k.name, "_file") && strings.HasPrefix(value, "credential:"):
			// The name of what the service manager hands over.
		case strings.HasSuffix(k.name, "_file"):
			r.Files = append(r.Files, value)
			r.Hidden = append(r.Hidden, value)
			return notShown, true
		case k.isURL():
			shown, hidden := redactURL(value)
			r.Hidden = append(r.Hidden, hidden...)
			return shown, true
		}
		return value, true
	})
	return r
}

// isURL reports whether a key is an address of the application.
func (k *key) isURL() bool { return strings.HasSuffix(k.name, ".url") }

// Quoted returns what may be secret in a file that Load has refused: all that
// stands in quotes. There is no Text.
func Quoted(file []byte) (r Redacted) {
	for _, m := range regexp.MustCompile(`"([^"\n]*)"|'([^'\n]*)'`).FindAllSubmatch(file, -1) {
		value := string(m[1]) + string(m[2])
		if filepath.IsAbs(value) {
			r.Files = append(r.Files, value)
			continue
		}
		_, parts := redactURL(value)
		r.Hidden = append(append(r.Hidden, value), parts...)
	}
	return r
}

// redactURL returns scheme and host, and what it left out, in every form in which
// that may stand in a log.
func redactURL(text string) (shown string, hidden []string) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return notShown, []string{text}
	}
	hidden = append(hidden, strings.Split(u.Path, "/")...)
	if u.User != nil {
		password, _ := u.User.Password()
		hidden = append(hidden, u.User.Username(), password)
	}
	for name, values := range u.Query() {
		hidden = append(append(hidden, name), values...)
	}
	hidden = append(hidden, u.EscapedPath(), u.RawQuery, u.Fragment)
	shown = u.Scheme + "://" + u.Host
	if u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		shown += "/" + notShown
	}
	return shown, hidden
}

// RedactError returns what Load found wrong, without the values that it quotes.
func RedactError(err error) string {
	var lines []string
	for line := range strings.Lines(err.Error()) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.Contains(line, "found ") && strings.Contains(line, ", expected "):
			from, to := strings.Index(line, "found "), strings.LastIndex(line, ", expected ")
			if to < from {
				to = len(line)
			}
			line = line[:from] + "found " + notShown + line[to:]
		default:
			line = regexp.MustCompile("\"[^\"]*\"|'[^']*'|`[^`]*`").ReplaceAllString(line, notShown)
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}
