"""Compiled filters decide as they should, and as libseccomp's own do."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallet.engine.security import default_capabilities
from pallet.errors import InvalidParameterError
from pallet.linux import caps
from pallet.runtime import seccomp_bpf as bpf
from pallet.runtime.seccomp_compile import compile_filter
from pallet.runtime.seccomp_default import default_profile
from pallet.runtime.seccomp_profile import Host, resolve
from pallet.spec.seccomp import Arg, LinuxSeccomp, Syscall
from tests.support import seccomp_machine as machine
from tests.support.seccomp_machine import ALLOW, ENOSYS, EPERM, KILL, X32_BIT, X86, X86_64

needs_x86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86_64")
pytestmark = [pytest.mark.needs("seccomp"), needs_x86]

ERRNO = 0x00050000
VALUES = (0, 1, 8, 37, 38, 39, 40, 41, 0x20008, 0xFFFFFFFF, 0x7E020000, 0x20000000, 1 << 32 | 8,
          2**64 - 1)


def default_document(bounding: list[str]) -> LinuxSeccomp:
    document = resolve(default_profile(), bounding=bounding, host=Host.here())
    assert document is not None
    return document


def decide(program: bytes, number: int, *args: int, arch: int = X86_64) -> int:
    return machine.run(machine.decode(program), arch, number, args)


@pytest.fixture(scope="module")
def default_filter() -> bytes:
    return compile_filter(default_document(default_capabilities()))


@pytest.mark.parametrize("bounding", [[], default_capabilities(), list(caps.NAMES)])
def test_generator_and_libseccomp_agree(bounding: list[str]) -> None:
    document = default_document(bounding)
    short = machine.decode(compile_filter(document))
    long = machine.decode(compile_filter(document, generator=False))
    assert len(short) < len(long) / 2
    numbers = [*range(500), *range(X32_BIT, X32_BIT + 550), X32_BIT - 1, 2**32 - 1]
    # The arguments matter for these only: socket, personality, clone on each architecture.
    checked = {41, 135, 56, 359, 136, 120, *(X32_BIT | n for n in (41, 135, 56))}
    for arch in (X86_64, X86, 0xC00000B7):
        for number in numbers:
            for value in VALUES if number in checked else VALUES[:1]:
                args = (value, value)
                assert (machine.run(short, arch, number, args)
                        == machine.run(long, arch, number, args)), (hex(arch), number, value)


# System call, arguments, verdict: what a container of Docker 28 meets.
@pytest.mark.parametrize(("number", "args", "verdict"), [
    (0, (), ALLOW),  # read
    (59, (), ALLOW),  # execve
    (165, (), EPERM),  # mount
    (272, (), EPERM),  # unshare
    (308, (), EPERM),  # setns
    (250, (), EPERM),  # keyctl
    (323, (), EPERM),  # userfaultfd
    (425, (), EPERM),  # io_uring_setup
    (321, (), EPERM),  # bpf
    (298, (), EPERM),  # perf_event_open
    (175, (), EPERM),  # init_module
    (246, (), EPERM),  # kexec_load
    (101, (), ALLOW),  # ptrace, Linux >= 4.8
    (161, (), ALLOW),  # chroot, CAP_SYS_CHROOT
    (41, (2, 1, 0), ALLOW),  # socket(AF_INET)
    (41, (16, 3, 0), ALLOW),  # socket(AF_NETLINK)
    (41, (38, 5, 0), EPERM),  # socket(AF_ALG)
    (41, (40, 1, 0), EPERM),  # socket(AF_VSOCK)
    (135, (0xFFFFFFFF,), ALLOW),  # personality: only tell
    (135, (0x0040000,), EPERM),  # personality(ADDR_NO_RANDOMIZE)
    (56, (0x11,), ALLOW),  # clone(SIGCHLD)
    (56, (0x3D0F00,), ALLOW),  # clone of a thread
    (56, (0x10000011,), EPERM),  # clone(CLONE_NEWUSER)
    (435, (), ENOSYS),  # clone3: the C library falls back
    (451, (), ALLOW),  # cachestat
    (452, (), ALLOW),  # fchmodat2
    (335, (), ALLOW),  # uretprobe
    (462, (), ALLOW),  # mseal
    (466, (), ALLOW),  # removexattrat
    (459, (), EPERM),  # lsm_get_self_attr
    (467, (), ENOSYS),  # newer than the policy
    (X32_BIT | 0, (), ALLOW),
    (X32_BIT | 165, (), EPERM),
    (X32_BIT | 999, (), ENOSYS),
])
def test_default_policy(default_filter: bytes, number: int, args: tuple[int, ...],
                        verdict: int) -> None:
    assert decide(default_filter, number, *args) == verdict


@pytest.mark.parametrize(("number", "args", "verdict"), [
    (3, (), ALLOW), (21, (), EPERM), (102, (), ALLOW), (359, (2,), ALLOW), (359, (40,), EPERM),
    (359, (1 << 32 | 40,), EPERM), (435, (), ENOSYS), (192, (), ALLOW),
])
def test_default_policy_for_32_bit_programs(default_filter: bytes, number: int,
                                            args: tuple[int, ...], verdict: int) -> None:
    assert decide(default_filter, number, *args, arch=X86) == verdict


def test_foreign_architectures_are_killed(default_filter: bytes) -> None:
    assert decide(default_filter, 0, arch=0xC00000B7) == KILL


def document_of(*rules: Syscall, default: str = "SCMP_ACT_ERRNO") -> LinuxSeccomp:
    return LinuxSeccomp(default_action=default, syscalls=list(rules))


def allow(name: str, *args: Arg) -> Syscall:
    return Syscall(names=[name], action="SCMP_ACT_ALLOW", args=list(args))


@pytest.mark.parametrize("generator", [True, False])
@pytest.mark.parametrize(("op", "value", "two", "matching", "other"), [
    ("SCMP_CMP_EQ", 1 << 32 | 5, 0, 1 << 32 | 5, 5),
    ("SCMP_CMP_NE", 5, 0, 1 << 32 | 5, 5),
    ("SCMP_CMP_GT", 5, 0, 1 << 32, 5),
    ("SCMP_CMP_GE", 5, 0, 5, 4),
    ("SCMP_CMP_LT", 1 << 32, 0, 0xFFFFFFFF, 1 << 32),
    ("SCMP_CMP_LE", 5, 0, 5, 1 << 32 | 4),
    ("SCMP_CMP_MASKED_EQ", 0xF0, 0x10, 0x1F, 0x2F),
    ("SCMP_CMP_MASKED_EQ", 0xF << 32 | 1, 1 << 32 | 1, 1 << 32 | 3, 1),
])
def test_comparisons(op: str, value: int, two: int, matching: int, other: int, *,
                     generator: bool) -> None:
    rule = allow("personality", Arg(index=2, value=value, value_two=two, op=op))
    program = compile_filter(document_of(rule), generator=generator)
    assert decide(program, 135, 0, 0, matching) == ALLOW
    assert decide(program, 135, 0, 0, other) == EPERM


@pytest.mark.parametrize("generator", [True, False])
def test_arguments_of_one_rule_must_all_match(*, generator: bool) -> None:
    rule = allow("personality", Arg(index=0, value=1, op="SCMP_CMP_EQ"),
                 Arg(index=1, value=2, op="SCMP_CMP_EQ"))
    program = compile_filter(document_of(rule), generator=generator)
    assert [decide(program, 135, *args) for args in ((1, 2), (1, 3), (0, 2))] == [
        ALLOW, EPERM, EPERM]


@pytest.mark.parametrize("generator", [True, False])
def test_one_argument_named_twice_means_either(*, generator: bool) -> None:
    rule = allow("personality", Arg(index=0, value=1, op="SCMP_CMP_EQ"),
                 Arg(index=0, value=7, op="SCMP_CMP_EQ"))
    program = compile_filter(document_of(rule), generator=generator)
    assert [decide(program, 135, value) for value in (1, 7, 2)] == [ALLOW, ALLOW, EPERM]


def test_actions_that_differ_by_argument_are_libseccomps_business() -> None:
    document = document_of(
        allow("personality", Arg(index=0, value=1, op="SCMP_CMP_EQ")),
        Syscall(names=["personality"], action="SCMP_ACT_KILL_PROCESS",
                args=[Arg(index=0, value=2, op="SCMP_CMP_EQ")]))
    program = compile_filter(document)
    assert [decide(program, 135, value) for value in (1, 2, 3)] == [ALLOW, 0x80000000, EPERM]


def test_errno_of_rules_and_of_the_default() -> None:
    document = LinuxSeccomp(
        default_action="SCMP_ACT_ERRNO", default_errno_ret=errno.EACCES,
        syscalls=[Syscall(names=["mount"], action="SCMP_ACT_ERRNO", errno_ret=errno.EXDEV),
                  allow("read"), allow("futex_waitv")])
    program = compile_filter(document)
    assert decide(program, 165) == ERRNO | errno.EXDEV
    assert decide(program, 166) == ERRNO | errno.EACCES
    assert decide(program, 0) == ALLOW
    assert decide(program, 450) == ENOSYS


def test_a_permissive_default_knows_no_newer_calls() -> None:
    document = document_of(Syscall(names=["mount"], action="SCMP_ACT_ERRNO"),
                           default="SCMP_ACT_ALLOW")
    program = compile_filter(document)
    assert (decide(program, 165), decide(program, 999), decide(program, 0)) == (
        EPERM, ALLOW, ALLOW)


def test_x32_without_being_asked_for_is_foreign() -> None:
    assert decide(compile_filter(document_of(allow("read"))), X32_BIT) == KILL


@pytest.mark.parametrize(("document", "message"), [
    (document_of(Syscall(names=["read"], action="SCMP_ACT_FOO")),
     "string SCMP_ACT_FOO is not a valid action for seccomp"),
    (document_of(allow("read", Arg(index=0, value=1, op="EQ"))),
     "string EQ is not a valid operator for seccomp"),
    (document_of(allow("read", Arg(index=6, value=1, op="SCMP_CMP_EQ"))), "not between 0 and 5"),
    (LinuxSeccomp(default_action="SCMP_ACT_ALLOW", architectures=["SCMP_ARCH_VAX"]),
     "string SCMP_ARCH_VAX is not a valid arch for seccomp"),
    (document_of(Syscall(names=["read"], action="SCMP_ACT_NOTIFY")), "needs a listener"),
])
def test_errors(document: LinuxSeccomp, message: str) -> None:
    with pytest.raises(InvalidParameterError, match=message):
        compile_filter(document)


def test_far_targets_are_reached() -> None:
    """More distinct ranges than a conditional jump can cross."""
    calls = {number: bpf.Verdict(ERRNO | number % 7 + 1) for number in range(0, 3000, 3)}
    program = machine.decode(bpf.build(ALLOW, [bpf.Table(token=X86_64, calls=calls)]))
    for number in range(3100):
        expected = calls[number].action if number in calls else ALLOW
        assert machine.run(program, X86_64, number) == expected


def test_far_chains_are_reached() -> None:
    chain = ((bpf.Comparison(0, bpf.EQ, 1), bpf.Comparison(1, bpf.GE, 1 << 33)),)
    calls = {number: bpf.Verdict(EPERM, chain) for number in range(0, 300, 2)}
    program = machine.decode(bpf.build(ALLOW, [bpf.Table(token=X86_64, calls=calls)]))
    for number in range(301):
        refused = EPERM if number in calls else ALLOW
        assert machine.run(program, X86_64, number, (1, 1 << 33)) == refused
        assert machine.run(program, X86_64, number, (1, 5)) == ALLOW


COMPARISONS = st.builds(
    bpf.Comparison, st.integers(0, 2), st.sampled_from(range(1, 8)),
    st.sampled_from([0, 1, 7, 0xF0, 1 << 32, 1 << 32 | 7, 2**64 - 1]),
    st.sampled_from([0, 1, 0x10, 1 << 32]))
VERDICTS = st.builds(
    bpf.Verdict, st.sampled_from([ALLOW, EPERM, KILL]),
    st.lists(st.lists(COMPARISONS, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple),
    st.booleans())


def matches(one: bpf.Comparison, args: tuple[int, ...], *, wide: bool) -> bool:
    bits = 2**64 - 1 if wide else 2**32 - 1
    have, value = args[one.index] & bits, one.value & bits
    match one.op:
        case bpf.MASKED_EQ:
            return have & value == one.value_two & bits
        case bpf.EQ | bpf.NE:
            return (have == value) is (one.op == bpf.EQ)
        case bpf.GT | bpf.LE:
            return (have > value) is (one.op == bpf.GT)
        case _:
            return (have >= value) is (one.op == bpf.GE)


@settings(max_examples=25)
@given(calls=st.dictionaries(st.integers(0, 40), VERDICTS, max_size=12),
       args=st.tuples(*[st.sampled_from([0, 1, 7, 0x10, 1 << 32, 1 << 32 | 8, 2**64 - 1])] * 3),
       beyond=st.integers(0, 50))
def test_program_decides_as_its_table(calls: dict[int, bpf.Verdict], args: tuple[int, ...],
                                      beyond: int) -> None:
    table = bpf.Table(token=X86_64, calls=calls, beyond=((beyond, ENOSYS),))
    program = machine.decode(bpf.build(EPERM, [table]))
    for number in range(60):
        verdict = calls.get(number)
        expected = ENOSYS if number >= beyond else EPERM
        if verdict is not None:
            hit = not verdict.alternatives or any(
                all(matches(one, args, wide=verdict.wide) for one in alternative)
                for alternative in verdict.alternatives)
            expected = verdict.action if hit else EPERM
        assert machine.run(program, X86_64, number, args) == expected
