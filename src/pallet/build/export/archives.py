"""Outputs ``oci`` and ``docker``: an image as an archive, or as a layout at the client's (``tar=false``).

Owns   what is in the archive; its stream.
Runs   on the loop; files are read in threads.
Spec   image-spec image-layout.md; Docker's ``manifest.json``. BuildKit's exporters ``oci``, ``docker``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pallet.build.export.documents import encode
from pallet.build.export.image import write_documents
from pallet.build.export.values import flag, names_of
from pallet.errors import DataLossError, InvalidParameterError
from pallet.image.archive import layout, members
from pallet.spec import digest as digests
from pallet.spec import image as spec
from pallet.spec.engine.wire import rfc3339_nano

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from pallet.build.export.image import Stored
    from pallet.build.export.model import ExportJob
    from pallet.build.request import Export
    from pallet.spec.reference import Reference
    from pallet.types import Digest

_CREATED = "org.opencontainers.image.created"


async def export_archive(job: ExportJob, export: Export) -> dict[str, str]:
    """Send the archive to the client. Returns the exporter's response."""
    names = names_of(export.attributes)
    if export.kind == "docker" and (len(job.targets) > 1 or job.multi_platform):
        message = "docker exporter does not currently support exporting manifest lists"
        raise InvalidParameterError(message)
    with job.progress.vertex(f"exporting to {export.kind} image format") as vertex:
        with vertex.status("exporting layers"):
            stored = await write_documents(job, export)
            blobs = await _blobs(job, stored)
        response = stored.response(names)
        with vertex.status("sending tarball"):
            if flag(export.attributes, "tar", default=True):
                await _send(job, export, stored, blobs, names, response)
            else:
                await _send_layout(job, export, stored, blobs, names)
    job.digest = job.digest or stored.top.digest
    return response


async def _blobs(job: ExportJob, stored: Stored) -> dict[Digest, int]:
    """Every blob once with its size, documents before layers; layers are written if need be."""
    content = job.images.content
    found: dict[Digest, int] = {}
    layers: dict[Digest, int] = {}
    pending = [stored.top]
    while pending:
        descriptor = pending.pop(0)
        found[descriptor.digest] = descriptor.size
        raw = content.read(descriptor.digest)
        if descriptor.media_type in spec.INDEX_TYPES:
            pending += spec.decode_index(raw).manifests
            continue
        manifest = spec.decode_manifest(raw)
        found[manifest.config.digest] = manifest.config.size
        layers |= {layer.digest: layer.size for layer in manifest.layers if not spec.is_foreign(layer.media_type)}
    for digest in layers:
        if not content.has(digest) and not await job.blobs.ensure(digest, job.lease):
            message = f"content of {digest} is not in the store: pull the image again"
            raise DataLossError(message)
    return {**found, **layers}


def _index(stored: Stored, names: Sequence[Reference], epoch_s: int | None) -> bytes:
    created = {} if epoch_s is None else {_CREATED: rfc3339_nano(epoch_s * 1_000_000_000)}
    entries = [msgspec.structs.replace(stored.top, annotations={
        **(stored.top.annotations or {}), **created,
        **({layout.NAME_ANNOTATION: str(name), layout.REF_ANNOTATION: name.tag or ""} if name is not None else {}),
    } or None) for name in names or (None,)]
    return encode(spec.Index(media_type=spec.OCI_INDEX, manifests=entries))


def _manifest(stored: Stored, names: Sequence[Reference]) -> bytes:
    return msgspec.json.encode([layout.ArchivedImage(
        config=layout.blob_path(one.config.digest), repo_tags=[name.familiar() for name in names] or None,
        layers=[layout.blob_path(layer.digest) for layer in one.layers]) for one in stored.written])


async def _send(job: ExportJob, export: Export, stored: Stored, blobs: dict[Digest, int],
                names: Sequence[Reference], response: dict[str, str]) -> None:
    output = await job.client.open_output(export, response)
    try:
        head = [members.directory(layout.BLOBS), members.directory(f"{layout.BLOBS}/sha256")]
        await output.write(b"".join(head))
        for digest, size in blobs.items():
            async for data in members.blob(job.images.content, digest, size):
                await output.write(data)
        tail = [members.file(layout.INDEX, _index(stored, names, job.epoch_s))]
        if export.kind == "docker":
            tail.append(members.file(layout.MANIFEST, _manifest(stored, names)))
        tail.append(members.file(layout.LAYOUT, layout.LAYOUT_DOCUMENT))
        await output.write(b"".join([*tail, members.END]))
        await output.close()
    except BaseException:
        await output.abort()
        raise


async def _send_layout(job: ExportJob, export: Export, stored: Stored, blobs: dict[Digest, int],
                       names: Sequence[Reference]) -> None:
    """Write the blobs into the client's own store; its client makes the layout's index."""
    for digest, size in blobs.items():
        await job.client.put_blob(export.id, digest, size, members.blob_data(job.images.content, digest, size))
    index = _index(stored, names, job.epoch_s)
    await job.client.put_blob(export.id, digests.of_bytes(index), len(index), _one(index))


async def _one(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data
