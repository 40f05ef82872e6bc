// Command faultfs mounts a directory at another place and lets calls fail there,
// be slow, or lie, as its standard input says:
//
//	faultfs DIRECTORY MOUNTPOINT
//
// Each line of the input is a plan, which takes the place of the one before, or
// "{}", which changes nothing. Each is answered with one line, when it is in
// force. At the end of the input the file system is unmounted, so that none is
// left behind when the test dies.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// calls says which calls are meant.
type calls struct {
	Ops  []string // open, create, mkdir, read, write, truncate, allocate, fsync, fsyncdir, rename, unlink, list; none: all
	Path string   // part of the path below the mount point, which begins with "/"; "": all
}

func (c *calls) has(op, path string) bool {
	return (len(c.Ops) == 0 || slices.Contains(c.Ops, op)) && strings.Contains(path, c.Path)
}

// plan is what fails. The zero value fails nothing.
type plan struct {
	Set   bool   // take the place of the plan before
	What  *calls // nil: nothing
	After *calls // it begins with the first of these calls; nil: at once
	Errno int    // 0: the call is done
	Delay int    // milliseconds that each call waits first
	For   int    // milliseconds until it is over; 0: for good
	Torn  bool   // half of the bytes of a write that fails are written
	Lie   bool   // writes say that all is well and write nothing
}

// state is the answer to each line.
type state struct {
	Begun bool // by the first call of After
	Over  bool // For has passed since
	Hits  int  // calls that failed, waited or lied
}

var (
	mu    sync.Mutex
	now   plan
	since time.Time // when it began; zero: not yet
	hits  int
)

// met says what a call has to do, after it has waited.
func met(op, path string) plan {
	mu.Lock()
	if since.IsZero() && now.After != nil && now.After.has(op, path) {
		since = time.Now()
	}
	p := now
	if since.IsZero() || over() || p.What == nil || !p.What.has(op, path) {
		mu.Unlock()
		return plan{}
	}
	hits++
	mu.Unlock()
	time.Sleep(time.Duration(p.Delay) * time.Millisecond)
	return p
}

// fails is met for calls that can only fail.
func fails(op, path string) syscall.Errno { return syscall.Errno(met(op, path).Errno) }

func over() bool {
	return now.For > 0 && !since.IsZero() && time.Since(since) > time.Duration(now.For)*time.Millisecond
}

func answer(p plan) state {
	mu.Lock()
	defer mu.Unlock()
	if p.Set {
		now, since, hits = p, time.Time{}, 0
		if p.After == nil {
			since = time.Now()
		}
	}
	return state{Begun: !since.IsZero(), Over: over(), Hits: hits}
}

// node is a file or a directory.
type node struct{ *fs.LoopbackNode }

func (n *node) WrapChild(_ context.Context, ops fs.InodeEmbedder) fs.InodeEmbedder {
	return &node{ops.(*fs.LoopbackNode)}
}

func (n *node) path() string             { return "/" + n.Path(nil) }
func (n *node) below(name string) string { return filepath.Join(n.path(), name) }

func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if e := fails("open", n.path()); e != 0 {
		return nil, 0, e
	}
	h, more, e := n.LoopbackNode.Open(ctx, flags)
	if e != 0 {
		return nil, 0, e
	}
	return &file{h.(*fs.LoopbackFile), n}, more | fuse.FOPEN_DIRECT_IO, 0
}

func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	if e := fails("create", n.below(name)); e != 0 {
		return nil, nil, 0, e
	}
	child, h, more, e := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	if e != 0 {
		return nil, nil, 0, e
	}
	return child, &file{h.(*fs.LoopbackFile), child.Operations().(*node)}, more | fuse.FOPEN_DIRECT_IO, 0
}

func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if e := fails("mkdir", n.below(name)); e != 0 {
		return nil, e
	}
	return n.LoopbackNode.Mkdir(ctx, name, mode, out)
}

func (n *node) Unlink(ctx context.Context, name string) syscall.Errno {
	if e := fails("unlink", n.below(name)); e != 0 {
		return e
	}
	return n.LoopbackNode.Unlink(ctx, name)
}

func (n *node) Rmdir(ctx context.Context, name string) syscall.Errno {
	if e := fails("unlink", n.below(name)); e != 0 {
		return e
	}
	return n.LoopbackNode.Rmdir(ctx, name)
}

func (n *node) Rename(ctx context.Context, name string, to fs.InodeEmbedder, toName string, flags uint32) syscall.Errno {
	if e := fails("rename", n.below(name)); e != 0 {
		return e
	}
	return n.LoopbackNode.Rename(ctx, name, to, toName, flags)
}

func (n *node) OpendirHandle(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if e := fails("list", n.path()); e != 0 {
		return nil, 0, e
	}
	h, more, e := n.LoopbackNode.OpendirHandle(ctx, flags)
	if e != 0 {
		return nil, 0, e
	}
	return &dir{h.(stream), n}, more, 0
}

func (n *node) Setattr(ctx context.Context, h fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if _, ok := in.GetSize(); ok {
		if e := fails("truncate", n.path()); e != 0 {
			return e
		}
	}
	return n.LoopbackNode.Setattr(ctx, h, in, out)
}

// stream is what the library has for an open directory.
type stream interface {
	fs.FileReaddirenter
	fs.FileSeekdirer
	fs.FileReleasedirer
	fs.FileFsyncdirer
}

// dir is a directory that is open.
type dir struct {
	stream
	node *node
}

func (d *dir) Fsyncdir(ctx context.Context, flags uint32) syscall.Errno {
	if e := fails("fsyncdir", d.node.path()); e != 0 {
		return e
	}
	return d.stream.Fsyncdir(ctx, flags)
}

// file is one that is open.
type file struct {
	*fs.LoopbackFile
	node *node
}

// PassthroughFd keeps the kernel from going past us.
func (f *file) PassthroughFd() (int, bool) { return 0, false }

func (f *file) Read(ctx context.Context, to []byte, at int64) (fuse.ReadResult, syscall.Errno) {
	if e := fails("read", f.node.path()); e != 0 {
		return nil, e
	}
	return f.LoopbackFile.Read(ctx, to, at)
}

func (f *file) Write(ctx context.Context, data []byte, at int64) (uint32, syscall.Errno) {
	switch p := met("write", f.node.path()); {
	case p.Lie:
		return uint32(len(data)), 0
	case p.Errno != 0:
		if p.Torn {
			f.LoopbackFile.Write(ctx, data[:len(data)/2], at)
		}
		return 0, syscall.Errno(p.Errno)
	}
	return f.LoopbackFile.Write(ctx, data, at)
}

func (f *file) Fsync(ctx context.Context, flags uint32) syscall.Errno {
	if e := fails("fsync", f.node.path()); e != 0 {
		return e
	}
	return f.LoopbackFile.Fsync(ctx, flags)
}

func (f *file) Allocate(ctx context.Context, at, size uint64, mode uint32) syscall.Errno {
	if e := fails("allocate", f.node.path()); e != 0 {
		return e
	}
	return f.LoopbackFile.Allocate(ctx, at, size, mode)
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: faultfs DIRECTORY MOUNTPOINT")
		os.Exit(2)
	}
	loopback, err := fs.NewLoopbackRoot(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	root := &node{loopback.(*fs.LoopbackNode)}
	root.RootData.RootNode = root
	// Without caches every call gets here.
	server, err := fs.Mount(os.Args[2], root, &fs.Options{MountOptions: fuse.MountOptions{
		DirectMountStrict: true, FsName: "faultfs", Name: "faultfs", DisableXAttrs: true, DisableReadDirPlus: true,
	}})
	if err != nil {
		fmt.Fprintln(os.Stderr, "mount:", err)
		os.Exit(1)
	}
	answers := json.NewEncoder(os.Stdout)
	answers.Encode(state{})
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var p plan
		if err := json.Unmarshal(lines.Bytes(), &p); err != nil {
			fmt.Fprintln(os.Stderr, err)
			break
		}
		if answers.Encode(answer(p)) != nil {
			break
		}
	}
	answer(plan{Set: true})
	if syscall.Unmount(os.Args[2], syscall.MNT_DETACH) == nil {
		server.Wait()
	}
}
