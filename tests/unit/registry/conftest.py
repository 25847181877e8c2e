"""Fixtures of the registry's unit tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import registrystore as stores
from tests.support.registryloop import BLOB, RECORD, serving, settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pallet.registry.server import RegistryServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RegistryServer]:
    """A registry in this process with ``a:v1``."""
    with serving(settings(tmp_path)) as made:
        stores.push_blob(made.store, "a", BLOB)
        made.store.put_manifest("a", RECORD, ["v1"])
        yield made
