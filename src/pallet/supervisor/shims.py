"""The daemon's handle of one shim: a running container or exec.

Owns   one control connection and the futures of what is under way on it.
Runs   on the event loop. No call here blocks: messages are small and sockets non-blocking.
Needs  the peer to be a shim of the same message version.
Spec   docs/dev/seams.md "supervisor".
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pallet.zygote import channel, messages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

AttachResult = Literal["eof", "detached"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a container's or an exec's process ended."""

    exit_code: int
    """0..255; 128 + n for a death by signal n."""
    oom_killed: bool
    finished_at_ns: int
    """Unix time."""
    started_at_ns: int = 0
    """Unix time; 0 where it is not known from the shim's directory."""
    error: str = ""
    """Set when the process was lost rather than ended, for example with a killed shim."""


class Shim:
    """One shim as the daemon sees it.

    Attributes:
        id: the container's or exec's id.
        pid: process id of the main process in the daemon's pid namespace.
        shim_pid: process id of the shim.
        started_at_ns: Unix time.
        shim_dir: the shim's directory; the engine removes it after ``exited``.
        exited: resolves to ``Exit``, always, also when the shim is killed. Shield it when waiting
            with a timeout: ``await asyncio.wait({shim.exited}, timeout=…)``.
        gone: resolves once everything is taken down: cgroup removed, root unmounted. A start of the
            same container waits for it; an ``Exit`` is known before.
        streams: how the streams of the start request end, by their ``stream_id``.
    """

    def __init__(
        self, *, shim_id: str, pid: int, shim_pid: int, started_at_ns: int, shim_dir: str,
        pidfd: int, control: socket.socket, on_close: Callable[[Shim], None],
        on_idle: Callable[[socket.socket], None] = socket.socket.close,
        streams: Sequence[int] = (),
    ) -> None:
        self.id = shim_id
        self.pid = pid
        self.shim_pid = shim_pid
        self.started_at_ns = started_at_ns
        self.shim_dir = shim_dir
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[Exit] = self._loop.create_future()
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self._pidfd = pidfd
        self._control = control
        self._on_close = on_close
        self._on_idle = on_idle
        self.streams: dict[int, asyncio.Future[AttachResult]] = {
            stream_id: self._loop.create_future() for stream_id in streams}
        self._open_streams = dict(self.streams)
        self._attached: dict[int, asyncio.Future[None]] = {}
        self._stream_ids = itertools.count(max(streams, default=0) + 1)
        self._loop.add_reader(control.fileno(), self._on_readable)

    @property
    def running(self) -> bool:
        """False from the moment the exit is known."""
        return not self.exited.done()

    # -- commands ---------------------------------------------------------------------------------

    def kill(self, signum: int) -> bool:
        """Send ``signum`` to the main process; False when it has already ended."""
        if self._pidfd < 0:
            return False
        try:
            signal.pidfd_send_signal(self._pidfd, signum)
        except ProcessLookupError:
            return False
        return True

    def pidfd(self) -> int:
        """Return a pidfd of the main process, the caller's to close; -1 when it has ended."""
        return os.dup(self._pidfd) if self._pidfd >= 0 else -1

    def signal_all(self, signum: int) -> None:
        """Send ``signum`` to every process of the container."""
        self._send(messages.SignalAll(signal=signum))

    def resize(self, height: int, width: int) -> None:
        """Set the size of the terminal; without one it does nothing."""
        self._send(messages.Resize(height=height, width=width))

    def close_stdin(self) -> None:
        """Close the process's stdin after what clients have sent so far."""
        self._send(messages.CloseStdin())

    async def attach(
        self, client: socket.socket, *, stdin: bool, stdout: bool, stderr: bool, mux: bool,
        detach_keys: bytes = b"",
    ) -> asyncio.Future[AttachResult]:
        """Hand a client's socket to the shim and wait until it is served.

        Args:
            client: the hijacked connection; closed here, in every case.
            mux: 8-byte frame headers; False for a terminal.
            detach_keys: bytes that end the stream, b"" for none; heeded with ``stdin`` only.

        Returns:
            A future of how the stream ended; the container may well go on.
        """
        stream_id = next(self._stream_ids)
        future: asyncio.Future[AttachResult] = self._loop.create_future()
        if self._control.fileno() < 0:
            client.close()
            future.set_result("eof")
            return future
        self._open_streams[stream_id] = future
        attached: asyncio.Future[None] = self._loop.create_future()
        self._attached[stream_id] = attached
        request = messages.AttachClient(attach=messages.Attach(
            stream_id=stream_id, stdin=stdin, stdout=stdout, stderr=stderr, mux=mux,
            detach_keys=detach_keys.decode("latin-1")))
        try:
            self._send(request, [client.fileno()])
        finally:
            client.close()
        await attached
        return future

    def close(self) -> None:
        """Let go of the shim without touching the container (daemon shutdown)."""
        self._resolve_gone()
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control.fileno())
            self._control.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        self._end_streams()

    def poll(self) -> None:
        """Take in what the shim has sent so far, without waiting for the loop's next turn."""
        if self._control.fileno() >= 0:
            self._on_readable()

    # -- events -----------------------------------------------------------------------------------

    def _send(self, message: messages.Control, fds: Sequence[int] = ()) -> None:
        if self._control.fileno() < 0:
            return
        try:
            channel.send(self._control, messages.encoder.encode(message), fds)
        except (BrokenPipeError, ConnectionError):
            # The shim is gone; the reader sees the end of the connection and reports it.
            logger.debug("shim %s: control connection is closed", self.id)

    def _on_readable(self) -> None:
        while self._control.fileno() >= 0:
            try:
                received = channel.receive(self._control)
            except BlockingIOError:
                return
            except channel.DescriptorsLostError as error:
                received = error.body, error.fds
            except ConnectionError:
                received = None
            if received is None:
                self._on_lost()
                return
            body, fds = received
            for fd in fds:
                os.close(fd)
            self._dispatch(messages.event_decoder.decode(body))

    def _dispatch(self, event: messages.Event) -> None:
        if isinstance(event, messages.Exited):
            self._resolve_exit(Exit(
                exit_code=event.exit_code, oom_killed=event.oom_killed,
                finished_at_ns=event.finished_at_ns, error=event.error))
        elif isinstance(event, messages.TornDown):
            self._resolve_gone()
        elif isinstance(event, messages.Idle):
            self._hand_back()
        elif isinstance(event, messages.AttachEnded):
            if (attached := self._attached.pop(event.stream_id, None)) and not attached.done():
                attached.set_result(None)
            if (stream := self._open_streams.pop(event.stream_id, None)) and not stream.done():
                stream.set_result(event.how)
        elif isinstance(event, messages.Attached) and (
            attached := self._attached.pop(event.stream_id, None)
        ) and not attached.done():
            attached.set_result(None)

    def resolve_lost(self, result: Exit) -> None:
        """Make ``result`` the exit of a shim that was killed; its container is gone by now."""
        self._resolve_exit(result)
        self._resolve_gone()

    def _resolve_gone(self) -> None:
        if not self.gone.done():
            self.gone.set_result(None)

    def _resolve_exit(self, result: Exit) -> None:
        if not self.exited.done():
            self.exited.set_result(result)
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _on_lost(self) -> None:
        """The shim closed the connection: after an exit that is the end, before it a loss."""
        self._loop.remove_reader(self._control.fileno())
        self._control.close()
        self._end_streams()
        if self.exited.done():
            self._resolve_gone()
        self._on_close(self)

    def _hand_back(self) -> None:
        """The process behind this handle is done with its container and free for another."""
        self._loop.remove_reader(self._control.fileno())
        self._end_streams()
        self._on_close(self)
        self._on_idle(socket.socket(fileno=self._control.detach()))

    def _end_streams(self) -> None:
        for attached in self._attached.values():
            if not attached.done():
                attached.set_result(None)
        for stream in self._open_streams.values():
            if not stream.done():
                stream.set_result("eof")
        self._attached.clear()
        self._open_streams.clear()
