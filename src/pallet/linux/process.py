"""Process attributes: prctl(2), keyctl(2), the heap, and the title in ``ps``.

Owns   these calls.
Runs   in the zygote and its children.
Spec   prctl(2), keyctl(2), mallopt(3).
"""

from __future__ import annotations

import ctypes
import os

from pallet.errors import SyscallError
from pallet.linux._libc import bind, bind_syscall, call

# include/uapi/linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

# include/uapi/linux/keyctl.h
_KEYCTL_JOIN_SESSION_KEYRING = 1

_NR_KEYCTL = {"x86_64": 250}.get(os.uname().machine, 219)

_prctl = bind("prctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_prctl_text = bind("prctl", ctypes.c_int, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_ulong,
                   ctypes.c_ulong)
_keyctl = bind_syscall(_NR_KEYCTL, ctypes.c_int, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_ulong,
                       ctypes.c_ulong)
_rt_sigaction = bind_syscall({"x86_64": 13}.get(os.uname().machine, 134), ctypes.c_int,
                             ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_rt_sigprocmask = bind_syscall(
    {"x86_64": 14}.get(os.uname().machine, 135), ctypes.c_int, ctypes.POINTER(ctypes.c_uint64),
    ctypes.POINTER(ctypes.c_uint64), ctypes.c_size_t)
_SIG_SETMASK = 2
_malloc_trim = bind("malloc_trim", ctypes.c_size_t) if hasattr(
    ctypes.CDLL(None), "malloc_trim") else None


def set_name(name: str) -> None:
    """Set the thread's name: the first 15 bytes show in /proc/<pid>/comm."""
    call(_prctl_text, "prctl", _PR_SET_NAME, os.fsencode(name)[:15], 0, 0, 0)


def become_subreaper() -> None:
    """Adopt orphaned descendants instead of process 1."""
    call(_prctl, "prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def set_parent_death_signal(signum: int) -> None:
    """Have the kernel send ``signum`` when the parent ends; 0 clears it."""
    call(_prctl, "prctl", _PR_SET_PDEATHSIG, signum, 0, 0, 0)


def set_undumpable() -> None:
    """Keep this process's memory, descriptors and executable from others' eyes until its exec.

    Without CAP_SYS_PTRACE not even root of the same user namespace may look then.
    """
    call(_prctl, "prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)


def set_no_new_privileges() -> None:
    """No exec below this process gains privileges, for good."""
    call(_prctl, "prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def join_session_keyring(name: str) -> None:
    """Join a fresh session keyring, so that the host's keys cannot be read.

    A kernel without keyrings, or a quota that is used up, is not an error: the caller then has no
    session keyring that could leak.
    """
    try:
        call(_keyctl, "keyctl", _KEYCTL_JOIN_SESSION_KEYRING, os.fsencode(name), 0, 0, 0)
    except SyscallError:
        return


def reset_signal(number: int) -> None:
    """Give ``number`` its default action, also where libc keeps it for itself (32 and 33).

    An ancestor that ignores those hands that down over fork and exec.
    """
    action = ctypes.create_string_buffer(64)
    call(_rt_sigaction, "rt_sigaction", number, action, None, 8, path=str(number))


def set_signal_mask(mask: int) -> int:
    """Block the signals of ``mask``, bit n - 1 for signal n, and no others; return the old mask.

    ``signal.pthread_sigmask`` makes an enum member of each signal in both: a tenth of a
    millisecond.
    """
    old = ctypes.c_uint64()
    call(_rt_sigprocmask, "rt_sigprocmask", _SIG_SETMASK, ctypes.c_uint64(mask), old, 8)
    return old.value


def trim_heap() -> None:
    """Give unused heap pages back to the kernel."""
    if _malloc_trim is not None:
        _malloc_trim(0)


class Title:
    """The command line that ``ps`` shows, rewritten in place.

    The kernel reads it from the process's own argument area, found once in /proc/self/stat
    (fields 48 and 49, proc(5)); longer titles are cut.
    """

    def __init__(self) -> None:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        self._start, end = int(fields[45]), int(fields[46])
        self._size_bytes = max(end - self._start, 0) if self._start else 0
        self.text = ""
        """What ``set`` was last called with."""

    def set(self, text: str) -> None:
        """Show ``text`` from now on; shows nothing new where the area cannot be found."""
        self.text = text
        if not self._size_bytes:
            return
        raw = os.fsencode(text)[: self._size_bytes - 1]
        ctypes.memset(self._start, 0, self._size_bytes)
        ctypes.memmove(self._start, raw, len(raw))
