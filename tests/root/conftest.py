"""Fixtures of the root tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.root.runtimelab import Lab

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    """Containers by hand, without an engine."""
    async with Lab() as started:
        yield started
