"""A registry token in a client's configuration, which is no password and no identity token."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import pallet_command
from tests.support.engines import not_on_dockerd
from tests.support.plugins import with_plugins

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon

pytestmark = pytest.mark.needs("root", "overlay", "buildx", "docker_cli")


class Guarded(ThreadingHTTPServer):
    """A registry that has nothing, and says who it was asked by."""

    def __init__(self) -> None:
        self.seen: set[str | None] = set()
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Guarded

    def do_GET(self) -> None:
        given = self.headers.get("Authorization")
        self.server.seen.add(given)
        self.send_response(404 if given else 401)
        if not given:
            self.send_header("WWW-Authenticate", 'Bearer realm="http://127.0.0.1:9/token",service="x"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def guarded() -> Iterator[Guarded]:
    with Guarded() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("kind", ["buildx", "pallet", "classic"])
def test_a_registry_token_is_sent(engine: Daemon, guarded: Guarded, tmp_path: Path, kind: str) -> None:
    not_on_dockerd(engine, "its BuildKit is older")
    address = f"127.0.0.1:{guarded.server_address[1]}"
    (tmp_path / "Dockerfile").write_text(f"FROM {address}/none:1\n")
    cli = with_plugins(engine) if kind == "buildx" else engine.cli(pallet_command() if kind == "pallet" else None)
    if kind == "classic":
        cli.env["DOCKER_BUILDKIT"] = "0"
    config = cli.config / "config.json"
    before = config.read_text() if config.exists() else "{}"
    config.write_text(json.dumps({**json.loads(before), "auths": {address: {"registrytoken": "tok"}}}))
    try:
        assert cli.run(*(("buildx", "build") if kind == "buildx" else ("build",)), str(tmp_path)).code
    finally:
        config.write_text(before)
    assert guarded.seen == {"Bearer tok"}
