"""Where outputs of a build go on this machine: a file, a directory, standard output."""

from __future__ import annotations

import os

from pallet.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class FileTarget:
    """A file that gets its name when it is whole."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._temporary = f"{path}.{os.getpid()}.tmp"
        try:
            self._fd = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise CommandError(f"open {path}: {os.strerror(error.errno or 0).lower()}") from None

    def write(self, data: bytes) -> None:
        """Append."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view):]

    def close(self) -> None:
        """Give it its name."""
        fd, self._fd = self._fd, -1
        os.close(fd)
        os.replace(self._temporary, self._path)

    def drop(self) -> None:
        """Remove what is there of it."""
        if self._fd >= 0:
            os.close(self._fd)
        os.unlink(self._temporary)


class StdoutTarget:
    """Standard output, which has to be no terminal."""

    def write(self, data: bytes) -> None:
        """Write it all."""
        view = memoryview(data)
        while view:
            view = view[os.write(1, view):]

    def close(self) -> None:
        """Nothing: it stays open."""

    def drop(self) -> None:
        """Nothing: what was written was."""


class TreeTarget:
    """A directory that a tar is unpacked into; the tar comes in pieces, so a thread of its own reads it."""

    def __init__(self, directory: str) -> None:
        import threading

        self._directory = directory
        self._problem = ""
        read_fd, self._write_fd = os.pipe()
        self._thread = threading.Thread(target=self._unpack, args=(read_fd,), daemon=True)
        self._thread.start()

    def _unpack(self, read_fd: int) -> None:
        from pallet.cli.commands.importing import read_chunks
        from pallet.cli.files.unpack import unpack

        try:
            os.makedirs(self._directory, exist_ok=True)
            unpack(read_chunks(read_fd), self._directory, {})
        except CommandError as error:
            self._problem = str(error)
        except OSError as error:
            self._problem = f"{error.filename}: {os.strerror(error.errno or 0).lower()}"
        finally:
            os.close(read_fd)

    def write(self, data: bytes) -> None:
        """Append to the tar."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._write_fd, view):]
        except BrokenPipeError:
            return  # ``close`` tells why

    def close(self) -> None:
        """Wait until everything is unpacked.

        Raises:
            CommandError: something could not be written.
        """
        self.drop()
        if self._problem:
            raise CommandError(self._problem)

    def drop(self) -> None:
        """End the thread; what is unpacked stays, as with docker."""
        fd, self._write_fd = self._write_fd, -1
        if fd >= 0:
            os.close(fd)
        self._thread.join()


def target_of(kind: str, dest: str) -> Callable[[dict[str, str]], FileTarget | StdoutTarget | TreeTarget]:
    """How an output of ``kind`` is written to ``dest``.

    Raises:
        CommandError: ``dest`` does not fit.
    """
    if kind == "local":
        if dest == "-":
            raise CommandError("dest cannot be stdout for local exporter")
        return lambda _attributes: TreeTarget(dest)
    if dest == "-":
        if os.isatty(1):
            raise CommandError("dest file is required for " + kind + " exporter. refusing to write to console")
        return lambda _attributes: StdoutTarget()
    if os.path.isdir(dest):
        raise CommandError(f"destination file {dest} is a directory")
    return lambda _attributes: FileTarget(dest)
