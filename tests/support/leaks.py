"""What a test may leave behind, and the check that it did not.

Counted in this process's namespaces (see ``isolation``): mounts, links, nftables tables, processes;
on the host: cgroups that tests name, network namespaces held by a mount, file descriptors of this
process, temporary files with a test's prefix.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.probes import SYSTEM_PATH, which
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_CGROUP_TOP = Path("/sys/fs/cgroup")
_TEST_CGROUP = re.compile(r"^t-")
_SESSION_CGROUP = re.compile(r"^t-[a-z-]*(\d+)")
_DAEMON = re.compile(r"^t-(?:pallet|docker)-(\d+)-")
_TEMPORARY = re.compile(r"^(t-|pallet)")


def mounts() -> set[str]:
    """``mountpoint (type)`` of every mount in this mount namespace."""
    found = set()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        head, _, tail = line.partition(" - ")
        found.add(f"{head.split()[4]} ({tail.split()[0]})")
    return found


def links() -> set[str]:
    """Names of the links in this network namespace."""
    return {name for _, name in socket.if_nameindex()}


def _ports_of(bridges: set[str], names: set[str]) -> set[str]:
    """Those of ``names`` that are ports of ``bridges``."""
    if not names or not which("ip"):
        return set()
    done = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=False)
    masters = dict(re.findall(r"^\d+: ([^:@]+)[:@].* master (\S+)", done.stdout, re.MULTILINE))
    return {name for name in names if masters.get(name) in bridges}


def nft_tables() -> set[str]:
    """``family name`` of every nftables table; empty when ``nft`` is not installed."""
    if not which("nft"):
        return set()
    done = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False,
                          env={"PATH": SYSTEM_PATH})  # fmt: skip
    return set(done.stdout.replace("table ", "").split("\n")) - {""}


def _namespace(pid: str, kind: str) -> int:
    return os.stat(f"/proc/{pid}/ns/{kind}").st_ino


def processes() -> dict[int, str]:
    """Pid -> command of every live process that shares our mount or network namespace.

    The initial namespaces of the host count too when the session was not moved out of them, so a
    caller compares two snapshots rather than expecting an empty one.
    """
    mine = {kind: _namespace("self", kind) for kind in ("mnt", "net")}
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            same = any(_namespace(entry, kind) == mine[kind] for kind in mine)
            state = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0]
            command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if same and state not in "ZX":
            found[int(entry)] = command.strip() or "?"
    return found


def _made_by(daemons: dict[int, str], pid: int) -> bool:
    """Whether a process descends from one of Pallet's among ``daemons``."""
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
        if "pallet" in daemons.get(pid, ""):
            return True
    return False


def cgroups(*needles: str) -> set[str]:
    """Cgroup directories whose name holds one of ``needles``; without any, tests' own (``t-…``)."""
    found = set()
    for top, names, _ in os.walk(_CGROUP_TOP):
        for name in names:
            if any(needle in name for needle in needles) or (
                not needles and _TEST_CGROUP.match(name) and not _of_another_session(name)
            ):
                found.add(os.path.join(top, name))
    return found


def _of_another_session(cgroup: str) -> bool:
    """Whether a name (``t-lab123``, ``t-123.slice``) has the pid of a live process that is not this one."""
    number = _SESSION_CGROUP.match(cgroup)
    return number is not None and int(number[1]) != os.getpid() and Path(f"/proc/{number[1]}").exists()


def seconds(number: int) -> str:
    """How long a program of a test may sleep (months): one of ten durations that only this session's have."""
    return str(10_000_000 + 10 * os.getpid() + number)


def running(*argv: str) -> set[str]:
    """Pids of the processes with this very command line, wherever on the machine."""
    wanted = "".join(f"{word}\0" for word in argv).encode()
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes() == wanted:
                found.add(pid)
    return found


def descriptors() -> set[str]:
    """What this process's descriptors point at; numbers are left out, they are reused."""
    gc.collect()
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{entry}"))
        except OSError:
            continue
    return {name for name in found if not name.startswith(("/proc/", "/dev/", "anon_inode:"))}


def temporary_files() -> set[str]:
    """Entries of the temporary directory whose name is a test's or Pallet's, not another session's."""
    top = tempfile.gettempdir()
    return {
        os.path.join(top, name)
        for name in os.listdir(top)
        if _TEMPORARY.match(name) and not ((other := _DAEMON.match(name)) and int(other[1]) != os.getpid())
    }


def assert_gone(left: Callable[[], set[str]], what: str, *, timeout_s: float = 5.0) -> None:
    """Wait until ``left`` returns nothing; fail with what it still returns."""
    deadline = time.monotonic() + timeout_s * PATIENCE
    while found := left():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} are left:\n  " + "\n  ".join(sorted(found)))
        time.sleep(0.02)


@dataclass(slots=True)
class Snapshot:
    """Everything countable at one moment."""

    mounts: set[str] = field(default_factory=mounts)
    links: set[str] = field(default_factory=links)
    nft: set[str] = field(default_factory=nft_tables)
    processes: dict[int, str] = field(default_factory=processes)
    cgroups: set[str] = field(default_factory=cgroups)
    descriptors: set[str] = field(default_factory=descriptors)
    temporary: set[str] = field(default_factory=temporary_files)
    host: set[str] = field(default_factory=lambda: {os.uname().nodename})

    def since(self, earlier: Snapshot) -> list[str]:
        """One line for each thing that is here now and was not at ``earlier``.

        What a daemon that was there before made meanwhile (its spare shims and sandboxes) is not counted.
        """
        lines = []
        for name in ("mounts", "links", "nft", "cgroups", "descriptors", "temporary", "host"):
            new: set[str] = getattr(self, name) - getattr(earlier, name)
            if name == "links":
                new -= _ports_of(earlier.links, new)
            lines += [f"{name}: {item}" for item in sorted(new)]
        lines += [
            f"process: {pid} {command}"
            for pid, command in self.processes.items()
            if pid not in earlier.processes and not _made_by(earlier.processes, pid)
        ]
        return lines


def assert_nothing_left(
    before: Snapshot, *, timeout_s: float = 3.0, ignore: Iterable[str] = ()
) -> None:
    """Fail with a list of what is here and was not at ``before``, once ``timeout_s`` has passed.

    Args:
        ignore: regular expressions; a line one of them is found in does not count.
    """
    deadline = time.monotonic() + timeout_s * PATIENCE
    patterns = [re.compile(text) for text in ignore]
    while True:
        left = Snapshot().since(before)
        left = [line for line in left if not any(pattern.search(line) for pattern in patterns)]
        if not left:
            return
        if time.monotonic() > deadline:
            raise AssertionError("left behind:\n  " + "\n  ".join(left))
        time.sleep(0.03)
