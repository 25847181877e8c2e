"""volume/store: names, anonymous volumes, use, removal, what a killed daemon leaves."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pallet.errors import (
    ConflictError,
    InvalidParameterError,
    NotFoundError,
    NotImplementedApiError,
)
from pallet.paths import DataPaths
from pallet.storage.metadata import Metadata
from pallet.volume.store import ANONYMOUS_LABEL, VolumeStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class World:
    def __init__(self, root: Path) -> None:
        self.paths = DataPaths(root)
        self.metadata = Metadata(self.paths.database)
        self.users: dict[str, list[str]] = {}
        self.open()

    def open(self) -> None:
        self.store = VolumeStore(self.paths, self.metadata, lambda name: self.users.get(name, []))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.metadata.close()


def test_a_named_volume(world: World) -> None:
    record, made = world.store.create("data", labels={"a": "b"})
    assert made
    assert (record.name, record.driver, record.labels, record.anonymous) == (
        "data", "local", {"a": "b"}, False)
    assert record.created_at > "2024"
    assert os.listdir(world.store.mountpoint("data")) == []
    again, made = world.store.create("data")
    assert (again, made) == (record, False)
    world.open()
    assert world.store.list() == [record]


def test_an_anonymous_volume(world: World) -> None:
    record, made = world.store.create("")
    assert made
    assert len(record.name) == 64
    assert set(record.name) <= set("0123456789abcdef")
    assert record.labels == {ANONYMOUS_LABEL: ""}
    assert record.anonymous
    assert world.store.create("")[0].name != record.name


@pytest.mark.parametrize("name", ["a", "../x", "a/b", "-ab", "a b", ".ab", "ü1"])
def test_bad_names(world: World, name: str) -> None:
    with pytest.raises(InvalidParameterError, match=r"volume name"):
        world.store.create(name)
    assert world.store.list() == []


def test_unknown_driver_and_options(world: World) -> None:
    with pytest.raises(NotFoundError, match='plugin "nfs" not found'):
        world.store.create("data", driver="nfs")
    with pytest.raises(InvalidParameterError, match='invalid option: "colour"'):
        world.store.create("data", options={"colour": "blue"})
    with pytest.raises(NotImplementedApiError):
        world.store.create("data", options={"type": "tmpfs"})
    world.store.create("data")
    with pytest.raises(ConflictError, match="different options"):
        world.store.create("data", options={"type": "tmpfs"})


def test_removal(world: World, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("safe")
    world.store.create("data")
    inside = world.store.mountpoint("data")
    os.symlink(victim, f"{inside}/link")
    world.users["data"] = ["c1"]
    with pytest.raises(ConflictError, match=r"remove data: volume is in use - \[c1\]"):
        world.store.remove("data")
    assert world.store.is_used("data")
    world.users.clear()
    world.store.remove("data")
    assert not os.path.exists(inside)
    assert (victim / "file").read_text() == "safe"
    with pytest.raises(NotFoundError, match="get data: no such volume"):
        world.store.remove("data")
    world.open()
    assert world.store.list() == []


def test_a_removal_that_is_cut_off_leaves_no_half_volume(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.store.create("data")
    monkeypatch.setattr("pallet.volume.store.discard", lambda _: None)  # the daemon is killed here
    world.store.remove("data")
    monkeypatch.undo()
    world.open()
    assert world.store.list() == []
    assert os.listdir(world.paths.volumes) != []
    world.store.sweep()
    assert os.listdir(world.paths.volumes) == []


def test_a_volume_whose_directory_is_gone_can_be_removed(world: World) -> None:
    world.store.create("data")
    os.rename(world.paths.volumes / "data", world.paths.volumes / "elsewhere")
    world.store.remove("data")
    assert world.store.list() == []


def test_a_directory_that_stays_keeps_its_volume(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    record, _ = world.store.create("data")

    def busy(*_: object) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr("os.rename", busy)
    with pytest.raises(OSError, match="busy"):
        world.store.remove("data")
    world.open()
    assert world.store.list() == [record]


def test_usage_counts_a_hard_linked_file_once(world: World) -> None:
    world.store.create("data")
    inside = world.store.mountpoint("data")
    with open(f"{inside}/f", "wb") as file:
        file.write(b"x" * 1000)
    os.link(f"{inside}/f", f"{inside}/g")
    assert world.store.usage("data") == 1000


def test_sweep_takes_directories_without_a_record(world: World) -> None:
    world.store.create("data")
    (world.paths.volumes / "half-made/_data").mkdir(parents=True)
    world.store.sweep()
    assert os.listdir(world.paths.volumes) == ["data"]
