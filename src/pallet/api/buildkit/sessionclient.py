"""The client's end of one build, reached through its sessions.

Owns   ``SessionClient``, the ``BuildClient`` of BuildKit's door.
Runs   on the event loop.
Spec   buildkit-wire "attachable".
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import TYPE_CHECKING, Final

from pallet.api.buildkit import filesync
from pallet.api.buildkit.status import Code, GrpcError
from pallet.api.buildkit.wire import auth_pb2, content_pb2, filesync_pb2, secrets_pb2, ssh_pb2, upload_pb2
from pallet.build.context import tree_key
from pallet.build.progress import StatusEvent
from pallet.errors import DataLossError, InvalidParameterError, NotFoundError
from pallet.spec.own import buildwire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from google.protobuf.message import Message

    from pallet.api.buildkit.grpc import ClientCall
    from pallet.api.buildkit.session import Session, Sessions
    from pallet.api.buildkitbackend import ContextTrees
    from pallet.build.graph import LocalSource
    from pallet.build.ports import AgentDialer, AgentWriter, ContextTree, OutputWriter
    from pallet.build.progress import Watch
    from pallet.build.request import Export
    from pallet.types import Digest

_DIFF_COPY: Final = "/moby.filesync.v1.FileSync/DiffCopy"
_FILE_SEND: Final = "/moby.filesync.v1.FileSend/DiffCopy"
_CREDENTIALS: Final = "/moby.filesync.v1.Auth/Credentials"
_FETCH_TOKEN: Final = "/moby.filesync.v1.Auth/FetchToken"  # noqa: S105
_GET_SECRET: Final = "/moby.buildkit.secrets.v1.Secrets/GetSecret"  # noqa: S105
_CHECK_AGENT: Final = "/moby.sshforward.v1.SSH/CheckAgent"
_FORWARD_AGENT: Final = "/moby.sshforward.v1.SSH/ForwardAgent"
_UPLOAD: Final = "/moby.upload.v1.Upload/Pull"
_CONTENT: Final = "/containerd.services.content.v1.Content"
_INPUT: Final = "input:"
_UPLOAD_URL: Final = "http://buildkit-session/"
_CALL_TIMEOUT_S: Final = 60.0
_CHUNK_BYTES: Final = 1024 * 1024
_REPORT_EVERY_NS: Final = 100_000_000
_HUB: Final = {"docker.io": "registry-1.docker.io"}


class SessionClient:
    """What a build asks of its client goes out as calls on the session that has it."""

    def __init__(self, sessions: Sessions, session_id: str, attrs: Mapping[str, str], trees: ContextTrees,
                 bodies: Callable[[str], Awaitable[AsyncIterator[bytes] | None]] | None = None) -> None:
        """Nothing is asked yet.

        Args:
            attrs: FrontendAttrs: names of local mounts, the sessions that serve them, their keys.
            bodies: uploads that come in requests' bodies instead, by URL.
        """
        self._bodies = bodies
        self._sessions = sessions
        self._session_id = session_id
        self._attrs = attrs
        self._trees = trees
        self._files: dict[tuple[str, str], bytes | None] = {}
        self._shared_key = ""
        self.inputs: Mapping[str, SessionClient] = {}
        """Clients of the builds that this one builds on, by the name in ``input:NAME``."""

    @property
    def shared_key(self) -> str:
        """Of the session that serves the context; known once it has been asked for something."""
        return self._shared_key

    def source_text(self, filename: str) -> bytes | None:
        """A file of the Dockerfile's directory that was read already."""
        return self._files.get(("dockerfile", filename))

    async def _session(self, local: str = "") -> Session:
        wanted = self._attrs.get(f"local-sessionid:{local}") if local else None
        return await self._sessions.get(wanted or self._session_id)

    async def _offering(self, method: str, local: str = "") -> Session | None:
        if not self._session_id:
            return None
        session = await self._session(local)
        return session if session.offers(method) else None

    def _mount(self, source: str) -> str:
        """The client's name for one of our sources."""
        if source in {"context", "dockerfile"}:
            return self._attrs.get(f"{source}key", "") or source
        return source

    # --- files

    async def tree(self, source: LocalSource, watch: Watch, vertex: Digest) -> ContextTree:
        owner, slash, rest = source.name.partition("/")
        if slash and owner.startswith(_INPUT):
            below = self.inputs[owner.removeprefix(_INPUT)]
            return await below.tree(dataclasses.replace(source, name=rest), watch, vertex)
        name = self._mount(source.name)
        session = await self._offering(_DIFF_COPY, name)
        if session is None:
            raise _absent(f"{name}: no local sources enabled")
        self._shared_key = session.shared_key
        hint = self._attrs.get(f"sharedkey:localdir:{name}") or name
        base = f"{session.shared_key}:{hint}" if session.shared_key else ""
        key = tree_key(base, name, source.include, source.exclude, source.follow)
        report = _Report(watch, vertex)
        metadata = filesync.filters(name, source.include, source.exclude, source.follow)
        try:
            async with self._trees.transfer(key) as transfer:
                with _session_errors():
                    async with session.client.call(_DIFF_COPY, metadata) as call:
                        await filesync.receive_tree(call, transfer, report)
                tree = await transfer.finish()
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        report.end()
        return tree

    async def read_file(self, source: str, path: str, limit_bytes: int) -> bytes | None:
        known = self._files.get((source, path), False)
        if known is not False:
            assert not isinstance(known, bool)
            return known
        name = self._mount(source)
        session = await self._offering(_DIFF_COPY, name)
        if session is None:
            raise _absent(f"{name}: no local sources enabled")
        self._shared_key = self._shared_key or session.shared_key
        wanted = [path]
        if source == "dockerfile" and not path.endswith(".dockerignore"):
            wanted += [f"{path}.dockerignore"]  # asked for next
        with _session_errors():
            async with session.client.call(_DIFF_COPY, filesync.filters(name, (), (), wanted)) as call:
                found = await filesync.receive_files(call, wanted, limit_bytes)
        self._files.update({(source, each): found.get(each) for each in wanted})
        return found.get(path)

    async def release(self, tree: ContextTree) -> None:
        await self._trees.release(tree)

    async def upload(self, url: str) -> AsyncIterator[bytes]:
        session = await self._offering(_UPLOAD)
        if session is None and self._bodies is not None and (body := await self._bodies(url)) is not None:
            return body
        if session is None or not url.startswith(_UPLOAD_URL):
            raise _absent(f"{url}: no such upload")
        return self._pull(session, url)

    async def _pull(self, session: Session, url: str) -> AsyncIterator[bytes]:
        host, _, path = url.removeprefix("http://").partition("/")
        with _session_errors():
            async with session.client.call(_UPLOAD, [("urlpath", f"/{path}"), ("urlhost", host)]) as call:
                while (message := await call.read(upload_pb2.BytesMessage)) is not None:
                    yield message.data

    # --- secrets, agents, credentials

    async def secret(self, secret_id: str) -> bytes | None:
        session = await self._offering(_GET_SECRET)
        if session is None:
            return None
        try:
            reply = await session.client.unary(_GET_SECRET, secrets_pb2.GetSecretRequest(ID=secret_id),
                                               secrets_pb2.GetSecretResponse, timeout_s=_CALL_TIMEOUT_S)
        except GrpcError as error:
            if error.code is Code.NOT_FOUND:
                return None
            raise _readable(error) from error
        return reply.data

    async def ssh_agent(self, agent_id: str) -> AgentDialer | None:
        session = await self._offering(_CHECK_AGENT)
        if session is None:
            return None
        agent_id = agent_id or "default"
        try:
            await session.client.unary(_CHECK_AGENT, ssh_pb2.CheckAgentRequest(ID=agent_id),
                                       ssh_pb2.CheckAgentResponse, timeout_s=_CALL_TIMEOUT_S)
        except GrpcError:
            return None

        async def dial() -> tuple[AsyncIterator[bytes], AgentWriter]:
            call = session.client.call(_FORWARD_AGENT, [("buildkit.ssh.id", agent_id)])
            return _agent_replies(call), _AgentWriter(call)

        return dial

    async def credentials(self, host: str) -> tuple[str, str] | None:
        session = await self._offering(_CREDENTIALS)
        if session is None:
            return None
        try:
            reply = await session.client.unary(_CREDENTIALS, auth_pb2.CredentialsRequest(Host=_HUB.get(host, host)),
                                               auth_pb2.CredentialsResponse, timeout_s=_CALL_TIMEOUT_S)
        except GrpcError as error:
            if error.code in {Code.UNIMPLEMENTED, Code.UNAVAILABLE}:
                return None
            raise _readable(error) from error
        if not reply.Secret:
            return await self._registry_token(host)
        return reply.Username or buildwire.IDENTITY_TOKEN_USER, reply.Secret

    async def _registry_token(self, host: str) -> tuple[str, str] | None:
        """A token that the client's configuration has for a registry, which only comes as one that was fetched.

        Without a realm there is nothing to fetch, so whoever has none answers with an error.
        """
        session = await self._offering(_FETCH_TOKEN)
        if session is None:
            return None
        try:
            reply = await session.client.unary(
                _FETCH_TOKEN, auth_pb2.FetchTokenRequest(ClientID="pallet", Host=_HUB.get(host, host)),
                auth_pb2.FetchTokenResponse, timeout_s=_CALL_TIMEOUT_S)
        except GrpcError:
            return None
        return (buildwire.REGISTRY_TOKEN_USER, reply.Token) if reply.Token else None

    # --- outputs

    async def open_output(self, export: Export, metadata: Mapping[str, str]) -> OutputWriter:
        return _Output(await self._sink(export, metadata))

    async def send_tree(self, export: Export, root: str, metadata: Mapping[str, str]) -> None:
        with _session_errors():
            async with await self._sink(export, metadata) as call:
                await filesync.send_tree(call, root)

    async def _sink(self, export: Export, metadata: Mapping[str, str]) -> ClientCall:
        session = await self._offering(_FILE_SEND)
        if session is None:
            raise _absent(f"{export.kind} exporter: the client takes no files")
        headers = [("buildkit-attachable-exporter-id", export.id)]
        headers += [(f"exporter-md-{key}", value) for key, value in metadata.items()
                    if key == key.lower() and value.isascii() and value.isprintable()]
        return session.client.call(_FILE_SEND, headers)

    # --- OCI layouts on the client's side

    async def blob(self, store: str, digest: str) -> AsyncIterator[bytes]:
        session = await self._session()
        if not session.offers(f"{_CONTENT}/Read"):
            raise _absent(f"{store}: no content store of the client")
        return _read_blob(session, store, digest)

    async def put_blob(self, store: str, digest: str, size_bytes: int, chunks: AsyncIterator[bytes]) -> None:
        session = await self._session()
        if not session.offers(f"{_CONTENT}/Write"):
            raise _absent(f"{store}: no content store of the client")
        request = content_pb2.WriteContentRequest
        offset = 0
        with _session_errors():
            async with session.client.call(f"{_CONTENT}/Write", _store_metadata(store)) as call:
                async for chunk in chunks:
                    for at in range(0, len(chunk), _CHUNK_BYTES):
                        piece = chunk[at:at + _CHUNK_BYTES]
                        await _exchange(call, request(
                            action=content_pb2.WRITE, ref=digest, total=size_bytes, expected=digest, offset=offset,
                            data=piece))
                        offset += len(piece)
                try:
                    await _exchange(call, request(action=content_pb2.COMMIT, ref=digest, total=size_bytes,
                                                  expected=digest, offset=offset))
                except GrpcError as error:
                    if error.code is not Code.ALREADY_EXISTS:
                        raise


async def _exchange(call: ClientCall, request: Message) -> None:
    await call.send(request)
    if await call.read(content_pb2.WriteContentResponse) is None:
        raise GrpcError(Code.UNAVAILABLE, "the client's content store ended the call")


async def _read_blob(session: Session, store: str, digest: str) -> AsyncIterator[bytes]:
    with _session_errors():
        async with session.client.call(f"{_CONTENT}/Read", _store_metadata(store)) as call:
            await call.send(content_pb2.ReadContentRequest(digest=digest))
            call.end()
            while (message := await call.read(content_pb2.ReadContentResponse)) is not None:
                yield message.data


def _store_metadata(store: str) -> list[tuple[str, str]]:
    if store.isdecimal():
        store = "export"  # an exporter's own layout: clients have one, under this name
    return [("buildkit-attachable-store-id", store), ("containerd-namespace", "buildkit")]


async def _agent_replies(call: ClientCall) -> AsyncIterator[bytes]:
    async with call:
        with _session_errors():
            while (message := await call.read(ssh_pb2.BytesMessage)) is not None:
                yield message.data


class _AgentWriter:
    def __init__(self, call: ClientCall) -> None:
        self._call = call

    async def write(self, data: bytes) -> None:
        if data:
            await self._call.send(ssh_pb2.BytesMessage(data=data))
        else:
            self._call.end()


class _Output:
    """One file on its way to the client."""

    def __init__(self, call: ClientCall) -> None:
        self._call = call

    async def write(self, data: bytes) -> None:
        with _session_errors():
            for at in range(0, len(data), _CHUNK_BYTES):
                await self._call.send(filesync_pb2.BytesMessage(data=data[at:at + _CHUNK_BYTES]))

    async def close(self) -> None:
        with _session_errors():
            async with self._call:
                self._call.end()
                while await self._call.read(filesync_pb2.BytesMessage) is not None:
                    pass  # it has nothing to say but its status

    async def abort(self) -> None:
        await self._call.__aexit__()


class _Report:
    """Progress of a transfer, told a few times a second."""

    def __init__(self, watch: Watch, vertex: Digest) -> None:
        self._watch = watch
        self._vertex = vertex
        self._started_ns = time.time_ns()
        self._told_ns = 0
        self._bytes = 0

    def __call__(self, received_bytes: int) -> None:
        self._bytes = received_bytes
        if time.time_ns() - self._told_ns >= _REPORT_EVERY_NS:
            self._tell()

    def end(self) -> None:
        self._tell(completed_ns=time.time_ns())

    def _tell(self, completed_ns: int = 0) -> None:
        now = self._told_ns = time.time_ns()
        self._watch(StatusEvent(
            id="transferring context:", vertex=self._vertex, name="transferring", current=self._bytes,
            timestamp_ns=now, started_ns=self._started_ns, completed_ns=completed_ns))


class _session_errors:  # noqa: N801 - reads as a statement
    """What a client's service fails with, in the builder's kinds."""

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, GrpcError):
            raise _readable(error) from error
        if isinstance(error, asyncio.IncompleteReadError):
            raise DataLossError(str(error)) from error


def _readable(error: GrpcError) -> Exception:
    if error.code is Code.NOT_FOUND:
        return NotFoundError(error.message)
    if error.code is Code.INVALID_ARGUMENT:
        return InvalidParameterError(error.message)
    return DataLossError(error.message)


def _absent(message: str) -> NotFoundError:
    return NotFoundError(message)
