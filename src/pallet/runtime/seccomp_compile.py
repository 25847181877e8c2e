"""From an OCI seccomp document to a BPF program.

Owns   looking up the numbers of system calls (libseccomp's tables, and ours for the newest), the
       meaning of several rules for one call, and what calls newer than a profile meet.
Runs   in a daemon thread or a zygote worker; libseccomp is loaded at the first need.
Needs  libseccomp >= 2.5.
Spec   runtime-spec config-linux.md#seccomp; seccomp(2).

On x86_64 and aarch64 the program comes from ``seccomp_bpf``, elsewhere, and for profiles that give
one call different actions by its arguments, from libseccomp. Both say the same: a test compares
them call by call.
"""

from __future__ import annotations

import errno
import os
import struct
import tempfile
from typing import TYPE_CHECKING, Any

from pallet.errors import InvalidParameterError
from pallet.linux import seccomp
from pallet.runtime.seccomp_bpf import KILL_THREAD, Comparison, Table, Verdict, build

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pallet.spec.seccomp import LinuxSeccomp, Syscall

COMPILER_VERSION = "1"
"""Part of the cache key: to be raised with every change of what ``compile_filter`` puts out."""

# os.uname().machine -> (name in a profile's ``arches``, libseccomp's native architecture).
MACHINES = {
    "x86_64": ("amd64", "X86_64"), "i386": ("x86", "X86"), "i686": ("x86", "X86"),
    "aarch64": ("arm64", "AARCH64"), "armv7l": ("arm", "ARM"), "armv6l": ("arm", "ARM"),
    "ppc64le": ("ppc64le", "PPC64LE"), "ppc64": ("ppc64", "PPC64"), "s390x": ("s390x", "S390X"),
    "riscv64": ("riscv64", "RISCV64"), "loongarch64": ("loongarch64", "LOONGARCH64"),
    "mips64": ("mips64", "MIPS64"), "mips64el": ("mipsel64", "MIPSEL64"),
}

_OPERATORS = {"SCMP_CMP_NE": 1, "SCMP_CMP_LT": 2, "SCMP_CMP_LE": 3, "SCMP_CMP_EQ": 4,
              "SCMP_CMP_GE": 5, "SCMP_CMP_GT": 6, "SCMP_CMP_MASKED_EQ": 7}

# include/uapi/linux/seccomp.h; the two with data take an errno.
_ACTIONS = {"SCMP_ACT_KILL": 0x00000000, "SCMP_ACT_KILL_THREAD": 0x00000000,
            "SCMP_ACT_KILL_PROCESS": 0x80000000, "SCMP_ACT_TRAP": 0x00030000,
            "SCMP_ACT_ERRNO": 0x00050000, "SCMP_ACT_TRACE": 0x7FF00000,
            "SCMP_ACT_LOG": 0x7FFC0000, "SCMP_ACT_ALLOW": 0x7FFF0000}
_WITH_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
_PERMISSIVE = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")
_RET_ENOSYS = _ACTIONS["SCMP_ACT_ERRNO"] | errno.ENOSYS


def _action(name: str, errno_ret: int | None) -> int:
    if name == "SCMP_ACT_NOTIFY":
        message = "SCMP_ACT_NOTIFY needs a listener, which the native runtime does not offer"
        raise InvalidParameterError(message)
    if name not in _ACTIONS:
        message = f"string {name} is not a valid action for seccomp"
        raise InvalidParameterError(message)
    if name not in _WITH_ERRNO:
        return _ACTIONS[name]
    return _ACTIONS[name] | (errno.EPERM if errno_ret is None else errno_ret) & 0xFFFF


def compile_filter(document: LinuxSeccomp, *, generator: bool = True) -> bytes:
    """Compile an OCI document to ``struct sock_filter`` instructions.

    System calls that libseccomp does not know yet are looked up in a table of our own where a rule
    allows them outright, and left out otherwise. With a refusing default action, calls newer
    than every name of the profile fail with ENOSYS instead: C libraries try the newest call
    first and only then fall back.

    Args:
        document: what to compile, for this host.
        generator: use the short form of ``seccomp_bpf`` where it can say what the document says.

    Raises:
        InvalidParameterError: an unknown action, operator or architecture; more than 4096
            instructions.
        SystemFailureError: libseccomp is not installed.
    """
    library = seccomp.binding()
    default = _action(document.default_action, document.default_errno_ret)
    arches = _architectures(library, document.architectures)
    rules = [(_action(rule.action, rule.errno_ret), _alternatives(rule), rule.names)
             for rule in document.syscalls]
    # libseccomp refuses a rule that only says what the default says; nothing is lost without it.
    telling = [rule for rule in rules if rule[0] != default]
    names = {name for rule in rules for name in rule[2]}
    refusing = document.default_action not in _PERMISSIVE
    result = None
    if generator:
        tables = _tables(library, arches, telling, names if refusing else set(), default)
        result = build(default, tables) if tables is not None else None
    if result is None:
        unknown = {name for action, alternatives, rule_names in telling for name in rule_names
                   if action == _ACTIONS["SCMP_ACT_ALLOW"] and not alternatives
                   and library.resolve_syscall(library.Arch.NATIVE, name) == -1}
        prefix = _newer_calls(library, arches, names, unknown) if refusing else b""
        result = prefix + _by_libseccomp(library, arches, telling, default)
    if len(result) > seccomp.MAX_INSTRUCTIONS * seccomp.INSTRUCTION_BYTES:
        message = f"seccomp filter has more than {seccomp.MAX_INSTRUCTIONS} instructions"
        raise InvalidParameterError(message)
    return result


Alternatives = tuple[tuple[Comparison, ...], ...]
Rule = tuple[int, Alternatives, "list[str]"]
"""Action, alternatives (empty: always), names."""


def _by_libseccomp(library: Any, arches: dict[str, int], rules: Sequence[Rule],
                   default: int) -> bytes:
    """Compile with libseccomp itself."""
    program = library.SyscallFilter(default)
    for token in list(arches.values())[1:]:
        program.add_arch(token)
    if rules:
        # A balanced tree instead of a list: the kernel runs a new filter over every call number
        # to find those it can always allow.
        program.set_attr(library.Attr.CTL_OPTIMIZE, 2)
    for action, alternatives, names in rules:
        for name in names:
            number = library.resolve_syscall(library.Arch.NATIVE, name)
            if number == -1:
                continue
            for alternative in alternatives or ((),):
                program.add_rule(action, number, *(
                    library.Arg(one.index, one.op, one.value, one.value_two)
                    for one in alternative))
    with tempfile.TemporaryFile() as file:
        program.export_bpf(file)
        file.seek(0)
        return file.read()


# Architectures whose ways the tables below know: argument width, and x86's socketcall and ipc.
_GENERATED = {"X86_64": True, "X86": False, "X32": False, "AARCH64": True, "ARM": False}

# x86 calls behind socketcall(2) and ipc(2) which Linux 4.3 and 5.1 gave numbers of their own;
# libseccomp knows them by negative numbers only (arch/x86/entry/syscalls/syscall_32.tbl).
_X86_DIRECT = {
    "socket": 359, "socketpair": 360, "bind": 361, "connect": 362, "listen": 363, "accept4": 364,
    "getsockopt": 365, "setsockopt": 366, "getsockname": 367, "getpeername": 368, "sendto": 369,
    "sendmsg": 370, "recvfrom": 371, "recvmsg": 372, "shutdown": 373, "semget": 393, "semctl": 394,
    "shmget": 395, "shmctl": 396, "shmat": 397, "shmdt": 398, "msgget": 399, "msgsnd": 400,
    "msgrcv": 401, "msgctl": 402, "recvmmsg": 337, "sendmmsg": 345,
}
_MULTIPLEXED = range(-299, -100)
"""libseccomp's numbers for calls behind socketcall(2) (-101…) and ipc(2) (-201…)."""


def _tables(library: Any, arches: dict[str, int], rules: Sequence[Rule], names: set[str],
            default: int) -> list[Table] | None:
    """Return the generator's tables; None where it cannot say what the rules say.

    Args:
        library: libseccomp's binding.
        arches: name -> token.
        rules: those that differ from the default.
        names: all names of the profile, whose newest bounds what is known; empty: no bound.
        default: the default action.
    """
    if not set(arches) <= set(_GENERATED):
        return None
    by_arch: dict[str, dict[int, Verdict]] = {}
    for arch, token in arches.items():
        calls = _calls(library, arch, token, rules)
        if calls is None:
            return None
        by_arch[arch] = calls
    newest = {arch: max((_number(library, arch, token, name) for name in names), default=-1)
              for arch, token in arches.items()}
    tables = []
    for arch, token in arches.items():
        if arch == "X32":
            continue
        beyond = [(newest[arch] + 1, _RET_ENOSYS)] if newest[arch] >= 0 else []
        if arch == "X86_64":
            # x32 has the same audit architecture; its numbers have bit 30 set.
            beyond.append((_X32_BIT, default if "X32" in arches else KILL_THREAD))
            if newest.get("X32", -1) >= 0:
                beyond.append((newest["X32"] + 1, _RET_ENOSYS))
            by_arch[arch].update(by_arch.get("X32", {}))
        tables.append(Table(token=token, calls=by_arch[arch], beyond=tuple(beyond)))
    return tables


def _calls(library: Any, arch: str, token: int,
           rules: Sequence[Rule]) -> dict[int, Verdict] | None:
    """Return number -> verdict of one architecture; None where two rules contradict."""
    calls: dict[int, Verdict] = {}
    multiplexed: list[Rule] = []
    for rule in rules:
        action, alternatives, names = rule
        for name in names:
            number = _number(library, arch, token, name)
            if arch == "X86" and int(library.resolve_syscall(token, name)) in _MULTIPLEXED:
                multiplexed.append(rule)
            if number < 0:
                continue
            verdict = Verdict(action, alternatives, _GENERATED[arch])
            known = calls.get(number)
            if known is not None:
                if known.action != action:
                    return None
                both = (known.alternatives + alternatives
                        if known.alternatives and alternatives else ())
                verdict = Verdict(action, both, _GENERATED[arch])
            calls[number] = verdict
    # A rule on a multiplexed call is one on socketcall and ipc as well, by their first argument:
    # nothing new where both are decided alike anyway.
    for action, _, _ in multiplexed:
        for gate in ("socketcall", "ipc"):
            if calls.get(int(library.resolve_syscall(token, gate))) != Verdict(
                    action, (), _GENERATED[arch]):
                return None
    return calls


def _architectures(library: Any, names: Iterable[str]) -> dict[str, int]:
    """Return name -> libseccomp's token of the native and the named architectures, native first.

    Raises:
        InvalidParameterError: an unknown name.
    """
    native = MACHINES.get(os.uname().machine, ("", ""))[1]
    arches = {native: int(library.system_arch())}
    for full_name in names:
        name = full_name.removeprefix("SCMP_ARCH_")
        token = getattr(library.Arch, name, None) if full_name != name else None
        if token is None and name != native:
            message = f"string {full_name} is not a valid arch for seccomp"
            raise InvalidParameterError(message)
        if token is not None:
            arches.setdefault(name, int(token))
    return arches


def _alternatives(rule: Syscall) -> Alternatives:
    """Return the rule's comparisons as alternatives: one, or one for each comparison.

    libseccomp takes an argument only once in a rule. A profile that names one twice means
    alternatives.

    Raises:
        InvalidParameterError: an unknown operator, an index that no call has.
    """
    comparisons = []
    for arg in rule.args:
        if arg.op not in _OPERATORS:
            message = f"string {arg.op} is not a valid operator for seccomp"
            raise InvalidParameterError(message)
        if not 0 <= arg.index <= 5:
            message = f"seccomp argument index {arg.index} is not between 0 and 5"
            raise InvalidParameterError(message)
        comparisons.append(Comparison(arg.index, _OPERATORS[arg.op], arg.value, arg.value_two))
    if len({arg.index for arg in rule.args}) < len(rule.args):
        return tuple((comparison,) for comparison in comparisons)
    return (tuple(comparisons),) if comparisons else ()


# Calls newer than some libseccomp in use, by their number: the same everywhere since 424
# (arch/*/kernel/syscalls/syscall.tbl). x32 adds bit 30, mips an offset for each ABI.
_NUMBERS = {
    "cachestat": 451, "fchmodat2": 452, "map_shadow_stack": 453, "futex_wake": 454,
    "futex_wait": 455, "futex_requeue": 456, "statmount": 457, "listmount": 458,
    "lsm_get_self_attr": 459, "lsm_set_self_attr": 460, "lsm_list_modules": 461, "mseal": 462,
    "setxattrat": 463, "getxattrat": 464, "listxattrat": 465, "removexattrat": 466,
    "open_tree_attr": 467, "file_getattr": 468, "file_setattr": 469,
}
_OWN_NUMBERS = {("X86_64", "uretprobe"): 335, ("RISCV64", "riscv_hwprobe"): 258}
_X32_BIT = 0x40000000
_OFFSETS = {"X32": _X32_BIT, "MIPS": 4000, "MIPSEL": 4000, "MIPS64": 5000, "MIPSEL64": 5000,
            "MIPS64N32": 6000, "MIPSEL64N32": 6000}


def _number(library: Any, arch: str, token: int, name: str) -> int:
    """Return the number of a call on an architecture, -1 where there is none."""
    known = int(library.resolve_syscall(token, name))
    if known >= 0:
        return known
    if arch == "X86" and name in _X86_DIRECT:
        return _X86_DIRECT[name]
    if known != -1:
        return -1
    if (arch, name) in _OWN_NUMBERS:
        return _OWN_NUMBERS[arch, name]
    number = _NUMBERS.get(name)
    return -1 if number is None else number + _OFFSETS.get(arch, 0)


# Classic BPF: BPF_LD|W|ABS, BPF_JMP|JEQ/JGT/JGE|K, BPF_JMP|JA, BPF_RET|K.
_LOAD, _JEQ, _JGT, _JGE, _JA, _RET = 0x20, 0x15, 0x25, 0x35, 0x05, 0x06
_AT_NUMBER, _AT_ARCH = 0, 4


def _op(code: int, constant: int, on_true: int = 0, on_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, on_true, on_false, constant)


def _newer_calls(library: Any, arches: dict[str, int], names: set[str],
                 allowed: set[str]) -> bytes:
    """Return instructions before libseccomp's: allow ``allowed``, ENOSYS for what is newer.

    One block for each audit architecture; x32 shares x86_64's and is told apart by bit 30.
    """
    program = [_op(_LOAD, _AT_ARCH)]
    for arch, token in arches.items():
        if arch == "X32" and "X86_64" in arches:
            continue
        block = _verdicts(library, arch, token, names, allowed)
        if arch == "X86_64":
            x32 = (_verdicts(library, "X32", arches["X32"], names, allowed)
                   if "X32" in arches else [])
            # The far branch is a JA: conditional jumps reach 255 instructions only.
            block = [_op(_JGE, _X32_BIT, 0, 1), _op(_JA, len(block) + 1), *block,
                     _op(_JA, len(x32)), *x32]
        block = [_op(_LOAD, _AT_NUMBER), *block]
        # Within a block the accumulator holds the number: its end jumps over the others, which
        # would compare it with their architecture.
        program += [_op(_JEQ, token, 1, 0), _op(_JA, len(block) + 1), *block, b""]
    return _close_blocks(program)


def _close_blocks(program: Sequence[bytes]) -> bytes:
    """Fill the empty places with jumps to the end of the program."""
    last = len(program) - 1
    return b"".join(instruction or _op(_JA, last - at)
                    for at, instruction in enumerate(program))


def _verdicts(library: Any, arch: str, token: int, names: set[str],
              allowed: set[str]) -> list[bytes]:
    """Return the tests of one architecture, with the number in the accumulator."""
    result = []
    for number in sorted(_number(library, arch, token, name) for name in allowed):
        if number >= 0:
            result += [_op(_JEQ, number, 0, 1), _op(_RET, _ACTIONS["SCMP_ACT_ALLOW"])]
    newest = max((_number(library, arch, token, name) for name in names), default=-1)
    if newest >= 0:
        result += [_op(_JGT, newest, 0, 1), _op(_RET, _RET_ENOSYS)]
    return result


