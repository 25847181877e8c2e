"""The runtime seam: the same containers through runc and crun."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest

from pallet.errors import PalletError
from pallet.spec import runtime as oci
from pallet.zygote import messages
from tests.root.runtimelab import DEFAULT_CAPS, default_mounts, read_all, read_until
from tests.support.probes import which

if TYPE_CHECKING:
    from tests.root.runtimelab import Lab

pytestmark = pytest.mark.needs("root", "overlay")


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.needs(name)) for name in ("runc", "crun")])
def runtime(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Further fields of a start request."""
    path = which(request.param)
    assert path is not None
    return {"runtime": messages.ForeignRuntime(path=path)}


def left(name: str) -> list[str]:
    """Cgroups and state of a container that are still there."""
    return [top for top, _, _ in os.walk("/sys/fs/cgroup") if top.endswith(f"/{name}")]


async def test_output_exit_code_and_leftovers(lab: Lab, runtime: dict[str, Any]) -> None:
    code, output = await lab.run(
        "sh", "-c", "id; hostname; echo $HOME; pwd; cat /proc/self/cgroup | grep -c t-lab; exit 7",
        process_cwd="/made", extra=runtime | {"user": "bob"})
    assert code == 7
    assert output.splitlines()[:4] == [
        "uid=1000(bob) gid=1001(bob) groups=10(wheel),1001(bob)", "box", "/home/bob", "/made"]
    assert int(output.splitlines()[4]) > 0
    name = f"t-lab{os.getpid()}-1"
    assert sorted(os.listdir(lab.shim_dir(name))) in (["exit", "sock", "state.json"],
                                                      ["exit", "state.json"])
    for _ in range(200):
        if not left(name):
            return
        await asyncio.sleep(0.01)
    pytest.fail("the cgroup is still there")


async def test_stdin_and_signals(lab: Lab, runtime: dict[str, Any]) -> None:
    ours, theirs = socket.socketpair()
    shim = await lab.start("cat", stdin=True, clients=[theirs], extra=runtime, attach=[
        messages.Attach(stream_id=1, stdin=True, stdout=True, mux=False)])
    with ours:
        ours.sendall(b"hello")
        await read_until(ours, b"hello")
        shim.kill(signal.SIGKILL)
        assert await read_all(ours) == b""
    assert (await shim.exited).exit_code == 137
    await shim.gone


async def test_terminal(lab: Lab, runtime: dict[str, Any]) -> None:
    ours, theirs = socket.socketpair()
    shim = await lab.start(
        "sh", "-c", "stty size; read x; stty size", tty=True, stdin=True, clients=[theirs],
        extra=runtime, process_console_size=oci.Box(height=30, width=90), attach=[
            messages.Attach(stream_id=1, stdin=True, stdout=True, mux=False)])
    with ours:
        await read_until(ours, b"30 90\r\n")
        shim.resize(31, 91)
        await asyncio.sleep(0.05)
        ours.sendall(b"\r")
        assert b"31 91\r\n" in await read_all(ours)
    assert (await shim.exited).exit_code == 0
    await shim.gone


async def test_network_namespace_and_init(lab: Lab, runtime: dict[str, Any]) -> None:
    netns_fd, netlink_fd = await lab.supervisor.new_netns()
    os.close(netlink_fd)
    name = lab.new_id()
    request = lab.request(name, "readlink", "/proc/self/ns/net", extra=runtime | {
        "has_netns": True, "init": shutil.which("tini-static") or shutil.which("tini")})
    shim = await lab.supervisor.start_container(request, netns_fd=netns_fd)
    assert (await shim.exited).exit_code == 0
    await shim.gone
    wanted = os.readlink(f"/proc/self/fd/{netns_fd}")
    os.close(netns_fd)
    assert wanted in lab.log_path(name).read_text()


@pytest.mark.parametrize(("args", "code"), [(["nope"], 127), (["/etc/file"], 126)])
async def test_command_that_cannot_run(
    lab: Lab, runtime: dict[str, Any], args: list[str], code: int
) -> None:
    with pytest.raises(PalletError) as caught:
        await lab.start(*args, extra=runtime)
    assert str(caught.value).startswith(
        "failed to create task for container: failed to create shim task: "
        "OCI runtime create failed: ")
    assert getattr(caught.value, "exit_code", None) == code


async def test_exec(lab: Lab, runtime: dict[str, Any]) -> None:
    box = await lab.start("sleep", "100", extra=runtime)
    name = lab.new_id()
    ours, theirs = socket.socketpair()
    shim = await lab.supervisor.start_exec(messages.StartExec(
        id=name, container_id=box.id, container_pid=box.pid, container_dir=box.shim_dir,
        process=oci.Process(args=["sh", "-c", "id -u; ps; exit 3"], env=["PATH=/bin"],
                            capabilities=oci.Capabilities(
                                bounding=DEFAULT_CAPS, effective=DEFAULT_CAPS,
                                permitted=DEFAULT_CAPS)),
        user="bob", shim_dir=lab.shim_dir(name), runtime=runtime["runtime"],
        stdio=messages.Stdio(attach=[messages.Attach(stream_id=1, stdout=True, stderr=True,
                                                     mux=False)])), attach_sockets=[theirs])
    with ours:
        output = await read_all(ours)
    assert output.startswith(b"1000\n")
    assert b"sleep 100" in output
    assert (await shim.exited).exit_code == 3
    box.kill(signal.SIGKILL)
    await box.gone


async def test_killed_shim(lab: Lab, runtime: dict[str, Any]) -> None:
    shim = await lab.start("sleep", "1000", extra=runtime, mounts=default_mounts())
    os.kill(shim.shim_pid, signal.SIGKILL)
    ended = await asyncio.wait_for(shim.exited, 10)
    assert ended.exit_code == 137
    assert not left(shim.id)
