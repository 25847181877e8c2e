"""The registry server beside Debian's docker-registry: pulls of small and large things, many pushes at once."""

from __future__ import annotations

import json
import os
import re
import select
import socket
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from bench.model import Figure
from tests.support.registry import CONFIG, LAYER, MANIFEST, BuiltImage, DebianRegistry, PalletRegistry, digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.registry import Registry

CONNECTIONS = 16
PUSHES = 200
_BIG_BYTES, _SMALL_BYTES = 64 << 20, 1024
_RATE = re.compile(r"Requests/sec:\s+([\d.]+)")
_RECEIVED = re.compile(r"([\d.]+)([KMG]?B) read")
_FAILED = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_UNITS = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}


def registries(rounds: int, seconds: float) -> list[Figure]:
    """Keep-alive over plain HTTP on loopback, storage on the file system; the servers in turn."""
    with tempfile.TemporaryDirectory(prefix="t-bench-") as scratch:
        ours, theirs = PalletRegistry(Path(scratch) / "ours"), DebianRegistry(Path(scratch) / "theirs")
        with ours, theirs:
            servers: dict[str, Registry] = {"pallet": ours, "docker-registry": theirs}
            return [*_pulls(servers, rounds, seconds), *_pushes(servers, rounds)]


def _pulls(servers: dict[str, Registry], rounds: int, seconds: float) -> list[Figure]:
    big, small = os.urandom(1 << 20) * (_BIG_BYTES >> 20), os.urandom(_SMALL_BYTES)
    image = _image([small, big])
    for server in servers.values():
        server.push("bench/a", "v1", image)
    path = "/v2/bench/a"
    cases: list[tuple[str, str, Callable[[Registry, str, float], float], str]] = [
        ("manifest by tag", "1/s", _rate, f"{path}/manifests/v1"),
        ("manifest by digest", "1/s", _rate, f"{path}/manifests/{image.digest}"),
        ("HEAD of a manifest by tag", "1/s", _head_rate, f"{path}/manifests/v1"),
        ("blob of 1 KiB", "1/s", _rate, f"{path}/blobs/{digest(small)}"),
        ("blob of 64 MiB", "MB/s", _throughput, f"{path}/blobs/{digest(big)}"),
    ]
    figures = []
    for title, unit, measure, target in cases:
        figure = Figure(name=f"registry: {title}, {CONNECTIONS} connections", unit=unit,
                        at_least="docker-registry")
        for number in range(rounds + 1):
            for name, server in servers.items():
                value = measure(server, target, seconds)
                if number:
                    figure.add(name, value)
        figures.append(figure)
    return figures


def _wrk(server: Registry, target: str, seconds: float) -> str:
    done = subprocess.run(
        ["wrk", "-t2", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "--timeout", "30s",
         "-H", f"Accept: {MANIFEST}", f"http://{server.address}{target}"],
        capture_output=True, text=True, check=True)  # fmt: skip
    assert not _FAILED.search(done.stdout), done.stdout
    return done.stdout


def _rate(server: Registry, target: str, seconds: float) -> float:
    match = _RATE.search(_wrk(server, target, seconds))
    assert match
    return float(match[1])


def _throughput(server: Registry, target: str, seconds: float) -> float:
    began = time.monotonic()
    match = _RECEIVED.search(_wrk(server, target, seconds))
    assert match
    return float(match[1]) * _UNITS[match[2]] / 1e6 / (time.monotonic() - began)


def _head_rate(server: Registry, target: str, seconds: float) -> float:
    """Rate of HEAD requests; wrk waits for the bodies that their replies announce."""
    request = (f"HEAD {target} HTTP/1.1\r\nHost: {server.address}\r\nAccept: {MANIFEST}\r\n\r\n").encode()
    poll, clients, count = select.epoll(), {}, 0
    try:
        for _ in range(CONNECTIONS):
            client = socket.create_connection(("127.0.0.1", server.port))
            clients[client.fileno()] = client
            poll.register(client, select.EPOLLIN)
            client.sendall(request)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for fd, _ in poll.poll(1):
                reply = clients[fd].recv(8192)
                assert reply.startswith(b"HTTP/1.1 200"), reply
                count += reply.endswith(b"\r\n\r\n")
                clients[fd].sendall(request)
    finally:
        poll.close()
        for client in clients.values():
            client.close()
    return count / seconds


def _pushes(servers: dict[str, Registry], rounds: int) -> list[Figure]:
    took = Figure(name=f"registry: {PUSHES} parallel pushes of distinct images", unit="s")
    errors = Figure(name="errors of these", unit="pushes", goal=0)
    for _ in range(rounds):
        for name, server in servers.items():
            images = [_image([os.urandom(256 << 10) for _ in range(3)]) for _ in range(PUSHES)]
            began = time.monotonic()
            with ThreadPoolExecutor(PUSHES) as pool:
                failed = sum(pool.map(lambda one: _push_fails(server, *one), enumerate(images)))  # noqa: B023
            took.add(name, time.monotonic() - began)
            errors.add(name, failed)
    return [took, errors]


def _push_fails(server: Registry, number: int, image: BuiltImage) -> bool:
    try:
        server.push(f"bench/p{number}", "v1", image)
        return server.request("GET", f"/v2/bench/p{number}/manifests/v1", headers={"Accept": MANIFEST})[2] \
            != image.manifest
    except (AssertionError, OSError):
        return True


def _image(blobs: list[bytes]) -> BuiltImage:
    """An image whose layers are any bytes."""
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {
        "type": "layers", "diff_ids": [digest(data) for data in blobs]}}).encode()
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST,
                "config": {"mediaType": CONFIG, "digest": digest(config), "size": len(config)},
                "layers": [{"mediaType": LAYER, "digest": digest(data), "size": len(data)} for data in blobs]}
    return BuiltImage(manifest=json.dumps(manifest).encode(),
                      blobs={digest(data): data for data in [config, *blobs]})
