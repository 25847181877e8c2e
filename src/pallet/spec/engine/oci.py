"""Descriptors as Engine API replies carry them.

Spec   Engine API OCIDescriptor, OCIPlatform; image-spec descriptor.md.
"""

from __future__ import annotations

from msgspec import UNSET, Struct, field

from pallet.spec.engine.wire import Maybe


class DescriptorPlatform(Struct, frozen=True, kw_only=True):
    """Platform of a manifest."""

    architecture: str
    os: str
    os_version: Maybe[str] = field(name="os.version", default=UNSET)
    os_features: Maybe[list[str]] = field(name="os.features", default=UNSET)
    variant: Maybe[str] = UNSET


class Descriptor(Struct, frozen=True, kw_only=True, rename="camel"):
    """A blob by media type, digest and size in bytes."""

    media_type: str
    digest: str
    size: int
    urls: Maybe[list[str]] = UNSET
    annotations: Maybe[dict[str, str]] = UNSET
    data: Maybe[str] = UNSET
    platform: Maybe[DescriptorPlatform] = UNSET
    artifact_type: Maybe[str] = UNSET
