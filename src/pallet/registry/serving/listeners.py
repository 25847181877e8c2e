"""Listening sockets, one for each worker.

Owns   binding: every worker has a queue of its own (SO_REUSEPORT), so that the kernel spreads the
       connections; the supervisor keeps all of them open, so that none in the queue of a worker that
       was killed is lost: its successor takes them.
Runs   before the workers are forked.
Needs  nothing.
Spec   socket(7).
"""

from __future__ import annotations

import socket
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from pallet.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Iterator

_BACKLOG = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Sockets:
    """What one worker listens on."""

    main: socket.socket
    metrics: socket.socket | None = None

    @classmethod
    def open(cls, address: tuple[str, int], metrics: str = "") -> Sockets:
        """Listen alone.

        Raises:
            OSError: an address cannot be listened on.
        """
        main = bound(address)
        try:
            return cls(main=main, metrics=bound(parse_address(metrics)) if metrics else None)
        except BaseException:
            main.close()
            raise

    def close(self) -> None:
        """Close both."""
        self.main.close()
        if self.metrics is not None:
            self.metrics.close()


def bound(address: tuple[str, int], *, shared: bool = False) -> socket.socket:
    """Listen on an address.

    Args:
        shared: further sockets of this user may listen there too.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


@contextmanager
def shared(address: tuple[str, int], metrics: str, count: int) -> Iterator[list[Sockets]]:
    """Listen with ``count`` sockets on one port; the metrics' listener is one for all.

    Raises:
        OSError: somebody else listens there, another registry too.
    """
    with ExitStack() as stack:
        if address[1]:
            bound(address).close()  # without SO_REUSEPORT: alone, or not at all
        mains = [stack.enter_context(bound(address, shared=True))]
        address = (address[0], cast("int", mains[0].getsockname()[1]))
        mains += [stack.enter_context(bound(address, shared=True)) for _ in range(count - 1)]
        beside = stack.enter_context(bound(parse_address(metrics))) if metrics else None
        yield [Sockets(main=main, metrics=beside) for main in mains]


def authority(sock: socket.socket) -> str:
    """``host:port`` that a socket listens on."""
    host, port = cast("tuple[str, int]", sock.getsockname()[:2])
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(text: str) -> tuple[str, int]:
    """Split ``host:port``; an empty host is every IPv4 address.

    Raises:
        InvalidParameterError: no port, or not a number.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        message = f"invalid address {text!r}: want HOST:PORT"
        raise InvalidParameterError(message)
    return host.strip("[]") or "0.0.0.0", int(port)
