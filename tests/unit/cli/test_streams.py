"""Attached streams: frames, detach keys, signal names, the poll loop, progress."""

from __future__ import annotations

import io
import os
import signal as signals
import socket
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pallet.cli import progress
from pallet.cli.errors import CommandError
from pallet.cli.stream import detach
from pallet.cli.stream.attach import Demultiplexer, Session
from pallet.cli.stream.signals import SignalPipe, forwarded, name
from pallet.client.errors import ProtocolError
from pallet.client.http1 import Connection

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pipes() -> Iterator[list[int]]:
    """Two pipes: read and write end of one, then of the other."""
    fds = [*os.pipe(), *os.pipe()]
    yield fds
    for fd in fds:
        os.close(fd)


def frame(stream: int, data: bytes) -> bytes:
    return bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data


@pytest.mark.parametrize("size", [1, 3, 7, 8, 9, 1000])
def test_frames_are_told_apart_however_they_are_cut(pipes: list[int], size: int) -> None:
    data = frame(1, b"out") + frame(2, b"err") + frame(1, b"") + frame(1, b" more")
    demultiplexer = Demultiplexer(pipes[1], pipes[3])
    for at in range(0, len(data), size):
        demultiplexer.feed(data[at:at + size])
    assert (os.read(pipes[0], 99), os.read(pipes[2], 99)) == (b"out more", b"err")


def test_dropped_and_unknown_streams(pipes: list[int]) -> None:
    demultiplexer = Demultiplexer(-1, pipes[3])
    demultiplexer.feed(frame(1, b"out") + frame(2, b"err"))
    assert os.read(pipes[2], 99) == b"err"
    with pytest.raises(ProtocolError, match="Unrecognized input header: 104"):
        demultiplexer.feed(b"hello, no frame")


# -- detach keys ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "keys"), [
    ("ctrl-p,ctrl-q", b"\x10\x11"), ("a", b"a"), ("ctrl-@,ctrl-[,ctrl-\\,ctrl-_", b"\x00\x1b\x1c\x1f"),
])
def test_detach_keys(text: str, keys: bytes) -> None:
    assert detach.parse(text) == keys


@pytest.mark.parametrize("text", ["", "ctrl-", "ctrl-XX", "ab", "ctrl-P", "a,,b"])
def test_no_detach_keys(text: str) -> None:
    with pytest.raises(CommandError, match="Invalid detach keys"):
        detach.parse(text)


@given(st.lists(st.binary(max_size=6), max_size=8), st.sampled_from([b"\x10\x11", b"aa", b"aba"]))
def test_watcher_loses_nothing_before_the_sequence(pieces: list[bytes], keys: bytes) -> None:
    watcher = detach.DetachWatcher(keys)
    sent, found = b"", False
    for piece in pieces:
        data, found = watcher.feed(piece)
        sent += data
        if found:
            break
    whole = b"".join(pieces)
    assert whole.startswith(sent)
    if found:
        assert whole[len(sent):].startswith(keys)
    else:
        # What is held back is the beginning of the sequence and nothing else.
        assert keys.startswith(whole[len(sent):])


def test_partial_sequences_are_passed_on() -> None:
    watcher = detach.DetachWatcher(b"\x10\x11")
    assert watcher.feed(b"a\x10") == (b"a", False)
    assert watcher.feed(b"b") == (b"\x10b", False)
    assert watcher.feed(b"\x10\x10\x11rest") == (b"\x10", True)


# -- signals --------------------------------------------------------------------------------------


def test_signal_names() -> None:
    assert [name(number) for number in (2, 15, 28, 34, 37)] == ["INT", "TERM", "WINCH", "RTMIN", "RTMIN+3"]
    numbers = forwarded()
    assert signals.SIGTERM in numbers
    assert not {signals.SIGKILL, signals.SIGSTOP, signals.SIGCHLD, signals.SIGPIPE} & set(numbers)


def test_signals_arrive_as_bytes_and_handlers_come_back() -> None:
    before = signals.getsignal(signals.SIGUSR1)
    pipe = SignalPipe([signals.SIGUSR1])
    os.kill(os.getpid(), signals.SIGUSR1)
    assert pipe.take() == [signals.SIGUSR1]
    assert pipe.take() == []
    pipe.close()
    assert signals.getsignal(signals.SIGUSR1) == before


# -- the loop -------------------------------------------------------------------------------------


class SocketTransport:
    """A connected socket as the client's transport."""

    def __init__(self, sock: socket.socket) -> None:
        self.recv, self.sendall, self.fileno = sock.recv, sock.sendall, sock.fileno
        self._sock = sock

    def close_write(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._sock.close()

    def pending(self) -> bool:
        return False


def test_stdin_is_half_closed_and_output_still_comes(pipes: list[int]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        os.write(pipes[1], b"typed")
        os.close(pipes[1])
        connection = Connection(SocketTransport(ours), "h")
        connection.buffer = b"early "
        theirs.sendall(b"output")
        theirs.shutdown(socket.SHUT_WR)
        session = Session(connection, tty=True, stdin_fd=pipes[0], stdout_fd=pipes[3])
        session.run()
        assert os.read(pipes[2], 99) == b"early output"
        pipes[1] = os.dup(pipes[0])


def test_detaching_ends_the_session_without_sending_the_keys(pipes: list[int]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        os.write(pipes[1], b"ls\x10\x11")
        session = Session(
            Connection(SocketTransport(ours), "h"), tty=True, stdin_fd=pipes[0],
            stdout_fd=pipes[3], watcher=detach.DetachWatcher(b"\x10\x11"))
        session.run()
        assert session.detached
        assert theirs.recv(99) == b"ls"


def test_signals_reach_the_callback(pipes: list[int]) -> None:
    ours, theirs = socket.socketpair()
    got: list[int] = []
    pipe = SignalPipe([signals.SIGUSR2])

    def on_signal(number: int) -> None:
        got.append(number)
        theirs.shutdown(socket.SHUT_WR)

    with ours, theirs:
        os.kill(os.getpid(), signals.SIGUSR2)
        Session(Connection(SocketTransport(ours), "h"), tty=True, stdout_fd=pipes[3],
                signals=pipe, on_signal=on_signal).run()
    pipe.close()
    assert got == [signals.SIGUSR2]


# -- progress -------------------------------------------------------------------------------------

PULL: list[dict[str, Any]] = [
    {"status": "Pulling from library/x", "id": "latest"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "aaa"},
    {"status": "Downloading", "progressDetail": {"current": 5, "total": 10}, "id": "aaa"},
    {"status": "Pull complete", "progressDetail": {}, "id": "aaa"},
    {"status": "Status: Downloaded newer image for x:latest"},
]


def test_plain_lines_without_a_terminal() -> None:
    out = io.StringIO()
    progress.show(PULL, out)
    assert out.getvalue() == ("latest: Pulling from library/x\naaa: Pulling fs layer\n"
                              "aaa: Pull complete\nStatus: Downloaded newer image for x:latest\n")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 99999


def test_lines_are_redrawn_in_place_on_a_terminal() -> None:
    out = Terminal()
    progress.show(PULL, out)
    text = out.getvalue()
    assert text.count("\x1b[1A\x1b[2K\raaa: ") >= 1
    assert text.endswith("Status: Downloaded newer image for x:latest\n")
    assert "aaa: Pull complete\r\x1b[1B" in text


@pytest.mark.parametrize("quiet", [False, True])
def test_errors_in_the_stream(quiet: bool) -> None:
    messages: list[dict[str, Any]] = [
        {"status": "x"}, {"errorDetail": {"message": "denied"}, "error": "denied"}]
    with pytest.raises(CommandError, match="denied"):
        if quiet:
            progress.drain(messages)
        else:
            progress.show(messages, io.StringIO())


@pytest.mark.parametrize(("detail", "text"), [
    ({}, ""), ({"current": 1000}, "     1kB"), ({"current": 3, "units": "s"}, "3 s"),
    ({"current": 50, "total": 100}, f"[{'=' * 25}>{' ' * 25}]      50B/100B"),
    ({"current": 100, "total": 100}, f"[{'=' * 50}>]     100B/100B"),
])
def test_bars(detail: dict[str, Any], text: str) -> None:
    assert progress.bar(detail, 200) == text
