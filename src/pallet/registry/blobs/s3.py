"""Content in an S3-compatible object store.

```
<prefix>data/<2 hex>/<upload id>        objects: the multipart upload of a session, completed in place
<prefix>tails/<upload id>/<number>      ends of chunks that are too small to be a part yet
```

Owns   those keys. Content is never copied: which digest an object holds is in the metadata.
Runs   in the server's threads. One part (8 MiB) of memory for each request that uploads.
Needs  the package boto3, imported when such a store is opened; a store with read-after-write
       consistency, multipart uploads that check ETags, and ranges.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pallet.errors import InvalidParameterError, SystemFailureError
from pallet.registry.blobs.driver import (
    CHUNK_BYTES,
    Piece,
    Redirect,
    StoredObject,
    UploadBrokenError,
    UploadState,
)
from pallet.registry.messages import Stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from pallet.registry.config import S3Config
    from pallet.types import Digest

MIN_PART_BYTES = 5 << 20
"""Of every part but the last, says S3."""
MAX_PARTS = 10_000
_MISSING = {"NoSuchKey", "NoSuchUpload", "404", "NotFound"}
_BROKEN = _MISSING | {"InvalidPart", "InvalidPartOrder", "EntityTooSmall"}
_DATA = re.compile(r"data/[0-9a-f]{2}/([0-9a-f]{32})")


class S3Driver:
    """``BlobDriver`` in a bucket."""

    name = "s3"

    def __init__(self, config: S3Config) -> None:
        """Connect lazily: the first request finds out whether the store answers.

        Raises:
            SystemFailureError: boto3 is not installed.
            InvalidParameterError: parts smaller than S3 takes.
        """
        try:
            import boto3
            import botocore.config
            import botocore.exceptions
        except ImportError as error:
            message = "S3 storage needs boto3: pip install 'pallet[s3]'"
            raise SystemFailureError(message) from error
        if config.part_bytes < MIN_PART_BYTES:
            message = f"storage.s3.part_bytes: at least {MIN_PART_BYTES}"
            raise InvalidParameterError(message)
        self._config = config
        self._error = botocore.exceptions.ClientError
        self._unreachable = botocore.exceptions.BotoCoreError
        options = botocore.config.Config(
            signature_version="s3v4", max_pool_connections=64, retries={"max_attempts": 4},
            s3={"addressing_style": "path"} if config.endpoint else None,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required")
        self._s3: Any = boto3.session.Session().client(
            "s3", endpoint_url=config.endpoint or None, region_name=config.region,
            aws_access_key_id=config.access_key or None,
            aws_secret_access_key=config.secret_key or None, config=options)

    def append(self, state: UploadState, data: Iterable[bytes], *, writer: str) -> UploadState:
        """See ``BlobDriver``. ``writer`` is not needed: parts are named by their ETags too."""
        key = self._data_key(state.upload_id)
        token = state.token
        if not token:
            token = self._s3.create_multipart_upload(Bucket=self._config.bucket, Key=key)["UploadId"]
        pieces = list(state.pieces)
        buffer = bytearray()
        if pieces and pieces[-1].tail:
            buffer += b"".join(self._tail(state.upload_id, pieces.pop()))
        for chunk in data:
            buffer += chunk
            while len(buffer) >= self._config.part_bytes:
                pieces.append(self._put_part(key, token, len(pieces) + 1,
                                             bytes(buffer[:self._config.part_bytes])))
                del buffer[:self._config.part_bytes]
        if len(buffer) >= MIN_PART_BYTES:
            pieces.append(self._put_part(key, token, len(pieces) + 1, bytes(buffer)))
        elif buffer:
            pieces.append(self._put_tail(state.upload_id, bytes(buffer), len(pieces), writer))
        return UploadState(upload_id=state.upload_id, token=token, pieces=tuple(pieces))

    def _put_part(self, key: str, token: str, number: int, data: bytes) -> Piece:
        if number > MAX_PARTS:
            message = "too many parts: raise storage.s3.part_bytes"
            raise UploadBrokenError(message)
        try:
            reply = self._s3.upload_part(Bucket=self._config.bucket, Key=key, UploadId=token,
                                         PartNumber=number, Body=data)
        except self._error as error:
            if _code(error) in _BROKEN:
                raise UploadBrokenError(str(error)) from error
            raise
        return Piece(key=str(number), size=len(data), etag=reply["ETag"])

    def _put_tail(self, upload_id: str, data: bytes, number: int, writer: str) -> Piece:
        # A name of its own for each writer and length: two requests never write to one object.
        key = f"{self._config.prefix}tails/{upload_id}/{number:05}-{writer}-{len(data)}"
        reply = self._s3.put_object(Bucket=self._config.bucket, Key=key, Body=data)
        return Piece(key=key, size=len(data), etag=reply["ETag"], tail=True)

    def _tail(self, upload_id: str, piece: Piece) -> Iterator[bytes]:
        try:
            reply = self._s3.get_object(Bucket=self._config.bucket, Key=piece.key)
        except self._error as error:
            message = f"{upload_id}: the end of a chunk is gone"
            raise UploadBrokenError(message) from error
        if reply["ETag"] != piece.etag:
            message = f"{upload_id}: the end of a chunk was replaced"
            raise UploadBrokenError(message)
        yield from reply["Body"].iter_chunks(CHUNK_BYTES)

    def finish(self, state: UploadState, digest: Digest) -> str:
        """See ``BlobDriver``."""
        location = self.location_of(state.upload_id, digest)
        if self.size(location) == state.size and self._completed(state):
            self.discard(state.upload_id)
            return location
        key, token, pieces = self._data_key(state.upload_id), state.token, list(state.pieces)
        try:
            if (len(pieces) == 1 and pieces[0].tail) or not pieces:
                data = b"".join(self._tail(state.upload_id, pieces[0])) if pieces else b""
                self._s3.put_object(Bucket=self._config.bucket, Key=key, Body=data)
            else:
                if pieces[-1].tail:
                    data = b"".join(self._tail(state.upload_id, pieces.pop()))
                    pieces.append(self._put_part(key, token, len(pieces) + 1, data))
                self._s3.complete_multipart_upload(
                    Bucket=self._config.bucket, Key=key, UploadId=token, MultipartUpload={
                        "Parts": [{"PartNumber": int(piece.key), "ETag": piece.etag}
                                  for piece in pieces]})
        except self._error as error:
            if _code(error) in _BROKEN:
                raise UploadBrokenError(str(error)) from error
            raise
        if self.size(location) != state.size:
            message = f"{state.upload_id}: the object's size is wrong"
            raise UploadBrokenError(message)
        self.discard(state.upload_id)
        return location

    def adopt(self, file: Path, upload_id: str, digest: Digest) -> str:
        """See ``BlobDriver``."""
        with file.open("rb", buffering=0) as source:
            state = self.append(UploadState(upload_id=upload_id),
                                iter(lambda: source.read(CHUNK_BYTES), b""), writer="")
        return self.finish(state, digest)

    def _completed(self, state: UploadState) -> bool:
        """Whether the multipart upload is over, so that the object there is the whole of it."""
        return state.token not in {token for _, token in self._multiparts(state.upload_id)}

    def _data_key(self, upload_id: str) -> str:
        return f"{self._config.prefix}data/{upload_id[:2]}/{upload_id}"

    def location_of(self, upload_id: str, digest: Digest) -> str:
        """See ``BlobDriver``."""
        return f"data/{upload_id[:2]}/{upload_id}"

    def _key(self, location: str) -> str:
        return self._config.prefix + location

    def _multiparts(self, upload_id: str) -> list[tuple[str, str]]:
        """Key and token of the multipart uploads of a session, usually one."""
        key = self._data_key(upload_id)
        reply = self._s3.list_multipart_uploads(Bucket=self._config.bucket, Prefix=key)
        return [(entry["Key"], entry["UploadId"]) for entry in reply.get("Uploads") or ()
                if entry["Key"] == key]

    def discard(self, upload_id: str) -> None:
        """See ``BlobDriver``."""
        for key, token in self._multiparts(upload_id):
            with suppress(self._error):
                self._s3.abort_multipart_upload(Bucket=self._config.bucket, Key=key, UploadId=token)
        for entry in self._list(f"tails/{upload_id}/"):
            self._s3.delete_object(Bucket=self._config.bucket, Key=entry["Key"])

    def read_upload(self, state: UploadState) -> Iterator[bytes]:
        """See ``BlobDriver``; S3 cannot read parts before the upload is completed."""
        if any(not piece.tail for piece in state.pieces):
            message = "the parts of an upload cannot be read"
            raise UploadBrokenError(message)
        for piece in state.pieces:
            yield from self._tail(state.upload_id, piece)

    def size(self, location: str) -> int | None:
        """See ``BlobDriver``."""
        try:
            reply = self._s3.head_object(Bucket=self._config.bucket, Key=self._key(location))
        except self._error as error:
            if _code(error) in _MISSING:
                return None
            raise
        size: int = reply["ContentLength"]
        return size

    def read(self, location: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See ``BlobDriver``."""
        if length == 0:
            return
        last = "" if length is None else str(offset + length - 1)
        options = {} if offset == 0 and length is None else {"Range": f"bytes={offset}-{last}"}
        try:
            reply = self._s3.get_object(Bucket=self._config.bucket, Key=self._key(location), **options)
        except self._error as error:
            if _code(error) in _MISSING:
                raise FileNotFoundError(location) from error
            raise
        try:
            yield from reply["Body"].iter_chunks(CHUNK_BYTES)
        finally:
            reply["Body"].close()

    def body(self, location: str, offset: int, length: int) -> Stream | Redirect:
        """See ``BlobDriver``. A client that follows a redirect sends its own range there."""
        if self._config.redirect:
            return Redirect(url=self._s3.generate_presigned_url(
                "get_object", Params={"Bucket": self._config.bucket, "Key": self._key(location)},
                ExpiresIn=self._config.redirect_s))
        return Stream(chunks=self.read(location, offset, length), length=length)

    def delete(self, location: str) -> None:
        """See ``BlobDriver``."""
        self._s3.delete_object(Bucket=self._config.bucket, Key=self._key(location))

    def _list(self, prefix: str) -> Iterator[dict[str, Any]]:
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self._config.bucket, Prefix=self._key(prefix))
        for page in pages:
            yield from page.get("Contents") or ()

    def objects(self) -> Iterator[StoredObject]:
        """See ``BlobDriver``."""
        for entry in self._list("data/"):
            location = entry["Key"].removeprefix(self._config.prefix)
            match = _DATA.fullmatch(location)
            yield StoredObject(location=location, size=entry["Size"],
                               modified_at=entry["LastModified"].timestamp(),
                               upload_id=match[1] if match else "")

    def uploads(self) -> Iterator[tuple[str, float]]:
        """See ``BlobDriver``."""
        pages = self._s3.get_paginator("list_multipart_uploads").paginate(
            Bucket=self._config.bucket, Prefix=self._key("data/"))
        for page in pages:
            for entry in page.get("Uploads") or ():
                yield entry["Key"].rpartition("/")[2], entry["Initiated"].timestamp()
        for entry in self._list("tails/"):
            yield entry["Key"].split("/")[-2], entry["LastModified"].timestamp()

    def free_bytes(self) -> int | None:
        """See ``BlobDriver``."""
        return None

    def is_away(self, error: Exception) -> bool:
        """See ``BlobDriver``."""
        if isinstance(error, self._error):
            response: dict[str, Any] = error.response
            status: int = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return status >= 500
        return isinstance(error, self._unreachable)

    def close(self) -> None:
        """See ``BlobDriver``."""
        self._s3.close()


def _code(error: Exception) -> str:
    response: dict[str, Any] = getattr(error, "response", {})
    return str(response.get("Error", {}).get("Code", ""))
