"""Worker kinds of outputs: ``build.squash``, ``build.packages``, ``build.subjects``.

Runs   in a zygote child, one request a child; blocking.
Needs  CAP_SYS_ADMIN for the mounts, all of them in a mount namespace of the child.
"""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

import msgspec

from pallet.build import packages, subjects
from pallet.build.packages import Package
from pallet.errors import PalletError
from pallet.layer import rootview, treediff
from pallet.layer.diffworker import DiffReply
from pallet.layer.worker import WorkerFailure, failure_of
from pallet.spec.mounts import RootMount

if TYPE_CHECKING:
    from collections.abc import Sequence


class SquashRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Write what ``root`` has over ``base`` as one layer's tar. fds: where it goes."""

    root: RootMount
    base: RootMount
    epoch_s: int | None = None


class PackagesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """List the packages of a root file system. No fds."""

    root: RootMount


class PackagesReply(msgspec.Struct, frozen=True, kw_only=True):
    """What ``run_packages`` answers."""

    packages: list[Package] = []
    distribution: str = ""
    """``ID`` of ``os-release``."""
    failure: WorkerFailure | None = None

    def result(self) -> PackagesReply:
        """Return itself or raise what went wrong."""
        if self.failure is not None:
            self.failure.raise_()
        return self


class SubjectsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Hash the files of a root file system. fds: where the statement's subjects go."""

    root: RootMount


class SubjectsReply(msgspec.Struct, frozen=True, kw_only=True):
    """What ``run_subjects`` answers."""

    files: int = 0
    failure: WorkerFailure | None = None

    def result(self) -> SubjectsReply:
        """Return itself or raise what went wrong."""
        if self.failure is not None:
            self.failure.raise_()
        return self


def run_squash(request: bytes, fds: Sequence[int]) -> bytes:
    """Worker kind ``build.squash``: ``SquashRequest`` to ``DiffReply``."""
    wanted = msgspec.json.decode(request, type=SquashRequest)
    try:
        _prepare()
        root_fd = rootview.open_readonly(wanted.root)
        base_fd = rootview.open_readonly(wanted.base)
        done = treediff.write_difference(root_fd, base_fd, fds[0], epoch_s=wanted.epoch_s, stubs=frozenset())
        reply = DiffReply(entries=done.entries, skipped=done.skipped)
    except (PalletError, OSError) as error:
        reply = DiffReply(failure=failure_of(error))
    return msgspec.json.encode(reply)


def run_packages(request: bytes, fds: Sequence[int]) -> bytes:
    """Worker kind ``build.packages``: ``PackagesRequest`` to ``PackagesReply``."""
    del fds
    wanted = msgspec.json.decode(request, type=PackagesRequest)
    try:
        _prepare()
        found, distribution = packages.scan(rootview.open_readonly(wanted.root))
        reply = PackagesReply(packages=found, distribution=distribution)
    except (PalletError, OSError) as error:
        reply = PackagesReply(failure=failure_of(error))
    return msgspec.json.encode(reply)


def run_subjects(request: bytes, fds: Sequence[int]) -> bytes:
    """Worker kind ``build.subjects``: ``SubjectsRequest`` to ``SubjectsReply``."""
    wanted = msgspec.json.decode(request, type=SubjectsRequest)
    try:
        _prepare()
        with os.fdopen(fds[0], "wb", closefd=False) as out:
            reply = SubjectsReply(files=subjects.write(rootview.open_readonly(wanted.root), out))
    except (PalletError, OSError) as error:
        reply = SubjectsReply(failure=failure_of(error))
    return msgspec.json.encode(reply)


def _prepare() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rootview.private_mounts()
    os.umask(0)
