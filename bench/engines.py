"""The daemons that are compared, started on their own roots in the benchmark's own namespaces."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.daemon import Daemon, Dockerd, Palletd, pallet_command
from tests.support.dockercli import docker_binaries
from tests.support.engines import load_images
from tests.support.probes import lacking

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def engines(wanted: set[str]) -> Iterator[dict[str, Daemon]]:
    """Started daemons by name, each with the ``busybox`` image; removed at the end."""
    made: dict[str, Daemon] = {}
    try:
        if "pallet" in wanted:
            # Debug logging would be measured too; the last flag of its kind wins.
            made["pallet"] = Palletd(flags=["--log-level", "warn"])
        if "dockerd" in wanted and not lacking("dockerd"):
            made["dockerd"] = Dockerd()
        for daemon in made.values():
            # Memory, as /run is wherever these daemons are at home; not so on every test machine.
            daemon.exec_root = Path(tempfile.mkdtemp(prefix="t-run-", dir="/dev/shm"))
            daemon.start()
            load_images(daemon)
        yield made
    finally:
        for daemon in reversed(made.values()):
            daemon.remove()
            if daemon.exec_root.parent != daemon.top:
                shutil.rmtree(daemon.exec_root, ignore_errors=True)


def command_line(name: str) -> list[str]:
    """The command line that belongs to an engine."""
    return pallet_command() if name == "pallet" else [docker_binaries()[0]]


class KeepAlive:
    """One unix connection, requests one after another, as cheap as a client can be."""

    def __init__(self, path: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(60)
        self._sock.connect(path)

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def call(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Send one request and read its reply: status and body."""
        kind = "Content-Type: application/json\r\n" if body else ""
        head = f"{method} /v1.41{path} HTTP/1.1\r\nHost: d\r\n{kind}"
        self._sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        raw, _, rest = data.partition(b"\r\n\r\n")
        lines = raw.decode().split("\r\n")
        status = int(lines[0].split()[1])
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
        if status in (204, 304):
            return status, b""
        if headers.get("transfer-encoding") == "chunked":
            while not rest.endswith(b"0\r\n\r\n"):
                rest += self._more()
            return status, _dechunk(rest)
        while len(rest) < int(headers.get("content-length", "0")):
            rest += self._more()
        return status, rest

    def _more(self) -> bytes:
        data = self._sock.recv(65536)
        if not data:
            raise ConnectionError("the daemon closed the connection")
        return data


def _dechunk(data: bytes) -> bytes:
    out = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        count = int(size, 16)
        out, data = out + data[:count], data[count + 2 :]
        if not count:
            break
    return out


def pss_mb(pid: int) -> float:
    """Proportional set size of a process in MB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise LookupError(pid)


def parent(pid: int) -> int:
    """Parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children(pid: int) -> set[int]:
    """Direct children of a process."""
    found = set()
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/task/{task}/children").read_text()
            found |= {int(word) for word in text.split()}
    return found


def descendants(pid: int) -> set[int]:
    """Children, their children and so on."""
    found: set[int] = set()
    waiting = {pid}
    while waiting:
        with contextlib.suppress(OSError):
            new = children(waiting.pop()) - found
            found |= new
            waiting |= new
    return found


def settle() -> None:
    """Write dirty pages out, so that one competitor does not pay for another's."""
    os.sync()


def drop_caches() -> None:
    """Forget clean file pages, so that reads are the disk's."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")
