"""The room that is kept for a full disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pallet.storage.reserve import Reserve

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_it_is_blocks_and_goes_once(tmp_path: Path) -> None:
    place = tmp_path / "r"
    reserve = Reserve(str(place))
    assert not reserve.give()
    reserve.make()
    assert place.stat().st_blocks * 512 >= 1 << 20
    reserve.ease()
    assert place.exists(), "there is room"
    assert Reserve(str(place)).give()
    assert not reserve.give()
    reserve.make()
    assert place.exists()


def test_it_is_not_what_fills_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "r"
    reserve = Reserve(str(place))
    real = os.statvfs(tmp_path)
    little = os.statvfs_result([real.f_bsize, 4096, real.f_blocks, 10, 10, *real[5:]])
    monkeypatch.setattr(os, "statvfs", lambda _path: little)
    reserve.make()
    assert not place.exists()
    monkeypatch.undo()
    reserve.make()
    monkeypatch.setattr(os, "statvfs", lambda _path: little)
    reserve.ease()
    assert not place.exists()
