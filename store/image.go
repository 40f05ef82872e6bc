package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Image is what a store has at one checkpoint. Files stay readable when
// retention removes them.
type Image struct {
	Checkpoint uint64
	Index      uint64 // of the last group of the log in it
	Keep       uint64 // generation of the log from which on it is needed
	Meta       []byte // see below
	Files      []ImageFile
}

// ImageFile is a block file, open for reading.
type ImageFile struct {
	*os.File
	Name string
	Size int64 // bytes of it that belong to the image
}

// Close closes the files.
func (i *Image) Close() {
	for _, f := range i.Files {
		f.Close()
	}
}

// The metadata of an image are "gpmi", a version byte and entries, numbers as
// varints:
//
//	+----------+--------+-------+-----+---------+-------+
//	| bucket n | bucket | key n | key | value n | value | ...
//	+----------+--------+-------+-----+---------+-------+
const (
	imageMagic   = "gpmi"
	imageVersion = 1
)

// imageReply is what Run answers to an Image.
type imageReply struct {
	image *Image
	err   error
}

// Image takes an image of a running store, between two checkpoints. The caller
// closes it. Any goroutine may call it.
func (s *Store) Image() (*Image, error) {
	reply := make(chan imageReply, 1)
	select {
	case s.images <- reply:
		r := <-reply
		return r.image, r.err
	case <-s.done:
		return nil, errors.New("the broker is stopping")
	}
}

// image is Image on the goroutine of Run.
func (s *Store) image() (image *Image, err error) {
	if s.meta == nil {
		return nil, errors.New("the store is not well, see its log")
	}
	image = &Image{Checkpoint: s.newest.number, Index: s.newest.index, Keep: s.newest.generation, Meta: append([]byte(imageMagic), imageVersion)}
	defer func() {
		if err != nil {
			image.Close()
		}
	}()
	for _, bucket := range s.metaOptions().Buckets {
		if err := s.meta.each(bucket, nil, func(key, value []byte) error {
			for _, p := range [][]byte{[]byte(bucket), key, value} {
				image.Meta = append(binary.AppendUvarint(image.Meta, uint64(len(p))), p...)
			}
			return nil
		}); err != nil {
			return image, fmt.Errorf("cannot read the metadata: %w", err)
		}
	}
	for _, f := range s.blocks.files() {
		path := s.blocks.path(f.number, f.salt)
		file, err := os.Open(path)
		if err != nil {
			return image, fmt.Errorf("cannot open a block file: %w", err)
		}
		image.Files = append(image.Files, ImageFile{file, filepath.Base(path), f.size})
	}
	return image, nil
}

// RestoreImage makes the metadata in the data directory dir from those of an
// image. The block files are there already.
func RestoreImage(dir string, text []byte) error {
	s := &Store{o: Options{Dir: dir}}
	if len(text) < len(imageMagic)+1 || string(text[:len(imageMagic)]) != imageMagic {
		return fmt.Errorf("%w: these are no metadata", errFormat)
	}
	if v := text[len(imageMagic)]; v != imageVersion {
		return fmt.Errorf("%w: metadata of version %d, this program knows %d", errFormat, v, imageVersion)
	}
	d := decoder{rest: text[len(imageMagic)+1:]}
	type entry struct{ bucket, key, value []byte }
	var all []entry
	for len(d.rest) > 0 {
		all = append(all, entry{d.bytes(d.count(1)), d.bytes(d.count(1)), d.bytes(d.count(1))})
	}
	if d.bad {
		return fmt.Errorf("%w: the metadata do not end where they should", errFormat)
	}
	m, report, err := openMeta(s.metaOptions())
	if err != nil {
		return err
	}
	if !report.fresh {
		m.close()
		return fmt.Errorf("cannot restore the metadata: there are some in %s", dir)
	}
	size := int64(0)
	for _, e := range all {
		size += entrySizeMax(len(e.key), len(e.value))
	}
	if err = m.room(size); err == nil {
		err = m.update(func(tx *metaTx) error {
			for _, e := range all {
				if err := tx.put(string(e.bucket), e.key, e.value); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if cerr := m.close(); err == nil && cerr != nil {
		err = fmt.Errorf("cannot close the metadata: %w", cerr)
	}
	return err
}
