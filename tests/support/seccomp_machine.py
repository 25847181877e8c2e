"""An interpreter of classic BPF as seccomp(2) runs it, to ask a filter without installing it."""

from __future__ import annotations

import struct

X86_64, X86 = 0xC000003E, 0x40000003
X32_BIT = 0x40000000
ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x00000000


def decode(program: bytes) -> list[tuple[int, int, int, int]]:
    """Return (code, jt, jf, k) of every instruction."""
    return list(struct.iter_unpack("=HBBI", program))


def run(
    instructions: list[tuple[int, int, int, int]],
    arch: int,
    number: int,
    args: tuple[int, ...] = (),
) -> int:
    """Return what the filter returns for one system call."""
    padded = (*args, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("=IIQ6Q", number, arch, 0, *padded)
    accumulator, at = 0, 0
    while True:
        code, jt, jf, k = instructions[at]
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, k)
            case 0x54:
                accumulator &= k
            case 0x05:
                at += k
            case 0x15:
                at += jt if accumulator == k else jf
            case 0x25:
                at += jt if accumulator > k else jf
            case 0x35:
                at += jt if accumulator >= k else jf
            case 0x45:
                at += jt if accumulator & k else jf
            case 0x06:
                return k
            case _:
                message = f"instruction {code:#x} at {at - 1}"
                raise AssertionError(message)
