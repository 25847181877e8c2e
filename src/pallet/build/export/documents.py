"""Manifests and indexes of built images, in the content store.

Owns   which descriptor a layer has; ``Written``; annotations.
Runs   in worker threads: blobs are written.
Needs  a lease for all that is written.
Spec   image-spec manifest.md, image-index.md; BuildKit's ``annotation…`` attributes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from pallet.errors import DataLossError, InvalidParameterError, NotFoundError, PalletError
from pallet.spec import digest as digests
from pallet.spec import image as spec
from pallet.types import DiffID, Digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pallet.build.ports import SolvedTarget
    from pallet.image.store import ImageStore
    from pallet.spec.platform import Platform
    from pallet.storage.leases import Lease

_ANNOTATION = re.compile(
    r"annotation(?:-(manifest|index|manifest-descriptor|index-descriptor))?(?:\[([^\]]*)\])?\.(.+)", re.DOTALL)
_TO_OCI = {spec.DOCKER_LAYER: spec.OCI_LAYER, spec.DOCKER_LAYER_GZIP: spec.OCI_LAYER_GZIP,
           spec.DOCKER_LAYER_ZSTD: spec.OCI_LAYER_ZSTD}
_TO_DOCKER = {oci: docker for docker, oci in _TO_OCI.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One platform's image as documents."""

    platform: Platform
    config: spec.Descriptor
    manifest: spec.Descriptor
    """With its platform, for an index."""
    layers: tuple[spec.Descriptor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotations:
    """What ``--annotation`` adds where. Keys of the maps: a platform's text, "" for every one."""

    manifest: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    manifest_descriptor: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    index: Mapping[str, str] = field(default_factory=dict)
    index_descriptor: Mapping[str, str] = field(default_factory=dict)

    def of_manifest(self, platform: Platform) -> dict[str, str] | None:
        """Annotations of one platform's manifest."""
        return _for(self.manifest, platform)

    def of_descriptor(self, platform: Platform) -> dict[str, str] | None:
        """Annotations of its entry in the index."""
        return _for(self.manifest_descriptor, platform)


def read_annotations(attributes: Mapping[str, str]) -> Annotations:
    """Find the annotations among an exporter's attributes.

    Raises:
        InvalidParameterError: an unknown place.
    """
    places: dict[str, dict[str, dict[str, str]]] = {}
    for name, value in attributes.items():
        if not name.startswith("annotation"):
            continue
        found = _ANNOTATION.fullmatch(name)
        if found is None:
            message = f"invalid annotation {name!r}"
            raise InvalidParameterError(message)
        place = found[1] or "manifest"
        places.setdefault(place, {}).setdefault(found[2] or "", {})[found[3]] = value
    return Annotations(
        manifest=places.get("manifest", {}), manifest_descriptor=places.get("manifest-descriptor", {}),
        index=places.get("index", {}).get("", {}),
        index_descriptor=places.get("index-descriptor", {}).get("", {}))


def _for(found: Mapping[str, Mapping[str, str]], platform: Platform) -> dict[str, str] | None:
    return {**found.get("", {}), **found.get(str(platform), {})} or None


def encode(document: spec.Manifest | spec.Index) -> bytes:
    """A manifest or index without the fields that it does not have."""
    return msgspec.json.encode({name: value for name, value in msgspec.to_builtins(document).items()
                                if value is not None})


class Documents:
    """Writes documents of one export."""

    def __init__(self, images: ImageStore, lease: Lease, *, oci: bool,
                 added: Mapping[DiffID, spec.Descriptor]) -> None:
        """Begin.

        Args:
            oci: choose OCI's media types, else Docker's.
            added: blobs of layers that this build brought in itself.
        """
        self._images = images
        self._lease = lease
        self._oci = oci
        self._added = added

    def write(self, target: SolvedTarget, annotations: Annotations,
              layers: Sequence[spec.Descriptor] | None = None) -> Written:
        """Write config and manifest of a target.

        Args:
            layers: their blobs where they are to be others than the stored ones.

        Raises:
            DataLossError: nothing tells how a layer is stored.
        """
        chosen = [self._typed(layer) for layer in layers or self.layers(target)]
        config = self.put(target.config, spec.OCI_CONFIG if self._oci else spec.DOCKER_CONFIG)
        raw = encode(spec.Manifest(
            media_type=spec.OCI_MANIFEST if self._oci else spec.DOCKER_MANIFEST, config=config, layers=chosen,
            annotations=annotations.of_manifest(target.platform)))
        manifest = self.put(raw, spec.OCI_MANIFEST if self._oci else spec.DOCKER_MANIFEST)
        listed = spec.Descriptor(
            media_type=manifest.media_type, digest=manifest.digest, size=manifest.size, platform=target.platform,
            annotations=annotations.of_descriptor(target.platform))
        return Written(platform=target.platform, config=config, manifest=listed, layers=tuple(chosen))

    def index(self, entries: Iterable[spec.Descriptor], annotations: Annotations) -> spec.Descriptor:
        """Write the index of several manifests."""
        media_type = spec.OCI_INDEX if self._oci else spec.DOCKER_LIST
        return self.put(encode(spec.Index(
            media_type=media_type, manifests=list(entries), annotations=dict(annotations.index) or None)), media_type)

    def put(self, raw: bytes, media_type: str) -> spec.Descriptor:
        """Store a document."""
        digest = digests.of_bytes(raw)
        self._lease.add_blob(digest)
        self._images.content.put(raw, digest)
        return spec.Descriptor(media_type=media_type, digest=digest, size=len(raw))

    def layers(self, target: SolvedTarget) -> list[spec.Descriptor]:
        """The stored blob of each layer, base first.

        Raises:
            DataLossError: nothing tells how one is stored.
        """
        known = self._known(target)
        return [self._layer(DiffID(layer), known) for layer in target.layers]

    def _known(self, target: SolvedTarget) -> dict[DiffID, spec.Descriptor]:
        """Layers that a manifest tells of: the base's, and where need be those of all images."""
        found: dict[DiffID, spec.Descriptor] = {}
        wanted = [DiffID(layer) for layer in target.layers
                  if layer not in self._added and self._images.snapshotter.made_here(DiffID(layer)) is None]
        for image in self._images.list() if wanted else ():
            if not set(wanted) & set(image.diff_ids):
                continue
            try:
                _, manifest = self._images.manifest(image.id)
            except (DataLossError, NotFoundError):
                continue
            for layer, descriptor in zip(image.diff_ids, manifest.layers, strict=False):
                found.setdefault(layer, descriptor)
        return found

    def _layer(self, layer: DiffID, known: Mapping[DiffID, spec.Descriptor]) -> spec.Descriptor:
        if layer in self._added:
            return self._added[layer]
        made = self._images.snapshotter.made_here(layer)
        if made is not None:
            # Its tar is written when somebody asks for it: see ``storage/content.py``.
            return spec.Descriptor(media_type=spec.OCI_LAYER, digest=Digest(layer), size=made.tar_bytes)
        if layer in known:
            return known[layer]
        try:
            size = self._images.content.size(Digest(layer))
        except PalletError as error:
            message = f"layer {layer} has lost its blob"
            raise DataLossError(message) from error
        return spec.Descriptor(media_type=spec.OCI_LAYER, digest=Digest(layer), size=size)

    def _typed(self, layer: spec.Descriptor) -> spec.Descriptor:
        table = _TO_OCI if self._oci else _TO_DOCKER
        media_type = table.get(layer.media_type, layer.media_type)
        return spec.Descriptor(media_type=media_type, digest=layer.digest, size=layer.size, urls=layer.urls,
                               annotations=layer.annotations)
