"""What unpacking a layer takes and gives: limits, result, errors.

Runs   in zygote children and in the daemon, which reads the results.
"""

from __future__ import annotations

import msgspec

from pallet.errors import ConflictError, DataLossError, InvalidParameterError, SystemFailureError
from pallet.types import DiffID

COMPRESSIONS = ("auto", "none", "gzip", "zstd")
"""``auto`` looks at the first bytes, as Docker does whatever the media type says."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much a layer may unpack to before it is refused as a bomb."""

    max_bytes: int | None = None
    """Bytes of the uncompressed stream; None is what the file system has free, less a reserve."""
    max_entries: int = 10_000_000


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """A layer that was unpacked."""

    diff_id: DiffID
    """Empty where the caller asked for no hashing."""
    size_bytes: int
    """Sum of the sizes of its regular files and symlinks: what Docker calls the layer's size."""
    stream_bytes: int
    """Length of the uncompressed tar."""
    source_bytes: int
    """Length of the compressed stream that was read."""
    entries: int
    implied_dirs: list[bytes] = []
    """Directories that had to be made but have no entry of their own, parents first; ``b""`` is the
    root. ``Snapshotter.settle`` gives them the owner and mode they have in the layers below."""
    opaque_root: bool = False
    """The layer hides everything under it (``.wh..wh..opq`` at its root)."""


class ArchiveError(DataLossError):
    """The archive is malformed, truncated or damaged."""


class BreakoutError(InvalidParameterError):
    """An entry points outside of the layer."""


class LimitError(InvalidParameterError):
    """The archive unpacks to more than it may."""


class StorageFullError(SystemFailureError):
    """There is no room for what is written; nothing is wrong with what is read."""


class MissingLinkTargetError(ConflictError):
    """A hard link names a file that is in a lower layer only: apply again with ``lower_dirs``."""
