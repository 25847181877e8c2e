"""Seccomp: loading a compiled filter with seccomp(2).

Owns   the system call and its flags, and finding libseccomp. What a filter says is
       ``runtime/seccomp_profile.py``.
Runs   ``load`` in a container's init, the last thing before execve(2); the rest in the daemon.
Needs  CAP_SYS_ADMIN or no_new_privs; libseccomp 2.5 for compiling.
Spec   seccomp(2); runtime-spec config-linux.md#seccomp (``flags``).
"""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from typing import Any

from pallet.errors import SyscallError, SystemFailureError
from pallet.linux._libc import bind, call

# include/uapi/linux/seccomp.h
SET_MODE_FILTER = 1
FLAG_TSYNC = 1 << 0
FLAG_LOG = 1 << 1
FLAG_SPEC_ALLOW = 1 << 2
_GET_ACTION_AVAIL = 2
_PR_SET_NO_NEW_PRIVS = 38

_LIBSECCOMP = "libseccomp.so.2"

INSTRUCTION_BYTES = 8
MAX_INSTRUCTIONS = 4096
"""BPF_MAXINSNS; a longer program is EINVAL."""

# The number of seccomp(2): arch/*/entry/syscalls, include/uapi/asm-generic/unistd.h.
_SYSCALL_NUMBERS = {
    "x86_64": 317, "i386": 354, "i686": 354, "aarch64": 277, "armv7l": 383, "armv6l": 383,
    "ppc64le": 358, "ppc64": 358, "s390x": 348, "riscv64": 277, "loongarch64": 277,
    "mips64": 5312, "mips": 4352,
}
_SECCOMP = _SYSCALL_NUMBERS.get(os.uname().machine, 277)


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


_syscall = bind("syscall", ctypes.c_long, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p,
                restype=ctypes.c_long)
_prctl = bind("prctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)


def set_no_new_privs() -> None:
    """Let no execve(2) of this process and its children grant privileges any more."""
    call(_prctl, "prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def load(bpf: bytes, flags: int = 0) -> None:
    """Install ``bpf`` (``struct sock_filter`` instructions) for the calling thread.

    A flag that only tunes (``FLAG_SPEC_ALLOW``, ``FLAG_LOG``) is left out on a kernel that does
    not know it, as the profile is worth more than the flag.

    Raises:
        SyscallError: EACCES without CAP_SYS_ADMIN and no_new_privs; EINVAL for a bad program.
    """
    program = _Program(len(bpf) // INSTRUCTION_BYTES, bpf)
    try:
        call(_syscall, "seccomp", _SECCOMP, SET_MODE_FILTER, flags, ctypes.byref(program))
    except SyscallError as error:
        optional = FLAG_SPEC_ALLOW | FLAG_LOG
        if error.errno != errno.EINVAL or not flags & optional:
            raise
        call(_syscall, "seccomp", _SECCOMP, SET_MODE_FILTER, flags & ~optional,
             ctypes.byref(program))


def is_supported() -> bool:
    """Tell whether this kernel was built with seccomp filters."""
    allow = ctypes.c_uint32(0x7FFF0000)
    try:
        call(_syscall, "seccomp", _SECCOMP, _GET_ACTION_AVAIL, 0, ctypes.byref(allow))
    except SyscallError as error:
        # EOPNOTSUPP: the action is unknown, but the call is there. EINVAL: Linux < 4.14.
        return error.errno in (errno.EOPNOTSUPP, errno.EINVAL)
    return True


def binding() -> Any:
    """Return the libseccomp binding, imported at the first call.

    The binding asks ``ctypes.util.find_library`` for two sonames, which would run ldconfig and a
    compiler in child processes: 30 ms, and no forks are wanted in the daemon. The names are known.

    Raises:
        SystemFailureError: libseccomp is not installed.
    """
    import ctypes.util  # a megabyte that the zygote's children need not carry

    sonames: dict[str, str | None] = {"c": None, "seccomp": _LIBSECCOMP}
    original = ctypes.util.find_library
    ctypes.util.find_library = lambda name: sonames[name] if name in sonames else original(name)
    try:
        import pyseccomp
    except OSError as error:
        message = f"libseccomp is needed for seccomp profiles: {error}"
        raise SystemFailureError(message) from error
    finally:
        ctypes.util.find_library = original
    return pyseccomp


class _Version(ctypes.Structure):
    """``struct scmp_version``."""

    _fields_ = (("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint))


@cache
def library_version() -> str:
    """Return libseccomp's version: what a compiled filter says depends on the names it knows.

    Raises:
        SystemFailureError: libseccomp is not installed.
    """
    try:
        function = ctypes.CDLL(_LIBSECCOMP)["seccomp_version"]
    except OSError as error:
        message = f"libseccomp is needed for seccomp profiles: {error}"
        raise SystemFailureError(message) from error
    function.restype = ctypes.POINTER(_Version)
    version = function().contents
    return f"{version.major}.{version.minor}.{version.micro}"
