"""What builds have made: records by cache key, which layers they keep, when they were last used.

Owns   the tables ``build_records``, ``build_keys``, ``build_contents`` of ``meta.db``, read once.
Runs   on the loop: look-ups are dictionary reads; writes are single statements of some tens of
       microseconds.
Needs  ``ImageStore.keep`` to ask ``layers`` what garbage collection leaves alone.

A record names the whole chain of layers that its vertex comes to. Where one of them has gone (a power
cut, another driver), the record is a miss.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING

import msgspec

from pallet.build.cachekey import chain_key, selection_key
from pallet.types import DiffID

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pallet.build.ops.selection import Selection
    from pallet.storage.metadata import Metadata
    from pallet.storage.snapshot import Snapshotter


class CacheRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One record, as ``docker system df -v`` and ``docker buildx du`` show it."""

    id: str
    kind: str = "regular"
    """BuildKit's: ``regular``, ``source.local``, ``source.git.checkout``, ``source.http``, ``exec.cachemount``."""
    description: str = ""
    layers: tuple[str, ...] = ()
    """The whole chain of DiffIDs, base first."""
    own: int = 0
    """How many of them, from the top, were made by this record."""
    directory: str = ""
    """Of a cache mount: its name below the cache directory."""
    size_bytes: int = 0
    created_ns: int = 0
    used_ns: int = 0
    uses: int = 0
    parents: tuple[str, ...] = ()
    validator: str = ""
    """Of a download: what the server is asked with whether it has changed."""
    checksums: tuple[str, ...] = ()
    """Of a download, as ``algorithm:hex``."""


Records = dict["int | None", CacheRecord]
"""Of what a command made, by ``graph.RunOp.output``; of other operations there is None alone."""

_decode = msgspec.json.Decoder(CacheRecord).decode
_encode = msgspec.json.Encoder().encode


class CacheStore:
    """Records of one data root."""

    def __init__(self, metadata: Metadata, snapshotter: Snapshotter) -> None:
        """Read everything."""
        self._metadata = metadata
        self._snapshotter = snapshotter
        self._records: dict[str, CacheRecord] = {}
        for record_id, raw in metadata.build_records():
            self._records[record_id] = _decode(raw)
        self._keys = dict(metadata.build_keys())
        self._contents = dict(metadata.build_contents())
        self._used: set[str] = set()
        self._held: dict[str, int] = {}
        """Records that builds rely on, and how many."""

    # Look-ups

    def find(self, key: str) -> CacheRecord | None:
        """Record of a key, if its layers are all here."""
        record = self._records.get(self._keys.get(key, ""))
        if record is None or not all(self._snapshotter.has_layer(DiffID(layer)) for layer in record.layers):
            return None
        return record

    def get(self, record_id: str) -> CacheRecord | None:
        """Record of an id."""
        return self._records.get(record_id)

    def all(self) -> list[CacheRecord]:
        """Every record."""
        return list(self._records.values())

    def keys_of(self, record_id: str) -> list[str]:
        """Cache keys that lead to a record."""
        return [key for key, found in self._keys.items() if found == record_id]

    def layers(self) -> set[DiffID]:
        """Layers that records keep."""
        return {DiffID(layer) for record in list(self._records.values()) for layer in record.layers}

    # Changes

    def put(self, record: CacheRecord, keys: Iterable[str]) -> CacheRecord:
        """Keep a record under its keys; one without an id gets one."""
        now = time.time_ns()
        record = msgspec.structs.replace(
            record, id=record.id or secrets.token_hex(13)[:25], created_ns=record.created_ns or now,
            used_ns=record.used_ns or now, uses=record.uses or 1)
        with self._metadata.transaction():
            self._metadata.put_build_record(record.id, _encode(record))
            self._records[record.id] = record
            self.link(record, keys)
        return record

    def link(self, record: CacheRecord, keys: Iterable[str]) -> None:
        """Let further keys lead to a record."""
        for key in keys:
            if self._keys.get(key) != record.id:
                self._metadata.put_build_key(key, record.id)
                self._keys[key] = record.id

    def touch(self, record: CacheRecord) -> None:
        """Note a use; written with ``flush``."""
        found = self._records.get(record.id)
        if found is not None:
            self._records[record.id] = msgspec.structs.replace(found, used_ns=time.time_ns(), uses=found.uses + 1)
            self._used.add(record.id)

    def flush(self) -> None:
        """Write what ``touch`` noted."""
        used, self._used = self._used, set()
        with self._metadata.transaction():
            for record_id in used:
                found = self._records.get(record_id)
                if found is not None:
                    self._metadata.put_build_record(record_id, _encode(found))

    def resize(self, record_id: str, size_bytes: int) -> None:
        """Note what a cache mount takes now."""
        found = self._records.get(record_id)
        if found is not None and found.size_bytes != size_bytes:
            self._records[record_id] = msgspec.structs.replace(found, size_bytes=size_bytes)
            self._used.add(record_id)

    def hold(self, record_id: str) -> None:
        """Protect a record until ``release``: a build relies on it."""
        self._held[record_id] = self._held.get(record_id, 0) + 1

    def release(self, record_id: str) -> None:
        """Undo one ``hold``."""
        left = self._held.get(record_id, 0) - 1
        if left > 0:
            self._held[record_id] = left
        else:
            self._held.pop(record_id, None)

    def held(self, record_id: str) -> bool:
        """Whether a build relies on a record."""
        return record_id in self._held

    def remove(self, record_ids: Iterable[str]) -> list[CacheRecord]:
        """Forget records that nobody holds; return them. Their layers go with the next collection."""
        gone = [self._records[record_id] for record_id in record_ids
                if record_id in self._records and not self.held(record_id)]
        ids = {record.id for record in gone}
        chains = {chain_key([DiffID(layer) for layer in record.layers]) for record in gone}
        with self._metadata.transaction():
            for record in gone:
                self._metadata.delete_build_record(record.id)
                del self._records[record.id]
            for chain in chains:
                self._metadata.delete_build_contents(chain)
        self._keys = {key: record_id for key, record_id in self._keys.items() if record_id not in ids}
        self._contents = {key: value for key, value in self._contents.items() if key.partition(":")[0] not in chains}
        return gone

    # What trees hold

    def content(self, layers: Sequence[DiffID], selection: Selection) -> str | None:
        """Content digest of a selection of a stack of layers, if it is known."""
        return self._contents.get(f"{chain_key(layers)}:{selection_key(selection)}")

    def put_content(self, layers: Sequence[DiffID], selection: Selection, digest: str) -> None:
        """Remember one."""
        key = f"{chain_key(layers)}:{selection_key(selection)}"
        self._metadata.put_build_content(key, digest)
        self._contents[key] = digest
