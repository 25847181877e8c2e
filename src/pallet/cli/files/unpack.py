"""A tar stream from a container into a directory of this machine.

What comes from a container is not to be trusted: nothing is written outside of the directory, whatever
names and links the archive has. Files belong to whoever runs this.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile

from pallet.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


class _Reader(io.RawIOBase):
    """Chunks as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        super().__init__()
        self._chunks = chunks
        self._rest = b""
        self.total = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._rest = chunk
            self.total += len(chunk)
        if size < 0:
            size = len(self._rest)
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def unpack(chunks: Iterable[bytes], directory: str, renames: Mapping[str, str]) -> int:
    """Unpack into ``directory``; return the bytes that came.

    Args:
        renames: what the first component of a name becomes.

    Raises:
        CommandError: an entry would leave the directory or replace a directory by a file.
    """
    reader = _Reader(iter(chunks))
    root = os.path.realpath(directory)
    modes: list[tuple[str, tarfile.TarInfo]] = []
    try:
        with tarfile.open(fileobj=reader, mode="r|", errorlevel=2) as archive:
            for member in archive:
                member.name = _renamed(member.name, renames)
                if member.islnk():
                    member.linkname = _renamed(member.linkname, renames)
                path = _checked(root, member.name, member)
                if member.isdir():
                    os.makedirs(path, mode=0o700, exist_ok=True)
                    modes.append((path, member))
                else:
                    _extract(archive, member, root, path)
        for path, member in reversed(modes):
            os.chmod(path, member.mode)
            os.utime(path, (member.mtime, member.mtime))
    except tarfile.TarError as error:
        raise CommandError(f"archive/tar: {error}") from None
    while reader.read(1 << 18):  # to the end, so that a failure of the daemon is seen
        pass
    return reader.total


def _renamed(name: str, renames: Mapping[str, str]) -> str:
    first, slash, rest = name.lstrip("/").partition("/")
    return renames.get(first, first) + slash + rest


def _checked(root: str, name: str, member: tarfile.TarInfo) -> str:
    path = os.path.normpath(os.path.join(root, name))
    parent = os.path.realpath(os.path.dirname(path)) if path != root else root
    if not f"{parent}/".startswith(f"{root}/".replace("//", "/")):
        raise CommandError(f'"{name}" is outside of "{root}"')
    if os.path.lexists(path):
        was_directory = stat.S_ISDIR(os.lstat(path).st_mode)
        if was_directory and not member.isdir():
            raise CommandError(f'cannot overwrite directory "{path}" with non-directory "{root}"')
        if member.isdir() and not was_directory:
            raise CommandError(f'cannot overwrite non-directory "{path}" with directory "{root}"')
        if not was_directory:
            os.unlink(path)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    return path


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, root: str, path: str) -> None:
    if member.issym():
        os.symlink(member.linkname, path)
        return
    if member.islnk():
        source = os.path.normpath(os.path.join(root, member.linkname))
        if not f"{os.path.realpath(os.path.dirname(source))}/".startswith(f"{root}/".replace("//", "/")):
            raise CommandError(f'invalid hardlink "{member.name}" -> "{member.linkname}"')
        os.link(source, path, follow_symlinks=False)
        return
    if member.isfifo():
        os.mkfifo(path)
    elif member.isdev():
        kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
        os.mknod(path, kind | 0o600, os.makedev(member.devmajor, member.devminor))
    else:
        source_file = archive.extractfile(member)
        assert source_file is not None, "a regular file has data"
        with open(path, "xb") as file:
            shutil.copyfileobj(source_file, file, 1 << 18)
    os.chmod(path, member.mode)
    os.utime(path, (member.mtime, member.mtime))
