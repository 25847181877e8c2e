"""Redirects that a guarded transport follows, and those it does not: a mirror passes on what they lead to."""

from __future__ import annotations

import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from pallet.transfer import transport
from pallet.transfer.failures import BadContentError
from pallet.transfer.transport import Transport, finish, reach

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Handler(BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/inside":
            self.send_response(200)
        else:
            self.send_response(307)
            self.send_header("Location", f"http://{self.headers['Host'].replace('127.0.0.1', 'localhost')}/inside")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A URL that is redirected from 127.0.0.1 to localhost, and the paths that were asked for."""
    asked: list[str] = []
    handler = type("Handler", (_Handler,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{found.server_address[1]}/", asked
        found.shutdown()
        thread.join()


@pytest.mark.parametrize(("host", "level"), [
    ("169.254.169.254", 0), ("127.0.0.1", 0), ("[::1]:5000", 0), ("[fe80::1]", 0), ("0.0.0.0", 0),
    ("[::ffff:127.0.0.1]", 0), ("10.0.0.1:80", 1), ("192.168.1.1", 1), ("[fd00::1]", 1), ("8.8.8.8", 2),
    ("user@8.8.8.8:443", 2), ("8.8.8.8@127.0.0.1", 0), ("no.such.invalid", 2), ("2130706433", 0)])
def test_how_public_a_host_is(host: str, level: int) -> None:
    assert reach(f"http://{host}/x") == level


@pytest.mark.parametrize(("levels", "follows"), [
    ({"127.0.0.1": 2, "localhost": 0}, False), ({"127.0.0.1": 2, "localhost": 1}, False),
    ({"127.0.0.1": 1, "localhost": 0}, False), ({"127.0.0.1": 0, "localhost": 0}, True),
    ({"127.0.0.1": 1, "localhost": 2}, True)])
def test_nothing_leads_to_a_less_public_host(
    server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, levels: dict[str, int], *, follows: bool,
) -> None:
    url, asked = server
    monkeypatch.setattr(transport, "reach", lambda target: levels[target.split("/")[2].split(":")[0]])
    with closing(Transport(guarded=True)) as guarded:
        if follows:
            finish(guarded.request("GET", url, headers={}))
        else:
            with pytest.raises(BadContentError, match="less public"):
                guarded.request("GET", url, headers={})
    assert asked == (["/", "/inside"] if follows else ["/"])


def test_others_follow_any(server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    url, asked = server
    monkeypatch.setattr(transport, "reach", lambda target: int("127" in target))
    with closing(Transport()) as plain:
        finish(plain.request("GET", url, headers={}))
    assert asked == ["/", "/inside"]
