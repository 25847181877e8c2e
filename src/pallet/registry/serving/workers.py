"""The supervisor of worker processes.

Owns   forking, replacing and ending workers, and handing on signals.
Runs   in the process of ``pallet registry serve``, which has no threads and opens no store; each
       worker opens its own.
Needs  listeners made before.

Signals: SIGTERM and SIGINT let requests in work finish, a second one does not; SIGHUP reloads. A worker that
ends unasked is replaced at once, or after a second when it had just begun. Workers notice the end of
their supervisor, however it came, by a pipe, and end too, requests in work first.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import resource
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Protocol

from pallet.errors import PalletError, SystemFailureError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pallet.registry.serving.listeners import Sockets
    from pallet.registry.serving.metrics import Cells

logger = logging.getLogger(__name__)

_EARLY_S = 1.0
_KILL_S = 5.0
"""After the time to drain."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_SWITCH_S = 0.001


class Worker(Protocol):
    """A server in a worker's process."""

    def run(self) -> None:
        """Serve until ``end``."""
        ...

    def end(self, drain_s: float | None = None) -> None:
        """Finish what runs; in any thread."""
        ...

    def reload(self) -> None:
        """Take notice of changed files; in any thread."""
        ...


class Supervisor:
    """Keeps one worker for each of ``sockets``."""

    def __init__(self, make: Callable[[int, Sockets], Worker], sockets: Sequence[Sockets], cells: Cells,
                 *, drain_s: float, reload: Callable[[], None] = lambda: None) -> None:
        self._make = make
        self._reload = reload
        self._sockets = sockets
        self._cells = cells
        self._drain_s = drain_s
        self._workers: dict[int, tuple[int, float]] = {}
        """Process id -> index and start."""
        self._failures = 0
        """Early ends since a worker last lived for a while."""
        self._lifeline: tuple[int, int] = (-1, -1)

    def run(self, ready: Callable[[], None]) -> None:
        """Serve until told to stop; every worker has ended then.

        Args:
            ready: called once the port is open.

        Raises:
            SystemFailureError: the workers do not start.
        """
        old = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self._lifeline = os.pipe2(os.O_CLOEXEC)
        try:
            gc.freeze()
            for index in range(len(self._sockets)):
                self._fork(index)
            ready()
            self._supervise()
        finally:
            self._end_all()
            for fd in self._lifeline:
                os.close(fd)
            gc.unfreeze()
            signal.pthread_sigmask(signal.SIG_SETMASK, old)

    def _fork(self, index: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = self._work(index)
            except BaseException:
                logger.exception("a worker failed")
            finally:
                logging.shutdown()
                os._exit(code)
        self._workers[pid] = (index, time.monotonic())

    def _supervise(self) -> None:
        while True:
            number = signal.sigwait(_SIGNALS)
            if number in {signal.SIGTERM, signal.SIGINT}:
                return
            if number == signal.SIGHUP:
                try:
                    self._reload()
                except PalletError:
                    pass  # workers say what is wrong
                except Exception:
                    logger.exception("reload failed; what was in force stays")
                self._signal(signal.SIGHUP)
            for index, code, early in self._reap():
                if early:
                    self._bear(index, code)
                    time.sleep(_EARLY_S)
                logger.warning("worker %d ended with %d: starting another", index, code)
                self._cells.clear_gauges(index)
                self._cells.count_restart(index)
                self._fork(index)

    def _bear(self, index: int, code: int) -> None:
        """Put up with a worker that ended early, unless none ever gets going without being killed.

        Raises:
            SystemFailureError: it is hopeless; why is in the workers' last words.
        """
        if code < 0 or any(time.monotonic() - began > 2 * _EARLY_S for _, began in self._workers.values()):
            self._failures = 0
            return
        self._failures += 1
        if self._failures > 2 * len(self._sockets):
            message = f"the registry's workers do not start: worker {index} ended with {code}"
            raise SystemFailureError(message)

    def _reap(self) -> list[tuple[int, int, bool]]:
        """Index, exit status and whether it had just begun, of workers that ended."""
        ended = []
        for pid in list(self._workers):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                index, began = self._workers.pop(pid)
                ended.append((index, os.waitstatus_to_exitcode(status), time.monotonic() - began < _EARLY_S))
        return ended

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _end_all(self) -> None:
        for sockets in self._sockets:
            sockets.close()  # or connections would wait in queues that nobody empties any more
        self._signal(signal.SIGTERM)
        until = time.monotonic() + self._drain_s + _KILL_S
        while self._workers and time.monotonic() < until:
            self._reap()
            if not self._workers:
                return
            found = signal.sigtimedwait(_SIGNALS, max(until - time.monotonic(), 0))
            if found is not None and found.si_signo in {signal.SIGTERM, signal.SIGINT}:
                self._signal(signal.SIGTERM)  # again: workers do not wait for anybody then
        self._signal(signal.SIGKILL)
        for pid in list(self._workers):
            os.waitpid(pid, 0)
            del self._workers[pid]

    # --- in the worker

    def _work(self, index: int) -> int:
        os.close(self._lifeline[1])
        sys.setswitchinterval(_SWITCH_S)  # the loop is not to wait for a thread that parses JSON
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        for other, sockets in enumerate(self._sockets):
            if other != index:
                sockets.main.close()
        worker = self._make(index, self._sockets[index])
        threading.Thread(target=self._heed, args=(worker,), name="pallet-registry-signals",
                         daemon=True).start()
        worker.run()
        return 0

    def _heed(self, worker: Worker) -> None:
        """Wait for signals and the supervisor's end; in a thread of the worker."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        threading.Thread(target=self._outlive, args=(worker,), name="pallet-registry-lifeline",
                         daemon=True).start()
        asked = False
        while True:
            number = signal.sigwait(_SIGNALS)
            if number == signal.SIGHUP:
                try:
                    worker.reload()
                except PalletError as error:
                    logger.error("reload: %s; what was in force stays", error)  # noqa: TRY400
                except Exception:
                    logger.exception("reload failed; what was in force stays")
            elif number in {signal.SIGTERM, signal.SIGINT}:
                worker.end(0 if asked else None)
                asked = True

    def _outlive(self, worker: Worker) -> None:
        while os.read(self._lifeline[0], 1):
            continue
        logger.warning("the supervisor is gone: ending")
        worker.end()
