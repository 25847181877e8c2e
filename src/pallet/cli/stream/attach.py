"""An attached session: copies between the user's streams and a hijacked connection.

Owns   the poll loop: stdin to the container with half-close at its end, the container's output to
       stdout and stderr (demultiplexed without a terminal), signals, window size, detach keys.
Spec   Engine API "attach": 8-byte frame headers (stream, 0, 0, 0, big-endian length) unless Tty.
"""

from __future__ import annotations

import os
import select

from pallet.cli.stream.signals import SIGWINCH
from pallet.client.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pallet.cli.stream.detach import DetachWatcher
    from pallet.cli.stream.signals import SignalPipe
    from pallet.client.http1 import Connection

_READ_BYTES = 65536
_HEADER_BYTES = 8


def write_all(fd: int, data: bytes) -> None:
    """Write all of ``data`` to a blocking or non-blocking descriptor."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view):]
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()


class Demultiplexer:
    """Turns mux frames back into stdout and stderr writes."""

    def __init__(self, stdout_fd: int, stderr_fd: int) -> None:
        """A descriptor of -1 drops that stream."""
        self._targets = {0: stdout_fd, 1: stdout_fd, 2: stderr_fd, 3: stderr_fd}
        self._buffer = b""
        self._left = 0
        self._target = -1

    def feed(self, data: bytes) -> None:
        """Write what ``data`` completes.

        Raises:
            ProtocolError: the stream id is unknown.
        """
        buffer = self._buffer + data
        at, size = 0, len(buffer)
        while at < size:
            if not self._left:
                if size - at < _HEADER_BYTES:
                    break
                stream = buffer[at]
                if stream not in self._targets:
                    raise ProtocolError(f"Unrecognized input header: {stream}")
                self._target = self._targets[stream]
                self._left = int.from_bytes(buffer[at + 4:at + 8], "big")
                at += _HEADER_BYTES
            part = buffer[at:at + self._left]
            if self._target >= 0 and part:
                write_all(self._target, part)
            at += len(part)
            self._left -= len(part)
        self._buffer = buffer[at:]


class Session:
    """One attached connection and what happens around it."""

    def __init__(
        self, connection: Connection, *, tty: bool, stdin_fd: int = -1, stdout_fd: int = 1,
        stderr_fd: int = 2, signals: SignalPipe | None = None,
        watcher: DetachWatcher | None = None,
        on_signal: Callable[[int], None] | None = None,
        on_resize: Callable[[], None] | None = None,
    ) -> None:
        """Args with a descriptor of -1 leave that stream alone; ``tty`` means raw output."""
        self.connection = connection
        self.detached = False
        self._stdin_fd = stdin_fd
        self._signals = signals
        self._watcher = watcher
        self._on_signal = on_signal
        self._on_resize = on_resize
        self._stdout_fd = stdout_fd
        self._feed = self._raw if tty else Demultiplexer(stdout_fd, stderr_fd).feed

    def _raw(self, data: bytes) -> None:
        if self._stdout_fd >= 0:
            write_all(self._stdout_fd, data)

    def run(self) -> None:
        """Copy until the container's output ends or the user detaches."""
        transport = self.connection.transport
        if self.connection.buffer:
            data, self.connection.buffer = self.connection.buffer, b""
            self._feed(data)
        poll = select.poll()
        output_fd = transport.fileno()
        poll.register(output_fd, select.POLLIN)
        if self._stdin_fd >= 0:
            self._register_stdin(poll)
        if self._signals:
            poll.register(self._signals.fd, select.POLLIN)
        while True:
            ready = [(output_fd, 0)] if transport.pending() else poll.poll()
            for fd, _ in ready:
                if fd == output_fd:
                    if not self._read_output():
                        return
                elif fd == self._stdin_fd:
                    if not self._read_stdin():
                        poll.unregister(fd)
                    if self.detached:
                        return
                else:
                    self._deliver_signals()

    def _register_stdin(self, poll: select.poll) -> None:
        try:
            poll.register(self._stdin_fd, select.POLLIN)
        except OSError:
            self.connection.transport.close_write()

    def _read_output(self) -> bool:
        try:
            data = self.connection.transport.recv(_READ_BYTES)
        except ConnectionResetError:
            return False
        if data:
            self._feed(data)
        return bool(data)

    def _read_stdin(self) -> bool:
        try:
            data = os.read(self._stdin_fd, _READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            self.connection.transport.close_write()
            return False
        if self._watcher:
            data, self.detached = self._watcher.feed(data)
        try:
            self.connection.transport.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False  # the container stopped reading; its output may still come
        return not self.detached

    def _deliver_signals(self) -> None:
        if self._signals is None:
            return
        for number in self._signals.take():
            if number == SIGWINCH and self._on_resize:
                self._on_resize()
            elif self._on_signal:
                self._on_signal(number)
