"""Signals of the daemon: stop, stop at once, reload, show where everything is.

Runs   on the event loop.
Spec   dockerd: SIGTERM and SIGINT stop, the third of them forces, SIGHUP reloads, SIGUSR1 dumps.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

_FORCE_AFTER: Final = 3
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """Handlers from ``install`` until ``remove``."""

    def __init__(self, reload: Callable[[], None]) -> None:
        self.stop = asyncio.Event()
        """Set by the first SIGTERM or SIGINT."""
        self._reload = reload
        self._received = 0

    def install(self) -> None:
        """Take the signals over."""
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._on_stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        loop.add_signal_handler(signal.SIGUSR1, self._dump)

    def remove(self) -> None:
        """Give them back."""
        loop = asyncio.get_running_loop()
        for number in (*STOP_SIGNALS, signal.SIGHUP, signal.SIGUSR1):
            loop.remove_signal_handler(number)

    def _on_stop(self, number: signal.Signals) -> None:
        self._received += 1
        if self._received == 1:
            logger.info("Processing signal '%s'", number.name)
            self.stop.set()
        elif self._received >= _FORCE_AFTER:
            logger.error("Forcing shutdown after %d signals", self._received)
            os._exit(128 + number)

    def _dump(self) -> None:
        """Write every thread's and every task's stack to stderr."""
        faulthandler.dump_traceback(all_threads=True)
        for task in asyncio.all_tasks():
            task.print_stack(limit=6)
