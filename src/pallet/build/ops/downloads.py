"""Files from the web: ``ADD https://…`` and contexts at URLs.

Owns   the download of one URL into a file, with the validators that spare the next one.
Runs   on the loop; the transfer in a thread.
Spec   RFC 9110 conditional requests; BuildKit's http source.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING

from pallet.aio import run_blocking
from pallet.build.ops.gitworker import redacted
from pallet.errors import CancelledRequestError, InvalidParameterError, PalletError
from pallet.transfer.proxies import ProxySettings
from pallet.transfer.transport import Transport, abandon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from typing import Any

_PIECE_BYTES = 1 << 18
_NOT_MODIFIED = 304
_OK = range(200, 300)
_NANO = 1_000_000_000
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """What came; ``same`` when the validator still holds and nothing was written."""

    same: bool = False
    etag: str = ""
    """ETag, or Last-Modified where there is none; "" for neither."""
    size_bytes: int = 0
    digests: Mapping[str, str]
    """``algorithm`` to ``algorithm:hex``."""
    modified_ns: int = 0
    """What Last-Modified says; 0 for nothing."""


class Downloads:
    """Downloads files."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        """``environ`` names proxies; None is the process's environment."""
        self._environ = environ
        self._transport: Transport | None = None

    async def fetch(self, url: str, target: str, *, validator: str = "", algorithms: tuple[str, ...] = ("sha256",),
                    tell: Callable[[int, int], None] | None = None) -> Download:
        """Write what ``url`` gives into the new file ``target``.

        Args:
            validator: an earlier ``Download.etag``.
            tell: called in the loop with bytes done and the total (0 unknown).

        Raises:
            InvalidParameterError: the server does not have it.
            PalletError: it cannot be reached.
        """
        stop = threading.Event()
        loop = asyncio.get_running_loop()

        def report(done: int, total: int) -> None:
            if tell is not None:
                loop.call_soon_threadsafe(tell, done, total)

        work = asyncio.ensure_future(run_blocking(
            partial(self._fetch, url, target, validator, algorithms, stop, report)))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait({work})
            raise

    def _fetch(self, url: str, target: str, validator: str, algorithms: tuple[str, ...],
               stop: threading.Event, report: Callable[[int, int], None]) -> Download:
        if self._transport is None:
            self._transport = Transport(proxies=ProxySettings.from_environment(
                os.environ if self._environ is None else self._environ))
        headers = {"Accept": "*/*"}
        if validator:
            headers["If-None-Match" if validator.startswith(('"', "W/")) else "If-Modified-Since"] = validator
        try:
            response = self._transport.request("GET", url, headers=headers)
        except ValueError as error:  # a port that is none, here or in a redirect
            message = f'failed to load cache key: Get "{redacted(url)}": dial tcp: invalid port: {error}'
            raise InvalidParameterError(message) from error
        whole = False
        try:
            found = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
            if response.status == _NOT_MODIFIED and validator:
                return Download(same=True, etag=validator, digests={})
            if response.status not in _OK:
                message = f"invalid response status {response.status}"
                raise InvalidParameterError(message)
            digests, size = _write(response, target, algorithms, stop, report)
            whole = True
            return Download(etag=found, size_bytes=size, digests=digests,
                            modified_ns=_moment(response.headers.get("Last-Modified") or ""))
        finally:
            if whole:
                response.release_conn()
            else:
                abandon(response)

    def close(self) -> None:
        """Close connections."""
        if self._transport is not None:
            self._transport.close()


def _write(response: Any, target: str, algorithms: tuple[str, ...], stop: threading.Event,
           report: Callable[[int, int], None]) -> tuple[dict[str, str], int]:
    hashes = {name: hashlib.new(name) for name in algorithms}
    length = response.headers.get("Content-Length") or ""
    total = int(length) if length.isascii() and length.isdigit() else 0
    size = 0
    fd = os.open(target, _CREATE, 0o600)
    try:
        while data := response.read(_PIECE_BYTES, decode_content=False):
            if stop.is_set():
                message = "context canceled"
                raise CancelledRequestError(message)
            view = memoryview(data)
            for one in hashes.values():
                one.update(view)
            while view:
                view = view[os.write(fd, view):]
            size += len(data)
            report(size, total)
    except PalletError:
        raise
    except Exception as error:
        message = f"download failed: {error}"
        raise InvalidParameterError(message) from error
    finally:
        os.close(fd)
    if total and size != total:
        message = f"download ended early: {size} of {total} bytes"
        raise InvalidParameterError(message)
    report(size, size)
    return {name: f"{name}:{one.hexdigest()}" for name, one in hashes.items()}, size


async def store(pieces: AsyncIterator[bytes], target: str) -> tuple[str, int]:
    """Write a stream into a new file; return its SHA-256 and size."""
    summary, size = hashlib.sha256(), 0
    fd = os.open(target, _CREATE, 0o600)
    try:
        async for piece in pieces:
            summary.update(piece)
            size += len(piece)
            await run_blocking(os.write, fd, piece)
    finally:
        os.close(fd)
    return f"sha256:{summary.hexdigest()}", size


def _moment(text: str) -> int:
    try:
        return int(parsedate_to_datetime(text).timestamp()) * _NANO if text else 0
    except (TypeError, ValueError):
        return 0
