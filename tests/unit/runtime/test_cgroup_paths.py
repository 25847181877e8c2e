"""``cgroupsPath`` of both drivers."""

from __future__ import annotations

import pytest

from pallet.errors import InvalidParameterError, SystemFailureError
from pallet.linux.cgroupfs import Mounts
from pallet.runtime.cgroup import expand_slice, open_cgroup, resolve_path


@pytest.mark.parametrize(("given", "driver", "path"), [
    ("/pallet/abc", "cgroupfs", "/pallet/abc"),
    ("pallet//abc/", "cgroupfs", "/pallet/abc"),
    ("/pallet/../../../abc", "cgroupfs", "/abc"),
    ("system.slice:pallet:abc", "systemd", "/system.slice/pallet-abc.scope"),
    (":pallet:abc", "systemd", "/system.slice/pallet-abc.scope"),
    ("user-1000.slice::abc", "systemd", "/user.slice/user-1000.slice/abc.scope"),
    ("-.slice:p:abc", "systemd", "/p-abc.scope"),
    ("system.slice:x:my.slice", "systemd", "/system.slice/my.slice"),
])
def test_paths(given: str, driver: str, path: str) -> None:
    assert resolve_path(given, driver) == path


@pytest.mark.parametrize(("given", "driver", "message"), [
    ("/", "cgroupfs", "invalid cgroup path"),
    ("/a/..", "cgroupfs", "invalid cgroup path"),
    ("/pallet/abc", "systemd", 'format "slice:prefix:name"'),
    ("a/b.slice:p:abc", "systemd", "invalid slice name"),
    ("x:p:abc", "systemd", "invalid slice name: x"),
    ("a--b.slice:p:abc", "systemd", "invalid slice name"),
    ("/pallet/abc", "none", "native.cgroupdriver option none not supported"),
])
def test_malformed_paths(given: str, driver: str, message: str) -> None:
    with pytest.raises(InvalidParameterError, match=message):
        resolve_path(given, driver)


def test_slices_nest_by_their_dashes() -> None:
    assert expand_slice("a-b-c.slice") == "/a.slice/a-b.slice/a-b-c.slice"


def test_a_host_without_cgroups() -> None:
    with pytest.raises(SystemFailureError, match="no cgroup mount found in mountinfo"):
        open_cgroup("/pallet/abc", mounts=Mounts())
