"""What images an archive holds: from its documents to manifests, configurations and layers.

Owns   the reading of ``index.json``, ``manifest.json`` and ``repositories``, and all checks.
Runs   in a worker thread; reads nothing but documents that are in memory or in the content store.
Spec   as ``layout``; image-spec image-index.md, manifest.md, config.md.

An index is preferred: it says with which manifests the images were pulled or pushed.
``manifest.json`` is for archives without one, and for tools that left images out of the index.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from pallet.errors import DataLossError, InvalidParameterError, NotFoundError, PalletError
from pallet.image.archive import layout
from pallet.image.archive.intake import clean, missing
from pallet.spec import digest as digests
from pallet.spec import image as spec
from pallet.spec import platform as platforms
from pallet.spec.reference import parse_normalized

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.image.archive.intake import Arrival, Contents
    from pallet.spec.image import Descriptor, ImageConfigFile, StoredManifest
    from pallet.spec.platform import Platform
    from pallet.spec.reference import Reference
    from pallet.storage.content import ContentStore
    from pallet.types import Digest

_MAX_DEPTH = 3
_LAYER_TYPES = {"none": spec.DOCKER_LAYER, "gzip": spec.DOCKER_LAYER_GZIP,
                "zstd": spec.OCI_LAYER_ZSTD}
_NO_IMAGE = "invalid archive: does not contain a Docker image"

_archived = msgspec.json.Decoder(list[layout.ArchivedImage])
_repositories = msgspec.json.Decoder(dict[str, dict[str, str]])
_legacy = msgspec.json.Decoder(layout.LegacyImage)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedImage:
    """One image for one platform.

    ``documents`` are to be stored as they are; ``layers`` go base first with their blobs.
    """

    config_digest: Digest
    config: ImageConfigFile
    manifest: Digest
    layers: Sequence[Descriptor]
    documents: Sequence[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedName:
    """What is recorded together: the images of one entry, under its names.

    ``target`` is the index or manifest that the names stand for; None for images of archives that
    carry no manifest.
    """

    images: Sequence[PlannedImage]
    names: Sequence[Reference]
    target: Digest | None
    documents: Sequence[bytes] = ()


class Plan:
    """Reads one archive's documents."""

    def __init__(self, contents: Contents, content: ContentStore,
                 wanted: Sequence[Platform] = ()) -> None:
        """``wanted`` empty takes every platform."""
        self._contents = contents
        self._content = content
        self._wanted = wanted

    def read(self) -> list[PlannedName]:
        """Return what to record, in the archive's order.

        Raises:
            DataLossError: documents that contradict each other, or files that are missing.
            InvalidParameterError: no archive of images, or a bad name.
            NotFoundError: nothing for the platforms asked for.
        """
        names = self._archived_names()
        found = self._of_index(names)
        covered = {image.config_digest for entry in found for image in entry.images}
        found += self._of_manifest(covered)
        if not found and self._contents.document(layout.REPOSITORIES) is not None:
            found = self._of_repositories()
        if not found:
            self._refuse()
        return found

    def _refuse(self) -> None:
        if self._wanted and (self._contents.document(layout.INDEX) is not None
                             or self._contents.document(layout.MANIFEST) is not None):
            message = ("requested platform "
                       f"({platforms.describe(self._wanted)}) is not in the archive")
            raise NotFoundError(message)
        raise InvalidParameterError(_NO_IMAGE)

    # OCI image layout

    def _of_index(self, names: dict[str, list[Reference]]) -> list[PlannedName]:
        raw = self._contents.document(layout.INDEX)
        if raw is None:
            return []
        found: dict[Digest, PlannedName] = {}
        for entry in spec.decode_index(raw).manifests:
            digests.parse(entry.digest)
            name = _entry_name(entry)
            planned = found.get(entry.digest) or (None if entry.is_for_nothing else self._entry(entry))
            if planned is None:
                continue
            wanted = [*planned.names, *([name] if name else [])]
            for image in planned.images:
                wanted += names.get(image.config_digest, [])
            found[entry.digest] = PlannedName(
                images=planned.images, names=list(dict.fromkeys(wanted)), target=planned.target,
                documents=planned.documents)
        return list(found.values())

    def _entry(self, entry: Descriptor) -> PlannedName | None:
        """Everything below an entry of ``index.json``; None when it is no image or unwanted."""
        target = self._stored(entry.digest)
        if target is None:
            message = f"content digest {entry.digest}: not found"
            raise DataLossError(message)
        images: list[PlannedImage] = []
        documents: list[bytes] = [target.raw]
        lacking = self._walk(target, images, documents, 0)
        if not images:
            if lacking:
                message = f"content digest {lacking[0]}: not found"
                raise DataLossError(message)
            return None
        return PlannedName(images=images, names=[], target=target.digest, documents=documents)

    def _walk(self, target: StoredManifest, images: list[PlannedImage], documents: list[bytes],
              depth: int) -> list[Digest]:
        """Collect the images under a manifest or index; return the digests that are not here."""
        if not target.is_index:
            image = self._image(target)
            if image is not None:
                images.append(image)
            return []
        if depth >= _MAX_DEPTH:
            message = "manifest lists are nested too deep"
            raise DataLossError(message)
        lacking: list[Digest] = []
        for entry in target.index().manifests:
            digests.parse(entry.digest)
            child = self._stored(entry.digest)
            if child is None:
                if self._takes(entry.platform) and not entry.is_for_nothing:
                    lacking.append(entry.digest)
            elif entry.is_for_nothing:
                documents += self._attestation(child)
            else:
                documents.append(child.raw)
                lacking += self._walk(child, images, documents, depth + 1)
        return lacking

    def _takes(self, platform: Platform | None) -> bool:
        if not self._wanted or platform is None:
            return True
        return any(platforms.matches(wanted, platform) for wanted in self._wanted)

    def _image(self, stored: StoredManifest) -> PlannedImage | None:
        manifest = stored.manifest()
        raw = self._read(manifest.config.digest)
        if manifest.config.media_type not in (spec.OCI_CONFIG, spec.DOCKER_CONFIG):
            return None  # an artifact
        if raw is None:
            message = f"content digest {manifest.config.digest}: not found"
            raise DataLossError(message)
        config = spec.decode_config(raw)
        if not self._takes(config.platform):
            return None
        if len(config.rootfs.diff_ids) != len(manifest.layers):
            raise _mismatch(len(config.rootfs.diff_ids), len(manifest.layers))
        for layer in manifest.layers:
            digests.parse(layer.digest)
            if not self._content.has(layer.digest):
                message = f"content digest {layer.digest}: not found"
                raise DataLossError(message)
        return PlannedImage(config_digest=manifest.config.digest, config=config,
                            manifest=stored.digest, layers=manifest.layers,
                            documents=[raw, stored.raw])

    def _attestation(self, stored: StoredManifest) -> list[bytes]:
        try:
            manifest = stored.manifest()
        except PalletError:
            return []
        parts = [self._read(item.digest) for item in (manifest.config, *manifest.layers)]
        return [stored.raw, *(part for part in parts if part is not None)]

    def _stored(self, digest: Digest) -> StoredManifest | None:
        raw = self._read(digest)
        if raw is None:
            return None
        return spec.StoredManifest(raw=raw, media_type=spec.sniff_media_type(raw), digest=digest)

    def _read(self, digest: Digest) -> bytes | None:
        """A document of the archive or, for one that came before, of the content store."""
        found = self._contents.document(layout.blob_path(digest))
        if found is None and self._content.has(digest):
            found = self._content.read(digest)
        return found

    # manifest.json

    def _manifest(self) -> list[layout.ArchivedImage]:
        raw = self._contents.document(layout.MANIFEST)
        if raw is None:
            return []
        try:
            return _archived.decode(raw)
        except msgspec.DecodeError as error:
            message = f"invalid {layout.MANIFEST}: {error}"
            raise DataLossError(message) from error

    def _archived_names(self) -> dict[str, list[Reference]]:
        """Config digest to the names that ``manifest.json`` gives it."""
        found: dict[str, list[Reference]] = {}
        for item in self._manifest():
            raw = self._contents.document(item.config)
            if raw is not None:
                found.setdefault(digests.of_bytes(raw), []).extend(
                    _tagged(text) for text in item.repo_tags or ())
        return found

    def _of_manifest(self, covered: set[Digest]) -> list[PlannedName]:
        found: list[PlannedName] = []
        for item in self._manifest():
            raw = self._contents.document(item.config)
            if raw is None:
                raise missing(item.config)
            digest = digests.of_bytes(raw)
            if digest in covered:
                continue
            claimed = item.config.removesuffix(".json").rpartition("/")[2]
            if digests.is_digest(f"sha256:{claimed}") and digest != f"sha256:{claimed}":
                message = f"image config verification failed for digest sha256:{claimed}"
                raise DataLossError(message)
            config = spec.decode_config(raw)
            if not self._takes(config.platform):
                continue
            found.append(self._composed(raw, digest, config, item.layers or [],
                                        [_tagged(text) for text in item.repo_tags or ()]))
        return found

    def _composed(self, raw: bytes, digest: Digest, config: ImageConfigFile,
                  paths: Sequence[str], names: Sequence[Reference]) -> PlannedName:
        """An image without a manifest gets one of ours."""
        diff_ids = config.rootfs.diff_ids
        if len(diff_ids) != len(paths):
            raise _mismatch(len(diff_ids), len(paths))
        layers = [self._descriptor(path) for path in paths]
        docker = all(layer.media_type != spec.OCI_LAYER_ZSTD for layer in layers)
        manifest = spec.encode(spec.Manifest(
            media_type=spec.DOCKER_MANIFEST if docker else spec.OCI_MANIFEST,
            config=spec.Descriptor(media_type=spec.DOCKER_CONFIG if docker else spec.OCI_CONFIG,
                                   digest=digest, size=len(raw)), layers=layers))
        image = PlannedImage(
            config_digest=digest, config=config, manifest=digests.of_bytes(manifest),
            layers=layers, documents=[raw, manifest])
        return PlannedName(images=[image], names=names, target=None)

    def _descriptor(self, path: str) -> Descriptor:
        arrival: Arrival | None = self._contents.layer(path)
        if arrival is None or arrival.digest is None:
            raise missing(clean(path))
        return spec.Descriptor(media_type=_LAYER_TYPES[arrival.compression],
                               digest=arrival.digest, size=arrival.blob_bytes)

    # Before Docker 1.10: repositories and one directory a layer

    def _of_repositories(self) -> list[PlannedName]:
        raw = self._contents.document(layout.REPOSITORIES) or b"{}"
        try:
            repositories = _repositories.decode(raw)
        except msgspec.DecodeError as error:
            message = f"invalid {layout.REPOSITORIES}: {error}"
            raise DataLossError(message) from error
        names: dict[str, list[Reference]] = {}
        for repository, tags in repositories.items():
            for tag, image_id in tags.items():
                names.setdefault(image_id, []).append(_tagged(f"{repository}:{tag}"))
        return [self._legacy(image_id, found) for image_id, found in names.items()]

    def _legacy(self, image_id: str, names: Sequence[Reference]) -> PlannedName:
        chain: list[layout.LegacyImage] = []
        paths: list[str] = []
        while image_id:
            path = f"{image_id}/json"
            raw = self._contents.document(path)
            if raw is None or len(chain) >= 1000:
                raise missing(path)
            try:
                image = _legacy.decode(raw)
            except msgspec.DecodeError as error:
                message = f"invalid {path}: {error}"
                raise DataLossError(message) from error
            chain.append(image)
            paths.append(f"{image_id}/layer.tar")
            image_id = image.parent
        chain.reverse()
        paths.reverse()
        diff_ids: list[str] = []
        for path in paths:
            arrival = self._contents.layer(path)
            if arrival is None or arrival.diff_id is None:
                raise missing(path)
            diff_ids.append(arrival.diff_id)
        raw = spec.encode(_LegacyConfig.of(chain, diff_ids))
        return self._composed(raw, digests.of_bytes(raw), spec.decode_config(raw), paths, names)


class _LegacyConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The configuration of an image that had none of its own."""

    architecture: str
    os: str
    created: str | None
    author: str
    comment: str
    docker_version: str
    config: msgspec.Raw
    rootfs: dict[str, Any]
    history: list[spec.History]

    @classmethod
    def of(cls, chain: Sequence[layout.LegacyImage], diff_ids: Sequence[str]) -> _LegacyConfig:
        """Of the v1 images, base first."""
        top = chain[-1]
        return cls(
            architecture=top.architecture or "amd64", os=top.os or "linux", created=top.created,
            author=top.author, comment=top.comment, docker_version=top.docker_version,
            config=top.config, rootfs={"type": "layers", "diff_ids": list(diff_ids)},
            history=[spec.History(created=image.created, author=image.author,
                                  comment=image.comment, created_by=_command(image))
                     for image in chain])


def _command(image: layout.LegacyImage) -> str:
    """The step that made a v1 image."""
    try:
        found = msgspec.json.decode(image.container_config)
    except msgspec.DecodeError:
        return ""
    return " ".join((found or {}).get("Cmd") or []) if isinstance(found, dict) else ""


def _tagged(text: str) -> Reference:
    """Name of ``manifest.json``.

    Raises:
        InvalidParameterError: no name with a tag.
    """
    reference = parse_normalized(text)
    if reference.tag is None or reference.digest is not None:
        message = f'invalid tag "{text}"'
        raise InvalidParameterError(message)
    return reference


def _entry_name(entry: Descriptor) -> Reference | None:
    """Name of an entry of ``index.json``; a bare tag is none."""
    notes = entry.annotations or {}
    text = notes.get(layout.NAME_ANNOTATION) or notes.get(layout.REF_ANNOTATION, "")
    if not text or (layout.NAME_ANNOTATION not in notes and ":" not in text):
        return None
    try:
        reference = parse_normalized(text)
    except InvalidParameterError:
        return None
    return None if reference.digest is not None else reference.with_default_tag()


def _mismatch(expected: int, found: int) -> DataLossError:
    return DataLossError(
        f"invalid manifest, layers length mismatch: expected {expected}, got {found}")
