package backup

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"gatepost/diskio"
	"gatepost/store"
	"gatepost/wal"
)

const (
	version      = 1
	metaName     = "metadata"
	manifestName = "MANIFEST"
	// maxFiles bounds what a Restore keeps in memory: 6 TB of block files, and 20 MiB
	// of a manifest.
	maxFiles    = 100_000
	maxManifest = maxFiles * 256
)

// manifest is the last file of an archive.
type manifest struct {
	Version    int       `json:"version"`
	Taken      time.Time `json:"taken"`
	Checkpoint uint64    `json:"checkpoint"`
	Index      uint64    `json:"index"` // of the last group of the log in the checkpoint
	Files      []file    `json:"files"`
}

// file is one file of an archive.
type file struct {
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Write writes a backup of a running box. When it fails the archive has no
// MANIFEST.
func Write(w io.Writer, s *store.Store, l *wal.Log) error {
	defer l.Hold()()
	image, err := s.Image()
	if err != nil {
		return fmt.Errorf("cannot take a backup: %w", err)
	}
	defer image.Close()
	m := manifest{Version: version, Taken: time.Now().UTC(), Checkpoint: image.Checkpoint, Index: image.Index}
	archive := tar.NewWriter(w)
	put := func(name string, size int64, write func(io.Writer) error) error {
		if len(m.Files) == maxFiles {
			return fmt.Errorf("cannot take a backup: there are more than %d files, as many as restore takes", maxFiles)
		}
		sum := sha256.New()
		err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size, ModTime: m.Taken, Format: tar.FormatPAX})
		if err == nil {
			err = write(io.MultiWriter(archive, sum))
		}
		if err != nil {
			return fmt.Errorf("cannot write %s of a backup: %w", name, err)
		}
		m.Files = append(m.Files, file{name, size, hex.EncodeToString(sum.Sum(nil))})
		return nil
	}
	add := func(name string, size int64, from io.Reader) error {
		return put(name, size, func(w io.Writer) error { _, err := io.CopyN(w, from, size); return err })
	}
	for _, f := range image.Files {
		if err := add("blocks/"+f.Name, f.Size, f.File); err != nil {
			return err
		}
	}
	if err := put(metaName, image.MetaSize, image.WriteMeta); err != nil {
		return err
	}
	// The log last: what is acknowledged meanwhile is in it.
	files, err := l.Files(image.Keep)
	if err != nil {
		return fmt.Errorf("cannot take a backup: %w", err)
	}
	for _, f := range files {
		if err := addLog(l.Dir(), f, add); err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write the manifest of a backup: %w", err)
	}
	if err := put(manifestName, int64(len(text)), func(w io.Writer) error { _, err := w.Write(text); return err }); err != nil {
		return err
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("cannot end a backup: %w", err)
	}
	return nil
}

func addLog(dir string, of wal.File, add func(string, int64, io.Reader) error) error {
	f, err := os.Open(filepath.Join(dir, of.Name))
	if err != nil {
		return fmt.Errorf("cannot take a backup of the log: %w", err)
	}
	defer f.Close()
	return add(of.Name, of.Bytes, f)
}

// Restore makes the data directory dir, which must not be there or be empty,
// from a backup. It checks every byte, and returns what check says of the new
// directory before it gets its name.
func Restore(from io.Reader, dir string, check func(dir string) error) error {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("cannot restore to %s: there is something in it; move it away first", dir)
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot restore: %w", err)
	}
	if mounted, err := isMount(dir); err != nil {
		return fmt.Errorf("cannot restore: %w", err)
	} else if mounted {
		return fmt.Errorf("cannot restore to %s: it is the root of a disk and cannot be replaced; restore to %s and move what is in it one directory up",
			dir, filepath.Join(dir, "restored"))
	}
	building := filepath.Clean(dir) + ".restoring"
	if err := os.RemoveAll(building); err != nil {
		return fmt.Errorf("cannot restore: %w", err)
	}
	err := extract(from, building)
	if err == nil {
		err = syncTree(building)
	}
	if err == nil {
		err = check(building)
	}
	if err == nil {
		err = move(building, dir)
	}
	if err != nil {
		os.RemoveAll(building)
		return fmt.Errorf("cannot restore to %s: %w", dir, err)
	}
	return nil
}

// isMount reports whether a disk is mounted at dir.
func isMount(dir string) (bool, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return false, err
	}
	var at, above syscall.Stat_t
	if err := syscall.Stat(dir, &at); errors.Is(err, os.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	if err := syscall.Stat(filepath.Dir(dir), &above); err != nil {
		return false, &os.PathError{Op: "stat", Path: filepath.Dir(dir), Err: err}
	}
	return at.Dev != above.Dev, nil
}

// syncTree makes the names in dir and in all directories below it durable.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return diskio.SyncDir(path)
	})
}

// move gives the new directory its name, durable.
func move(building, dir string) error {
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) { // an empty one
		return err
	}
	if err := os.Rename(building, dir); err != nil {
		return err
	}
	return diskio.SyncDir(filepath.Dir(filepath.Clean(dir)))
}

// extract writes the files of an archive into dir and checks them.
func extract(from io.Reader, dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "log"), 0o700); err != nil {
		return err
	}
	archive := tar.NewReader(from)
	var have []file
	meta := filepath.Join(dir, metaName)
	for {
		h, err := archive.Next()
		if err == io.EOF {
			return errors.New("the backup has no MANIFEST: it was not finished")
		}
		if err != nil {
			return fmt.Errorf("the backup cannot be read behind %d files: %w; it is cut off or no backup", len(have), err)
		}
		if h.Name == manifestName {
			break
		}
		if len(have) == maxFiles {
			return fmt.Errorf("the backup has more than %d files, which no backup has", maxFiles)
		}
		sum := sha256.New()
		in := io.TeeReader(archive, sum)
		switch {
		case h.Typeflag != tar.TypeReg:
			err = errors.New("it is no plain file")
		case h.Name == metaName:
			err = write(meta, in)
		case ours(h.Name):
			err = write(filepath.Join(dir, filepath.FromSlash(h.Name)), in)
		default:
			err = errors.New("no file of that name belongs there")
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("the backup is cut off in file %q: %w", h.Name, err)
		}
		if err != nil {
			return fmt.Errorf("file %q of the backup: %w", h.Name, err)
		}
		have = append(have, file{h.Name, h.Size, hex.EncodeToString(sum.Sum(nil))})
	}
	var m manifest
	if err := json.NewDecoder(io.LimitReader(archive, maxManifest)).Decode(&m); err != nil {
		return fmt.Errorf("the MANIFEST cannot be read: %w", err)
	}
	if m.Version != version {
		return fmt.Errorf("the backup has version %d and this program knows version %d", m.Version, version)
	}
	if len(have) != len(m.Files) {
		return fmt.Errorf("the backup has %d files, its MANIFEST names %d", len(have), len(m.Files))
	}
	for i, f := range m.Files {
		if have[i] != f {
			return fmt.Errorf("file %d of the backup is %s of %d bytes with SHA-256 %s, its MANIFEST says %s of %d bytes with %s: it is damaged",
				i+1, have[i].Name, have[i].Bytes, have[i].SHA256, f.Name, f.Bytes, f.SHA256)
		}
	}
	return restoreMeta(dir, meta)
}

// restoreMeta makes the metadata in dir from the file called name, which goes.
func restoreMeta(dir, name string) error {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return errors.New("the backup has no metadata")
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := store.RestoreImage(dir, f); err != nil {
		return err
	}
	return os.Remove(name)
}

// ours reports whether a name is one that Write gives: nothing may be written
// outside the directory.
func ours(name string) bool {
	parts := strings.Split(name, "/")
	for _, p := range parts {
		if p == "" || p == "." || p == ".." || strings.ContainsAny(p, `\`+"\x00") {
			return false
		}
	}
	return len(parts) == 2 && parts[0] == "blocks" || len(parts) == 3 && parts[0] == "log"
}

// write makes a file, durable.
func write(path string, from io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
