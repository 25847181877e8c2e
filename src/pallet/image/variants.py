"""Images of one index: the platforms that are here under one name.

Owns   the walk from an index to the images of it that are in the store.
Runs   wherever the image store does; index documents are read once and remembered.
Spec   image-spec image-index.md.

A name points to one image, which is what it runs. Where it was brought in as an index, the other
platforms of that index that are here belong to the name as well: they are *covered* by it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from pallet.errors import NotFoundError, PalletError
from pallet.spec import digest as digests
from pallet.spec import image as spec
from pallet.spec import platform as platforms
from pallet.spec.reference import parse_normalized

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pallet.image.model import Image
    from pallet.image.store import ImageStore
    from pallet.spec.platform import Platform
    from pallet.spec.reference import Reference
    from pallet.storage.content import ContentStore
    from pallet.types import Digest

_MAX_DEPTH = 3


def manifests_of(content: ContentStore, target: Digest | None, depth: int = 0) -> Sequence[Digest]:
    """Image manifests below an index, in its order; nothing for any other blob."""
    if target is None or depth > _MAX_DEPTH:
        return ()
    try:
        entries = _entries(content, target)
    except NotFoundError:
        return ()
    found: list[Digest] = []
    for digest, is_index in entries:
        found += manifests_of(content, digest, depth + 1) if is_index else (digest,)
    return found


@lru_cache(maxsize=4096)
def _entries(content: ContentStore, digest: Digest) -> tuple[tuple[Digest, bool], ...]:
    """``(digest, whether it is an index)`` of each entry; content never changes.

    Raises:
        NotFoundError: it is not here (which is not remembered).
    """
    raw = content.read(digest)
    try:
        if spec.sniff_media_type(raw) not in spec.INDEX_TYPES:
            return ()
        return tuple((entry.digest, entry.media_type in spec.INDEX_TYPES)
                     for entry in spec.decode_index(raw).manifests if not entry.is_for_nothing)
    except PalletError:
        return ()


def members(content: ContentStore, target: Digest | None, images: Iterable[Image]) -> list[Image]:
    """Those of ``images`` that an index holds, in its order."""
    wanted = manifests_of(content, target)
    if not wanted:
        return []
    by_manifest = {digest: image for image in images for digest in image.manifests}
    return once([by_manifest[digest] for digest in wanted
                 if digest in by_manifest and content.has(digest)])


def once(images: Iterable[Image]) -> list[Image]:
    """Each image once, where it comes first."""
    return list({image.id: image for image in images}.values())


def choose(wanted: Platform, images: Sequence[Image]) -> Image | None:
    """The image that suits a platform best."""
    order = platforms.choose(wanted, [image.config.platform for image in images])
    return images[order[0]] if order else None


def target_of(store: ImageStore, name: str, image: Image) -> Digest | None:
    """Index that ``name`` stands for; None for an id or a name of a single image."""
    if image.id.startswith(name) or digests.encoded(image.id).startswith(name):
        return None
    target = store.target(parse_normalized(name))
    return target if manifests_of(store.content, target) else None


def brought_as(store: ImageStore, name: str, image: Image) -> Digest | None:
    """Index or manifest that ``name`` stands for: an image may be here in several packings.

    None for an id, and for an image that was made here or came without a manifest.
    """
    if image.id.startswith(name) or digests.encoded(image.id).startswith(name):
        return None
    target = store.target(parse_normalized(name))
    return target if target in image.manifests else target_of(store, name, image)


def of_name(store: ImageStore, name: str) -> list[Image]:
    """Every image that a name stands for, the one that it runs first.

    Raises:
        ImageNotFoundError, InvalidParameterError: as ``ImageStore.resolve``.
    """
    image = store.resolve(name)
    target = target_of(store, name, image)
    return once([image, *(members(store.content, target, store.list()) if target else ())])


def of_repository(store: ImageStore, reference: Reference) -> list[Image]:
    """Every image that a tag stands for, or all tags of a repository where ``reference`` has none."""
    wanted = [text for image in store.list() for text in image.repo_tags
              if (parsed := parse_normalized(text)).name == reference.name
              and reference.tag in {None, parsed.tag}]
    return once([image for text in wanted for image in of_name(store, text)])


def for_platform(store: ImageStore, name: str, wanted: Platform) -> Image:
    """The image of a name for a platform.

    Raises:
        ImageNotFoundError, InvalidParameterError: as ``ImageStore.resolve``.
        NotFoundError: it is here for other platforms only.
    """
    found = choose(wanted, of_name(store, name))
    if found is None:
        raise not_provided(name, wanted)
    return found


def not_provided(name: str, wanted: Platform) -> NotFoundError:
    """Docker's words for an image that is here for other platforms only."""
    return NotFoundError(f"image with reference {name} was found but does not provide the specified "
                         f"platform ({wanted})")
