"""A registry in this process, and a client that says to it exactly what it is told."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

import msgspec

from pallet.registry.config import HttpConfig
from pallet.registry.server import RegistryServer
from pallet.spec import digest as digests
from tests.support import registrystore as stores

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from pathlib import Path

BLOB = b"config" * 100
RECORD = stores.image([digests.of_bytes(BLOB)])


def settings(root: Path, **http: Any) -> Any:
    """A configuration below ``root`` with some of ``[http]``."""
    return msgspec.structs.replace(stores.settings(root), http=HttpConfig(**http))


@contextlib.contextmanager
def serving(config: Any, **options: Any) -> Iterator[RegistryServer]:
    """A running server."""
    server = RegistryServer(("127.0.0.1", 0), config.storage.root, config=config, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


class Client:
    """A connection that says exactly what it is told."""

    def __init__(self, server: RegistryServer, tls: ssl.SSLContext | None = None) -> None:
        host, _, port = server.authority.rpartition(":")
        self.sock = socket.create_connection((host, int(port)), timeout=20)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock)
        self.file = self.sock.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.sock.close()

    def send(self, text: str, body: bytes = b"") -> None:
        self.sock.sendall(text.replace("\n", "\r\n").encode() + b"\r\nHost: r\r\n\r\n" + body)

    def reply(self, *, bodiless: bool = False) -> tuple[int, dict[str, str], bytes]:
        status = int(self.file.readline().split()[1])
        headers = {}
        while (line := self.file.readline()) != b"\r\n":
            assert line, "the connection was closed within a head"
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        length = 0 if bodiless or status in {204, 304} else int(headers["content-length"])
        return status, headers, self.file.read(length)

    def ask(self, text: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        self.send(text, body)
        return self.reply(bodiless=text.startswith("HEAD"))

    def ended(self) -> bool:
        """Wait for the server to end the connection."""
        return self.file.read(1) == b""
