"""Paths in a build's file systems.

Runs   anywhere; pure.
"""

from __future__ import annotations

import posixpath


def clean(path: str) -> str:
    """The path from the root on, without ``.``, ``..`` and doubled slashes: nothing leads out."""
    return "/" + posixpath.normpath("/" + path).lstrip("/")
