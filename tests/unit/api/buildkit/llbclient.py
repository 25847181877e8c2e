"""A BuildKit client that solves definitions: against any engine's socket, with a session that takes a tar."""

from __future__ import annotations

import asyncio
import hashlib
import io
import secrets
import socket
import tarfile
from typing import TYPE_CHECKING, Any

from pallet.api.buildkit.grpc import Client, Server
from pallet.api.buildkit.wire import control_pb2, gateway_pb2
from pallet.api.buildkit.wire import llb_pb2 as pb
from tests.unit.api.buildkit.clients import SessionServer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CONTROL = "/moby.buildkit.v1.Control"
PLATFORM = pb.Platform(OS="linux", Architecture="amd64")
ENV = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]


class Graph:
    """A definition that is being made."""

    def __init__(self) -> None:
        self.ops: list[bytes] = []
        self.uncached: set[str] = set()

    def add(self, op: pb.Op, *, index: int = 0, ignore_cache: bool = False) -> pb.Input:
        """Add an operation; one of its outputs."""
        data = op.SerializeToString(deterministic=True)
        if data not in self.ops:
            self.ops.append(data)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if ignore_cache:
            self.uncached.add(digest)
        return pb.Input(digest=digest, index=index)

    def end(self, result: pb.Input) -> pb.Definition:
        """The definition whose result that is."""
        found = pb.Definition()
        getattr(found, "def").extend([*self.ops, pb.Op(inputs=[result]).SerializeToString(deterministic=True)])
        for data in getattr(found, "def"):
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            found.metadata[digest].ignore_cache = digest in self.uncached
        return found

    def source(self, identifier: str, attrs: dict[str, str] | None = None) -> pb.Input:
        """A source."""
        return self.add(pb.Op(source=pb.SourceOp(identifier=identifier, attrs=attrs or {}), platform=PLATFORM))

    def file(self, inputs: Sequence[pb.Input], *actions: pb.FileAction, index: int = 0) -> pb.Input:
        """File actions."""
        return self.add(pb.Op(inputs=inputs, file=pb.FileOp(actions=actions)), index=index)

    def run(self, command: str, inputs: Sequence[pb.Input], mounts: Sequence[pb.Mount], *, index: int = 0,
            ignore_cache: bool = False, meta: dict[str, Any] | None = None, **fields: Any) -> pb.Input:
        """A shell's command line."""
        return self.add(pb.Op(inputs=inputs, platform=PLATFORM, exec=pb.ExecOp(
            meta=pb.Meta(**{"args": ["/bin/sh", "-c", command], "env": ENV, "cwd": "/", **(meta or {})}),
            mounts=mounts, **fields)), index=index, ignore_cache=ignore_cache)


def mkfile(path: str, data: str, *, base: int = -1, output: int = 0, mode: int = 0o644, time_ns: int = -1,
           **fields: Any) -> pb.FileAction:
    """Make a file."""
    return pb.FileAction(input=base, secondaryInput=-1, output=output, mkfile=pb.FileActionMkFile(
        path=path, data=data.encode(), mode=mode, timestamp=time_ns, **fields))


def mkdir(path: str, *, base: int = -1, output: int = 0, mode: int = 0o755, time_ns: int = -1,
          **fields: Any) -> pb.FileAction:
    """Make a directory."""
    return pb.FileAction(input=base, secondaryInput=-1, output=output, mkdir=pb.FileActionMkDir(
        path=path, mode=mode, timestamp=time_ns, **fields))


def remove(path: str, *, base: int = 0, output: int = 0, **fields: Any) -> pb.FileAction:
    """Remove something."""
    return pb.FileAction(input=base, secondaryInput=-1, output=output, rm=pb.FileActionRm(path=path, **fields))


def link(old: str, new: str, *, base: int = -1, output: int = 0, **fields: Any) -> pb.FileAction:
    """Make a symbolic link."""
    return pb.FileAction(input=base, secondaryInput=-1, output=output, symlink=pb.FileActionSymlink(
        oldpath=old, newpath=new, timestamp=-1, **fields))


def copy(source: int, src: str, dest: str, *, base: int = -1, output: int = 0, mode: int = -1, time_ns: int = -1,
         **fields: Any) -> pb.FileAction:
    """Copy something."""
    return pb.FileAction(input=base, secondaryInput=source, output=output, copy=pb.FileActionCopy(
        src=src, dest=dest, mode=mode, timestamp=time_ns, **fields))


async def _upgrade(path: Path, target: str, headers: Sequence[tuple[str, str]] = ()) -> socket.socket:
    """Turn a connection to a daemon over."""
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    await loop.sock_connect(sock, str(path))
    lines = [f"POST {target} HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: h2c",
             *(f"{name}: {value}" for name, value in headers), "", ""]
    await loop.sock_sendall(sock, "\r\n".join(lines).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await loop.sock_recv(sock, 1)
    assert b" 101 " in head.split(b"\r\n")[0], head
    return sock


class LlbClient:
    """One client of one daemon, for the time of an ``async with``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.session = SessionServer()
        self._server = Server(self.session.table())
        self.session_id = secrets.token_hex(12)

    async def __aenter__(self) -> LlbClient:
        self.client = await Client.on_socket(await _upgrade(self._path, "/grpc"))
        methods = [("X-Docker-Expose-Session-Grpc-Method", name) for name in self.session.table()]
        await self._server.serve(await _upgrade(self._path, "/session", [
            ("X-Docker-Expose-Session-Uuid", self.session_id), ("X-Docker-Expose-Session-Name", "t"), *methods]))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.client.connection.close()
        await self._server.close()

    async def solve(self, definition: pb.Definition | None = None, **fields: Any) -> control_pb2.SolveResponse:
        """Solve with whatever exporter."""
        return await self.client.unary(f"{CONTROL}/Solve", control_pb2.SolveRequest(
            Ref=secrets.token_hex(12), Session=self.session_id, Definition=definition, **fields), control_pb2.SolveResponse)

    async def tree(self, definition: pb.Definition, **fields: Any) -> dict[str, tuple[Any, ...]]:
        """Solve; what came out, by path: kind, mode, owner, link, content, time where it is a whole day's."""
        self.session.outputs.clear()
        await self.solve(definition, Exporters=[control_pb2.Exporter(Type="tar")], **fields)
        (data,) = self.session.outputs.values()
        found: dict[str, tuple[Any, ...]] = {}
        with tarfile.open(fileobj=io.BytesIO(bytes(data))) as archive:
            for entry in archive:
                content = archive.extractfile(entry) if entry.isreg() else None
                text = content.read()[:200] if content is not None else b""
                time_s = int(entry.mtime)
                found[entry.name.strip("/")] = (
                    entry.type.decode(), f"{entry.mode:o}", entry.uid, entry.gid, entry.linkname, text,
                    time_s if time_s % 86400 == 0 else 0)
        return found


class Driver:
    """One build that a client drives over the bridge."""

    def __init__(self, client: LlbClient, exporters: Sequence[control_pb2.Exporter]) -> None:
        reference = secrets.token_hex(12)
        self._client = client.client
        self._metadata = [("buildkit-controlapi-buildid", reference)]
        self._solved = asyncio.ensure_future(client.client.unary(f"{CONTROL}/Solve", control_pb2.SolveRequest(
            Ref=reference, Session=client.session_id, Exporters=exporters), control_pb2.SolveResponse))

    async def call(self, method: str, request: Any, kind: Any) -> Any:
        """Call a method of the bridge."""
        return await self._client.unary(f"/moby.buildkit.v1.frontend.LLBBridge/{method}", request, kind,
                                        metadata=self._metadata)

    async def solve(self, definition: pb.Definition) -> str:
        """Solve a definition; its reference."""
        reply = await self.call("Solve", gateway_pb2.SolveRequest(
            Definition=definition, allowResultReturn=True), gateway_pb2.SolveResponse)
        return str(reply.result.ref.id)

    async def give_back(self, result: gateway_pb2.Result) -> control_pb2.SolveResponse:
        """Return a result; what the exporters said."""
        await self.call("Return", gateway_pb2.ReturnRequest(result=result), gateway_pb2.ReturnResponse)
        return await self._solved
