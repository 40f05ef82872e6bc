package e2e

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// clockPage is where the process finds its shift, far from anything else.
const clockPage = 0x700000000000

// start starts a process whose wall clock is shifted by the number in the clock's
// file, now and whenever that changes. A program without a C library cannot be
// given another clock by a library, and a time namespace shifts only clocks that
// nobody sets. So the process is stopped before its first instruction, the file
// is mapped into it, and the function of the vDSO that everybody asks for the time
// is replaced: it asks the kernel and adds the number to the wall clock's seconds.
func (c *clock) start(cmd *exec.Cmd) error {
	runtime.LockOSThread() // only the thread that traces may do so
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	pid := cmd.Process.Pid
	err := c.patch(pid)
	if err == nil {
		err = unix.PtraceDetach(pid)
	}
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return fmt.Errorf("cannot give a process another clock: %w", err)
	}
	return nil
}

func (c *clock) patch(pid int) error {
	if err := stopped(pid); err != nil {
		return err
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer mem.Close()

	// Two system calls in the name of the process: open the file and map it.
	var before unix.PtraceRegs
	if err := unix.PtraceGetRegs(pid, &before); err != nil {
		return err
	}
	var code [8]byte
	path := append([]byte(c.path), 0)
	name := (before.Rsp - 4096) &^ 15
	if _, err = mem.ReadAt(code[:], int64(before.Rip)); err == nil {
		_, err = mem.WriteAt([]byte{0x0f, 0x05, 0xcc}, int64(before.Rip)) // syscall; int3
	}
	if err == nil {
		_, err = mem.WriteAt(path, int64(name))
	}
	if err != nil {
		return err
	}
	call := func(number uint64, args ...uint64) (int64, error) {
		regs := before
		regs.Orig_rax, regs.Rax = ^uint64(0), number
		for i, to := range []*uint64{&regs.Rdi, &regs.Rsi, &regs.Rdx, &regs.R10, &regs.R8, &regs.R9}[:len(args)] {
			*to = args[i]
		}
		err := unix.PtraceSetRegs(pid, &regs)
		if err == nil {
			err = unix.PtraceCont(pid, 0)
		}
		if err == nil {
			err = stopped(pid)
		}
		if err == nil {
			err = unix.PtraceGetRegs(pid, &regs)
		}
		if result := int64(regs.Rax); err == nil && result < 0 && result > -4096 {
			err = syscall.Errno(-result)
		}
		return int64(regs.Rax), err
	}
	fd, err := call(unix.SYS_OPEN, name, unix.O_RDONLY, 0)
	if err == nil {
		_, err = call(unix.SYS_MMAP, clockPage, 4096, unix.PROT_READ, unix.MAP_SHARED|unix.MAP_FIXED_NOREPLACE, uint64(fd), 0)
	}
	if err == nil {
		_, err = call(unix.SYS_CLOSE, uint64(fd))
	}
	if err == nil {
		_, err = mem.WriteAt(code[:], int64(before.Rip))
	}
	if err == nil {
		err = unix.PtraceSetRegs(pid, &before)
	}
	if err != nil {
		return err
	}

	at, err := vdsoClock(pid, mem)
	if err != nil {
		return err
	}
	instead := []byte{
		0xb8, 0xe4, 0, 0, 0, // mov eax, 228: clock_gettime
		0x0f, 0x05, // syscall
		0x85, 0xff, // test edi, edi: which clock
		0x75, 0x10, // jne: not that of the wall
		0x49, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0, // mov r11, clockPage
		0x4d, 0x8b, 0x1b, // mov r11, [r11]
		0x4c, 0x01, 0x1e, // add [rsi], r11: the seconds
		0xc3, // ret
	}
	binary.LittleEndian.PutUint64(instead[13:], clockPage)
	_, err = mem.WriteAt(instead, at)
	return err
}

// stopped waits until the process has stopped at a trap.
func stopped(pid int) error {
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(pid, &status, 0, nil); !errors.Is(err, unix.EINTR) {
			if err == nil && (!status.Stopped() || status.StopSignal() != unix.SIGTRAP) {
				err = fmt.Errorf("it is not at a trap, its status is %#x", status)
			}
			return err
		}
	}
}

// vdsoClock returns where the function is that tells the time.
func vdsoClock(pid int, mem *os.File) (int64, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(maps)) {
		if !strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			continue
		}
		span, _, _ := strings.Cut(line, " ")
		low, high, _ := strings.Cut(span, "-")
		from, err1 := strconv.ParseInt(low, 16, 64)
		to, err2 := strconv.ParseInt(high, 16, 64)
		if err := errors.Join(err1, err2); err != nil {
			return 0, err
		}
		image := make([]byte, to-from)
		if _, err := mem.ReadAt(image, from); err != nil {
			return 0, err
		}
		file, err := elf.NewFile(bytes.NewReader(image))
		if err != nil {
			return 0, err
		}
		symbols, err := file.DynamicSymbols()
		if err != nil {
			return 0, err
		}
		for _, s := range symbols {
			if s.Name == "__vdso_clock_gettime" {
				return from + int64(s.Value), nil
			}
		}
	}
	return 0, errors.New("the kernel gives it no __vdso_clock_gettime")
}
