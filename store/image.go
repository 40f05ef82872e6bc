package store

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// Image is what a store has at one checkpoint. Files stay readable when
// retention removes them.
type Image struct {
	Checkpoint uint64
	Index      uint64 // of the last group of the log in it
	Keep       uint64 // generation of the log from which on it is needed
	MetaSize   int64  // bytes that WriteMeta writes
	Files      []ImageFile

	meta []imageEntry
}

// imageEntry is one key of the metadata. Its slices are the library's own, which
// replaces values and never writes into them: an image costs no second copy.
type imageEntry struct{ bucket, key, value []byte }

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

// WriteMeta writes the metadata, which are "gpmi", a version byte and entries,
// numbers as varints:
//
//	+----------+--------+-------+-----+---------+-------+
//	| bucket n | bucket | key n | key | value n | value | ...
//	+----------+--------+-------+-----+---------+-------+
func (i *Image) WriteMeta(w io.Writer) error {
	out := bufio.NewWriterSize(w, 64<<10)
	var number [binary.MaxVarintLen64]byte
	out.WriteString(imageMagic) // Flush says what has failed
	out.WriteByte(imageVersion)
	for _, e := range i.meta {
		for _, p := range [][]byte{e.bucket, e.key, e.value} {
			out.Write(binary.AppendUvarint(number[:0], uint64(len(p))))
			out.Write(p)
		}
	}
	return out.Flush()
}

// add appends an entry.
func (i *Image) add(e imageEntry) {
	i.meta = append(i.meta, e)
	for _, p := range [][]byte{e.bucket, e.key, e.value} {
		var number [binary.MaxVarintLen64]byte
		i.MetaSize += int64(binary.PutUvarint(number[:], uint64(len(p))) + len(p))
	}
}

const (
	imageMagic   = "gpmi"
	imageVersion = 1
	imageHead    = int64(len(imageMagic)) + 1

	// maxImageValue is far above the largest state of a channel, that of a group with
	// a million members.
	maxImageKey   = 64 << 10
	maxImageValue = 256 << 20
	// imageStep is how many bytes RestoreImage writes at a time.
	imageStep = 8 << 20
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
	image = &Image{Checkpoint: s.newest.number, Index: s.newest.index, Keep: s.newest.generation, MetaSize: imageHead}
	defer func() {
		if err != nil {
			image.Close()
		}
	}()
	for _, bucket := range s.metaOptions().Buckets {
		name := []byte(bucket)
		if err := s.meta.each(bucket, nil, func(key, value []byte) error {
			image.add(imageEntry{name, key, value})
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

// RestoreImage makes the metadata in the data directory dir from what WriteMeta
// wrote, which is read twice. The block files are there already. The memory that it
// takes beside the library's does not grow with the metadata.
func RestoreImage(dir string, from io.ReadSeeker) error {
	s := &Store{o: Options{Dir: dir}}
	size := int64(0)
	if err := s.readImage(from, func(bucket, key string, value int64) error {
		size += entrySizeMax(len(key), int(value))
		return nil
	}, nil); err != nil {
		return err
	}
	m, report, err := openMeta(s.metaOptions())
	if err != nil {
		return err
	}
	if !report.fresh {
		m.close()
		return fmt.Errorf("cannot restore the metadata: there are some in %s", dir)
	}
	var step []imageEntry
	pending := 0
	write := func() error {
		err := m.update(func(tx *metaTx) error {
			for _, e := range step {
				if err := tx.put(string(e.bucket), e.key, e.value); err != nil {
					return err
				}
			}
			return nil
		})
		step, pending = step[:0], 0
		return err
	}
	if err = m.room(size); err == nil {
		err = s.readImage(from, nil, func(e imageEntry) error {
			step = append(step, e)
			if pending += len(e.key) + len(e.value); pending < imageStep {
				return nil
			}
			return write()
		})
	}
	if err == nil {
		err = write()
	}
	if cerr := m.close(); err == nil && cerr != nil {
		err = fmt.Errorf("cannot close the metadata: %w", cerr)
	}
	return err
}

// readImage reads what WriteMeta wrote and calls look with bucket, key and size of
// each value, without taking it into memory, or take with all of it.
func (s *Store) readImage(from io.ReadSeeker, look func(bucket, key string, value int64) error, take func(imageEntry) error) error {
	size, err := from.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = from.Seek(0, io.SeekStart)
	}
	if err != nil {
		return fmt.Errorf("cannot read the metadata: %w", err)
	}
	in := &imageReader{in: bufio.NewReaderSize(from, 64<<10), left: size}
	head := in.bytes(imageHead, imageHead)
	if in.err == nil && string(head[:len(imageMagic)]) != imageMagic {
		return fmt.Errorf("%w: these are no metadata", errFormat)
	}
	if in.err == nil && head[len(imageMagic)] != imageVersion {
		return fmt.Errorf("%w: metadata of version %d, this program knows %d", errFormat, head[len(imageMagic)], imageVersion)
	}
	for in.err == nil && in.left > 0 {
		e := imageEntry{bucket: in.bytes(in.length(), maxImageKey), key: in.bytes(in.length(), maxImageKey)}
		value := in.length()
		if in.err == nil && !slices.Contains(s.metaOptions().Buckets, string(e.bucket)) {
			return fmt.Errorf("%w: there is no bucket %q", errFormat, e.bucket)
		}
		if look != nil {
			in.skip(value, maxImageValue)
			err = look(string(e.bucket), string(e.key), value)
		} else if e.value = in.bytes(value, maxImageValue); in.err == nil {
			err = take(e)
		}
		if err != nil {
			return err
		}
	}
	return in.err
}

// imageReader reads the metadata of an image. After an error it returns nothing more.
type imageReader struct {
	in   *bufio.Reader
	left int64 // bytes to come
	err  error
}

// fail notes an error of reading; an end is one of the format.
func (r *imageReader) fail(err error) {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%w: the metadata do not end where they should", errFormat)
	}
	r.err = err
}

func (r *imageReader) length() int64 {
	var n uint64
	for shift := 0; r.err == nil; shift += 7 {
		b, err := r.in.ReadByte()
		if r.left--; err != nil || shift > 56 {
			r.fail(cmp.Or(err, io.ErrUnexpectedEOF))
			return 0
		}
		if n |= uint64(b&0x7f) << shift; b < 0x80 {
			return int64(n)
		}
	}
	return 0
}

// take says whether n bytes may follow, most at most.
func (r *imageReader) take(n, most int64) bool {
	if r.err == nil && (n > r.left || n > most) {
		r.fail(io.ErrUnexpectedEOF)
	}
	r.left -= n
	return r.err == nil
}

func (r *imageReader) bytes(n, most int64) []byte {
	if !r.take(n, most) {
		return nil
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(r.in, p); err != nil {
		r.fail(err)
		return nil
	}
	return p
}

func (r *imageReader) skip(n, most int64) {
	if !r.take(n, most) {
		return
	}
	if _, err := io.CopyN(io.Discard, r.in, n); err != nil {
		r.fail(err)
	}
}
