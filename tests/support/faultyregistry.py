"""Pallet's registry in this process, made to misbehave: what real registries and networks do."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pallet.registry.messages import FileRange, RegistryResponse, Stream
from pallet.registry.server import RegistryServer
from pallet.registry.serving.service import RegistryService

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pallet.http.strict import StrictHead
    from pallet.registry.messages import RegistryRequest


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


class FaultyService(RegistryService):
    """Consults the server's faults about each reply."""

    server: FaultyRegistry

    def quick(self, head: StrictHead, peer: str) -> None:
        """Nothing comes from memory: every request is seen."""

    def answer(self, request: RegistryRequest) -> RegistryResponse:
        target = f"{request.path}?{request.query}" if request.query else request.path
        if request.headers["host"].endswith(".invalid"):  # it is the client's proxy
            target = f"http://{request.headers['host']}{target}"
        line = f"{request.method} {target}"
        seen = dict(request.headers)
        if self.server.fault(line, peek="ignore_range"):
            seen.pop("range", None)
            request = replace(request, headers=seen)
        response = super().answer(request)
        self.server.note(line, {name.title(): value for name, value in seen.items()})
        fault = self.server.fault(line)
        if fault is None:
            return response
        if fault.wait is not None:
            assert fault.wait.wait(30)
        if fault.status is not None:
            response = RegistryResponse(status=fault.status, headers=fault.headers, body=fault.body)
        if fault.change is not None:
            response = replace(response, body=fault.change(_whole(response.body)))
        if fault.cut_at is not None:
            body = _whole(response.body)
            response = replace(response, body=Stream(
                chunks=iter([body[:fault.cut_at]]), length=len(body)))
        return response


class FaultyRegistry(RegistryServer):
    """Use as a context; ``faults`` may be changed at any time, ``requests`` counts what came."""

    service_class = FaultyService

    def __init__(self, root: Path, **options: Any) -> None:
        super().__init__(("127.0.0.1", 0), root, **options)
        assert isinstance(self.service, FaultyService)
        self.service.server = self
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
