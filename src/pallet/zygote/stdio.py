"""Everything a container's process reads and writes: pipes or terminal, log, attached clients.

Owns   the shim's ends of the process's stdio.
Runs   in a shim.
Spec   semantics "stream attach order", "stream half close"; a slow client stops the container's
       output once it owes a mebibyte.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Literal

from pallet.linux import pty
from pallet.zygote.client import HIGH_WATER_BYTES, Client
from pallet.zygote.jsonlog import JsonLog
from pallet.zygote.poller import READ, WRITE

if TYPE_CHECKING:
    from collections.abc import Callable

    from pallet.zygote.messages import Attach, Stdio
    from pallet.zygote.poller import Poller

_READ_BYTES = 64 * 1024
_INPUT_BYTES = 64 * 1024
"""Input kept for a process that does not read; beyond it clients are left unread."""


class Hub:
    """Connects one process with its log and its clients."""

    def __init__(
        self, poller: Poller, stdio: Stdio, *, terminal: bool,
        fork: Callable[[Callable[[], None]], int], on_stream_end: Callable[[int, Literal["eof", "detached"]], None],
    ) -> None:
        self.poller = poller
        self._stdio = stdio
        self._terminal = terminal
        self._on_stream_end = on_stream_end
        self._fork = fork
        self._log: JsonLog | None = None
        self._clients: list[Client] = []
        self._outlets: dict[int, str] = {}
        self._stdin_fd = -1
        self._input = bytearray()
        self._close_stdin = False
        self._held = False

    # -- wiring -----------------------------------------------------------------------------------

    def open_log(self) -> None:
        """Open the log. Precondition: before the first turn of the poller."""
        if self._stdio.log is not None:
            self._log = JsonLog(self._stdio.log, self._fork)

    def make_pipes(self) -> tuple[int, int, int]:
        """Make the pipes; return the process's ends: stdin (-1 where closed), stdout, stderr."""
        child_stdin = -1
        if self._stdio.open_stdin:
            child_stdin, self._stdin_fd = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self._stdin_fd, False)
        out_fd, child_stdout = os.pipe2(os.O_CLOEXEC)
        err_fd, child_stderr = os.pipe2(os.O_CLOEXEC)
        for fd, name in ((out_fd, "stdout"), (err_fd, "stderr")):
            self._add_outlet(fd, name)
        return child_stdin, child_stdout, child_stderr

    def set_terminal(self, master_fd: int) -> None:
        """Serve a terminal instead of pipes; all its output is stdout."""
        self._add_outlet(master_fd, "stdout")
        if self._stdio.open_stdin:
            # Its own descriptor, so that input can be watched apart from output.
            self._stdin_fd = os.dup(master_fd)
            self._flush_input()

    def _add_outlet(self, fd: int, name: str) -> None:
        os.set_blocking(fd, False)
        self._outlets[fd] = name
        self.poller.watch(fd, READ, lambda _events: self._on_readable(fd))

    def add_client(self, fd: int, attach: Attach) -> None:
        """Serve a client's socket from here on."""
        stdin = attach.stdin and self._stdio.open_stdin
        client = Client(fd, attach, self, stdin=stdin)
        self._clients.append(client)
        if not self._stdio.open_stdin and not (attach.stdout or attach.stderr):
            client.finish("eof")

    # -- output -----------------------------------------------------------------------------------

    def _on_readable(self, fd: int) -> None:
        self._on_output(fd)

    def _on_output(self, fd: int) -> bool:
        """Read once from an outlet; False when there was nothing or it is closed."""
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            # A terminal whose last user is gone answers EIO.
            if error.errno != errno.EIO:
                raise
            data = b""
        if not data:
            self.poller.forget(fd)
            os.close(fd)
            del self._outlets[fd]
            return False
        name = self._outlets[fd]
        if self._log is not None:
            self._log.feed(name, data)
        for client in list(self._clients):
            client.send(name, data)
        if self._clients:
            self._hold_back()
        return True

    def _hold_back(self) -> None:
        held = any(client.owes_bytes > HIGH_WATER_BYTES for client in self._clients)
        if held != self._held:
            self._held = held
            for fd in self._outlets:
                self.poller.change(fd, 0 if held else READ)

    def relieved(self) -> None:
        """A client has caught up."""
        self._hold_back()

    def drain(self) -> bool:
        """Read what the ended process has left, whatever clients owe; True at the end of file."""
        for fd in list(self._outlets):
            while self._on_output(fd):
                pass
        return not self._outlets

    # -- input ------------------------------------------------------------------------------------

    def take_input(self, client: Client, data: bytes) -> None:
        """Queue bytes for stdin and write what fits."""
        del client
        if self._stdin_fd < 0 and not self._waits_for_terminal():
            return
        self._input += data
        self._flush_input()

    def _waits_for_terminal(self) -> bool:
        return self._terminal and not self._outlets and not self._close_stdin

    def _flush_input(self) -> None:
        if self._stdin_fd < 0:
            return
        while self._input:
            try:
                written = os.write(self._stdin_fd, memoryview(self._input)[:_INPUT_BYTES])
            except BlockingIOError:
                break
            except OSError:
                # EPIPE: the process closed its stdin; EIO: the terminal has no user.
                self._shut_stdin()
                return
            del self._input[:written]
        if not self._input and self._close_stdin:
            self._shut_stdin()
            return
        self._watch_stdin()

    def _watch_stdin(self) -> None:
        waiting = bool(self._input)
        if waiting and not self.poller.watches(self._stdin_fd):
            self.poller.watch(self._stdin_fd, WRITE, lambda _events: self._flush_input())
        elif not waiting:
            self.poller.forget(self._stdin_fd)
        full = len(self._input) >= _INPUT_BYTES
        for client in self._clients:
            if client.reads_input:
                client.pause_input(paused=full)

    def _shut_stdin(self) -> None:
        self._input.clear()
        self._close_stdin = True
        if self._stdin_fd >= 0:
            self.poller.forget(self._stdin_fd)
            os.close(self._stdin_fd)
            self._stdin_fd = -1
        for client in self._clients:
            if client.reads_input:
                client.pause_input(paused=False)

    def end_input(self, client: Client) -> None:
        """A client's stdin is over: close the process's, or end that client's stream."""
        if self._stdio.stdin_once and not self._terminal:
            self.close_stdin()
        else:
            client.finish("eof")

    def close_stdin(self) -> None:
        """Close the process's stdin after what is queued for it."""
        self._close_stdin = True
        self._flush_input()

    def resize(self, height: int, width: int) -> None:
        """Set the terminal's size."""
        for fd in self._outlets:
            if self._terminal:
                with contextlib.suppress(OSError):
                    pty.set_size(fd, height, width)
                return

    # -- the end ----------------------------------------------------------------------------------

    def complete_log(self) -> None:
        """The process is over and drained: nothing more comes."""
        for fd in list(self._outlets):
            self.poller.forget(fd)
            os.close(fd)
        self._outlets.clear()
        self._shut_stdin()
        if self._log is not None:
            self._log.finish()

    def settle_log(self) -> None:
        """Wait for what goes on with the log after its end. Takes as long as compressing a generation."""
        if self._log is not None:
            self._log.settle()

    def finish(self) -> None:
        """End every client once it has got everything."""
        for client in list(self._clients):
            client.finish("eof")

    def abandon(self) -> None:
        """The start failed: let go of everything; the daemon still has the clients' sockets."""
        self.complete_log()
        for client in list(self._clients):
            client.abandon()

    @property
    def drained(self) -> bool:
        """True once every outlet is at its end of file."""
        return not self._outlets

    @property
    def idle(self) -> bool:
        """True when no client is left."""
        return not self._clients

    def ended(self, client: Client, how: Literal["eof", "detached"]) -> None:
        """A client's socket is closed."""
        if client in self._clients:
            self._clients.remove(client)
        self._on_stream_end(client.stream_id, how)
        self._hold_back()
