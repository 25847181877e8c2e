"""Volumes.

Spec   Engine API Volume, VolumeCreateRequest, VolumeListResponse.
"""

from __future__ import annotations

from msgspec import UNSET, Struct, field

from pallet.spec.engine.wire import Maybe


class VolumeUsage(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Size in bytes and number of containers; -1 is unknown."""

    ref_count: int = -1
    size: int = -1


class Volume(Struct, frozen=True, kw_only=True, rename="pascal"):
    """One volume."""

    created_at: Maybe[str] = UNSET
    driver: str = "local"
    labels: dict[str, str] | None = None
    mountpoint: str
    name: str
    options: dict[str, str] | None = None
    scope: str = "local"
    status: Maybe[dict[str, str]] = UNSET
    usage_data: Maybe[VolumeUsage] = UNSET


class VolumeList(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Reply of a volume list."""

    volumes: list[Volume] = []
    warnings: list[str] | None = None


class VolumeCreateRequest(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Body of volume create; an empty name makes an anonymous volume."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None


class VolumePruneResponse(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Names removed and bytes won."""

    volumes_deleted: list[str] | None = field(default=None)
    space_reclaimed: int = 0
