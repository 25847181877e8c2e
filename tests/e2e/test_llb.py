"""Definitions that clients hand in are built as dockerd 28.5.2's BuildKit builds them: files, and errors to the letter."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from pallet.api.buildkit.wire import llb_pb2 as pb
from tests.unit.api.buildkit.llbcases import BUSYBOX, CASES, GOLDEN, OUT, outcome, root
from tests.unit.api.buildkit.llbclient import Graph, LlbClient

if TYPE_CHECKING:
    from tests.support.daemon import Daemon

pytestmark = pytest.mark.needs("root", "overlay")

WANTED: dict[str, Any] = json.loads(GOLDEN.read_text())


def test_all_definitions(engine: Daemon) -> None:
    async def all_of_them() -> dict[str, Any]:
        return {name: await outcome(engine.socket, case) for name, case in CASES.items()}

    assert asyncio.run(all_of_them()) == WANTED


def test_what_was_made_is_cached_by_content(engine: Daemon) -> None:
    """Two commands that make the same files lead to one and the same next step."""
    async def twice() -> list[Any]:
        found = []
        async with LlbClient(engine.socket) as client:
            for comment in ("one", "two"):
                graph = Graph()
                base = graph.source(BUSYBOX)
                first = graph.run(f"echo same > /out/f; touch -d @86400 /out/f; : {comment}", [base], [root(), OUT],
                                  index=1)
                second = graph.run("head -c 8 /dev/urandom | md5sum > /out/r", [base, first], [
                    root(), OUT, pb.Mount(input=1, dest="/in", readonly=True, output=-1)], index=1)
                found.append((await client.tree(graph.end(second)))["r"])
        return found

    one, two = asyncio.run(twice())
    assert one == two

