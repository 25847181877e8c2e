"""The Engine API, synchronously: requests, JSON replies, streams and hijacked connections.

Owns   API paths and queries, connection reuse, errors as ``DaemonError``.
Runs   in the CLI process, single-threaded, one request at a time on each connection.
Spec   Engine API. Paths carry no version unless one is pinned: a daemon then uses its newest, which
       saves the ``_ping`` round trip that negotiation costs.
"""

from __future__ import annotations

from pallet.client import wire
from pallet.client.errors import DaemonError, ProtocolError
from pallet.client.http1 import Connection, Reply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any

    from pallet.client.endpoint import Endpoint

_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~")


def quote(text: str, safe: str = "") -> str:
    """Percent-encode ``text`` for a path segment or query value; ``safe`` characters are kept."""
    keep = _SAFE | frozenset(safe.encode())
    return "".join(chr(byte) if byte in keep else f"%{byte:02X}"
                   for byte in text.encode("utf-8", "surrogateescape"))


class Engine:
    """A client for one daemon."""

    def __init__(
        self, endpoint: Endpoint, *, version: str = "", headers: Iterable[tuple[str, str]] = (),
        on_absent: Callable[[Exception], None] | None = None,
    ) -> None:
        """Nothing is connected before the first request.

        Args:
            endpoint: where the daemon is.
            version: pinned API version such as ``1.43``; empty for the daemon's newest.
            headers: sent with every request (HttpHeaders of config.json).
            on_absent: called once when the first connection fails; it may start a daemon and
                return, or raise.
        """
        self.endpoint = endpoint
        self.version = version
        self.api_version = ""
        self._headers = tuple(headers)
        self._idle: list[Connection] = []
        self._on_absent = on_absent

    # -- requests ------------------------------------------------------------------------------

    def send(
        self, method: str, path: str, query: Mapping[str, object] | None = None, *,
        body: object = None, headers: Iterable[tuple[str, str]] = (), fresh: bool = False,
    ) -> Pending:
        """Send a request and return without waiting for the reply.

        Args:
            method: HTTP method.
            path: path without version, already quoted.
            query: values are strings, numbers, booleans (sent as 1, omitted when false), lists
                (repeated) or None (omitted).
            body: JSON value; None sends no body.
            headers: extra headers.
            fresh: use a new connection although an idle one exists.
        """
        target = self.target(path, query)
        extra = [*self._headers, *headers]
        data = None
        if body is not None:
            data = wire.encode(body)
            extra.append(("Content-Type", "application/json"))
        request = (method, target, extra, data)
        if self._idle and not fresh:
            connection = self._idle.pop()
            try:
                connection.send(*request)
            except OSError:
                connection.close()
            else:
                return Pending(self, connection, request, retry=True)
        connection = self.connect()
        connection.send(*request)
        return Pending(self, connection, request, retry=False)

    def request(
        self, method: str, path: str, query: Mapping[str, object] | None = None, *,
        body: object = None, headers: Iterable[tuple[str, str]] = (), fresh: bool = False,
    ) -> Reply:
        """Send a request and return its successful reply, body unread; see ``send``.

        Raises:
            DaemonError: the status is 400 or more.
            ConnectionFailedError: nothing answers.
        """
        return self.send(method, path, query, body=body, headers=headers, fresh=fresh).reply()

    def json(
        self, method: str, path: str, query: Mapping[str, object] | None = None, *,
        body: object = None, headers: Iterable[tuple[str, str]] = (),
    ) -> Any:
        """Return the decoded body of a reply; None when it is empty."""
        data = self.text(method, path, query, body=body, headers=headers)
        return wire.decode(data) if data.strip() else None

    def text(
        self, method: str, path: str, query: Mapping[str, object] | None = None, *,
        body: object = None, headers: Iterable[tuple[str, str]] = (),
    ) -> str:
        """Return the body of a reply as text."""
        reply = self.request(method, path, query, body=body, headers=headers)
        data = reply.read()
        self.release(reply.connection)
        return data.decode("utf-8", "replace")

    def upload(
        self, path: str, query: Mapping[str, object], chunks: Iterable[bytes],
        headers: Iterable[tuple[str, str]] = (), *, method: str = "POST",
    ) -> Reply:
        """Send a chunked ``application/x-tar`` body and return the reply, body unread."""
        connection = self.connect()
        connection.send_stream(
            method, self.target(path, query),
            [*self._headers, *headers, ("Content-Type", "application/x-tar")], chunks)
        return self.checked(connection.receive(method))

    def hijack(
        self, path: str, query: Mapping[str, object] | None = None, *, body: object = None
    ) -> Pending:
        """Send a request that turns its connection into a raw stream; see ``Pending.stream``."""
        return self.send("POST", path, query, body=body,
                         headers=(("Connection", "Upgrade"), ("Upgrade", "tcp")))

    # -- connections ---------------------------------------------------------------------------

    def connect(self) -> Connection:
        """Return a new connection, starting a daemon first where that is allowed."""
        if self._on_absent is None:
            return Connection(self.endpoint.connect(), self.endpoint.host_header())
        start, self._on_absent = self._on_absent, None
        try:
            transport = self.endpoint.connect()
        except Exception as error:  # noqa: BLE001 - the hook decides and re-raises
            start(error)
            transport = self.endpoint.connect()
        return Connection(transport, self.endpoint.host_header())

    def release(self, connection: Connection) -> None:
        """Keep a connection whose reply has been read, or close it."""
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close all idle connections."""
        while self._idle:
            self._idle.pop().close()

    # -- helpers -------------------------------------------------------------------------------

    def target(self, path: str, query: Mapping[str, object] | None = None) -> str:
        """Return the request target for ``path`` and ``query``."""
        if self.version:
            path = f"/v{self.version}{path}"
        pairs: list[str] = []
        for name, value in (query or {}).items():
            if value is None or value is False:
                continue
            if isinstance(value, (list, tuple)):
                pairs += [f"{name}={quote(str(item))}" for item in value]
            else:
                pairs.append(f"{name}={'1' if value is True else quote(str(value))}")
        return f"{path}?{'&'.join(pairs)}" if pairs else path

    def checked(self, reply: Reply) -> Reply:
        """Return ``reply`` unless its status is an error; note the daemon's API version.

        Raises:
            DaemonError: with the daemon's message.
        """
        self.api_version = reply.headers.get("api-version", self.api_version)
        if reply.status < 400:
            return reply
        data = reply.read()
        self.release(reply.connection)
        raise DaemonError(reply.status, error_message(data, reply.reason))

    def daemon_api_version(self) -> str:
        """Return the daemon's newest API version, asking for it if no reply has told yet."""
        if not self.api_version:
            reply = self.request("HEAD", "/_ping")
            reply.read()
            self.release(reply.connection)
        return self.api_version

    def events(self, reply: Reply) -> Iterator[Any]:
        """Yield the JSON documents of a stream; release its connection at the end."""
        for line in reply.lines():
            yield from documents(line.decode("utf-8", "replace"))
        self.release(reply.connection)


def documents(line: str) -> Iterator[Any]:
    """Yield the JSON values of a line: some daemons write several without a line end between."""
    at = 0
    while at < len(line):
        value, at = wire.decode_first(line, at)
        yield value
        while at < len(line) and line[at] in " \t\r\n\x1e":
            at += 1


def error_message(data: bytes, reason: str) -> str:
    """Return ``message`` of an error body, or the body, or the status line's words."""
    text = data.decode("utf-8", "replace").strip()
    try:
        value = wire.decode(text)
    except wire.WireError:
        return text or reason
    if isinstance(value, dict) and isinstance(value.get("message"), str):
        return str(value["message"]).strip() or reason
    return text or reason


class Pending:
    """A request on its way; a reused connection found closed is replaced by a new one, once."""

    __slots__ = ("_again", "_engine", "_method", "_retry", "connection")

    def __init__(
        self, engine: Engine, connection: Connection,
        request: tuple[str, str, list[tuple[str, str]], bytes | None], *, retry: bool,
    ) -> None:
        """Made by ``Engine.send``; ``request`` is what ``Connection.send`` takes."""
        self.connection = connection
        self._engine = engine
        self._method = request[0]
        self._again = request
        self._retry = retry

    def reply(self) -> Reply:
        """Wait for the head of the reply.

        Raises:
            DaemonError: the status is 400 or more.
            ProtocolError: the daemon closed without an answer.
        """
        return self._engine.checked(self._receive())

    def stream(self) -> Connection:
        """Wait for the hijack's answer and return the connection as a raw stream.

        Bytes that came with the head are in ``Connection.buffer``.

        Raises:
            DaemonError: the daemon refused.
        """
        reply = self._receive()
        if reply.status not in (101, 200):
            self._engine.checked(reply)
            message = f"unable to upgrade to tcp, received {reply.status}"
            raise ProtocolError(message)
        self.connection.reusable = False
        return self.connection

    def _receive(self) -> Reply:
        try:
            return self.connection.receive(self._method)
        except ProtocolError as error:
            self.connection.close()
            if not self._retry or str(error) != "EOF":
                raise
        self.connection = self._engine.connect()
        self.connection.send(*self._again)
        return self.connection.receive(self._method)
