"""Images: list, inspect, history and removal documents.

Spec   Engine API ImageList, ImageInspect, ImageHistory, ImageDelete.
"""

from __future__ import annotations

from msgspec import UNSET, Struct, field

from pallet.spec.engine.config import ImageConfig
from pallet.spec.engine.container import DriverData
from pallet.spec.engine.oci import Descriptor, DescriptorPlatform
from pallet.spec.engine.wire import Maybe
from pallet.spec.own.disk import ImageFacts


class ManifestSize(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Bytes: of the blobs that are here, and with what they unpack to."""

    total: int = 0
    content: int = 0


class UnpackedSize(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Bytes of the unpacked layers."""

    unpacked: int = 0


class ImageManifestData(Struct, frozen=True, kw_only=True, rename="pascal"):
    """What is known of a manifest that is an image's."""

    platform: DescriptorPlatform
    containers: list[str] = []
    size: UnpackedSize = UnpackedSize()


class AttestationData(Struct, frozen=True, kw_only=True):
    """Which manifest an attestation is about."""

    for_: str = field(name="For")


class ImageManifestSummary(Struct, frozen=True, kw_only=True, rename="pascal"):
    """One manifest of an image's index."""

    id: str = field(name="ID")
    descriptor: Descriptor
    available: bool
    size: ManifestSize
    kind: str
    """image, attestation or unknown."""
    image_data: ImageManifestData | None = None
    attestation_data: AttestationData | None = None


class ImageSummary(Struct, frozen=True, kw_only=True, rename="pascal"):
    """One image of a list; ``created`` in seconds; -1 means "not computed"."""

    containers: int = -1
    created: int
    id: str
    labels: dict[str, str] | None = None
    parent_id: str = ""
    descriptor: Maybe[Descriptor] = UNSET
    manifests: Maybe[list[ImageManifestSummary]] = UNSET
    repo_digests: list[str] = []
    repo_tags: list[str] = []
    shared_size: int = -1
    size: int


class ImageRootFS(Struct, frozen=True, kw_only=True, rename="pascal"):
    """DiffIDs of an image, base first."""

    type: str = "layers"
    layers: Maybe[list[str]] = UNSET


class ImageMetadata(Struct, frozen=True, kw_only=True, rename="pascal"):
    """What the store knows of an image beyond its config."""

    last_tag_time: Maybe[str] = UNSET


class ImageInspect(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Everything about one image. ``id`` is the digest of its config."""

    id: str
    repo_tags: list[str] = []
    repo_digests: list[str] = []
    parent: str = ""
    comment: str = ""
    created: Maybe[str] = UNSET
    docker_version: str = ""
    author: str = ""
    config: ImageConfig | None
    architecture: str
    variant: Maybe[str] = UNSET
    os: str
    os_version: Maybe[str] = UNSET
    size: int
    graph_driver: DriverData
    root_fs: ImageRootFS = field(name="RootFS")
    metadata: ImageMetadata = ImageMetadata()
    descriptor: Maybe[Descriptor] = UNSET
    manifests: Maybe[list[ImageManifestSummary]] = UNSET
    pallet: Maybe[ImageFacts] = UNSET
    """What Docker does not tell."""


class ImageHistoryItem(Struct, frozen=True, kw_only=True, rename="pascal"):
    """One step of an image's history, newest first; ``id`` is "<missing>" but for the top."""

    comment: str = ""
    created: int = 0
    created_by: str = ""
    id: str = "<missing>"
    size: int = 0
    tags: list[str] | None = None


class ImageDeleteItem(Struct, frozen=True, kw_only=True, rename="pascal"):
    """One thing an image removal did: exactly one of the two is set."""

    untagged: Maybe[str] = UNSET
    deleted: Maybe[str] = UNSET
