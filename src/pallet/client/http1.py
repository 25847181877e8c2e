"""A blocking HTTP/1.1 client connection: what the Engine API needs and no more.

Owns   request framing (sized and chunked bodies), reply framing (sized, chunked, until close),
       keep-alive, and hand-over of the raw stream after a hijack.
Runs   in the CLI process. ``http/h1.py`` serves; it needs h11, which costs 12 ms to import.
Spec   RFC 9112; Engine API "attach" for 101 and 200 hijacks.
"""

from __future__ import annotations

from pallet.client.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pallet.client.transport import Transport

_READ_BYTES = 65536
_MAX_HEAD_BYTES = 1 << 20


class Connection:
    """One connection, used for one request at a time."""

    __slots__ = ("buffer", "host", "reusable", "transport")

    def __init__(self, transport: Transport, host: str) -> None:
        """Wrap a connected ``transport``; ``host`` is the Host header."""
        self.transport = transport
        self.host = host
        self.buffer = b""
        self.reusable = True

    def send(
        self, method: str, target: str, headers: Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> None:
        """Send a request with a sized body, or none."""
        lines = [f"{method} {target} HTTP/1.1\r\nHost: {self.host}\r\nUser-Agent: pallet\r\n"]
        lines += [f"{name}: {value}\r\n" for name, value in headers]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}\r\n")
        elif method in ("POST", "PUT"):
            lines.append("Content-Length: 0\r\n")
        lines.append("\r\n")
        self.transport.sendall("".join(lines).encode("latin-1") + (body or b""))

    def send_stream(
        self, method: str, target: str, headers: Iterable[tuple[str, str]], chunks: Iterable[bytes]
    ) -> None:
        """Send a request with a chunked body; a peer that stops listening is not an error here."""
        head = [f"{method} {target} HTTP/1.1\r\nHost: {self.host}\r\nUser-Agent: pallet\r\n"]
        head += [f"{name}: {value}\r\n" for name, value in headers]
        head.append("Transfer-Encoding: chunked\r\n\r\n")
        self.transport.sendall("".join(head).encode("latin-1"))
        try:
            for chunk in chunks:
                if chunk:
                    self.transport.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            self.transport.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            self.reusable = False  # it has answered early; the reply says why

    def receive(self, method: str = "GET") -> Reply:
        """Read a reply's head; the body is read through the returned object.

        Raises:
            ProtocolError: the peer closed or does not speak HTTP.
        """
        while True:
            head = self._read_head()
            lines = head.split("\r\n")
            version, _, rest = lines[0].partition(" ")
            code, _, reason = rest.partition(" ")
            if not version.startswith("HTTP/1.") or not code.isdigit():
                message = f"malformed HTTP response {lines[0]!r}"
                raise ProtocolError(message)
            headers: dict[str, str] = {}
            for line in lines[1:]:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            status = int(code)
            if status != 100:
                return Reply(self, method, (version, status, reason), headers)

    def _read_head(self) -> str:
        while (end := self.buffer.find(b"\r\n\r\n")) < 0:
            if len(self.buffer) > _MAX_HEAD_BYTES:
                message = "response head is too long"
                raise ProtocolError(message)
            try:
                data = self.transport.recv(_READ_BYTES)
            except ConnectionResetError:
                data = b""
            if not data:
                message = "unexpected EOF" if self.buffer else "EOF"
                raise ProtocolError(message)
            self.buffer += data
        head, self.buffer = self.buffer[:end], self.buffer[end + 4:]
        return head.decode("latin-1")

    def close(self) -> None:
        """Close the transport."""
        self.reusable = False
        self.transport.close()


class Reply:
    """A reply whose body is still on the wire."""

    __slots__ = ("_left", "_mode", "connection", "headers", "reason", "status")

    def __init__(
        self, connection: Connection, method: str, status_line: tuple[str, int, str],
        headers: dict[str, str],
    ) -> None:
        """Work out the body's framing (RFC 9112 section 6.3)."""
        self.connection = connection
        version, status, self.reason = status_line
        self.status = status
        self.headers = headers
        self._left = 0
        if method == "HEAD" or status in (204, 304) or status == 101:
            self._mode = "none"
        elif "chunked" in headers.get("transfer-encoding", "").lower():
            self._mode = "chunked"
        elif "content-length" in headers:
            self._mode = "sized"
            self._left = int(headers["content-length"])
        else:
            self._mode = "close"
            connection.reusable = False
        if version == "HTTP/1.0" or "close" in headers.get("connection", "").lower():
            connection.reusable = False

    def chunks(self) -> Iterator[bytes]:
        """Yield the body as it arrives.

        Raises:
            ProtocolError: the peer closed before the body's end.
        """
        connection = self.connection
        if self._mode == "chunked":
            yield from self._chunked()
        elif self._mode == "sized":
            while self._left:
                if not connection.buffer:
                    connection.buffer = self._more()
                part = connection.buffer[:self._left]
                connection.buffer = connection.buffer[self._left:]
                self._left -= len(part)
                yield part
        elif self._mode == "close":
            if connection.buffer:
                part, connection.buffer = connection.buffer, b""
                yield part
            while part := connection.transport.recv(_READ_BYTES):
                yield part
        self._mode = "none"

    def read(self) -> bytes:
        """Return the whole body."""
        return b"".join(self.chunks())

    def lines(self) -> Iterator[bytes]:
        """Yield the non-empty lines of the body as they arrive, without line ends."""
        rest = b""
        for chunk in self.chunks():
            *full, rest = (rest + chunk).split(b"\n")
            for line in full:
                if stripped := line.strip():
                    yield stripped
        if stripped := rest.strip():
            yield stripped

    def _more(self) -> bytes:
        data = self.connection.transport.recv(_READ_BYTES)
        if not data:
            message = "unexpected EOF"
            raise ProtocolError(message)
        return data

    def _line(self) -> bytes:
        connection = self.connection
        while (end := connection.buffer.find(b"\r\n")) < 0:
            connection.buffer += self._more()
        line, connection.buffer = connection.buffer[:end], connection.buffer[end + 2:]
        return line

    def _chunked(self) -> Iterator[bytes]:
        connection = self.connection
        while True:
            try:
                size = int(self._line().split(b";")[0], 16)
            except ValueError:
                message = "malformed chunked encoding"
                raise ProtocolError(message) from None
            if not size:
                while self._line():
                    pass  # trailers
                return
            while size:
                if not connection.buffer:
                    connection.buffer = self._more()
                part, connection.buffer = connection.buffer[:size], connection.buffer[size:]
                size -= len(part)
                yield part
            self._line()
