"""What both cgroup versions share: where the hierarchies are mounted, and their small files.

Owns   reading mountinfo for cgroup mounts, one-write and one-read file access, making and removing
       directories of a cgroup file system, and the raw counters both versions deliver.
Runs   in zygote children on the start path, in the daemon for statistics. No state.
Needs  write access to the cgroup file systems (root, or a delegated part).
Spec   proc(5) /proc/pid/mountinfo; Documentation/admin-guide/cgroup-v1/cgroups.rst, cgroup-v2.rst.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from pallet.errors import SyscallError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

V1_CONTROLLERS = frozenset({
    "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "hugetlb",
    "net_cls", "net_prio", "perf_event", "rdma", "misc",
})

_READ_BYTES = 1 << 16
_WRITE = os.O_WRONLY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_CLOEXEC

REMOVE_DEADLINE_S = 2.0
"""How long ``remove_tree`` waits for dying processes to leave a cgroup."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounts:
    """Where this mount namespace has its cgroup hierarchies.

    ``v1`` maps a controller, or ``name=…`` of a named hierarchy, to its mount point; several
    controllers can share one. ``v2`` is the cgroup2 mount. Both filled is the hybrid layout.
    """

    v1: Mapping[str, str] = field(default_factory=dict)
    v2: str | None = None

    @property
    def mode(self) -> str:
        """``v1``, ``v2``, ``hybrid``, or ``none`` where nothing is mounted."""
        if any(not name.startswith("name=") for name in self.v1):
            return "hybrid" if self.v2 else "v1"
        return "v2" if self.v2 else "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One value for one control file; ``controller`` by its v1 or v2 name."""

    controller: str
    file: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IoCounter:
    """One number about one block device: ``op`` is Read, Write, Sync, Async, Discard or Total."""

    major: int
    minor: int
    op: str
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Raw counters of one cgroup. Absent controllers leave zeros and empty containers."""

    cpu_usage_ns: int = 0
    cpu_user_ns: int = 0
    cpu_system_ns: int = 0
    cpu_per_cpu_ns: tuple[int, ...] = ()
    """Empty on cgroup v2."""
    cpu_periods: int = 0
    cpu_throttled_periods: int = 0
    cpu_throttled_ns: int = 0
    memory_usage_bytes: int = 0
    memory_max_usage_bytes: int = 0
    memory_limit_bytes: int = 0
    """A number near 2**63 (v1) or 0 (v2) without a limit."""
    memory_failures: int = 0
    memory_stat: Mapping[str, int] = field(default_factory=dict)
    """``memory.stat`` by the kernel's own keys, which differ between the versions."""
    oom_kills: int = 0
    pids_current: int = 0
    pids_limit: int = 0
    """0 without a limit."""
    io_bytes: tuple[IoCounter, ...] = ()
    io_operations: tuple[IoCounter, ...] = ()


def parse_mountinfo(lines: Iterable[str]) -> Mounts:
    """Return the cgroup mounts among ``lines`` of a mountinfo file.

    The first mount of a hierarchy wins: later ones are bind mounts of it, often read-only.
    """
    v1: dict[str, str] = {}
    v2: str | None = None
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if kind[0] == "cgroup2" and v2 is None:
            v2 = _unescape(fields[4])
        elif kind[0] == "cgroup":
            for option in kind[2].rstrip("\n").split(","):
                if option in V1_CONTROLLERS or option.startswith("name="):
                    v1.setdefault(option, _unescape(fields[4]))
    return Mounts(v1=v1, v2=v2)


def _unescape(path: str) -> str:
    """Undo mountinfo's octal escapes of space, tab, newline and backslash."""
    if "\\" not in path:
        return path
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, character)
    return path


@cache
def detect() -> Mounts:
    """Return this process's cgroup mounts, read once: a fork of the zygote inherits the answer."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse_mountinfo(file)


def write(path: str, value: str | bytes) -> None:
    """Put ``value`` into a control file with a single system call.

    Raises:
        SyscallError: what the kernel says to the value; ENOENT when there is no such control.
    """
    data = value.encode() if isinstance(value, str) else value
    try:
        fd = os.open(path, _WRITE)
    except OSError as error:
        raise SyscallError("open", error.errno or errno.EIO, path) from None
    try:
        os.write(fd, data)
    except OSError as error:
        raise SyscallError("write", error.errno or errno.EIO, path) from None
    finally:
        os.close(fd)


def write_lines(path: str, lines: Iterable[bytes]) -> None:
    """Write each of ``lines`` with its own write(2) on one open file.

    Raises:
        SyscallError: as ``write``.
    """
    try:
        fd = os.open(path, _WRITE)
    except OSError as error:
        raise SyscallError("open", error.errno or errno.EIO, path) from None
    try:
        for line in lines:
            os.write(fd, line)
    except OSError as error:
        raise SyscallError("write", error.errno or errno.EIO, path) from None
    finally:
        os.close(fd)


def read(path: str) -> str:
    """Return the text of a control file.

    Raises:
        SyscallError: ENOENT without that control, ENODEV when the cgroup just went away.
    """
    try:
        fd = os.open(path, _READ)
    except OSError as error:
        raise SyscallError("open", error.errno or errno.EIO, path) from None
    try:
        chunks = []
        while chunk := os.read(fd, _READ_BYTES):
            chunks.append(chunk)
    except OSError as error:
        raise SyscallError("read", error.errno or errno.EIO, path) from None
    finally:
        os.close(fd)
    return b"".join(chunks).decode()


def read_or_empty(path: str) -> str:
    """Return the text of a control file, "" where it is not there (any more)."""
    try:
        return read(path)
    except SyscallError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
            return ""
        raise


def number(text: str) -> int:
    """Return the number in ``text``; "" and "max" are 0."""
    text = text.strip()
    return int(text) if text and text != "max" else 0


def keyed(text: str) -> dict[str, int]:
    """Return a flat-keyed file (``key value`` lines) as a dict; other lines are left out."""
    result = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if value.lstrip("-").isdigit():
            result[key] = int(value)
    return result


def make_directory(path: str, *, mkdir: Callable[[str], None] = os.mkdir) -> bool:
    """Make one cgroup directory; False when it was there already.

    Raises:
        SyscallError: ENOENT without its parent; EACCES, EROFS where nothing may be made.
    """
    try:
        mkdir(path)
    except FileExistsError:
        return False
    except OSError as error:
        raise SyscallError("mkdir", error.errno or errno.EIO, path) from None
    return True


def has_children(path: str) -> bool:
    """Tell whether a cgroup has cgroups below it, by its link count (kernfs: 2 and one for each).

    Raises:
        FileNotFoundError: the cgroup is gone.
    """
    return os.stat(path).st_nlink != 2


def descend(path: str) -> Iterator[str]:
    """Yield the directories below ``path``, deepest first, then ``path`` itself."""
    try:
        if has_children(path):
            with os.scandir(path) as entries:
                below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
            for directory in below:
                yield from descend(directory)
    except (FileNotFoundError, NotADirectoryError):
        return
    yield path


def remove_tree(paths: Iterable[str], *, rmdir: Callable[[str], None] = os.rmdir,
                deadline_s: float = REMOVE_DEADLINE_S) -> None:
    """Remove the cgroups ``paths`` and everything below them; those already gone are fine.

    A cgroup whose last process is just exiting answers EBUSY, so the removal is tried again with a
    growing pause from 0.2 ms up. Cgroups without processes are removed at once, so that one
    that stays busy does not leave the others behind.

    Raises:
        SyscallError: EBUSY when a process stayed beyond ``deadline_s``.
    """
    left = list(paths)
    pause_s, deadline = 0.0002, time.monotonic() + deadline_s
    while True:
        left = [path for path in left if not _remove_once(path, rmdir)]
        if not left:
            return
        if time.monotonic() >= deadline:
            raise SyscallError("rmdir", errno.EBUSY, left[0])
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.05)


def _remove_once(path: str, rmdir: Callable[[str], None]) -> bool:
    try:
        rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise SyscallError("rmdir", error.errno or errno.EIO, path) from None
    else:
        return True
    try:
        for directory in descend(path):
            rmdir(directory)
    except FileNotFoundError:
        return not os.path.exists(path)
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise SyscallError("rmdir", error.errno or errno.EIO, path) from None
    return True


def processes(path: str) -> list[int]:
    """Return the pids in a cgroup and in those below it; [] when it is gone."""
    pids: list[int] = []
    for directory in descend(path):
        pids += map(int, read_or_empty(f"{directory}/cgroup.procs").split())
    return pids
