"""Emulators registered with the kernel for as long as a test wants them: binfmt_misc(5).

A registration counts for every process on the machine, in whatever namespace, so it has the name of
the process that made it, and goes in every case.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.isolation import mount, unmount
from tests.support.probes import which

if TYPE_CHECKING:
    from collections.abc import Iterator

_ARM64 = 183
_NAME = "t-arm64-"


@contextlib.contextmanager
def _files() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        mount("binfmt_misc", place, "binfmt_misc")
        try:
            yield Path(place)
        finally:
            unmount(place)


def _runs_arm64(entry: Path) -> bool:
    """Whether an entry is for static programs of arm64: it, or whoever left it, is in the way of what a test says."""
    return f"magic 7f454c46020101{'00' * 9}0200{_ARM64:02x}00" in entry.read_text()


def _sweep(files: Path) -> None:
    """Take away what a killed test session left."""
    for entry in files.glob(f"{_NAME}*"):
        if not Path(f"/proc/{entry.name.removeprefix(_NAME)}").exists():
            entry.write_text("-1")


def arm64_runs() -> bool:
    """Whether the host has an emulator of its own."""
    with _files() as files:
        _sweep(files)
        return any(_runs_arm64(entry) for entry in files.iterdir() if entry.name not in {"register", "status"})


@contextlib.contextmanager
def arm64() -> Iterator[None]:
    """Programs for arm64 run, in every root (flag F) and with their own argv[0] (flag P)."""
    program, name = which("qemu-aarch64-static"), f"{_NAME}{os.getpid()}"
    magic = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00" + bytes([_ARM64, 0])
    mask = b"\xff" * 7 + b"\x00" + b"\xff" * 8 + b"\xfe\xff\xff\xff"
    words = [name, "M", "", _escaped(magic), _escaped(mask), str(program), "PF"]
    # Mounted all the while: registrations go with the last mount.
    with _files() as files:
        (files / "register").write_text(":" + ":".join(words))
        try:
            yield
        finally:
            (files / name).write_text("-1")


def _escaped(data: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in data)
