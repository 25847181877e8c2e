"""Images of the Engine API: pull, push, import, list, inspect, history, tag, remove.

Owns   what image requests mean: names, messages, events; the stores and transfers do the work.
Runs   on the event loop; disk work in worker threads.
Needs  ``ImageStore``, ``Transfers``.
Spec   Engine API tag Image; ``api.backends.ImageBackend``.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from pallet.aio import run_blocking
from pallet.engine import imageview
from pallet.engine.imagefilter import ImageFilter
from pallet.engine.imagepush import push_request
from pallet.engine.manifestview import summaries
from pallet.engine.search import search
from pallet.errors import NotFoundError
from pallet.image import variants
from pallet.image.lazyblobs import LazyBlobs
from pallet.spec import platform as platforms
from pallet.spec import reference as references
from pallet.spec.engine.auth import AuthResponse
from pallet.spec.engine.distribution import DistributionInspect
from pallet.spec.engine.image import ImageDeleteItem
from pallet.spec.engine.oci import Descriptor, DescriptorPlatform
from pallet.transfer import progress as messages
from pallet.transfer.auth import LoginCredentials
from pallet.transfer.pull import PullRequest
from pallet.transfer.service import Transfers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pallet.config import Config
    from pallet.engine.events import EventSink
    from pallet.image.model import Image
    from pallet.image.store import ImageStore
    from pallet.spec.engine.auth import AuthConfig
    from pallet.spec.engine.filters import Filters
    from pallet.spec.engine.image import ImageHistoryItem, ImageInspect, ImageSummary
    from pallet.spec.engine.options import ImageListOptions, PullOptions, PushOptions
    from pallet.spec.engine.progress import ProgressMessage
    from pallet.spec.engine.search import SearchResult
    from pallet.spec.image import StoredManifest
    from pallet.spec.mounts import RootMount
    from pallet.spec.own.disk import ImageFacts
    from pallet.spec.platform import Platform
    from pallet.spec.reference import Reference
    from pallet.storage.content import ContentStore
    from pallet.storage.snapshot import Snapshotter
    from pallet.transfer.artifacts import Artifacts
    from pallet.transfer.blobs import BlobFetcher
    from pallet.transfer.image_pull import PulledImage
    from pallet.transfer.layer_job import WorkerRunner
    from pallet.transfer.layers import LayerPool
    from pallet.transfer.pull import Puller

    Report = Callable[[ProgressMessage], None]


class Images:
    """Implements ``api.backends.ImageBackend``."""

    def __init__(
        self, *, config: Config, content: ContentStore, snapshotter: Snapshotter,
        images: ImageStore, supervisor: WorkerRunner, events: EventSink,
    ) -> None:
        """Nothing is connected yet; ``supervisor`` unpacks layers."""
        self._content = content
        self._snapshotter = snapshotter
        self._images = images
        self._events = events
        self._blobs = LazyBlobs(images, supervisor)
        self.facts: Callable[[Image], ImageFacts] | None = None
        """Adds what Docker does not tell to an inspect."""
        self._transfers = Transfers(
            config.registry, content=content, snapshotter=snapshotter, workers=supervisor,
            lease=images.lease)

    @property
    def layers(self) -> LayerPool:
        """Layers in progress, for others that bring some in."""
        return self._transfers.layers

    @property
    def artifacts(self) -> Artifacts:
        """What reads and writes manifests that are no images, for builds."""
        return self._transfers.artifacts

    @property
    def puller(self) -> Puller:
        """What pulls images, for builds."""
        return self._transfers.puller

    @property
    def blobs(self) -> BlobFetcher:
        """What fetches single blobs again."""
        return self._transfers.blobs

    async def close(self) -> None:
        """Stop pulls and pushes that are going on and wait for their clean-up."""
        await self._transfers.close()

    # Moving images

    async def pull(self, options: PullOptions, progress: Report) -> None:
        """Pull one image, or every tag of a repository when neither tag nor digest is given."""
        reference = references.parse_repository_tag(options.reference, options.tag)
        platform = platforms.parse(options.platform) if options.platform else None
        request = PullRequest(
            reference=reference, platform=platform, all_tags=reference.is_name_only,
            credentials=LoginCredentials.from_config(options.auth), headers=options.meta_headers)
        last: list[Image] = []

        async def record(pulled: PulledImage) -> bool:
            image, changed = await self._transfers.threads.run(partial(self._record, pulled))
            last[:] = [image]
            return changed

        try:
            await self._transfers.puller.pull(request, progress, record)
        except BaseException:
            # What came whole before it failed belongs to nobody now.
            await self._transfers.threads.settle(self._collect)
            raise
        for image in last:
            if platform is not None:
                _warn_of_platform(image, platform, reference, progress)
            self._emit("pull", reference.familiar(), image, name=reference.familiar_name)

    def _collect(self) -> None:
        self._images.collect()

    def _record(self, pulled: PulledImage) -> tuple[Image, bool]:
        """Record a pulled image, in a worker thread; whether its reference points elsewhere now."""
        reference = pulled.reference
        if reference.digest is not None:
            reference = reference.repository().with_digest(reference.digest)
        before = self._images.find(reference)
        had = [] if before is None else variants.once([before, *variants.members(
            self._content, self._images.target(reference), self._images.list())])
        image = self._images.put(
            pulled.config_digest, manifest_digest=pulled.manifest.digest, reference=reference,
            target_digest=pulled.target.digest)
        return image, all(one.id != image.id for one in had)

    async def push(self, options: PushOptions, progress: Report) -> None:
        """Push one tag, or every tag of the repository when none is given."""
        reference = references.parse_repository_tag(options.reference, options.tag)
        progress(messages.message(
            f"The push refers to repository [{reference.name}]"))
        platform = platforms.parse(options.platform) if options.platform else None
        with self._images.lease() as lease:
            await self._blobs.of_images(variants.of_repository(self._images, reference), lease)
            request = await run_blocking(partial(
                push_request, self._images, self._content, reference,
                LoginCredentials.from_config(options.auth), options.meta_headers, platform=platform))
            pushed = await self._transfers.pusher.push(request, progress)
        for picture, manifest in zip(request.images, pushed, strict=True):
            image = self._images.find(picture.reference)
            if image is not None:
                await run_blocking(self._note_pushed, image, reference, manifest)
        image = self._images.find(request.images[0].reference)
        if image is not None:
            self._emit("push", reference.familiar(), image, name=reference.familiar_name)

    def _note_pushed(self, image: Image, reference: Reference, manifest: StoredManifest) -> None:
        """Record where an image was pushed to, with the manifest it has there."""
        with self._images.lease() as lease:
            lease.add_blob(manifest.digest)
            self._content.put(manifest.raw, manifest.digest)
            self._images.add_digest(image.id, reference.repository().with_digest(manifest.digest))

    async def login(self, auth: AuthConfig) -> AuthResponse:
        """Check credentials against their registry (Engine API SystemAuth).

        Raises:
            UnauthorizedError: they are refused.
        """
        token = await self._transfers.registries.login(
            auth.serveraddress, LoginCredentials.from_config(auth))
        return AuthResponse(identity_token=token)

    async def remote(
        self, name: str, auth: AuthConfig | None, headers: Mapping[str, str]
    ) -> DistributionInspect:
        """Ask the registry what ``name`` is (Engine API DistributionInspect)."""
        reference = references.parse_normalized(name).with_default_tag()
        found = await self._transfers.registries.inspect(
            reference, LoginCredentials.from_config(auth), headers)
        return DistributionInspect(
            descriptor=msgspec.convert(msgspec.to_builtins(found.descriptor), Descriptor),
            platforms=[msgspec.convert(msgspec.to_builtins(one), DescriptorPlatform)
                       for one in found.platforms])

    async def search(
        self, term: str, *, limit: int, filters: Filters, auth: AuthConfig | None,
        headers: Mapping[str, str],
    ) -> Sequence[SearchResult]:
        """Ask an index for repositories (Engine API ImageSearch)."""
        return await search(self._transfers.searcher, term, limit=limit, filters=filters,
                            auth=auth, headers=headers)

    # Looking at images

    async def list(self, options: ImageListOptions) -> Sequence[ImageSummary]:
        """List images, newest first."""
        chosen = ImageFilter(options.filters, self._images.resolve)
        sharing = self._images.layer_sharing() if options.shared_size else {}
        found: list[ImageSummary] = []
        for image in self._images.list():
            names = chosen.names(image)
            if image.covered:
                continue  # a platform of another line
            if names is None or not chosen.accepts(image):
                continue
            if not options.all and image.is_dangling and self._images.children(image.id):
                continue
            shared = sum(self._snapshotter.layer_size(layer) for layer in image.diff_ids
                         if sharing.get(layer, 0) > 1) if options.shared_size else -1
            row = imageview.summary(
                image, tags=names[0], digests=names[1], shared_bytes=shared,
                containers=len(self._images.users(image.id)))
            if options.manifests:
                row = msgspec.structs.replace(
                    row, manifests=await run_blocking(summaries, self._images, image))
            found.append(row)
        return found

    async def inspect(
        self, name: str, *, platform: str, manifests: bool = False
    ) -> ImageInspect:
        """Describe one image; with ``platform`` the one that is for it."""
        image = self._resolve(name, platform)
        document = imageview.inspect(image, driver=self._snapshotter.name, mount=self._mount(image))
        if manifests:
            document = msgspec.structs.replace(
                document, manifests=await run_blocking(summaries, self._images, image))
        return msgspec.structs.replace(document, pallet=self.facts(image)) if self.facts else document

    async def history(self, name: str, *, platform: str) -> Sequence[ImageHistoryItem]:
        """List the image's steps, newest first."""
        return imageview.history(self._resolve(name, platform), self._snapshotter.layer_size)

    def _resolve(self, name: str, platform: str) -> Image:
        image = self._images.resolve(name)
        if not platform:
            return image
        found = variants.for_platform(self._images, name, platforms.parse(platform))
        return dataclasses.replace(found, repo_tags=image.repo_tags, repo_digests=image.repo_digests)

    def _mount(self, image: Image) -> RootMount | None:
        if self._snapshotter.copies:
            return None  # there is no tree of the image until a container wants one
        try:
            return self._snapshotter.root_mount_of_layers(image.diff_ids)
        except NotFoundError:
            return None

    # Naming and removing images

    async def tag(self, name: str, *, repository: str, tag: str) -> None:
        """Give an image a further reference."""
        image = self._images.resolve(name)
        reference = references.parse_repository_tag(repository, tag).with_default_tag()
        await run_blocking(partial(self._images.tag, image.id, reference,
                                   target=variants.brought_as(self._images, name, image)))
        self._emit("tag", image.id, image, name=reference.familiar())

    async def remove(
        self, name: str, *, force: bool, prune_parents: bool, only: Sequence[str] = ()
    ) -> Sequence[ImageDeleteItem]:
        """Untag, and delete what nothing refers to any more; ``only`` names platforms."""
        image = self._images.resolve(name)
        if only:
            work = partial(self._images.delete_platforms, name,
                           [platforms.parse(text) for text in only], force=force)
        else:
            work = partial(self._images.delete, name, force=force, prune=prune_parents)
        removals = await run_blocking(work)
        items: list[ImageDeleteItem] = []
        by_id = image.id.removeprefix("sha256:").startswith(name.removeprefix("sha256:"))
        named = not by_id and any(item.untagged in image.repo_tags for item in removals)
        for removal in removals:
            if removal.untagged is not None:
                items.append(ImageDeleteItem(untagged=removal.untagged))
                # With a tag go the digests of its repository: Docker tells of the tag alone.
                if not named or "@" not in removal.untagged:
                    self._emit("untag", image.id, image, name=image.id)
            elif removal.deleted is not None:
                items.append(ImageDeleteItem(deleted=removal.deleted))
                if removal.image_id is not None:
                    self._events.emit("image", "delete", removal.image_id,
                                      {"name": removal.image_id})
        return items

    def _emit(self, action: str, actor_id: str, image: Image, *, name: str) -> None:
        run = image.config.config
        self._events.emit("image", action, actor_id, {
            **((run.labels if run else None) or {}), "name": name})


def _warn_of_platform(
    image: Image, wanted: Platform, reference: Reference, progress: Report
) -> None:
    actual = image.config.platform
    if not platforms.matches(wanted, actual):
        progress(messages.message(
            f"WARNING: image with reference {reference.familiar()} was found but does not match "
            f"the specified platform: wanted {wanted}, actual: {platforms.normalize(actual)}"))
