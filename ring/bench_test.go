package ring

import "testing"

// The three ways to keep the rest of a stream that is cut into frames: frames
// of 132 bytes arrive in chunks of 3001.
const (
	benchFrame = 132
	benchChunk = 3001
)

func benchBuffer(b *testing.B, p *Pool) {
	buf, _ := p.Get(1)
	defer p.Put(buf)
	chunk := make([]byte, benchChunk)
	b.SetBytes(benchChunk)
	var sum byte
	for b.Loop() {
		buf.Commit(copy(buf.Free(), chunk))
		for buf.Len() >= benchFrame {
			sum += buf.Peek()[benchFrame-1]
			buf.Discard(benchFrame)
		}
	}
	_ = sum
}

func BenchmarkMirrored(b *testing.B) { benchBuffer(b, NewPool(4<<20)) }
func BenchmarkPlain(b *testing.B)    { benchBuffer(b, NewPlainPool(4<<20)) }

// BenchmarkCopyPerRead is what a buffer without an owner costs: each read is
// copied to a queue, and what is looked at is copied out of it.
func BenchmarkCopyPerRead(b *testing.B) {
	chunk := make([]byte, benchChunk)
	b.SetBytes(benchChunk)
	var queue []byte
	var sum byte
	for b.Loop() {
		queue = append(queue, chunk...)
		view := append([]byte(nil), queue...)
		n := 0
		for len(view)-n >= benchFrame {
			sum += view[n+benchFrame-1]
			n += benchFrame
		}
		queue = append(queue[:0], queue[n:]...)
	}
	_ = sum
}

func BenchmarkGetPut(b *testing.B) {
	p := NewPool(4 << 20)
	for b.Loop() {
		r, _ := p.Get(1)
		p.Put(r)
	}
}
