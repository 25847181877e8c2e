"""What every snapshotter promises (``storage/snapshot.py``), checked on each one by mounting."""

from __future__ import annotations

import hashlib
import os
import signal
import tempfile
import threading
from typing import TYPE_CHECKING

import pytest

from pallet.errors import ConflictError, InvalidParameterError
from pallet.layer.apply import apply
from pallet.layer.erofstarget import write_image
from pallet.paths import DataPaths
from pallet.storage.metadata import Metadata
from pallet.storage.native import NativeSnapshotter
from pallet.storage.overlay import OverlaySnapshotter, erofs_snapshotter
from pallet.storage.snapshot import (
    LayerNotFoundError,
    SnapshotExistsError,
    SnapshotNotFoundError,
)
from pallet.types import DiffID
from tests.support import isolation
from tests.support.isolation import CLONE_NEWNS, run_isolated
from tests.support.layers import Member, build, directory, tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import Any

    from pallet.layer.model import Applied
    from pallet.spec.mounts import RootMount
    from pallet.storage.snapshot import LayerDraft, Snapshotter

pytestmark = pytest.mark.needs("root", "overlay")

KINDS: dict[str, Callable[[DataPaths, Metadata], Snapshotter]] = {
    "overlay": OverlaySnapshotter, "native": NativeSnapshotter, "erofs": erofs_snapshotter}
_MS_BIND, _MS_RDONLY, _MS_REMOUNT = 4096, 1, 32


@pytest.fixture
def paths(tmp_path: Path) -> DataPaths:
    return DataPaths(tmp_path / "data")


@pytest.fixture
def metadata(paths: DataPaths) -> Iterator[Metadata]:
    paths.root.mkdir()
    opened = Metadata(paths.database)
    yield opened
    opened.close()


@pytest.fixture(params=[
    pytest.param(kind, marks=pytest.mark.needs("erofs")) if kind == "erofs" else kind
    for kind in KINDS])
def snapshots(request: pytest.FixtureRequest, paths: DataPaths,
              metadata: Metadata) -> Iterator[Snapshotter]:
    made = KINDS[request.param](paths, metadata)
    yield made
    made.close()


def add_layer(snapshots: Snapshotter, *members: Member) -> DiffID:
    """Unpack and commit a layer; the way a pull goes."""
    draft = snapshots.draft()
    applied = fill(draft, build(*members))
    snapshots.commit_layer(draft, applied.diff_id, applied.size_bytes,
                           implied_dirs=applied.implied_dirs, opaque_root=applied.opaque_root)
    return applied.diff_id


def fill(draft: LayerDraft, archive: bytes) -> Applied:
    """Unpack ``archive`` into ``draft``."""
    with tempfile.TemporaryFile() as source:
        source.write(archive)
        source.flush()
        return unpack_draft(source.fileno(), draft.path)


def unpack_draft(source_fd: int, path: str) -> Applied:
    """Unpack as ``layer.worker`` does."""
    if os.path.isdir(path):
        return apply(source_fd, path)
    image_fd = os.open(path, os.O_RDWR)
    try:
        return write_image(source_fd, image_fd)
    finally:
        os.close(image_fd)


def mounted(root: RootMount, body: Callable[[Path], Any], mount_point: Path) -> Any:
    """Run ``body`` on the mounted root in a child, as the runtime mounts it."""
    mount_point.mkdir(exist_ok=True)

    def child() -> Any:
        os.chdir(root.base_dir)
        if not root.lower and root.upper is not None:
            isolation.mount(root.upper, str(mount_point), flags=_MS_BIND)
        elif len(root.lower) == 1 and root.upper is None:
            isolation.mount(root.lower[0], str(mount_point), flags=_MS_BIND)
            isolation.mount("none", str(mount_point), flags=_MS_BIND | _MS_REMOUNT | _MS_RDONLY)
        else:
            data = ["lowerdir=" + ":".join(root.lower)]
            if root.upper is not None:
                data += [f"upperdir={root.upper}", f"workdir={root.work}"]
            isolation.mount("overlay", str(mount_point), "overlay",
                            data=",".join([*data, *root.options]))
        return body(mount_point)

    return run_isolated(child, CLONE_NEWNS)


def view(snapshots: Snapshotter, layers: Sequence[DiffID], tmp_path: Path) -> dict[str, str]:
    found: dict[str, str] = mounted(snapshots.root_mount_of_layers(layers), tree, tmp_path / "mnt")
    return found


def test_layers_stack_with_whiteouts(snapshots: Snapshotter, tmp_path: Path) -> None:
    base = add_layer(snapshots, directory("etc"), Member("etc/a", b"1"), Member("etc/b", b"1"),
                     directory("var"), Member("var/old", b"1"))
    middle = add_layer(snapshots, Member("etc/.wh.a"), Member("etc/b", b"2"))
    top = add_layer(snapshots, directory("var"), Member("var/.wh..wh..opq"), Member("var/new", b"3"))
    assert view(snapshots, [base], tmp_path) == {
        "etc": "dir", "etc/a": "file:1", "etc/b": "file:1", "var": "dir", "var/old": "file:1"}
    assert view(snapshots, [base, middle, top], tmp_path) == {
        "etc": "dir", "etc/b": "file:2", "var": "dir", "var/new": "file:3"}


def test_a_directory_replaced_by_a_file_and_back(snapshots: Snapshotter, tmp_path: Path) -> None:
    base = add_layer(snapshots, directory("x"), Member("x/in", b"1"), Member("y", b"1"))
    middle = add_layer(snapshots, Member("x", b"2"), directory("y"), Member("y/in", b"2"))
    top = add_layer(snapshots, directory("x"), Member("x/other", b"3"))
    assert view(snapshots, [base, middle], tmp_path) == {
        "x": "file:2", "y": "dir", "y/in": "file:2"}
    assert view(snapshots, [base, middle, top], tmp_path) == {
        "x": "dir", "x/other": "file:3", "y": "dir", "y/in": "file:2"}


def test_the_same_layer_twice(snapshots: Snapshotter, tmp_path: Path) -> None:
    """Overlay refuses one directory twice; images repeat layers all the same."""
    base = add_layer(snapshots, Member("a", b"1"), Member("b", b"1"))
    between = add_layer(snapshots, Member("a", b"2"), Member(".wh.b"), Member("c", b"2"))
    assert view(snapshots, [base, between, base], tmp_path) == {
        "a": "file:1", "b": "file:1", "c": "file:2"}


def test_opaque_root_hides_everything(snapshots: Snapshotter, tmp_path: Path) -> None:
    base = add_layer(snapshots, Member("a", b"1"))
    top = add_layer(snapshots, Member(".wh..wh..opq"), Member("b", b"2"))
    assert view(snapshots, [base, top], tmp_path) == {"b": "file:2"}


def test_settle_gives_implied_directories_their_parents_attributes(
    snapshots: Snapshotter, tmp_path: Path
) -> None:
    base = add_layer(snapshots, directory("./", 0o711, uid=9), directory("tmp", 0o1777),
                     directory("srv", 0o750, uid=7, gid=8),
                     directory("srv/www", 0o2770, uid=7, pax={"SCHILY.xattr.user.k": "v"}))
    hole = add_layer(snapshots, Member("other", b""))
    top = add_layer(snapshots, Member("tmp/x", b"2"), Member("srv/www/index", b"2"),
                    Member("new/y", b"2"))
    snapshots.settle([base, hole, top])
    snapshots.settle([base, hole, top])

    def attributes(root: Path) -> dict[str, tuple[str, int, int]]:
        found = {}
        for name in (".", "tmp", "srv", "srv/www", "new"):
            status = (root / name).stat()
            found[name] = oct(status.st_mode & 0o7777), status.st_uid, status.st_gid
        return found

    root = snapshots.root_mount_of_layers([base, hole, top])
    assert mounted(root, attributes, tmp_path / "mnt") == {
        ".": ("0o711", 9, 0), "tmp": ("0o1777", 0, 0), "srv": ("0o750", 7, 8),
        "srv/www": ("0o2770", 7, 0), "new": ("0o755", 0, 0)}
    assert mounted(root, lambda m: os.getxattr(m / "srv/www", "user.k"), tmp_path / "mnt") == b"v"


def test_settle_does_not_look_behind_whiteouts(snapshots: Snapshotter, tmp_path: Path) -> None:
    base = add_layer(snapshots, directory("d", 0o700, uid=5))
    gone = add_layer(snapshots, Member(".wh.d"))
    top = add_layer(snapshots, Member("d/f", b""))
    snapshots.settle([base, gone, top])
    root = snapshots.root_mount_of_layers([base, gone, top])
    assert mounted(root, lambda m: (m / "d").stat().st_uid, tmp_path / "mnt") == 0


def test_a_container_writes_its_own_layer_only(snapshots: Snapshotter, tmp_path: Path) -> None:
    base = add_layer(snapshots, Member("a", b"1"), Member("b", b"1"))

    def write(root: Path) -> dict[str, str]:
        (root / "a").write_text("mine")
        (root / "b").unlink()
        (root / "new").write_text("12345")
        return tree(root)

    snapshots.prepare("one", [base])
    snapshots.prepare("two", [base])
    expected = {"a": "file:mine", "new": "file:12345"}
    assert mounted(snapshots.root_mount("one"), write, tmp_path / "mnt") == expected
    assert mounted(snapshots.root_mount("one"), tree, tmp_path / "mnt") == expected
    assert mounted(snapshots.root_mount("two"), tree, tmp_path / "mnt") == {
        "a": "file:1", "b": "file:1"}
    assert view(snapshots, [base], tmp_path) == {"a": "file:1", "b": "file:1"}
    assert snapshots.usage("one") > 0
    assert snapshots.usage("two") == 0


def test_volatile_roots_can_be_mounted_again(snapshots: Snapshotter, tmp_path: Path) -> None:
    """The kernel leaves a mark that forbids a second mount; the runtime removes it."""
    snapshots.prepare("one", [add_layer(snapshots, Member("a", b"1"))])
    root = snapshots.root_mount("one", volatile=True)
    assert mounted(root, lambda m: (m / "a").read_bytes(), tmp_path / "mnt") == b"1"


def test_root_of_the_image_shows_in_the_container(snapshots: Snapshotter, tmp_path: Path) -> None:
    snapshots.prepare("one", [add_layer(snapshots, directory("./", 0o700, uid=3, gid=4))])

    def attributes(root: Path) -> tuple[int, int, int]:
        status = root.stat()
        return status.st_mode & 0o7777, status.st_uid, status.st_gid

    assert mounted(snapshots.root_mount("one"), attributes, tmp_path / "mnt") == (0o700, 3, 4)


def test_an_image_without_layers(snapshots: Snapshotter, tmp_path: Path) -> None:
    snapshots.prepare("one", [])
    assert mounted(snapshots.root_mount("one"), tree, tmp_path / "mnt") == {}
    assert view(snapshots, [], tmp_path) == {}


def test_many_layers_fit_in_a_mount(snapshots: Snapshotter, tmp_path: Path) -> None:
    layers = [add_layer(snapshots, Member(f"f{n}", b"x")) for n in range(127)]
    snapshots.prepare("k" * 64, layers)
    assert len(mounted(snapshots.root_mount("k" * 64), tree, tmp_path / "mnt")) == 127


def test_keys(snapshots: Snapshotter) -> None:
    base = add_layer(snapshots, Member("a", b"1"))
    snapshots.prepare("one", [base])
    assert snapshots.has("one")
    assert snapshots.keys() == ["one"]
    with pytest.raises(SnapshotExistsError):
        snapshots.prepare("one", [base])
    for bad in ("", "../x", "a/b", ".", "a:b", "a,b", "x" * 300):
        with pytest.raises(InvalidParameterError):
            snapshots.prepare(bad, [base])
        assert not snapshots.has(bad)
        snapshots.remove(bad)
    snapshots.remove("one")
    snapshots.remove("one")
    assert not snapshots.has("one")
    for ask in (snapshots.root_mount, snapshots.usage):
        with pytest.raises(SnapshotNotFoundError):
            ask("one")


def test_unknown_layers(snapshots: Snapshotter) -> None:
    unknown = DiffID(f"sha256:{hashlib.sha256(b'?').hexdigest()}")
    assert not snapshots.has_layer(unknown)
    with pytest.raises(LayerNotFoundError):
        snapshots.layer_size(unknown)
    with pytest.raises(LayerNotFoundError):
        snapshots.prepare("one", [unknown])
    assert snapshots.keys() == []
    with pytest.raises(LayerNotFoundError):
        snapshots.root_mount_of_layers([unknown])
    snapshots.remove_layer(unknown)


def test_the_first_commit_of_a_layer_stays(snapshots: Snapshotter, paths: DataPaths) -> None:
    first = add_layer(snapshots, Member("a", b"12345"))
    assert snapshots.layer_size(first) == 5
    assert add_layer(snapshots, Member("a", b"12345")) == first
    assert snapshots.layers() == [first]
    snapshots.drain()
    assert os.listdir(paths.drafts) == []
    assert len(os.listdir(paths.layers)) == 1


def test_abort_leaves_nothing_and_does_nothing_after_a_commit(
    snapshots: Snapshotter, paths: DataPaths
) -> None:
    draft = snapshots.draft()
    with open(f"{draft.directory}/f", "w", encoding="utf-8") as file:
        file.write("x")
    snapshots.abort(draft)
    snapshots.abort(draft)
    snapshots.drain()
    assert os.listdir(paths.drafts) == []
    kept = snapshots.draft()
    layer = fill(kept, build(Member("f", b"x"))).diff_id
    snapshots.commit_layer(kept, layer, 0)
    snapshots.abort(kept)
    snapshots.drain()
    assert snapshots.has_layer(layer)
    assert len(os.listdir(paths.layers)) == 1


def test_removed_layers_and_snapshots_are_deleted(snapshots: Snapshotter, paths: DataPaths) -> None:
    base = add_layer(snapshots, directory("d"), Member("d/f", b"x"))
    snapshots.prepare("one", [base])
    snapshots.remove("one")
    snapshots.remove_layer(base)
    assert snapshots.layers() == []
    snapshots.drain()
    assert [os.listdir(path) for path in (paths.trash, paths.active, paths.layers)] == [[], [], []]


def test_a_discarded_layer_comes_back_under_its_number(
    snapshots: Snapshotter, paths: DataPaths, tmp_path: Path
) -> None:
    """Containers go by the number: one made before finds the tree that is committed after."""
    below = add_layer(snapshots, Member("old", b"1"))
    snapshots.prepare("c1", [below])
    before = sorted(os.listdir(paths.layers))
    snapshots.discard_layer(below)
    assert not snapshots.has_layer(below)
    assert os.listdir(paths.layers) == []
    with pytest.raises(LayerNotFoundError):
        snapshots.discard_layer(below)
    assert add_layer(snapshots, Member("old", b"1")) == below
    assert sorted(os.listdir(paths.layers)) == before
    assert mounted(snapshots.root_mount("c1"), lambda root: (root / "old").read_bytes(), tmp_path / "m") == b"1"


def test_strays(snapshots: Snapshotter, paths: DataPaths) -> None:
    """Directories without a record are told and dropped; layers are not."""
    layer = add_layer(snapshots, Member("a"))
    assert snapshots.strays() == []
    (paths.layers / "777").mkdir()
    assert snapshots.strays() == ["l/777"]
    assert snapshots.strays(remove=True) == ["l/777"]
    assert snapshots.strays() == []
    assert snapshots.has_layer(layer)


def test_state_survives_the_daemon(
    snapshots: Snapshotter, paths: DataPaths, metadata: Metadata, tmp_path: Path
) -> None:
    base = add_layer(snapshots, Member("a", b"12345"))
    snapshots.prepare("one", [base])
    snapshots.draft()
    snapshots.close()
    later = type(snapshots)(paths, metadata)  # type: ignore[call-arg]
    try:
        assert later.sweep() == 1
        assert later.keys() == ["one"]
        assert later.layer_size(base) == 5
        assert mounted(later.root_mount("one"), tree, tmp_path / "mnt") == {"a": "file:12345"}
        later.drain()
        assert os.listdir(paths.drafts) == []
    finally:
        later.close()


def _other_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pallet.storage.layertable._boot_id", lambda: "another boot")


def test_power_cut_drops_only_layers_that_were_not_synced(
    snapshots: Snapshotter, paths: DataPaths, metadata: Metadata, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    synced = add_layer(snapshots, Member("a", b"1"))
    snapshots.close()  # waits for the sync
    killed = type(snapshots)(paths, metadata)  # type: ignore[call-arg]
    monkeypatch.setattr("pallet.storage.layertable.syncfs", _no_disk)
    lost = add_layer(killed, Member("b", b"2"))
    killed.prepare("one", [synced, lost])
    killed.close()
    _other_boot(monkeypatch)
    later = type(snapshots)(paths, metadata)  # type: ignore[call-arg]
    try:
        later.sweep()
        assert later.has_layer(synced)
        assert not later.has_layer(lost)
        with pytest.raises(LayerNotFoundError):
            later.root_mount_of_layers([lost])
        assert add_layer(later, Member("b", b"2")) == lost
        assert mounted(later.root_mount("one"), tree, tmp_path / "mnt") == {
            "a": "file:1", "b": "file:2"}, "the layer came back under its number"
        snapshots_left = os.listdir(paths.layers)
        assert len(snapshots_left) == 2
    finally:
        later.close()


def _no_disk(_fd: int) -> None:
    raise OSError(5, "Input/output error")


def test_a_killed_daemon_keeps_layers_that_were_not_synced(
    snapshots: Snapshotter, paths: DataPaths, metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same boot: the page cache is still right."""
    monkeypatch.setattr("pallet.storage.layertable.syncfs", _no_disk)
    layer = add_layer(snapshots, Member("b", b"2"))
    snapshots.close()
    later = type(snapshots)(paths, metadata)  # type: ignore[call-arg]
    later.sweep()
    assert later.layers() == [layer]
    later.close()


def test_sync_waits_for_layers_that_are_being_unpacked(
    snapshots: Snapshotter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk belongs to the pull until its last draft has ended, whichever way."""
    synced = threading.Event()
    monkeypatch.setattr("pallet.storage.layertable.syncfs", lambda _fd: synced.set())
    drafts = [snapshots.draft(), snapshots.draft()]
    add_layer(snapshots, Member("a", b"1"))
    snapshots.abort(drafts[0])
    assert not synced.wait(0.05)
    snapshots.abort(drafts[1])
    assert synced.wait(5)


@pytest.mark.parametrize("when", ["rename", "put_layer", "next_layer_number"])
def test_kill_in_the_middle_of_a_commit(
    snapshots: Snapshotter, paths: DataPaths, metadata: Metadata, when: str
) -> None:
    """Whatever step the daemon dies before, the next one has no half layer and no leftovers."""
    snapshots.close()

    def die(*_args: object) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    child = os.fork()
    if child == 0:
        own = Metadata(paths.database)
        killed = type(snapshots)(paths, own)  # type: ignore[call-arg]
        if when == "rename":
            os.rename = die  # type: ignore[assignment]
        else:
            setattr(own, when, die)
        add_layer(killed, Member("a", b"1"))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    later = type(snapshots)(paths, metadata)  # type: ignore[call-arg]
    try:
        assert later.layers() == []
        later.sweep()
        later.drain()
        left = [os.listdir(path) for path in (paths.drafts, paths.layers, paths.trash)]
        assert left == [[], [], []]
        assert later.has_layer(add_layer(later, Member("a", b"1")))
    finally:
        later.close()


class TestOverlayOnly:
    """Overlay keeps layers that containers stand on; native copies have no such tie."""

    def test_a_used_layer_is_not_removed(self, paths: DataPaths, metadata: Metadata) -> None:
        snapshots = OverlaySnapshotter(paths, metadata)
        base = add_layer(snapshots, Member("a", b"1"))
        snapshots.prepare("one", [base])
        with pytest.raises(ConflictError, match="in use"):
            snapshots.remove_layer(base)
        snapshots.remove("one")
        snapshots.remove_layer(base)
        snapshots.close()

    def test_deep_trees_and_links_are_deleted_from_the_inside_only(
        self, paths: DataPaths, metadata: Metadata, tmp_path: Path
    ) -> None:
        snapshots = OverlaySnapshotter(paths, metadata)
        victim = tmp_path / "victim"
        victim.mkdir()
        (victim / "file").write_text("safe")
        snapshots.prepare("one", [])
        here = os.open(paths.active / "one/upper", os.O_RDONLY)
        os.symlink(victim, "link", dir_fd=here)
        for _ in range(1500):  # deeper than recursion and descriptors go
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.symlink(victim, "link", dir_fd=here)
        os.close(here)
        snapshots.remove("one")
        snapshots.drain()
        assert os.listdir(paths.trash) == []
        assert (victim / "file").read_text() == "safe"
        snapshots.close()
