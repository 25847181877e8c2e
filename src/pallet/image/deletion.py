"""``docker rmi``: what is untagged, what is deleted, and what forbids it.

Runs   under the image store's lock.
Spec   dockerd's classic image store (semantics "image delete"); texts are wire format.

Conflicts are *hard* (a running container, a child image) or *soft* (a stopped container, several
repositories); ``force`` overrides soft ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.image import names, variants
from pallet.image.model import ImageConflictError, Removal
from pallet.spec import digest as digests
from pallet.spec import platform as platforms
from pallet.spec.reference import parse_normalized

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pallet.image.model import Image
    from pallet.image.store import ImageStore
    from pallet.spec.platform import Platform
    from pallet.spec.reference import Reference
    from pallet.types import DiffID


def delete(store: ImageStore, ref_or_id: str, *, force: bool,
           prune: bool) -> tuple[list[Removal], list[Image]]:
    """Carry out the removal of what ``ref_or_id`` names.

    Returns the answer so far and the images whose content may now be freed.

    Raises:
        ImageNotFoundError, InvalidParameterError, ImageConflictError: see ``ImageStore.delete``.
    """
    image = store.resolve(ref_or_id)
    covered = _covered_by(store, image)
    removals, freed = _delete_named(store, image, ref_or_id, force=force, prune=prune)
    for other in covered:
        # Other platforms go with the last name of their index; what is in use stays, nameless.
        if not _still_named(store, other):
            _delete_image(store, other, removals, freed, force=False, prune=False, quiet=True)
    return removals, freed


def _covered_by(store: ImageStore, image: Image) -> list[Image]:
    """Other platforms that this image's names stand for."""
    everything = [item for item in store.list() if item.covered]
    found: list[Image] = []
    if everything:
        for reference in store.references(image.id):
            found += variants.members(store.content, store.target(reference), everything)
    return variants.once(found)


def _still_named(store: ImageStore, image: Image) -> bool:
    now = store.get(image.id)
    return now.covered or bool(store.references(now.id))


def delete_platforms(store: ImageStore, name: str, wanted: Sequence[Platform], *,
                     force: bool) -> tuple[list[Removal], list[Image]]:
    """Carry out the removal of single platforms of an index; see ``ImageStore.delete_platforms``."""
    removals: list[Removal] = []
    freed: list[Image] = []
    for platform in wanted:
        image = store.resolve(name)
        here = variants.of_name(store, name)
        chosen = variants.choose(platform, here)
        if chosen is None or not platforms.matches(platform, chosen.config.platform):
            raise variants.not_provided(name, platform)
        if len(here) == 1:
            more, gone = delete(store, name, force=force, prune=True)
            removals += more
            freed += gone
            continue
        _check(store, chosen, hard=True, stopped=not force, referenced=False)
        if chosen.id == image.id:
            target = variants.target_of(store, name, image)
            rest = [item for item in here if item.id != image.id]
            assert target is not None, "several platforms have an index"
            heir = variants.choose(platforms.host(), rest) or rest[0]
            store.repoint(image.id, heir.id, target)
        chosen = store.get(chosen.id)
        if store.references(chosen.id):
            continue  # another name has this image by itself
        store.drop(chosen.id)
        freed.append(chosen)
        removals.append(Removal(deleted=chosen.id, image_id=chosen.id))
    return removals, freed


def _delete_named(store: ImageStore, image: Image, ref_or_id: str, *, force: bool,
                  prune: bool) -> tuple[list[Removal], list[Image]]:
    removals: list[Removal] = []
    references = list(store.references(image.id))
    by_name = not _is_id_prefix(image, ref_or_id)
    if by_name:
        if not force and names.is_single(references):
            _refuse_if_used_by_name(store, image, ref_or_id)
        removals += _untag_one(store, image, parse_normalized(ref_or_id))
        if store.references(image.id):
            return removals, []
    elif names.is_single(references):
        _check(store, image, hard=True, stopped=not force, referenced=False)
        for reference in references:
            removals.append(_untag(store, image, reference))
    freed: list[Image] = []
    # With its last name gone a used image stays, nameless: that is no error any more.
    _delete_image(store, store.get(image.id), removals, freed, force=force, prune=prune,
                  quiet=by_name)
    return removals, freed


def _is_id_prefix(image: Image, text: str) -> bool:
    return image.id.startswith(text) or digests.encoded(image.id).startswith(text)


def _refuse_if_used_by_name(store: ImageStore, image: Image, name: str) -> None:
    """The last name of a used image goes only by force: it would be left dangling."""
    for user in store.users(image.id):
        message = (f'conflict: unable to remove repository reference "{name}" (must force) - '
                   f"container {user.container_id[:12]} is using its referenced image "
                   f"{digests.short(image.id)}")
        raise ImageConflictError(message)


def _untag(store: ImageStore, image: Image, reference: Reference) -> Removal:
    store.untag(reference)
    return Removal(untagged=reference.familiar(), image_id=image.id)


def _untag_one(store: ImageStore, image: Image, reference: Reference) -> list[Removal]:
    """Remove a name; with the last tag of a repository its digests go too."""
    if reference.digest is not None:
        return [_untag(store, image, reference.with_digest(reference.digest))]
    reference = reference.with_default_tag()
    removals = [_untag(store, image, reference)]
    same = [item for item in store.references(image.id) if item.name == reference.name]
    if all(item.digest is not None for item in same):
        removals += [_untag(store, image, item) for item in same]
    return removals


def _check(store: ImageStore, image: Image, *, hard: bool, stopped: bool, referenced: bool) -> None:
    """Raise the first conflict of the kinds asked for."""
    if hard and store.children(image.id):
        raise _conflict(image, "cannot be forced", "image has dependent child images")
    users = store.users(image.id)
    if hard:
        for user in users:
            if user.running:
                raise _conflict(image, "cannot be forced",
                                f"image is being used by running container {user.container_id[:12]}")
    if referenced and store.references(image.id):
        raise _conflict(image, "must be forced", "image is referenced in multiple repositories")
    if stopped:
        for user in users:
            if not user.running:
                raise _conflict(image, "must be forced",
                                f"image is being used by stopped container {user.container_id[:12]}")


def _conflict(image: Image, how: str, why: str) -> ImageConflictError:
    return ImageConflictError(
        f"conflict: unable to delete {digests.short(image.id)} ({how}) - {why}")


def _delete_image(store: ImageStore, image: Image, removals: list[Removal], freed: list[Image], *,
                  force: bool, prune: bool, quiet: bool = False) -> None:
    try:
        _check(store, image, hard=True, stopped=not force, referenced=not force)
    except ImageConflictError:
        if quiet:
            return
        raise
    removals += [_untag(store, image, item) for item in list(store.references(image.id))]
    store.drop(image.id)
    freed.append(image)
    removals.append(Removal(deleted=image.id, image_id=image.id))
    if prune and image.parent is not None:
        parent = next((item for item in store.list() if item.id == image.parent), None)
        if parent is not None:
            _delete_image(store, parent, removals, freed, force=False, prune=True, quiet=True)


def layer_removals(gone: Iterable[Image], removed: set[DiffID]) -> list[Removal]:
    """Name the layers that went with ``gone``, topmost first, by ChainID as Docker does."""
    from pallet.image.store import chain_ids

    found: dict[str, Removal] = {}
    for image in gone:
        chains = chain_ids(image.diff_ids)
        for chain, diff_id in zip(reversed(chains), reversed(image.diff_ids), strict=True):
            if diff_id in removed:
                found[chain] = Removal(deleted=chain)
    return list(found.values())
