"""Layers as EROFS images: the kernel reads a layer's tar where it lies, nothing is unpacked.

Owns   the mounts of images, each held by a descriptor of the daemon, and the proof that the kernel
       can do this at all. The images themselves are ``layertable``'s, what lies on top of them is
       ``overlay``'s.
Runs   in the daemon. A mount of fsmount(2) is attached nowhere: no namespace has it, and it goes
       with the daemon and the last container on it.
Needs  Linux 6.12 with CONFIG_EROFS_FS_BACKED_BY_FILE, and overlay on detached mounts (Linux 6.15).
Spec   Linux Documentation/filesystems/erofs.rst; docs/adr/0010-erofs.md.

A layer is mounted once, when it is first wanted, and every container gets that mount: by path,
``/proc/<pid of the daemon>/fd/<n>``, so that whoever mounts or reads a tree needs to know nothing of
this. Were each container to mount by itself, none would share the others' file cache.
"""

from __future__ import annotations

import fcntl
import os
import resource
import stat
import threading

from pallet.layer import erofs
from pallet.linux import fsmount
from pallet.linux.mount import Attr

IMAGE = "image"
"""Name of the image in a layer's directory."""
_RING = range(512, 4096)
_MOST_MOUNTS = 1024


class LayerMounts:
    """Mounted images by layer number."""

    def __init__(self, layers_dir: str) -> None:
        self._layers_dir = layers_dir
        self._lock = threading.Lock()
        self._fds: dict[int, int] = {}
        """Least recently used first."""
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        soft = _RING.stop if soft == resource.RLIM_INFINITY else soft
        self._most = max(min(soft // 4, _MOST_MOUNTS), 16)
        self._ring = range(_RING.start, min(_RING.stop, soft - 64))
        self._next = self._ring.start

    def path(self, number: int) -> str:
        """Path of a layer's root, good in every process that sees the host's ``/proc``.

        Raises:
            SyscallError: the image cannot be mounted.
        """
        with self._lock:
            fd = self._fds.pop(number, -1)
            if fd < 0:
                fd = self._number(_mount(f"{self._layers_dir}/{number}/{IMAGE}"))
            self._fds[number] = fd
            while len(self._fds) > self._most:
                os.close(self._fds.pop(next(iter(self._fds))))
        return f"{_proc()}/fd/{fd}"

    def take(self, number: int) -> int:
        """Give away the descriptor of a mount, to be closed; -1 when there is none."""
        with self._lock:
            return self._fds.pop(number, -1)

    def forget(self, number: int) -> None:
        """Let go of a mount. Containers that have it keep it."""
        fd = self.take(number)
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        """Let go of all."""
        for number in list(self._fds):
            self.forget(number)

    def _number(self, fd: int) -> int:
        """Move a descriptor to a number not used lately.

        A path that was given out must not come to mean another layer while someone still opens it.
        """
        for start in (self._next, self._ring.start):
            if start not in self._ring:
                continue
            try:
                moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, start)
            except OSError:
                break
            os.close(fd)
            self._next = moved + 1
            return moved
        return fd


def supported(directory: str) -> str:
    """Try it with a small image in ``directory``; return what fails, "" when it works."""
    held: list[int] = []
    try:
        image_fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        held.append(image_fd)
        root = erofs.Node(stat.S_IFDIR | 0o755)
        erofs.write_metadata(image_fd, root, erofs.DATA_START, bytes(16))
        source = f"{_proc()}/fd/{image_fd}"
        for _ in range(2):
            held.append(_mount(source))  # noqa: PERF401
        below = ":".join(f"{_proc()}/fd/{fd}" for fd in held[1:])
        held.append(fsmount.detached("overlay", [("source", "overlay"), ("lowerdir", below)]))
    except OSError as error:
        return str(error)
    finally:
        for fd in held:
            os.close(fd)
    return ""


def _mount(path: str) -> int:
    return fsmount.detached("erofs", [("source", path)], flags=("ro",), attributes=Attr.RDONLY)


def _proc() -> str:
    """This process in ``/proc``, whatever PID namespace that is of."""
    return f"/proc/{os.readlink('/proc/self')}"
