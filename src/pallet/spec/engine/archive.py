"""A file in a container: the ``X-Docker-Container-Path-Stat`` header.

Spec   Engine API ContainerArchiveInfo.
"""

from __future__ import annotations

import msgspec


class PathStat(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """``mode`` is Go's ``os.FileMode``; ``mtime`` RFC 3339 with nanoseconds."""

    name: str
    size: int
    mode: int
    mtime: str
    link_target: str
