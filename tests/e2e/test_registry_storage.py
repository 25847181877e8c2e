"""The registry's store as a user has it: replicas, kills, a full disk, the older layout."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from pallet.registry.check import check
from pallet.registry.store import open_store
from pallet.spec import digest as digests
from tests.support import registrystore as stores
from tests.support.daemon import pallet_command
from tests.support.registry import MANIFEST, BuiltImage, build_image
from tests.support.registryserver import Server
from tests.support.scratch import TreeTar
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from pallet.registry.config import S3Config

MIB = 1 << 20


def command(*arguments: Any) -> tuple[int, str]:
    """``pallet registry …``: exit code and output."""
    done = subprocess.run([*pallet_command(), "registry", *map(str, arguments)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# Replicas


@pytest.mark.needs("object_store", "postgresql")
def test_a_push_survives_its_replica(tmp_path: Path, s3_server: S3Config, postgres_server: str) -> None:
    """A client's replica is killed while it takes in a chunk; the other one takes it from there."""
    config = written(tmp_path / "registry.toml", f"""
        database = "{stores.new_database(postgres_server)}"
        [gc]
        grace_s = 0
        [storage.s3]
        bucket = "test"
        prefix = "{tmp_path.name}/"
        endpoint = "{s3_server.endpoint}"
        access_key = "{s3_server.access_key}"
        secret_key = "{s3_server.secret_key}"
        part_bytes = {5 * MIB}
        redirect = false
    """)
    one, two = Server(config), Server(config)
    try:
        chunks = [os.urandom(6 * MIB), os.urandom(100), os.urandom(7 * MIB)]
        whole = b"".join(chunks)
        status, headers, _ = one.request("POST", "/v2/a/blobs/uploads/")
        location = headers["location"]
        assert status == 202
        assert one.request("PATCH", location, chunks[0])[0] == 202
        assert two.request("PATCH", location, chunks[1])[0] == 202
        # The third chunk hangs halfway when its replica dies.
        connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=20)
        connection.putrequest("PATCH", location)
        connection.putheader("Content-Length", str(len(chunks[2])))
        connection.endheaders()
        connection.send(chunks[2][:6 * MIB])
        one.kill()
        one.process.wait()
        connection.close()
        status, headers, _ = two.request("GET", location)
        assert (status, headers["range"]) == (204, f"0-{6 * MIB + 99}")
        first = 6 * MIB + 100
        status, headers, reply = two.request("PATCH", location, chunks[2],
                                             Content_Range=f"{first}-{len(whole) - 1}")
        assert (status, headers.get("range")) == (202, f"0-{len(whole) - 1}"), reply
        digest = digests.of_bytes(whole)
        assert two.request("PUT", f"{location}?digest={digest}")[0] == 201
        record = stores.image([digest])
        assert two.request("PUT", "/v2/a/manifests/v1", record.raw, Content_Type=MANIFEST)[0] == 201
        status, _, got = two.request("GET", f"/v2/a/blobs/{digest}")
        assert status == 200
        assert got == whole
        assert two.request("HEAD", f"/v2/a/blobs/{digest}")[1]["content-length"] == str(len(whole))
        assert command("check", "--config", config) == (0, "The store is clean\n")
        assert two.request("DELETE", f"/v2/a/manifests/{record.digest}")[0] == 202
        code, text = command("gc", "--config", config)
        assert (code, text) == (0, f"Removed 1 blobs and 0 stale uploads: {len(whole)} bytes freed\n")
        assert two.request("HEAD", f"/v2/a/blobs/{digest}")[0] == 404
    finally:
        for server in (one, two):
            if server.process.poll() is None:
                server.stop()


class Balancer:
    """Passes connections on to the first server that takes them; ``kill_after`` bytes end the first."""

    def __init__(self, servers: list[Server], kill_after: int) -> None:
        self._servers, self._left = servers, kill_after
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(client)
            for server in self._servers:
                with contextlib.suppress(OSError):
                    backend = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
                    threading.Thread(target=self._copy, args=(backend, client), daemon=True).start()
                    self._copy(client, backend, counted=server is self._servers[0])
                    return

    def _copy(self, source: socket.socket, target: socket.socket, *, counted: bool = False) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
                self._left -= len(data) if counted else 0
                if counted and self._left < 0:
                    self._servers[0].kill()
        with contextlib.suppress(OSError):  # also after a reset: the other side must not wait for ever
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.close()


@pytest.mark.needs("object_store", "postgresql", "skopeo")
def test_skopeo_goes_on_at_the_other_replica(tmp_path: Path, s3_server: S3Config, postgres_server: str) -> None:
    """A real client's push through a balancer; the replica it began on is killed within a layer."""
    config = written(tmp_path / "registry.toml", f"""
        database = "{stores.new_database(postgres_server)}"
        [gc]
        grace_s = 0
        [storage.s3]
        bucket = "test"
        prefix = "{tmp_path.name}/"
        endpoint = "{s3_server.endpoint}"
        access_key = "{s3_server.access_key}"
        secret_key = "{s3_server.secret_key}"
    """)
    layers = [TreeTar(), TreeTar()]
    for number, layer in enumerate(layers):
        layer.file(f"random{number}", os.urandom(12 * MIB))
    built = build_image([layer.finish() for layer in layers])
    layout = oci_layout(tmp_path / "image", built)
    one, two = Server(config), Server(config)
    balancer = Balancer([one, two], kill_after=8 * MIB)
    try:
        # skopeo itself tries only some failures again, this is none of them: its user does.
        argv = ["skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:v1",
                f"docker://127.0.0.1:{balancer.port}/a/b:v1"]
        first = subprocess.run(argv, capture_output=True, text=True, timeout=100)
        assert first.returncode == 1, "the replica it talked to was killed"
        again = subprocess.run(argv, capture_output=True, text=True, timeout=100)
        assert again.returncode == 0, again.stderr
        assert one.process.wait(10) == -signal.SIGKILL
        status, _, raw = two.request("GET", "/v2/a/b/manifests/v1")
        assert (status, raw) == (200, built.manifest)
        # Back again; layers come from the object store itself, by redirects.
        back = subprocess.run(["skopeo", "copy", "--src-tls-verify=false",
                               f"docker://127.0.0.1:{two.port}/a/b:v1", f"dir:{tmp_path / 'back'}"],
                              capture_output=True, text=True, timeout=100)
        assert back.returncode == 0, back.stderr
        for digest, data in built.blobs.items():
            assert (tmp_path / "back" / digests.encoded(digest)).read_bytes() == data
        assert command("check", "--config", config) == (0, "The store is clean\n")
    finally:
        balancer.close()
        two.stop()
        if one.process.poll() is None:
            one.stop()


def oci_layout(root: Path, built: BuiltImage) -> Path:
    """An OCI layout with one image, tagged v1."""
    (root / "blobs/sha256").mkdir(parents=True)
    for data in (*built.blobs.values(), built.manifest):
        (root / "blobs/sha256" / digests.encoded(digests.of_bytes(data))).write_bytes(data)
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [
        {"mediaType": built.media_type, "digest": built.digest, "size": len(built.manifest),
         "annotations": {"org.opencontainers.image.ref.name": "v1"}}]}))
    return root


# Kills

CALLS = {"write", "rename", "fsync", "fdatasync", "ftruncate", "execute", "mkdir", "unlink", "rmdir", "sendfile",
         "open"}


def push_and_die(root: Path, at: int) -> None:
    """Push an image in two chunks by two processes' names; SIGKILL before the ``at``-th call."""
    left = at

    def watch(frame: object, event: str, argument: Any) -> None:
        nonlocal left
        if event == "c_call" and getattr(argument, "__name__", "") in CALLS:
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    store = open_store(stores.settings(root))
    sys.setprofile(watch)
    upload = store.uploads.begin("a")
    upload.append(io.BytesIO(b"one"))
    store.uploads._process = "other"
    upload.append(io.BytesIO(b"two"))
    upload.finish(digests.of_bytes(b"onetwo"))
    store.put_manifest("a", stores.image([digests.of_bytes(b"onetwo")]), ["v1"])
    sys.setprofile(None)


def test_a_kill_at_any_call_of_a_push_leaves_a_clean_store(tmp_path: Path) -> None:
    """SIGKILL before every system call and statement in turn; the push works when tried again."""
    killed = 0
    for at in range(1, 200):
        root = tmp_path / str(at)
        pid = os.fork()
        if pid == 0:
            try:
                push_and_die(root, at)
            except BaseException:  # noqa: BLE001
                os._exit(1)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status in (0, -signal.SIGKILL)
        with contextlib.closing(open_store(stores.settings(root))) as store:
            assert list(check(store)) == [], f"killed before call {at}"
            digest = stores.push_blob(store, "a", b"onetwo")
            store.put_manifest("a", stores.image([digest]), ["v1"])
            assert stores.content(store, "a", digest) == b"onetwo"
            for record in store.metadata.uploads.all():
                store.uploads.drop(record)
            assert len(list(store.driver.objects())) == 1
            assert list(store.driver.uploads()) == list(check(store)) == []
        if status == 0:
            break
        killed += 1
    assert killed > 40


def test_a_killed_server_goes_on_where_it_was(tmp_path: Path) -> None:
    config = written(tmp_path / "registry.toml", f'[storage]\nroot = "{tmp_path / "store"}"\n[gc]\ngrace_s = 0')
    server = Server(config)
    location = server.request("POST", "/v2/a/blobs/uploads/")[1]["location"]
    assert server.request("PATCH", location, b"one")[0] == 202
    server.kill()
    server.process.wait()
    assert command("check", "--config", config) == (0, "The store is clean\n")
    server = Server(config)
    try:
        assert server.request("PUT", f"{location}?digest={digests.of_bytes(b'onetwo')}", b"two")[0] == 201
    finally:
        server.stop()


# Damage


def test_check_finds_and_repairs(tmp_path: Path) -> None:
    root = tmp_path / "store"
    config = written(tmp_path / "registry.toml", f'[storage]\nroot = "{root}"\n[gc]\ngrace_s = 0')
    with contextlib.closing(open_store(stores.settings(root))) as store:
        bad = stores.push_blob(store, "a", b"layer")
        record = stores.image([bad])
        store.put_manifest("a", record, ["v1"])
        path = root / store.blob("a", bad).location
    path.write_bytes(b"LAYER")
    (path.parent / ("0" * 64 + "-" + "1" * 32)).write_bytes(b"stray")
    (root / "uploads" / ("2" * 32)).mkdir()
    code, text = command("check", "--config", config)
    assert code == 1
    assert f"blob {bad}: its content is damaged\n" in text
    assert f"a@{record.digest}: needs the damaged blob {bad}\n" in text
    assert "nothing names this object\n" in text
    assert "parts of no session\n" in text
    code, text = command("check", "--repair", "--config", config)
    assert code == 1, "the manifest lacks its blob until it is pushed again"
    assert command("check", "--config", config) == (0, "The store is clean\n")
    with contextlib.closing(open_store(stores.settings(root))) as store:
        stores.push_blob(store, "a", b"layer")
        store.put_manifest("a", record, ["v1"])
        assert stores.content(store, "a", bad) == b"layer"


@pytest.mark.parametrize("verb", ["gc", "check"])
def test_a_wrong_root_is_refused(tmp_path: Path, verb: str) -> None:
    code, text = command(verb, "--root", tmp_path / "typo")
    assert code != 0
    assert f"there is no registry at {tmp_path / 'typo'}" in text
    assert not (tmp_path / "typo").exists()


def test_older_layout(tmp_path: Path) -> None:
    """What the version before the database kept as files is served as before."""
    root, name = tmp_path / "store", "deep/er/name"
    base = root / "repositories" / name
    layer, record = b"layer", stores.image([digests.of_bytes(b"layer")])

    def put(path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    for data in (layer, record.raw):
        encoded = digests.encoded(digests.of_bytes(data))
        put(root / "blobs/sha256" / encoded, data)
        put(base / "_blobs/sha256" / encoded, b"")
    put(base / "_manifests/sha256" / digests.encoded(record.digest), record.media_type.encode())
    put(base / "_tags/v1", record.digest.encode())
    put(root / "uploads/0123", b"half")
    config = written(tmp_path / "registry.toml", f'[storage]\nroot = "{root}"\n[gc]\ngrace_s = 0')
    server = Server(config)
    try:
        status, headers, raw = server.request("GET", f"/v2/{name}/manifests/v1")
        assert (status, headers["content-type"], raw) == (200, record.media_type, record.raw)
        assert server.request("GET", f"/v2/{name}/blobs/{digests.of_bytes(layer)}")[2] == layer
        assert json.loads(server.request("GET", "/v2/_catalog")[2]) == {"repositories": [name]}
    finally:
        server.stop()
    assert command("gc", "--config", config)[0] == 0
    assert command("check", "--config", config) == (0, "The store is clean\n")


# A full disk


@pytest.mark.needs("root")
@pytest.mark.parametrize("low_water", [True, False])
def test_read_only_while_the_disk_is_full(tmp_path: Path, low_water: bool) -> None:
    """Writes get 503, reads and deletions go on, nothing is damaged, and it recovers by itself."""
    root = tmp_path / "store"
    root.mkdir()
    free = 4 * MIB if low_water else 0
    config = written(tmp_path / "registry.toml",
                     f'[storage]\nroot = "{root}"\nmin_free_bytes = {free}\n[gc]\ngrace_s = 0')
    server = Server(config, wrap=("unshare", "-m", "sh", "-c",
                                  f'mount -t tmpfs -o size=16m none {root} && exec "$@"', "sh"))
    inside = f"/proc/{server.process.pid}/root{root}"
    try:
        server.push_image("a", "v1", b"layer" * 1000)
        server.push_image("a", "v2", b"other")
        location = server.request("POST", "/v2/a/blobs/uploads/")[1]["location"]
        room = os.statvfs(inside)
        with open(f"{inside}/filler", "wb") as filler:
            filler.write(b"x" * (room.f_bavail * room.f_frsize - MIB))
        data = os.urandom(2 * MIB - 200_000)

        def refused() -> bool:
            return server.request("PATCH", location, data)[0] == 503

        eventually(refused, what="writes are refused")
        status, headers, body = server.request("PATCH", location, data)
        assert (status, json.loads(body)["errors"][0]["code"]) == (503, "UNAVAILABLE")
        assert "retry-after" in headers
        digest = digests.of_bytes(b"layer" * 1000)
        assert server.request("GET", f"/v2/a/blobs/{digest}")[2] == b"layer" * 1000
        assert server.request("DELETE", "/v2/a/manifests/v2")[0] == 202
        os.unlink(f"{inside}/filler")

        def accepted() -> bool:
            return server.request("PATCH", location, data)[0] == 202

        eventually(accepted, what="writes are taken again")
        digest = digests.of_bytes(data)
        assert server.request("PUT", f"{location}?digest={digest}")[0] == 201
        server.push_image("a", "v3", b"more")
        # The store is visible in the server's mount namespace only.
        done = subprocess.run(["nsenter", "-m", "-t", str(server.process.pid), *pallet_command(), "registry", "check",
                               "--config", config], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "The store is clean\n"), done.stderr
    finally:
        server.stop()


@pytest.mark.needs("postgresql")
def test_a_restarted_database(tmp_path: Path) -> None:
    """While it is away requests get 503; afterwards the replica goes on."""
    root = tmp_path / "store"
    with contextlib.ExitStack() as servers:
        pg = stores.PostgresServer(tmp_path / "pg")
        servers.callback(pg.remove)
        pg.start()
        config = written(tmp_path / "registry.toml",
                         f'database = "{stores.new_database(pg.url)}"\n[storage]\nroot = "{root}"')
        server = Server(config)
        servers.callback(server.stop)
        digest = server.push("a", b"data")
        pg.stop()
        status, _, body = server.request("GET", f"/v2/a/blobs/{digest}")
        assert (status, json.loads(body)["errors"][0]["code"]) == (503, "UNAVAILABLE")
        pg.start()

        def found() -> bool:
            return server.request("GET", f"/v2/a/blobs/{digest}")[2] == b"data"

        eventually(found, what="the registry goes on")
        server.push("a", b"more")
