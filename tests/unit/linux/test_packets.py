"""Messages of any size with any number of descriptors."""

from __future__ import annotations

import os
import resource
import socket
from typing import TYPE_CHECKING

import pytest

from pallet.linux import packets

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = packets.pair()
    packets.enlarge(ours)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.mark.parametrize("size", [0, 1, 60 * 1024, 60 * 1024 + 1, 3_000_000])
def test_any_size(pair: tuple[socket.socket, socket.socket], size: int) -> None:
    body = os.urandom(size)
    packets.send(pair[0], body)
    assert packets.receive(pair[1]) == (body, [])


@pytest.mark.parametrize("count", [1, 250, 251, 600])
def test_any_number_of_descriptors(
    pair: tuple[socket.socket, socket.socket], count: int
) -> None:
    read_fd, write_fd = os.pipe()
    packets.send(pair[0], b"fds", [write_fd] * count)
    received = packets.receive(pair[1])
    assert received is not None
    body, fds = received
    assert (body, len(fds), len(set(fds))) == (b"fds", count, count)
    assert not any(os.get_inheritable(fd) for fd in fds)
    os.write(fds[-1], b"x")
    assert os.read(read_fd, 1) == b"x"
    for fd in (read_fd, write_fd, *fds):
        os.close(fd)


@pytest.mark.parametrize("count", [2, 252])
def test_descriptors_that_do_not_come_are_an_error(pair: tuple[socket.socket, socket.socket], count: int) -> None:
    """At the limit of open files the kernel drops them with a flag; what came before them is not lost track of."""
    packets.send(pair[0], b"fds", [0] * count)
    packets.send(pair[0], b"next")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first = os.dup(0)
    os.close(first)
    resource.setrlimit(resource.RLIMIT_NOFILE, (first + count - 1, hard))
    try:
        with pytest.raises(packets.DescriptorsLostError, match=r"recvmsg descriptors .*: too many open files") as caught:
            packets.receive(pair[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.body == b"fds"
    assert 0 < len(caught.value.fds) < count
    opened = list(caught.value.fds)
    caught.value.close()
    for fd in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    assert packets.receive(pair[1]) == (b"next", [])


def test_large_body_with_descriptors(pair: tuple[socket.socket, socket.socket]) -> None:
    body = bytes(100_000)
    packets.send(pair[0], body, [0, 1])
    received = packets.receive(pair[1])
    assert received is not None
    assert received[0] == body
    assert len(received[1]) == 2
    for fd in received[1]:
        os.close(fd)


def test_end(pair: tuple[socket.socket, socket.socket]) -> None:
    packets.send(pair[0], b"last")
    pair[0].close()
    assert packets.receive(pair[1]) == (b"last", [])
    assert packets.receive(pair[1]) is None


def test_unread_message_of_ours_does_not_hide_theirs(
    pair: tuple[socket.socket, socket.socket]
) -> None:
    """The kernel reports the reset ahead of what the peer had sent."""
    ours, theirs = pair
    packets.send(theirs, b"never read")
    packets.send(ours, b"result")
    ours.close()
    assert packets.receive(theirs) == (b"result", [])
    assert packets.receive(theirs) is None


def test_non_blocking(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        packets.receive(pair[1])
