"""Docker's profile format: conditions, errors, and the default policy's contents."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from pallet.engine.security import default_capabilities
from pallet.errors import InvalidParameterError
from pallet.linux import seccomp
from pallet.runtime import seccomp_profile
from pallet.runtime.seccomp_default import default_profile
from pallet.runtime.seccomp_profile import (
    Host,
    SeccompCache,
    flags_of,
    parse_profile,
    resolve,
)
from pallet.spec.seccomp import LinuxSeccomp

if TYPE_CHECKING:
    from pathlib import Path

X86 = Host(machine="x86_64", kernel=(6, 1))
ARM = Host(machine="aarch64", kernel=(6, 1))


def names(document: LinuxSeccomp | None) -> set[str]:
    """Every call the document allows under some condition."""
    assert document is not None
    return {name for rule in document.syscalls if rule.action == "SCMP_ACT_ALLOW"
            for name in rule.names}


def profile_of(**rule: object) -> str:
    body = {"names": ["uname"], "action": "SCMP_ACT_ALLOW", **rule}
    return json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [body]})


@pytest.mark.parametrize(("condition", "applies"), [
    ({}, True),
    ({"includes": {"caps": ["CAP_SYS_ADMIN"]}}, False),
    ({"includes": {"caps": ["CAP_KILL"]}}, True),
    ({"includes": {"caps": ["CAP_KILL", "CAP_SYS_ADMIN"]}}, False),
    ({"excludes": {"caps": ["CAP_KILL", "CAP_SYS_ADMIN"]}}, False),
    ({"excludes": {"caps": ["CAP_SYS_ADMIN"]}}, True),
    ({"includes": {"arches": ["amd64", "x32"]}}, True),
    ({"includes": {"arches": ["arm64"]}}, False),
    ({"excludes": {"arches": ["amd64"]}}, False),
    ({"includes": {"minKernel": "4.8"}}, True),
    ({"includes": {"minKernel": "6.1"}}, True),
    ({"includes": {"minKernel": "6.2"}}, False),
    ({"excludes": {"minKernel": "6.2"}}, True),
    ({"excludes": {"minKernel": "5.19"}}, False),
])
def test_conditions(condition: dict[str, object], *, applies: bool) -> None:
    document = resolve(parse_profile(profile_of(**condition)), bounding=["CAP_KILL"], host=X86)
    assert ("uname" in names(document)) is applies


def test_the_old_form_of_a_rule() -> None:
    text = profile_of(name="read").replace('"names": ["uname"], ', "")
    assert names(resolve(parse_profile(text), bounding=[], host=X86)) == {"read"}


@pytest.mark.parametrize(("text", "message"), [
    ("nonsense", "Decoding seccomp profile failed: "),
    ('{"syscalls": 3}', "Decoding seccomp profile failed: "),
    (profile_of(name="read"), "both 'name' and 'names' are specified in the seccomp profile"),
    ('{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "archMap": '
     '[{"architecture": "SCMP_ARCH_X86_64"}]}',
     "both 'architectures' and 'archMap' are specified in the seccomp profile"),
    (profile_of(includes={"minKernel": "5"}), 'invalid kernel version: "5", expected'),
    (profile_of(includes={"minKernel": "0.0"}), "invalid kernel version"),
])
def test_errors_in_dockers_words(text: str, message: str) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        resolve(parse_profile(text), bounding=[], host=X86)
    assert str(caught.value).startswith(message)


def test_an_empty_profile_means_no_filter() -> None:
    assert resolve(parse_profile("{}"), bounding=[], host=X86) is None


def test_architectures_come_with_those_they_also_run() -> None:
    def architectures(host: Host) -> list[str]:
        document = resolve(default_profile(), bounding=[], host=host)
        assert document is not None
        return document.architectures

    assert architectures(X86) == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    assert architectures(ARM) == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]


def test_default_policy_by_capability() -> None:
    plain = names(resolve(default_profile(), bounding=default_capabilities(), host=X86))
    admin = names(resolve(default_profile(), bounding=["CAP_SYS_ADMIN"], host=X86))
    assert len(default_profile().syscalls[0].names or []) == 361  # type: ignore[index]
    assert {"chroot", "ptrace", "arch_prctl", "clone", "personality", "socket"} <= plain
    assert plain.isdisjoint({"mount", "unshare", "setns", "bpf", "io_uring_setup", "keyctl",
                             "userfaultfd", "reboot", "clone3", "open_by_handle_at"})
    assert {"mount", "unshare", "setns", "bpf", "clone3"} <= admin
    assert "chroot" not in admin


def test_default_policy_by_kernel_and_architecture() -> None:
    old = names(resolve(default_profile(), bounding=[], host=Host(machine="x86_64",
                                                                 kernel=(4, 4))))
    assert "ptrace" not in old
    assert "arch_prctl" not in names(resolve(default_profile(), bounding=[], host=ARM))
    s390 = Host(machine="s390x", kernel=(6, 1))
    document = resolve(default_profile(), bounding=[], host=s390)
    assert document is not None
    (clone,) = [rule for rule in document.syscalls if rule.names == ["clone"]]
    assert clone.args[0].index == 1


@pytest.mark.parametrize(("flags", "value"), [
    (None, seccomp.FLAG_SPEC_ALLOW), ([], 0), (["SECCOMP_FILTER_FLAG_LOG"], seccomp.FLAG_LOG),
    (["SECCOMP_FILTER_FLAG_TSYNC"], 0),
])
def test_flags(flags: list[str] | None, value: int) -> None:
    assert flags_of(LinuxSeccomp(default_action="SCMP_ACT_ALLOW", flags=flags)) == value


def test_unknown_flag() -> None:
    with pytest.raises(InvalidParameterError, match="SECCOMP_FILTER_FLAG_NEW"):
        flags_of(LinuxSeccomp(default_action="SCMP_ACT_ALLOW", flags=["SECCOMP_FILTER_FLAG_NEW"]))


@pytest.mark.needs("seccomp")
def test_cache_keeps_files_and_repairs_them(tmp_path: Path) -> None:
    caps = default_capabilities()
    first = SeccompCache(tmp_path / "seccomp").filter_for(profile_of(), caps)
    assert first is not None
    (file,) = (tmp_path / "seccomp").iterdir()
    stored = file.read_bytes()
    cache = SeccompCache(tmp_path / "seccomp")
    assert cache.cached(profile_of(), caps) is None
    again = cache.filter_for(profile_of(), caps)
    assert again == first
    assert cache.cached(profile_of(), caps) is again
    file.write_bytes(stored[:-4])
    mended = SeccompCache(tmp_path / "seccomp").filter_for(profile_of(), caps)
    assert mended == first
    assert file.read_bytes() == stored


@pytest.mark.needs("seccomp")
def test_cache_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp_profile, "_KEPT", 3)
    cache = SeccompCache(tmp_path)
    for code in range(1, 8):
        cache.filter_for(profile_of(action="SCMP_ACT_ERRNO", errnoRet=code), [])
        os.utime(max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns), (code, code))
    assert len(list(tmp_path.iterdir())) == 3
    assert cache.cached(profile_of(action="SCMP_ACT_ERRNO", errnoRet=1), []) is None
    assert cache.cached(profile_of(action="SCMP_ACT_ERRNO", errnoRet=7), []) is not None


@pytest.mark.needs("seccomp")
def test_names_for_profiles(tmp_path: Path) -> None:
    custom = profile_of()
    cache = SeccompCache(tmp_path, daemon_profile=custom)
    own = cache.filter_for(None, [])
    builtin = cache.filter_for("builtin", [])
    assert own is not None
    assert builtin is not None
    assert len(builtin.bpf) > len(own.bpf)
    assert cache.filter_for("unconfined", []) is None
    assert SeccompCache(tmp_path, daemon_profile="unconfined").filter_for(None, []) is None
    assert cache.filter_for("{}", []) is None
