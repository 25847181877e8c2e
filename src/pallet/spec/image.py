"""Images as documents: descriptors, manifests, indexes, configurations; OCI and Docker schema 2.

Owns   the wire forms and one decoder for each. A received document is kept as its raw bytes beside
       the parsed view and never encoded again, so digests stay what they were.
Runs   anywhere; pure.
Needs  msgspec.
Spec   image-spec descriptor.md, manifest.md, image-index.md, config.md;
       Docker image manifest v2 schema 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from pallet.errors import DataLossError, InvalidParameterError
from pallet.spec.platform import Platform
from pallet.types import DiffID, Digest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd"
DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar"
DOCKER_FOREIGN_GZIP = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
DOCKER_PLUGIN_CONFIG = "application/vnd.docker.plugin.v1+json"
SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"
SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"

MANIFEST_TYPES = (DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX)
"""Types a pull asks for, in Docker's order of preference."""
INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_LIST})
IMAGE_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
SCHEMA1_TYPES = frozenset({SCHEMA1, SCHEMA1_SIGNED})

_NONDISTRIBUTABLE = "application/vnd.oci.image.layer.nondistributable.v1.tar"
_LAYER_COMPRESSION = {
    OCI_LAYER: "none", OCI_LAYER_GZIP: "gzip", OCI_LAYER_ZSTD: "zstd",
    _NONDISTRIBUTABLE: "none", f"{_NONDISTRIBUTABLE}+gzip": "gzip",
    f"{_NONDISTRIBUTABLE}+zstd": "zstd",
    DOCKER_LAYER: "none", DOCKER_LAYER_GZIP: "gzip", DOCKER_LAYER_ZSTD: "zstd",
    DOCKER_FOREIGN: "none", DOCKER_FOREIGN_GZIP: "gzip",
}
ATTESTATION_KEY = "vnd.docker.reference.type"
ATTESTED_KEY = "vnd.docker.reference.digest"


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A pointer to content: its type, digest and size in bytes."""

    media_type: str
    digest: Digest
    size: int
    urls: list[str] | None = None
    annotations: dict[str, str] | None = None
    data: str | None = None
    platform: Platform | None = None
    artifact_type: str | None = None

    @property
    def is_attestation(self) -> bool:
        """Whether this index entry describes another one instead of being an image."""
        return (self.annotations or {}).get(ATTESTATION_KEY) == "attestation-manifest"

    @property
    def attests(self) -> str:
        """Digest of the manifest that an attestation describes; "" when it does not say."""
        return (self.annotations or {}).get(ATTESTED_KEY, "")

    @property
    def is_for_nothing(self) -> bool:
        """Whether an index entry says that no platform runs it: attestations, and what is like them."""
        return self.is_attestation or (self.platform is not None and (
            self.platform.os, self.platform.architecture) == ("unknown", "unknown"))


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One image: its configuration and its layers, base first."""

    config: Descriptor
    layers: list[Descriptor]
    schema_version: int = 2
    media_type: str = ""
    artifact_type: str | None = None
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


class Index(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A list of manifests, usually one a platform."""

    manifests: list[Descriptor]
    schema_version: int = 2
    media_type: str = ""
    artifact_type: str | None = None
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


class Healthcheck(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Docker's health check; times in nanoseconds, 0 inherits the default."""

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class RunConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``config`` of an image: the defaults of the containers made from it."""

    user: str = msgspec.field(name="User", default="")
    exposed_ports: dict[str, Any] | None = msgspec.field(name="ExposedPorts", default=None)
    env: list[str] | None = msgspec.field(name="Env", default=None)
    entrypoint: list[str] | None = msgspec.field(name="Entrypoint", default=None)
    cmd: list[str] | None = msgspec.field(name="Cmd", default=None)
    volumes: dict[str, Any] | None = msgspec.field(name="Volumes", default=None)
    working_dir: str = msgspec.field(name="WorkingDir", default="")
    labels: dict[str, str] | None = msgspec.field(name="Labels", default=None)
    stop_signal: str = msgspec.field(name="StopSignal", default="")
    stop_timeout: int | None = msgspec.field(name="StopTimeout", default=None)
    args_escaped: bool = msgspec.field(name="ArgsEscaped", default=False)
    healthcheck: Healthcheck | None = msgspec.field(name="Healthcheck", default=None)
    on_build: list[str] | None = msgspec.field(name="OnBuild", default=None)
    shell: list[str] | None = msgspec.field(name="Shell", default=None)


class RootFS(msgspec.Struct, frozen=True, kw_only=True):
    """The layers as uncompressed digests, base first."""

    type: str = "layers"
    diff_ids: list[DiffID] = []


class History(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one layer (or an empty step) came to be."""

    created: str | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfigFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An image's configuration document. Its digest is the image's id.

    ``created`` stays text (RFC 3339): it is shown again, never computed with beyond sorting.
    """

    architecture: str = ""
    os: str = ""
    os_version: str = msgspec.field(name="os.version", default="")
    os_features: list[str] | None = msgspec.field(name="os.features", default=None)
    variant: str = ""
    created: str | None = None
    author: str = ""
    config: RunConfig | None = None
    rootfs: RootFS = RootFS()
    history: list[History] | None = None
    comment: str = ""
    container: str = ""
    docker_version: str = ""
    parent: str = ""

    @property
    def platform(self) -> Platform:
        """What the image was built for."""
        return Platform(os=self.os, architecture=self.architecture, variant=self.variant,
                        os_version=self.os_version,
                        os_features=tuple(self.os_features) if self.os_features else None)


class _Probe(msgspec.Struct, rename="camel"):
    schema_version: int = 0
    media_type: str = ""
    manifests: msgspec.Raw = msgspec.Raw()
    layers: msgspec.Raw = msgspec.Raw()
    fs_layers: msgspec.Raw = msgspec.Raw()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredManifest:
    """A manifest or index exactly as received, with its type and its digest."""

    raw: bytes
    media_type: str
    digest: Digest

    @property
    def is_index(self) -> bool:
        """Whether this is a list of manifests."""
        return self.media_type in INDEX_TYPES

    def manifest(self) -> Manifest:
        """Parsed view; see ``decode_manifest``."""
        return decode_manifest(self.raw)

    def index(self) -> Index:
        """Parsed view; see ``decode_index``."""
        return decode_index(self.raw)

    def descriptor(self) -> Descriptor:
        """Descriptor of these bytes."""
        return Descriptor(media_type=self.media_type, digest=self.digest, size=len(self.raw))


_Document = TypeVar("_Document", bound=msgspec.Struct)

_probe = msgspec.json.Decoder(_Probe)
_manifest = msgspec.json.Decoder(Manifest)
_index = msgspec.json.Decoder(Index)
_config = msgspec.json.Decoder(ImageConfigFile)
_encoder = msgspec.json.Encoder()


def sniff_media_type(raw: bytes, content_type: str = "") -> str:
    """Media type of a manifest from its reply header, its own field and, last, its shape.

    Raises:
        InvalidParameterError: not JSON, contradictory types, or a schema 1 manifest.
    """
    try:
        probe = _probe.decode(raw)
    except msgspec.DecodeError as error:
        message = f"invalid manifest: {error}"
        raise InvalidParameterError(message) from error
    header = content_type.partition(";")[0].strip()
    known = INDEX_TYPES | IMAGE_TYPES
    is_index = _given(probe.manifests)
    if is_index and _given(probe.layers):
        message = "invalid manifest: it has both layers and manifests"
        raise InvalidParameterError(message)
    if header in known and probe.media_type and probe.media_type != header:
        message = (f"mediaType in manifest should be '{header}' not '{probe.media_type}'")
        raise InvalidParameterError(message)
    media_type = header if header in known else probe.media_type
    if not media_type and probe.schema_version == 2:
        media_type = OCI_INDEX if is_index else OCI_MANIFEST
    if media_type in known:
        return media_type
    if probe.schema_version == 1 or _given(probe.fs_layers) or media_type in SCHEMA1_TYPES:
        message = ("[DEPRECATION NOTICE] Docker Image Format v1 and Docker Image manifest "
                   "version 2, schema 1 support is disabled by default and will be removed in an "
                   "upcoming release")
        raise InvalidParameterError(message)
    message = f"unsupported manifest media type and no default available: {media_type or header}"
    raise InvalidParameterError(message)


def _given(field: msgspec.Raw) -> bool:
    return bytes(field) not in {b"", b"null"}


def decode_manifest(raw: bytes) -> Manifest:
    """Parse an image manifest.

    Raises:
        DataLossError: not a manifest of schema version 2.
    """
    return _decoded(_manifest, raw, "manifest")


def decode_index(raw: bytes) -> Index:
    """Parse an index or manifest list.

    Raises:
        DataLossError: not an index.
    """
    return _decoded(_index, raw, "manifest list")


def decode_config(raw: bytes) -> ImageConfigFile:
    """Parse an image configuration.

    Raises:
        DataLossError: not an image configuration.
    """
    return _decoded(_config, raw, "image config")


def encode(document: msgspec.Struct) -> bytes:
    """Encode a document that Pallet itself makes (never one that was received)."""
    return _encoder.encode(document)


def layer_compression(media_type: str) -> str:
    """``none``, ``gzip`` or ``zstd`` of a layer's media type; "" when the type is not a layer's.

    Registries and builders label layers loosely, so readers look at the first bytes as well.
    """
    return _LAYER_COMPRESSION.get(media_type, "")


def is_foreign(media_type: str) -> bool:
    """Whether a layer of this type is fetched from its URLs and never pushed."""
    return media_type.startswith((_NONDISTRIBUTABLE, DOCKER_FOREIGN))


def _decoded(decoder: msgspec.json.Decoder[_Document], raw: bytes, what: str) -> _Document:
    try:
        try:
            return decoder.decode(raw)
        except msgspec.ValidationError:
            # Go's decoder takes null for any field as "absent", so images with such nulls exist.
            plain = _without_nulls(msgspec.json.decode(raw))
            return decoder.decode(_encoder.encode(plain))
    except msgspec.DecodeError as error:
        message = f"invalid {what}: {error}"
        raise DataLossError(message) from error


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value if item is not None]
    return value
