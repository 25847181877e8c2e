"""Names of images: which tags and digests point to which image, and what a string means.

Runs   under the image store's lock.
Spec   Docker's reference store: a tag reference points to one image; ``name@digest`` records where
       an image came from or was pushed to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.spec import reference as references

if TYPE_CHECKING:
    from pallet.spec.reference import Reference
    from pallet.storage.metadata import Metadata
    from pallet.types import Digest, ImageId


class NameTable:
    """The tags of ``meta.db`` in memory."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._targets: dict[str, tuple[ImageId, Digest | None]] = {}
        self._names: dict[ImageId, dict[str, Reference]] = {}
        for text, image_id, manifest in metadata.tags():
            self._index(references.parse_normalized(text), image_id, manifest)

    def _index(self, reference: Reference, image_id: ImageId, manifest: Digest | None) -> None:
        text = str(reference)
        before = self._targets.get(text)
        if before is not None:
            self._names.get(before[0], {}).pop(text, None)
        self._targets[text] = (image_id, manifest)
        self._names.setdefault(image_id, {})[text] = reference

    def image(self, reference: Reference) -> ImageId | None:
        """Image that a reference with a tag or digest points to; a digest outweighs a tag."""
        found = self._targets.get(str(_key(reference)))
        return found[0] if found else None

    def target(self, reference: Reference) -> Digest | None:
        """Manifest or index digest a reference was brought in as."""
        found = self._targets.get(str(_key(reference)))
        return found[1] if found else None

    def of(self, image_id: ImageId) -> list[Reference]:
        """Every reference to an image, sorted."""
        return [names[1] for names in sorted(self._names.get(image_id, {}).items())]

    def put(self, reference: Reference, image_id: ImageId, manifest: Digest | None) -> None:
        """Point a reference with a tag or a digest at an image."""
        reference = _key(reference)
        self._metadata.put_tag(str(reference), image_id, manifest)
        self._index(reference, image_id, manifest)

    def remove(self, reference: Reference) -> None:
        """Forget a reference. Idempotent."""
        text = str(_key(reference))
        self._metadata.delete_tag(text)
        found = self._targets.pop(text, None)
        if found is not None:
            names = self._names.get(found[0], {})
            names.pop(text, None)
            if not names:
                self._names.pop(found[0], None)

    def digests(self) -> set[Digest]:
        """Every manifest or index some reference was brought in as."""
        return {manifest for _, manifest in self._targets.values() if manifest is not None}


def _key(reference: Reference) -> Reference:
    """The form a reference is stored in: name and digest, or name and tag."""
    if reference.digest is not None:
        return reference.with_digest(reference.digest)
    return reference.with_default_tag()


def is_single(found: list[Reference]) -> bool:
    """Docker's ``isSingleReference``: at most one tag, and every digest of the same repository."""
    if len(found) <= 1:
        return len(found) == 1
    tagged = [item for item in found if item.digest is None]
    repositories = {item.name for item in found if item.digest is not None}
    if len(tagged) > 1:
        return False
    only = tagged[0] if tagged else found[0]
    return repositories == {only.name}
