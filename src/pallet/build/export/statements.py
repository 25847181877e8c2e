"""Attestations as files: what ``local`` and ``tar`` have beside the result's own.

Owns   the statements' names and text; how they come into a directory that a target was laid out in.
Runs   on the loop; a zygote child hashes the files that the statements are about.
Spec   BuildKit's "Attestation storage" (exporters ``local`` and ``tar``); the words are BuildKit's.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from pallet.aio import run_blocking
from pallet.build.export import attest
from pallet.build.exportworker import SubjectsReply, SubjectsRequest
from pallet.errors import InvalidParameterError
from pallet.types import DiffID

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pallet.build.export.attest import Attested
    from pallet.build.export.model import ExportJob
    from pallet.build.ports import SolvedTarget

_MODE = 0o600
_PIECE_BYTES = 1 << 20


async def put(job: ExportJob, attributes: Mapping[str, str], target: SolvedTarget, directory: str, *,
              suffix: str = "") -> None:
    """Write a target's statements into the directory that has its files.

    Args:
        suffix: goes before each name's extension.

    Raises:
        InvalidParameterError: they cannot have their names there.
    """
    attested = await attest.of_target(job, target)
    names = names_of(attested, attributes.get("attestation-prefix", ""), suffix)
    root = await run_blocking(job.images.snapshotter.root_mount_of_layers, [DiffID(layer) for layer in target.layers])
    with tempfile.TemporaryFile(dir=job.scratch) as subjects:
        reply = await job.workers.run_worker(
            "build.subjects", SubjectsRequest(root=root), [subjects.fileno()], reply_type=SubjectsReply)
        reply.result()
        for name, one in zip(names, attested, strict=True):
            await run_blocking(_put, directory, name, one, subjects, job.epoch_s)


def names_of(attested: list[Attested], prefix: str, suffix: str = "") -> list[str]:
    """File names of statements, in their order.

    Raises:
        InvalidParameterError: one is none, or two are the same.
    """
    found: list[str] = []
    for one in attested:
        base, extension = os.path.splitext(prefix + one.name)
        name = f"{base}.{suffix}{extension}" if suffix else base + extension
        if "/" in name or "\0" in name or len(os.fsencode(name)) > 255:
            message = f"invalid attestation path name {name}"
            raise InvalidParameterError(message)
        if name in found:
            message = f"duplicate attestation path name {name}"
            raise InvalidParameterError(message)
        found.append(name)
    return found


def _put(directory: str, name: str, attested: Attested, subjects: BinaryIO, epoch_s: int | None) -> None:
    """Write one file; a file of the result with its name makes room."""
    path = os.path.join(directory, name)
    with suppress(FileNotFoundError):
        try:
            os.unlink(path)
        except IsADirectoryError as error:
            message = f"cannot overwrite directory {name} with an attestation"
            raise InvalidParameterError(message) from error
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE), "wb") as file:
        write_statement(attested, subjects, file)
    if epoch_s is not None:
        os.utime(path, (epoch_s, epoch_s))


def write_statement(attested: Attested, subjects: BinaryIO, out: BinaryIO) -> None:
    """Write a statement, indented; ``subjects`` has the items of the list (``build/subjects.py``)."""
    out.write(b'{\n  "_type": "%b",\n  "predicateType": "%b",\n  "subject": [' % (
        attest.STATEMENT.encode(), attested.kind.encode()))
    if subjects.seek(0, os.SEEK_END):
        subjects.seek(0)
        out.write(b"\n")
        shutil.copyfileobj(subjects, out, _PIECE_BYTES)
        out.write(b"\n  ")
    predicate = msgspec.json.format(attested.predicate, indent=2)
    out.write(b'],\n  "predicate": %b\n}' % predicate.replace(b"\n", b"\n  "))
