"""What devices the host has: CDI documents in directories, read again when they change.

Owns   which files count, which of two wins, and what is wrong with the others.
Runs   blocking, in any thread: callers on the loop use ``run_blocking``.
Spec   CDI SPEC.md "CDI JSON Specification": a later directory goes over an earlier one, two files of one
       directory that describe the same device take it from each other.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from pallet.cdi import validation
from pallet.errors import InvalidParameterError, SystemFailureError
from pallet.spec.cdi import Specification

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pallet.spec.cdi import Device

_MOST_BYTES = 16 << 20
_NUMBERS = frozenset({"major", "minor", "fileMode", "uid", "gid", "timeout"})

_decoder = msgspec.json.Decoder(Specification)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownDevice:
    """A device with the document that describes it."""

    name: str
    """``vendor.com/class=name``."""
    device: Device
    document: Specification
    path: str
    """The document's file."""

    @property
    def annotations(self) -> dict[str, str]:
        """The document's, with the device's own over them."""
        return {**self.document.annotations, **self.device.annotations}


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """What there was at one moment."""

    devices: Mapping[str, KnownDevice] = field(default_factory=dict)
    """By name, in the order of names."""
    problems: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """File -> what is wrong with it."""

    def resolve(self, names: Iterable[str]) -> list[KnownDevice]:
        """Find devices by their whole names.

        Raises:
            SystemFailureError: some are not there; in the words of dockerd.
        """
        wanted = list(dict.fromkeys(names))
        missing = [name for name in wanted if name not in self.devices]
        if missing:
            message = f"CDI device injection failed: unresolvable CDI devices {', '.join(missing)}"
            raise SystemFailureError(message)
        return [self.devices[name] for name in wanted]

    def warnings(self) -> list[str]:
        """What ``docker info`` says of files that do not count."""
        return [f"CDI: Error associated with spec file {path}: {text}"
                for path, texts in sorted(self.problems.items()) for text in texts]


class DeviceRegistry:
    """The devices of some directories. Thread-safe."""

    def __init__(self, directories: Sequence[str]) -> None:
        """``directories``: the later ones go over the earlier ones; none means that CDI is off."""
        self.directories = tuple(directories)
        self._lock = threading.Lock()
        self._seen: tuple[object, ...] = ()
        self._catalog = Catalog()

    def look(self) -> Catalog:
        """What there is now. Costs a listing of the directories where nothing has changed."""
        with self._lock:
            files = [(rank, path, _stamp(path)) for rank, directory in enumerate(self.directories)
                     for path in _files(directory)]
            seen = tuple(files)
            if seen != self._seen:
                self._catalog = _read(files)
                self._seen = seen
            return self._catalog


def _files(directory: str) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.path for entry in entries
                          if entry.name.endswith((".json", ".yaml")) and not entry.is_dir())
    except OSError:  # most hosts have none of them
        return []


def _stamp(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def _read(files: Iterable[tuple[int, str, object]]) -> Catalog:
    devices: dict[str, tuple[int, KnownDevice]] = {}
    problems: dict[str, list[str]] = {}
    conflicts: set[str] = set()
    for rank, path, _ in files:
        try:
            document = load(path)
        except InvalidParameterError as error:
            problems.setdefault(path, []).append(str(error))
            continue
        for device in document.devices:
            name = f"{document.kind}={device.name}"
            known = KnownDevice(name=name, device=device, document=document, path=path)
            other = devices.get(name)
            if other is not None and other[0] == rank:
                text = f'conflicting device "{name}" (specs "{path}", "{other[1].path}")'
                for either in (other[1].path, path):
                    problems.setdefault(either, []).append(text)
                conflicts.add(name)
                continue
            conflicts.discard(name)
            devices[name] = rank, known
    return Catalog(devices={name: devices[name][1] for name in sorted(devices) if name not in conflicts},
                   problems={path: tuple(texts) for path, texts in problems.items()})


def load(path: str) -> Specification:
    """Read one document.

    Raises:
        InvalidParameterError: it cannot be read, or is none.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            message = "file too large"
            raise InvalidParameterError(message)
        document = _decoder.decode(text) if path.endswith(".json") else _of_yaml(text)
    except OSError as error:
        message = f'failed to load CDI Spec failed to read CDI Spec "{path}": {error.strerror}'
        raise InvalidParameterError(message) from error
    except (msgspec.DecodeError, UnicodeDecodeError, InvalidParameterError) as error:
        message = f'failed to load CDI Spec failed to parse CDI Spec "{path}": {error}'
        raise InvalidParameterError(message) from error
    try:
        validation.check(document)
    except InvalidParameterError as error:
        message = f"failed to load CDI Spec invalid CDI Spec: {error}"
        raise InvalidParameterError(message) from error
    return document


def _of_yaml(text: bytes) -> Specification:
    import yaml  # few hosts have such files

    try:
        # Every scalar as its text: ``autoallow: true`` is an annotation, ``12`` may be a device's name.
        tree = yaml.load(text, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))  # noqa: S506  it makes texts only
    except (yaml.YAMLError, RecursionError) as error:
        message = f"yaml: {' '.join(str(error).split())}"
        raise InvalidParameterError(message) from error
    return msgspec.convert(_with_numbers(tree), Specification, strict=False)


def _with_numbers(tree: Any, key: str = "") -> Any:
    """Texts that stand where a number has to be, as YAML 1.1 reads them: ``0600`` is octal."""
    if isinstance(tree, dict):
        return {name: _with_numbers(value, name) for name, value in tree.items() if value != "" or name == "kind"}
    if isinstance(tree, list):
        return [_with_numbers(value, key) for value in tree]
    if key in _NUMBERS or key == "additionalGids":
        try:
            return int(tree, 8) if len(tree) > 1 and tree.startswith("0") and tree.isdigit() else int(tree, 0)
        except ValueError:
            return tree
    return tree
