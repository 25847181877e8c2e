"""Docker's default seccomp policy as a table.

Owns   which system calls a container may make when nothing else is said. Everything not named here
       fails with EPERM, and what is newer than the newest name here with ENOSYS.
Runs   anywhere; no I/O.
Spec   Docker's documentation "Seccomp security profiles for Docker"; the set of Docker 28, with
       AF_ALG sockets refused as later releases do (the kernel's crypto interface has been a way
       out of containers).
"""

from __future__ import annotations

from functools import cache

from pallet.spec.seccomp import ArchMap, Arg, Filter, Profile, ProfileSyscall

_ALLOW = "SCMP_ACT_ALLOW"
_ERRNO = "SCMP_ACT_ERRNO"
_EPERM, _ENOSYS = 1, 38

# System calls without any condition, by what they are about.
_ALWAYS = """
accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg
recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair

access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat
faccessat2 fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32
fchownat fcntl fcntl64 fdatasync flock fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate
ftruncate64 futimesat getcwd getdents getdents64 ioctl lchown lchown32 link linkat _llseek lseek
lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 pipe
pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv
rename renameat renameat2 rmdir sendfile sendfile64 splice stat stat64 statfs statfs64 statx
symlink symlinkat sync sync_file_range syncfs tee truncate truncate64 umask unlink unlinkat utime
utimensat utimensat_time64 utimes vmsplice write writev cachestat listmount statmount

fgetxattr flistxattr fremovexattr fsetxattr getxattr lgetxattr listxattr llistxattr lremovexattr
lsetxattr removexattr setxattr getxattrat listxattrat removexattrat setxattrat

epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
epoll_wait_old eventfd eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1
inotify_rm_watch _newselect poll ppoll ppoll_time64 pselect6 pselect6_time64 select signalfd
signalfd4 io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit

brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall
mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect
remap_file_pages process_mrelease

capget capset execve execveat exit exit_group fork getcpu getegid getegid32 geteuid geteuid32
getgid getgid32 getgroups getgroups32 getpgid getpgrp getpid getppid getpriority getresgid
getresgid32 getresuid getresuid32 getrlimit get_robust_list getrusage getsid get_thread_area gettid
getuid getuid32 ioprio_get ioprio_set kill pause pidfd_open pidfd_send_signal prctl prlimit64
restart_syscall rseq sched_getaffinity sched_getattr sched_getparam sched_get_priority_max
sched_get_priority_min sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64
sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield setfsgid setfsgid32
setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setpgid setpriority setregid setregid32
setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid
set_thread_area set_tid_address setuid setuid32 sysinfo tgkill times tkill ugetrlimit uname
uretprobe vfork wait4 waitid waitpid riscv_hwprobe

futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake ipc mq_getsetattr mq_notify
mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl
msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget

rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn

adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime
clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer
time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime
timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64

getrandom landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp
"""

# Capability in the bounding set -> what it opens.
_BY_CAPABILITY = {
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_SYS_ADMIN": """bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick
        lookup_dcookie lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr
        move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns
        syslog umount umount2 unshare""",
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module finit_module init_module",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE":
        "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    "CAP_SYS_RAWIO": "ioperm iopl",
    "CAP_SYS_TIME": "clock_settime clock_settime64 settimeofday stime",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYSLOG": "syslog",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
}

# Architectures -> calls only they have.
_BY_ARCHITECTURE = (
    ("ppc64le", "swapcontext sync_file_range2"),
    ("arm arm64",
     "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2"),
    ("amd64 x32", "arch_prctl"),
    ("amd64 x32 x86", "modify_ldt"),
    ("s390 s390x", "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr"),
    ("riscv64", "riscv_flush_icache"),
)

# PER_LINUX, PER_LINUX32, UNAME26 alone and with PER_LINUX32, and "only tell me".
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

# AF_ALG (38) and AF_VSOCK (40, which is not namespaced) are left out of all families.
_SOCKET_FAMILIES = (("SCMP_CMP_LT", 38), ("SCMP_CMP_EQ", 39), ("SCMP_CMP_GT", 40))

# CLONE_NEWNS|NEWCGROUP|NEWUTS|NEWIPC|NEWUSER|NEWPID|NEWNET: none may be asked for.
_NAMESPACE_FLAGS = 0x7E020000

# Native architecture -> those whose programs it also runs.
_SUB_ARCHITECTURES = {
    "X86_64": "X86 X32", "AARCH64": "ARM", "MIPS64": "MIPS MIPS64N32", "MIPS64N32": "MIPS MIPS64",
    "MIPSEL64": "MIPSEL MIPSEL64N32", "MIPSEL64N32": "MIPSEL MIPSEL64", "S390X": "S390",
    "RISCV64": "", "LOONGARCH64": "",
}


def _allow(names: str, *args: Arg, includes: Filter | None = None,
           excludes: Filter | None = None) -> ProfileSyscall:
    return ProfileSyscall(names=names.split(), action=_ALLOW, args=list(args) or None,
                          includes=includes, excludes=excludes)


@cache
def default_profile() -> Profile:
    """Return the default policy as a profile in Docker's format."""
    syscalls = [
        _allow(_ALWAYS),
        # Before Linux 4.8 ptrace(2) could be used to get around a filter.
        _allow("process_vm_readv process_vm_writev ptrace", includes=Filter(min_kernel="4.8")),
    ]
    syscalls += [_allow("socket", Arg(index=0, value=family, op=op))
                 for op, family in _SOCKET_FAMILIES]
    syscalls += [_allow("personality", Arg(index=0, value=persona, op="SCMP_CMP_EQ"))
                 for persona in _PERSONALITIES]
    syscalls += [_allow(names, includes=Filter(arches=arches.split()))
                 for arches, names in _BY_ARCHITECTURE]
    syscalls += [_allow(names, includes=Filter(caps=[capability]))
                 for capability, names in _BY_CAPABILITY.items()]
    syscalls += _clone_rules()
    return Profile(
        default_action=_ERRNO,
        default_errno_ret=_EPERM,
        arch_map=[
            ArchMap(architecture=f"SCMP_ARCH_{native}",
                    sub_architectures=[f"SCMP_ARCH_{name}" for name in names.split()])
            for native, names in _SUB_ARCHITECTURES.items()
        ],
        syscalls=syscalls,
    )


def _clone_rules() -> list[ProfileSyscall]:
    """Without CAP_SYS_ADMIN no namespaces: by clone's flags, and not at all through clone3.

    A filter cannot look into clone3's structure, so the C library is told that there is no such
    call and falls back to clone. s390 takes the flags as second argument.
    """
    def no_namespaces(index: int) -> Arg:
        return Arg(index=index, value=_NAMESPACE_FLAGS, value_two=0, op="SCMP_CMP_MASKED_EQ")

    s390 = ["s390", "s390x"]
    return [
        _allow("clone", no_namespaces(0), excludes=Filter(caps=["CAP_SYS_ADMIN"], arches=s390)),
        _allow("clone", no_namespaces(1), includes=Filter(arches=s390),
               excludes=Filter(caps=["CAP_SYS_ADMIN"])),
        ProfileSyscall(names=["clone3"], action=_ERRNO, errno_ret=_ENOSYS,
                       excludes=Filter(caps=["CAP_SYS_ADMIN"])),
    ]
