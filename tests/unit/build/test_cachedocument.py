"""The document of a cache elsewhere: what comes back, and what BuildKit makes of it."""

from __future__ import annotations

import json

from pallet.build.remotecache.document import Entry, decode, encode
from pallet.spec.image import OCI_LAYER_GZIP, Descriptor
from pallet.types import Digest

ONE, TWO, MOUNT = (Digest(f"sha256:{letter * 64}") for letter in "abc")


def test_layers_mounts_and_keys_come_back() -> None:
    blobs = [Descriptor(media_type=OCI_LAYER_GZIP, digest=digest, size=1) for digest in (ONE, TWO, MOUNT)]
    raw = encode([Entry(keys=("k",), layers=("l1", "l2"), description="d")], {"l1": ONE, "l2": TWO}, {"m": MOUNT})
    found = decode(raw, blobs)
    assert found.entries["k"].layers == ("l1", "l2")
    assert {name: blob.digest for name, blob in found.blobs.items()} == {"l1": ONE, "l2": TWO}
    assert {name: blob.digest for name, blob in found.mounts.items()} == {"m": MOUNT}
    assert decode(raw, blobs[:2]).mounts == {}


def test_buildkit_finds_no_loop_in_it() -> None:
    """The lowest layer says that nothing is below: BuildKit reads a parent that is left out as layer 0."""
    document = json.loads(encode([Entry(keys=("k",), layers=("l1", "l2"))], {"l1": ONE, "l2": TWO}))
    assert [layer.get("parent", 0) for layer in document["layers"]] == [-1, 0]
    assert "pallet.cacheMounts" not in document
