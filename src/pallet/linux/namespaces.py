"""Namespaces: unshare(2), setns(2) and what is set inside them.

Owns   the CLONE_NEW* table and these calls.
Runs   in the zygote's children. Never in the daemon.
Needs  CAP_SYS_ADMIN; ``setns`` by pidfd wants Linux 5.8.
Spec   namespaces(7); runtime-spec config-linux.md#namespaces.
"""

from __future__ import annotations

import ctypes
import os

from pallet.linux._libc import bind, call

# include/uapi/linux/sched.h
CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

FLAGS = {
    "user": CLONE_NEWUSER, "mount": CLONE_NEWNS, "pid": CLONE_NEWPID, "network": CLONE_NEWNET,
    "ipc": CLONE_NEWIPC, "uts": CLONE_NEWUTS, "cgroup": CLONE_NEWCGROUP,
}
"""runtime-spec name to flag."""

PROC_NAMES = {
    "user": "user", "mount": "mnt", "pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts",
    "cgroup": "cgroup",
}
"""runtime-spec name to file below /proc/<pid>/ns."""

_unshare = bind("unshare", ctypes.c_int)
_setns = bind("setns", ctypes.c_int, ctypes.c_int)
_sethostname = bind("sethostname", ctypes.c_char_p, ctypes.c_size_t)
_setdomainname = bind("setdomainname", ctypes.c_char_p, ctypes.c_size_t)


def unshare(flags: int) -> None:
    """Leave the shared namespaces in ``flags``; CLONE_NEWPID concerns the next child only."""
    call(_unshare, "unshare", flags)


def setns(fd: int, flags: int) -> None:
    """Join the namespace behind ``fd``, or those in ``flags`` of the process behind a pidfd."""
    call(_setns, "setns", fd, flags)


def join_path(path: str, kind: str) -> None:
    """Join the namespace file ``path``, which must be of the runtime-spec type ``kind``."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(fd, FLAGS[kind])
    finally:
        os.close(fd)


def set_hostname(name: str) -> None:
    """Set the host name of the uts namespace."""
    raw = os.fsencode(name)
    call(_sethostname, "sethostname", raw, len(raw))


def set_domainname(name: str) -> None:
    """Set the NIS domain name of the uts namespace."""
    raw = os.fsencode(name)
    call(_setdomainname, "setdomainname", raw, len(raw))
