"""The daemon is killed in the middle of a load, an import or a commit: nothing half-made stays."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import pallet_command
from tests.support.layers import Member, build
from tests.support.scratch import busybox_tar
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.daemon import Daemon

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "busybox")

BIG = build(Member("big", os.urandom(6_000_000)))
TOP = build(Member("top", b"top"))
LAYERS = {"1/layer.tar": busybox_tar(), "2/layer.tar": BIG, "3/layer.tar": TOP}
CONFIG = json.dumps({
    "architecture": "amd64", "os": "linux", "config": {"Cmd": ["cat", "/top"]}, "rootfs": {
        "type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in LAYERS.values()]},
}).encode()
DOCUMENTS = {"c.json": CONFIG, "manifest.json": json.dumps([
    {"Config": "c.json", "RepoTags": ["loaded:1"], "Layers": list(LAYERS)}]).encode()}
# The daemon hands a stream on in pieces: padding pushes what is before it through.
PADDING = os.urandom(400_000)
ARCHIVE = build(*(Member(name, data) for name, data in {
    **LAYERS, "padding": PADDING, **DOCUMENTS, "more": PADDING}.items()))
_PLACES = ("content/ingest", "snapshots/draft", "snapshots/trash", "snapshots/l", "content/blobs/sha256")


def there(daemon: Daemon) -> set[str]:
    """Everything under the data root that images are made of."""
    return {f"{place}/{path.name}" for place in _PLACES if (daemon.data_root / place).is_dir()
            for path in (daemon.data_root / place).iterdir()}


def count(daemon: Daemon, place: str) -> int:
    return len(list((daemon.data_root / place).iterdir()))


def images(daemon: Daemon) -> set[str]:
    return {tag for row in daemon.api.get("/images/json") for tag in row["RepoTags"] or ()}


def assert_sound(daemon: Daemon) -> None:
    """Trash is taken out behind the start; a check finds nothing at all."""
    eventually(lambda: not count(daemon, "content/ingest") + count(daemon, "snapshots/draft")
               + count(daemon, "snapshots/trash"), what="everything half-made is gone")
    found = daemon.cli(pallet_command()).run("system", "check", "-q")
    assert (found.code, found.text) == (0, "")


@contextlib.contextmanager
def sending(daemon: Daemon, path: str, body: bytes) -> Iterator[socket.socket]:
    """A request whose chunked body has begun with ``body`` and not ended."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(daemon.socket))
        client.sendall(f"POST {path} HTTP/1.1\r\nHost: d\r\nContent-Type: application/x-tar\r\n"
                       f"Transfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n".encode() + body + b"\r\n")
        yield client


MOMENTS: dict[str, tuple[int, Callable[[Daemon], bool]]] = {
    "in the first layer": (300_000, lambda daemon: count(daemon, "snapshots/draft") > 0),
    "in a layer above": (ARCHIVE.index(b"2/layer.tar") + 3_000_000, lambda daemon: count(
        daemon, "snapshots/l") == 1 and count(daemon, "content/ingest") == 1),
    "before the documents": (ARCHIVE.index(b"c.json\0"), lambda daemon: count(daemon, "snapshots/l") == 3),
    "before the end": (len(ARCHIVE), lambda daemon: count(daemon, "snapshots/l") == 3),
}


@pytest.mark.parametrize(("driver", "moment"), [*(("overlay2", moment) for moment in MOMENTS), pytest.param(
    "erofs", "in a layer above", marks=pytest.mark.needs("erofs"))])
def test_load(fresh_palletd: Callable[..., Daemon], driver: str, moment: str) -> None:
    """At moments that the client makes by holding back the rest."""
    daemon = fresh_palletd("--storage-driver", driver, images=False)
    size, reached = MOMENTS[moment]
    with sending(daemon, "/images/load", ARCHIVE[:size]):
        eventually(lambda: reached(daemon), what=moment)
        daemon.kill()
    daemon.start()
    eventually(lambda: not there(daemon), what="nothing of the load is left")
    assert images(daemon) == set()
    assert_sound(daemon)
    docker = daemon.cli()
    assert docker.ok("load", stdin=ARCHIVE) == "Loaded image: loaded:1"
    assert docker.ok("run", "--rm", "loaded:1") == "top"
    assert_sound(daemon)


def test_load_that_has_come_whole(fresh_palletd: Callable[..., Daemon]) -> None:
    """Killed while it records: the image is there with everything, or nothing of it is."""
    daemon = fresh_palletd(images=False)
    docker = daemon.cli()
    for until in ("sent", "documents", "answered"):
        with sending(daemon, "/images/load?quiet=1", ARCHIVE) as client:
            client.sendall(b"0\r\n\r\n")
            if until == "documents":
                name = hashlib.sha256(CONFIG).hexdigest()
                eventually((daemon.data_root / "content/blobs/sha256" / name).exists, interval_s=0.0005)
            if until == "answered":
                answer = b""
                while b"Loaded image" not in answer:
                    data = client.recv(4096)
                    assert data
                    answer += data
            daemon.kill()
        daemon.start()
        assert_sound(daemon)
        found = images(daemon)
        assert until != "answered" or found
        if found:
            assert docker.ok("run", "--rm", "loaded:1") == "top"
            docker.ok("rmi", "loaded:1")
        eventually(lambda: not there(daemon), what="nothing is left")


@pytest.mark.parametrize("moment", ["in the middle", "before the end"])
def test_import(fresh_palletd: Callable[..., Daemon], moment: str) -> None:
    daemon = fresh_palletd(images=False)
    whole = moment == "before the end"
    with sending(daemon, "/images/create?fromSrc=-&repo=made&tag=1", BIG if whole else BIG[:3_000_000]):
        eventually(lambda: sum(path.stat().st_size for path in (daemon.data_root / "content/ingest").iterdir())
                   >= (len(BIG) - 500_000 if whole else 2_000_000), what=moment)
        daemon.kill()
    daemon.start()
    eventually(lambda: not there(daemon), what="nothing of the import is left")
    assert_sound(daemon)
    daemon.cli().ok("import", "-", "made:1", stdin=BIG)
    assert images(daemon) == {"made:1"}
    assert_sound(daemon)


def test_commit(fresh_palletd: Callable[..., Daemon]) -> None:
    """The container goes on, thawed, and can be committed afterwards."""
    daemon = fresh_palletd()
    docker = daemon.cli()
    docker.ok("run", "-d", "--name", "source", "busybox", "sh", "-c",
              "dd if=/dev/urandom of=/big bs=1M count=40 2>/dev/null; touch /done; exec sleep 600")
    eventually(lambda: docker.run("exec", "source", "test", "-e", "/done").code == 0, what="the file is written")
    before = there(daemon)
    with subprocess.Popen([*docker.argv, "-H", daemon.host, "commit", "source", "made:1"], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as client:
        eventually(lambda: any(path.stat().st_size for path in (daemon.data_root / "content/ingest").iterdir()),
                   interval_s=0.0005, what="the layer is on its way")
        daemon.kill()
        assert client.wait(20) != 0
    daemon.start()
    assert_sound(daemon)
    assert "made:1" not in images(daemon)
    eventually(lambda: there(daemon) == before, what="nothing of the commit is left")
    assert docker.ok("exec", "source", "wc", "-c", "/big") == f"{40 << 20} /big"
    docker.ok("commit", "source", "made:1")
    assert docker.ok("run", "--rm", "made:1", "wc", "-c", "/big") == f"{40 << 20} /big"
    assert_sound(daemon)
