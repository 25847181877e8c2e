"""The file synchronisation protocol: trees of a client come here, outputs go there.

Owns   both roles of fsutil's exchange of packets. Who is the sender walks its tree and tells every
       entry; the receiver asks for the contents it lacks by number; both end with FIN.
Runs   on the event loop; disks are touched in threads, a batch of packets at a time.
Spec   buildkit-wire "fsutil-protocol".
"""

from __future__ import annotations

import asyncio
import os
import stat
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import quote

from pallet.aio import run_blocking
from pallet.api.buildkit.grpc import ClientCall, decode
from pallet.api.buildkit.status import Code, GrpcError
from pallet.api.buildkit.wire.fsutil_pb2 import Packet, Stat
from pallet.build.contextindex import FileStat
from pallet.errors import DataLossError, InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pallet.build.context import Transfer

_CHUNK_BYTES: Final = 32 * 1024
_MAX_OPEN: Final = 64
"""Files that a client may have in the air at once; fsutil's sender has four."""
_REQUESTS_AT_ONCE: Final = 512
_FILES_AT_ONCE: Final = 64
_SIMPLE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                           " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")

# Go's os.FileMode above the permissions.
_DIR, _SYMLINK, _DEVICE, _FIFO, _SOCKET = 1 << 31, 1 << 27, 1 << 26, 1 << 25, 1 << 24
_SETUID, _SETGID, _CHARACTER, _STICKY = 1 << 23, 1 << 22, 1 << 21, 1 << 20
_SPECIAL: Final = ((_SETUID, stat.S_ISUID), (_SETGID, stat.S_ISGID), (_STICKY, stat.S_ISVTX))
_TYPES: Final = ((_DIR, stat.S_IFDIR), (_SYMLINK, stat.S_IFLNK), (_FIFO, stat.S_IFIFO), (_SOCKET, stat.S_IFSOCK),
                 (_CHARACTER, stat.S_IFCHR), (_DEVICE, stat.S_IFBLK))


@lru_cache(maxsize=1024)
def unix_mode(mode: int) -> int:
    """Turn Go's file mode into ``st_mode``."""
    found = mode & 0o777
    for go, unix in _SPECIAL:
        if mode & go:
            found |= unix
    return found | next((unix for go, unix in _TYPES if mode & go), stat.S_IFREG)


@lru_cache(maxsize=1024)
def go_mode(mode: int) -> int:
    """Turn ``st_mode`` into Go's file mode."""
    found = mode & 0o777
    for go, unix in _SPECIAL:
        if mode & unix:
            found |= go
    kind = stat.S_IFMT(mode)
    for go, unix in _TYPES:
        if kind == unix:
            found |= go | (_DEVICE if go == _CHARACTER else 0)
    return found


def filters(name: str, include: Sequence[str], exclude: Sequence[str], follow: Sequence[str]) -> list[tuple[str, str]]:
    """The metadata of a request for a client's tree."""
    found = [("dir-name", name)]
    for key, values in (("include-patterns", include), ("exclude-patterns", exclude), ("followpaths", follow)):
        if all(_SIMPLE.issuperset(value) for value in values):
            found += [(key, value) for value in values]
        else:
            found.append((f"{key}-encoded", "1"))
            found += [(key, quote(value.encode("utf-8", "surrogateescape"), safe="")) for value in values]
    return found


class Progress(Protocol):
    """Told how many bytes have come so far."""

    def __call__(self, received_bytes: int) -> None: ...


async def _listing(call: ClientCall, take: Callable[[int, Stat], None]) -> None:
    """Read the sender's walk to its end: each entry goes to ``take`` with its number, as it comes.

    A large tree is hundreds of thousands of steps; between batches the loop does other things.
    """
    number = 0
    while True:
        for packet in await _packets(call):
            if packet.type != Packet.PACKET_STAT:
                _refuse(packet)
            if not packet.HasField("stat"):
                return
            take(number, packet.stat)
            number += 1


async def _packets(call: ClientCall) -> list[Packet]:
    """Return the packets that are here, at least one.

    Raises:
        GrpcError: the peer's status; UNAVAILABLE, it ended too early.
    """
    first = await call.inbox.get()
    if first is None:
        raise GrpcError(Code.UNAVAILABLE, "the client ended the transfer")
    return [decode(Packet, first), *(decode(Packet, data) for data in call.inbox.get_ready())]


def _refuse(packet: Packet) -> None:
    if packet.type == Packet.PACKET_ERR:
        text = packet.data.decode("utf-8", "replace")
        message = f"error from sender: {text}"
        raise DataLossError(message)
    message = f"unexpected packet {packet.type} in a transfer of files"
    raise DataLossError(message)


async def _finish(call: ClientCall) -> None:
    """Say FIN and wait for the sender's."""
    await call.send(Packet(type=Packet.PACKET_FIN))
    while (packet := await call.read(Packet)) is not None:
        if packet.type == Packet.PACKET_FIN:
            break
        if packet.type == Packet.PACKET_ERR:
            _refuse(packet)
    call.end()


# --- a client's tree comes here ------------------------------------------------------------------


async def receive_tree(call: ClientCall, transfer: Transfer, progress: Progress) -> None:
    """Bring a tree up to date: list it, ask for what changed, take that in.

    Raises:
        DataLossError: the client failed, or breaks the protocol.
        InvalidParameterError: the listing holds what a context cannot.
    """
    numbers: dict[str, int] = {}
    received = 0

    def take(number: int, entry: Stat) -> None:
        nonlocal received
        path, mode = entry.path, unix_mode(entry.mode)
        numbers[path] = number
        size = entry.size if stat.S_ISREG(mode) else 0
        transfer.entry(path, FileStat(mode, size, entry.modTime, target=entry.linkname))
        received += entry.ByteSize()

    await _listing(call, take)
    progress(received)
    wanted = await transfer.settle()
    if wanted:
        paths = {numbers[path]: path for path in wanted}
        await _receive_files(call, transfer, paths, lambda count: progress(received + count))
    await _finish(call)


async def _receive_files(call: ClientCall, transfer: Transfer, paths: dict[int, str], progress: Progress) -> None:
    intake = _Intake(transfer, paths)
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(_request(call, sorted(paths)))
        try:
            while intake.lacking:
                packets = await _packets(call)
                await transfer.in_thread(partial(intake.take, packets))
                progress(intake.received)
        except BaseException:
            asking.cancel()
            await run_blocking(intake.abort)
            raise


async def _request(call: ClientCall, numbers: list[int]) -> None:
    for at in range(0, len(numbers), _REQUESTS_AT_ONCE):
        await call.send(*(Packet(type=Packet.PACKET_REQ, ID=number)
                          for number in numbers[at:at + _REQUESTS_AT_ONCE]))


class _Intake:
    """The files that are on their way in. Used by one thread at a time."""

    def __init__(self, transfer: Transfer, paths: dict[int, str]) -> None:
        self._transfer = transfer
        self._paths = paths
        self._open: dict[int, _Writer] = {}
        self.lacking = len(paths)
        self.received = 0

    def take(self, packets: list[Packet]) -> None:
        for packet in packets:
            if packet.type != Packet.PACKET_DATA:
                _refuse(packet)
            writer = self._open.get(packet.ID)
            if writer is None:
                path = self._paths.pop(packet.ID, None)
                if path is None or len(self._open) >= _MAX_OPEN:
                    message = f"the client sends file {packet.ID} that nobody asked for"
                    raise DataLossError(message)
                writer = self._open[packet.ID] = self._transfer.write(path)
            if packet.data:
                writer.write(packet.data)
                self.received += len(packet.data)
            else:
                del self._open[packet.ID]
                writer.close()
                self.lacking -= 1

    def abort(self) -> None:
        for writer in self._open.values():
            writer.abort()
        self._open.clear()


class _Writer(Protocol):
    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


async def receive_files(call: ClientCall, wanted: Sequence[str], limit_bytes: int) -> dict[str, bytes]:
    """Read a few small files of a client's tree; those that are not there are left out.

    Raises:
        InvalidParameterError: one is larger than ``limit_bytes``.
    """
    numbers: dict[int, str] = {}

    def take(number: int, entry: Stat) -> None:
        if entry.path in wanted and stat.S_ISREG(unix_mode(entry.mode)):
            if entry.size > limit_bytes:
                message = f"{entry.path} is larger than {limit_bytes} bytes"
                raise InvalidParameterError(message)
            numbers[number] = entry.path

    await _listing(call, take)
    await _request(call, sorted(numbers))
    parts: dict[int, bytearray] = {number: bytearray() for number in numbers}
    missing = set(numbers)
    while missing:
        for packet in await _packets(call):
            if packet.type != Packet.PACKET_DATA or packet.ID not in parts:
                _refuse(packet)
            if not packet.data:
                missing.discard(packet.ID)
            parts[packet.ID] += packet.data
            if len(parts[packet.ID]) > limit_bytes:
                message = f"{numbers[packet.ID]} is larger than {limit_bytes} bytes"
                raise InvalidParameterError(message)
    await _finish(call)
    return {numbers[number]: bytes(data) for number, data in parts.items()}


# --- an output goes to the client ----------------------------------------------------------------


async def send_tree(call: ClientCall, root: str) -> None:
    """Send the tree under ``root``; returns when the client has it all.

    Raises:
        DataLossError: the client failed.
    """
    entries = await run_blocking(lambda: list(_walk(root)))
    for at in range(0, len(entries), _REQUESTS_AT_ONCE):
        await call.send(*(Packet(type=Packet.PACKET_STAT, stat=entry) for entry in entries[at:at + _REQUESTS_AT_ONCE]))
    await call.send(Packet(type=Packet.PACKET_STAT))
    while True:
        wanted: list[int] = []
        finished = False
        for packet in await _packets(call):
            finished = packet.type == Packet.PACKET_FIN
            if finished:
                break
            if packet.type != Packet.PACKET_REQ or len(entries) <= packet.ID:
                _refuse(packet)
            wanted.append(packet.ID)
        for at in range(0, len(wanted), _FILES_AT_ONCE):
            await _send_files(call, root, entries, wanted[at:at + _FILES_AT_ONCE])
        if finished:
            await call.send(Packet(type=Packet.PACKET_FIN))
            call.end()
            return


async def _send_files(call: ClientCall, root: str, entries: Sequence[Stat], numbers: Sequence[int]) -> None:
    small = [number for number in numbers if entries[number].size <= _CHUNK_BYTES]
    if small:
        await call.send(*await run_blocking(_read_small, root, entries, small))
    for number in numbers:
        if entries[number].size > _CHUNK_BYTES:
            await _send_file(call, number, os.path.join(root, entries[number].path))


def _read_small(root: str, entries: Sequence[Stat], numbers: Sequence[int]) -> list[Packet]:
    """Read small files whole; the packets that carry them."""
    packets = []
    for number in numbers:
        fd = os.open(os.path.join(root, entries[number].path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            data = os.read(fd, _CHUNK_BYTES)
        finally:
            os.close(fd)
        if data:
            packets.append(Packet(type=Packet.PACKET_DATA, ID=number, data=data))
        packets.append(Packet(type=Packet.PACKET_DATA, ID=number))
    return packets


async def _send_file(call: ClientCall, number: int, path: str) -> None:
    fd = await run_blocking(lambda: os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
    try:
        while data := await run_blocking(lambda: os.read(fd, 16 * _CHUNK_BYTES)):
            await call.send(*(Packet(type=Packet.PACKET_DATA, ID=number, data=data[at:at + _CHUNK_BYTES])
                              for at in range(0, len(data), _CHUNK_BYTES)))
    finally:
        os.close(fd)
    await call.send(Packet(type=Packet.PACKET_DATA, ID=number))


def _walk(root: str) -> Iterator[Stat]:
    """Yield every entry below ``root``: names of a directory in order, parents before children."""
    links: dict[tuple[int, int], str] = {}
    pending = [""]
    while pending:
        directory = pending.pop()
        if directory:
            yield _stat(root, directory, links)
        full = os.path.join(root, directory)
        if not directory or stat.S_ISDIR(os.lstat(full).st_mode):
            names = sorted(os.listdir(full), key=os.fsencode, reverse=True)
            pending += [f"{directory}/{name}" if directory else name for name in names]


def _stat(root: str, path: str, links: dict[tuple[int, int], str]) -> Stat:
    full = os.path.join(root, path)
    info = os.lstat(full)
    found = Stat(path=path, mode=go_mode(info.st_mode), uid=info.st_uid, gid=info.st_gid, modTime=info.st_mtime_ns)
    if stat.S_ISREG(info.st_mode):
        found.size = info.st_size
        if info.st_nlink > 1:
            first = links.setdefault((info.st_dev, info.st_ino), path)
            found.linkname = first if first != path else ""
    elif stat.S_ISLNK(info.st_mode):
        found.linkname = os.readlink(full)
    elif stat.S_ISBLK(info.st_mode) or stat.S_ISCHR(info.st_mode):
        found.devmajor, found.devminor = os.major(info.st_rdev), os.minor(info.st_rdev)
    return found
