"""Unpack a layer's tar into a directory of overlay form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.layer.model import Applied, Limits

if TYPE_CHECKING:
    from collections.abc import Sequence


def apply(source_fd: int, target: str, *, compression: str = "auto", progress_fd: int | None = None,
          limits: Limits | None = None, lower_dirs: Sequence[str] = ()) -> Applied:
    """Unpack (signature; see layer/worker.py for the daemon's way to call it)."""
    raise NotImplementedError
