"""The C library, one fixed signature a function: every syscall of Pallet goes through here.

Owns   the handle of libc and the errno protocol. Knows no syscall by name.
Runs   anywhere; holds no state but the handle.
Spec   errno(3), syscall(2).
"""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING, Any

from pallet.errors import SyscallError

if TYPE_CHECKING:
    from collections.abc import Callable

_libc = ctypes.CDLL(None, use_errno=True)


def bind(name: str, *argtypes: Any, restype: Any = ctypes.c_int) -> Callable[..., int]:
    """Return a libc function with a fixed signature (``_libc[name]``: attributes are shared)."""
    fn: Any = _libc[name]
    fn.argtypes, fn.restype = argtypes, restype
    return fn  # type: ignore[no-any-return]


def bind_syscall(number: int, *argtypes: Any) -> Callable[..., int]:
    """Return syscall(2) for one number: for kernel calls that libc does not wrap."""
    fn: Any = _libc["syscall"]
    fn.argtypes, fn.restype = (ctypes.c_long, *argtypes), ctypes.c_long

    def invoke(*args: Any) -> int:
        return fn(number, *args)  # type: ignore[no-any-return]

    return invoke


def call(fn: Callable[..., int], name: str, *args: object, path: str | None = None) -> int:
    """Call ``fn``; retry ``EINTR`` (PEP 475 does not cover ctypes). Never use it for ``close``.

    Raises:
        SyscallError: the call answered -1; ``name`` and ``path`` go into its text.
    """
    while (result := fn(*args)) == -1:
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise SyscallError(name, code, path)
    return result
