"""A child that borrows this process's memory until it executes something: vfork(2) for Python code.

A fork of an interpreter copies its page tables, then each page either side writes next, and exec
gives all of that back. None of it is needed for a child that runs a few thousand lines and executes
a program while its parent waits anyway: three milliseconds of a container's start.

Owns   clone(2) with CLONE_VM and CLONE_VFORK, and what makes it safe for CPython.
Runs   in a single-threaded process; fork-like calls in the child are not allowed.
Spec   clone(2), vfork(2); docs/adr/0011-borrowed-memory.md.

What keeps the parent sound:

- It is suspended until the child executes or exits, so that two never run the interpreter at once.
- The child has a C stack of its own, entered through a callback. The frames it leaves behind when it
  executes are that one callback: ``prepare`` has returned by then. CPython puts its frame pointers
  right when the parent's next frame ends; that is why ``run`` makes the call from a frame of its
  own, entered through ``map``, that ends at once.
- Signals are blocked from before the child's birth until the parent is back, but for SIGALRM: its
  default action gets a parent out whose child hangs.
- Descriptors, working directory, umask, credentials and limits are the child's own. Objects are not:
  the child must not close a socket object or restore signals through ``signal``, for the parent has
  the same object. ``os.close`` and ``linux.process.reset_signal`` are right.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import sys
from typing import TYPE_CHECKING

from pallet.errors import SyscallError
from pallet.linux.process import set_signal_mask

if TYPE_CHECKING:
    from collections.abc import Callable

# include/uapi/linux/sched.h
CLONE_NEWPID = 0x20000000
_CLONE_VM = 0x00000100
_CLONE_VFORK = 0x00004000
_CLONE_PARENT_SETTID = 0x00100000

_STACK_BYTES = 1 << 20
_FAILED = 1
_BLOCKED = ~(1 << signal.SIGALRM - 1) & (1 << 64) - 1
"""All but the one that ends a parent whose child hangs."""
_TESTED = ((3, 11),)
"""Versions of CPython whose frames are known to survive; others fork."""

usable = (sys.implementation.name == "cpython" and sys.version_info[:2] in _TESTED
          and sys.platform == "linux")
"""Whether ``run`` may be called."""

_Entry = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
# With the interpreter's lock held: the child finds itself its owner.
_clone = ctypes.PyDLL(None, use_errno=True).clone
_clone.argtypes = (_Entry, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p,
                   ctypes.POINTER(ctypes.c_int))
_clone.restype = ctypes.c_int


class Child:
    """The stack and the pid of children, one after another."""

    def __init__(self) -> None:
        self._stack = mmap.mmap(-1, _STACK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._top = ctypes.addressof(ctypes.c_char.from_buffer(self._stack)) + _STACK_BYTES
        self._pid = ctypes.c_int(0)
        self._entry = _Entry(self._enter)
        self._prepare: Callable[[], tuple[str, list[str], dict[bytes, bytes]]] | None = None
        self._failed: Callable[[BaseException], None] | None = None

    @property
    def pid(self) -> int:
        """The latest child's, in this process's pid namespace; known in the child itself, too."""
        return self._pid.value

    def run(
        self, prepare: Callable[[], tuple[str, list[str], dict[bytes, bytes]]],
        failed: Callable[[BaseException], None], *, flags: int = 0,
    ) -> int:
        """Run ``prepare`` in a child, then execute what it returns; come back once that is done.

        Args:
            prepare: returns program, argv and environment.
            failed: called in the child with what ``prepare`` or execve(2) raised.
            flags: CLONE_NEW* for the child.

        Returns:
            The child's pid; it may have ended already.

        Raises:
            SyscallError: there is no child.
        """
        self._prepare, self._failed = prepare, failed
        mask = set_signal_mask(_BLOCKED)
        try:
            (result,) = map(self._call, (flags,))
        finally:
            # The callback that never returned still counts as a level of recursion.
            sys.setrecursionlimit(sys.getrecursionlimit() + 1)
            set_signal_mask(mask)
            self._prepare = self._failed = None
        if result < 0:
            number = ctypes.get_errno()
            raise SyscallError("clone", number)
        return result

    def _call(self, flags: int) -> int:
        flags |= _CLONE_VM | _CLONE_VFORK | _CLONE_PARENT_SETTID | signal.SIGCHLD
        result: int = _clone(self._entry, self._top, flags, None, ctypes.byref(self._pid))
        return result

    def _enter(self, _argument: object) -> int:
        """The child, on its own stack."""
        assert self._prepare is not None
        assert self._failed is not None
        # Left outside of any handler: the parent would find itself handling that exception.
        try:
            program, argv, environment = self._prepare()
            os.execve(program, argv, environment)  # noqa: S606 - what the caller asked for
        except BaseException as error:  # noqa: BLE001 - a child has nobody above it
            problem = error
        with contextlib.suppress(BaseException):
            self._failed(problem)
        os._exit(_FAILED)
