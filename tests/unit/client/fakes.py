"""A transport that answers from a script and remembers what was sent."""

from __future__ import annotations


class ScriptedTransport:
    """Gives ``pieces`` one a ``recv`` and then the end; ``sent`` is everything written."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.sent = b""
        self.write_closed = False
        self.closed = False

    def recv(self, size: int, /) -> bytes:
        if not self.pieces:
            return b""
        piece = self.pieces.pop(0)
        if len(piece) > size:
            self.pieces.insert(0, piece[size:])
        return piece[:size]

    def sendall(self, data: bytes, /) -> None:
        self.sent += data

    def close_write(self) -> None:
        self.write_closed = True

    def close(self) -> None:
        self.closed = True

    def fileno(self) -> int:
        return -1

    def pending(self) -> bool:
        return False


class ScriptedEndpoint:
    """Hands out the given transports in order."""

    def __init__(self, *transports: ScriptedTransport) -> None:
        self.transports = list(transports)
        self.url = "unix:///fake"
        self.context = "default"
        self.implicit = False

    def connect(self) -> ScriptedTransport:
        return self.transports.pop(0)

    def host_header(self) -> str:
        return "fake"
