"""What is killed, when, and what is left: daemon, zygote, shim."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from pallet.errors import NotFoundError
from pallet.layer.worker import ApplyReply, ApplyRequest
from pallet.linux import packets, procfs
from pallet.supervisor.client import Supervisor
from pallet.supervisor.failures import WorkerError
from pallet.supervisor.shims import Exit, Shim
from pallet.zygote import messages
from tests.root.runtimelab import read_all, read_until

if TYPE_CHECKING:
    from tests.root.runtimelab import Lab

pytestmark = pytest.mark.needs("root", "overlay")


async def gone(pid: int, started: int) -> None:
    for _ in range(500):
        if not procfs.is_alive(pid, started):
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"process {pid} is still there")


async def successor(lab: Lab) -> Supervisor:
    """Replace the lab's supervisor as a daemon's restart does."""
    await lab.supervisor.close()
    lab.supervisor = Supervisor()
    await lab.supervisor.start()
    return lab.supervisor


async def test_a_later_daemon_finds_a_running_container(lab: Lab) -> None:
    ours, theirs = socket.socketpair()
    first = await lab.start("sh", "-c", "while read x; do echo $x; done; exit 6", stdin=True,
                            clients=[theirs], attach=[messages.Attach(
                                stream_id=1, stdin=True, stdout=True, mux=False)])
    supervisor = await successor(lab)
    with ours:
        ours.sendall(b"still here\n")
        await read_until(ours, b"still here\n")
        again = await supervisor.reattach(first.shim_dir)
        assert isinstance(again, Shim)
        assert (again.id, again.pid, again.shim_pid) == (first.id, first.pid, first.shim_pid)
        assert again.started_at_ns == first.started_at_ns
        mine, other = socket.socketpair()
        ended = await again.attach(other, stdin=False, stdout=True, stderr=False, mux=False)
        ours.sendall(b"both\n")
        with mine:
            assert await read_until(mine, b"both\n") == b"both\n"
            ours.shutdown(socket.SHUT_WR)
            assert await read_all(mine) == b""
    assert (await asyncio.wait_for(again.exited, 5)).exit_code == 6
    assert await ended == "eof"
    await again.gone


async def test_a_later_daemon_learns_of_an_exit(lab: Lab) -> None:
    first = await lab.start("sh", "-c", "read x; echo last; exit 3", stdin=True)
    await lab.supervisor.close()
    os.kill(first.pid, signal.SIGKILL)
    supervisor = await successor(lab)
    found = await supervisor.reattach(first.shim_dir)
    if isinstance(found, Shim):
        # Not quite dead yet when it was asked.
        found = await asyncio.wait_for(found.exited, 5)
    assert isinstance(found, Exit)
    assert (found.exit_code, found.error) == (137, "")


async def test_nothing_is_known_of_an_empty_directory(lab: Lab) -> None:
    assert await lab.supervisor.reattach(lab.shim_dir("empty")) is None


async def test_killed_shim_takes_its_container_along(lab: Lab) -> None:
    shim = await lab.start("sh", "-c", "sleep 1000 & sleep 1000")
    started = procfs.start_time(shim.pid)
    os.kill(shim.shim_pid, signal.SIGKILL)
    ended = await asyncio.wait_for(shim.exited, 10)
    assert ended.exit_code == 137
    assert "shim was killed" in ended.error
    await gone(shim.pid, started)
    await shim.gone


async def test_shim_killed_while_no_daemon_ran(lab: Lab) -> None:
    shim = await lab.start("sleep", "1000")
    started = procfs.start_time(shim.pid)
    await lab.supervisor.close()
    os.kill(shim.shim_pid, signal.SIGKILL)
    supervisor = await successor(lab)
    ended = await supervisor.reattach(shim.shim_dir)
    assert isinstance(ended, Exit)
    assert ended.exit_code == 137
    await gone(shim.pid, started)


async def test_reused_pid_is_not_killed(lab: Lab) -> None:
    directory = lab.shim_dir("old")
    state = messages.ShimState(
        id="old", shim_pid=1, shim_start_time=1, pid=os.getpid(), pid_start_time=12345,
        started_at_ns=1, kill_cgroup=True)
    with open(os.path.join(directory, "state.json"), "wb") as file:
        file.write(messages.encoder.encode(state))
    ended = await lab.supervisor.reattach(directory)
    assert isinstance(ended, Exit)


async def test_killed_zygote_is_replaced(lab: Lab) -> None:
    shim = await lab.start("sh", "-c", "read x; exit 2", stdin=True)
    first = lab.supervisor.zygote_pid
    os.kill(first, signal.SIGKILL)
    assert await lab.run("echo", "again") == (0, "again\n")
    assert lab.supervisor.zygote_pid != first
    assert shim.running
    shim.close_stdin()
    assert (await asyncio.wait_for(shim.exited, 5)).exit_code == 2


async def test_restart_waits_for_the_last_run(lab: Lab) -> None:
    name = lab.new_id()
    shim: Shim | None = None
    for _ in range(4):
        request = lab.request(name, "sh", "-c", "cat /n; echo x >> /n", log=True)
        shim = await lab.supervisor.start_container(request)
        assert (await shim.exited).exit_code == 0
    assert shim is not None
    await shim.gone
    output = "".join(json.loads(line)["log"]
                     for line in lab.log_path(name).read_text().splitlines())
    assert output.count("x") == 6


async def test_many_at_once(lab: Lab) -> None:
    results = await asyncio.gather(*(lab.run("echo", str(number)) for number in range(30)))
    assert results == [(0, f"{number}\n") for number in range(30)]


async def test_cancelled_worker_is_killed(lab: Lab) -> None:
    directory = lab.shim_dir("fifo")
    # A worker that opens this waits for a writer that never comes.
    os.mkfifo(os.path.join(directory, "state.json"))
    task = asyncio.create_task(
        lab.supervisor.run_raw_worker("shim.cleanup", os.fsencode(directory)))
    worker = 0
    for _ in range(300):
        worker = next((pid for pid in children(lab.supervisor.zygote_pid)
                       if b"pallet-worker" in command(pid)), 0)
        if worker:
            break
        await asyncio.sleep(0.01)
    started = procfs.start_time(worker)
    assert started
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await gone(worker, started)


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def command(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


async def test_new_netns_is_held_by_its_descriptor_only(lab: Lab) -> None:
    netns_fd, netlink_fd = await lab.supervisor.new_netns()
    try:
        assert os.readlink(f"/proc/self/fd/{netns_fd}").startswith("net:[")
        assert os.readlink(f"/proc/self/fd/{netns_fd}") != os.readlink("/proc/self/ns/net")
        sock = socket.socket(fileno=os.dup(netlink_fd))
        assert sock.family == socket.AF_NETLINK
        sock.close()
    finally:
        os.close(netns_fd)
        os.close(netlink_fd)


async def test_nobody_keeps_the_descriptors_of_the_first_heavy_worker(lab: Lab) -> None:
    """The process that heavy workers are forked from is itself forked while they are there."""
    supervisor = await successor(lab)
    read_fd, write_fd = os.pipe()
    try:
        reply = await supervisor.run_worker("layer.apply", ApplyRequest(target="/nowhere"), [write_fd],
                                            reply_type=ApplyReply)
    finally:
        os.close(write_fd)
    assert reply.failure is not None
    readable, _, _ = select.select([read_fd], [], [], 20)
    assert readable, "the pipe does not end"
    assert os.read(read_fd, 1) == b""
    os.close(read_fd)


async def test_unknown_worker_is_an_error(lab: Lab) -> None:
    with pytest.raises((WorkerError, NotFoundError)):
        await lab.supervisor.run_raw_worker("no.such", b"")
    assert await lab.run("true") == (0, "")


async def test_a_client_that_takes_nothing_does_not_hold_up_a_restart(lab: Lab) -> None:
    name = lab.new_id()
    ours, theirs = socket.socketpair()
    with ours:
        first = await lab.supervisor.start_container(
            lab.request(name, "sh", "-c", "seq 1 100000", attach=[messages.Attach(
                stream_id=1, stdout=True, mux=False)]), attach_sockets=[theirs])
        assert (await asyncio.wait_for(first.exited, 10)).exit_code == 0
        await asyncio.wait_for(first.gone, 10)
        again = await asyncio.wait_for(
            lab.supervisor.start_container(lab.request(name, "true")), 10)
        assert (await again.exited).exit_code == 0
        output = await read_all(ours)
    assert output.endswith(b"\n100000\n")
    assert await asyncio.wait_for(first.streams[1], 5) == "eof"


def sent(control: socket.socket, message: bytes, fd: int) -> bool:
    """False while the shim, on a busy machine, has not yet read what came before."""
    try:
        packets.send(control, message, [fd])
    except BlockingIOError:
        return False
    return True


async def test_a_daemon_that_does_not_read_still_learns_of_the_exit(lab: Lab) -> None:
    """Thousands of events it has not taken, and then the exit."""
    shim = await lab.start("sh", "-c", "read x; exit 4", stdin=True, stdin_once=False)
    control = shim._control
    loop = asyncio.get_running_loop()
    loop.remove_reader(control.fileno())
    ends = []
    for number in range(1, 6000):
        ours, theirs = socket.socketpair()
        ours.close()
        message = messages.encoder.encode(messages.AttachClient(
            attach=messages.Attach(stream_id=number, stdout=True)))
        while not sent(control, message, theirs.fileno()):
            await asyncio.sleep(0.01)
        ends.append(theirs)
        theirs.close()
        if number % 200 == 0:
            await asyncio.sleep(0.01)
    shim.close_stdin()
    await asyncio.sleep(0.2)
    loop.add_reader(control.fileno(), shim.poll)
    assert (await asyncio.wait_for(shim.exited, 10)).exit_code == 4
    await asyncio.wait_for(shim.gone, 10)
