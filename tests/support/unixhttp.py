"""Raw HTTP over a unix socket, for tests that look at the Engine API's bytes."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass
from typing import Any


class UnixConnection(http.client.HTTPConnection):
    """``http.client`` over a unix socket."""

    def __init__(self, path: str, timeout_s: float = 30.0) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket's path."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    @property
    def message(self) -> str:
        """The error text of a failed call."""
        return str(self.json["message"])


class Api:
    """Calls to one daemon, each on its own connection."""

    def __init__(self, socket_path: str, version: str | None = None) -> None:
        self.socket_path = socket_path
        self._prefix = f"/v{version}" if version else ""

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = 30.0,
    ) -> Reply:
        """Send one request and read the whole reply. ``body``: bytes as they are, else JSON."""
        sent = dict(headers or {})
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if data is not None and not isinstance(body, bytes):
            sent.setdefault("Content-Type", "application/json")
        connection = UnixConnection(self.socket_path, timeout_s)
        try:
            connection.request(method, self._prefix + path, data, sent)
            reply = connection.getresponse()
            return Reply(reply.status, dict(reply.getheaders()), reply.read())
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """GET and decode; the status must be 200."""
        reply = self.call("GET", path)
        assert reply.status == 200, reply.body
        return reply.json

    def hijack(self, path: str, *, upgrade: bool = True, timeout_s: float = 20.0) -> Hijacked:
        """POST and take the connection over."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout_s)
        sock.connect(self.socket_path)
        ask = "Upgrade: tcp\r\nConnection: Upgrade\r\n" if upgrade else ""
        head = f"POST {self._prefix}{path} HTTP/1.1\r\nHost: d\r\n{ask}Content-Length: 0\r\n\r\n"
        sock.sendall(head.encode())
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = sock.recv(65536)
            if not chunk:
                break
            data += chunk
        text, _, rest = data.partition(b"\r\n\r\n")
        return Hijacked(sock, text.decode("latin-1"), rest)


class Hijacked:
    """A connection after its reply's head, with the bytes that came along."""

    def __init__(self, sock: socket.socket, head: str, rest: bytes) -> None:
        self.sock = sock
        self.head = head
        self._rest = rest

    @property
    def status(self) -> int:
        """Status code of the head."""
        return int(self.head.split()[1])

    def read_all(self) -> bytes:
        """Read to the end of the stream."""
        data = self._rest
        while chunk := self.sock.recv(65536):
            data += chunk
        return data

    def frames(self) -> dict[int, bytes]:
        """Read to the end and take the multiplexed stream apart: stream number -> bytes."""
        data, found = self.read_all(), {1: b"", 2: b""}
        while data:
            size = int.from_bytes(data[4:8], "big")
            found[data[0]] = found.get(data[0], b"") + data[8 : 8 + size]
            data = data[8 + size :]
        return found

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()
