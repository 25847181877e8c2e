"""A BuildKit client in the test: it calls the daemon's services and serves a session of its own."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pallet.api.buildkit import grpc
from pallet.api.buildkit.filesync import go_mode
from pallet.api.buildkit.grpc import Client, Server, ServerCall
from pallet.api.buildkit.service import BuildKitService
from pallet.api.buildkit.status import Code, GrpcError
from pallet.api.buildkit.wire import auth_pb2, content_pb2, filesync_pb2, secrets_pb2, ssh_pb2, upload_pb2
from pallet.api.buildkit.wire.fsutil_pb2 import Packet, Stat
from pallet.api.buildkit.wire.status_pb2 import HealthCheckRequest, HealthCheckResponse
from pallet.api.buildkitbackend import BuildKitDoor
from pallet.build.context import ContextStore
from pallet.build.entries import Entry
from pallet.build.progress import LogEvent, VertexEvent
from pallet.build.request import BuildResult
from pallet.build.usage import CacheUsage
from pallet.spec.platform import Platform

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from pallet.build.ports import BuildClient
    from pallet.build.request import BuildRequest

IMAGE = f"sha256:{'a' * 64}"


class FakeBuilder:
    """A builder whose builds are the test's function."""

    def __init__(self, contexts: Path) -> None:
        self.contexts = ContextStore(contexts)
        self.contexts.sweep()
        self.requests: list[BuildRequest] = []
        self.work: Callable[..., Any] | None = None
        self.records = [CacheUsage(id="one", kind="regular", description="[1/1] X", size_bytes=10,
                                    created_ns=1_000_000_000, last_used_ns=2_000_000_000)]
        self.pruned: list[Any] = []

    async def build(self, request: BuildRequest, client: BuildClient, watch: Any) -> BuildResult:
        self.requests.append(request)
        vertex = f"sha256:{'1' * 64}"
        began = time.time_ns()
        watch(VertexEvent(digest=vertex, name="[1/1] X", started_ns=began))
        watch(LogEvent(vertex=vertex, stream=1, data=b"hello\n", timestamp_ns=began))
        if self.work is not None:
            await self.work(request, client, watch)
        watch(VertexEvent(digest=vertex, name="[1/1] X", started_ns=began, completed_ns=time.time_ns()))
        return BuildResult(image_id=IMAGE, digest=IMAGE, response={"containerimage.digest": IMAGE},
                           provenance={"https://slsa.dev/provenance/v0.2": b"{}"})

    async def describe(self, subrequest: str, request: BuildRequest, client: BuildClient, watch: Any
                       ) -> Mapping[str, bytes]:
        self.requests.append(request)
        return {"result.txt": subrequest.encode()}

    async def resolve_image(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    async def read_file(self, request: BuildRequest, path: str, limit_bytes: int, *_: Any, source: bool) -> bytes | None:
        self.requests.append(request)
        return None if path == "absent" else f"{path} of {request.options.remote_context} {source}".encode()

    async def entries(self, request: BuildRequest, path: str, *_: Any, source: bool) -> list[Entry] | None:
        self.requests.append(request)
        status = os.stat_result((0o100640, 0, 0, 1, 3, 4, 5, 0, 6, 0))
        directory = os.stat_result((0o40755, 0, 0, 1, 0, 0, 0, 0, 0, 0))
        return None if path == "absent" else [Entry("", directory), Entry("a.hcl", status), Entry("b", status, "a.hcl")]

    def image_config(self, image_id: str) -> bytes | None:
        return b"{}" if image_id == IMAGE else None

    async def usage(self, filters: Any = ()) -> list[CacheUsage]:
        return self.records

    async def prune_cache(self, prune: Any) -> list[CacheUsage]:
        self.pruned.append(prune)
        return self.records


class SessionServer:
    """What a client serves on its session: files, secrets, agents, sinks."""

    def __init__(self) -> None:
        self.trees: dict[str, dict[str, bytes | Stat]] = {"context": {}, "dockerfile": {}}
        self.secrets: dict[str, bytes] = {}
        self.uploads: dict[str, list[bytes]] = {}
        self.blobs: dict[str, bytes] = {}
        self.outputs: dict[str, bytearray] = {}
        self.received: dict[str, bytes | Stat] = {}
        self.asked: list[dict[str, list[str]]] = []
        self.sent_files: list[str] = []
        self.health_checks = 0

    def table(self) -> dict[str, Any]:
        return {
            "/moby.filesync.v1.FileSync/DiffCopy": self.diff_copy,
            "/moby.filesync.v1.FileSend/DiffCopy": self.take,
            "/moby.filesync.v1.Auth/Credentials": grpc.unary(auth_pb2.CredentialsRequest, self.credentials),
            "/moby.filesync.v1.Auth/FetchToken": grpc.unary(auth_pb2.FetchTokenRequest, self.fetch_token),
            "/moby.buildkit.secrets.v1.Secrets/GetSecret": grpc.unary(secrets_pb2.GetSecretRequest, self.get_secret),
            "/moby.sshforward.v1.SSH/CheckAgent": grpc.unary(ssh_pb2.CheckAgentRequest, self.check_agent),
            "/moby.sshforward.v1.SSH/ForwardAgent": self.forward_agent,
            "/moby.upload.v1.Upload/Pull": self.pull,
            "/containerd.services.content.v1.Content/Read": grpc.streaming(
                content_pb2.ReadContentRequest, self.read_content),
            "/containerd.services.content.v1.Content/Write": self.write_content,
            "/grpc.health.v1.Health/Check": grpc.unary(HealthCheckRequest, self.health),
        }

    async def health(self, call: ServerCall, request: Any) -> HealthCheckResponse:
        self.health_checks += 1
        return HealthCheckResponse(status=1)

    async def diff_copy(self, call: ServerCall) -> None:
        """fsutil's sender, over a dictionary."""
        self.asked.append(call.metadata)
        tree = self.trees[call.first("dir-name")]
        wanted = call.metadata.get("followpaths")
        entries: list[tuple[str, bytes | Stat]] = sorted(
            (path, content) for path, content in tree.items()
            if not wanted or path in wanted)
        for path, content in entries:
            entry = content if isinstance(content, Stat) else Stat(
                path=path, mode=go_mode(stat.S_IFREG | 0o644), size=len(content), modTime=10**18)
            await call.send(Packet(type=Packet.PACKET_STAT, stat=entry))
        await call.send(Packet(type=Packet.PACKET_STAT))
        while (packet := await call.read(Packet)) is not None:
            if packet.type == Packet.PACKET_FIN:
                await call.send(Packet(type=Packet.PACKET_FIN))
                return
            path, content = entries[packet.ID]
            assert isinstance(content, bytes)
            self.sent_files.append(path)
            for at in range(0, len(content), 32768):
                await call.send(Packet(type=Packet.PACKET_DATA, ID=packet.ID, data=content[at:at + 32768]))
            await call.send(Packet(type=Packet.PACKET_DATA, ID=packet.ID))

    async def take(self, call: ServerCall) -> None:
        """A sink: bytes, or (exporter "tree") fsutil's receiver."""
        name = call.first("buildkit-attachable-exporter-id")
        self.asked.append(call.metadata)
        if name != "tree":
            sink = self.outputs.setdefault(name, bytearray())
            while (message := await call.read(filesync_pb2.BytesMessage)) is not None:
                sink += message.data
            return
        entries: list[Stat] = []
        while (packet := await call.read(Packet)) is not None and packet.HasField("stat"):
            entries.append(packet.stat)
        for number, entry in enumerate(entries):
            if entry.mode < 1 << 20 and not entry.linkname:
                await call.send(Packet(type=Packet.PACKET_REQ, ID=number))
                data = b""
                while (packet := await call.read(Packet)) is not None and packet.data:
                    data += packet.data
                self.received[entry.path] = data
            else:
                self.received[entry.path] = entry
        await call.send(Packet(type=Packet.PACKET_FIN))
        packet = await call.read(Packet)
        assert packet is not None
        assert packet.type == Packet.PACKET_FIN

    async def credentials(self, call: ServerCall, request: Any) -> auth_pb2.CredentialsResponse:
        if request.Host == "registry-1.docker.io":
            return auth_pb2.CredentialsResponse(Username="me", Secret="word")
        return auth_pb2.CredentialsResponse()

    async def fetch_token(self, call: ServerCall, request: Any) -> auth_pb2.FetchTokenResponse:
        """As buildx: a token of the configuration, or what the realm gives."""
        if request.Host == "token.io":
            return auth_pb2.FetchTokenResponse(Token="bearer")
        raise GrpcError(Code.UNKNOWN, f'Post "{request.Realm}": unsupported protocol scheme ""')

    async def get_secret(self, call: ServerCall, request: Any) -> secrets_pb2.GetSecretResponse:
        if request.ID not in self.secrets:
            raise GrpcError(Code.NOT_FOUND, f"secret {request.ID} not found")
        return secrets_pb2.GetSecretResponse(data=self.secrets[request.ID])

    async def check_agent(self, call: ServerCall, request: Any) -> ssh_pb2.CheckAgentResponse:
        if request.ID != "default":
            raise GrpcError(Code.UNKNOWN, f"unset ssh forward key {request.ID}")
        return ssh_pb2.CheckAgentResponse()

    async def forward_agent(self, call: ServerCall) -> None:
        while (message := await call.read(ssh_pb2.BytesMessage)) is not None:
            await call.send(ssh_pb2.BytesMessage(data=message.data[::-1]))

    async def pull(self, call: ServerCall) -> None:
        for piece in self.uploads[call.first("urlpath")]:
            await call.send(upload_pb2.BytesMessage(data=piece))

    async def read_content(self, call: ServerCall, request: Any) -> None:
        data = self.blobs.get(request.digest)
        if data is None:
            raise GrpcError(Code.NOT_FOUND, "content not found")
        for at in range(0, len(data), 1000):
            await call.send(content_pb2.ReadContentResponse(offset=at, data=data[at:at + 1000]))

    async def write_content(self, call: ServerCall) -> None:
        data = bytearray()
        while (request := await call.read(content_pb2.WriteContentRequest)) is not None:
            assert request.offset == len(data)
            data += request.data
            if request.action == content_pb2.COMMIT:
                self.blobs[request.expected] = bytes(data)
            await call.send(content_pb2.WriteContentResponse(offset=len(data)))


def _pair() -> tuple[socket.socket, socket.socket]:
    here, there = socket.socketpair()
    here.setblocking(False)
    there.setblocking(False)
    return here, there


PLATFORMS = (Platform(os="linux", architecture="amd64"),)


async def _platforms() -> tuple[Platform, ...]:
    return PLATFORMS


class World:
    """The door under test with a client in front of it."""

    def __init__(self, builder: FakeBuilder) -> None:
        self.builder = builder
        self.service = BuildKitService(BuildKitDoor(
            backend=builder, worker_id="worker", host_gateway=lambda: "172.17.0.1",
            native=lambda: PLATFORMS, platforms=_platforms, version="1.2", gc_rules=tuple))
        self._servers: list[Server] = []
        self._clients: list[Client] = []

    async def client(self) -> Client:
        here, there = _pair()
        await self.service.server.serve(there)
        client = await Client.on_socket(here)
        self._clients.append(client)
        return client

    async def session(self, session_id: str = "s", *, shared_key: str = "", table: Any = None) -> SessionServer:
        here, there = _pair()
        served = SessionServer()
        methods = served.table() if table is None else table
        server = Server(methods)
        await server.serve(here)
        self._servers.append(server)
        self.service.sessions.claim(session_id)
        await self.service.sessions.add(there, session_id=session_id, name="", shared_key=shared_key,
                                        methods=list(methods))
        return served

    async def close(self) -> None:
        await self.service.close()
        for client in self._clients:
            client.connection.close()
        for server in self._servers:
            await server.close()
        await asyncio.sleep(0)


@asynccontextmanager
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Everything connected; nothing is left afterwards."""
    found = World(FakeBuilder(tmp_path / "contexts"))
    yield found
    await found.close()
    assert not found.service.server._tasks
    assert not found.service.sessions._tasks
