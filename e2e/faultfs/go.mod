// A file system that fails on demand, for the tests of the directory above. It is
// a module of its own, so that nothing of it gets into the broker's.
module faultfs

go 1.26.0

require github.com/hanwen/go-fuse/v2 v2.12.1

require golang.org/x/sys v0.49.0 // indirect
