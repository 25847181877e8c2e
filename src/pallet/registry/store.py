"""What the registry keeps on disk: blobs, and for each repository what it may see of them.

```
<root>/
├── blobs/<algorithm>/<hex>                      content, written once
├── uploads/<id>                                 blobs on their way in; removed at start
└── repositories/<name>/
    ├── _blobs/<algorithm>/<hex>                 empty: the blob belongs to this repository
    ├── _manifests/<algorithm>/<hex>             media type of a manifest
    ├── _tags/<tag>                              digest of a manifest
    └── _referrers/<algorithm>/<hex>/<digest>    descriptor of a manifest whose subject this is
```

Owns   that tree. Repository names never begin with "_", so the two kinds of names cannot meet.
Runs   in the server's threads; every change is a single rename or unlink, so readers need no lock
       and a kill at any time leaves whole files: at most a blob that no repository has, which
       ``sweep`` removes.
Needs  a file system with atomic rename.
Spec   distribution-spec "Content Discovery", "Content Management".
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pallet.registry.codes import RegistryHttpError
from pallet.spec import digest as digests
from pallet.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class RegistryStore:
    """Blobs, manifests, tags and referrers below one root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs"
        self._repositories = root / "repositories"
        self.uploads = root / "uploads"
        self._numbers = itertools.count()
        self._sweeping = threading.Lock()
        for directory in (self._blobs, self._repositories, self.uploads):
            directory.mkdir(parents=True, exist_ok=True)

    # Blobs

    def blob_path(self, digest: Digest) -> Path:
        """Where a blob's content is or would be."""
        return self._blobs / digests.algorithm(digest) / digests.encoded(digest)

    def has_content(self, digest: Digest) -> bool:
        """Whether any repository brought this content."""
        return self.blob_path(digest).is_file()

    def has_blob(self, name: str, digest: Digest) -> bool:
        """Whether repository ``name`` has the blob."""
        return self._link(name, "_blobs", digest).is_file() and self.has_content(digest)

    def adopt(self, path: Path, digest: Digest) -> None:
        """Move a verified, fsynced file in as the content of ``digest``."""
        target = self.blob_path(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            path.unlink()
            return
        path.rename(target)
        _sync_directory(target.parent)

    def link_blob(self, name: str, digest: Digest) -> None:
        """Make the blob belong to ``name``."""
        self._write(self._link(name, "_blobs", digest), b"")

    def delete_blob(self, name: str, digest: Digest) -> None:
        """Take the blob from ``name``; its content goes when no repository has it.

        Raises:
            RegistryHttpError: BLOB_UNKNOWN.
        """
        try:
            self._link(name, "_blobs", digest).unlink()
        except FileNotFoundError as error:
            raise RegistryHttpError("BLOB_UNKNOWN", digest) from error
        if not any(self._link(other, "_blobs", digest).exists() for other in self.repositories()):
            self.blob_path(digest).unlink(missing_ok=True)

    # Manifests and tags

    def put_manifest(self, name: str, digest: Digest, media_type: str, raw: bytes) -> None:
        """Keep a manifest exactly as it came."""
        staged = self.uploads / f"manifest-{os.getpid()}-{next(self._numbers)}"
        _write_synced(staged, raw)
        self.adopt(staged, digest)
        self.link_blob(name, digest)
        self._write(self._link(name, "_manifests", digest), media_type.encode())

    def manifest(self, name: str, digest: Digest) -> tuple[str, bytes]:
        """Media type and bytes of a manifest.

        Raises:
            RegistryHttpError: MANIFEST_UNKNOWN.
        """
        try:
            media_type = self._link(name, "_manifests", digest).read_text()
            return media_type, self.blob_path(digest).read_bytes()
        except FileNotFoundError as error:
            raise RegistryHttpError("MANIFEST_UNKNOWN", {"digest": digest}) from error

    def has_manifest(self, name: str, digest: Digest) -> bool:
        """Whether repository ``name`` has the manifest."""
        return self._link(name, "_manifests", digest).is_file()

    def tag(self, name: str, tag: str, digest: Digest) -> None:
        """Point ``tag`` at a manifest."""
        self._write(self._tag(name, tag), digest.encode())

    def resolve(self, name: str, tag: str) -> Digest:
        """Digest a tag points to.

        Raises:
            RegistryHttpError: MANIFEST_UNKNOWN.
        """
        try:
            return Digest(self._tag(name, tag).read_text())
        except FileNotFoundError as error:
            raise RegistryHttpError("MANIFEST_UNKNOWN", {"name": name, "tag": tag}) from error

    def untag(self, name: str, tag: str) -> None:
        """Forget a tag.

        Raises:
            RegistryHttpError: MANIFEST_UNKNOWN.
        """
        try:
            self._tag(name, tag).unlink()
        except FileNotFoundError as error:
            raise RegistryHttpError("MANIFEST_UNKNOWN", {"name": name, "tag": tag}) from error

    def delete_manifest(self, name: str, digest: Digest) -> None:
        """Forget a manifest, the tags that point to it and its entry as a referrer.

        Raises:
            RegistryHttpError: MANIFEST_UNKNOWN.
        """
        _, raw = self.manifest(name, digest)
        for tag in self.tags(name):
            with suppress(FileNotFoundError, RegistryHttpError):
                if self.resolve(name, tag) == digest:
                    self._tag(name, tag).unlink()
        subject = _subject(raw)
        if subject is not None:
            (self._link(name, "_referrers", subject) / digest).unlink(missing_ok=True)
        self._link(name, "_manifests", digest).unlink(missing_ok=True)
        with suppress(RegistryHttpError):
            self.delete_blob(name, digest)

    def tags(self, name: str) -> list[str]:
        """Tags of a repository in lexical order.

        Raises:
            RegistryHttpError: NAME_UNKNOWN.
        """
        if not self.has_repository(name):
            raise RegistryHttpError("NAME_UNKNOWN", {"name": name})
        return sorted(_names(self._repositories / name / "_tags"))

    # Referrers

    def add_referrer(
        self, name: str, subject: Digest, digest: Digest, descriptor: dict[str, Any]
    ) -> None:
        """Record that manifest ``digest`` refers to ``subject``."""
        target = self._link(name, "_referrers", subject) / digest
        self._write(target, json.dumps(descriptor).encode())

    def referrers(self, name: str, subject: Digest) -> list[dict[str, Any]]:
        """Descriptors of the manifests that refer to ``subject``, in the order of their digests."""
        directory = self._link(name, "_referrers", subject)
        found: list[dict[str, Any]] = []
        for entry in sorted(_names(directory)):
            with suppress(FileNotFoundError):
                found.append(json.loads((directory / entry).read_bytes()))
        return found

    # Repositories

    def has_repository(self, name: str) -> bool:
        """Whether anything was ever pushed to ``name``."""
        base = self._repositories / name
        return (base / "_blobs").is_dir() or (base / "_manifests").is_dir()

    def repositories(self) -> Iterator[str]:
        """Names of every repository, unsorted."""
        pending = [""]
        while pending:
            prefix = pending.pop()
            for entry in _names(self._repositories / prefix):
                if entry == "_blobs":
                    yield prefix
                elif not entry.startswith("_"):
                    pending.append(f"{prefix}/{entry}" if prefix else entry)

    def sweep(self) -> int:
        """Remove broken uploads and content that no repository has; return how many files.

        Only while nobody pushes: the server calls it before it listens.
        """
        removed = 0
        with self._sweeping:
            shutil.rmtree(self.uploads)
            self.uploads.mkdir()
            kept = {(algorithm, encoded) for name in self.repositories()
                    for algorithm in _names(self._repositories / name / "_blobs")
                    for encoded in _names(self._repositories / name / "_blobs" / algorithm)}
            for algorithm in _names(self._blobs):
                for encoded in _names(self._blobs / algorithm):
                    if (algorithm, encoded) not in kept:
                        (self._blobs / algorithm / encoded).unlink(missing_ok=True)
                        removed += 1
        return removed

    def _link(self, name: str, kind: str, digest: Digest) -> Path:
        base = self._repositories / name / kind
        return base / digests.algorithm(digest) / digests.encoded(digest)

    def _tag(self, name: str, tag: str) -> Path:
        return self._repositories / name / "_tags" / tag

    def _write(self, target: Path, data: bytes) -> None:
        """Replace a small file atomically."""
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = self.uploads / f"link-{os.getpid()}-{next(self._numbers)}"
        _write_synced(staged, data)
        staged.rename(target)
        _sync_directory(target.parent)


def _subject(raw: bytes) -> Digest | None:
    try:
        subject = json.loads(raw).get("subject")
        return digests.parse(subject["digest"]) if subject else None
    except (ValueError, AttributeError, KeyError, TypeError, digests.DigestError):
        return None


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fdatasync(file.fileno())


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
