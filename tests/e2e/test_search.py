"""``search`` against an index of our own; words beside dockerd's."""

from __future__ import annotations

import json
import shlex
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.networkless import NetworklessDockerd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "dockerd")

FOUND = [
    {"name": "few", "description": "one\ntwo " + "long " * 20, "star_count": 3,
     "is_official": False, "is_automated": True},
    {"name": "many", "description": None, "star_count": 1200, "is_official": True,
     "is_automated": False},
]


class Index(BaseHTTPRequestHandler):
    """A version 1 index."""

    seen: list[tuple[str, dict[str, list[str]], dict[str, str]]]

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        type(self).seen.append((parts.path, query, dict(self.headers.items())))
        if parts.path == "/v1/_ping":
            self.reply(200, b"true")
        elif query.get("q") == ["broken"]:
            self.reply(500, b"")
        else:
            self.reply(200, json.dumps({"query": "", "results": FOUND}).encode())

    def reply(self, status: int, body: bytes) -> None:
        """Send a document."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Docker-Registry-Version", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@contextmanager
def running() -> Iterator[str]:
    """An index on loopback: its ``host:port``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Index)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def quiet_dockerd() -> Iterator[Daemon]:
    """dockerd without a network."""
    daemon = NetworklessDockerd()
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.remove()


@pytest.fixture
def index() -> Iterator[str]:
    Index.seen = []
    with running() as authority:
        yield authority


@pytest.mark.parametrize("line", [
    "", "--no-trunc", "--limit 7", "--filter is-official=true", "--filter stars=10",
    "--filter is-automated=true", "--filter is-official=maybe", "--filter stars=x", "--filter a=b",
    "--limit 101", "--limit -1", "--format json", "--format {{.Name}}:{{.StarCount}}:{{.IsOfficial}}",
    "--format 'table {{.Name}}\t{{.Description}}'"])
def test_side_by_side(docker: DockerCli, pallet_cli: DockerCli, quiet_dockerd: Daemon,
                      index: str, line: str) -> None:
    """docker on palletd, pallet on palletd, docker on dockerd: all print the same."""
    args = ["search", *shlex.split(line), f"{index}/word"]
    results = [cli.run(*args) for cli in (docker, pallet_cli, quiet_dockerd.cli())]
    assert results[0] == results[1]
    if results[0].code == 0:  # 20.10 has a capital letter in its refusals
        assert results[0] == results[2]
    searches = [query for path, query, _ in Index.seen if path == "/v1/search"]
    assert all(query["q"] == ["word"] for query in searches)
    if "--limit 7" in line:
        assert {query["n"][0] for query in searches} == {"7"}


def test_refusals(docker: DockerCli, index: str) -> None:
    """An index that fails, and none at all."""
    result = docker.run("search", f"{index}/broken")
    assert (result.code, "Unexpected status code 500" in result.err) == (1, True)
    result = docker.run("search", "127.0.0.1:1/word")
    assert result.code == 1
    assert "connection refused" in result.err


def test_offline(engine: Daemon) -> None:
    """Docker Hub without a network: 500 and what failed."""
    reply = engine.api.call("GET", "/images/search?term=word")
    assert reply.status == 500
    assert 'Get "https://index.docker.io/v1/search?n=25&q=word"' in reply.message


def test_credentials(docker: DockerCli, index: str) -> None:
    """The index gets the stored ones as basic authentication."""
    (docker.config / "config.json").write_text(json.dumps(
        {"auths": {index: {"auth": "dXNlcjpzZWNyZXQ="}}}))
    docker.ok("search", f"{index}/word")
    (docker.config / "config.json").unlink()
    assert Index.seen[-1][2]["Authorization"] == "Basic dXNlcjpzZWNyZXQ="
