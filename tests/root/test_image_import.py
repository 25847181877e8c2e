"""image/importer and image/repair with the real worker function, run in a child as the zygote does."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pallet.errors import DataLossError, InvalidParameterError
from pallet.image.importer import Importer
from pallet.image.repair import repair
from pallet.image.store import ImageStore
from pallet.layer import worker
from pallet.layer.model import ArchiveError, BreakoutError
from pallet.paths import DataPaths
from pallet.spec import digest as digests
from pallet.spec import image as images
from pallet.spec import platform as platforms
from pallet.spec.reference import parse_normalized
from pallet.storage.content import ContentStore
from pallet.storage.metadata import Metadata
from pallet.storage.overlay import OverlaySnapshotter
from tests.support.layers import COMPRESSORS, Member, build, directory, hardlink, tree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("root", "overlay")

ROOT = build(directory("bin"), Member("bin/sh", b"#!" + bytes(70_000), mode=0o755),
             hardlink("bin/bash", "bin/sh"), Member("etc/hostname", b"x"))


class ForkedWorkers:
    """Runs worker functions in forked children."""

    async def run_worker(self, kind: str, request: msgspec.Struct, fds: Iterable[int] = (), *,
                         reply_type: Any) -> Any:
        assert kind == "layer.apply"
        read_fd, write_fd = os.pipe()
        passed = [os.dup(fd) for fd in fds]
        keep = {*passed, write_fd}
        child = os.fork()
        if child == 0:
            for name in os.listdir("/proc/self/fd"):
                if int(name) > 2 and int(name) not in keep:
                    try:
                        os.close(int(name))
                    except OSError:
                        continue
            os.write(write_fd, worker.run_apply(msgspec.json.encode(request), passed))
            os._exit(0)
        for fd in (write_fd, *passed):
            os.close(fd)
        try:
            raw = await asyncio.to_thread(os.read, read_fd, 1 << 20)
        except asyncio.CancelledError:
            os.kill(child, signal.SIGKILL)  # as the supervisor does
            raise
        finally:
            os.waitpid(child, 0)
            os.close(read_fd)
        return msgspec.json.decode(raw, type=reply_type)


class World:
    def __init__(self, root: Path) -> None:
        self.paths = DataPaths(root)
        self.metadata = Metadata(self.paths.database)
        self.content = ContentStore(self.paths)
        self.open()

    def open(self) -> None:
        self.snapshots = OverlaySnapshotter(self.paths, self.metadata)
        self.images = ImageStore(self.content, self.snapshots, self.metadata, users=lambda _id: [])
        self.importer = Importer(self.images, ForkedWorkers())

    def left(self) -> list[str]:
        """Whatever is on disk of no image."""
        self.snapshots.drain()
        return [*os.listdir(self.paths.ingest), *os.listdir(self.paths.drafts),
                *os.listdir(self.paths.trash), *map(str, self.metadata.leases())]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.snapshots.close()
    made.metadata.close()


async def pieces(data: bytes, size: int = 5000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start:start + size]


def unpacked(world: World, diff_ids: Iterable[Any]) -> dict[str, str]:
    mount = world.snapshots.root_mount_of_layers(list(diff_ids))
    return {name: text[:8] for name, text in tree(world.paths.snapshots / mount.lower[0]).items()}


@pytest.mark.parametrize("compression", COMPRESSORS)
async def test_an_image_of_a_tar(world: World, compression: str) -> None:
    image = await world.importer.run(
        pieces(COMPRESSORS[compression](ROOT)), reference=parse_normalized("base"),
        changes=["CMD sh", "ENV A=b"], message="made by hand")
    assert image.repo_tags == ("base:latest",)
    assert list(map(str, image.diff_ids)) == [digests.of_bytes(ROOT)]
    assert image.size_bytes == 70_003
    assert unpacked(world, image.diff_ids) == {
        "bin": "dir", "bin/sh": "file:#!\0", "bin/bash": "file:#!\0", "etc": "dir",
        "etc/hostname": "file:x"}
    config = image.config
    assert config.config is not None
    assert (config.config.cmd, config.config.env) == (["/bin/sh", "-c", "sh"], ["A=b"])
    assert config.comment == "made by hand"
    assert config.platform == platforms.host()
    assert config.history is not None
    assert [(step.comment, step.created, step.empty_layer) for step in config.history] == [
        ("made by hand", image.created, False)]
    assert world.left() == []


@pytest.mark.parametrize(("compression", "manifest_type", "layer_type"), [
    ("none", images.DOCKER_MANIFEST, images.DOCKER_LAYER_GZIP),
    ("xz", images.DOCKER_MANIFEST, images.DOCKER_LAYER_GZIP),
    ("gzip", images.DOCKER_MANIFEST, images.DOCKER_LAYER_GZIP),
    ("zstd", images.OCI_MANIFEST, images.OCI_LAYER_ZSTD)])
async def test_it_can_be_pushed(
    world: World, compression: str, manifest_type: str, layer_type: str
) -> None:
    """Everything a push sends is in the content store, with true sizes and types."""
    packed = COMPRESSORS[compression](ROOT)
    image = await world.importer.run(pieces(packed), reference=None)
    digest, manifest = world.images.manifest(image.id)
    assert images.sniff_media_type(world.content.read(digest)) == manifest_type
    [layer] = manifest.layers
    assert layer.media_type == layer_type
    for part in (manifest.config, layer):
        assert world.content.size(part.digest) == part.size
    if compression in ("gzip", "zstd"):
        assert world.content.read(layer.digest) == packed


async def test_defaults_and_platform(world: World) -> None:
    image = await world.importer.run(pieces(ROOT), reference=None,
                                     platform=platforms.parse("linux/arm/v6"))
    assert image.config.comment == "Imported from -"
    assert (image.config.architecture, image.config.variant) == ("arm", "v6")
    assert image.is_dangling


async def broken(data: bytes, error: BaseException) -> AsyncIterator[bytes]:
    yield data
    raise error


@pytest.mark.parametrize(("source", "error"), [
    (lambda: pieces(ROOT[:40_000]), ArchiveError),
    (lambda: pieces(COMPRESSORS["gzip"](ROOT)[:-20]), ArchiveError),
    (lambda: pieces(COMPRESSORS["xz"](ROOT)[:-20]), DataLossError),
    (lambda: pieces(b"BZh9" + b"x" * 5000), DataLossError),
    (lambda: pieces(b"no archive at all" * 100), ArchiveError),
    (lambda: pieces(build(Member("../x", b"evil"))), BreakoutError),
    (lambda: broken(ROOT[:40_000], ConnectionError("gone")), ConnectionError),
])
async def test_failures_leave_nothing(world: World, source: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        await world.importer.run(source(), reference=parse_normalized("base"))
    assert world.images.list() == []
    assert world.snapshots.layers() == []
    assert list(world.content.walk()) == []
    assert world.left() == []


async def test_a_bad_change_is_refused_before_anything(world: World) -> None:
    with pytest.raises(InvalidParameterError, match="run is not a valid change command"):
        await world.importer.run(pieces(ROOT), reference=None, changes=["RUN x"])
    assert world.left() == []


async def test_a_client_that_goes_leaves_nothing(world: World) -> None:
    started = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield ROOT[:50_000]
        started.set()
        await asyncio.Event().wait()

    work = asyncio.create_task(world.importer.run(endless(), reference=None))
    await started.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert world.left() == []
    assert world.images.list() == []


async def test_layers_lost_in_a_power_cut_come_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_disk(_fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("pallet.storage.layertable.syncfs", no_disk)
    image = await world.importer.run(pieces(ROOT), reference=parse_normalized("base"))
    world.snapshots.prepare("c1", image.diff_ids)
    before = world.snapshots.root_mount("c1")
    world.snapshots.close()
    monkeypatch.setattr("pallet.storage.layertable._boot_id", lambda: "another boot")
    world.open()
    world.snapshots.sweep()
    world.images.collect()
    assert [layer for layer, _ in world.images.missing_layers(image.id)] == list(image.diff_ids)
    assert await repair(world.images, ForkedWorkers()) == 1
    assert world.images.missing_layers(image.id) == []
    assert world.snapshots.root_mount("c1") == before
    assert unpacked(world, image.diff_ids)["bin/sh"] == "file:#!\0"
    assert await repair(world.images, ForkedWorkers()) == 0
    assert world.left() == []
