package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"gatepost/diskio"
)

// output is a file that a command writes. It gets its name when it is whole, in the
// place of a plain file that has it or of none: commands run as root, and must put
// nothing in the place of a device, a FIFO or a symbolic link.
type output struct {
	io.Writer
	name string
	part *os.File // nil: Writer is standard output
}

// create begins the file called name with mode; "-" is standard output. The caller
// commits it, or drops it, which may be called after commit too.
func create(env Env, name string, mode fs.FileMode) (*output, error) {
	if name == "-" {
		return &output{Writer: env.Stdout}, nil
	}
	if err := plain(name); err != nil {
		return nil, err
	}
	// A new name each time: in a directory of others somebody may have a link there.
	part, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*.part")
	if err != nil {
		return nil, err
	}
	o := &output{Writer: part, name: name, part: part}
	if err := part.Chmod(mode); err != nil {
		o.drop()
		return nil, err
	}
	return o, nil
}

// plain returns an error if something has the name that is no plain file.
func plain(name string) error {
	switch info, err := os.Lstat(name); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is no plain file (%v) and is not replaced; - is standard output", name, info.Mode().Type())
	}
	return nil
}

// toStdout reports whether the command's own words have to go elsewhere.
func (o *output) toStdout() bool { return o.part == nil }

// commit makes the file durable and gives it its name.
func (o *output) commit() error {
	if o.part == nil {
		return nil
	}
	err := errors.Join(o.part.Sync(), o.part.Close())
	if err == nil {
		err = plain(o.name)
	}
	if err == nil {
		err = os.Rename(o.part.Name(), o.name)
	}
	if err != nil {
		return err
	}
	return diskio.SyncDir(filepath.Dir(o.name))
}

// drop removes what was written, unless it was committed.
func (o *output) drop() {
	if o.part != nil {
		o.part.Close() // it may be closed
		os.Remove(o.part.Name())
	}
}

// writeFile writes text into the file called name.
func writeFile(env Env, name string, text []byte, mode fs.FileMode) error {
	o, err := create(env, name, mode)
	if err != nil {
		return err
	}
	defer o.drop()
	if _, err := o.Write(text); err != nil {
		return err
	}
	return o.commit()
}
