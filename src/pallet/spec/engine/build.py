"""What ``POST /build`` and its neighbours take and answer.

Spec   Engine API ImageBuild, BuildPrune, BuildInfo.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import UNSET, Struct, field

from pallet.spec.engine.wire import Maybe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pallet.spec.engine.auth import AuthConfig
    from pallet.spec.engine.filters import Filters


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """The query of ``POST /build``."""

    tags: Sequence[str] = ()
    dockerfile: str = ""
    """"" is ``Dockerfile``."""
    remote: str = ""
    """URL or Git repository that is the context; ``client-session`` for one that is served there."""
    quiet: bool = False
    no_cache: bool = False
    pull: bool = False
    cache_from: Sequence[str] = ()
    build_args: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    """None takes nothing: an ARG's default stands."""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    target: str = ""
    platform: str = ""
    network_mode: str = ""
    extra_hosts: Sequence[str] = ()
    """``name:address``."""
    squash: bool = False
    outputs: Sequence[Mapping[str, object]] = ()
    memory_bytes: int = 0
    memory_swap_bytes: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    cgroup_parent: str = ""
    shm_size_bytes: int = 0
    ulimits: Sequence[tuple[str, int, int]] = ()
    """(name, soft, hard)."""
    build_id: str = ""
    session: str = ""
    version: str = "1"
    registries: Mapping[str, AuthConfig] = dataclasses.field(default_factory=dict)
    """Credentials by registry (``X-Registry-Config``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPruneOptions:
    """The query of ``POST /build/prune``. Bytes; 0 is not given."""

    all: bool = False
    filters: Filters
    reserved_bytes: int = 0
    """Keep this much whatever its age."""
    max_used_bytes: int = 0
    """Remove until no more than this is used."""
    min_free_bytes: int = 0
    """Remove until this much of the disk is free."""


class BuildCacheRecord(Struct, frozen=True, kw_only=True, rename="pascal"):
    """One record of the build cache, in ``docker system df``."""

    id: str = field(name="ID")
    parent: Maybe[str] = UNSET
    """Before API 1.42."""
    parents: Maybe[list[str]] = UNSET
    type: str
    """``regular``, ``source.local``, ``source.git.checkout``, ``exec.cachemount``, ``frontend``, ``internal``."""
    description: str
    in_use: bool
    shared: bool
    size: int
    created_at: str
    last_used_at: str | None
    usage_count: int
