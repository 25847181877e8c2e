"""Cgroups under test: every layout that this host can show, and one that it cannot."""

from __future__ import annotations

import itertools
import os
import signal
import time
from typing import TYPE_CHECKING, Any

from pallet.linux.cgroup2 import Cgroup2
from pallet.linux.cgroupfs import Mounts, detect
from pallet.runtime.cgroup import Cgroup, _HostCgroup, open_cgroup, remove_parent
from tests.support.cgroup2_tree import Cgroup2Tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PARENT = f"/t-cgroups{os.getpid()}"
_numbers = itertools.count()


def mounts_of(layout: str) -> Mounts:
    """The host's mounts seen as ``v1``, ``hybrid`` or ``unified`` (version 2 alone)."""
    found = detect()
    if layout == "v1":
        return Mounts(v1=found.v1)
    if layout == "unified":
        return Mounts(v2=found.v2)
    return found  # "hybrid" and "host": as it is


def make(layout: str, tmp_path: Path) -> Cgroup:
    """A cgroup that is not there yet: on a real mount, or with ``fake`` on a directory tree."""
    path = f"{PARENT}/t-{os.getpid()}-{next(_numbers)}"
    if layout == "fake":
        tree = Cgroup2Tree(tmp_path)
        return _HostCgroup(Cgroup2(path, str(tmp_path), mkdir=tree.mkdir, rmdir=tree.rmdir))
    return open_cgroup(path, mounts=mounts_of(layout))


def clean_up(cgroup: Cgroup) -> None:
    """Kill and remove whatever a test left of ``cgroup`` and its parent."""
    cgroup.kill_all()
    cgroup.delete()
    remove_parent(PARENT)


def in_child(body: Callable[[], Any]) -> int:
    """Fork a child that runs ``body`` and then sleeps; returns once the body is done.

    Raises:
        AssertionError: the body raised; its text.
    """
    ready_fd, done_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ready_fd)
            body()
            os.write(done_fd, b"ok")
            os.close(done_fd)
            signal.pause()
        except BaseException as error:  # noqa: BLE001 - a forked child; the next statement is _exit
            os.write(done_fd, repr(error).encode())
        os._exit(1)
    os.close(done_fd)
    answer = os.read(ready_fd, 4096)
    os.close(ready_fd)
    if answer != b"ok":
        os.waitpid(pid, 0)
        raise AssertionError(answer.decode())
    return pid


def result_of(body: Callable[[], str]) -> str:
    """Run ``body`` in a child that ends with it, and return its text ("killed N" by a signal)."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read_fd)
            os.write(write_fd, body().encode())
        except BaseException as error:  # noqa: BLE001 - a forked child; the next statement is _exit
            os.write(write_fd, repr(error).encode())
        os._exit(0)
    os.close(write_fd)
    chunks = []
    while chunk := os.read(read_fd, 4096):
        chunks.append(chunk)
    os.close(read_fd)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return f"killed {os.WTERMSIG(status)}"
    return b"".join(chunks).decode()


def until(condition: Callable[[], bool], what: str, deadline_s: float = 5.0) -> None:
    """Poll ``condition``.

    Raises:
        AssertionError: it did not come true in time.
    """
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.002)
