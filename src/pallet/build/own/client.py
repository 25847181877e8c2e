"""The ``BuildClient`` and ``Watch`` of one ``pallet build``: what it asks back over the stream.

Owns   reading and writing the frames of one connection.
Runs   on the loop; files are written in threads.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import stat
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from pallet.build.context import tree_key
from pallet.build.contextindex import FileStat
from pallet.build.own import events as documents
from pallet.build.progress import StatusEvent
from pallet.errors import CancelledRequestError, InvalidParameterError, NotFoundError
from pallet.spec.own import buildwire
from pallet.spec.own.build import Answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from pallet.build.context import ContextStore, FileWriter, Transfer
    from pallet.build.graph import LocalSource
    from pallet.build.ports import AgentDialer, AgentWriter, ContextTree, OutputWriter
    from pallet.build.progress import Event, Watch
    from pallet.build.request import Export
    from pallet.spec.own.build import BuildCall
    from pallet.types import Digest

_QUEUE_FRAMES = 8
_FAREWELL_S = 5.0
_MAX_OPEN = 64
"""Files that a client may have in the air at once; ours has one."""
_PIECE_BYTES = 256 * 1024
_INPUT = "input:"
"""Begins the names of sources of other builds; as ``build/inputs.py`` marks them."""
_answer = msgspec.json.Decoder(Answer)
_encoder = msgspec.json.Encoder()


class Wire:
    """Frames of one connection, by the question they belong to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._queues: dict[int, asyncio.Queue[tuple[bytes, bytes] | None]] = {}
        self._numbers = itertools.count(1)
        self._events: list[Event] = []
        self._flushing = False
        self._ended = False

    async def run(self) -> None:
        """Read until the client goes away; whoever waits for it is told."""
        try:
            while True:
                head = await self._reader.readexactly(buildwire.HEAD_BYTES)
                size = int.from_bytes(head[1:], "big")
                if size > buildwire.MAX_FRAME_BYTES or size < 4:
                    return
                await self._take(head[:1], await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, OSError):
            return
        finally:
            self._ended = True
            for queue in self._queues.values():
                while queue.full():
                    queue.get_nowait()
                queue.put_nowait(None)

    async def _take(self, kind: bytes, payload: bytes) -> None:
        if kind == buildwire.ANSWER:
            try:
                number = msgspec.json.decode(payload, type=Answer).id
            except msgspec.DecodeError:
                return
        else:
            number, payload = int.from_bytes(payload[:4], "big"), payload[4:]
        queue = self._queues.get(number)
        if queue is not None:
            await queue.put((kind, payload))

    def watch(self, event: Event) -> None:
        """Pass an event on; those of one turn of the loop travel together."""
        self._events.append(event)
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Send the events that wait."""
        self._flushing = False
        if self._events:
            found, self._events = self._events, []
            self.send(buildwire.EVENTS, _encoder.encode(documents.encode(found)))

    def send(self, kind: bytes, payload: bytes) -> None:
        """Send a frame; a client that is gone gets nothing."""
        if not self._writer.is_closing():
            self._writer.write(buildwire.frame(kind, payload))

    async def close(self) -> None:
        """Send what waits; a client that does not take it is dropped."""
        with suppress(OSError, TimeoutError):
            self._writer.write_eof()
            async with asyncio.timeout(_FAREWELL_S):
                await self._writer.drain()

    async def drain(self) -> None:
        """Wait until the client has taken most of what was sent.

        Raises:
            CancelledRequestError: it is gone.
        """
        try:
            await self._writer.drain()
        except OSError as error:
            message = "the client went away"
            raise CancelledRequestError(message) from error

    def question(self, ask: str, **details: object) -> Conversation:
        """Ask the client something; the conversation is to be closed."""
        number = next(self._numbers)
        queue: asyncio.Queue[tuple[bytes, bytes] | None] = asyncio.Queue(_QUEUE_FRAMES)
        self._queues[number] = queue
        if self._ended:
            queue.put_nowait(None)
        self.flush()
        self.send(buildwire.QUESTION, _encoder.encode({"id": number, "ask": ask, **details}))
        return Conversation(self, number, queue)

    def forget(self, number: int) -> None:
        """Drop what else comes for a question."""
        queue = self._queues.pop(number, None)
        while queue is not None and not queue.empty():
            queue.get_nowait()


class Conversation:
    """One question and what comes for it; a context manager."""

    def __init__(self, wire: Wire, number: int, queue: asyncio.Queue[tuple[bytes, bytes] | None]) -> None:
        self._wire = wire
        self.number = number
        self._queue = queue

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._wire.forget(self.number)

    async def frame(self) -> tuple[bytes, bytes]:
        """Take the next frame.

        Raises:
            CancelledRequestError: the client is gone.
            InvalidParameterError: it answers that it cannot.
        """
        found = await self._queue.get()
        if found is None:
            self._queue.put_nowait(None)
            message = "the client went away"
            raise CancelledRequestError(message)
        if found[0] == buildwire.ANSWER and (answer := _answer.decode(found[1])).error:
            raise InvalidParameterError(answer.error)
        return found

    async def answer(self) -> Answer:
        """Take the answer; raises as ``frame``."""
        kind, payload = await self.frame()
        if kind != buildwire.ANSWER:
            message = "an answer was expected of the client"
            raise InvalidParameterError(message)
        return _answer.decode(payload)

    def send(self, kind: bytes, payload: bytes) -> None:
        """Send a frame that belongs to the question."""
        self._wire.send(kind, self.number.to_bytes(4, "big") + payload)


class OwnClient:
    """See the module."""

    writes_index = True
    """``put_blob`` also takes a layout's own documents by their names."""

    def __init__(self, wire: Wire, store: ContextStore, call: BuildCall, path: str = "") -> None:
        """``path`` leads to a build that others build on: ``input:NAME/…``."""
        self._wire = wire
        self._store = store
        self._call = call
        self._path = path
        self._inputs: dict[str, OwnClient] = {}
        self._given: dict[str, bytes] = {}
        if call.dockerfile is not None:
            self._given[call.filename] = base64.b64decode(call.dockerfile)
            self._given[f"{call.filename}.dockerignore"] = base64.b64decode(call.ignore or "")

    @property
    def shared_key(self) -> str:
        """The directory of the context."""
        return self._call.sources.get("context", "")

    def below(self, name: str, call: BuildCall) -> OwnClient:
        """The client of a build whose result is a context of this one."""
        self._inputs[name] = OwnClient(self._wire, self._store, call, f"{self._path}{_INPUT}{name}/")
        return self._inputs[name]

    async def tree(self, source: LocalSource, watch: Watch, vertex: Digest) -> ContextTree:
        """Bring what changed of a tree here."""
        owner, slash, rest = source.name.partition("/")
        if slash and owner.removeprefix(_INPUT) in self._inputs:
            inner = self._inputs[owner.removeprefix(_INPUT)]
            return await inner.tree(replace(source, name=rest), watch, vertex)
        if source.name == "dockerfile" and source.name not in self._call.sources and self._given:
            return await self._given_tree()
        if source.name not in self._call.sources:
            message = f"no local source {source.name} in this build"
            raise NotFoundError(message)
        key = tree_key(self._call.sources[source.name], source.name, source.include, source.exclude, source.follow)
        progress = _Transferring(watch, vertex)
        async with self._store.transfer(key) as transfer:
            with self._wire.question("tree", name=self._path + source.name, include=source.include,
                                     exclude=source.exclude, follow=source.follow) as conversation:
                await _listing(conversation, transfer)
                progress.begin()
                wanted = list(await transfer.settle())
                if wanted:
                    conversation.send(buildwire.WANTED, "\0".join(wanted).encode("utf-8", "surrogateescape"))
                    await _Receiver(conversation, transfer, wanted, progress).run()
            tree = await transfer.finish()
        progress.end()
        return tree

    async def _given_tree(self) -> ContextTree:
        """The Dockerfile that came with the call, and is in no directory of the client's, as a tree: front ends ask."""
        files = {path: data for path, data in self._given.items() if data and "/" not in path}
        async with self._store.transfer("") as transfer:
            for path, data in files.items():
                transfer.entry(path, FileStat(mode=stat.S_IFREG | 0o644, size=len(data)))
            await transfer.settle()

            def write() -> None:
                for path, data in files.items():
                    writer = transfer.write(path)
                    writer.write(data)
                    writer.close()

            await transfer.in_thread(write)
            return await transfer.finish()

    async def read_file(self, source: str, path: str, limit_bytes: int) -> bytes | None:
        """Read a small file of a source; the Dockerfile came with the call where the client has it."""
        if source == "dockerfile" and path in self._given:
            return self._given[path]
        if source not in self._call.sources:
            return None
        with self._wire.question("file", name=self._path + source, path=path) as conversation:
            answer = await conversation.answer()
        if answer.data is None:
            return None
        data = base64.b64decode(answer.data)
        if len(data) > limit_bytes:
            message = f"{path} is larger than {limit_bytes} bytes"
            raise InvalidParameterError(message)
        return data

    async def release(self, tree: ContextTree) -> None:
        """Let go of a tree."""
        await self._store.release(tree)

    async def secret(self, secret_id: str) -> bytes | None:
        """Ask for a secret."""
        with self._wire.question("secret", name=secret_id) as conversation:
            answer = await conversation.answer()
        return None if answer.data is None else base64.b64decode(answer.data)

    async def credentials(self, host: str) -> tuple[str, str] | None:
        """Ask for a registry's credentials."""
        with self._wire.question("credentials", name=host) as conversation:
            answer = await conversation.answer()
        return None if answer.user is None else (answer.user, answer.secret)

    async def ssh_agent(self, agent_id: str) -> AgentDialer | None:
        """Ask whether there is an agent."""
        with self._wire.question("agent", name=agent_id) as conversation:
            answer = await conversation.answer()
        return partial(self._dial, agent_id) if answer.data is not None else None

    async def _dial(self, agent_id: str) -> tuple[AsyncIterator[bytes], AgentWriter]:
        conversation = self._wire.question("dial", name=agent_id)
        return _stream(conversation), _AgentWriter(conversation)

    async def upload(self, url: str) -> AsyncIterator[bytes]:
        """Read what is piped into ``pallet build -``."""
        return _stream(self._wire.question("upload", name=url))

    async def blob(self, store: str, digest: str) -> AsyncIterator[bytes]:
        """Read a blob of a layout on the client's side."""
        conversation = self._wire.question("blob", name=_layout(store), path=digest)
        answer = await conversation.answer()
        if answer.data is None:
            self._wire.forget(conversation.number)
            message = f"{digest}: not found in {store}"
            raise NotFoundError(message)
        return _stream(conversation)

    async def put_blob(self, store: str, digest: str, size_bytes: int, chunks: AsyncIterator[bytes]) -> None:
        """Write a blob into a layout on the client's side."""
        with self._wire.question("put", name=_layout(store), path=digest,
                                 attributes={"size": str(size_bytes)}) as conversation:
            async for chunk in chunks:
                conversation.send(buildwire.OUTPUT, chunk)
                await self._wire.drain()
            conversation.send(buildwire.OUTPUT, b"")
            await conversation.answer()

    async def open_output(self, export: Export, metadata: Mapping[str, str]) -> OutputWriter:
        """Begin an output's file."""
        conversation = self._wire.question("output", name=export.id, attributes=dict(metadata))
        return _Output(self._wire, conversation)

    async def send_tar(self, export: Export, chunks: AsyncIterator[bytes], metadata: Mapping[str, str]) -> None:
        """Send a tree as a tar that the client unpacks."""
        output = await self.open_output(export, metadata)
        try:
            async for chunk in chunks:
                await output.write(chunk)
            await output.close()
        except BaseException:
            await output.abort()
            raise

    async def send_tree(self, export: Export, root: str, metadata: Mapping[str, str]) -> None:
        """It takes trees as tars: see ``send_tar``."""
        del export, root, metadata
        message = "this client takes trees as archives"
        raise NotFoundError(message)


class _Output:
    def __init__(self, wire: Wire, conversation: Conversation) -> None:
        self._wire = wire
        self._conversation = conversation
        self._closed = False

    async def write(self, data: bytes) -> None:
        """Send a piece."""
        for at in range(0, len(data), _PIECE_BYTES):
            self._conversation.send(buildwire.OUTPUT, data[at:at + _PIECE_BYTES])
            await self._wire.drain()

    async def close(self) -> None:
        """Send the end and wait until the client has it all."""
        self._closed = True
        self._conversation.send(buildwire.OUTPUT, b"")
        with self._conversation as conversation:
            await conversation.answer()

    async def abort(self) -> None:
        """Give it up."""
        if not self._closed:
            self._closed = True
            self._wire.forget(self._conversation.number)


class _AgentWriter:
    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    async def write(self, data: bytes) -> None:
        """Send; b"" closes."""
        self._conversation.send(buildwire.STREAM, data)


def _layout(store: str) -> str:
    """A layout as the client names it: without what tells contexts and caches apart for BuildKit's clients."""
    kind, colon, name = store.partition(":")
    return name if colon and kind in {"oci", "local"} else store


async def _stream(conversation: Conversation) -> AsyncIterator[bytes]:
    """What comes on a stream until its end."""
    with conversation:
        while True:
            kind, payload = await conversation.frame()
            if kind == buildwire.STREAM:
                if not payload:
                    return
                yield payload


async def _listing(conversation: Conversation, transfer: Transfer) -> None:
    """Take listings to their end."""
    while True:
        kind, payload = await conversation.frame()
        if kind != buildwire.LISTING:
            message = "a listing was expected of the client"
            raise InvalidParameterError(message)
        try:
            for directory, block in buildwire.listings(payload):
                if not directory and not block:
                    return
                transfer.listing(directory[1:].decode("utf-8", "surrogateescape"), block)
        except ValueError as error:
            raise InvalidParameterError(str(error)) from error


class _Receiver:
    """Takes the wanted files, a frame of pieces at a time in a thread."""

    def __init__(self, conversation: Conversation, transfer: Transfer, wanted: list[str],
                 progress: _Transferring) -> None:
        self._conversation = conversation
        self._transfer = transfer
        self._wanted = wanted
        self._progress = progress
        self._open: dict[int, FileWriter] = {}
        self._left = len(wanted)

    async def run(self) -> None:
        """Return when all are here.

        Raises:
            InvalidParameterError: the client breaks the rules, or cannot read a file.
        """
        try:
            while self._left:
                kind, payload = await self._conversation.frame()
                if kind != buildwire.FILES:
                    message = "files were expected of the client"
                    raise InvalidParameterError(message)
                await self._transfer.in_thread(partial(self._write, payload))
                self._progress.advance(len(payload))
        finally:
            await self._transfer.stop()
            for writer in self._open.values():
                writer.abort()

    def _write(self, payload: bytes) -> None:
        try:
            for index, flag, data in buildwire.pieces(payload):
                self._piece(index, flag, data)
        except ValueError as error:
            raise InvalidParameterError(str(error)) from error

    def _piece(self, index: int, flag: int, data: bytes) -> None:
        if index >= len(self._wanted):
            message = "a file was sent that nobody asked for"
            raise InvalidParameterError(message)
        if flag == buildwire.GONE:
            message = f"{self._wanted[index]}: {data.decode('utf-8', 'replace')}"
            raise InvalidParameterError(message)
        writer = self._open.pop(index, None)
        if writer is None:
            if len(self._open) >= _MAX_OPEN:
                message = "the client sends too many files at once"
                raise InvalidParameterError(message)
            writer = self._transfer.write(self._wanted[index])
        self._open[index] = writer
        if data:
            writer.write(data)
        if flag == buildwire.LAST:
            del self._open[index]
            writer.close()
            self._left -= 1


class _Transferring:
    """The line ``transferring context:`` of the progress."""

    def __init__(self, watch: Watch, vertex: Digest) -> None:
        self._watch = watch
        self._vertex = vertex
        self._started_ns = time.time_ns()
        self._bytes = 0
        self._told_ns = 0

    def begin(self) -> None:
        """The listing is here."""
        self._tell(0)

    def advance(self, size_bytes: int) -> None:
        """Some bytes came; told ten times a second."""
        self._bytes += size_bytes
        if time.time_ns() - self._told_ns > 100_000_000:
            self._tell(0)

    def end(self) -> None:
        """All is here."""
        self._tell(time.time_ns())

    def _tell(self, completed_ns: int) -> None:
        self._told_ns = time.time_ns()
        self._watch(StatusEvent(
            id="transferring context:", vertex=self._vertex, name="transferring", current=self._bytes,
            timestamp_ns=self._told_ns, started_ns=self._started_ns, completed_ns=completed_ns))
