"""Manifest lists in the making: ``manifests/`` beside config.json, in docker's own layout.

Owns   one directory a list, one JSON document an image in it; docker reads and writes the same.
Spec   docker CLI "manifest": names have ":" as "-" and "/" as "_"; ``Raw`` is base64.
"""

from __future__ import annotations

import binascii
import os

from pallet.cli.errors import CommandError
from pallet.client import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pallet.spec.reference import Reference

    Entry = dict[str, Any]


class ManifestLists:
    """The lists below a configuration directory."""

    def __init__(self, config_dir: str) -> None:
        self._root = f"{config_dir}/manifests"

    def _directory(self, target: Reference) -> str:
        return f"{self._root}/{_file_name(target)}"

    def images(self, target: Reference) -> list[Entry]:
        """Entries of a list, by file name.

        Raises:
            CommandError: there is no such list.
        """
        try:
            names = sorted(os.listdir(self._directory(target)))
        except FileNotFoundError:
            raise missing(target) from None
        return [self._read(f"{self._directory(target)}/{name}") for name in names]

    def find(self, target: Reference, image: Reference) -> Entry | None:
        """One entry of a list; None when there is no such list or entry."""
        try:
            return self._read(f"{self._directory(target)}/{_file_name(image)}")
        except FileNotFoundError:
            return None

    @staticmethod
    def _read(path: str) -> Entry:
        with open(path, "rb") as file:
            data = file.read()
        try:
            entry = wire.decode(data)
        except wire.WireError as error:
            raise CommandError(f"{path}: {error}") from None
        if not isinstance(entry, dict) or "Descriptor" not in entry:
            raise CommandError(f"{path}: not a manifest")
        return entry

    def exists(self, target: Reference) -> bool:
        """Whether there is such a list."""
        return os.path.isdir(self._directory(target))

    def save(self, target: Reference, image: Reference, entry: Entry) -> None:
        """Add or replace an entry, in one step."""
        directory = self._directory(target)
        os.makedirs(directory, mode=0o755, exist_ok=True)
        path = f"{directory}/{_file_name(image)}"
        temporary = f"{self._root}/.{os.getpid()}.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(wire.escape_html(wire.encode_text(entry)).encode())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise

    def remove(self, target: Reference) -> None:
        """Drop a list.

        Raises:
            CommandError: there is no such list.
        """
        import shutil

        if not self.exists(target):
            raise missing(target)
        shutil.rmtree(self._directory(target))


def missing(target: Reference) -> CommandError:
    """Docker's words for a list that is not there."""
    return CommandError(f"No such manifest: {target}")


def raw(entry: Entry) -> bytes:
    """The manifest of an entry as the registry sent it."""
    if entry.get("Raw"):
        return binascii.a2b_base64(entry["Raw"])
    document = entry.get("SchemaV2Manifest") or entry.get("OCIManifest")
    return wire.indent(wire.encode_text(document), "   ").encode()


def _file_name(reference: Reference) -> str:
    return str(reference).replace(":", "-").replace("/", "_")
