"""Output ``image``: into the image store under names, and to registries.

Owns   what is recorded and in which order; the lines of ``exporting to image``.
Runs   on the loop; disk work in threads.
Spec   BuildKit's exporters ``moby`` and ``image``.
"""

from __future__ import annotations

import base64
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from pallet.aio import run_blocking
from pallet.build.export import attest
from pallet.build.export.documents import Documents, read_annotations
from pallet.build.export.values import flag, names_of, number
from pallet.spec import image as spec
from pallet.types import Digest, ImageId

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pallet.build.export.documents import Annotations, Written
    from pallet.build.export.model import ExportJob
    from pallet.build.ports import SolvedTarget
    from pallet.build.request import Export
    from pallet.image.model import Image
    from pallet.spec.reference import Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What an export of documents came to."""

    written: tuple[Written, ...]
    top: spec.Descriptor
    """Manifest, or index."""
    is_index: bool

    def response(self, names: Sequence[Reference]) -> dict[str, str]:
        """BuildKit's exporter response."""
        found = {
            "containerimage.digest": str(self.top.digest),
            "containerimage.descriptor": base64.b64encode(spec.encode(self.top)).decode(),
        }
        if len(self.written) == 1:
            found["containerimage.config.digest"] = str(self.written[0].config.digest)
        if names:
            found["image.name"] = ",".join(str(name) for name in names)
        return found


def uses_oci(attributes: Mapping[str, str], *, attested: bool) -> bool:
    """Whether the documents are to be OCI's: unless Docker's are asked for, and can hold what there is."""
    return attested or flag(attributes, "oci-mediatypes", default=True)


async def write_documents(job: ExportJob, export: Export) -> Stored:
    """Write the documents of all targets, and an index where one is needed."""
    attributes = export.attributes
    attested = bool(job.attestations)
    annotations = read_annotations(attributes)
    documents = Documents(job.images, job.lease, oci=uses_oci(attributes, attested=attested), added=job.added)
    several = len(job.targets) > 1 or job.multi_platform
    compression = attributes.get("compression", "")
    if not compression and (several or attested) and flag(attributes, "push"):
        compression = "gzip"  # a push compresses the layers of a single manifest alone
    found: list[Written] = []
    for target in await _reshaped(job, attributes):
        layers: Sequence[spec.Descriptor] | None = None
        if compression:
            from pallet.build.export.packing import packed  # few builds ask for it

            layers = await run_blocking(documents.layers, target)
            layers = await packed(job, layers, {**attributes, "compression": compression})
        found.append(await run_blocking(documents.write, target, annotations, layers))
    written = tuple(found)
    entries = [one.manifest for one in written]
    if attested:
        for target, one in zip(job.targets, written, strict=True):
            entries += await attest.write(job, export, documents, target, one)
    if not several and not attested:
        return Stored(written=written, top=written[0].manifest, is_index=False)
    index = await run_blocking(documents.index, entries, annotations)
    return Stored(written=written, top=_described(index, annotations), is_index=True)


async def _reshaped(job: ExportJob, attributes: Mapping[str, str]) -> Sequence[SolvedTarget]:
    """The targets, their files' times rewritten where that is asked for."""
    epoch_s = number(attributes, "source-date-epoch")
    epoch_s = job.epoch_s if epoch_s is None else epoch_s
    if not flag(attributes, "rewrite-timestamp") or epoch_s is None:
        return job.targets
    from pallet.build.export.reshape import Reshaper  # few builds ask for it

    reshaper = Reshaper(job.images, job.workers, job.blobs, job.lease, job.added)
    return [await reshaper.rewritten(target, epoch_s) for target in job.targets]


def _described(index: spec.Descriptor, annotations: Annotations) -> spec.Descriptor:
    return spec.Descriptor(media_type=index.media_type, digest=index.digest, size=index.size,
                           annotations=dict(annotations.index_descriptor) or None)


async def export_image(job: ExportJob, export: Export) -> dict[str, str]:
    """Record the images; push them with ``push=true``. Returns the exporter's response."""
    names = names_of(export.attributes)
    with job.progress.vertex("exporting to image") as vertex:
        with vertex.status("exporting layers"):
            stored = await write_documents(job, export)
        with ExitStack() as told:
            for one in stored.written:
                told.enter_context(vertex.status(f"writing image {one.config.digest}"))
            main = await run_blocking(_record, job, stored, names)
        for name in names:
            with vertex.status(f"naming to {name}"):
                job.note("tag", main.id, name.familiar())
    if flag(export.attributes, "push"):
        for name in names:
            digest, size_bytes = await job.push(name)
            if digest != stored.top.digest:  # layers were compressed on their way: this is what others can ask for
                stored = replace(stored, top=msgspec.structs.replace(stored.top, digest=digest, size=size_bytes))
    job.image_id = ImageId(main.id)
    job.digest = Digest(stored.top.digest)
    return stored.response(names)


def _record(job: ExportJob, stored: Stored, names: Sequence[Reference]) -> Image:
    """Record the images and their names; return the one that runs here. Blocking."""
    images = [job.images.put(one.config.digest, manifest_digest=one.manifest.digest) for one in stored.written]
    job.image_ids = [image.id for image in images]
    main = job.main_image(images)
    for name in names:
        job.images.tag(main.id, name, target=Digest(stored.top.digest) if stored.is_index else None)
    return main
