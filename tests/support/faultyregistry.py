"""Pallet's registry in this process, made to misbehave: what real registries and networks do."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pallet.registry.messages import FileRange, RegistryResponse, Stream
from pallet.registry.server import Handler, RegistryServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass
class Fault:
    """What to do to replies whose ``METHOD path`` contains ``match``; ``times`` of them, then none.

    Args:
        status: send this status instead, with ``headers`` and ``body``.
        cut_at: send so many bytes of the body and drop the connection.
        change: replace the body by what this makes of it (same length is up to it).
        ignore_range: answer 200 with everything to a range request.
        wait: an event the reply waits for before its body.
    """

    match: str
    times: int = 1
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut_at: int | None = None
    change: Callable[[bytes], bytes] | None = None
    ignore_range: bool = False
    wait: threading.Event | None = None


class FaultyHandler(Handler):
    """Consults the server's faults before each reply."""

    server: FaultyRegistry

    def parse_request(self) -> bool:
        parsed = super().parse_request()
        if parsed and self.server.fault(f"{self.command} {self.path}", peek="ignore_range"):
            del self.headers["Range"]
        return parsed

    def send(self, response: RegistryResponse) -> None:
        line = f"{self.command} {self.path}"
        self.server.note(line, dict(self.headers.items()))
        fault = self.server.fault(line)
        if fault is None:
            super().send(response)
            return
        if fault.wait is not None:
            assert fault.wait.wait(30)
        if fault.status is not None:
            response = RegistryResponse(status=fault.status, headers=fault.headers, body=fault.body)
        if fault.change is not None:
            body = _whole(response.body)
            response = RegistryResponse(status=response.status, headers=response.headers,
                                        body=fault.change(body))
        if fault.cut_at is None:
            super().send(response)
        else:
            self._cut(response, fault.cut_at)

    def _cut(self, response: RegistryResponse, cut_at: int) -> None:
        body = _whole(response.body)
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut_at])
        self.wfile.flush()
        self.close_connection = True


class FaultyRegistry(RegistryServer):
    """Use as a context; ``faults`` may be changed at any time, ``requests`` counts what came."""

    handler_class = FaultyHandler

    def __init__(self, root: Path, **options: Any) -> None:
        super().__init__(("127.0.0.1", 0), root, **options)
        self.faults: list[Fault] = []
        self.requests: Counter[str] = Counter()
        self.seen_headers: dict[str, dict[str, str]] = {}
        self._guard = threading.Lock()

    def fault(self, line: str, peek: str = "") -> Fault | None:
        """The next fault for this request, used up; with ``peek`` only if it has that attribute."""
        with self._guard:
            for fault in self.faults:
                if fault.match in line and fault.times > 0 and (not peek or getattr(fault, peek)):
                    if not peek and fault.ignore_range:
                        continue
                    fault.times -= 1
                    return fault
        return None

    def note(self, line: str, headers: dict[str, str]) -> None:
        """Remember a request."""
        with self._guard:
            self.requests[line.partition("?")[0]] += 1
            self.seen_headers[line.partition("?")[0]] = headers

    def __enter__(self) -> FaultyRegistry:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()


def _whole(body: bytes | FileRange | Stream) -> bytes:
    if isinstance(body, bytes):
        return body
    if isinstance(body, Stream):
        with contextlib.closing(body):
            return b"".join(body.chunks)
    with body.path.open("rb") as file:
        file.seek(body.offset)
        return file.read(body.length)
