"""Bringing one image in: manifest for the platform, configuration, layers.

Owns   verification of everything between a manifest and its layers; pulls all layers at once.
Runs   on the event loop; requests and stores in transfer threads.
Needs  ``PullTools``.
Spec   image-spec manifest.md, image-index.md, config.md; descriptor.md#digests (verification).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from pallet.aio import first_error
from pallet.errors import DataLossError, InvalidParameterError, NotFoundError
from pallet.layer.model import MissingLinkTargetError
from pallet.spec import digest as digests
from pallet.spec import image
from pallet.spec import platform as platforms
from pallet.transfer import attestations, failures, progress
from pallet.transfer.cancellation import Cancellation
from pallet.transfer.client import refusal
from pallet.transfer.failures import BadContentError
from pallet.transfer.layer_job import LayerSource
from pallet.transfer.transport import read_document

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from urllib3.response import HTTPResponse

    from pallet.spec.engine.progress import ProgressMessage
    from pallet.spec.image import Descriptor, ImageConfigFile, Manifest, StoredManifest
    from pallet.spec.platform import Platform
    from pallet.spec.reference import Reference
    from pallet.storage.content import ContentStore
    from pallet.transfer.client import RepositoryClient
    from pallet.transfer.layers import LayerPool
    from pallet.transfer.threads import TransferThreads
    from pallet.transfer.transport import Transport
    from pallet.types import DiffID, Digest

MAX_CONFIG_BYTES = 8 << 20
_MAX_INDEX_DEPTH = 3
_MISMATCH = "layers from manifest don't match image configuration"


class Protection(Protocol):
    """A lease: ``storage.leases.Lease``."""

    def add_blob(self, digest: Digest) -> None:
        """Protect a blob that is or will be here."""
        ...

    def add_layer(self, diff_id: DiffID) -> None:
        """Protect a layer that is or will be here."""
        ...

    def end(self) -> None:
        """Give the protection up."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PullTools:
    """What every pull of a daemon uses."""

    transport: Transport
    threads: TransferThreads
    layers: LayerPool
    content: ContentStore


@dataclass(frozen=True, slots=True, kw_only=True)
class PulledImage:
    """An image that is here, ready to be recorded.

    ``target`` is what the reference resolved to: the index of a multi-platform image.
    """

    reference: Reference
    target: StoredManifest
    manifest: StoredManifest
    config_digest: Digest
    config: ImageConfigFile


class ImagePull:
    """One image on its way in, from one repository."""

    def __init__(
        self, tools: PullTools, client: RepositoryClient, reference: Reference,
        lease: Protection, watch: Callable[[ProgressMessage], None],
    ) -> None:
        self._tools = tools
        self._client = client
        self._reference = reference
        self._lease = lease
        self._watch = watch

    async def run(self, target: StoredManifest, wanted: Platform) -> PulledImage:
        """Bring in the image of ``target`` that ``wanted`` can run.

        Raises:
            NotFoundError: none for this platform.
            DataLossError: documents or content that contradict each other.
            RegistryError: the registry failed.
        """
        manifests = await self._choose(target, wanted)
        stored = manifests[-1]
        manifest = stored.manifest()
        # Docker is silent about the layers of an image it has.
        known = self._tools.content.has(manifest.config.digest)
        raw_config = await self._config(manifest.config)
        config = image.decode_config(raw_config)
        diff_ids = config.rootfs.diff_ids
        if len(diff_ids) != len(manifest.layers):
            raise DataLossError(_MISMATCH)
        if config.os and config.os != "linux":
            message = f'image operating system "{config.os}" cannot be used on this platform'
            raise InvalidParameterError(message)
        # Before the layers: their writes would keep these small syncs waiting.
        await self._tools.threads.run(partial(self._keep, manifests))
        await self._with_attestations(manifests, self._layers(manifest, diff_ids, quiet=known))
        return PulledImage(reference=self._reference, target=target, manifest=stored,
                           config_digest=manifest.config.digest, config=config)

    async def _with_attestations(self, chain: list[StoredManifest], layers: Coroutine[None, None, None]) -> None:
        """Bring in what attests the chosen image while its layers come."""
        entries = attestations.about(chain[-1].digest, chain[:-1])
        if not entries:
            await layers
            return
        cancel = Cancellation()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(layers)
                group.create_task(self._tools.threads.run(partial(
                    attestations.bring_in, self._client, self._tools.content, self._lease, entries, cancel), cancel))
        except BaseExceptionGroup as problems:
            raise first_error(problems) from problems

    async def _choose(self, target: StoredManifest, wanted: Platform) -> list[StoredManifest]:
        """Follow indexes down to one image; every document on the way, the image's last."""
        chain = [target]
        while chain[-1].is_index:
            if len(chain) > _MAX_INDEX_DEPTH:
                message = "manifest lists are nested too deep"
                raise DataLossError(message)
            entries = [entry for entry in chain[-1].index().manifests if not entry.is_for_nothing]
            order = platforms.choose(wanted, [entry.platform for entry in entries])
            if not order:
                message = f"no matching manifest for {wanted} in the manifest list entries"
                raise NotFoundError(message)
            entry = entries[order[0]]
            child = await self._tools.threads.run(partial(self._client.manifest, entry.digest))
            if len(child.raw) != entry.size:
                message = (f"manifest {entry.digest} has {len(child.raw)} bytes where the list "
                           f"says {entry.size}")
                raise BadContentError(message)
            chain.append(child)
        return chain

    async def _config(self, descriptor: Descriptor) -> bytes:
        if descriptor.media_type == image.DOCKER_PLUGIN_CONFIG:
            message = ("Encountered remote \"application/vnd.docker.plugin.v1+json\"(plugin) when "
                       "fetching")
            raise InvalidParameterError(message)
        self._lease.add_blob(descriptor.digest)
        return await self._tools.threads.run(partial(self._load_config, descriptor))

    def _load_config(self, descriptor: Descriptor) -> bytes:
        content, digest = self._tools.content, descriptor.digest
        if content.has(digest):
            return content.read(digest)
        digests.parse(digest)
        if descriptor.size > MAX_CONFIG_BYTES:
            message = f"image configuration is larger than {MAX_CONFIG_BYTES} bytes"
            raise BadContentError(message)
        raw = read_document(self._client.blob(digest), limit=max(descriptor.size, 1))
        if digests.of_bytes(raw, digests.algorithm(digest)) != digest:
            message = f"image config verification failed for digest {digest}"
            raise DataLossError(message)
        content.put(raw, digest)
        return raw

    async def _layers(
        self, manifest: Manifest, diff_ids: list[DiffID], *, quiet: bool
    ) -> None:
        """Bring in every layer, largest first, so that the last one to finish is a small one."""
        sources: dict[tuple[Digest, DiffID], LayerSource] = {}
        for index, (descriptor, diff_id) in enumerate(zip(manifest.layers, diff_ids, strict=True)):
            digests.parse(descriptor.digest)
            digests.parse(diff_id)
            self._lease.add_blob(descriptor.digest)
            self._lease.add_layer(diff_id)
            source = LayerSource(
                descriptor=descriptor, diff_id=diff_id, parents=tuple(diff_ids[:index]),
                open_at=partial(self._open, descriptor))
            if self._tools.layers.has(descriptor, diff_id):
                if not quiet:
                    self._watch(progress.update("Already exists", source.id))
                continue
            key = (descriptor.digest, diff_id)
            if key not in sources:
                self._watch(progress.update("Pulling fs layer", source.id))
                sources[key] = source
        linked = await self._together(sorted(
            sources.values(), key=lambda source: source.descriptor.size, reverse=True))
        for source in sorted(linked, key=lambda source: len(source.parents)):
            again = LayerSource(
                descriptor=source.descriptor, diff_id=source.diff_id, parents=source.parents,
                open_at=source.open_at, parents_ready=True)
            await self._tools.layers.obtain(again, self._watch)

    async def _together(self, sources: list[LayerSource]) -> list[LayerSource]:
        """Obtain all at once; those that must wait for their parents are returned."""
        linked: list[LayerSource] = []

        async def obtain(source: LayerSource) -> None:
            try:
                await self._tools.layers.obtain(source, self._watch)
            except MissingLinkTargetError:
                linked.append(source)

        try:
            async with asyncio.TaskGroup() as group:
                for source in sources:
                    group.create_task(obtain(source))
        except BaseExceptionGroup as problems:
            raise first_error(problems) from problems
        return linked

    def _open(self, descriptor: Descriptor, offset_bytes: int) -> HTTPResponse:
        """Open a layer's blob; a foreign layer's from its URLs. Runs in a transfer thread."""
        if not (descriptor.urls and image.is_foreign(descriptor.media_type)):
            return self._client.blob(descriptor.digest, offset_bytes=offset_bytes)
        headers = {"Range": f"bytes={offset_bytes}-"} if offset_bytes else {}
        problem: failures.RegistryError | None = None
        for url in descriptor.urls:
            if not url.startswith(("http://", "https://")):
                continue
            try:
                response = self._tools.transport.request("GET", url, headers=headers)
            except failures.RegistryError as error:
                problem = error
                continue
            if response.status in {200, 206}:
                return response
            problem = refusal(response)
        raise problem or BadContentError(f"layer {descriptor.digest} has no URL to fetch it from")

    def _keep(self, manifests: list[StoredManifest]) -> None:
        """Store the manifests as they came. Runs in a transfer thread."""
        for stored in manifests:
            self._lease.add_blob(stored.digest)
            self._tools.content.put(stored.raw, stored.digest)
