"""Cgroups that a shim makes for its next container: nobody can tell, and none is left."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pallet.linux.cgroupfs import detect
from pallet.runtime.cgroup import sweep_ahead
from pallet.spec import runtime as oci
from tests.root.runtimelab import CGROUP_PARENT
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pallet.supervisor.shims import Shim
    from tests.root.runtimelab import Lab

pytestmark = pytest.mark.needs("root", "overlay", "vfork", "cgroup1")

LOOK = ("cat /proc/self/cgroup; grep cgroup /proc/self/mountinfo; ls -la /sys/fs/cgroup; cat /sys/fs/cgroup/devices/devices.list;"
        " cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/cpuset/cpuset.cpus; touch /sys/fs/cgroup/memory/x; touch /sys/fs/cgroup/x")
EVERYTHING = oci.LinuxResources(devices=[oci.DeviceRule(allow=True, access="rwm")])


def hierarchies() -> list[str]:
    return list(dict.fromkeys(detect().v1.values()))


def ahead(parent: str = CGROUP_PARENT) -> set[str]:
    """Names of those that are whole: there in every hierarchy."""
    found = [{path.name for path in Path(mount + parent).glob("ahead-*")} for mount in hierarchies()]
    return set.intersection(*found)


async def until(condition: object) -> None:
    await asyncio.to_thread(eventually, condition)


async def ended(lab: Lab, shim: Shim) -> None:
    """Wait until a shim is back with a cgroup for the next container."""
    await asyncio.wait_for(shim.gone, 5)
    await until(lambda: any(name.startswith(f"ahead-{shim.shim_pid}-") for name in ahead())
                and len(lab.supervisor._spares) >= 2)


async def run(lab: Lab, *args: str, **changes: object) -> Shim:
    shim = await lab.start(*args, **changes)
    assert (await asyncio.wait_for(shim.exited, 5)).exit_code == 0
    await ended(lab, shim)
    return shim


def plain(text: str) -> str:
    """Without names, numbers of mounts and devices, times."""
    text = re.sub(r"t-lab\d+-\d+", "NAME", text)
    text = re.sub(r"(?m)^\d+ \d+ \d+:\d+ ", "", text)
    return re.sub(r"(?m)^([dl-][rwxst-]{9} ).*?(\S+( -> \S+)?)$", r"\1\2", text)


async def test_a_container_cannot_tell(lab: Lab) -> None:
    # A spare that was only forked has none.
    code, first = await lab.run("sh", "-c", LOOK)
    assert "NAME" in plain(first)
    await until(ahead)
    seen = []
    for _ in range(3):
        before = ahead()
        shim = await lab.start("sh", "-c", "read x", stdin=True)
        taken = before - ahead()
        assert len(taken) == 1
        assert f"ahead-{shim.shim_pid}-" in taken.pop()
        shim.close_stdin()
        await asyncio.wait_for(shim.exited, 5)
        await ended(lab, shim)
        seen.append(await lab.run("sh", "-c", LOOK))
        await until(ahead)
    assert {(code, plain(text)) for code, text in seen} == {(code, plain(first))}


async def test_limits_and_devices_are_the_container_s(lab: Lab) -> None:
    show = "cat /sys/fs/cgroup/devices/devices.list /sys/fs/cgroup/pids/pids.max"
    pids = oci.LinuxResources(devices=EVERYTHING.devices, pids=oci.PidsResources(limit=77))
    _, default = await lab.run("sh", "-c", show)
    for _ in range(3):
        await until(lambda: len(lab.supervisor._spares) >= 2)
        assert await lab.run("sh", "-c", show, linux_resources=pids) == (0, "a *:* rwm\n77\n")
        await until(lambda: len(lab.supervisor._spares) >= 2)
        assert await lab.run("sh", "-c", show) == (0, default)
    assert default.endswith("max\n")


async def test_other_parents_and_names_that_are_taken(lab: Lab) -> None:
    await run(lab, "true")
    for _ in range(3):
        name = lab.new_id()
        assert await lab.run("true", linux_cgroups_path=f"{CGROUP_PARENT}/other/{name}") == (0, "")
        await until(lambda: len(lab.supervisor._spares) >= 2)
    other = [f"{mount}{CGROUP_PARENT}/other" for mount in hierarchies()]
    await until(lambda: ahead(f"{CGROUP_PARENT}/other"))
    name = lab.new_id()
    Path(f"{hierarchies()[3]}{CGROUP_PARENT}/{name}").mkdir()
    assert await lab.run("grep", "-c", name, "/proc/self/cgroup", linux_cgroups_path=f"{CGROUP_PARENT}/{name}") == (
        0, f"{len(hierarchies())}\n")
    await until(lambda: not any(Path(f"{mount}{CGROUP_PARENT}/{name}").exists() for mount in hierarchies()))
    for mount in hierarchies():
        for path in Path(f"{mount}{CGROUP_PARENT}/other").glob("ahead-*"):
            assert path.name in ahead(f"{CGROUP_PARENT}/other")
    await lab.supervisor.settle()
    for directory in other:
        os.rmdir(directory)


async def test_parents_that_are_not_the_daemon_s_stay_empty(lab: Lab) -> None:
    for _ in range(3):
        await until(lambda: len(lab.supervisor._spares) >= 2)
        shim = await lab.start("true", linux_cgroups_path=f"{CGROUP_PARENT}/theirs/{lab.new_id()}", extra={"cgroup_ahead": False})
        await asyncio.wait_for(shim.gone, 5)
        await until(lambda: len(lab.supervisor._spares) >= 2)
        for mount in hierarchies():
            os.rmdir(f"{mount}{CGROUP_PARENT}/theirs")


async def test_those_of_killed_shims_are_swept(lab: Lab) -> None:
    shim = await run(lab, "true")
    other = await lab.start("sh", "-c", "read x", stdin=True)
    await until(lambda: len(lab.supervisor._spares) >= 2)
    if other.shim_pid == shim.shim_pid:
        other.close_stdin()
        await ended(lab, other)
    before = ahead()
    os.kill(shim.shim_pid, signal.SIGKILL)
    await until(lambda: not Path(f"/proc/{shim.shim_pid}").exists())
    assert ahead() == before
    sweep_ahead(CGROUP_PARENT)
    assert ahead() == {name for name in before if not name.startswith(f"ahead-{shim.shim_pid}-")}
    assert await lab.run("echo", "on") == (0, "on\n")
    other.close_stdin()


async def test_the_end_leaves_none(lab: Lab) -> None:
    await run(lab, "true")
    assert ahead()
    await lab.supervisor.settle()
    assert not [path for mount in hierarchies() for path in Path(f"{mount}{CGROUP_PARENT}").glob("ahead-*")]
