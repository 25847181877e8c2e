"""Trees as tars: an overlay upper directory as a layer, and a whole root as ``docker export`` has it.

Owns   what becomes an entry, and how a layer says "removed".
Runs   in a zygote child; blocking, no threads. Changes the working directory (xattrs have no
       ``*at`` calls), so only in a process of one's own.
Needs  CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN (overlay's xattrs).
Spec   image-spec layer.md; Linux Documentation/filesystems/overlayfs.rst.

The same tree always gives the same bytes: names in byte order, a directory before what is in it, of
several hard links the first one with the data. Sockets are left out (a tar has none), and so are
files called ``.wh.…``, which would remove something else when the layer is unpacked.

Others may write to the tree meanwhile. A file keeps the size it had when it was opened: what it
lost since is sent as zeros, what it gained is not. What has vanished is left out. No symlink is followed:
each directory is opened by its name in the one above.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from pallet.errors import SystemFailureError
from pallet.layer import tarheader, whiteout
from pallet.layer.tarwriter import END, HeaderWriter, padding

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Never blocks on a fifo that took the file's place since it was looked at.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FLUSH_BYTES = 256 * 1024
_ZEROS = bytes(_FLUSH_BYTES)
_KINDS = {stat.S_IFIFO: tarheader.FIFO, stat.S_IFCHR: tarheader.CHAR,
          stat.S_IFBLK: tarheader.BLOCKDEV}
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE})
_HOST_XATTRS = frozenset({"security.selinux", "security.ima", "security.evm", "security.apparmor",
                          "security.SMACK64"})
_OVERLAY_XATTRS = (whiteout.TRUSTED, whiteout.USER)
_OPAQUE = frozenset(prefix + "opaque" for prefix in _OVERLAY_XATTRS)
_WHITEOUT = frozenset(prefix + "whiteout" for prefix in _OVERLAY_XATTRS)
_NOT_BY_ITSELF = frozenset(prefix + name for prefix in _OVERLAY_XATTRS
                           for name in ("redirect", "metacopy"))
_OWN = frozenset(prefix + name for prefix in _OVERLAY_XATTRS
                 for name in ("origin", "impure", "nlink", "protattr", "uuid"))
"""Marks that are about the layers a tree once lay on."""
_CAPABILITY = "security.capability"
_CAP_REVISION_2_BYTES, _CAP_REVISION_3 = 20, 3
_NANO = 1_000_000_000


class Written(NamedTuple):
    """What was written."""

    entries: int
    skipped: int
    """Files with names a layer cannot hold."""
    size_bytes: int = 0
    """Of regular files."""
    linked: Collection[tuple[int, int]] = ()
    """Device and inode of each file that has several links."""


class UndividedError(Exception):
    """The second part of a tree holds what has to be removed, which only a walk over the whole may do."""


class Span(NamedTuple):
    """A part of a walk: what comes before the directory ``cut``, or it and the rest."""

    cut: tuple[bytes, ...]
    """Components of its path."""
    second: bool

    def names(self, found: list[bytes], depth: int) -> list[bytes]:
        """What belongs to it of the directory that is ``depth`` components down the way to the cut."""
        edge, last = self.cut[depth], depth == len(self.cut) - 1
        if self.second:
            return [name for name in found if name >= edge]
        return [name for name in found if name < edge or (name == edge and not last)]

    def leads_on(self, name: bytes, depth: int) -> bool:
        """Whether ``name`` is on the way to the cut; its own entry is the first part's."""
        return 0 <= depth < len(self.cut) - 1 and name == self.cut[depth]


class _Frame(NamedTuple):
    """A directory being walked: ``prefix`` is its path with a slash, ``b""`` for the root."""

    fd: int
    prefix: bytes
    names: Iterator[bytes]
    depth: int = -1
    """How far down the way to the cut it is; -1 beside it."""


def write_layer(root_fd: int, out_fd: int | Callable[[memoryview], object], *, epoch_s: int | None = None,
                root_entry: bool = False, has_lower_directory: Callable[[bytes], bool] | None = None,
                seal: bool = False, span: Span | None = None) -> Written:
    """Write the upper directory ``root_fd`` as a layer's tar.

    Args:
        root_fd: overlay's upper directory, or a layer's tree; stays open.
        out_fd: file, pipe or socket that takes the tar; stays open. Or a function that takes its pieces.
        epoch_s: SOURCE_DATE_EPOCH: later times become this one.
        root_entry: begin with an entry for the root directory itself.
        has_lower_directory: whether the layers below show a directory at a path. Overlay marks
            most new directories as opaque, only to spare look-ups; such marks are left out where
            they hide nothing. None keeps them all.
        seal: change the tree so that it gives the same tar by itself.
        span: write a part only. The parts after one another are the whole, but for files that have links in both.

    Raises:
        UndividedError: see there.
        SystemFailureError: overlay has put a redirect or metadata alone into the directory.
        OSError: reading or writing failed (EPIPE: the reader has gone).
    """
    writer = _TreeWriter(out_fd, epoch_s, is_layer=True, has_lower=has_lower_directory, seal=seal, span=span)
    return writer.run(root_fd, root_entry=root_entry)


def write_tree(root_fd: int, out_fd: int, *, name: bytes | None = None, time_s: int | None = None) -> Written:
    """Write everything below directory ``root_fd`` as a plain tar; see ``write_layer``.

    Args:
        name: of the directory itself, which then comes first; None leaves it out.
        time_s: of every entry; None keeps the files' own.
    """
    writer = _TreeWriter(out_fd, None, is_layer=False, has_lower=None, time_s=time_s)
    return writer.run(root_fd, root_entry=name is not None, name=name or b"")


def write_file(dir_fd: int, base: bytes, out_fd: int, *, name: bytes) -> Written:
    """Write the one file ``base`` of a directory, called ``name``; a symlink as itself.

    Raises:
        FileNotFoundError: it is not there.
    """
    os.fchdir(dir_fd)
    sink = TarSink(out_fd, None)
    status = os.lstat(base)
    if not stat.S_ISSOCK(status.st_mode):
        sink.node(base, name, status, read_xattrs(base, os.listxattr(base, follow_symlinks=False)))
    sink.finish()
    return Written(sink.entries, 0)


class TarSink:
    """Entries on their way to a descriptor."""

    def __init__(self, out_fd: int | Callable[[memoryview], object], epoch_s: int | None, *,
                 still: bool = False, time_s: int | None = None) -> None:
        """Take entries: no time is later than ``epoch_s``, and every one is ``time_s`` where that is given.

        Args:
            still: nobody writes to the tree meanwhile.
        """
        self._time_ns = None if time_s is None else time_s * _NANO
        self.entries = 0
        self._still = still
        self.size_bytes = 0
        """Bytes of regular files, each hard-linked one once."""
        self._out = out_fd
        self._epoch_ns = None if epoch_s is None else epoch_s * _NANO
        self._headers = HeaderWriter()
        self._parts: list[bytes] = []
        self._size = 0
        self._links: dict[tuple[int, int], bytes] = {}
        self._read = _READ | (os.O_NOATIME if os.geteuid() == 0 else 0)

    def entry(self, kind: bytes, path: bytes, status: os.stat_result, *, size: int = 0,
              link: bytes = b"", xattrs: dict[bytes, bytes] | None = None) -> None:
        """Add a header; data of ``size`` bytes must follow."""
        self.entries += 1
        mtime_ns = status.st_mtime_ns
        if self._epoch_ns is not None and mtime_ns > self._epoch_ns:
            mtime_ns = self._epoch_ns
        if self._time_ns is not None:
            mtime_ns = self._time_ns
        device = (os.major(status.st_rdev), os.minor(status.st_rdev)) if status.st_rdev else (0, 0)
        self.put(self._headers.header(
            kind, path, mode=status.st_mode & 0o7777, uid=status.st_uid, gid=status.st_gid,
            size=size, mtime_ns=mtime_ns, link=link, device=device, xattrs=xattrs))

    def marker(self, path: bytes) -> None:
        """Add a whiteout: an empty file without owner or time."""
        self.entries += 1
        self.put(self._headers.header(tarheader.REGULAR, path, mode=0o600, uid=0, gid=0))

    def node(self, name: bytes, path: bytes, status: os.stat_result,
             xattrs: dict[bytes, bytes] | None) -> None:
        """Add anything but a directory. ``name`` is in the working directory.

        Raises:
            FileNotFoundError: it has vanished; nothing was added.
        """
        if status.st_nlink > 1:
            first = self._links.get((status.st_dev, status.st_ino))
            if first is not None:
                self.entry(tarheader.HARDLINK, path, status, link=first)
                return
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG:
            self._file(name, path, status, xattrs)
        elif kind == stat.S_IFLNK:
            self.entry(tarheader.SYMLINK, path, status, link=os.readlink(name), xattrs=xattrs)
        else:
            self.entry(_KINDS[kind], path, status, xattrs=xattrs)
        if status.st_nlink > 1:
            self._links[status.st_dev, status.st_ino] = path

    def _file(self, name: bytes, path: bytes, status: os.stat_result,
              xattrs: dict[bytes, bytes] | None) -> None:
        if not status.st_size:
            self.entry(tarheader.REGULAR, path, status, xattrs=xattrs)
            return
        try:
            fd = os.open(name, self._read)
        except OSError as error:
            if error.errno in _GONE:
                raise FileNotFoundError(error.errno, error.strerror) from error
            raise
        try:
            now = status if self._still else os.fstat(fd)
            if not stat.S_ISREG(now.st_mode):
                raise FileNotFoundError(errno.ENOENT, "replaced")
            size = now.st_size
            self.size_bytes += size
            self.entry(tarheader.REGULAR, path, now, size=size, xattrs=xattrs)
            if now.st_blocks * 512 < size:
                self._sparse(fd, size)
            else:
                self._copy(fd, size)
            self.put(padding(size))
        finally:
            os.close(fd)

    def _copy(self, fd: int, size: int) -> None:
        while size:
            data = os.read(fd, min(size, _FLUSH_BYTES))
            if not data:
                self._zeros(size)  # it was cut short meanwhile
                return
            self.put(data)
            size -= len(data)

    def _sparse(self, fd: int, size: int) -> None:
        """Send a file with holes without reading them."""
        position = 0
        while position < size:
            try:
                start = min(os.lseek(fd, position, os.SEEK_DATA), size)
                end = min(os.lseek(fd, start, os.SEEK_HOLE), size) if start < size else size
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                start = end = size  # a hole up to the end
            self._zeros(start - position)
            os.lseek(fd, start, os.SEEK_SET)
            self._copy(fd, end - start)
            position = max(end, start)

    def _zeros(self, size: int) -> None:
        while size:
            piece = min(size, len(_ZEROS))
            self.put(_ZEROS[:piece])
            size -= piece

    def put(self, data: bytes) -> None:
        """Queue bytes of the archive."""
        self._parts.append(data)
        self._size += len(data)
        if self._size >= _FLUSH_BYTES:
            self._flush()

    @property
    def linked(self) -> Collection[tuple[int, int]]:
        """Device and inode of each file with several links."""
        return self._links.keys()

    def finish(self, end: bytes = END) -> None:
        """Write the end of the archive, or of a part."""
        self.put(end)
        self._flush()

    def _flush(self) -> None:
        view = memoryview(b"".join(self._parts))
        self._parts.clear()
        self._size = 0
        if callable(self._out):
            self._out(view)
            return
        while view:
            view = view[os.write(self._out, view):]


class _TreeWriter:
    """One walk over one tree."""

    def __init__(self, out_fd: int | Callable[[memoryview], object], epoch_s: int | None, *, is_layer: bool,
                 has_lower: Callable[[bytes], bool] | None, seal: bool = False, span: Span | None = None,
                 time_s: int | None = None) -> None:
        self._sink = TarSink(out_fd, epoch_s, still=seal, time_s=time_s)
        self._is_layer = is_layer
        self._has_lower = has_lower
        self._seal = seal
        self._span = span
        self._skipped = 0

    def run(self, root_fd: int, *, root_entry: bool, name: bytes = b"") -> Written:
        sink = self._sink
        os.fchdir(root_fd)
        prefix = name.rstrip(b"/") + b"/" if name else b""
        first = self._span is None or not self._span.second
        if root_entry and first:
            sink.entry(tarheader.DIRECTORY, prefix or b"./", os.fstat(root_fd),
                       xattrs=self._xattrs(b".")[0])
        frames = [self._frame(os.dup(root_fd), prefix, 0 if self._span else -1)]
        try:
            while frames:
                below = self._walk(frames[-1])
                if below is not None:
                    frames.append(below)
                    continue
                os.close(frames.pop().fd)
                if frames:
                    os.fchdir(frames[-1].fd)
        finally:
            for frame in frames:
                os.close(frame.fd)
        sink.finish(END if self._span is None or self._span.second else b"")
        return Written(sink.entries, self._skipped, sink.size_bytes, sink.linked)

    def _walk(self, frame: _Frame) -> _Frame | None:
        """Write entries of a directory up to the next one below it, which is returned."""
        for name in frame.names:
            try:
                status = os.lstat(name)
                mode = status.st_mode
                if stat.S_ISDIR(mode):
                    return self._directory(name, frame, status)
                if not stat.S_ISSOCK(mode):
                    self._node(name, frame, status)
                elif self._seal:
                    self._remove(name, frame.fd)
            except FileNotFoundError:
                continue
        return None

    def _directory(self, name: bytes, frame: _Frame, status: os.stat_result) -> _Frame:
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=frame.fd)
        except OSError as error:
            if error.errno in _GONE:
                raise FileNotFoundError(error.errno, error.strerror) from error
            raise
        try:
            os.fchdir(fd)
            path = frame.prefix + name
            depth = -1
            if self._span is not None and self._span.leads_on(name, frame.depth):
                depth = frame.depth + 1
                if self._span.second:
                    return self._frame(fd, path + b"/", depth)
            xattrs, opaque = self._xattrs(b".")
            self._sink.entry(tarheader.DIRECTORY, path + b"/", os.fstat(fd), xattrs=xattrs)
            if opaque and (self._has_lower is None or self._has_lower(path)):
                self._sink.marker(path + b"/" + whiteout.OPAQUE)
            elif opaque and self._seal:
                _unmark(b".", _OPAQUE)
            return self._frame(fd, path + b"/", depth)
        except BaseException:
            os.close(fd)
            raise

    def _node(self, name: bytes, frame: _Frame, status: os.stat_result) -> None:
        prefix = frame.prefix
        if whiteout.is_whiteout(status):
            if self._is_layer:
                self._sink.marker(prefix + whiteout.PREFIX + name)
            return
        xattrs, hides = self._xattrs(name)
        if hides:
            self._sink.marker(prefix + whiteout.PREFIX + name)
        elif self._is_layer and name.startswith(whiteout.PREFIX):
            self._skipped += 1
            if self._seal:
                self._remove(name, frame.fd)
        else:
            self._sink.node(name, prefix + name, status, xattrs)

    def _frame(self, fd: int, prefix: bytes, depth: int) -> _Frame:
        names = sorted(map(os.fsencode, os.listdir(fd)))
        if self._span is not None and depth >= 0:
            names = self._span.names(names, depth)
        return _Frame(fd, prefix, iter(names), depth)

    def _remove(self, name: bytes, dir_fd: int) -> None:
        """Remove a file; the directory keeps its time, which is written already."""
        if self._span is not None and self._span.second:
            raise UndividedError  # somebody else may be reading that time just now
        before = os.fstat(dir_fd)
        os.unlink(name, dir_fd=dir_fd)
        os.utime(dir_fd, ns=(before.st_atime_ns, before.st_mtime_ns))

    def _xattrs(self, name: bytes) -> tuple[dict[bytes, bytes] | None, bool]:
        """Return what goes into the tar, and whether overlay's own say opaque or whiteout."""
        try:
            names = os.listxattr(name, follow_symlinks=False)
        except OSError as error:
            if error.errno == errno.ENOTSUP:
                return None, False
            raise
        if not names:
            return None, False
        found = read_xattrs(name, names)
        if not self._is_layer:
            return found, False
        for key in _NOT_BY_ITSELF.intersection(names):
            message = (f"overlay left {key} in a container's files: they cannot be read by themselves. "
                       "Load the overlay module with redirect_dir=off metacopy=off")
            raise SystemFailureError(message)
        if self._seal:
            _unmark(name, _OWN.intersection(names))
        return found, _hides(name, names)




def _unmark(name: bytes, keys: Iterable[str]) -> None:
    for key in keys:
        with suppress(OSError):  # another of the same meaning
            os.removexattr(name, key, follow_symlinks=False)


def _hides(name: bytes, names: list[str]) -> bool:
    """Whether a directory is opaque, or a file a whiteout in the form of an xattr (Linux 6.7)."""
    if name != b".":
        return not _WHITEOUT.isdisjoint(names)
    return any(os.getxattr(name, key) == b"y" for key in _OPAQUE.intersection(names))


def read_xattrs(name: bytes, names: list[str], *, follow: bool = False) -> dict[bytes, bytes] | None:
    """Extended attributes that belong into a tar; None for none.

    ``follow`` is for names in /proc/self/fd. Left out are overlay's own and the host's security
    labels, which say nothing elsewhere.
    """
    found: dict[bytes, bytes] = {}
    for key in names:
        if key in _HOST_XATTRS or key.startswith(_OVERLAY_XATTRS):
            continue
        try:
            value = os.getxattr(name, key, follow_symlinks=follow)
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.ENOTSUP):
                continue
            raise
        if key == _CAPABILITY and len(value) > _CAP_REVISION_2_BYTES and value[3] == _CAP_REVISION_3:
            # The root of a user namespace is part of revision 3; elsewhere it means nobody.
            value = value[:3] + b"\x02" + value[4:_CAP_REVISION_2_BYTES]
        found[os.fsencode(key)] = value
    return found or None
