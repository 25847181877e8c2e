"""Running a container in the foreground: attach, wait, start, stream, exit code.

Spec   Docker's order: attach and wait are on their way before start, so that neither output nor the
       exit status of a short container can be missed. Requests that do not need each other's
       answer are sent together: a foreground run costs three connections and three round trips.
"""

from __future__ import annotations

from pallet.cli.errors import CommandError
from pallet.cli.stream.attach import Session
from pallet.client.engine import quote
from pallet.client.errors import ConnectionFailedError, DaemonError, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from pallet.cli.stream.detach import DetachWatcher
    from pallet.client.engine import Engine, Pending
    from pallet.client.http1 import Connection, Reply

    Streams = tuple[bool, bool, bool]


# How long a foreground run waits for a daemon that went away to come back and tell the exit code.
_DAEMON_RETURN_S = 10.0
_DAEMON_POLL_S = 0.1


def check_tty(*, stdin: bool, tty: bool) -> None:
    """Refuse a terminal session whose input is not a terminal.

    Raises:
        CommandError: Docker's "the input device is not a TTY".
    """
    import os

    if stdin and tty and not os.isatty(0):
        raise CommandError("the input device is not a TTY")


class Foreground:
    """One container (or exec) whose streams are this process's."""

    def __init__(
        self, engine: Engine, target: str, *, tty: bool, streams: Streams, detach_keys: str = "",
        sig_proxy: bool = False,
    ) -> None:
        """Install signal handlers; ``close`` puts the old ones back.

        Args:
            engine: the daemon.
            target: API path of the container or exec, for example ``/containers/ID``.
            tty: whether it has a terminal.
            streams: which of stdin, stdout, stderr are attached.
            detach_keys: sequence as the user wrote it, empty for the default.
            sig_proxy: pass signals on to the container.
        """
        from pallet.cli.stream.signals import SIGWINCH, SignalPipe, forwarded

        self.engine = engine
        self.target = target
        self.tty = tty
        self.streams = streams
        self.detach_keys = detach_keys
        self.detached = False
        self._proxy = sig_proxy
        numbers = forwarded() if sig_proxy else []
        if tty:
            numbers.append(SIGWINCH)
        self.signals = SignalPipe(numbers) if numbers else None
        self._attach: Pending | None = None
        self._wait: Pending | None = None

    def close(self) -> None:
        """Restore signal handlers and drop the connections."""
        if self.signals:
            self.signals.close()
            self.signals = None
        for pending in (self._attach, self._wait):
            if pending:
                pending.connection.close()

    def open(self, condition: str, *, logs: bool = False) -> None:
        """Ask for the streams and for the exit status, before the container starts.

        Args:
            condition: wait condition, ``next-exit``, ``removed`` or ``not-running``.
            logs: replay the log first.
        """
        stdin, stdout, stderr = self.streams
        if any(self.streams):
            self._attach = self.engine.hijack(f"{self.target}/attach", {
                "stream": True, "stdin": stdin, "stdout": stdout, "stderr": stderr, "logs": logs,
                "detachKeys": self.detach_keys or None})
        self._wait = self.engine.send(
            "POST", f"{self.target}/wait", {"condition": condition}, fresh=True)

    def opened(self) -> Connection | None:
        """Wait until the daemon has taken both requests, and return the streams' connection."""
        connection = self._attach.stream() if self._attach else None
        if self._wait:
            self._status = self._wait.reply()
        return connection

    def stream(
        self, connection: Connection | None, start: Callable[[], object] | None = None
    ) -> None:
        """Copy streams until the container closes them or the user detaches.

        ``start`` runs first, with the terminal already raw: what is typed from then on belongs to
        the container.
        """
        stdin, stdout, stderr = self.streams
        if connection is None:
            if start:
                start()
            return
        session = Session(
            connection, tty=self.tty, stdin_fd=0 if stdin else -1,
            stdout_fd=1 if stdout else -1, stderr_fd=2 if stderr else -1, signals=self.signals,
            watcher=self._watcher() if stdin and self.tty else None,
            on_signal=self.forward if self._proxy else None, on_resize=self.resize)
        if stdin and self.tty:
            from pallet.cli.stream.terminal import RawMode

            with RawMode(0):
                self._start_and_copy(session, start)
        else:
            self._start_and_copy(session, start)
        self.detached = session.detached

    def _start_and_copy(self, session: Session, start: Callable[[], object] | None) -> None:
        if start:
            start()
        if self.tty:
            self.resize()
        session.run()

    def exit_code(self) -> int:
        """Return the container's exit code, waiting for it while signals are still passed on.

        Raises:
            CommandError: the daemon could not tell (125).
        """
        reply = self._status
        try:
            self._pump_until_readable(reply)
            data = reply.read()
        except (ProtocolError, ConnectionResetError):
            data = b""
        if data.strip():
            from pallet.client import wire

            result = wire.decode(data)
        else:
            result = self._ask_again()
        error = result.get("Error")
        if error and error.get("Message"):
            raise CommandError(f"Error waiting for container: {error['Message']}", 125)
        return int(result["StatusCode"])

    def _ask_again(self) -> dict[str, Any]:
        """Ask for the exit code anew: the daemon ended while the container went on without it."""
        import time

        deadline = time.monotonic() + _DAEMON_RETURN_S
        while True:
            try:
                result: dict[str, Any] = self.engine.json("POST", f"{self.target}/wait")
                return result
            except DaemonError as error:
                raise CommandError(f"Error waiting for container: {error.message}", 125) from None
            except (ConnectionFailedError, ProtocolError) as error:
                if time.monotonic() > deadline:
                    raise CommandError(f"Error waiting for container: {error}", 125) from None
            time.sleep(_DAEMON_POLL_S)

    def forward(self, number: int) -> None:
        """Send a signal to the container; one that has ended meanwhile is no error."""
        from pallet.cli.stream.signals import name

        try:
            reply = self.engine.request("POST", f"{self.target}/kill", {"signal": name(number)})
            reply.read()
            self.engine.release(reply.connection)
        except (DaemonError, ProtocolError):
            return

    def resize(self) -> None:
        """Tell the daemon this terminal's size; a container that has ended is no error."""
        resize(self.engine, self.target)

    def _watcher(self) -> DetachWatcher:
        from pallet.cli.stream.detach import DEFAULT, DetachWatcher, parse

        return DetachWatcher(parse(self.detach_keys or DEFAULT))

    def _pump_until_readable(self, reply: Reply) -> None:
        connection = reply.connection
        if self.signals is None or connection.buffer or connection.transport.pending():
            return
        import select

        poll = select.poll()
        poll.register(connection.transport.fileno(), select.POLLIN)
        poll.register(self.signals.fd, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd != self.signals.fd:
                    return
                for number in self.signals.take():
                    if self._proxy:
                        self.forward(number)


def resize(engine: Engine, target: str) -> None:
    """Send the size of the terminal on stdout, if it is one."""
    from pallet.cli.stream.terminal import size

    height, width = size()
    if not height and not width:
        return
    try:
        reply = engine.request("POST", f"{target}/resize", {"h": height, "w": width})
        reply.read()
        engine.release(reply.connection)
    except (DaemonError, ProtocolError):
        return


def container_path(name: str) -> str:
    """Return the API path of a container named by the user."""
    return f"/containers/{quote(name.removeprefix('/'), '/')}"


def configured_detach_keys(config: Mapping[str, object], given: str) -> str:
    """Return ``--detach-keys``, or ``detachKeys`` of config.json, or nothing."""
    keys = given or config.get("detachKeys", "")
    return keys if isinstance(keys, str) else ""
