"""Which platforms' programs this kernel runs: by itself, or by emulators registered with binfmt_misc.

Owns   the worker ``host.platforms``: it tries. A program of a few instructions that exits with 0, one an
       architecture, in an empty root: there only those emulators work that the kernel keeps open
       (flag ``F``), as in a container, and binfmt_misc need not be mounted.
Runs   in a child of the zygote, in a mount namespace that it makes.
Spec   elf(5); Linux Documentation/admin-guide/binfmt-misc.rst; each architecture's syscall(2) convention.
"""

from __future__ import annotations

import os
import signal
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import msgspec

from pallet.layer import rootview
from pallet.linux import mount

if TYPE_CHECKING:
    from collections.abc import Iterable

_ROOT = "/tmp"
"""A mount point, in a namespace that is this process's own."""
_BASE = 0x400000
_PAGE = 0x10000
"""The largest page size among them."""
_TRY_S = 10


class Ask(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The request: architectures as OCI spells them; all that are known without any."""

    architectures: list[str] = []


class Runs(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer: those whose programs run, in the order of ``PROGRAMS``."""

    architectures: list[str] = []


@dataclass(frozen=True, slots=True)
class Program:
    """exit(0) as machine code."""

    machine: int
    """``e_machine``."""
    code: bytes
    flags: int = 0
    """``e_flags``."""
    bits: int = 64
    big_endian: bool = False

    def elf(self) -> bytes:
        """A static executable with one segment."""
        order, wide = ">" if self.big_endian else "<", self.bits == 64
        sizes = (64, 56) if wide else (52, 32)
        entry, length = _BASE + sum(sizes), sum(sizes) + len(self.code)
        ident = b"\x7fELF" + bytes([2 if wide else 1, 2 if self.big_endian else 1, 1]) + bytes(9)
        word = "Q" if wide else "I"
        header = struct.pack(f"{order}HHI{word}{word}{word}IHHHHHH", 2, self.machine, 1, entry, sizes[0], 0,
                             self.flags, sizes[0], sizes[1], 1, 0, 0, 0)
        if wide:
            segment = struct.pack(f"{order}IIQQQQQQ", 1, 5, 0, _BASE, _BASE, length, length, _PAGE)
        else:
            segment = struct.pack(f"{order}IIIIIIII", 1, 0, _BASE, _BASE, length, length, 5, _PAGE)
        return ident + header + segment + self.code


def _words(order: str, *words: int) -> bytes:
    return struct.pack(f"{order}{len(words)}I", *words)


_MIPS = (0x240213C2, 0x24040000, 0x0000000C)
"""addiu v0,zero,5058; addiu a0,zero,0; syscall."""

PROGRAMS: dict[str, Program] = {
    # mov eax,60; xor edi,edi; syscall
    "amd64": Program(62, b"\xb8\x3c\0\0\0\x31\xff\x0f\x05"),
    # mov x0,#0; mov x8,#93; svc #0
    "arm64": Program(183, _words("<", 0xD2800000, 0xD2800BA8, 0xD4000001)),
    # li a0,0; li a7,93; ecall
    "riscv64": Program(243, _words("<", 0x00000513, 0x05D00893, 0x00000073)),
    # li r0,1; li r3,0; sc
    "ppc64le": Program(21, _words("<", 0x38000001, 0x38600000, 0x44000002), flags=2),
    # lghi r2,0; svc 1
    "s390x": Program(22, b"\xa7\x29\0\0\x0a\x01", big_endian=True),
    # mov eax,1; xor ebx,ebx; int 0x80
    "386": Program(3, b"\xb8\x01\0\0\0\x31\xdb\xcd\x80", bits=32),
    "mips64le": Program(8, _words("<", *_MIPS), flags=0x60000000),
    "mips64": Program(8, _words(">", *_MIPS), flags=0x60000000, big_endian=True),
    # addi.w a0,zero,0; addi.w a7,zero,93; syscall 0
    "loong64": Program(258, _words("<", 0x02800004, 0x0281740B, 0x002B0000), flags=0x43),
    # mov r0,#0; mov r7,#1; svc 0
    "arm": Program(40, _words("<", 0xE3A00000, 0xE3A07001, 0xEF000000), flags=0x05000000, bits=32),
}
"""In the order in which BuildKit lists platforms."""

_decoder = msgspec.json.Decoder(Ask)
_encoder = msgspec.json.Encoder()


def run(request: bytes, _fds: list[int]) -> bytes:
    """Try them.

    Raises:
        SyscallError: no place to try them in.
    """
    wanted = _decoder.decode(request).architectures or list(PROGRAMS)
    rootview.private_mounts()
    mount.mount("tmpfs", _ROOT, "tmpfs", flags=mount.MS_NOSUID | mount.MS_NODEV, data="mode=755")
    return _encoder.encode(Runs(architectures=_that_run(name for name in wanted if name in PROGRAMS)))


def _that_run(names: Iterable[str]) -> list[str]:
    found = []
    for name in names:
        path = f"{_ROOT}/{name}"
        fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o755)
        os.write(fd, PROGRAMS[name].elf())
        os.close(fd)  # what is open for writing cannot be executed
        pid = os.fork()
        if not pid:
            _try(name)
        _, status = os.waitpid(pid, 0)
        if status == 0:
            found.append(name)
    return found


def _try(name: str) -> NoReturn:
    try:
        signal.alarm(_TRY_S)
        quiet = os.open("/dev/null", os.O_RDWR)
        for fd in range(3):
            os.dup2(quiet, fd)
        os.chroot(_ROOT)
        os.chdir("/")
        os.execve(f"/{name}", [f"/{name}"], {})  # noqa: S606 - that it starts is the question
    except BaseException:  # noqa: BLE001 - a forked child never returns
        os._exit(126)
