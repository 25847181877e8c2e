"""Capabilities: names and masks, capget(2), capset(2) and the prctl(2) calls around them.

Owns   the kernel's capability numbers. Knows nothing of Docker's add and drop rules.
Runs   in a container's init around setuid(2) (``apply`` and its parts); reading anywhere.
Needs  CAP_SETPCAP to shrink the bounding set or to raise an inheritable one.
Spec   capabilities(7); runtime-spec config.md#linux-process (``capabilities``).

A set of capabilities is a mask here: bit ``n`` is capability number ``n``. Order of use in init:

    drop_bounding(keep); keep_caps(on=True); setresgid/setgroups/setresuid;
    set_caps(...); raise_ambient(...); keep_caps(on=False)
"""

from __future__ import annotations

import ctypes
import errno
import struct
from functools import cache
from typing import TYPE_CHECKING

from pallet.errors import SyscallError
from pallet.linux._libc import bind, call

if TYPE_CHECKING:
    from collections.abc import Iterable

# include/uapi/linux/capability.h, in the order of their numbers.
NAMES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID",
    "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK",
    "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
    "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
NUMBERS = {name: number for number, name in enumerate(NAMES)}

# include/uapi/linux/prctl.h
_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4

_VERSION_3 = 0x20080522
"""_LINUX_CAPABILITY_VERSION_3: 64-bit sets as two halves."""


_HEADER = struct.pack("=Ii", _VERSION_3, 0)
"""``struct __user_cap_header_struct``; pid 0 is the calling thread."""
_SETS = struct.Struct("=6I")
"""Two ``struct __user_cap_data_struct``: effective, permitted, inheritable; low half, high half."""

_prctl = bind("prctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
# The bounding set's calls look at one argument only, and init makes one for each capability.
_prctl_one = bind("prctl", ctypes.c_int, ctypes.c_ulong)
_capset = bind("capset", ctypes.c_char_p, ctypes.c_char_p)
_capget = bind("capget", ctypes.c_char_p, ctypes.c_char_p)


@cache
def last_cap() -> int:
    """Return the highest capability number this kernel knows."""
    with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
        return int(file.read())


@cache
def available() -> int:
    """Return the mask of capabilities this process can hand on: permitted and still bounded.

    Asked once: the answer of the daemon and the zygote does not change while they run.
    """
    sets = ctypes.create_string_buffer(_SETS.size)
    call(_capget, "capget", _HEADER, sets)
    halves = _SETS.unpack(sets.raw)
    permitted = int(halves[1]) | int(halves[4]) << 32
    bounded = 0
    for number in range(last_cap() + 1):
        if call(_prctl_one, "prctl", _PR_CAPBSET_READ, number) == 1:
            bounded |= 1 << number
    return permitted & bounded


def mask_of(names: Iterable[str]) -> int:
    """Return the mask of ``names`` (``CAP_…``); names this table does not know are left out.

    Spec:
        runtime-spec config.md#linux-process: values that cannot be mapped are not an error.
    """
    mask = 0
    for name in names:
        number = NUMBERS.get(name)
        if number is not None:
            mask |= 1 << number
    return mask


def names_of(mask: int) -> list[str]:
    """Return the names in ``mask`` in the order of their numbers."""
    return [name for number, name in enumerate(NAMES) if mask >> number & 1]


def drop_bounding(keep: int) -> None:
    """Drop every capability that is not in ``keep`` from the bounding set.

    Raises:
        SyscallError: EPERM without CAP_SETPCAP.
    """
    for number in range(last_cap() + 1):
        if not keep >> number & 1:
            call(_prctl_one, "prctl", _PR_CAPBSET_DROP, number)


def keep_caps(*, on: bool) -> None:
    """Keep the permitted set over the next setuid(2) away from 0 (cleared by execve)."""
    call(_prctl, "prctl", _PR_SET_KEEPCAPS, int(on), 0, 0, 0)


def set_caps(*, effective: int, permitted: int, inheritable: int) -> None:
    """Set the three sets of the calling thread; bits above ``last_cap`` are ignored.

    Raises:
        SyscallError: EPERM when a set asks for more than this process holds.
    """
    known = (1 << last_cap() + 1) - 1
    low = [mask & known & 0xFFFFFFFF for mask in (effective, permitted, inheritable)]
    high = [(mask & known) >> 32 for mask in (effective, permitted, inheritable)]
    call(_capset, "capset", _HEADER, _SETS.pack(*low, *high))


def raise_ambient(mask: int) -> None:
    """Replace the ambient set by ``mask``, which must be both permitted and inheritable.

    Raises:
        SyscallError: EPERM when a capability is not in both sets.
    """
    try:
        call(_prctl, "prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    except SyscallError as error:
        # Linux < 4.3 has no ambient set: then there is nothing to clear.
        if error.errno == errno.EINVAL and not mask:
            return
        raise
    for number in range(last_cap() + 1):
        if mask >> number & 1:
            call(_prctl, "prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0)


def apply(
    *, bounding: int, effective: int, permitted: int, inheritable: int, ambient: int
) -> None:
    """Set all five sets of a process that does not change its user afterwards.

    A process that does uses the parts in the order the module header gives: the bounding set can
    only shrink while CAP_SETPCAP is there, the others are set after setuid(2).

    Raises:
        SyscallError: EPERM when a set asks for more than this process holds.
    """
    drop_bounding(bounding)
    set_caps(effective=effective, permitted=permitted, inheritable=inheritable)
    raise_ambient(ambient)
