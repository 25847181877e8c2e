"""What the files of an image archive are called and how its documents look.

Owns   names and documents of Docker's archive and of the OCI image layout.
Runs   anywhere; pure.
Spec   image-spec image-layout.md; Docker image spec v1.2 "Combined Image JSON + Filesystem
       Changeset Format" (``manifest.json``, ``repositories``).
"""

from __future__ import annotations

import msgspec

from pallet.spec import digest as digests
from pallet.types import Digest

BLOBS = "blobs"
INDEX = "index.json"
LAYOUT = "oci-layout"
MANIFEST = "manifest.json"
REPOSITORIES = "repositories"
LAYOUT_DOCUMENT = b'{"imageLayoutVersion": "1.0.0"}'

NAME_ANNOTATION = "io.containerd.image.name"
"""Full name of an entry of ``index.json``, as containerd and Docker write it."""
REF_ANNOTATION = "org.opencontainers.image.ref.name"
"""Its tag, or whatever its maker calls it (image-spec annotations.md)."""


class ArchivedImage(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """One image of ``manifest.json``: paths in the archive, layers base first."""

    config: str
    repo_tags: list[str] | None = None
    layers: list[str] | None = None


class LegacyImage(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a v1 ``<id>/json`` that a configuration is made of; the rest is dropped."""

    id: str = ""
    parent: str = ""
    created: str | None = None
    author: str = ""
    comment: str = ""
    os: str = ""
    architecture: str = ""
    docker_version: str = ""
    config: msgspec.Raw = msgspec.Raw(b"null")
    container_config: msgspec.Raw = msgspec.Raw(b"null")


def blob_path(digest: Digest) -> str:
    """``blobs/sha256/…``."""
    return f"{BLOBS}/{digests.algorithm(digest)}/{digests.encoded(digest)}"


def blob_digest(path: str) -> Digest | None:
    """Digest that a path of the archive claims for its content; None for every other path."""
    parts = path.split("/")
    if len(parts) != 3 or parts[0] != BLOBS:
        return None
    text = f"{parts[1]}:{parts[2]}"
    return Digest(text) if digests.is_digest(text) else None
