"""A program on a pseudo-terminal: type, read until a pattern, resize. Standard library only."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from typing import TYPE_CHECKING

from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

_WHERE_IS_THE_CURSOR = b"\x1b[6n"
PROMPT = r"# \x1b\[6n"
"""Of busybox's shell, which asks for the cursor before it reads: what is typed earlier mixes with the answer."""


class Terminal:
    """``argv`` with a pty as its controlling terminal."""

    def __init__(
        self, argv: Sequence[str], *, env: Mapping[str, str], rows: int = 24, columns: int = 80
    ) -> None:
        self._master, slave = pty.openpty()
        self._set_size(rows, columns)
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *argv], stdin=slave, stdout=slave, stderr=slave, env=dict(env),
        )  # fmt: skip
        os.close(slave)
        self.output = ""
        self._seen = 0

    def __enter__(self) -> Terminal:
        """Use as a context: the program is killed at its end."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill the program if it still runs and close the terminal."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    def _set_size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, rows: int, columns: int) -> None:
        """Change the size as a terminal emulator does; the kernel sends SIGWINCH."""
        self._set_size(rows, columns)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program."""
        self.process.send_signal(number)

    def type(self, text: str) -> None:
        """Type ``text``."""
        os.write(self._master, text.encode())

    def _read(self, wait_s: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(wait_s, 0))
        if not ready:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: every writer has gone
            return False
        self.output += data.decode(errors="replace")
        for _ in range(data.count(_WHERE_IS_THE_CURSOR)):
            os.write(self._master, b"\x1b[1;1R")
        return bool(data)

    def expect(self, pattern: str, *, timeout_s: float = 15.0) -> re.Match[str]:
        """Read until ``pattern`` matches what was not yet matched.

        Raises:
            AssertionError: the program ended or the time ran out; the message has all its output.
        """
        deadline = time.monotonic() + timeout_s * PATIENCE
        alive = True
        while True:
            if match := re.search(pattern, self.output[self._seen :]):
                self._seen += match.end()
                return match
            if not alive or time.monotonic() > deadline:
                state = "time ran out" if alive else "the program ended"
                message = f"{pattern!r} did not come, {state}:\n{self.output}"
                raise AssertionError(message)
            alive = self._read(min(0.2, deadline - time.monotonic()))

    def wait(self, *, timeout_s: float = 15.0) -> int:
        """Read to the end and return the exit code."""
        deadline = time.monotonic() + timeout_s * PATIENCE
        while self._read(min(0.2, deadline - time.monotonic())):
            if self.process.poll() is not None:
                with contextlib.suppress(OSError):
                    while select.select([self._master], [], [], 0)[0] and self._read(0):
                        pass
                break
            if time.monotonic() > deadline:
                message = f"still running after {timeout_s} s:\n{self.output}"
                raise AssertionError(message)
        return self.process.wait(timeout=max(1.0, deadline - time.monotonic()))
