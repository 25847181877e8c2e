"""Stdio of a container through its shim: pipes, terminal, clients, detach keys, log."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest

from pallet.spec import runtime as oci
from pallet.supervisor.failures import InvalidCommandError
from pallet.zygote import messages
from tests.root.runtimelab import read_all, read_until

if TYPE_CHECKING:
    from pallet.supervisor.shims import Shim
    from tests.root.runtimelab import Lab

pytestmark = pytest.mark.needs("root", "overlay")


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Undo the 8-byte framing; neighbours of one stream are joined."""
    found: list[tuple[int, bytes]] = []
    while data:
        number, size = data[0], int.from_bytes(data[4:8], "big")
        assert data[1:4] == bytes(3)
        if found and found[-1][0] == number:
            found[-1] = (number, found[-1][1] + data[8:8 + size])
        else:
            found.append((number, data[8:8 + size]))
        data = data[8 + size:]
    return found


def log_entries(lab: Lab, shim: Shim) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lab.log_path(shim.id).read_text().splitlines()]


async def attached(lab: Lab, *args: str, stdin: bool = False, mux: bool = True,
                   **changes: Any) -> tuple[Shim, socket.socket]:
    """Start with one client that has all streams."""
    ours, theirs = socket.socketpair()
    shim = await lab.start(*args, stdin=stdin, clients=[theirs], attach=[messages.Attach(
        stream_id=1, stdin=stdin, stdout=True, stderr=True, mux=mux,
        detach_keys=changes.pop("detach_keys", ""))], **changes)
    return shim, ours


async def late_client(shim: Shim, **options: Any) -> tuple[socket.socket, asyncio.Future[Any]]:
    """Attach to a running container."""
    ours, theirs = socket.socketpair()
    values = {"stdin": False, "stdout": True, "stderr": True, "mux": False} | options
    return ours, await shim.attach(theirs, **values)


async def test_frames_and_log(lab: Lab) -> None:
    shim, client = await attached(lab, "sh", "-c", "echo out; sleep 0.05; echo err >&2")
    with client:
        assert frames(await read_all(client)) == [(1, b"out\n"), (2, b"err\n")]
    assert (await shim.exited).exit_code == 0
    assert await shim.streams[1] == "eof"
    entries = log_entries(lab, shim)
    assert [(e["log"], e["stream"]) for e in entries] == [
        ("out\n", "stdout"), ("err\n", "stderr")]
    assert entries[0]["time"].endswith("Z")
    assert entries[0]["time"] < entries[1]["time"]


async def test_half_close_ends_stdin_and_output_continues(lab: Lab) -> None:
    shim, client = await attached(lab, "sh", "-c", "cat; echo after", stdin=True, mux=False)
    with client:
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        assert await read_all(client) == b"helloafter\n"
    assert (await shim.exited).exit_code == 0


async def test_much_data_both_ways(lab: Lab) -> None:
    shim, client = await attached(lab, "cat", stdin=True, mux=False, log=False)
    data = os.urandom(3 * 1024 * 1024)
    loop = asyncio.get_running_loop()
    client.setblocking(False)

    async def feed() -> None:
        await loop.sock_sendall(client, data)
        client.shutdown(socket.SHUT_WR)

    with client:
        _, output = await asyncio.gather(feed(), read_all(client))
    assert output == data
    await shim.exited


async def test_slow_client_holds_the_container_back_and_loses_nothing(lab: Lab) -> None:
    shim, client = await attached(
        lab, "sh", "-c", "seq 1 800000; echo end >&2", mux=False, log=False)
    with client:
        await asyncio.sleep(0.3)
        assert shim.running
        output = await read_all(client)
    assert output == b"".join(b"%d\n" % number for number in range(1, 800001)) + b"end\n"
    assert (await shim.exited).exit_code == 0


async def test_two_clients_get_everything_each(lab: Lab) -> None:
    shim, first = await attached(lab, "sh", "-c", "read line; echo got $line", stdin=True)
    second, ended = await late_client(shim)
    with first, second:
        first.sendall(b"x\n")
        one, two = await asyncio.gather(read_all(first), read_all(second))
    assert frames(one) == [(1, b"got x\n")]
    assert two == b"got x\n"
    assert await ended == "eof"
    await shim.exited


async def test_client_that_vanishes_does_not_hurt(lab: Lab) -> None:
    shim, client = await attached(lab, "sh", "-c", "read x; echo one; sleep 0.1; echo two",
                                  stdin=True, stdin_once=False)
    client.sendall(b"\n")
    client.close()
    assert (await asyncio.wait_for(shim.exited, 5)).exit_code == 0
    assert [e["log"] for e in log_entries(lab, shim)] == ["one\n", "two\n"]


async def test_streams_can_be_chosen(lab: Lab) -> None:
    shim, first = await attached(lab, "sh", "-c", "read x; echo o; echo e >&2", stdin=True)
    second, _ = await late_client(shim, stdout=False)
    with first, second:
        first.sendall(b"\n")
        assert await read_all(second) == b"e\n"
    await shim.exited


async def test_stdin_once_off_keeps_stdin_open(lab: Lab) -> None:
    shim, first = await attached(lab, "sh", "-c", "read a; read b; echo $a$b", stdin=True,
                                 stdin_once=False, mux=False)
    with first:
        first.sendall(b"1\n")
        first.shutdown(socket.SHUT_WR)
        assert await read_all(first) == b""
    assert shim.running
    second, _ = await late_client(shim, stdin=True)
    with second:
        second.sendall(b"2\n")
        assert await read_all(second) == b"12\n"
    await shim.exited


async def test_close_stdin(lab: Lab) -> None:
    shim, client = await attached(lab, "cat", stdin=True, mux=False)
    with client:
        client.sendall(b"bye\n")
        await read_until(client, b"bye")
        shim.close_stdin()
        assert await read_all(client) == b""
    assert (await shim.exited).exit_code == 0


async def test_closed_stdin_is_empty(lab: Lab) -> None:
    assert await lab.run("cat") == (0, "")


async def test_terminal(lab: Lab) -> None:
    shim, client = await attached(
        lab, "sh", "-c", "tty; stty size; read x; stty size; ls -l /dev/console | cut -c1; exit 3",
        tty=True, stdin=True, mux=False, process_console_size=oci.Box(height=33, width=101))
    with client:
        start = await read_until(client, b"33 101\r\n")
        assert start == b"/dev/pts/0\r\n33 101\r\n"
        shim.resize(44, 55)
        # The size takes another way into the shim than the keys.
        await asyncio.sleep(0.05)
        client.sendall(b"\r")
        output = await read_all(client)
    assert b"44 55\r\nc\r\n" in output
    assert (await shim.exited).exit_code == 3
    assert log_entries(lab, shim)[0]["log"] == "/dev/pts/0\r\n"


async def test_terminal_is_the_controlling_one_of_its_user(lab: Lab) -> None:
    shim, client = await attached(lab, "sh", "-c", "stat -c '%u %g %a' /dev/pts/0; sleep 100",
                                  tty=True, stdin=True, mux=False, extra={
                                      "user": "bob", "init": ""})
    with client:
        await read_until(client, b"1000 5 620\r\n")
        client.sendall(b"\x03")
        await read_all(client)
    assert (await asyncio.wait_for(shim.exited, 5)).exit_code == 130


async def test_detach_keys(lab: Lab) -> None:
    shim, client = await attached(lab, "cat", tty=True, stdin=True, mux=False,
                                  detach_keys="\x10\x11")
    with client:
        client.sendall(b"\x10x\r")
        await read_until(client, b"^Px\r\n")
        client.sendall(b"\x10")
        await asyncio.sleep(0.02)
        client.sendall(b"\x11")
        await read_all(client)
    assert await asyncio.wait_for(shim.streams[1], 5) == "detached"
    assert shim.running
    again, ended = await late_client(shim, stdin=True, detach_keys=b"a,b")
    with again:
        again.sendall(b"back\r")
        await read_until(again, b"back\r\n")
        again.sendall(b"\x04")
        await read_all(again)
    assert await ended == "eof"
    assert (await shim.exited).exit_code == 0


async def test_tcp_client_gets_all_output_before_the_end(lab: Lab) -> None:
    """Unread input at the end must not reset the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    shim = await lab.start("sh", "-c", "head -c 10 > /dev/null; seq 1 20000", stdin=True,
                           clients=[theirs], attach=[messages.Attach(
                               stream_id=1, stdin=True, stdout=True, mux=False)])
    with ours:
        ours.sendall(b"x" * 5000)
        output = await read_all(ours)
    assert output.endswith(b"\n20000\n")
    await shim.exited


async def test_long_lines_and_rotation(lab: Lab) -> None:
    name = lab.new_id()
    path = lab.log_path(name)
    request = lab.request(
        name, "sh", "-c", "head -c 20000 /dev/zero; echo; seq 1 2000; printf tail", extra={
            "stdio": messages.Stdio(log=messages.LogSink(
                path=str(path), max_size_bytes=40000, max_files=3, attrs='{"a":"b"}'))})
    shim = await lab.supervisor.start_container(request)
    await shim.exited
    files = [path, path.with_name(path.name + ".1"), path.with_name(path.name + ".2")]
    assert all(file.exists() for file in files)
    assert not path.with_name(path.name + ".3").exists()
    assert all(40000 <= file.stat().st_size < 41000 for file in files[1:])
    entries = [json.loads(line) for file in reversed(files)
               for line in file.read_text().splitlines()]
    assert entries[-1]["log"] == "tail"
    assert entries[-2] == {**entries[-2], "log": "2000\n", "stream": "stdout", "attrs": {"a": "b"}}
    numbers = [int(e["log"]) for e in entries[:-1] if e["log"].strip("\x00\n")]
    assert numbers == list(range(numbers[0], 2001))


async def test_compressed_rotation(lab: Lab) -> None:
    name = lab.new_id()
    path = lab.log_path(name)
    request = lab.request(name, "sh", "-c", "seq 1 3000", extra={
        "stdio": messages.Stdio(log=messages.LogSink(
            path=str(path), max_size_bytes=30000, max_files=30, compress=True))})
    shim = await lab.supervisor.start_container(request)
    await shim.gone
    packed = sorted(path.parent.glob(f"{path.name}.*"), key=lambda file: -int(file.name.split(".")[-2]))
    assert len(packed) > 5
    assert {file.suffix for file in packed} == {".gz"}, "the last one is not left half done"
    lines = [line for file in packed for line in gzip.open(file).read().splitlines()]
    lines += path.read_bytes().splitlines()
    assert [int(json.loads(line)["log"]) for line in lines] == list(range(1, 3001))


async def test_stdout_belongs_to_the_user(lab: Lab) -> None:
    assert await lab.run("sh", "-c", "echo again > /dev/stdout", extra={"user": "bob"}) == (
        0, "again\n")


async def test_signal_all(lab: Lab) -> None:
    shim, client = await attached(
        lab, "sh", "-c", "trap 'echo one' USR1; sh -c \"trap 'echo two' USR1; echo up; "
        "while :; do sleep 0.02; done\" & while :; do sleep 0.02; done", mux=False)
    with client:
        await read_until(client, b"up")
        await asyncio.sleep(0.05)
        shim.signal_all(signal.SIGUSR1)
        seen = await read_until(client, b"one")
        if b"two" not in seen:
            await read_until(client, b"two")
    shim.kill(signal.SIGKILL)
    await shim.gone


async def test_client_that_is_gone_before_the_start(lab: Lab) -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    attach = [messages.Attach(stream_id=1, stdin=True, stdout=True, mux=False)]
    shim = await lab.start("sh", "-c", "echo x", stdin=True, clients=[theirs], attach=attach)
    assert await asyncio.wait_for(shim.streams[1], 5) == "eof"
    assert (await asyncio.wait_for(shim.exited, 5)).exit_code == 0


async def test_clients_of_a_failed_start_are_let_go(lab: Lab) -> None:
    ours, theirs = socket.socketpair()
    with pytest.raises(InvalidCommandError):
        await lab.start("nope", clients=[theirs], attach=[
            messages.Attach(stream_id=1, stdout=True, mux=False)])
    with ours:
        assert await read_all(ours) == b""
