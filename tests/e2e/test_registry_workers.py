"""The registry's worker processes, metrics, logs and webhooks, as their operator has them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from pallet.registry.check import check
from pallet.registry.config import read_config
from pallet.registry.store import open_store
from pallet.registry.webhooks import signature
from pallet.spec import digest as digests
from tests.support import registrystore as stores
from tests.support.daemon import pallet_command
from tests.support.registry import MANIFEST, free_port
from tests.support.registryserver import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20


def configured(tmp_path: Path, text: str = "") -> Path:
    path = tmp_path / "registry.toml"
    path.write_text(f'[storage]\nroot = "{tmp_path / "store"}"\nmin_free_bytes = 0\n{text}')
    return path


@contextlib.contextmanager
def running(config: Path, *flags: str, port: int = 0) -> Iterator[Server]:
    server = Server(config, (), *flags, port=port)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


def clean(config: Path) -> None:
    """Nothing is damaged, missing or left over but sessions."""
    with contextlib.closing(open_store(read_config(config))) as store:
        assert list(check(store)) == []


# Workers


def test_pushes_go_on_while_workers_are_killed(tmp_path: Path) -> None:
    """Clients that try again lose nothing, every image is whole, the store is clean, and workers are back."""
    config = configured(tmp_path)
    with running(config, "--workers", "2") as server:
        seed, kills, stop = random.Random(7), 0, threading.Event()
        images = [seed.randbytes(2 * MIB + number) for number in range(24)]

        def push(number: int) -> int:
            for attempt in range(100):
                try:
                    _push_in_chunks(server, f"n{number % 5}", f"t{number}", images[number])
                except (OSError, http.client.HTTPException):
                    continue
                return attempt
            raise AssertionError

        def assassin() -> None:
            nonlocal kills
            while not stop.wait(0.15) and kills < 8:
                victims = server.workers()
                if len(victims) == 2 and server.request("GET", "/v2/")[0] == 200:
                    os.kill(seed.choice(victims), signal.SIGKILL)
                    kills += 1

        def guarded() -> None:
            while not stop.is_set() and kills < 8:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    assassin()

        killer = threading.Thread(target=guarded)
        killer.start()
        with ThreadPoolExecutor(8) as pool:
            repeated = sum(pool.map(push, range(len(images))))
        stop.set()
        killer.join()
        assert kills
        assert repeated, "no push was hit"
        for number, data in enumerate(images):
            assert _pull(server, f"n{number % 5}", f"t{number}") == data
        eventually(lambda: len(server.workers()) == 2, what="both workers are back")
    assert server.process.returncode == 0
    clean(config)


def _push_in_chunks(server: Server, name: str, tag: str, data: bytes) -> None:
    """POST, PATCHes and PUT, each on a connection of its own: on any worker."""
    digest = digests.of_bytes(data)
    location = server.request("POST", f"/v2/{name}/blobs/uploads/")[1]["location"]
    for start in range(0, len(data), MIB):
        chunk = data[start:start + MIB]
        status, headers, body = server.request(
            "PATCH", location, chunk, Content_Range=f"{start}-{start + len(chunk) - 1}")
        if status != 202:
            raise ConnectionError(body)
        location = headers["location"]
    status, _, body = server.request("PUT", f"{location}?digest={digest}")
    if status != 201:
        raise ConnectionError(body)
    record = stores.image([digest])
    status, _, body = server.request("PUT", f"/v2/{name}/manifests/{tag}", record.raw, Content_Type=MANIFEST)
    assert status == 201, body


def _pull(server: Server, name: str, tag: str) -> bytes:
    for _ in range(20):
        with contextlib.suppress(OSError, http.client.HTTPException):
            raw = server.request("GET", f"/v2/{name}/manifests/{tag}")[2]
            return server.request("GET", f"/v2/{name}/blobs/{json.loads(raw)['config']['digest']}")[2]
    raise AssertionError


def test_a_moved_tag_is_seen_at_once_on_every_connection(tmp_path: Path) -> None:
    """Whichever worker moved it: after its 201 no worker gives the old answer from memory."""
    with running(configured(tmp_path), "--workers", "2") as server, contextlib.ExitStack() as stack:
        blob = digests.parse(server.push("a", b"config"))
        connections = [stack.enter_context(contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", server.port, timeout=20))) for _ in range(12)]

        def ask(connection: http.client.HTTPConnection, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
            connection.request(method, path, body, {"Content-Type": MANIFEST})
            reply = connection.getresponse()
            return reply.status, reply.read()

        record = stores.image([blob])
        for number in range(30):
            record = stores.image([blob], annotations={"n": str(number)})
            by = connections[number % len(connections)]
            assert ask(by, "PUT", "/v2/a/manifests/latest", record.raw)[0] == 201
            for connection in connections:
                assert ask(connection, "GET", "/v2/a/manifests/latest") == (200, record.raw)
        digest = f"/v2/a/manifests/{record.digest}"
        assert {ask(connection, "GET", digest)[0] for connection in connections} == {200}
        assert ask(connections[0], "DELETE", digest)[0] == 202
        for path in (digest, "/v2/a/manifests/latest"):
            assert {ask(connection, "GET", path)[0] for connection in connections} == {404}
        assert ask(connections[3], "DELETE", f"/v2/a/blobs/{blob}")[0] == 202
        assert {ask(connection, "GET", f"/v2/a/blobs/{blob}")[0] for connection in connections} == {404}


def test_sigterm_lets_an_upload_finish(tmp_path: Path) -> None:
    """The port closes, the upload gets its 201, then everything ends with status 0."""
    config, data = configured(tmp_path), os.urandom(3 * MIB)
    with running(config, "--workers", "2") as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock, sock.makefile("rb") as file:
            digest = digests.of_bytes(data)
            sock.sendall(f"POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: x\r\n"
                         f"Content-Length: {len(data)}\r\n\r\n".encode() + data[:MIB])
            uploads = tmp_path / "store" / "uploads"
            eventually(lambda: any(uploads.iterdir()), what="the upload has begun")
            server.process.terminate()
            eventually(lambda: _is_closed(server.port), what="the port is closed")
            sock.sendall(data[MIB:])
            reply = file.read()
        assert reply.startswith(b"HTTP/1.1 201")
        assert b"Connection: close" in reply
        assert server.process.wait(20) == 0
    clean(config)


def _is_closed(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        pass
    return False


def test_workers_end_with_their_supervisor(tmp_path: Path) -> None:
    """A supervisor killed alone leaves no process and no port behind."""
    with running(configured(tmp_path), "--workers", "2") as server:
        workers = server.workers()
        server.process.kill()
        server.process.wait()
        eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers), what="workers are gone")
        assert _is_closed(server.port)


def test_a_second_registry_on_the_port_is_refused(tmp_path: Path) -> None:
    with running(configured(tmp_path)) as server:
        done = subprocess.run([*pallet_command(), "registry", "serve", "--root", str(tmp_path / "other"),
                               "--address", f"127.0.0.1:{server.port}"], capture_output=True, text=True, timeout=20)
        assert done.returncode == 1
        assert "Address already in use" in done.stderr


def test_workers_that_never_start_end_the_registry() -> None:
    """Their failure is told, and nothing goes on for ever."""
    script = textwrap.dedent("""
        from pallet.errors import SystemFailureError
        from pallet.registry.serving import listeners, workers
        from pallet.registry.serving.metrics import Cells
        workers._EARLY_S = 0.05
        def make(index, sockets):
            raise KeyError("broken")
        with listeners.shared(("127.0.0.1", 0), "", 2) as sockets:
            try:
                workers.Supervisor(make, sockets, Cells(2), drain_s=1).run(lambda: None)
            except SystemFailureError as error:
                print(error)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert "the registry's workers do not start: worker" in done.stdout
    assert "KeyError: 'broken'" in done.stderr


# Metrics and logs


def test_metrics_and_access_log_of_all_workers(tmp_path: Path) -> None:
    """One scrape counts what every worker did, also one that was replaced; SIGHUP opens the log anew."""
    metrics, log = free_port(), tmp_path / "access.log"
    config = configured(tmp_path, f'[metrics]\naddress = "127.0.0.1:{metrics}"\n'
                                  f'[log]\naccess = "json"\nfile = "{log}"\n')

    def scrape() -> str:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", metrics, timeout=20)) as connection:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()

    with running(config, "--workers", "2") as server:
        server.push_image("a", "v1", b"x" * 1000)
        for _ in range(20):
            assert server.request("GET", "/v2/a/manifests/v1")[0] == 200
        counted = 'requests_total{method="GET",route="manifests",status="200"} 20\n'
        eventually(lambda: counted in scrape(), what="all are counted")  # a reply comes before its count
        os.kill(server.workers()[0], signal.SIGKILL)
        eventually(lambda: "pallet_registry_worker_restarts_total 1\n" in scrape(), what="the restart is counted")
        text = scrape()
        assert counted in text
        assert 'requests_total{method="PUT",route="manifests",status="201"} 1\n' in text
        assert 'request_duration_seconds_count{route="manifests"} 21\n' in text
        assert "pallet_registry_storage_bytes 1000\n" in text
        assert "pallet_registry_uploads_in_progress 0\n" in text
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert sum(line["path"] == "/v2/a/manifests/v1" for line in lines) == 21
        log.rename(tmp_path / "old.log")
        server.process.send_signal(signal.SIGHUP)
        eventually(log.exists, what="a new log is open")
        eventually(lambda: server.request("GET", "/v2/other")[0] == 404 and "/v2/other" in log.read_text(),
                   what="requests are in the new log")


# Webhooks


class Receiver(BaseHTTPRequestHandler):
    """Notes envelopes; answers with ``server.status``."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((dict(self.headers.items()), body))  # type: ignore[attr-defined]
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextlib.contextmanager
def receiver(port: int, status: int = 200) -> Iterator[list[tuple[dict[str, str], bytes]]]:
    server = ThreadingHTTPServer(("127.0.0.1", port), Receiver)
    server.seen, server.status = [], status  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.seen  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def events(seen: list[tuple[dict[str, str], bytes]]) -> list[dict[str, object]]:
    return [event for _, body in seen for event in json.loads(body)["events"]]


def test_webhooks_survive_everything(tmp_path: Path) -> None:
    """No receiver, a kill -9 of all processes, a receiver that fails at first: each event arrives, signed."""
    port = free_port()
    config = configured(tmp_path, f'[[webhook]]\nurl = "http://127.0.0.1:{port}/hook"\nsecret = "s3cret"\n'
                                  'events = ["push", "delete", "pull"]\nrepositories = ["a*"]\ntimeout_s = 1.0\n'
                                  '[webhook.headers]\nX-Team = "blue"\n')
    with running(config, "--workers", "2") as server:
        server.push_image("ab", "v1", b"one")
        server.push_image("other", "v1", b"two")
        assert server.request("GET", "/v2/ab/manifests/v1")[0] == 200
        assert server.request("DELETE", "/v2/ab/manifests/v1")[0] == 202
        server.kill()
        server.process.wait()
    with receiver(port, status=503) as refused, running(config, "--workers", "2"):
        eventually(lambda: refused, what="an attempt was refused")
    with receiver(port) as seen, running(config, "--workers", "2"):
        eventually(lambda: {(event["action"], event["id"]) for event in events(seen)} != set()
                   and len({event["id"] for event in events(seen)}) == 3, what="all came", timeout_s=30)
        found = {str(event["action"]): event for event in events(seen)}
    assert set(found) == {"push", "pull", "delete"}
    target = found["push"]["target"]
    assert isinstance(target, dict)
    assert (target["repository"], target["tag"], target["mediaType"]) == ("ab", "v1", MANIFEST)
    assert target["digest"] == digests.of_bytes(stores.image([digests.of_bytes(b"one")]).raw)
    assert target["references"][0]["digest"] == digests.of_bytes(b"one")
    assert found["delete"]["target"] == {"repository": "ab", "tag": "v1"}
    for headers, body in seen:
        assert headers["Content-Type"] == "application/vnd.docker.distribution.events.v2+json"
        assert headers["X-Hub-Signature-256"] == signature("s3cret", body)
        assert headers["X-Team"] == "blue"


def test_a_notification_is_given_up_after_its_retries(tmp_path: Path) -> None:
    """And is then a figure, not a load; a push never waits for a receiver that hangs."""
    port, metrics = free_port(), free_port()
    config = configured(tmp_path, f'[metrics]\naddress = "127.0.0.1:{metrics}"\n'
                                  f'[[webhook]]\nurl = "http://127.0.0.1:{port}/"\nretries = 0\ntimeout_s = 30.0\n')

    def figure(line: str) -> bool:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", metrics, timeout=20)) as connection:
            connection.request("GET", "/metrics")
            return f"{line}\n" in connection.getresponse().read().decode()

    with socket.create_server(("127.0.0.1", port)) as silent, running(config, "--workers", "1") as server:
        server.push_image("a", "v1", b"x")
        connection, _ = silent.accept()  # it hangs there, and pushes go on
        server.push_image("a", "v2", b"y")
        connection.close()
        silent.accept()[0].close()
        eventually(lambda: figure("pallet_registry_webhook_dead 2"), what="both are given up")
        assert figure("pallet_registry_webhook_pending 0")


@pytest.mark.needs("postgresql")
def test_one_replica_delivers_each(tmp_path: Path, postgres_server: str) -> None:
    """Two replicas over one queue: every notification once, while nothing fails."""
    port, url = free_port(), stores.new_database(postgres_server)
    text = f'[[webhook]]\nurl = "http://127.0.0.1:{port}/"\n'
    config = tmp_path / "registry.toml"
    config.write_text(f'database = "{url}"\n[storage]\nroot = "{tmp_path / "store"}"\nmin_free_bytes = 0\n{text}')
    with receiver(port) as seen, running(config, "--workers", "2") as one, running(config, "--workers", "2") as two:
        for number in range(20):
            (one, two)[number % 2].push_image("a", f"v{number}", b"x" * number)
        eventually(lambda: len(events(seen)) >= 20, what="all came")
    tags = [event["target"]["tag"] for event in events(seen)]  # type: ignore[index]
    assert sorted(tags) == sorted(f"v{number}" for number in range(20))
