"""Further processes in a running container."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest

from pallet.errors import SystemFailureError
from pallet.spec import runtime as oci
from pallet.supervisor.failures import InvalidCommandError
from pallet.zygote import messages
from tests.root.runtimelab import CGROUP_PARENT, DEFAULT_CAPS, read_all, read_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pallet.supervisor.shims import Shim
    from tests.root.runtimelab import Lab

pytestmark = pytest.mark.needs("root", "overlay")


@pytest.fixture
async def box(lab: Lab) -> AsyncIterator[Shim]:
    """A container that sleeps."""
    shim = await lab.start("sleep", "1000")
    yield shim
    shim.kill(signal.SIGKILL)
    await asyncio.wait_for(shim.gone, 10)


def request(lab: Lab, box: Shim, *args: str, stdin: bool = False, attach: bool = True,
            extra: dict[str, Any] | None = None, **process: Any) -> messages.StartExec:
    name = lab.new_id()
    values: dict[str, Any] = {
        "args": list(args), "env": ["PATH=/bin", "A=1"],
        "capabilities": oci.Capabilities(
            bounding=DEFAULT_CAPS, effective=DEFAULT_CAPS, permitted=DEFAULT_CAPS)}
    streams = [messages.Attach(stream_id=1, stdin=stdin, stdout=True, stderr=True, mux=False)]
    return messages.StartExec(
        id=name, container_id=box.id, container_pid=box.pid, container_dir=box.shim_dir,
        cgroups_path=f"{CGROUP_PARENT}/{box.id}", process=oci.Process(**values | process),
        shim_dir=lab.shim_dir(name), stdio=messages.Stdio(
            open_stdin=stdin, stdin_once=True, attach=streams if attach else []), **extra or {})


async def run(lab: Lab, box: Shim, *args: str, feed: bytes = b"", **changes: Any,
              ) -> tuple[int, str]:
    ours, theirs = socket.socketpair()
    with ours:
        shim = await lab.supervisor.start_exec(
            request(lab, box, *args, stdin=bool(feed), **changes), attach_sockets=[theirs])
        if feed:
            ours.sendall(feed)
            ours.shutdown(socket.SHUT_WR)
        output = await read_all(ours)
    ended = await asyncio.wait_for(shim.exited, 10)
    await shim.gone
    return ended.exit_code, output.decode()


async def test_runs_inside(lab: Lab, box: Shim) -> None:
    code, output = await run(
        lab, box, "sh", "-c", "hostname; ps | grep -c 'sleep 1000'; echo $A $HOME; pwd; exit 5")
    assert code == 5
    assert output.split("\n")[0] == "box"
    assert output.split()[2:] == ["1", "/root", "/"]
    for kind in ("mnt", "pid", "net", "uts", "ipc"):
        _, link = await run(lab, box, "readlink", f"/proc/self/ns/{kind}")
        assert link.strip() == os.readlink(f"/proc/{box.pid}/ns/{kind}")


async def test_shares_the_cgroup(lab: Lab, box: Shim) -> None:
    _, output = await run(lab, box, "cat", "/proc/self/cgroup")
    _, own = await run(lab, box, "cat", "/proc/1/cgroup")
    assert output == own
    assert f"{CGROUP_PARENT}/{box.id}" in output


async def test_stdin_and_exit_code(lab: Lab, box: Shim) -> None:
    assert await run(lab, box, "cat", feed=b"data") == (0, "data")
    assert await run(lab, box, "sh", "-c", "kill -9 $$") == (137, "")


@pytest.mark.parametrize(("args", "code", "words"), [
    (["nope"], 127, 'exec: "nope": executable file not found in $PATH: unknown'),
    (["/etc"], 126, 'exec: "/etc": permission denied: unknown'),
    (["/etc/file"], 126, 'exec: "/etc/file": permission denied: unknown'),
])
async def test_command_that_cannot_run(
    lab: Lab, box: Shim, args: list[str], code: int, words: str
) -> None:
    with pytest.raises(InvalidCommandError) as caught:
        await lab.supervisor.start_exec(request(lab, box, *args, attach=False))
    assert caught.value.exit_code == code
    assert str(caught.value) == (
        f"OCI runtime exec failed: exec failed: unable to start container process: {words}")


async def test_working_directory_is_not_made(lab: Lab, box: Shim) -> None:
    with pytest.raises(InvalidCommandError) as caught:
        await lab.supervisor.start_exec(
            request(lab, box, "true", attach=False, cwd="/none"))
    assert 'chdir to cwd ("/none") set in config.json failed: no such file' in str(caught.value)
    assert caught.value.exit_code == 127


async def test_user(lab: Lab, box: Shim) -> None:
    code, output = await run(lab, box, "sh", "-c", "id; grep CapEff /proc/self/status",
                             extra={"user": "bob"})
    assert code == 0
    assert output.startswith("uid=1000(bob) gid=1001(bob) groups=10(wheel),1001(bob)\n")
    assert output.endswith("0000000000000000\n")
    with pytest.raises(SystemFailureError) as caught:
        await lab.supervisor.start_exec(
            request(lab, box, "true", attach=False, extra={"user": "carol"}))
    assert str(caught.value) == "unable to find user carol: no matching entries in passwd file"


async def test_terminal(lab: Lab, box: Shim) -> None:
    ours, theirs = socket.socketpair()
    shim = await lab.supervisor.start_exec(
        request(lab, box, "sh", "-c", "tty; stty size; cat", stdin=True, terminal=True,
                console_size=oci.Box(height=20, width=70)), attach_sockets=[theirs])
    with ours:
        assert await read_until(ours, b"20 70\r\n") == b"/dev/pts/0\r\n20 70\r\n"
        ours.sendall(b"\x03")
        await read_all(ours)
    assert (await asyncio.wait_for(shim.exited, 5)).exit_code == 130
    await shim.gone


async def test_background_process_does_not_hold_the_exec(lab: Lab, box: Shim) -> None:
    """The output of a process that outlives the exec is waited for, but not for ever."""
    shim = await lab.supervisor.start_exec(
        request(lab, box, "sh", "-c", "sleep 500 & exit 4", attach=False))
    assert (await asyncio.wait_for(shim.exited, 5)).exit_code == 4
    await shim.gone


async def test_dies_with_the_container(lab: Lab, box: Shim) -> None:
    shim = await lab.supervisor.start_exec(request(lab, box, "sleep", "500", attach=False))
    box.kill(signal.SIGKILL)
    assert (await asyncio.wait_for(shim.exited, 5)).exit_code == 137
    await shim.gone


async def test_container_that_has_ended(lab: Lab) -> None:
    box = await lab.start("true")
    await box.gone
    with pytest.raises(SystemFailureError, match=f"container {box.id} is not running"):
        await lab.supervisor.start_exec(request(lab, box, "true", attach=False))
