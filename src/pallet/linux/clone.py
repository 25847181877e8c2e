"""Forking into a cgroup: clone3(2) with CLONE_INTO_CGROUP.

Owns   the one raw clone of Pallet. Everywhere else ``os.fork`` does.
Runs   in a single-threaded process (the shim) that becomes a container's parent.
Needs  Linux >= 5.7, write access to the cgroup's ``cgroup.procs``.
Spec   clone(2) "clone3()", CLONE_INTO_CGROUP; cgroups(7) "Creating cgroups and moving processes".

(m) Moving a process into a version 2 cgroup waits for an RCU grace period when nobody did the same
just before: 7 to 22 ms on an idle two-core machine. A child born there costs what a fork costs,
0.6 ms. See docs/adr/0007-fork-into-the-cgroup.md for what that needs of Python and of the C library.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct

from pallet.errors import SyscallError
from pallet.linux._libc import bind, call

# include/uapi/linux/sched.h
_CLONE_CHILD_CLEARTID = 0x00200000
_CLONE_CHILD_SETTID = 0x01000000
_CLONE_INTO_CGROUP = 0x200000000
_CLONE3 = 435
"""The same number on every architecture."""
_PR_GET_TID_ADDRESS = 40

_ARGUMENTS = struct.Struct("=11Q")
"""``struct clone_args``: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls,
set_tid, set_tid_size, cgroup."""

# PyDLL keeps the interpreter's lock during the call: the child must find it held, as after fork(2).
_python = ctypes.PyDLL(None, use_errno=True)
_clone3 = _python["syscall"]
_clone3.argtypes = (ctypes.c_long, ctypes.c_char_p, ctypes.c_size_t)
_clone3.restype = ctypes.c_long
_prctl = bind("prctl", ctypes.c_int, ctypes.POINTER(ctypes.c_void_p), ctypes.c_ulong,
              ctypes.c_ulong, ctypes.c_ulong)


def _tid_address() -> int:
    """Where the C library keeps this thread's id; 0 where the kernel does not tell.

    fork(2) of the C library has the kernel write the child's own id there. Without that the child
    would use its parent's for the few things that need it (recursive mutexes, robust lists).
    """
    found = ctypes.c_void_p()
    try:
        call(_prctl, "prctl", _PR_GET_TID_ADDRESS, ctypes.byref(found), 0, 0, 0)
    except SyscallError:
        return 0
    return found.value or 0


def fork_into(cgroup_fd: int) -> int:
    """Fork, with the child in the version 2 cgroup ``cgroup_fd`` from its first instruction on.

    As with ``os.fork``, both sides return: 0 in the child. The hooks of ``os.register_at_fork``
    run.

    Args:
        cgroup_fd: an open directory of a cgroup2 mount; stays open in both.

    Raises:
        SyscallError: ENOSYS before Linux 5.3 or under a filter, E2BIG and EINVAL before 5.7,
            EACCES, EOPNOTSUPP, EBUSY as for a write to ``cgroup.procs``. In the parent only.

    Preconditions:
        One thread.
    """
    address = _tid_address()
    flags = _CLONE_INTO_CGROUP
    if address:
        flags |= _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID
    arguments = _ARGUMENTS.pack(flags, 0, address, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, cgroup_fd)
    _python.PyOS_BeforeFork()
    pid = int(_clone3(_CLONE3, arguments, len(arguments)))
    if pid == 0:
        _python.PyOS_AfterFork_Child()
        return 0
    code = ctypes.get_errno()
    _python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise SyscallError("clone3", code, os.readlink(f"/proc/self/fd/{cgroup_fd}"))
    return pid
