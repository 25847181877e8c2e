"""The client's end of a build's conversation: answers what the daemon asks, shows what it tells.

Owns   files that travel, secrets, credentials, agents, and the files that outputs become.
Runs   in the CLI process, one thread; the daemon never waits for the reading of its events.
Spec   ``spec/own/buildwire.py``.
"""

from __future__ import annotations

import binascii
import os
import select
import stat

from pallet.cli.errors import CommandError
from pallet.client import wire
from pallet.spec.own import buildwire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, Protocol

    from pallet.cli.build.request import Secret
    from pallet.client.http1 import Connection

    class View(Protocol):
        """Shows a build."""

        def events(self, found: Sequence[dict[str, Any]]) -> None:
            """Take events."""

        def tick(self) -> float | None:
            """Redraw; return the seconds until the next redraw, None for none."""

        def finish(self) -> None:
            """End the picture."""

    class Target(Protocol):
        """What an output is written to."""

        def write(self, data: bytes) -> None:
            """Append."""

        def close(self) -> None:
            """End it well."""

        def drop(self) -> None:
            """End what broke off; also after a ``close`` that failed."""


_READ_BYTES = 1 << 18
_FRAME_BYTES = 1 << 20


class Sources:
    """What the client offers."""

    def __init__(self) -> None:
        self.directories: dict[str, str] = {}
        self.secrets: dict[str, Secret] = {}
        self.agents: dict[str, str] = {}
        """Ids to sockets."""
        self.layouts: dict[str, str] = {}
        """Names of OCI layouts to their directories."""
        self.outputs: dict[str, Callable[[dict[str, str]], Target]] = {}
        self.credentials: Callable[[str], dict[str, str]] = lambda _host: {}
        self.upload_fd = -1
        self.upload_head = b""


class QuietView:
    """Shows nothing."""

    def events(self, found: Sequence[dict[str, Any]]) -> None:
        """Drop them."""

    def tick(self) -> float | None:
        """Nothing to redraw."""
        return None

    def finish(self) -> None:
        """Nothing to end."""


class BuildFailedError(CommandError):
    """The daemon says that the build failed; ``details`` is its ``CallError``."""

    def __init__(self, details: dict[str, Any]) -> None:
        super().__init__(details["message"])
        self.details = details


class Conversation:
    """One build."""

    def __init__(self, connection: Connection, sources: Sources, view: View) -> None:
        self._connection = connection
        self._transport = connection.transport
        self._buffer = connection.buffer
        self._sources = sources
        self._view = view
        self._trees: dict[int, str] = {}
        self._outputs: dict[int, Target] = {}
        self._streams: dict[int, Any] = {}

    def run(self) -> dict[str, Any]:
        """Talk until the build ends; return its ``CallResult``.

        Raises:
            BuildFailedError: it failed.
            CommandError: the daemon went away, or something here cannot be read or written.
        """
        try:
            return self._talk()
        finally:
            for target in self._outputs.values():
                target.drop()

    def _talk(self) -> dict[str, Any]:
        poll = select.poll()
        poll.register(self._transport.fileno(), select.POLLIN)
        while True:
            for kind, payload in self._frames():
                if kind == buildwire.RESULT:
                    return dict(wire.decode(payload))
                if kind == buildwire.ERROR:
                    raise BuildFailedError(wire.decode(payload))
                self._take(kind, payload)
            wait_s = self._view.tick()
            for number, stream in list(self._streams.items()):
                poll.register(stream.fileno(), select.POLLIN)
                del number
            ready = [self._transport.fileno()] if self._transport.pending() else [
                fd for fd, _ in poll.poll(None if wait_s is None else wait_s * 1000)]
            self._read(ready, poll)

    def _read(self, ready: list[int], poll: select.poll) -> None:
        for fd in ready:
            if fd == self._transport.fileno():
                try:
                    data = self._transport.recv(_READ_BYTES)
                except ConnectionResetError:
                    data = b""
                if not data:
                    raise CommandError("the daemon closed the connection of the build")
                self._buffer += data
                continue
            for number, stream in list(self._streams.items()):
                if stream.fileno() == fd:
                    self._from_stream(number, stream, poll)

    def _frames(self) -> Iterator[tuple[bytes, bytes]]:
        at, buffer = 0, self._buffer
        while len(buffer) - at >= buildwire.HEAD_BYTES:
            end = at + buildwire.HEAD_BYTES + int.from_bytes(buffer[at + 1:at + buildwire.HEAD_BYTES], "big")
            if end > len(buffer):
                break
            self._buffer = buffer[end:]
            yield buffer[at:at + 1], buffer[at + buildwire.HEAD_BYTES:end]
            buffer, at = self._buffer, 0

    def _send(self, kind: bytes, payload: bytes) -> None:
        try:
            self._transport.sendall(buildwire.frame(kind, payload))
        except (BrokenPipeError, ConnectionResetError):
            return  # its last words say why

    def _take(self, kind: bytes, payload: bytes) -> None:
        if kind == buildwire.EVENTS:
            self._view.events(wire.decode(payload))
        elif kind == buildwire.QUESTION:
            self._answer(wire.decode(payload))
        else:
            number, data = int.from_bytes(payload[:4], "big"), payload[4:]
            if kind == buildwire.WANTED:
                self._send_files(number, data.split(b"\0"))
            elif kind == buildwire.OUTPUT:
                self._write(number, data)
            elif kind == buildwire.STREAM:
                self._to_stream(number, data)

    def _answer(self, question: dict[str, Any]) -> None:
        number, ask = question["id"], question["ask"]
        answers: dict[str, Callable[[int, dict[str, Any]], dict[str, Any] | None]] = {
            "tree": self._tree, "file": self._file, "secret": self._secret,
            "credentials": self._credentials, "output": self._output, "agent": self._agent,
            "dial": self._dial, "upload": self._upload, "blob": self._blob, "put": self._put}
        try:
            if ask not in answers:
                raise CommandError(f"this client cannot answer {ask}")
            found = answers[ask](number, question)
        except CommandError as error:
            found = {"error": str(error)}
        except OSError as error:
            found = {"error": f"{error.filename}: {os.strerror(error.errno or 0).lower()}"}
        if found is not None:
            self._send(buildwire.ANSWER, wire.encode({"id": number, **found}))

    # Trees

    def _tree(self, number: int, question: dict[str, Any]) -> None:
        from pallet.cli.build import walk

        directory = self._sources.directories.get(question["name"])
        if directory is None:
            raise CommandError(f"no local source {question['name']}")
        excluded = None
        if question.get("exclude"):
            from pallet.cli.build.ignoring import excluder

            excluded = excluder(question["exclude"])
        follow = [*question.get("follow", ()), *question.get("include", ())]
        head = number.to_bytes(4, "big")
        waiting = [head]
        size = 0
        for listed, block in walk.listings(directory, follow=follow, excluded=excluded):
            text = buildwire.listed(listed, block)
            waiting.append(text)
            size += len(text)
            if size > _FRAME_BYTES:
                self._send(buildwire.LISTING, b"".join(waiting))
                waiting, size = [head], 0
        waiting.append(buildwire.listed(b"", b""))
        self._trees[number] = directory
        self._send(buildwire.LISTING, b"".join(waiting))

    def _send_files(self, number: int, paths: list[bytes]) -> None:
        root = os.fsencode(self._trees.pop(number))
        head = number.to_bytes(4, "big")
        waiting, size = [head], 0
        for index, path in enumerate(paths):
            for text in _pieces(root + b"/" + path, index):
                waiting.append(text)
                size += len(text)
                if size > _FRAME_BYTES:
                    self._send(buildwire.FILES, b"".join(waiting))
                    waiting, size = [head], 0
        if size:
            self._send(buildwire.FILES, b"".join(waiting))

    def _file(self, number: int, question: dict[str, Any]) -> dict[str, Any]:
        del number
        directory = self._sources.directories.get(question["name"])
        if directory is None:
            return {"data": None}
        try:
            with open(f"{directory}/{question['path']}", "rb") as file:
                return {"data": _base64(file.read())}
        except (FileNotFoundError, NotADirectoryError):
            return {"data": None}

    # Secrets

    def _secret(self, number: int, question: dict[str, Any]) -> dict[str, Any]:
        del number
        secret = self._sources.secrets.get(question["name"])
        data = None if secret is None else secret.read()
        return {"data": None if data is None else _base64(data)}

    def _credentials(self, number: int, question: dict[str, Any]) -> dict[str, Any]:
        del number
        found = self._sources.credentials(question["name"])
        for kind, user in (("registrytoken", buildwire.REGISTRY_TOKEN_USER),
                           ("identitytoken", buildwire.IDENTITY_TOKEN_USER)):
            if found.get(kind):
                return {"user": user, "secret": found[kind]}
        return {"user": found["username"], "secret": found.get("password", "")} if found.get("username") else {}

    # Streams

    def _agent(self, number: int, question: dict[str, Any]) -> dict[str, Any]:
        del number
        return {"data": "" if question.get("name", "") in self._sources.agents else None}

    def _dial(self, number: int, question: dict[str, Any]) -> dict[str, Any] | None:
        from pallet.client.transport import UnixTransport

        self._streams[number] = UnixTransport(self._sources.agents[question.get("name", "")])
        return None

    def _to_stream(self, number: int, data: bytes) -> None:
        stream = self._streams.get(number)
        if stream is None:
            return
        try:
            if data:
                stream.sendall(data)
            else:
                stream.close_write()
        except OSError:
            self._end_stream(number)

    def _from_stream(self, number: int, stream: Any, poll: select.poll) -> None:
        try:
            data = stream.recv(_READ_BYTES)
        except OSError:
            data = b""
        self._send(buildwire.STREAM, number.to_bytes(4, "big") + data)
        if not data:
            poll.unregister(stream.fileno())
            self._end_stream(number)

    def _end_stream(self, number: int) -> None:
        stream = self._streams.pop(number, None)
        if stream is not None:
            stream.close()

    def _upload(self, number: int, question: dict[str, Any]) -> None:
        del question
        fd = self._sources.upload_fd
        if fd < 0:
            raise CommandError("nothing is piped into this build")
        head = number.to_bytes(4, "big")
        data = self._sources.upload_head or os.read(fd, _READ_BYTES)
        while data:
            self._send(buildwire.STREAM, head + data)
            data = os.read(fd, _READ_BYTES)
        self._send(buildwire.STREAM, head)

    # Layouts and outputs

    def _blob(self, number: int, question: dict[str, Any]) -> dict[str, Any] | None:
        directory = self._sources.layouts.get(question["name"])
        path = _layout_path(directory, question["path"]) if directory else ""
        if not path or not os.path.isfile(path):
            return {"data": None}
        self._send(buildwire.ANSWER, wire.encode({"id": number, "data": ""}))
        head = number.to_bytes(4, "big")
        with open(path, "rb", buffering=0) as file:
            while data := file.read(_READ_BYTES):
                self._send(buildwire.STREAM, head + data)
        self._send(buildwire.STREAM, head)
        return None

    def _put(self, number: int, question: dict[str, Any]) -> None:
        from pallet.cli.build.outputs import FileTarget

        directory = self._sources.layouts.get(question["name"])
        if directory is None:
            raise CommandError(f"no layout {question['name']}")
        path = _layout_path(directory, question["path"])
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self._outputs[number] = FileTarget(path)

    def _output(self, number: int, question: dict[str, Any]) -> None:
        make = self._sources.outputs.get(question["name"])
        if make is None:
            raise CommandError(f"no output {question['name']}")
        self._outputs[number] = make(question.get("attributes", {}))

    def _write(self, number: int, data: bytes) -> None:
        target = self._outputs.get(number)
        if target is None:
            return
        problem = ""
        try:
            if data:
                target.write(data)
                return
            target.close()
        except CommandError as error:
            problem = str(error)
        except OSError as error:
            problem = f"{error.filename or 'output'}: {os.strerror(error.errno or 0).lower()}"
        del self._outputs[number]
        if problem:
            target.drop()
        self._send(buildwire.ANSWER, wire.encode({"id": number, "error": problem}))


def _pieces(path: bytes, index: int) -> Iterator[bytes]:
    """A file as pieces; one that cannot be read is said so."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        yield buildwire.piece(index, buildwire.GONE, os.strerror(error.errno or 0).lower().encode())
        return
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            yield buildwire.piece(index, buildwire.GONE, b"it changed during the build")
            return
        data = os.read(fd, _READ_BYTES)
        while len(data) == _READ_BYTES:
            yield buildwire.piece(index, buildwire.MORE, data)
            data = os.read(fd, _READ_BYTES)
        while more := os.read(fd, _READ_BYTES) if data else b"":
            yield buildwire.piece(index, buildwire.MORE, data)
            data = more
        yield buildwire.piece(index, buildwire.LAST, data)
    except OSError as error:
        yield buildwire.piece(index, buildwire.GONE, os.strerror(error.errno or 0).lower().encode())
    finally:
        os.close(fd)


def _layout_path(directory: str, digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    if not value:  # one of the layout's own documents
        if digest not in ("index.json", "oci-layout"):
            raise CommandError(f"invalid name {digest}")
        return f"{directory}/{digest}"
    if not (algorithm + value).isalnum():
        raise CommandError(f"invalid digest {digest}")
    return f"{directory}/blobs/{algorithm}/{value}"


def _base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()
