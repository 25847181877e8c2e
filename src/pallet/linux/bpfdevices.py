"""Device access of a cgroup: the rule set both cgroup versions are fed from, and its BPF program.

Owns   ``DevicePolicy`` (what a list of rules adds up to), its ``devices.allow`` lines for cgroup
       v1, and the BPF_PROG_TYPE_CGROUP_DEVICE program for cgroup v2 with bpf(2).
Runs   in a zygote child, before the container's init may run.
Needs  CAP_SYS_ADMIN, or CAP_BPF with CAP_NET_ADMIN, for ``replace_program``; Linux >= 4.15.
Spec   runtime-spec config-linux.md#allowed-device-list; bpf(2);
       Documentation/admin-guide/cgroup-v1/devices.rst, cgroup-v2.rst "Device controller".
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError, SyscallError
from pallet.linux._libc import bind, call

if TYPE_CHECKING:
    from collections.abc import Iterable

ANY = -1
"""Wildcard of ``major`` and ``minor``."""

# include/uapi/linux/bpf.h: BPF_DEVCG_ACC_*, BPF_DEVCG_DEV_*.
_MKNOD, _READ, _WRITE = 1, 2, 4
_ALL = _MKNOD | _READ | _WRITE
_ACCESS = {"m": _MKNOD, "r": _READ, "w": _WRITE}
_TYPES = {"b": 1, "c": 2}

# enum bpf_cmd, enum bpf_prog_type, enum bpf_attach_type, attach flags.
_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH = 5, 8, 9
_PROG_GET_FD_BY_ID, _PROG_QUERY = 13, 16
_PROG_TYPE_CGROUP_DEVICE = 15
_CGROUP_DEVICE = 6
_ALLOW_MULTI = 2
_MAX_PROGRAMS = 64
"""BPF_CGROUP_MAX_PROGS: no cgroup can have more attached."""

# The number of bpf(2): arch/*/entry/syscalls, include/uapi/asm-generic/unistd.h.
_SYSCALL_NUMBERS = {
    "x86_64": 321, "i386": 357, "i686": 357, "aarch64": 280, "armv7l": 386, "armv6l": 386,
    "ppc64le": 361, "ppc64": 361, "s390x": 351, "riscv64": 280, "loongarch64": 280,
    "mips64": 5315, "mips": 4355,
}
_BPF = _SYSCALL_NUMBERS.get(os.uname().machine, 280)

_syscall = bind("syscall", ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint,
                restype=ctypes.c_long)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRule:
    """One line of an allowed-device list.

    ``kind`` is ``a`` (all), ``b`` or ``c``; ``access`` a subset of ``rwm``.
    """

    allow: bool
    kind: str = "a"
    major: int = ANY
    minor: int = ANY
    access: str = "rwm"


@dataclass(slots=True)
class DevicePolicy:
    """What rules applied in order add up to, as the v1 devices controller keeps it.

    ``exceptions`` maps (kind, major, minor) to access bits: what is allowed in spite of
    ``default_allow`` False, or refused in spite of True.
    """

    default_allow: bool = False
    exceptions: dict[tuple[str, int, int], int] = field(default_factory=dict)

    def add(self, rule: DeviceRule) -> None:
        """Apply ``rule`` on top of what is there; a rule of kind ``a`` starts afresh.

        Raises:
            InvalidParameterError: an unknown kind or access, or a rule that would have to punch a
                hole into a wildcard, which the v1 controller ignores without a word.
        """
        if rule.kind == "a":
            self.default_allow = rule.allow
            self.exceptions.clear()
            return
        bits = _bits(rule)
        key = (rule.kind, rule.major, rule.minor)
        if rule.allow is not self.default_allow:
            self.exceptions[key] = self.exceptions.get(key, 0) | bits
            return
        for wider in ((rule.kind, ANY, rule.minor), (rule.kind, rule.major, ANY),
                      (rule.kind, ANY, ANY)):
            if wider != key and self.exceptions.get(wider, 0) & bits:
                message = (f"device rule {_line(key, bits)!r} cannot punch a hole in the wildcard "
                           f"rule {_line(wider, self.exceptions[wider])!r}")
                raise InvalidParameterError(message)
        left = self.exceptions.get(key, 0) & ~bits
        if left:
            self.exceptions[key] = left
        else:
            self.exceptions.pop(key, None)

    def lines(self) -> list[bytes]:
        """Return the lines to write into ``devices.allow`` (or ``.deny``) after the default."""
        return [_line(key, bits).encode() for key, bits in self.exceptions.items()]


def policy_of(rules: Iterable[DeviceRule]) -> DevicePolicy:
    """Return what ``rules`` add up to, starting from a cgroup that denies everything.

    Raises:
        InvalidParameterError: as ``DevicePolicy.add``.
    """
    policy = DevicePolicy()
    for rule in rules:
        policy.add(rule)
    return policy


def _bits(rule: DeviceRule) -> int:
    if rule.kind not in _TYPES or not rule.access or not set(rule.access) <= set(_ACCESS):
        message = f"invalid device rule: {rule.kind} {rule.major}:{rule.minor} {rule.access}"
        raise InvalidParameterError(message)
    bits = 0
    for letter in rule.access:
        bits |= _ACCESS[letter]
    return bits


def _line(key: tuple[str, int, int], bits: int) -> str:
    kind, major, minor = key
    access = "".join(letter for letter in "rwm" if bits & _ACCESS[letter])
    major_text = "*" if major == ANY else str(major)
    minor_text = "*" if minor == ANY else str(minor)
    return f"{kind} {major_text}:{minor_text} {access}"


# struct bpf_insn: u8 code, u8 dst:4 src:4, s16 off, s32 imm. Only little-endian hosts pack the
# register nibbles this way round.
_INSTRUCTION = struct.Struct("=BBhi")
_BIG_ENDIAN = struct.pack("=H", 1) == b"\0\1"

# BPF_LDX|MEM|W, BPF_ALU(32) AND/RSH/MOV, BPF_JMP JEQ/JNE against a constant or a register.
_LOAD_WORD, _AND32_K, _RSH32_K, _MOV32_K, _MOV32_X = 0x61, 0x54, 0x74, 0xB4, 0xBC
_JUMP_EQ_K, _JUMP_NE_K, _JUMP_NE_X, _EXIT = 0x15, 0x55, 0x5D, 0x95


def _op(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    registers = dst << 4 | src if _BIG_ENDIAN else src << 4 | dst
    return _INSTRUCTION.pack(code, registers, off, imm)


def assemble(policy: DevicePolicy) -> bytes:
    """Return the eBPF program that decides as ``policy`` does: 1 lets the access through.

    The context is ``struct bpf_cgroup_dev_ctx``: ``access << 16 | type``, major, minor.
    """
    # r2 type, r3 access, r4 major, r5 minor; r1 (the context) is free after the loads.
    program = [
        _op(_LOAD_WORD, 2, 1, 0), _op(_AND32_K, 2, imm=0xFFFF),
        _op(_LOAD_WORD, 3, 1, 0), _op(_RSH32_K, 3, imm=16),
        _op(_LOAD_WORD, 4, 1, 4), _op(_LOAD_WORD, 5, 1, 8),
    ]
    for (kind, major, minor), bits in policy.exceptions.items():
        program += _exception(kind, major, minor, bits, refuse=policy.default_allow)
    program += [_op(_MOV32_K, 0, imm=int(policy.default_allow)), _op(_EXIT)]
    return b"".join(program)


def _exception(kind: str, major: int, minor: int, bits: int, *, refuse: bool) -> list[bytes]:
    """Return the block of one exception; a test that fails jumps to the block's end.

    An allowing exception must cover the whole access asked for, a refusing one any part of it:
    match_exception and match_exception_partial in security/device_cgroup.c.
    """
    # Each step: opcode, both registers, constant, and whether it is a test.
    steps: list[tuple[int, int, int, int, bool]] = [(_JUMP_NE_K, 2, 0, _TYPES[kind], True)]
    if bits != _ALL:
        steps += [(_MOV32_X, 1, 3, 0, False), (_AND32_K, 1, 0, bits, False)]
        steps.append((_JUMP_EQ_K, 1, 0, 0, True) if refuse else (_JUMP_NE_X, 1, 3, 0, True))
    if major != ANY:
        steps.append((_JUMP_NE_K, 4, 0, major, True))
    if minor != ANY:
        steps.append((_JUMP_NE_K, 5, 0, minor, True))
    steps += [(_MOV32_K, 0, 0, 0 if refuse else 1, False), (_EXIT, 0, 0, 0, False)]
    last = len(steps) - 1
    return [_op(code, dst, src, last - at if is_test else 0, imm)
            for at, (code, dst, src, imm, is_test) in enumerate(steps)]


def _bpf(command: int, attributes: bytes, what: str) -> int:
    """Call bpf(2); ``attributes`` is the used prefix of ``union bpf_attr``."""
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return call(_syscall, f"bpf({what})", _BPF, command, buffer, len(attributes))


def load_program(program: bytes) -> int:
    """Load ``program`` and return its fd, which the caller closes.

    Raises:
        SyscallError: EPERM without the capability; EINVAL, EACCES from the verifier.
    """
    code = ctypes.create_string_buffer(program, len(program))
    licence = ctypes.create_string_buffer(b"Apache")
    attributes = struct.pack("=IIQQ", _PROG_TYPE_CGROUP_DEVICE, len(program) // 8,
                             ctypes.addressof(code), ctypes.addressof(licence))
    return _bpf(_PROG_LOAD, attributes, "BPF_PROG_LOAD")


def attached_ids(cgroup_fd: int) -> list[int]:
    """Return the ids of the device programs attached to the cgroup itself."""
    ids = (ctypes.c_uint32 * _MAX_PROGRAMS)()
    attributes = bytearray(struct.pack("=IIIIQII", cgroup_fd, _CGROUP_DEVICE, 0, 0,
                                       ctypes.addressof(ids), _MAX_PROGRAMS, 0))
    buffer = (ctypes.c_char * len(attributes)).from_buffer(attributes)
    call(_syscall, "bpf(BPF_PROG_QUERY)", _BPF, _PROG_QUERY, buffer, len(attributes))
    del buffer
    (count,) = struct.unpack_from("=I", attributes, 24)
    return list(ids[:count])


def replace_program(cgroup_fd: int, program: bytes, *, fresh: bool = False) -> None:
    """Attach ``program`` to the cgroup and detach the device programs that were there.

    The new one is attached first: all attached programs must agree, so there is no moment at which
    access is wider than before or after.

    Args:
        cgroup_fd: an open directory of a cgroup2 mount.
        program: from ``assemble``.
        fresh: the cgroup was just made, nothing can be attached.

    Raises:
        SyscallError: as ``load_program``; EBADF when the directory is no cgroup v2.
    """
    old = [] if fresh else attached_ids(cgroup_fd)
    program_fd = load_program(program)
    try:
        _bpf(_PROG_ATTACH, struct.pack("=IIII", cgroup_fd, program_fd, _CGROUP_DEVICE,
                                       _ALLOW_MULTI), "BPF_PROG_ATTACH")
    finally:
        os.close(program_fd)
    for program_id in old:
        _detach(cgroup_fd, program_id)


def _detach(cgroup_fd: int, program_id: int) -> None:
    try:
        program_fd = _bpf(_PROG_GET_FD_BY_ID, struct.pack("=III", program_id, 0, 0),
                          "BPF_PROG_GET_FD_BY_ID")
    except SyscallError as error:
        if error.errno == errno.ENOENT:
            return
        raise
    try:
        _bpf(_PROG_DETACH, struct.pack("=III", cgroup_fd, program_fd, _CGROUP_DEVICE),
             "BPF_PROG_DETACH")
    finally:
        os.close(program_fd)
