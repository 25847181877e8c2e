"""Fixtures of the root tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.root.runtimelab import Lab
from tests.support.faultyregistry import FaultyRegistry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    """Containers by hand, without an engine."""
    async with Lab() as started:
        yield started


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[FaultyRegistry]:
    """Pallet's registry in this process, empty, with faults to be added."""
    with FaultyRegistry(tmp_path / "registry") as server:
        yield server
