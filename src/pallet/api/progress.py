"""Progress streams: a long call that reports as it goes.

Owns   the queue between a backend's ``progress`` calls and the client's pace.
Runs   on the event loop. Messages of one id that only move its bar replace each other while the
       client is slow, so the queue is bounded by the number of things that move.
Spec   semantics "json progress": CRLF after each object; the first message settles the status.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from pallet.api.routing import JSON
from pallet.api.status import message_of
from pallet.errors import CancelledRequestError
from pallet.http.messages import Reply, Request, Response, StreamResponse
from pallet.spec.engine.progress import ErrorDetail, ProgressMessage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


class _Queue:
    """Messages on their way to the client, in order."""

    def __init__(self) -> None:
        self._messages: dict[object, ProgressMessage] = {}
        self._news = asyncio.Event()
        self._ended = False

    def put(self, message: ProgressMessage) -> None:
        key: object = object()
        if message.progress_detail and message.id:
            key = (message.id, message.status)
        self._messages[key] = message
        self._news.set()

    def end(self) -> None:
        self._ended = True
        self._news.set()

    async def wait(self) -> None:
        """Wait until there is a message or the end."""
        await self._news.wait()

    @property
    def empty(self) -> bool:
        return not self._messages

    def __aiter__(self) -> _Queue:
        return self

    async def __anext__(self) -> bytes:
        """Return everything that has come, encoded."""
        await self._news.wait()
        if not self._messages:
            raise StopAsyncIteration
        taken = list(self._messages.values())
        self._messages.clear()
        if not self._ended:
            self._news.clear()
        return b"".join(msgspec.json.encode(message) + b"\r\n" for message in taken)


async def progress_reply(
    request: Request,
    work: Callable[[Callable[[ProgressMessage], None]], Awaitable[None]],
) -> Reply:
    """Run ``work`` and stream what it reports.

    An error before the first message raises, so it becomes an HTTP error; a later one becomes the
    last message of the stream. The work is cancelled when the client goes away.
    """
    request.abandonable = True
    queue = _Queue()
    reply_begun = False
    failure: Exception | None = None

    async def run() -> None:
        nonlocal failure
        try:
            await work(queue.put)
        except CancelledRequestError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - told to the client, by status or in band
            if not reply_begun and queue.empty:
                failure = error
            else:
                queue.put(_error_message(error))
        finally:
            queue.end()

    task = asyncio.get_running_loop().create_task(run())

    async def close() -> None:
        task.cancel()
        await asyncio.wait([task])

    try:
        await queue.wait()
    except BaseException:
        await close()
        raise
    if failure is not None:
        raise failure
    reply_begun = True
    if queue.empty:
        return Response(200, b"", JSON)
    return StreamResponse(_lines(queue), close=close, content_type=JSON)


def _error_message(error: Exception) -> ProgressMessage:
    # Without a code, as dockerd: at 401 its client would print words of its own instead.
    text = message_of(error)
    return ProgressMessage(error_detail=ErrorDetail(message=text), error=text)


async def _lines(queue: _Queue) -> AsyncIterator[bytes]:
    async for lines in queue:
        yield lines
