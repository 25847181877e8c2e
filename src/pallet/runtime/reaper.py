"""A tiny init of our own: process 1 that forwards signals and reaps (``--init`` without a program).

Owns   process 1 of such a container.
Runs   in a container's init, after its identity is set.
Spec   semantics "lifecycle stop"; the behaviour of tini with its default settings.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_NOT_FORWARDED = frozenset({
    signal.SIGCHLD, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT,
    signal.SIGTRAP, signal.SIGSYS, signal.SIGTTIN, signal.SIGTTOU,
})


def run_under_init(execute: Callable[[], None], close: Callable[[], None]) -> None:
    """Fork; the child calls ``execute``, this process serves as process 1 and never returns.

    Args:
        execute: replaces the child by the program.
        close: lets go of everything that must end with the program's exec.
    """
    blocked = set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    child = os.fork()
    if not child:
        _lead_foreground()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        execute()
        os._exit(255)
    close()
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os._exit(_serve(child, blocked))


def _lead_foreground() -> None:
    """Make the child's process group the terminal's foreground one; SIGTTOU is blocked here."""
    os.setpgid(0, 0)
    with contextlib.suppress(OSError):
        os.tcsetpgrp(0, os.getpid())


def _serve(child: int, signals: set[signal.Signals]) -> int:
    while True:
        number = signal.sigwait(signals)
        if number == signal.SIGCHLD:
            status = _reap(child)
            if status is not None:
                return status
        elif number not in _NOT_FORWARDED:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)


def _reap(child: int) -> int | None:
    """Reap everything that ended; the child's exit status if it was among it."""
    result: int | None = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return result
        if not pid:
            return result
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            result = 128 - code if code < 0 else code

