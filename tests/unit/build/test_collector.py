"""Rules by which the build cache is collected: Docker's, those of ``daemon.json``, and when they are looked at."""

from __future__ import annotations

import asyncio
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pallet.build.collector import CacheCollector, rules_of
from pallet.build.usage import CachePrune
from pallet.config import BuilderConfig
from pallet.daemon.gcoptions import builder_config
from pallet.daemon.options import size_bytes
from pallet.errors import InvalidParameterError

if TYPE_CHECKING:
    from pallet.build.usage import CacheUsage

GIB = 1 << 30
HOUR_NS = 3600 * 10**9


def read(gc: Any) -> BuilderConfig:
    return builder_config({"gc": gc}, size_bytes)


def test_dockers_rules_are_parts_of_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What dockerd 28.5.2 showed on a disk of this size."""
    disk = SimpleNamespace(f_blocks=66053021, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    easily, old, unshared, everything = rules_of(read({}), "/")
    assert ",".join(easily.filters) == "type==source.local,type==exec.cachemount,type==source.git.checkout"
    assert (easily.keep_duration_ns, round(easily.max_used_bytes / GIB, 3)) == (48 * HOUR_NS, 3.346)
    spaces = {"reserved_bytes": 26 * 10**9, "max_used_bytes": 202 * 10**9, "min_free_bytes": 51 * 10**9}
    assert old == CachePrune(keep_duration_ns=1440 * HOUR_NS, **spaces)  # type: ignore[arg-type]
    assert unshared == CachePrune(**spaces)  # type: ignore[arg-type]
    assert everything == CachePrune(all=True, **spaces)  # type: ignore[arg-type]


def test_what_is_kept_by_default() -> None:
    """A limit of one's own replaces all three parts; the older name of what is reserved counts, too."""
    for key in ("defaultKeepStorage", "DefaultReservedSpace"):
        easily, _, unshared, _ = rules_of(read({"enabled": True, key: "20GB"}), "/")
        assert unshared == CachePrune(reserved_bytes=20 * GIB)
        assert round(easily.max_used_bytes / GIB, 3) == 2.764
    easily, *_, everything = rules_of(read({"defaultMaxUsedSpace": "20GB"}), "/")
    assert easily.max_used_bytes == 512_000_000
    assert everything == CachePrune(all=True, max_used_bytes=20 * GIB)
    assert rules_of(read({"enabled": False}), "/") == ()
    assert rules_of(read({"policy": []}), "/") == ()


def test_rules_of_ones_own() -> None:
    assert rules_of(read({"policy": [
        {"keepStorage": "10GB", "filter": ["unused-for=2200h"]},
        {"reservedSpace": "1GB", "maxUsedSpace": "50GB", "minFreeSpace": "2g", "filter": ["type=exec.cachemount", "shared=0"]},
        {"keepStorage": "100GB", "all": True}]}), "/") == (
        CachePrune(keep_duration_ns=2200 * HOUR_NS, reserved_bytes=10 * GIB),
        CachePrune(filters=("type==exec.cachemount,shared!=true",), reserved_bytes=GIB, max_used_bytes=50 * GIB,
                   min_free_bytes=2 * GIB),
        CachePrune(all=True, reserved_bytes=100 * GIB))


@pytest.mark.parametrize(("gc", "message"), [
    ({"defaultKeepStorage": "20%"}, "failed to parse defaultKeepStorage"),
    ({"defaultKeepStorage": 20}, "of type string"),
    ({"enabled": "yes"}, "of type bool"),
    ({"policy": {}}, "of type"),
    ({"policy": [{"filter": "x"}]}, "of type"),
    ({"policy": [{"all": 1}]}, "of type bool"),
    ({"policy": [{"filter": ["until=3h", "unused-for=2h"]}]}, 'conflicting filters: "until" and "unused-for"'),
    ({"policy": [{"filter": ["until=soon"]}]}, "no duration"),
    ({"policy": [{"filter": ["nope=3"]}]}, "invalid filter 'nope=3'"),
    ([], "of type object"),
])
def test_what_is_refused(gc: Any, message: str) -> None:
    with pytest.raises(InvalidParameterError, match=message):
        read(gc)


class Keeper:
    """Takes note of what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[CachePrune] = []
        self.changed = asyncio.Event()

    async def prune(self, wanted: CachePrune) -> list[CacheUsage]:
        self.asked.append(wanted)
        self.changed.set()
        return []


async def test_builds_that_end_meanwhile_share_a_collection() -> None:
    """One for all of them after a while, another one for what ends later, none where none is wanted."""
    keeper = Keeper()
    collector = CacheCollector(keeper, read({"policy": [{"all": True, "keepStorage": "1"}]}), "/", delay_s=0, every_s=0)
    for _ in range(2):
        collector.kick()
        collector.kick()
        await asyncio.wait_for(keeper.changed.wait(), 10)
        keeper.changed.clear()
    await collector.close()
    assert keeper.asked == [CachePrune(all=True, reserved_bytes=1)] * 2
    idle = CacheCollector(keeper, BuilderConfig(gc=False), "/")
    idle.kick()
    await idle.close()
    later = CacheCollector(keeper, read({}), "/", delay_s=1000)
    later.kick()
    await later.close()
    assert len(keeper.asked) == 2
