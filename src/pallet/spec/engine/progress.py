"""Progress messages of pull, push, load and build.

Spec   Engine API CreateImageInfo, PushImageInfo, BuildInfo; semantics "json progress".
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, Struct, field

from pallet.spec.engine.wire import Maybe


class ProgressDetail(Struct, frozen=True, kw_only=True):
    """Bytes done and to do; both absent is ``{}``."""

    current: Maybe[int] = UNSET
    total: Maybe[int] = UNSET


class ErrorDetail(Struct, frozen=True, kw_only=True):
    """An error inside a stream that already answered 200."""

    code: Maybe[int] = UNSET
    message: str


class ProgressMessage(Struct, frozen=True, kw_only=True):
    """One line of a progress stream. ``id`` is what it is about, often a short digest."""

    stream: Maybe[str] = UNSET
    status: Maybe[str] = UNSET
    progress_detail: Maybe[ProgressDetail] = field(name="progressDetail", default=UNSET)
    progress: Maybe[str] = UNSET
    """The bar as text, which older clients print."""
    id: Maybe[str] = UNSET
    error_detail: Maybe[ErrorDetail] = field(name="errorDetail", default=UNSET)
    error: Maybe[str] = UNSET
    aux: Maybe[msgspec.Raw] = UNSET
