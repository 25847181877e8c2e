"""Device rules: what they add up to, and that the eBPF program decides the same."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallet.errors import InvalidParameterError
from pallet.linux.bpfdevices import ANY, DevicePolicy, DeviceRule, assemble, policy_of

MKNOD, READ, WRITE = 1, 2, 4
BLOCK, CHAR = 1, 2


def allowed(program: bytes, kind: int, access: int, major: int, minor: int) -> bool:
    """Run the program as the kernel would on ``struct bpf_cgroup_dev_ctx``."""
    context = struct.pack("=III", access << 16 | kind, major, minor)
    registers = [0] * 11
    instructions = list(struct.iter_unpack("=BBhi", program))
    at = 0
    while True:
        code, pair, offset, constant = instructions[at]
        dst, src = pair & 0xF, pair >> 4
        at += 1
        if code == 0x61:
            assert src == 1
            (registers[dst],) = struct.unpack_from("=I", context, offset)
        elif code == 0x54:
            registers[dst] &= constant
        elif code == 0x74:
            registers[dst] >>= constant
        elif code == 0xB4:
            registers[dst] = constant
        elif code == 0xBC:
            registers[dst] = registers[src]
        elif code == 0x15:
            at += offset if registers[dst] == constant else 0
        elif code == 0x55:
            at += offset if registers[dst] != constant else 0
        elif code == 0x5D:
            at += offset if registers[dst] != registers[src] else 0
        elif code == 0x95:
            return registers[0] == 1
        else:
            raise AssertionError(hex(code))


def decided(policy: DevicePolicy, kind: int, access: int, major: int, minor: int) -> bool:
    """What the v1 controller decides (security/device_cgroup.c)."""
    for (letter, rule_major, rule_minor), bits in policy.exceptions.items():
        if {"b": BLOCK, "c": CHAR}[letter] != kind:
            continue
        if rule_major not in (ANY, major) or rule_minor not in (ANY, minor):
            continue
        if policy.default_allow and access & bits:
            return False
        if not policy.default_allow and access & ~bits == 0:
            return True
    return policy.default_allow


RULES = st.lists(st.builds(
    DeviceRule, allow=st.booleans(), kind=st.sampled_from("abc"),
    major=st.sampled_from([ANY, 1, 8]), minor=st.sampled_from([ANY, 0, 3]),
    access=st.sampled_from(["r", "w", "m", "rw", "rwm", "rm"])), max_size=8)


@settings(max_examples=40)
@given(rules=RULES)
def test_program_decides_as_the_policy(rules: list[DeviceRule]) -> None:
    try:
        policy = policy_of(rules)
    except InvalidParameterError:
        return
    program = assemble(policy)
    for kind in (BLOCK, CHAR):
        for access in range(1, 8):
            for major in (0, 1, 8):
                for minor in (0, 3, 9):
                    assert (allowed(program, kind, access, major, minor)
                            == decided(policy, kind, access, major, minor))


def test_permissions_of_the_same_device_are_united() -> None:
    policy = policy_of([DeviceRule(allow=True, kind="c", major=1, minor=3, access="r"),
                        DeviceRule(allow=True, kind="c", major=1, minor=3, access="w")])
    assert allowed(assemble(policy), CHAR, READ | WRITE, 1, 3)
    assert not allowed(assemble(policy), CHAR, READ | MKNOD, 1, 3)
    assert policy.lines() == [b"c 1:3 rw"]


def test_a_rule_for_all_starts_afresh() -> None:
    policy = policy_of([DeviceRule(allow=True, kind="c", major=1, minor=3), DeviceRule(allow=True)])
    assert (policy.default_allow, policy.exceptions) == (True, {})
    policy.add(DeviceRule(allow=False))
    assert not policy.default_allow


def test_denying_takes_away_from_the_same_device_only() -> None:
    policy = policy_of([DeviceRule(allow=True, kind="c", major=1, minor=3),
                        DeviceRule(allow=False, kind="c", major=1, minor=3, access="w"),
                        DeviceRule(allow=False, kind="c", major=10, minor=229)])
    assert policy.lines() == [b"c 1:3 rm"]


def test_a_hole_in_a_wildcard_is_refused() -> None:
    with pytest.raises(InvalidParameterError, match="cannot punch a hole in the wildcard"):
        policy_of([DeviceRule(allow=True, kind="c"),
                   DeviceRule(allow=False, kind="c", major=1, minor=3, access="w")])


@pytest.mark.parametrize("rule", [
    DeviceRule(allow=True, kind="x", major=1, minor=1),
    DeviceRule(allow=True, kind="c", access="rwx"),
    DeviceRule(allow=True, kind="c", access=""),
])
def test_malformed_rules(rule: DeviceRule) -> None:
    with pytest.raises(InvalidParameterError, match="invalid device rule"):
        policy_of([rule])
