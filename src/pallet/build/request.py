"""One build as it is asked for and as it ended: what every door hands to ``build/service.py``.

Owns   ``BuildRequest``, ``Export``, ``CacheLink``, ``BuildResult``.
Runs   anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pallet.build.graph import LintWarning
    from pallet.build.ports import BuildClient, FrontendOptions, Planner
    from pallet.types import Digest, ImageId


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One output. Attributes are BuildKit's (``buildkit-wire.tsv``, exporter rows), as strings."""

    kind: Literal["image", "local", "tar", "oci", "docker", "cacheonly"]
    """``moby`` and ``registry`` are ``image`` here (the latter with ``push=true``)."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    id: str = ""
    """Names the exporter to the client's session (``buildkit-attachable-exporter-id``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLink:
    """A cache to import from or export to: ``inline``, ``registry``, ``local``."""

    kind: str
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """All that defines one build."""

    ref: str
    """The client's name for it, or a random one."""
    options: FrontendOptions
    exports: tuple[Export, ...] = ()
    cache_imports: tuple[CacheLink, ...] = ()
    cache_exports: tuple[CacheLink, ...] = ()
    attestations: Mapping[str, str] = field(default_factory=dict)
    """``sbom``, ``provenance`` to their attributes."""
    squash: bool = False
    debug: bool = False
    """Keep the state of a failed step for a debug shell."""
    inputs: Mapping[str, tuple[BuildRequest, BuildClient]] = field(default_factory=dict)
    """Other builds whose results are contexts of this one, by the name in ``input:NAME``."""
    planner: Planner | None = None
    """What makes the plan; None: the Dockerfile."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """``options`` as the client gave them (FrontendAttrs), for front ends that are images; empty where it gave none."""
    session: str = ""
    """The client's, where it has one."""
    definitions: Mapping[str, bytes] = field(default_factory=dict)
    """``inputs`` as BuildKit's definitions, where the client gave them so."""
    classic: bool = False
    """History and container config as the classic builder writes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What came out."""

    image_id: ImageId | None
    """What is in the image store; None without an image export."""
    digest: Digest | None
    """Of the manifest or index."""
    response: Mapping[str, str] = field(default_factory=dict)
    """BuildKit's exporter response (``containerimage.digest`` …)."""
    warnings: tuple[LintWarning, ...] = ()
    provenance: Mapping[str, bytes] = field(default_factory=dict)
    """Predicates by their type, for the client's metadata file and the record of the build."""
