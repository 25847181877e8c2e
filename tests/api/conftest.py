"""An API server in the test's own loop, over fakes, and raw clients for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from pallet.api.app import EngineApi
from pallet.http.server import Server
from tests.api.fakes import Fakes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Reply:
    """A parsed reply."""

    def __init__(self, head: bytes, body: bytes) -> None:
        lines = head.decode().split("\r\n")
        self.status = int(lines[0].split(" ", 2)[1])
        self.status_line = lines[0]
        self.headers = {name.lower(): value for name, value in
                        (line.split(": ", 1) for line in lines[1:] if line)}
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, method: str, path: str, body: bytes | Any = None,
                   **headers: str) -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: docker"]
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("Content_Type", "application/json")
        if body is not None:
            headers.setdefault("Content_Length", str(len(body)))
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b""))
        await self.writer.drain()

    async def head(self) -> Reply:
        return Reply((await self.reader.readuntil(b"\r\n\r\n"))[:-4], b"")

    async def chunk(self) -> bytes:
        size = int(await self.reader.readline(), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def reply(self, method: str = "GET") -> Reply:
        found = await self.head()
        headers = found.headers
        if method != "HEAD" and "content-length" in headers:
            found.body = await self.reader.readexactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            while piece := await self.chunk():
                found.body += piece
        return found

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        await self.send(method, path, body, **headers)
        return await self.reply(method)

    async def upgrade(self, path: str, body: Any = None, *, early: bytes = b"") -> Reply:
        headers = {"Connection": "Upgrade", "Upgrade": "tcp"}
        if early:
            self.writer.write((f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
                               "Upgrade: tcp\r\nContent-Length: 0\r\n\r\n").encode() + early)
        else:
            await self.send("POST", path, b"" if body is None else body, **headers)
        return await self.head()


class ApiUnderTest:
    """A server and its fakes."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fakes = Fakes()
        self.server = Server(EngineApi(self.fakes.backends, server_version="0.1.0"))
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(self.path)
        await self.server.listen(sock)

    async def connect(self) -> Client:
        reader, writer = await asyncio.open_unix_connection(self.path)
        self._writers.append(writer)
        return Client(reader, writer)

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        client = await self.connect()
        return await client.call(method, path, body, **headers)

    async def stop(self) -> None:
        await self.server.close(grace_s=1.0)
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        sessions = self.fakes.containers.sessions
        for session in sessions:
            session.cancel()
        if sessions:
            await asyncio.wait(sessions)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[ApiUnderTest]:
    """A running server."""
    under_test = ApiUnderTest(str(tmp_path / "s"))
    await under_test.start()
    yield under_test
    await under_test.stop()
    assert not under_test.server.tasks
    assert not under_test.server.connections
    assert not under_test.server.relays
