"""Resource limits: names, numbers and prlimit(2).

Owns   the kernel's RLIMIT numbers.
Runs   in a container's init, or on another process by pid.
Needs  CAP_SYS_RESOURCE to raise a hard limit.
Spec   getrlimit(2); runtime-spec config.md#posix-process (``rlimits``).
"""

from __future__ import annotations

import errno
import resource
from typing import TYPE_CHECKING

from pallet.errors import SyscallError

if TYPE_CHECKING:
    from collections.abc import Iterable

# include/uapi/asm-generic/resource.h. The numbers of mips and sparc differ; Python's own
# constants come from the C library it was built with and so are right there too.
NUMBERS = {
    "RLIMIT_CPU": resource.RLIMIT_CPU,
    "RLIMIT_FSIZE": resource.RLIMIT_FSIZE,
    "RLIMIT_DATA": resource.RLIMIT_DATA,
    "RLIMIT_STACK": resource.RLIMIT_STACK,
    "RLIMIT_CORE": resource.RLIMIT_CORE,
    "RLIMIT_RSS": resource.RLIMIT_RSS,
    "RLIMIT_NPROC": resource.RLIMIT_NPROC,
    "RLIMIT_NOFILE": resource.RLIMIT_NOFILE,
    "RLIMIT_MEMLOCK": resource.RLIMIT_MEMLOCK,
    "RLIMIT_AS": resource.RLIMIT_AS,
    "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": resource.RLIMIT_SIGPENDING,
    "RLIMIT_MSGQUEUE": resource.RLIMIT_MSGQUEUE,
    "RLIMIT_NICE": resource.RLIMIT_NICE,
    "RLIMIT_RTPRIO": resource.RLIMIT_RTPRIO,
    "RLIMIT_RTTIME": resource.RLIMIT_RTTIME,
}
INFINITY = 2**64 - 1
"""``RLIM_INFINITY`` as the 64-bit number OCI documents carry."""


def apply(limits: Iterable[tuple[str, int, int]], pid: int = 0) -> None:
    """Set ``(name, soft, hard)`` limits of process ``pid`` (0: the caller).

    Args:
        limits: names as in ``NUMBERS``; values from 0 to ``INFINITY``.
        pid: a process of the same user, or any with CAP_SYS_RESOURCE.

    Raises:
        SyscallError: EPERM when a hard limit is raised without CAP_SYS_RESOURCE; EINVAL for an
            unknown name, a soft limit above its hard one, or a value out of range.
    """
    for name, soft, hard in limits:
        number = NUMBERS.get(name)
        if number is None:
            raise SyscallError("setrlimit", errno.EINVAL, name)
        try:
            resource.prlimit(pid, number, (_signed(soft), _signed(hard)))
        except ValueError as error:
            # Python turns EINVAL into this, and "not allowed to raise maximum limit" too.
            code = errno.EPERM if "not allowed" in str(error) else errno.EINVAL
            raise SyscallError("setrlimit", code, name) from error
        except OverflowError as error:
            raise SyscallError("setrlimit", errno.EINVAL, name) from error
        except OSError as error:
            raise SyscallError("setrlimit", error.errno or errno.EINVAL, name) from error


def _signed(value: int) -> int:
    """Return ``value`` as the signed 64-bit number ``resource`` takes: -1 is unlimited."""
    return value - 2**64 if value > 2**63 - 1 else value
