package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// imageOf is what WriteMeta writes of entries of one bucket.
func imageOf(t *testing.T, bucket string, values ...[]byte) []byte {
	t.Helper()
	image := &Image{MetaSize: imageHead}
	for i, value := range values {
		image.add(imageEntry{[]byte(bucket), fmt.Appendf(nil, "key %d", i), value})
	}
	var text bytes.Buffer
	if err := image.WriteMeta(&text); err != nil || int64(text.Len()) != image.MetaSize {
		t.Fatalf("%d bytes, %d were announced: %v", text.Len(), image.MetaSize, err)
	}
	return text.Bytes()
}

// Metadata that are larger than what is written at a time come back whole.
func TestRestoreOfLargeMetadata(t *testing.T) {
	dir := t.TempDir()
	var values [][]byte
	for i := range 5 {
		values = append(values, bytes.Repeat([]byte{byte(i)}, imageStep*2/5+i))
	}
	values = append(values, nil)
	if err := RestoreImage(dir, bytes.NewReader(imageOf(t, bucketUser, values...))); err != nil {
		t.Fatal(err)
	}
	m, report, err := openMeta((&Store{o: Options{Dir: dir}}).metaOptions())
	if err != nil || len(report.reasons) > 0 {
		t.Fatalf("%v, %q", err, report.reasons)
	}
	defer m.close()
	for i, want := range values {
		if got, err := m.get(bucketUser, fmt.Appendf(nil, "key %d", i)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("value %d: %d bytes, want %d; %v", i, len(got), len(want), err)
		}
	}
}

// What is no metadata is refused before anything is made of it, and a length that
// says more than there is takes no memory.
func TestRestoreOfBadMetadata(t *testing.T) {
	good := imageOf(t, bucketUser, []byte("value"))
	claims := func(n uint64) []byte {
		return binary.AppendUvarint(bytes.Clone(good[:imageHead]), n)
	}
	for name, c := range map[string]struct {
		text []byte
		want string
	}{
		"nothing":               {nil, "do not end"},
		"another file":          {[]byte("not metadata"), "these are no metadata"},
		"another version":       {append([]byte(imageMagic), imageVersion+1), "version"},
		"cut off":               {good[:len(good)-1], "do not end"},
		"a byte too many":       {append(bytes.Clone(good), 1), "do not end"},
		"a name of a terabyte":  {claims(1 << 40), "do not end"},
		"a length without end":  {append(bytes.Clone(good[:imageHead]), bytes.Repeat([]byte{0xff}, 20)...), "do not end"},
		"a length below 0":      {claims(1 << 63), "do not end"},
		"a bucket of elsewhere": {imageOf(t, "elsewhere", []byte("value")), `"elsewhere"`},
	} {
		dir := t.TempDir()
		err := RestoreImage(dir, bytes.NewReader(c.text))
		if !errors.Is(err, errFormat) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if a, err := Check(dir); err != nil || len(a.Notes)+len(a.Damage) > 0 || a.Checkpoint != 0 {
			t.Errorf("%s: something was made: %+v, %v", name, a, err)
		}
	}
	if err := RestoreImage(t.TempDir(), bytes.NewReader(good)); err != nil {
		t.Errorf("the good ones: %v", err)
	}
}
