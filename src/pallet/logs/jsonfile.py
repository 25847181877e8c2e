"""Reader of Docker's ``json-file`` format, also while the shim writes and rotates it.

One JSON object a line: ``{"log","stream","attrs"?,"time"}``. Rotated files are ``<path>.1`` (newest)
to ``<path>.N``, gzipped as ``<path>.N.gz``. Runs on the loop; every disk access is in the pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
from calendar import timegm
from collections import deque
from typing import IO, TYPE_CHECKING, cast

import msgspec

from pallet.aio import run_blocking
from pallet.errors import InvalidParameterError
from pallet.logs.driver import LogRecord, ReadOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

_CHUNK = 256 * 1024
_POLL_S = 0.02
_IDLE_POLL_S = 0.2
_FAST_POLLS = 50


class _Line(msgspec.Struct):
    log: str = ""
    stream: str = "stdout"
    time: str = ""
    attrs: dict[str, str] = {}


_decoder = msgspec.json.Decoder(_Line)


def fixed_time(text: str) -> str:
    """Pad an RFC 3339 UTC time to nine fractional digits (Go's ``RFC3339NanoFixed``)."""
    head, _, fraction = text.rstrip("Z").partition(".")
    return f"{head}.{fraction:0<9.9}Z"


def time_ns(text: str) -> int:
    """Parse an RFC 3339 UTC time as the shim writes it, to nanoseconds since the epoch."""
    head, _, fraction = text.rstrip("Z").partition(".")
    date, _, clock = head.partition("T")
    year, month, day = date.split("-")
    hour, minute, second = clock.split(":")
    seconds = timegm((int(year), int(month), int(day), int(hour), int(minute), int(second)))
    return seconds * 1_000_000_000 + int(f"{fraction:0<9.9}" or 0)


def parse_tail(text: str) -> int | None:
    """Docker's ``tail``: a number, or anything else for everything."""
    try:
        count = int(text)
    except ValueError:
        return None
    return count if count >= 0 else None


def parse_time_ns(text: str, name: str) -> int | None:
    """``since``/``until``: unix seconds with an optional fraction; "" and "0" mean unset.

    Raises:
        InvalidParameterError: not a number.
    """
    if text in {"", "0"}:
        return None
    whole, _, fraction = text.partition(".")
    try:
        return int(whole) * 1_000_000_000 + int(f"{fraction:0<9.9}" if fraction else 0)
    except ValueError:
        msg = f'invalid value for "{name}": failed to parse value as unix timestamp: {text}'
        raise InvalidParameterError(msg) from None


def _parse(raw: bytes) -> LogRecord | None:
    try:
        line = _decoder.decode(raw)
    except msgspec.MsgspecError:
        return None  # a torn line: the writer was killed inside a write
    return LogRecord(stream=line.stream, line=line.log.encode("utf-8", "surrogateescape"),
                     time=fixed_time(line.time), attributes=line.attrs)


class JsonFileLog:
    """One container's json-file log.

    Args:
        path: the current file; need not exist yet.
        is_live: whether the container may still write; asked while following.
    """

    def __init__(self, path: Path, is_live: Callable[[], bool]) -> None:
        self._path = os.fspath(path)
        self._is_live = is_live

    def read(self, options: ReadOptions) -> AsyncIterator[list[LogRecord]]:
        """See ``ReadableLog.read``. The file is held from this call on: its container may be removed meanwhile."""
        return self._read(options, _Held(self._path))

    async def _read(self, options: ReadOptions, held: _Held) -> AsyncIterator[list[LogRecord]]:
        if options.tail is None:
            source = await run_blocking(lambda: _Source(self._path, self._generations, held))
            try:
                while batch := await run_blocking(_take, source):
                    if kept := _select(batch, options):
                        yield kept
                    if _past_until(batch, options):
                        return
            finally:
                await run_blocking(source.close)
            position = source.reached
        else:
            position = await run_blocking(self._end_position)
            if options.tail and (last := await run_blocking(self._tail, options, position)):
                yield last
        if options.follow:
            async for batch in self._follow(options, position, held):
                yield batch

    def _generations(self) -> list[str]:
        """Rotated files, oldest first, then the current one."""
        found: list[str] = []
        number = 1
        while True:
            for name in (f"{self._path}.{number}", f"{self._path}.{number}.gz"):
                if os.path.exists(name):
                    found.append(name)
                    break
            else:
                break
            number += 1
        return [*reversed(found), self._path]

    def _end_position(self) -> _Position:
        """Behind the last whole line: the next one may be half written at this moment."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return _Position(0, 0)
        try:
            status = os.fstat(fd)
            end = status.st_size
            while end > 0:
                start = max(0, end - _CHUNK)
                if (last := os.pread(fd, end - start, start).rfind(b"\n")) >= 0:
                    return _Position(status.st_ino, start + last + 1)
                end = start
            return _Position(status.st_ino, 0)
        finally:
            os.close(fd)

    def _tail(self, options: ReadOptions, end: _Position) -> list[LogRecord]:
        """The last ``tail`` records, read backwards so that a huge log costs little."""
        kept: list[LogRecord] = []
        count = options.tail or 0
        for index, name in enumerate(reversed(self._generations())):
            limit = end.offset if index == 0 else None
            for raw in _lines_backwards(name, limit):
                record = _parse(raw)
                if record is None:
                    continue
                # Docker counts the last records first and filters them afterwards.
                kept.append(record)
                if len(kept) >= count:
                    return _select(kept[::-1], options)
        return _select(kept[::-1], options)

    async def _follow(
        self, options: ReadOptions, position: _Position, held: _Held
    ) -> AsyncIterator[list[LogRecord]]:
        cursor = _Cursor(self._path, position, held, self._generations)
        quiet = 0
        try:
            while True:
                live = self._is_live()  # asked before reading: what was written before the end is read
                batch = await run_blocking(cursor.read) if cursor.has_news() else []
                if batch:
                    quiet = 0
                    if kept := _select(batch, options):
                        yield kept
                    if _past_until(batch, options):
                        return
                    continue
                if not live:
                    return
                if options.until_ns is not None and _now_ns() > options.until_ns:
                    return
                quiet += 1
                await asyncio.sleep(_POLL_S if quiet < _FAST_POLLS else _IDLE_POLL_S)
        finally:
            cursor.close()


class _Held:
    """The file as it was when reading was asked for; stands in for it once it has been deleted."""

    def __init__(self, path: str) -> None:
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._fd = -1

    def open(self, path: str) -> int:
        """A descriptor of ``path``, the caller's to close.

        Raises:
            FileNotFoundError: it does not exist and did not exist then.
        """
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if self._fd < 0:
                raise
            return os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)

    def stat(self, path: str) -> os.stat_result:
        """Status of ``path``. Raises: FileNotFoundError, as ``open``."""
        try:
            return os.stat(path)
        except FileNotFoundError:
            if self._fd < 0:
                raise
            return os.fstat(self._fd)

    def reopen(self, inode: int) -> int:
        """A descriptor of the file as it was then, the caller's to close; -1 when that is another."""
        if self._fd < 0 or os.fstat(self._fd).st_ino != inode:
            return -1
        return os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


class _Position:
    """A place in the current file: inode and byte offset."""

    def __init__(self, inode: int, offset: int) -> None:
        self.inode = inode
        self.offset = offset


def _open_lines(name: str | int) -> IO[bytes]:
    if isinstance(name, str) and name.endswith(".gz"):
        return cast("IO[bytes]", gzip.open(name, "rb"))
    return open(name, "rb")


class _Source:
    """All generations as one sequence of raw lines; remembers where the last one ended."""

    def __init__(self, path: str, generations: Callable[[], list[str]], held: _Held) -> None:
        self.reached = _Position(0, 0)
        self._path = path
        self._generations = generations
        self._held = held
        self._lines = self._walk()

    def _open(self) -> list[IO[bytes]]:
        """Open every generation, oldest first in the result.

        The current file first in time, then what lies beside it by then, newest first: a rotation
        meanwhile only renames what is open already, and the name behind it leads to a known inode.
        """
        opened: list[IO[bytes]] = []
        seen: set[int] = set()
        for current in (True, False):
            for name in [self._path] if current else reversed(self._generations()[:-1]):
                try:
                    handle = _open_lines(self._held.open(name) if current else name)
                except FileNotFoundError:
                    continue
                inode = os.fstat(handle.fileno()).st_ino
                if inode in seen:
                    handle.close()
                    continue
                seen.add(inode)
                if current:
                    self.reached = _Position(inode, 0)
                opened.append(handle)
        return opened[::-1]

    def _walk(self) -> Iterator[bytes]:
        with contextlib.ExitStack() as stack:
            for handle in [stack.enter_context(handle) for handle in self._open()]:
                is_current = os.fstat(handle.fileno()).st_ino == self.reached.inode
                for line in handle:
                    if not line.endswith(b"\n"):
                        break  # still being written; follow picks it up
                    if is_current:
                        self.reached.offset += len(line)
                    yield line

    def take(self) -> list[bytes]:
        batch: list[bytes] = []
        size = 0
        for line in self._lines:
            batch.append(line)
            size += len(line)
            if size >= _CHUNK:
                break
        return batch

    def close(self) -> None:
        self._lines.close()  # type: ignore[attr-defined]  # it is a generator


def _take(source: _Source) -> list[LogRecord]:
    while raw := source.take():
        if records := [r for r in map(_parse, raw) if r is not None]:
            return records
    return []


class _Cursor:
    """Follows the current file across rotations, however many there were since it last looked."""

    def __init__(self, path: str, position: _Position, held: _Held, generations: Callable[[], list[str]]) -> None:
        self._path = path
        self._held = held
        self._generations = generations
        self._inode, self._offset = position.inode, position.offset
        self._fd = -1
        self._rest = b""
        self._missed: deque[IO[bytes]] = deque()
        """Generations between the one that was read last and the current one, oldest first."""

    def has_news(self) -> bool:
        """Whether the file grew, was rotated or appeared: one stat, no pool."""
        if self._missed:
            return True
        try:
            status = self._held.stat(self._path)
        except FileNotFoundError:
            return False
        return status.st_ino != self._inode or status.st_size != self._offset or self._fd < 0

    def read(self) -> list[LogRecord]:
        if lines := self._read_missed():
            return _parsed(lines)
        if self._fd < 0 and not self._open():
            return []
        data = self._read_some()
        if not data and self._rotated():
            self._go_on()
            if lines := self._read_missed():
                return _parsed(lines)
            data = self._read_some() if self._fd >= 0 else b""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        return _parsed(lines)

    def _read_missed(self) -> list[bytes]:
        while self._missed:
            if lines := self._missed[0].readlines(_CHUNK):
                return lines
            self._missed.popleft().close()
        return []

    def _open(self) -> bool:
        """Open the file of the position, which may have been rotated away since, else the current one."""
        try:
            self._fd = self._held.open(self._path)
        except FileNotFoundError:
            return False
        inode = os.fstat(self._fd).st_ino
        if inode == self._inode:
            return True
        if self._inode and (older := self._reopen()) >= 0:
            os.close(self._fd)
            self._fd = older
            return True
        self._offset = 0
        self._inode = inode
        return True

    def _reopen(self) -> int:
        """A descriptor of the file that the position is in, -1 when it is gone."""
        if (fd := self._held.reopen(self._inode)) >= 0:
            return fd
        for name in reversed(self._generations()[:-1]):
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
                if os.fstat(fd).st_ino == self._inode:
                    return fd
                os.close(fd)
        return -1

    def _go_on(self) -> None:
        """Leave a file that was rotated for those that came after it.

        Compressed generations are other inodes than they were: times tell which are new. The
        current file is opened first, so that one rotated meanwhile is known by its inode.
        """
        last, left = self._last_time(), self._inode
        os.close(self._fd)
        self._fd, self._offset, self._rest, self._inode = -1, 0, b"", 0
        if not self._open():
            return
        for name in reversed(self._generations()[:-1]):
            try:
                handle = _open_lines(name)
            except FileNotFoundError:
                continue
            inode = os.fstat(handle.fileno()).st_ino
            if inode == self._inode:
                handle.close()
                continue
            first = _parse(handle.readline())
            if inode == left or first is None or first.time <= last:
                handle.close()
                return
            handle.seek(0)
            self._missed.appendleft(handle)

    def _last_time(self) -> str:
        """Time of the last record before the position; "" when there is none."""
        for raw in _lines_backwards(f"/proc/self/fd/{self._fd}", self._offset):
            if (record := _parse(raw)) is not None:
                return record.time
        return ""

    def _read_some(self) -> bytes:
        data = os.pread(self._fd, _CHUNK, self._offset)
        self._offset += len(data)
        return data

    def _rotated(self) -> bool:
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return False
        return status.st_ino != self._inode or status.st_size < self._offset

    def close(self) -> None:
        for handle in self._missed:
            handle.close()
        if self._fd >= 0:
            os.close(self._fd)


def _parsed(lines: list[bytes]) -> list[LogRecord]:
    return [record for record in map(_parse, lines) if record is not None]


def _lines_backwards(name: str, limit: int | None) -> Iterator[bytes]:
    """Yield the lines of ``name`` from the last complete one back."""
    try:
        if name.endswith(".gz"):
            with gzip.open(name, "rb") as handle:
                yield from reversed(handle.readlines())
            return
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        end = os.fstat(fd).st_size if limit is None else limit
        rest = b""
        while end > 0:
            start = max(0, end - _CHUNK)
            block = os.pread(fd, end - start, start) + rest
            end = start
            lines = block.split(b"\n")
            rest = lines[0]
            for line in reversed(lines[1:]):
                if line:
                    yield line
        if rest:
            yield rest
    finally:
        os.close(fd)


def _select(batch: list[LogRecord], options: ReadOptions) -> list[LogRecord]:
    if options.since_ns is None and options.until_ns is None and options.stdout and options.stderr:
        return batch
    return [record for record in batch if _wanted(record, options)]


def _wanted(record: LogRecord, options: ReadOptions) -> bool:
    if not (options.stdout if record.stream == "stdout" else options.stderr):
        return False
    if options.since_ns is None and options.until_ns is None:
        return True
    at = time_ns(record.time)
    return (options.since_ns is None or at >= options.since_ns) and (
        options.until_ns is None or at <= options.until_ns)


def _past_until(batch: list[LogRecord], options: ReadOptions) -> bool:
    return options.until_ns is not None and time_ns(batch[-1].time) > options.until_ns


def _now_ns() -> int:
    import time

    return time.time_ns()
