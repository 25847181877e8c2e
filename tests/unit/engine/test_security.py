"""Docker's rules about capabilities, security options, paths, ulimits and devices."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pallet.engine import security
from pallet.errors import InvalidParameterError, SystemFailureError
from pallet.linux import caps
from pallet.linux.rlimits import INFINITY
from pallet.spec.engine.host_config import DeviceMapping, HostConfig, Ulimit
from pallet.spec.runtime import DeviceRule, Rlimit

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT = security.default_capabilities()
WITHOUT_RESOURCE = caps.mask_of(caps.NAMES) & ~(1 << caps.NUMBERS["CAP_SYS_RESOURCE"])


@pytest.fixture(autouse=True)
def all_but_one_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that has everything but CAP_SYS_RESOURCE, whoever runs the tests."""
    monkeypatch.setattr(caps, "available", lambda: WITHOUT_RESOURCE)


@pytest.mark.parametrize(("add", "drop", "expected"), [
    ([], [], DEFAULT),
    (["NET_ADMIN"], [], [*DEFAULT, "CAP_NET_ADMIN"]),
    (["cap_net_admin", "Net_Admin"], [], [*DEFAULT, "CAP_NET_ADMIN"]),
    (["CHOWN"], [], DEFAULT),
    ([], ["MKNOD", "cap_kill"], [c for c in DEFAULT if c not in ("CAP_MKNOD", "CAP_KILL")]),
    ([], ["ALL"], []),
    (["NET_RAW"], ["all"], ["CAP_NET_RAW"]),
    (["MKNOD"], ["MKNOD"], [*(c for c in DEFAULT if c != "CAP_MKNOD"), "CAP_MKNOD"]),
    (["ALL"], ["CHOWN", "SYS_ADMIN"],
     [c for c in caps.NAMES if c not in ("CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_SYS_RESOURCE")]),
    (["ALL"], ["ALL"], [c for c in caps.NAMES if c != "CAP_SYS_RESOURCE"]),
])
def test_capabilities(add: list[str], drop: list[str], expected: list[str]) -> None:
    assert security.merge_capabilities(add, drop, privileged=False) == expected


def test_the_fourteen_defaults() -> None:
    assert len(set(DEFAULT)) == 14
    assert set(DEFAULT) < set(caps.NAMES)


def test_privileged_is_everything_the_daemon_has() -> None:
    assert security.merge_capabilities(["FOO"], ["ALL"], privileged=True) == [
        c for c in caps.NAMES if c != "CAP_SYS_RESOURCE"]


@pytest.mark.parametrize(("host", "message"), [
    (HostConfig(cap_add=["foo"]), 'invalid CapAdd: unknown capability: "CAP_FOO"'),
    (HostConfig(cap_drop=["CAP_BAR"]), 'invalid CapDrop: unknown capability: "CAP_BAR"'),
    (HostConfig(cap_add=["sys_resource"]),
     "invalid CapAdd: capability not supported by your kernel or not available in the current "
     'environment: "CAP_SYS_RESOURCE"'),
    (HostConfig(security_opt=["foo"]), 'invalid --security-opt 1: "foo"'),
    (HostConfig(security_opt=["foo=bar"]), 'invalid --security-opt 2: "foo=bar"'),
    (HostConfig(security_opt=["systempaths=unconfined"]),
     'invalid --security-opt 2: "systempaths=unconfined"'),
    (HostConfig(security_opt=["no-new-privileges=maybe"]),
     'invalid --security-opt 2: "no-new-privileges=maybe"'),
    (HostConfig(ulimits=[Ulimit(name="foo", soft=1, hard=1)]), "invalid ulimit type: foo"),
    (HostConfig(ulimits=[Ulimit(name="nofile", soft=2, hard=1)]),
     "ulimit soft limit must be less than or equal to hard limit: 2 > 1"),
    (HostConfig(ulimits=[Ulimit(name="nofile", soft=-1, hard=1)]),
     "ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: 1"),
])
def test_what_create_refuses(host: HostConfig, message: str) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        security.check(host)
    assert str(caught.value) == message


def test_what_create_lets_through() -> None:
    security.check(HostConfig())
    security.check(HostConfig(cap_add=["ALL"], cap_drop=["net_raw"], security_opt=["label=disable"],
                              devices=[DeviceMapping(path_on_host="/dev/not/there")]))


@pytest.mark.parametrize(("options", "expected"), [
    ([], security.SecurityOptions()),
    (["no-new-privileges"], security.SecurityOptions(no_new_privileges=True)),
    (["no-new-privileges:true"], security.SecurityOptions(no_new_privileges=True)),
    (["no-new-privileges", "no-new-privileges=F"], security.SecurityOptions()),
    (["seccomp=unconfined"], security.SecurityOptions(seccomp="unconfined")),
    (['seccomp={"defaultAction":"a=b"}'],
     security.SecurityOptions(seccomp='{"defaultAction":"a=b"}')),
    (["seccomp:unconfined", "apparmor=docker-default"],
     security.SecurityOptions(seccomp="unconfined", apparmor="docker-default")),
    (["label=type:svirt_t", "label:disable", "disable"],
     security.SecurityOptions(labels=("type:svirt_t", "disable", "disable"))),
    (["writable-cgroups=true"], security.SecurityOptions(writable_cgroups=True)),
])
def test_security_options(options: list[str], expected: security.SecurityOptions) -> None:
    assert security.parse_security_opts(options) == expected


def test_an_option_overrides_the_daemons_default() -> None:
    def parsed(*options: str) -> bool:
        return security.parse_security_opts(options, no_new_privileges=True).no_new_privileges

    assert parsed()
    assert not parsed("no-new-privileges=false")


@pytest.mark.parametrize(("host", "masked", "readonly"), [
    (HostConfig(), list(security.MASKED_PATHS), list(security.READONLY_PATHS)),
    (HostConfig(privileged=True), [], []),
    (HostConfig(masked_paths=[], readonly_paths=["/x"]), [], ["/x"]),
    (HostConfig(privileged=True, masked_paths=["/y"]), ["/y"], []),
])
def test_hidden_paths(host: HostConfig, masked: list[str], readonly: list[str]) -> None:
    assert security.hidden_paths(host) == (masked, readonly)


def test_ulimits_come_over_the_daemons() -> None:
    own = [Ulimit(name="nofile", soft=10, hard=20), Ulimit(name="core", soft=-1, hard=-1)]
    defaults = (("nofile", 1, 1), ("nproc", 5, -1))
    assert security.rlimits(own, defaults) == [
        Rlimit(type="RLIMIT_NOFILE", soft=10, hard=20),
        Rlimit(type="RLIMIT_CORE", soft=INFINITY, hard=INFINITY),
        Rlimit(type="RLIMIT_NPROC", soft=5, hard=INFINITY)]


def test_default_device_rules_deny_first() -> None:
    nodes, rules = security.devices(HostConfig())
    assert nodes == []
    assert rules[0] == DeviceRule(allow=False, access="rwm")
    assert DeviceRule(allow=True, type="c", major=1, minor=3, access="rwm") in rules


def test_a_mapped_device_is_allowed_as_asked() -> None:
    mapping = DeviceMapping(path_on_host="/dev/null", path_in_container="/dev/zilch",
                            cgroup_permissions="r")
    nodes, rules = security.devices(HostConfig(devices=[mapping]))
    assert [(n.path, n.type, n.major, n.minor) for n in nodes] == [("/dev/zilch", "c", 1, 3)]
    assert rules[-1] == DeviceRule(allow=True, type="c", major=1, minor=3, access="r")


def test_a_link_is_followed_and_a_directory_searched(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/null")
    mapping = DeviceMapping(path_on_host=f"{tmp_path}/link", path_in_container="/dev/n")
    assert [n.major for n in security.mapped_devices(mapping)] == [1]
    (tmp_path / "below" / "deep").mkdir(parents=True)
    os.mkfifo(tmp_path / "below" / "deep" / "b")
    os.mkfifo(tmp_path / "below" / "a")
    (tmp_path / "below" / "file").write_text("")
    found = security.mapped_devices(DeviceMapping(path_on_host=f"{tmp_path}/below",
                                                  path_in_container="/dev/d"))
    assert [(n.path, n.type) for n in found] == [("/dev/d/a", "p"), ("/dev/d/deep/b", "p")]


@pytest.mark.parametrize(("path", "reason"), [
    ("/dev/not/there", "no such file or directory"), ("/etc/hostname", "not a device node"),
    ("/etc", "not a device node"),
])
def test_devices_that_are_none(path: str, reason: str) -> None:
    with pytest.raises(SystemFailureError) as caught:
        security.devices(HostConfig(devices=[DeviceMapping(path_on_host=path)]))
    assert str(caught.value) == ("error gathering device information while adding custom device "
                                 f'"{path}": {reason}')


def test_privileged_gets_the_hosts_devices_but_its_own_terminals() -> None:
    nodes, rules = security.devices(HostConfig(privileged=True, device_cgroup_rules=["nonsense"]))
    paths = {node.path for node in nodes}
    assert {"/dev/null", "/dev/zero"} <= paths
    assert not any(path.startswith(("/dev/pts/", "/dev/shm/")) for path in paths)
    assert "/dev/console" not in paths
    assert rules == [DeviceRule(allow=True, access="rwm")]


@pytest.mark.parametrize(("rule", "expected"), [
    ("c 1:3 rwm", DeviceRule(allow=True, type="c", major=1, minor=3, access="rwm")),
    ("b *:16 r", DeviceRule(allow=True, type="b", minor=16, access="r")),
    ("a *:* rwm", DeviceRule(allow=True, type="a", access="rwm")),
])
def test_cgroup_rules(rule: str, expected: DeviceRule) -> None:
    assert security.cgroup_rules([rule]) == [expected]


def test_a_rule_for_all_ends_the_list() -> None:
    assert len(security.cgroup_rules(["c 1:3 r", "a *:* rwm", "b 8:0 r"])) == 2


@pytest.mark.parametrize(("rule", "message"), [
    ("c 1:3", "invalid device cgroup rule format: 'c 1:3'"),
    ("x 1:3 r", "invalid device cgroup rule format: 'x 1:3 r'"),
    ("c 1:3 rwmr", "invalid device cgroup rule format: 'c 1:3 rwmr'"),
    ("a", "invalid device cgroup rule format: 'a'"),
    ("c 5000:3 r", "invalid major value in device cgroup rule format: 'c 5000:3 r'"),
    ("c 1:999999 r", "invalid minor value in device cgroup rule format: 'c 1:999999 r'"),
    ("a 1:3 m", "although this cgroup rule is technically correct, because 'a' maps to "
                "'a *:* rwm' regardless of what comes next, this format is partially "
                "ineffective: 'a 1:3 m'"),
])
def test_malformed_cgroup_rules(rule: str, message: str) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        security.devices(HostConfig(device_cgroup_rules=[rule]))
    assert str(caught.value) == message
