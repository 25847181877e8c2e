"""Images that a build begins with: found here by name, or pulled.

Owns   ``ports.ImageResolver``, and the layers of an image source.
Runs   on the loop; disk work in threads.
Needs  ``ImageStore``; ``Puller`` for what is not here. What is pulled gets its name, as with ``docker pull``.
Spec   BuildKit's ``[internal] load metadata for …``.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Protocol

from msgspec import UNSET

from pallet.aio import run_blocking
from pallet.build.cachekey import combine
from pallet.build.credentials import login
from pallet.build.ports import ResolvedImage
from pallet.build.progress import StatusEvent, VertexEvent
from pallet.errors import NotFoundError, PalletError
from pallet.image import variants
from pallet.image.model import ImageNotFoundError
from pallet.spec import platform as platforms
from pallet.spec import reference as references
from pallet.transfer.pull import PullRequest
from pallet.types import Digest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pallet.build.ports import BuildClient
    from pallet.build.progress import Watch
    from pallet.image.model import Image
    from pallet.image.store import ImageStore
    from pallet.spec.engine.progress import ProgressMessage
    from pallet.spec.platform import Platform
    from pallet.spec.reference import Reference
    from pallet.transfer.image_pull import PulledImage

_SHORT_ID = 12


class Pulls(Protocol):
    """``transfer.pull.Puller``."""

    async def pull(self, request: PullRequest, watch: Callable[[ProgressMessage], None],
                   record: Callable[[PulledImage], Awaitable[bool]]) -> None:
        """Pull one image."""
        ...


class BuildImages:
    """Images for builds."""

    def __init__(self, images: ImageStore, puller: Pulls) -> None:
        self._images = images
        self._puller = puller

    async def resolve(self, reference: str, platform: Platform, *, pull: bool, client: BuildClient,
                      watch: Watch) -> ResolvedImage:
        """See ``ports.ImageResolver.resolve``."""
        image = None if pull else self._local(reference, platform)
        wanted = _parse(reference)
        shown = str(wanted) if wanted is not None else reference
        vertex = Digest("sha256:" + combine("metadata", [shown, str(platform)]))
        name = f"[internal] load metadata for {shown}"
        started = time.time_ns()
        watch(VertexEvent(digest=vertex, name=name, started_ns=started))
        error = ""
        try:
            if image is None:
                if wanted is None:
                    message = f"{reference}: not found"
                    raise NotFoundError(message)
                image = await self._pull(wanted, platform, client, watch, vertex)
        except PalletError as problem:
            error = str(problem)
            text = f"failed to resolve source metadata for {shown}: {error}"
            raise type(problem)(text) from problem
        finally:
            watch(VertexEvent(digest=vertex, name=name, started_ns=started, completed_ns=time.time_ns(), error=error))
        return ResolvedImage(reference=shown, digest=self._digest(image), config=image.config, local=True)

    def find(self, digest: Digest) -> Image:
        """The image of a manifest's digest, or of an image id.

        Raises:
            NotFoundError: it has gone.
        """
        found = next((image for image in self._images.list() if digest in {Digest(image.id), *image.manifests}), None)
        if found is None:
            message = f"{digest}: not found"
            raise NotFoundError(message)
        return found

    def _digest(self, image: Image) -> Digest:
        try:
            return self._images.manifest(image.id)[0]
        except PalletError:
            return Digest(image.id)

    def _local(self, reference: str, platform: Platform) -> Image | None:
        """An image that is here; one for another platform is none."""
        try:
            image = variants.for_platform(self._images, reference, platform)
        except (ImageNotFoundError, NotFoundError):
            try:
                image = self._images.resolve(reference)
            except PalletError:
                return None
        except PalletError:
            return None
        if not platforms.matches(platform, image.config.platform):
            return None
        return image if not self._images.missing_layers(image.id) else None

    async def _pull(self, reference: Reference, platform: Platform, client: BuildClient, watch: Watch,
                    vertex: Digest) -> Image:
        credentials = await login(client, reference)
        found: list[Image] = []

        async def record(pulled: PulledImage) -> bool:
            found[:] = [await run_blocking(partial(
                self._images.put, pulled.config_digest, manifest_digest=pulled.manifest.digest,
                reference=_named(pulled.reference), target_digest=pulled.target.digest))]
            return True

        try:
            await self._puller.pull(
                PullRequest(reference=reference, credentials=credentials, platform=platform, headers={}),
                partial(_tell, watch, vertex), record)
        except BaseException:
            await run_blocking(self._images.collect)
            raise
        # ``put`` may have answered with another platform's names; the config is the one pulled.
        return found[0]


def _parse(reference: str) -> Reference | None:
    try:
        parsed = references.parse_normalized(reference)
    except PalletError:
        return None
    return parsed if parsed.digest is not None else parsed.with_default_tag()


def _named(reference: Reference) -> Reference:
    if reference.digest is None:
        return reference
    return reference.repository().with_digest(reference.digest)


def _tell(watch: Watch, vertex: Digest, message: ProgressMessage) -> None:
    layer = message.id if message.id is not UNSET else ""
    if not layer or len(layer) != _SHORT_ID:
        return
    now = time.time_ns()
    detail = message.progress_detail if message.progress_detail is not UNSET else None
    status = message.status if message.status is not UNSET else ""
    current = detail.current if detail is not None and detail.current is not UNSET else 0
    total = detail.total if detail is not None and detail.total is not UNSET else 0
    ended = status in {"Pull complete", "Already exists"}
    watch(StatusEvent(id=f"{layer}", vertex=vertex, name=status.lower(), current=current, total=total,
                      timestamp_ns=now, started_ns=now, completed_ns=now if ended else 0))
