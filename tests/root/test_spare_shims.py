"""Shims between containers: they come back, warm and empty, or not at all."""

from __future__ import annotations

import asyncio
import functools
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pallet.spec import runtime as oci
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.root.runtimelab import Lab

# On version 2 an init is born in its cgroup, by a fork of a shim that serves nobody after it.
pytestmark = pytest.mark.needs("root", "overlay", "vfork", "cgroup1")


async def returned(lab: Lab, *, at_least: int) -> None:
    while len(lab.supervisor._spares) < at_least:
        await asyncio.sleep(0.005)


async def run_and_return(lab: Lab, *args: str, **changes: object) -> int:
    """Run a container; return its shim's pid once the shim is back."""
    await asyncio.wait_for(returned(lab, at_least=2), 5)
    shim = await lab.start(*args, **changes)
    assert (await asyncio.wait_for(shim.exited, 5)).exit_code == 0
    await asyncio.wait_for(shim.gone, 5)
    await asyncio.wait_for(returned(lab, at_least=2), 5)
    return shim.shim_pid


def has_only_its_own(pid: int) -> bool:
    """A spare has its connection, the pipe on which it hears of its next container's end, and that one's cgroup."""
    directory = f"/proc/{pid}/fd"
    links = [os.readlink(f"{directory}/{fd}") for fd in os.listdir(directory)]
    ahead = [link for link in links if link == "/" or re.fullmatch(r"/sys/fs/cgroup/.*/ahead-[^/]*/tasks", link)]
    kinds = sorted(link.partition(":")[0] for link in links if link not in ahead)
    return kinds == ["/dev/null"] * 3 + ["pipe"] * 2 + ["socket"] and ahead.count("/") == 1


async def test_a_shim_serves_one_container_after_another(lab: Lab) -> None:
    first = await run_and_return(lab, "true")
    again = {await run_and_return(lab, "sh", "-c", "echo $0", str(n)) for n in range(10)}
    assert first in again
    assert len(again) <= 3


async def test_the_low_priority_of_a_tear_down_ends_with_it(lab: Lab) -> None:
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    for _ in range(3):
        pid = await run_and_return(lab, "sh", "-c", f"exit $(($(cut -d' ' -f19 /proc/self/stat) - {mine}))")
        # As below: this shim may still be on its way.
        await asyncio.to_thread(
            eventually, lambda pid=pid: os.getpriority(os.PRIO_PROCESS, pid) == mine)


async def test_nothing_of_a_container_stays_in_its_shim(lab: Lab) -> None:
    for _ in range(5):
        pid = await run_and_return(lab, "sh", "-c", "echo hello; sleep 0 &", stdin=True)
        # The daemon may have counted on another spare: this one may still be on its way.
        await asyncio.to_thread(eventually, functools.partial(has_only_its_own, pid))
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert Path(f"/proc/{pid}/task/{pid}/children").read_text() == ""
        assert os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
        assert os.readlink(f"/proc/{pid}/ns/pid_for_children") == os.readlink("/proc/self/ns/pid")


async def test_what_was_meant_for_the_container_before_is_dropped(lab: Lab) -> None:
    await asyncio.wait_for(returned(lab, at_least=2), 5)
    shim = await lab.start("true")
    for _ in range(20):
        shim.resize(10, 10)
        shim.close_stdin()
        await asyncio.sleep(0)
    await asyncio.wait_for(shim.gone, 5)
    for _ in range(3):
        assert (await lab.run("echo", "fine")) == (0, "fine\n")


async def test_a_failed_start_or_a_shared_pid_namespace_ends_the_shim(lab: Lab) -> None:
    await asyncio.wait_for(returned(lab, at_least=2), 5)
    host = [oci.Namespace(type=kind) for kind in ("mount", "uts", "ipc", "network")]
    shim = await lab.start("true", linux_namespaces=host)
    await asyncio.wait_for(shim.gone, 5)
    await asyncio.to_thread(eventually, lambda: not os.path.exists(f"/proc/{shim.shim_pid}"))


async def test_the_daemon_s_end_is_a_spare_s_end(lab: Lab) -> None:
    pid = await run_and_return(lab, "true")
    await lab.supervisor.close()
    await asyncio.to_thread(eventually, lambda: not os.path.exists(f"/proc/{pid}"))
    await lab.supervisor.start()
