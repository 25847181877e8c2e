"""``pallet cp``: files between a container and this machine."""

from __future__ import annotations

import base64
import os
import posixpath
import stat
import sys

from pallet.cli.errors import CommandError
from pallet.cli.session import warn
from pallet.cli.stream.foreground import container_path
from pallet.client import wire
from pallet.client.errors import DaemonError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session
    from pallet.client.engine import Engine

CP_FLAGS: Table = (
    ("archive", "a", "bool", "Archive mode (copy all uid/gid information)"),
    ("follow-link", "L", "bool", "Always follow symbol link in SRC_PATH"),
    ("quiet", "q", "bool", "Suppress progress output during copy. Progress output is automatically "
     "suppressed if no terminal is attached"),
)
_DIRECTORY, _SYMLINK = 1 << 31, 1 << 27
_CHUNK_BYTES = 1 << 18
_NO_DIRECTORY = "no such directory"
_CANNOT = "cannot copy directory"


def cp(session: Session, flags: Flags) -> int:
    """``pallet cp``: Docker's rules of what lands where."""
    (source, source_path), (target, target_path) = map(_split, flags.args)
    if not flags.args[0]:
        raise CommandError("source can not be empty")
    if not flags.args[1]:
        raise CommandError("destination can not be empty")
    if source and target:
        raise CommandError("copying between containers is not supported")
    loud = not flags["quiet"] and sys.stderr.isatty()
    if source:
        count = _from_container(session.engine, source, source_path, target_path,
                                follow=flags["follow-link"])
        place = target_path
    elif target:
        count = _to_container(session.engine, source_path, target, target_path,
                              follow=flags["follow-link"], owners=flags["archive"])
        place = f"{target}:{target_path}"
    else:
        raise CommandError("must specify at least one container source")
    if loud and "-" not in (source_path, target_path):
        from pallet.cli.format.units import human_size

        warn(f"Successfully copied {human_size(count)} to {place}")
    return 0


def _split(argument: str) -> tuple[str, str]:
    """Container and path; no container for a path of this machine."""
    if os.path.isabs(argument):
        return "", argument
    container, colon, path = argument.partition(":")
    if not colon or container.startswith("."):
        return "", argument
    return container, path


def _stat(engine: Engine, container: str, path: str) -> dict[str, Any]:
    reply = engine.request("HEAD", f"{container_path(container)}/archive", {"path": path})
    reply.read()
    engine.release(reply.connection)
    text = reply.headers.get("x-docker-container-path-stat", "")
    found: dict[str, Any] = wire.decode(base64.b64decode(text).decode("utf-8", "replace"))
    return found


def _landing(source_base: str, *, source_is_directory: bool, path: str, exists: bool,
             is_directory: bool) -> tuple[str, str]:
    """Directory to unpack in, and the name that takes the place of the archive's first one.

    Raises:
        CommandError: in Docker's words.
    """
    if exists and is_directory:
        return path, source_base
    if exists and source_is_directory:
        raise CommandError(_CANNOT)
    if not exists and not source_is_directory and path.endswith(("/", "/.")):
        raise CommandError(_NO_DIRECTORY)
    parent, base = posixpath.split(path.removesuffix("/.").rstrip("/"))
    return parent or ("/" if path.startswith("/") else "."), base


# -- from a container ------------------------------------------------------------------------------

def _from_container(engine: Engine, container: str, path: str, target: str, *, follow: bool) -> int:
    if target != "-":
        parent = os.path.dirname(target.rstrip("/"))
        if parent and not os.path.isdir(parent):
            raise CommandError(f'invalid output path: directory "{parent}" does not exist')
        if os.path.exists(target) and not (os.path.isdir(target) or os.path.isfile(target)):
            raise CommandError(f'invalid output path: "{target}" must be a directory or a regular file: '
                               "got a device")
    if follow:
        found = _stat(engine, container, path)
        if found["mode"] & _SYMLINK:
            path = found["linkTarget"]
    reply = engine.request("GET", f"{container_path(container)}/archive", {"path": path})
    if target == "-":
        from pallet.cli.commands.trees import write_all

        count = 0
        for chunk in reply.chunks():
            write_all(1, chunk)
            count += len(chunk)
        return count
    found = wire.decode(base64.b64decode(
        reply.headers["x-docker-container-path-stat"]).decode("utf-8", "replace"))
    is_directory = bool(found["mode"] & _DIRECTORY)
    place, base = _landing(found["name"], source_is_directory=is_directory, path=target,
                           exists=os.path.exists(target), is_directory=os.path.isdir(target))
    from pallet.cli.files.unpack import unpack

    return unpack(reply.chunks(), place, {found["name"]: base})


# -- to a container --------------------------------------------------------------------------------

def _to_container(engine: Engine, source: str, container: str, path: str, *, follow: bool,
                  owners: bool) -> int:
    path = path if path.startswith("/") else f"/{path}"
    exists = is_directory = False
    try:
        found = _stat(engine, container, path)
        if found["mode"] & _SYMLINK:
            path = found["linkTarget"]
            found = _stat(engine, container, path)
        exists, is_directory = True, bool(found["mode"] & _DIRECTORY)
    except DaemonError as error:
        if error.status != 404 or "No such container" in str(error):
            raise
    counter = _Counter()
    if source == "-":
        if not is_directory:
            raise CommandError(f'destination "{container}:{path}" must be a directory')
        chunks: Iterable[bytes] = _stdin()
        place = path
    else:
        chunks, place = _pack(source, path, exists=exists, is_directory=is_directory, follow=follow)
    reply = engine.upload(
        f"{container_path(container)}/archive",
        {"path": place, "noOverwriteDirNonDir": "true", "copyUIDGID": "true" if owners else None},
        counter.count(chunks), method="PUT")
    reply.read()
    return counter.total


def _pack(source: str, path: str, *, exists: bool, is_directory: bool,
          follow: bool) -> tuple[Iterable[bytes], str]:
    from pallet.cli.files.pack import pack

    local = source.rstrip("/") or "/"
    try:
        status = os.stat(source) if follow or source.endswith(("/", "/.")) else os.lstat(source)
    except OSError as error:
        raise CommandError(f"lstat {os.path.abspath(source)}: "
                           f"{os.strerror(error.errno or 0).lower()}") from None
    source_is_directory = stat.S_ISDIR(status.st_mode)
    contents = source.endswith("/.") or source == "."
    base = "." if contents else os.path.basename(os.path.abspath(local))
    place, name = _landing(base, source_is_directory=source_is_directory, path=path, exists=exists,
                           is_directory=is_directory)
    return pack(local, name, follow=follow or source.endswith("/")), place


class _Counter:
    def __init__(self) -> None:
        self.total = 0

    def count(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self.total += len(chunk)
            yield chunk


def _stdin() -> Iterator[bytes]:
    while chunk := os.read(0, _CHUNK_BYTES):
        yield chunk
