"""Replies in wire form, and the ones that are kept in memory.

Owns   reply heads, files opened for sending, and what may be answered again without asking.
Runs   replies are made in threads and kept and sent on the loop.
Needs  a ``ContentWatch`` for keeping any.
Spec   RFC 9110 13.1.2 (If-None-Match).
"""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from pallet.http import h1
from pallet.registry.codes import RegistryHttpError
from pallet.registry.messages import FileRange, RegistryResponse, Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from pallet.registry.metadata.database import ContentWatch

SMALL_FILE_BYTES: Final = 64 << 10
"""A file's part that is read into memory with the reply."""
_KEPT_REPLIES: Final = 4096
_KEPT_FILES: Final = 128
_OVERHEAD_BYTES: Final = 1024
_API: Final = b"Docker-Distribution-API-Version: registry/2.0\r\n"
_BODILESS: Final = {204, 304}


class OpenFile:
    """A descriptor that is closed with its last user."""

    __slots__ = ("fd",)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.fd = -1
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        """Close it."""
        if self.fd >= 0:
            with suppress(OSError):
                os.close(self.fd)


class Reply:
    """One reply; everything but the fields that differ each time is in ``head``."""

    __slots__ = ("body", "close", "etag", "file", "head", "keep_s", "length", "not_modified", "offset",
                 "route", "status", "stream", "version")

    def __init__(self, response: RegistryResponse, body: bytes | OpenFile | Stream) -> None:
        self.status = response.status
        self.etag = response.headers.get("ETag", "")
        self.close = False
        self.body = body if isinstance(body, bytes) else b""
        self.file = body if isinstance(body, OpenFile) else None
        self.stream = body if isinstance(body, Stream) else None
        self.offset = response.body.offset if isinstance(response.body, FileRange) else 0
        self.length = (len(response.body) if isinstance(response.body, bytes) else response.body.length)
        fields = list(response.headers.items())
        if self.status not in _BODILESS:
            fields.append(("Content-Length", str(self.length)))
        self.head = h1.head_bytes(self.status, _API, fields)[:-2]
        self.keep_s = response.keep_s
        self.not_modified: Reply | None = None
        self.route = ""
        self.version: int | None = None

    @property
    def held_bytes(self) -> int:
        """Memory that keeping it takes."""
        return len(self.body) + len(self.head) + _OVERHEAD_BYTES


def reply_of(response: RegistryResponse, *, bodiless: bool = False) -> Reply:
    """Make a reply ready to send: files are opened, small ones read. May block.

    Args:
        bodiless: the answer to HEAD; the length is announced all the same.
    """
    body = response.body
    if bodiless:
        if isinstance(body, Stream):
            body.close()
        return Reply(response, b"")
    if isinstance(body, FileRange):
        try:
            file = OpenFile(body.path)
            if body.length > SMALL_FILE_BYTES:
                return Reply(response, file)
            data = os.pread(file.fd, body.length, body.offset)
        except FileNotFoundError:  # collected since the routes looked
            return refusal(RegistryHttpError("BLOB_UNKNOWN"))
        if len(data) != body.length:
            message = f"{body.path}: shorter than recorded"
            raise OSError(message)
        return Reply(response, data)
    return Reply(response, body)


def refusal(error: RegistryHttpError) -> Reply:
    """The reply that tells a client why not."""
    return reply_of(refused(error))


def refused(error: RegistryHttpError) -> RegistryResponse:
    """The same before it is in wire form."""
    return RegistryResponse(status=error.status, body=error.body(), headers={
        "Content-Type": "application/json; charset=utf-8", **error.headers})


def plain(status: int, text: str, **headers: str) -> Reply:
    """A reply outside the registry protocol; the connection ends with it."""
    reply = reply_of(RegistryResponse(status=status, body=f"{text}\n".encode(), headers={
        "Content-Type": "text/plain; charset=utf-8", **headers}))
    reply.close = True
    return reply


def matches(condition: str, etag: str) -> bool:
    """Whether an ``If-None-Match`` names ``etag``, by weak comparison."""
    if condition.strip() == "*":
        return True
    return any(part.strip().removeprefix("W/") == etag for part in condition.split(","))


def unchanged(response: RegistryResponse) -> RegistryResponse:
    """The 304 in place of a 200."""
    kept = {name: value for name, value in response.headers.items()
            if name in {"ETag", "Docker-Content-Digest", "Cache-Control", "Vary"}}
    return RegistryResponse(status=304, headers=kept, keep_s=response.keep_s)


class ReplyCache:
    """Replies by method and target, all of one version of the content; for the loop only.

    A change that anybody commits, in whichever process, is seen by the next ``get``: it asks the
    watch each time. What was computed while the version changed is not kept.
    """

    def __init__(self, watch: ContentWatch | None, budget_bytes: int, now: Callable[[], float]) -> None:
        self._watch = watch if budget_bytes > 0 else None
        self._budget_bytes = budget_bytes
        self._now = now
        self._version: int | None = None
        self._held_bytes = 0
        self._files = 0
        self._kept: OrderedDict[tuple[str, str], tuple[Reply, float]] = OrderedDict()

    def version(self) -> int | None:
        """The content's present version; None when nothing may be kept."""
        if self._watch is None:
            return None
        version = self._watch.version()
        if version != self._version:
            self.clear()
            self._version = version
        return version

    def get(self, method: str, target: str) -> Reply | None:
        """A kept reply that is right at this moment."""
        if self.version() is None:
            return None
        key = (method, target)
        found = self._kept.get(key)
        if found is None:
            return None
        reply, until = found
        if until < self._now():
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return reply

    def put(self, method: str, target: str, reply: Reply) -> None:
        """Keep a reply made for ``reply.version``, if it may be kept and the version is still that."""
        if (reply.keep_s <= 0 or reply.version is None or reply.version != self.version()
                or reply.held_bytes > self._budget_bytes // 16 or reply.stream is not None):
            return
        key = (method, target)
        self._drop(key)
        until = math.inf if reply.keep_s == math.inf else self._now() + reply.keep_s
        self._kept[key] = (reply, until)
        self._held_bytes += reply.held_bytes
        self._files += reply.file is not None
        while self._kept and (self._held_bytes > self._budget_bytes or len(self._kept) > _KEPT_REPLIES
                              or self._files > _KEPT_FILES):
            self._drop(next(iter(self._kept)))

    def _drop(self, key: tuple[str, str]) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self._held_bytes -= found[0].held_bytes
            self._files -= found[0].file is not None

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._held_bytes = self._files = 0

    def close(self) -> None:
        """Forget everything and let go of the database."""
        self.clear()
        if self._watch is not None:
            self._watch.close()
            self._watch = None
