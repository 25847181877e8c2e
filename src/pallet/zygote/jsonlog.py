"""Docker's ``json-file`` log: lines, splitting, rotation.

Owns   the log files of one container while its shim runs.
Runs   in the shim; a single thread, so every write is one plain write(2).
Spec   semantics "logs query" (long lines split at 16 KiB; ``{log,stream,time}``), dockerd's
       ``json-file`` driver: escapes, trimmed nanoseconds, rotation before a line is written.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pallet.zygote.messages import LogSink

LINE_BYTES = 16 * 1024
"""A longer line becomes several entries, all but the last without a newline."""

_FILE_MODE = 0o640
_UNSAFE = re.compile(rb'[\x00-\x09\x0b-\x1f"\\<>&\x80-\xff]')
"""Bytes that do not go into the file as they are; a newline ends the entry and is written so."""

_ESCAPES: dict[int, str] = {number: f"\\u{number:04x}" for number in range(0x20)}
_ESCAPES.update({0x0D: "\\r", 0x22: '\\"', 0x5C: "\\\\", 0x3C: "\\u003c", 0x3E: "\\u003e",
                 0x26: "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"})
del _ESCAPES[0x0A]
# Bytes that are no UTF-8 arrive as lone surrogates (``surrogateescape``), one each, as in Go.
_ESCAPES.update(dict.fromkeys(range(0xDC80, 0xDD00), "\\ufffd"))


def escape(data: bytes) -> bytes:
    """Return ``data`` as the inside of a JSON string, newlines left alone."""
    if _UNSAFE.search(data) is None:
        return data
    return data.decode("utf-8", "surrogateescape").translate(_ESCAPES).encode()


class Clock:
    """Times in Go's RFC3339Nano, which drops trailing zeros; the seconds' text is kept."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def now(self) -> bytes:
        """The present time in UTC."""
        seconds, nanos = divmod(time.time_ns(), 1_000_000_000)
        if seconds != self._second:
            self._second = seconds
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        fraction = f".{nanos:09d}".rstrip("0").rstrip(".")
        return f"{self._text}{fraction}Z".encode()


class JsonLog:
    """Writes the output of one container."""

    def __init__(self, sink: LogSink, fork: Callable[[Callable[[], None]], int]) -> None:
        """Open the log.

        Args:
            fork: runs a function in a child and returns its pid, for compression.
        """
        self._sink = sink
        self._fork = fork
        self._clock = Clock()
        self._pending: dict[str, bytes] = {}
        self._partial_time: dict[str, bytes] = {}
        self._compressor = 0
        attrs = f',"attrs":{sink.attrs}' if sink.attrs else ""
        self._middle = {stream: f'","stream":"{stream}"{attrs},"time":"'.encode()
                        for stream in ("stdout", "stderr")}
        self._fd = -1
        self._size_bytes = 0
        self._open(0)

    def _open(self, flags: int) -> None:
        try:
            self._fd = os.open(self._sink.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND
                               | os.O_CLOEXEC | flags, _FILE_MODE)
            self._size_bytes = os.fstat(self._fd).st_size
        except OSError:
            # A container goes on without its log rather than not at all.
            self._fd = -1

    def feed(self, stream: str, data: bytes) -> None:
        """Take output as it was read; complete lines go to the file now."""
        pending = self._pending.get(stream, b"")
        if pending:
            data = pending + data
        end = data.rfind(b"\n")
        if end >= 0 and (end < LINE_BYTES or not _has_long_line(data)):
            self._write_lines(stream, data[:end])
            data = data[end + 1:]
        while len(data) >= LINE_BYTES or b"\n" in data:
            data = self._write_front(stream, data)
        self._pending[stream] = data

    def _write_lines(self, stream: str, text: bytes) -> None:
        """Write whole lines in one go; the first may end a line that was begun before."""
        stamp = self._clock.now()
        middle = self._middle[stream]
        lines = escape(text).split(b"\n")
        tail = b'\\n' + middle + stamp + b'"}\n'
        entries = [b'{"log":"' + line + tail for line in lines]
        if (begun := self._partial_time.pop(stream, None)) is not None:
            entries[0] = b'{"log":"' + lines[0] + b"\\n" + middle + begun + b'"}\n'
        self._write(entries)

    def _write_front(self, stream: str, data: bytes) -> bytes:
        """Write the first line, or the first 16 KiB of it; return the rest."""
        end = data.find(b"\n", 0, LINE_BYTES)
        if end >= 0:
            self._write_lines(stream, data[:end])
            return data[end + 1:]
        self._write_partial(stream, data[:LINE_BYTES])
        return data[LINE_BYTES:]

    def _write_partial(self, stream: str, text: bytes) -> None:
        stamp = self._partial_time.setdefault(stream, self._clock.now())
        self._write([b'{"log":"' + escape(text) + self._middle[stream] + stamp + b'"}\n'])

    def finish(self) -> None:
        """Write what never got its newline, and close."""
        for stream, data in self._pending.items():
            if data:
                self._write_partial(stream, data)
        self._pending.clear()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # -- the file ---------------------------------------------------------------------------------

    def _write(self, entries: list[bytes]) -> None:
        limit = self._sink.max_size_bytes
        block = b"".join(entries)
        if limit < 0 or self._size_bytes + len(block) < limit:
            self._append(block)
            return
        for entry in entries:
            if self._size_bytes >= limit:
                self._rotate()
            self._append(entry)

    def _append(self, block: bytes) -> None:
        view = memoryview(block)
        while view and self._fd >= 0:
            try:
                written = os.write(self._fd, view)
            except OSError:
                # A full disk must not stop the container; its line is lost, as with dockerd.
                return
            self._size_bytes += written
            view = view[written:]

    def _rotate(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        if self._sink.max_files > 1:
            self.settle()
            self._shift()
            self._open(0)
        else:
            self._open(os.O_TRUNC)

    def _shift(self) -> None:
        # Both kinds: who compressed one may have been killed, or the option is a new one.
        path, last = self._sink.path, self._sink.max_files - 1
        for suffix in ("", ".gz"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{path}.{last}{suffix}")
            for number in range(last, 1, -1):
                _rename(f"{path}.{number - 1}{suffix}", f"{path}.{number}{suffix}")
        _rename(path, f"{path}.1")
        if self._sink.compress:
            self._compressor = self._fork(lambda: _compress(f"{path}.1"))

    def settle(self) -> None:
        """Wait until the last generation is compressed: that is a child which dies with this process."""
        if self._compressor:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._compressor, 0)
            self._compressor = 0


def _has_long_line(data: bytes) -> bool:
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        if end - start >= LINE_BYTES:
            return True
        start = end + 1
    return False


def _rename(source: str, target: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.rename(source, target)


def _compress(path: str) -> None:
    # Only a child that compresses pays for these.
    import gzip
    import shutil

    temporary = f"{path}.gz.tmp"
    with open(path, "rb") as reader, gzip.open(temporary, "wb") as writer:
        shutil.copyfileobj(reader, writer)
    os.rename(temporary, f"{path}.gz")
    os.unlink(path)
