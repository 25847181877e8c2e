"""Answers an attach or exec start and gives the connection up.

Spec   Engine API "stream" of ContainerAttach; semantics "hijack", "content type".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.api.status import message_of, status_of
from pallet.http.messages import Response
from pallet.http.streams import MULTIPLEXED_STREAM, RAW_STREAM

if TYPE_CHECKING:
    import socket

    from pallet.http.messages import Request


def plain_error(error: BaseException) -> Response:
    """Answer an attach that failed before its stream as Docker does: text, connection closed."""
    text = f"{message_of(error)}\r\n".encode("utf-8", "surrogateescape")
    return Response(status_of(error), text, RAW_STREAM, close=True)


class StreamOpener:
    """The ``OpenStream`` of one request."""

    def __init__(self, request: Request, prelude: bytes) -> None:
        self._request = request
        self._prelude = prelude
        self.opened = False
        """Whether the connection is given up, so that no reply can be sent any more."""

    async def __call__(self, *, multiplexed: bool) -> socket.socket:
        """Send the head and return the connection's socket; see ``backends.OpenStream``."""
        kind = RAW_STREAM
        if self._request.header("upgrade") is None:
            head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n"
        else:
            if multiplexed and self._request.version >= (1, 42):
                kind = MULTIPLEXED_STREAM
            head = (f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {kind}\r\n"
                    "Connection: Upgrade\r\nUpgrade: tcp\r\n")
        self.opened = True
        return await self._request.hijack(head.encode() + self._prelude + b"\r\n")
