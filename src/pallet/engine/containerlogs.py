"""``/containers/{id}/logs``: from the log file to what the client reads.

Engine API ContainerLogs; semantics rows "logs", "mux frame".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING
from urllib.parse import quote

from pallet.engine.status import Status
from pallet.errors import ConflictError, InvalidParameterError, NotImplementedApiError
from pallet.logs.driver import LogRecord, ReadOptions
from pallet.logs.jsonfile import JsonFileLog
from pallet.spec.engine.options import LogsOptions, LogStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pallet.engine.container import Container
    from pallet.engine.files import ContainerFiles

_STREAMS = {"stdin": 0, "stdout": 1, "stderr": 2}
_HEADER = struct.Struct(">BxxxI")


class _Chunks:
    """``spec.engine.options.Stream`` of encoded log chunks."""

    def __init__(self, records: AsyncIterator[list[LogRecord]], options: LogsOptions, *, mux: bool) -> None:
        self._records = records
        self._options = options
        self._mux = mux

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        batch = await anext(self._records)
        return b"".join(_encode(record, self._options, mux=self._mux) for record in batch)

    async def aclose(self) -> None:
        await self._records.aclose()  # type: ignore[attr-defined]  # it is an async generator


def _encode(record: LogRecord, options: LogsOptions, *, mux: bool) -> bytes:
    line = record.line
    if options.details:
        pairs = ",".join(f"{quote(k)}={quote(v)}" for k, v in sorted(record.attributes.items()))
        line = pairs.encode() + b" " + line
    if options.timestamps:
        line = record.time.encode() + b" " + line
    if not mux:
        return line
    return _HEADER.pack(_STREAMS[record.stream], len(line)) + line


class LogReader:
    """Opens logs of containers."""

    def __init__(self, files: ContainerFiles) -> None:
        self._files = files

    def _open(self, container: Container) -> JsonFileLog:
        if container.host_config.log_config.type not in {"json-file", ""}:
            msg = "configured logging driver does not support reading"
            raise NotImplementedApiError(msg)
        return JsonFileLog(
            self._files.log_path(container.id),
            lambda: container.status in {Status.RUNNING, Status.PAUSED, Status.RESTARTING})

    def open(self, container: Container, options: LogsOptions) -> LogStream:
        """See ``api.backends.ContainerBackend.logs``.

        Raises:
            InvalidParameterError: neither stdout nor stderr.
            ConflictError: dead or being removed.
            NotImplementedApiError: log driver ``none``.
        """
        if not (options.stdout or options.stderr):
            msg = "You must choose at least one stream"
            raise InvalidParameterError(msg)
        if container.status in {Status.DEAD, Status.REMOVING}:
            msg = "can not get logs from container which is dead or marked for removal"
            raise ConflictError(msg)
        selection = ReadOptions(
            follow=options.follow, tail=options.tail, stdout=options.stdout, stderr=options.stderr,
            since_ns=options.since_ns or None, until_ns=options.until_ns or None)
        records = self._open(container).read(selection)
        tty = container.config.tty
        return LogStream(tty=tty, chunks=_Chunks(records, options, mux=not tty))

    async def history(self, container: Container, *, stdout: bool, stderr: bool) -> AsyncIterator[bytes]:
        """What the container wrote so far, encoded for an attached client."""
        options = LogsOptions(stdout=stdout, stderr=stderr)
        selection = ReadOptions(stdout=stdout, stderr=stderr)
        async for batch in self._open(container).read(selection):
            yield b"".join(_encode(record, options, mux=not container.config.tty) for record in batch)
