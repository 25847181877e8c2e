"""Digests: ``algorithm:hex`` strings, parsing, computing, verifying.

Owns   the only way to make a ``Digest``. Pure functions, no I/O.
Runs   anywhere.
Needs  nothing.
Spec   image-spec descriptor.md#digests.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError
from pallet.types import Digest

if TYPE_CHECKING:
    from hashlib import _Hash

HEX_LENGTH = {"sha256": 64, "sha384": 96, "sha512": 128}
"""Registered algorithms and the length of their hex form."""

_ANY = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}")
_HEX = re.compile(r"[0-9a-f]+")


class DigestError(InvalidParameterError):
    """A string is not a digest."""


def parse(text: str) -> Digest:
    """Check ``text`` and return it as a ``Digest``.

    Raises:
        DigestError: with Go's words: "invalid checksum digest format", "unsupported digest
            algorithm", "invalid checksum digest length".
    """
    if not _ANY.fullmatch(text):
        message = "invalid checksum digest format"
        raise DigestError(message)
    algorithm, _, encoded = text.partition(":")
    length = HEX_LENGTH.get(algorithm)
    if length is None:
        message = "unsupported digest algorithm"
        raise DigestError(message)
    if len(encoded) != length:
        message = "invalid checksum digest length"
        raise DigestError(message)
    if not _HEX.fullmatch(encoded):
        message = "invalid checksum digest format"
        raise DigestError(message)
    return Digest(text)


def is_digest(text: str) -> bool:
    """Whether ``parse`` would accept ``text``."""
    algorithm, _, encoded = text.partition(":")
    return HEX_LENGTH.get(algorithm) == len(encoded) and _HEX.fullmatch(encoded) is not None


def algorithm(digest: str) -> str:
    """``sha256`` of ``sha256:…``."""
    return digest.partition(":")[0]


def encoded(digest: str) -> str:
    """The hex part."""
    return digest.partition(":")[2]


def short(digest: str) -> str:
    """Docker's 12 hex digits, as ``docker pull`` and ``docker images`` show them."""
    return digest.partition(":")[2][:12]


def hasher(algorithm_name: str = "sha256") -> _Hash:
    """Return a fresh hash object of a registered algorithm.

    Raises:
        DigestError: the algorithm is not registered.
    """
    if algorithm_name not in HEX_LENGTH:
        message = "unsupported digest algorithm"
        raise DigestError(message)
    return hashlib.new(algorithm_name, usedforsecurity=False)


def from_hasher(state: _Hash) -> Digest:
    """Digest of everything fed to ``state`` so far."""
    return Digest(f"{state.name}:{state.hexdigest()}")


def of_bytes(data: bytes | bytearray | memoryview, algorithm_name: str = "sha256") -> Digest:
    """Digest of ``data``."""
    state = hasher(algorithm_name)
    state.update(data)
    return from_hasher(state)
