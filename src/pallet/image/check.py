"""``pallet system check``: every blob, layer and record against what it must be, and repair.

Owns   the rule of what damage is and how it is mended: a blob comes again from its registry, a
       layer from its blob, a record that points nowhere goes, and so does what nothing points to.
Runs   on the event loop, beside everything else; reading in worker threads and zygote children.
       What is looked at is leased meanwhile.
Spec   ``docs/disk.md``.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pallet.aio import run_blocking, shielded
from pallet.errors import NotFoundError, PalletError
from pallet.image.lazyblobs import LazyBlobs
from pallet.image.repair import unpack_again
from pallet.layer.model import MissingLinkTargetError, StorageFullError
from pallet.layer.remove import remove_tree
from pallet.layer.verify import VerifyReply, VerifyRequest
from pallet.layer.worker import ApplyReply, ApplyRequest
from pallet.spec import image as documents
from pallet.spec.own.disk import CheckMessage
from pallet.spec.reference import parse_normalized
from pallet.types import DiffID

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from pallet.image.importer import WorkerRunner
    from pallet.image.model import Image
    from pallet.image.store import ImageStore
    from pallet.layer.model import Applied
    from pallet.paths import DataPaths
    from pallet.spec.engine.auth import AuthConfig
    from pallet.spec.reference import Reference
    from pallet.storage.leases import Lease
    from pallet.storage.metadata import Metadata
    from pallet.types import Digest

logger = logging.getLogger(__name__)

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


class Fetcher(Protocol):
    """``transfer.blobs.BlobFetcher``."""

    async def fetch(self, reference: Reference, digest: Digest, size_bytes: int) -> None:
        """Replace a blob."""
        ...

    async def fetch_manifest(self, reference: Reference, digest: Digest) -> None:
        """Replace a manifest."""
        ...

    def authenticated(self, credentials: Mapping[str, AuthConfig]) -> Fetcher:
        """Return one with the credentials of whoever asks, by registry."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerUser:
    """A container and the layers it stands on."""

    container_id: str
    layers: Sequence[str]
    running: bool
    has_root: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Need:
    """A blob that some image needs, and where it may come from again."""

    size_bytes: int
    is_manifest: bool
    needed: bool
    sources: tuple[Reference, ...]


class StoreCheck:
    """One check of one store."""

    def __init__(
        self, *, images: ImageStore, metadata: Metadata, paths: DataPaths, workers: WorkerRunner,
        fetcher: Fetcher, users: Callable[[], Iterable[LayerUser]],
        report: Callable[[CheckMessage], None], repair: bool,
    ) -> None:
        """Make it ready to ``run`` once."""
        self._images = images
        self._content = images.content
        self._snapshotter = images.snapshotter
        self._metadata = metadata
        self._drafts = paths.drafts
        self._workers = workers
        self._blobs = LazyBlobs(images, workers)
        self._fetcher = fetcher
        self._users = users
        self._report = report
        self._repair = repair
        self._checked = 0
        self._damaged = 0
        self._bad_blobs: set[Digest] = set()

    async def run(self) -> int:
        """Check everything; return how much damage remains. The last message has the sums."""
        with self._images.lease() as lease:
            await self._check_blobs(lease)
            await self._check_images()
            await self._check_layers(lease)
        await self._check_leftovers()
        self._report(CheckMessage(stage="done", checked=self._checked, damaged=self._damaged))
        return self._damaged

    async def _mend(self, stage: str, subject: str, problem: str,
                    cure: Callable[[], Awaitable[object]] | None,
                    containers: Sequence[str] = ()) -> bool:
        """Tell of damage; with ``repair`` try the cure first. Whether it is mended."""
        mended = False
        if self._repair and cure is not None:
            try:
                await cure()
                mended = True
            except (PalletError, OSError) as error:
                problem = f"{problem}; cannot be repaired: {error}"
        if not mended:
            self._damaged += 1
        logger.warning("check: %s %s%s", subject, problem, ": repaired" if mended else "")
        self._report(CheckMessage(stage=stage, subject=subject, problem=problem, repaired=mended,
                                  containers=list(containers)))
        return mended

    # Blobs

    async def _check_blobs(self, lease: Lease) -> None:
        """Manifests first: they say which other blobs there must be."""
        manifests = self._manifests()
        await self._verify(manifests, lease)
        needs = await run_blocking(self._needs_of, manifests)
        present = await run_blocking(lambda: dict(self._content.walk()))
        others = {digest: needs.get(digest) or _Need(size_bytes=size, is_manifest=False, needed=False, sources=())
                  for digest, size in present.items()}
        await self._verify({d: n for d, n in {**others, **needs}.items() if d not in manifests}, lease)

    def _manifests(self) -> dict[Digest, _Need]:
        """Every stored manifest of every image, and what references were brought in as."""
        found: dict[Digest, _Need] = {}
        records = {image.id: image.manifests for image in self._images.list()}
        records |= {key: tuple(record.manifests) for key, record in self._images.damaged().items()}
        for image_id, manifests in records.items():
            references = self._images.references(image_id)
            targets = (self._images.target(reference) for reference in references)
            # A digest says that it came from there or went there; a tag alone says nothing.
            sources = tuple(item for item in references if item.digest is not None)
            stored = [digest for digest in manifests if self._content.has(digest)]
            for digest in {*(stored or manifests), *(target for target in targets if target)}:
                found[digest] = _Need(size_bytes=0, is_manifest=True, needed=True, sources=sources)
        return found

    def _needs_of(self, manifests: dict[Digest, _Need]) -> dict[Digest, _Need]:
        found: dict[Digest, _Need] = {}
        for digest, need in manifests.items():
            try:
                raw = self._content.read(digest)
                if documents.sniff_media_type(raw) in documents.INDEX_TYPES:
                    continue
                manifest = documents.decode_manifest(raw)
            except PalletError:
                continue
            for entry in (manifest.config, *manifest.layers):
                found[entry.digest] = _Need(size_bytes=entry.size, is_manifest=False, needed=True,
                                            sources=need.sources)
        return found

    async def _verify(self, blobs: dict[Digest, _Need], lease: Lease) -> None:
        for done, (digest, need) in enumerate(blobs.items(), start=1):
            lease.add_blob(digest)
            problem = await run_blocking(self._blob_problem, digest, needed=need.needed)
            self._checked += 1
            if problem:
                cure = (lambda d=digest, n=need: self._fetch(d, n)) if need.needed else None
                if not await self._mend("blobs", digest, problem, cure):
                    self._bad_blobs.add(digest)
            self._report(CheckMessage(stage="blobs", subject=digest, done=done, total=len(blobs)))

    def _blob_problem(self, digest: Digest, *, needed: bool) -> str:
        try:
            return "" if self._content.verify(digest) else "is damaged"
        except NotFoundError:
            # A build's layer has none until somebody wants it; its tree is looked at instead.
            return "is missing" if needed and self._blobs.made(DiffID(digest)) is None else ""
        except OSError as error:
            return f"cannot be read: {error.strerror}"

    async def _fetch(self, digest: Digest, need: _Need) -> None:
        last: PalletError = NotFoundError("no registry is known for it")
        for reference in {source.name: source for source in need.sources}.values():
            try:
                if need.is_manifest:
                    await self._fetcher.fetch_manifest(reference, digest)
                else:
                    await self._fetcher.fetch(reference, digest, need.size_bytes)
                return
            except PalletError as error:
                last = error
        raise last

    # Records of images

    async def _check_images(self) -> None:
        for image_id in self._images.damaged():
            self._checked += 1
            if not await run_blocking(self._images.reload, image_id):
                await self._mend("records", image_id, "cannot be read: its config is damaged", None)
        known = {image_id for image_id, _ in self._metadata.images()}
        for text, image_id, _ in self._metadata.tags():
            self._checked += 1
            if image_id not in known:
                async def forget(name: str = text) -> None:
                    await run_blocking(self._images.untag, parse_normalized(name))

                await self._mend("records", text, f"names image {image_id}, which is not there", forget)
        for user in self._users():
            self._checked += 1
            if not user.has_root:
                await self._mend("records", user.container_id, "has no file system", None,
                                 [user.container_id])

    # Layers

    async def _check_layers(self, lease: Lease) -> None:
        seen: set[DiffID] = set()
        images = self._images.list()
        total = len({layer for image in images for layer in image.diff_ids})
        for image in images:
            for index, diff_id in enumerate(image.diff_ids):
                if diff_id in seen:
                    continue
                seen.add(diff_id)
                lease.add_layer(diff_id)
                await self._check_layer(image, index, diff_id)
                self._report(CheckMessage(stage="layers", subject=diff_id, done=len(seen), total=total))

    async def _check_layer(self, image: Image, index: int, diff_id: DiffID) -> None:
        self._checked += 1
        blob = await run_blocking(self._blob_of, image, index)
        problem = "is not unpacked"
        if self._snapshotter.has_layer(diff_id):
            if blob is None or blob in self._bad_blobs:
                return  # the blob was told of; there is nothing to hold the layer against
            try:
                made = self._blobs.made(diff_id) if not self._content.has(blob) else None
                if made is not None:
                    problem = "" if await self._blobs.digest(made) == diff_id else "is damaged"
                else:
                    problem = await self._layer_problem(image, index, blob)
            except (PalletError, OSError) as error:
                if isinstance(error, StorageFullError) or getattr(error, "errno", 0) in _NO_ROOM:
                    message = f"layer {diff_id} cannot be checked: there is no space left to unpack its blob beside it"
                    raise StorageFullError(message) from error
                problem = f"cannot be compared with its blob: {error}"
        if not problem:
            return
        users = [user for user in self._users() if diff_id in user.layers]

        async def rebuild() -> None:
            await shielded(self._rebuild(image, diff_id, blob, users))

        mended = await self._mend("layers", diff_id, problem, rebuild,
                                  [user.container_id for user in users])
        if mended:
            logger.info("layer %s was rebuilt from blob %s", diff_id, blob)

    def _blob_of(self, image: Image, index: int) -> Digest | None:
        try:
            _, manifest = self._images.manifest(image.id)
        except PalletError:
            return None
        return manifest.layers[index].digest if index < len(manifest.layers) else None

    async def _layer_problem(self, image: Image, index: int, blob: Digest) -> str:
        """Unpack the blob once more beside the layer, and compare."""
        directory = f"{self._drafts}/check-{secrets.token_hex(6)}"
        expected = f"{directory}/fs"
        await run_blocking(os.makedirs, expected, 0o755)
        try:
            applied = await self._unpack(expected, image, index, blob)
            if applied.diff_id != image.diff_ids[index]:
                self._bad_blobs.add(blob)
                return f"is not what its blob {blob} holds"
            root = self._snapshotter.root_mount_of_layers([image.diff_ids[index]])
            reply = await self._workers.run_worker("layer.verify", VerifyRequest(
                expected=expected, actual=os.path.join(root.base_dir, root.lower[0]),
                implied_dirs=applied.implied_dirs), reply_type=VerifyReply)
        finally:
            await run_blocking(remove_tree, directory)
        found = reply.result()
        self._checked += found.entries
        if not found.count:
            return ""
        places = "one place" if found.count == 1 else f"{found.count} places"
        return f"is damaged in {places}: {'; '.join(found.differences[:3])}"

    async def _unpack(self, target: str, image: Image, index: int, blob: Digest) -> Applied:
        try:
            return await self._apply(target, blob, [])
        except MissingLinkTargetError:
            await run_blocking(_empty, target)
            below = self._snapshotter.root_mount_of_layers(image.diff_ids[:index])
            return await self._apply(
                target, blob, [os.path.join(below.base_dir, name) for name in below.lower])

    async def _apply(self, target: str, blob: Digest, lower_dirs: list[str]) -> Applied:
        fd = self._content.open(blob)
        try:
            reply = await self._workers.run_worker(
                "layer.apply", ApplyRequest(target=target, lower_dirs=lower_dirs), [fd],
                reply_type=ApplyReply)
        finally:
            os.close(fd)
        return reply.result()

    async def _rebuild(self, image: Image, diff_id: DiffID, blob: Digest | None,
                       users: Sequence[LayerUser]) -> None:
        if blob is None or blob in self._bad_blobs or not self._content.has(blob):
            message = "its blob is not there; pull the image again"
            raise NotFoundError(message)
        running = [user.container_id[:12] for user in users if user.running]
        if running:
            message = f"stop {', '.join(running)} first and check again"
            raise PalletError(message)
        if self._snapshotter.has_layer(diff_id):
            await run_blocking(self._snapshotter.discard_layer, diff_id)
        await unpack_again(self._images, self._workers, image, blob)
        with suppress(NotFoundError):  # while another of its layers lacks; that one settles all
            await run_blocking(self._snapshotter.settle, image.diff_ids)

    # What nothing points to

    async def _check_leftovers(self) -> None:
        blobs, layers = await run_blocking(self._images.unreachable)
        held = {layer for user in self._users() for layer in user.layers}
        for subject in (*blobs, *(layer for layer in layers if layer not in held)):
            self._checked += 1

            async def collect() -> None:
                await run_blocking(self._images.collect)

            await self._mend("records", subject, "is needed by nothing", collect)
        for name in await run_blocking(self._snapshotter.strays):
            async def sweep() -> None:
                await run_blocking(lambda: self._snapshotter.strays(remove=True))

            await self._mend("records", name, "belongs to no layer", sweep)


def _empty(directory: str) -> None:
    remove_tree(directory)
    os.mkdir(directory, 0o755)
