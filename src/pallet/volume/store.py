"""Named and anonymous volumes of the ``local`` driver.

Owns   the records, the directories ``<data-root>/volumes/<name>/_data``, the ``local`` driver's
       mount options.
Runs   on a worker of the daemon: blocking, quick.
Spec   Engine API Volume*; semantics rows "volumes anonymous".

The record goes in before the directory and out before it too, so a killed daemon leaves either a
whole volume or none: ``sweep`` removes directories without a record.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from typing import TYPE_CHECKING

import msgspec

from pallet.errors import ConflictError, InvalidParameterError, NotFoundError, NotImplementedApiError
from pallet.layer.remove import discard
from pallet.spec.engine.wire import rfc3339_nano

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from pallet.paths import DataPaths
    from pallet.storage.metadata import Metadata

ANONYMOUS_LABEL = "com.docker.volume.anonymous"
_NAME_CHARS = "[a-zA-Z0-9][a-zA-Z0-9_.-]"
_OPTIONS = frozenset({"type", "o", "device", "size"})


class VolumeRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A volume on disk. ``created_at`` is RFC 3339."""

    name: str
    driver: str = "local"
    created_at: str = ""
    labels: dict[str, str] | None = None
    options: dict[str, str] | None = None

    @property
    def anonymous(self) -> bool:
        """Made without a name: prune and ``rm -v`` may take it."""
        return ANONYMOUS_LABEL in (self.labels or {})


_decoder = msgspec.json.Decoder(VolumeRecord)
_encoder = msgspec.json.Encoder()


def check_name(name: str) -> None:
    """Refuse a name outside Docker's grammar.

    Raises:
        InvalidParameterError: with the words of ``docker volume create``.
    """
    if len(name) < 2:
        msg = f"create {name}: volume name is too short, names should be at least two alphanumeric characters"
        raise InvalidParameterError(msg)
    first, rest = name[0], name[1:]
    if not (first.isascii() and first.isalnum() and all(c.isascii() and (c.isalnum() or c in "_.-") for c in rest)):
        msg = (f'create {name}: "{name}" includes invalid characters for a local volume name, only '
               f'"{_NAME_CHARS}" are allowed. If you intended to pass a host directory, use absolute path')
        raise InvalidParameterError(msg)


class VolumeStore:
    """Every volume of one daemon.

    Args:
        users: names of the containers that use a volume; asked before a removal.
    """

    def __init__(self, paths: DataPaths, metadata: Metadata, users: Callable[[str], Collection[str]]) -> None:
        self._root = os.fspath(paths.volumes)
        self._metadata = metadata
        self._users = users
        self._lock = threading.Lock()
        self._records = {name: _decoder.decode(raw) for name, raw in metadata.volumes()}

    def mountpoint(self, name: str) -> str:
        """The directory a container sees."""
        return f"{self._root}/{name}/_data"

    def list(self) -> list[VolumeRecord]:
        """Every volume, by name."""
        return sorted(self._records.values(), key=lambda record: record.name)

    def get(self, name: str) -> VolumeRecord:
        """Raises: NotFoundError "get x: no such volume"."""
        try:
            return self._records[name]
        except KeyError:
            msg = f"get {name}: no such volume"
            raise NotFoundError(msg) from None

    def create(
        self, name: str, *, driver: str = "local", options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> tuple[VolumeRecord, bool]:
        """Return the volume of that name and whether it was made now; "" makes an anonymous one.

        Raises:
            NotFoundError: an unknown driver.
            InvalidParameterError: a bad name or option.
            ConflictError: it exists with another driver or other options.
        """
        if (driver or "local") != "local":
            msg = f'error looking up volume plugin {driver}: plugin "{driver}" not found'
            raise NotFoundError(msg)
        found_labels = dict(labels or {})
        if name:
            check_name(name)
        else:
            name = secrets.token_hex(32)
            found_labels[ANONYMOUS_LABEL] = ""
        with self._lock:
            existing = self._records.get(name)
            if existing is not None:
                if options and dict(options) != (existing.options or {}):
                    msg = f"create {name}: conflict: volume name already exists with different options"
                    raise ConflictError(msg)
                return existing, False
            _check_options(options or {})
            record = VolumeRecord(name=name, created_at=rfc3339_nano(time.time_ns()), labels=found_labels or None,
                                  options=dict(options) if options else None)
            self._metadata.put_volume(name, _encoder.encode(record))
            os.makedirs(self.mountpoint(name), mode=0o755, exist_ok=True)
            os.chmod(f"{self._root}/{name}", 0o701)
            self._records[name] = record
            return record, True

    def remove(self, name: str, *, force: bool = False) -> None:
        """Delete a volume and what is in it; ``force`` does not ask who uses it.

        Raises:
            NotFoundError: no such volume.
            ConflictError: containers use it.
            OSError: its directory cannot be taken away; the volume stays.
        """
        trash = f"{self._root}/.{secrets.token_hex(16)}"  # no volume's name starts like that
        with self._lock:
            record = self.get(name)
            users = self._users(name)
            if users and not force:
                msg = f"remove {name}: volume is in use - [{', '.join(users)}]"
                raise ConflictError(msg)
            self._metadata.delete_volume(name)
            try:
                os.rename(f"{self._root}/{name}", trash)
            except FileNotFoundError:
                pass  # somebody took the directory away; the record goes as well
            except OSError:
                self._metadata.put_volume(name, _encoder.encode(record))
                raise
            del self._records[name]
        discard(trash)  # what stays of it, ``sweep`` takes

    def is_used(self, name: str) -> bool:
        """Whether any container, running or not, has it."""
        return bool(self._users(name))

    def usage(self, name: str) -> int:
        """Bytes of the volume's regular files."""
        total = 0
        for base, _, names in os.walk(self.mountpoint(name)):
            for entry in names:
                try:
                    status = os.lstat(f"{base}/{entry}")
                except FileNotFoundError:
                    continue
                total += status.st_size if status.st_nlink <= 1 else status.st_size // status.st_nlink
        return total

    def sweep(self) -> None:
        """Remove directories that have no record."""
        try:
            names = os.listdir(self._root)
        except FileNotFoundError:
            return
        for name in names:
            if name not in self._records:
                discard(f"{self._root}/{name}")


def _check_options(options: Mapping[str, str]) -> None:
    for key in options:
        if key not in _OPTIONS:
            msg = f'invalid option: "{key}"'
            raise InvalidParameterError(msg)
    if options:
        # type, o and device would need a mount in the host's namespace, which nothing here makes.
        msg = "mount options of the local volume driver are not available in this version"
        raise NotImplementedApiError(msg)
