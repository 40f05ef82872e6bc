// Package ring holds byte buffers whose readable and writable parts are always
// one contiguous slice.
//
// A Buffer is mapped twice in a row from one memfd, so that what runs over the
// end continues at the beginning without a seam: parsers have no wrap-around
// branch, and one read(2) or write(2) covers the whole span. That is what
// mirroring is for; it is not faster than a buffer that compacts, and where
// mapping fails a plain slice that does compact stands in, counted in
// Stats.Fallback.
//
// A Pool belongs to one goroutine and lends Buffers of four classes. It maps
// them in slabs: ring i of a slab occupies range i of the slab's file, so
// neighbouring halves merge and n rings cost n+1 kernel mappings. The unit is
// 64 KiB, which covers pages of 4, 16 and 64 KiB and the cache colours of
// 32-bit ARM. The memory is outside Go's heap and outside GOMEMLIMIT.
//
// Ownership: whoever got a Buffer from Get owns it until Put. Slices from Peek
// and Free die with the next Discard, Free, Reset or Put; nothing protects a
// slice that is kept longer.
//
// After a crash nothing is left: the files have no name.
package ring
