"""What there is at a path of a tree, for who looks at a build's result.

Owns   plain data.
Runs   anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import os


class Entry(NamedTuple):
    """A file or directory that somebody looks at."""

    name: str
    status: os.stat_result
    link: str = ""
    """Where a symbolic link leads."""
