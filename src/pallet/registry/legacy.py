"""Import of the layout before the database: links, tags and referrers as files below the root.

Owns   reading ``repositories/`` of such a root. Blobs stay where they are; ``repositories`` is
       renamed to ``repositories.imported`` when everything is recorded, so a kill starts it anew.
Runs   when a store is opened.
Needs  the metadata.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from pallet.registry.codes import RegistryHttpError
from pallet.registry.metadata.content import MissingContentError
from pallet.registry.metadata.records import BlobRecord
from pallet.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pallet.registry.metadata.open import MetadataStore
    from pallet.registry.metadata.records import ManifestRecord

logger = logging.getLogger(__name__)


def import_tree(root: Path, metadata: MetadataStore) -> None:
    """Record what an older version left below ``root``. Nothing to do where it left nothing."""
    tree = root / "repositories"
    if not tree.is_dir():
        return
    count = 0
    for name in _repositories(tree):
        _import_repository(root, tree, name, metadata)
        count += 1
    target = root / "repositories.imported"
    if not count:
        with suppress(OSError):
            tree.rmdir()
        return
    tree.rename(target)
    logger.info("imported %d repositories of the older layout; %s can be deleted", count, target)


def _import_repository(root: Path, tree: Path, name: str, metadata: MetadataStore) -> None:
    base = tree / name
    for digest in _digests(base / "_blobs"):
        location = f"blobs/{digest.replace(':', '/')}"
        with suppress(FileNotFoundError):
            size = (root / location).stat().st_size
            metadata.content.add_blob(
                name, BlobRecord(digest=digest, size=size, location=location), None)
    pending: dict[Digest, ManifestRecord] = {}
    for digest in _digests(base / "_manifests"):
        with suppress(FileNotFoundError, RegistryHttpError):
            raw = (root / "blobs" / digest.replace(":", "/")).read_bytes()
            media_type = (base / "_manifests" / digest.replace(":", "/")).read_text()
            pending[digest] = parse(raw, media_type, digest)
    while pending:  # lists come after what they list
        ready = {digest: record for digest, record in pending.items()
                 if not record.children & pending.keys()} or pending
        for digest, record in ready.items():
            with suppress(MissingContentError):
                metadata.content.put_manifest(name, record, ())
            pending = {key: value for key, value in pending.items() if key != digest}
    for tag in _names(base / "_tags"):
        digest = Digest((base / "_tags" / tag).read_text())
        stored = metadata.content.manifest(name, digest)
        if stored is not None:
            parsed = parse(stored.raw, stored.media_type, digest)
            metadata.content.put_manifest(name, parsed, (tag,))


def parse(raw: bytes, media_type: str, digest: Digest) -> ManifestRecord:
    """See ``manifests.record_of``."""
    from pallet.registry.manifests import record_of
    document = json.loads(raw)
    return record_of(digest, media_type, raw, document)


def _repositories(tree: Path) -> Iterator[str]:
    for directory, names, _ in os.walk(tree):
        if "_blobs" in names or "_manifests" in names:
            yield os.path.relpath(directory, tree)
        names[:] = [name for name in names if not name.startswith("_")]


def _digests(directory: Path) -> Iterator[Digest]:
    for algorithm in _names(directory):
        for encoded in _names(directory / algorithm):
            yield Digest(f"{algorithm}:{encoded}")


def _names(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
