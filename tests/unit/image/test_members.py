"""image/archive/members: what a blob's member holds, and blobs that are not what they were."""

from __future__ import annotations

import io
import os
import tarfile
from typing import TYPE_CHECKING

import pytest

from pallet.errors import DataLossError
from pallet.image.archive import layout, members
from pallet.paths import DataPaths
from pallet.storage.content import ContentStore

if TYPE_CHECKING:
    from pathlib import Path

DATA = os.urandom(3_000_001)
"""Several pieces, and no whole number of blocks."""


async def test_blobs_and_documents_make_an_archive(tmp_path: Path) -> None:
    content = ContentStore(DataPaths(tmp_path))
    digest = content.put(DATA)
    archive = members.directory("blobs") + members.file("note", b"hello")
    archive += b"".join([piece async for piece in members.blob(content, digest, len(DATA))])
    with tarfile.open(fileobj=io.BytesIO(archive + members.END)) as tar:
        assert tar.getnames() == ["blobs", "note", layout.blob_path(digest)]
        assert [tar.extractfile(name).read() for name in tar.getnames()[1:]] == [b"hello", DATA]  # type: ignore[union-attr]


async def test_blob_that_ends_early_is_told(tmp_path: Path) -> None:
    content = ContentStore(DataPaths(tmp_path))
    digest = content.put(DATA)
    os.truncate(content.path(digest), 2_000_000)
    with pytest.raises(DataLossError, match="is damaged on disk"):
        async for _ in members.blob(content, digest, len(DATA)):
            pass
