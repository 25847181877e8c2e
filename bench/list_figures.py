"""Listing a thousand images and a thousand containers through the API."""

from __future__ import annotations

import io
import tarfile
import time
from typing import TYPE_CHECKING

from bench.model import Figure
from tests.support.scratch import busybox_tar

if TYPE_CHECKING:
    from tests.support.daemon import Daemon

IMAGES = 1000
GOAL_MS = 30
_TAR = {"Content-Type": "application/x-tar"}


def _tiny(number: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        data = str(number).encode()
        info = tarfile.TarInfo("number")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def lists(engines: dict[str, Daemon], rounds: int, count: int) -> list[Figure]:
    """Make ``count`` images and as many containers of one of them; list each ``rounds`` times."""
    figures = [Figure(name=f"list of {count} {what}", unit="ms", goal=GOAL_MS)
               for what in ("images", "containers")]
    for name, daemon in engines.items():
        _fill(daemon, count)
        for figure, path in zip(figures, ("/images/json", "/containers/json?all=1"), strict=True):
            for number in range(rounds + 2):
                began = time.perf_counter()
                reply = daemon.api.call("GET", path)
                took = time.perf_counter() - began
                assert len(reply.json) >= count
                if number >= 2:
                    figure.add(name, took * 1000)
        daemon.purge_containers()
    return figures


def _fill(daemon: Daemon, count: int) -> None:
    for number in range(count):
        query = f"fromSrc=-&repo=list/image{number}&tag=1"
        assert daemon.api.call("POST", f"/images/create?{query}", _tiny(number), _TAR).status == 200
    daemon.api.call("POST", "/images/create?fromSrc=-&repo=list/busybox&tag=1", busybox_tar(), _TAR)
    for _ in range(count):
        body = {"Image": "list/busybox:1", "Cmd": ["true"], "Labels": {"a": "b"}}
        assert daemon.api.call("POST", "/containers/create", body).status == 201
