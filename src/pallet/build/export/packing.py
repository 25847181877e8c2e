"""Layers compressed as an output asks: ``compression``, ``compression-level``, ``force-compression``.

Runs   on the loop; compression in threads (ISA-L and zstandard let go of the interpreter lock).
Spec   BuildKit's exporter attributes. Without them layers go out as they are stored; a push compresses
       plain ones by itself.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from isal import isal_zlib

from pallet.aio import run_blocking
from pallet.build.export.values import flag, number
from pallet.errors import InvalidParameterError
from pallet.spec import image as spec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pallet.build.export.model import ExportJob
    from pallet.types import Digest

_TYPES = {"gzip": spec.OCI_LAYER_GZIP, "zstd": spec.OCI_LAYER_ZSTD}
_PIECE_BYTES = 1 << 20
_GZIP_WINDOW = 31
_QUICK_LEVEL = 1
"""ISA-L's, as pushes have it."""


async def packed(job: ExportJob, layers: Sequence[spec.Descriptor],
                 attributes: Mapping[str, str]) -> list[spec.Descriptor]:
    """Descriptors of the layers as they are to go out; blobs that lack are made.

    Raises:
        InvalidParameterError: an unknown compression.
    """
    kind = attributes.get("compression", "")
    if kind not in {"", "uncompressed", *_TYPES}:
        message = f"unsupported layer compression type {kind}"
        raise InvalidParameterError(message)
    if kind in {"", "uncompressed"}:
        return list(layers)
    level = number(attributes, "compression-level")
    forced = flag(attributes, "force-compression")
    return [await _packed(job, layer, kind, level) if _is_due(layer, kind, forced=forced) else layer
            for layer in layers]


def _is_due(layer: spec.Descriptor, kind: str, *, forced: bool) -> bool:
    found = spec.layer_compression(layer.media_type)
    return found == "none" or (forced and found not in {"", kind})


async def _packed(job: ExportJob, layer: spec.Descriptor, kind: str, level: int | None) -> spec.Descriptor:
    content = job.images.content
    if not content.has(layer.digest):
        await job.blobs.ensure(layer.digest, job.lease)
    return await run_blocking(_pack, job, layer, kind, level)


def _pack(job: ExportJob, layer: spec.Descriptor, kind: str, level: int | None) -> spec.Descriptor:
    content = job.images.content
    source = content.path(layer.digest)
    with source.open("rb") as plain, content.ingest() as ingest:
        inflate = _inflater(spec.layer_compression(layer.media_type))
        compress, finish = _compressor(kind, level)
        while data := plain.read(_PIECE_BYTES):
            ingest.write(compress(inflate(data)))
        ingest.write(finish())
        job.lease.add_blob(ingest.digest)
        size = ingest.size
        digest: Digest = ingest.commit()
    return spec.Descriptor(media_type=_TYPES[kind], digest=digest, size=size)


def _compressor(kind: str, level: int | None) -> tuple[Callable[[bytes], bytes], Callable[[], bytes]]:
    if kind == "zstd":
        import zstandard

        packer = zstandard.ZstdCompressor(level=3 if level is None else level).compressobj()
        return packer.compress, packer.flush
    if level is None:
        quick = isal_zlib.compressobj(_QUICK_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW)
        return quick.compress, quick.flush
    deflate = zlib.compressobj(level, zlib.DEFLATED, _GZIP_WINDOW)
    return deflate.compress, deflate.flush


def _inflater(found: str) -> Callable[[bytes], bytes]:
    if found == "gzip":
        return zlib.decompressobj(_GZIP_WINDOW).decompress
    if found == "zstd":
        import zstandard

        return zstandard.ZstdDecompressor().decompressobj().decompress
    return bytes

