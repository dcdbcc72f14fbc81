"""Which system calls a confined program may make: what Python needs to compute. Standard library only.

Landlock and mounts decide what may be opened. This list closes what they leave open: sockets, other processes (none can
be started, signalled, traced or watched), other programs (nothing can be executed), modes, owners, times and attributes
of files, shared memory outside RLIMIT_AS, namespaces, the kernel's keys, tracing and io_uring.

Numbers from the kernel's asm/unistd_64.h and asm-generic/unistd.h (Linux 6.1).
"""

from __future__ import annotations

ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""platform.machine() → column below, AUDIT_ARCH of linux/audit.h."""

AFTER_THE_LAST = 451
"""A number from here on is newer than this table: ENOSYS, so that a newer C library takes its older way."""

# fmt: off
FREE: dict[str, tuple[int | None, int | None]] = {
    # reading and writing
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "pwrite64": (18, 68), "preadv": (295, 69), "pwritev": (296, 70), "lseek": (8, 62), "close": (3, 57),
    "close_range": (436, 436), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "fsync": (74, 82),
    "fdatasync": (75, 83), "ftruncate": (77, 46), "sendfile": (40, 71), "copy_file_range": (326, 285),
    "flock": (73, 32), "fadvise64": (221, 223),
    # names of files; what may be opened is Landlock's and the mounts' to say
    "stat": (4, None), "lstat": (6, None), "fstat": (5, 80), "newfstatat": (262, 79), "statx": (332, 291),
    "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439), "readlink": (89, None),
    "readlinkat": (267, 78), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50), "mkdir": (83, None),
    "mkdirat": (258, 34), "rmdir": (84, None), "unlink": (87, None), "unlinkat": (263, 35), "rename": (82, None),
    "renameat": (264, 38), "renameat2": (316, 276), "link": (86, None), "linkat": (265, 37), "symlink": (88, None),
    "symlinkat": (266, 36), "umask": (95, 166), "getdents64": (217, 61), "statfs": (137, 43), "fstatfs": (138, 44),
    # memory
    "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216), "madvise": (28, 233),
    "brk": (12, 214), "msync": (26, 227), "mincore": (27, 232), "membarrier": (324, 283),
    # threads of this process, and its end
    "futex": (202, 98), "set_robust_list": (273, 99), "get_robust_list": (274, 100), "rseq": (334, 293),
    "set_tid_address": (218, 96), "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "getcpu": (309, 168),
    "exit": (60, 93), "exit_group": (231, 94), "gettid": (186, 178), "getpid": (39, 172), "getppid": (110, 173),
    # its own signals and timers
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132), "pause": (34, None),
    "alarm": (37, None), "setitimer": (38, 103), "getitimer": (36, 102), "restart_syscall": (219, 128),
    # clocks
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "nanosleep": (35, 101),
    "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153),
    # waiting
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72), "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21), "epoll_wait": (232, None), "epoll_pwait": (281, 22), "epoll_pwait2": (441, 441),
    "pipe": (22, None), "pipe2": (293, 59), "eventfd2": (290, 19),
    # facts about itself
    "uname": (63, 160), "sysinfo": (99, 179), "getrusage": (98, 165), "getrlimit": (97, 163), "getuid": (102, 174),
    "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "getresuid": (118, 148),
    "getresgid": (120, 150), "getgroups": (115, 158), "getpgrp": (111, None), "getpgid": (121, 155),
    "getsid": (124, 156), "getpriority": (140, 141), "getrandom": (318, 278), "capget": (125, 90),
    "wait4": (61, 260), "waitid": (247, 95),
}
# fmt: on
"""Allowed with any arguments: (x86_64, aarch64)."""

CLONE3 = (435, 435)
"""Its flags are in memory, where a filter cannot look: ENOSYS, and the C library calls `clone`."""

# Of an argument only the low 32 bits are read, which is all that the kernel reads of these.
_CLONE_THREAD = 0x00010000
_CLONE_NEW = 0x7E020000  # every CLONE_NEW* namespace
_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1032)  # duplicate, flags, locks, size of a pipe; no owner, signal or lease
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # is it a terminal, its size, FIONREAD, FIONBIO, FIO(N)CLEX
_O_TRUNC, _O_ACCMODE = 0o1000, 0o3
_PR_NAME = (15, 16)
OWN_PID = -1
"""Stands for the number of the process that is confined."""

ONE_OF: dict[str, tuple[tuple[int, int], int, tuple[int, ...]]] = {
    "fcntl": ((72, 25), 1, _FCNTL),
    "ioctl": ((16, 29), 1, _IOCTL),
    "prctl": ((157, 167), 0, _PR_NAME),
    "kill": ((62, 129), 0, (OWN_PID,)),
    "tgkill": ((234, 131), 0, (OWN_PID,)),
    "prlimit64": ((302, 261), 0, (0,)),
}
"""Allowed where argument n is one of these: numbers, n, values."""

MASKED: dict[str, tuple[tuple[int | None, int | None], int, int, int, bool]] = {
    "clone": ((56, 220), 0, _CLONE_THREAD | _CLONE_NEW, _CLONE_THREAD, True),
    # Before Landlock's ABI 3, O_TRUNC empties a file that was opened only to be read.
    "openat": ((257, 56), 2, _O_TRUNC | _O_ACCMODE, _O_TRUNC, False),
    "open": ((2, None), 1, _O_TRUNC | _O_ACCMODE, _O_TRUNC, False),
}
"""Numbers, n, mask, value: allowed where argument n under the mask equals the value, or (False) where it does not."""
