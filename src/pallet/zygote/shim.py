"""The shim: parent of one container's or exec's process, from its start to its last byte.

Owns   the process, its stdio, its log, its clients' sockets, its exit file, its published ports'
       reservations. Outlives the daemon; a later daemon finds it by ``sock`` in its directory.
Runs   as a process of its own, forked from the zygote: one poll loop, no threads.
Spec   zygote/messages.py; style.md section 7.4.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Literal

import msgspec

from pallet.linux import process as kernel
from pallet.linux import procfs
from pallet.runtime.failure import StartFailureError
from pallet.zygote import channel, failures, foreign, launch, messages, ports
from pallet.zygote.poller import READ, WRITE, Poller
from pallet.zygote.stdio import Hub

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pallet.runtime.cgroupahead import Ahead
    from pallet.zygote.launch import Launched

_TEAR_DOWN_DELAY_S = 0.003
_TEAR_DOWN_NICE = 10
_DRAIN_S = 2.0
"""How long output of processes that outlive the main one is waited for, as dockerd does."""

_FAULTS_MAX = 100
"""Unexpected errors a shim writes to ``error.log`` before it gives up."""

Request = messages.StartContainer | messages.StartExec
_request_decoder = msgspec.json.Decoder(Request)


class Shim:
    """The state of one shim process."""

    def __init__(self, reply: socket.socket, ahead: Ahead | None = None) -> None:
        """``ahead`` is a cgroup for the container; dropped here, unless ``run`` fails."""
        self._ahead = ahead
        self.next_ahead: Ahead | None = None
        """A cgroup for the container after this one; for the caller to drop."""
        self.poller = Poller()
        self.hub = Hub(self.poller, messages.Stdio(), terminal=False, fork=self.fork_helper,
                       on_stream_end=self._on_stream_end)
        """Of the request, once there is one."""
        self._id = ""
        self._is_container = True
        self._connections = [reply]
        self._reply = reply
        self._backlog: dict[socket.socket, list[bytes]] = {}
        """Events a daemon has not taken yet: it must not miss an exit because it is slow."""
        self._streams: dict[int, tuple[socket.socket, int]] = {}
        self._launched: Launched | None = None
        self._listener: socket.socket | None = None
        self._ports: ports.Ports | None = None
        self._pidfd = -1
        self._started_at_ns = 0
        self._status: int | None = None
        self._faults = 0
        self._reusable = False
        self._makes_ahead = False
        self._answered = False
        self._early_ends: list[tuple[int, Literal["eof", "detached"]]] = []
        self._pid = os.getpid()
        self._start_time = procfs.start_time(self._pid)
        self._watch_children()

    # -- start ------------------------------------------------------------------------------------

    def run(self, request: Request, fds: list[int]) -> None:
        """Start the process and serve it to its end.

        Args:
            fds: as the request lists them.
        """
        try:
            self._launch(request, fds)
            del request, fds
            self._await_start()
        except Exception as error:  # noqa: BLE001 - every failure is answered as data
            self._fail(error)
            return
        self._serve()
        self._let_others_run()
        priority = os.getpriority(os.PRIO_PROCESS, 0)
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, priority + _TEAR_DOWN_NICE)
        self._tear_down()
        if self._ahead is not None:
            self._ahead.drop()
        sound = self._make_ahead()
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, priority)
        while not self.hub.idle or self._backlog:
            self._turn()
        # One that may not raise its priority again would hand the low one on to its next container.
        self._reusable = (sound and self._launched is not None and self._launched.borrowed
                          and os.getpriority(os.PRIO_PROCESS, 0) == priority)

    def _make_ahead(self) -> bool:
        """Make the next container's cgroup; False where that failed: this process may be in a wrong mount namespace."""
        launched = self._launched
        if not self._makes_ahead or launched is None or not launched.borrowed or launched.cgroup is None:
            return True
        try:
            self.next_ahead = launched.cgroup.make_ahead()
        except OSError:
            return False
        return True

    def release(self) -> bool:
        """Let go of all but the daemon's connection, once ``run`` is over.

        Returns:
            True when this process is as it was before ``run`` and may serve another request.
        """
        if not self._reusable or self._connections != [self._reply]:
            return False
        signal.set_wakeup_fd(-1)
        for fd in (self._pidfd, *self._wakeup_fds):
            os.close(fd)
        os.chdir("/")
        self._reply.setblocking(True)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
            return False
        # What is left open belongs to somebody: rather a new process than a leak.
        expected = len((0, 1, 2, "the connection", "the listing"))
        expected += self.next_ahead.descriptors if self.next_ahead is not None else 0
        return len(os.listdir("/proc/self/fd")) == expected

    def _launch(self, request: Request, fds: list[int]) -> None:
        self._id = request.id
        self._is_container = isinstance(request, messages.StartContainer)
        os.chdir(request.shim_dir)
        netns_fd, listeners = -1, []
        if isinstance(request, messages.StartContainer):
            self._makes_ahead = request.cgroup_ahead
            listeners = request.listeners
            wanted = request.has_netns + len(listeners) + len(request.stdio.attach)
            if len(fds) != wanted:
                message = f"the request to start came with {len(fds)} descriptors instead of {wanted}"
                raise StartFailureError(message)
            netns_fd = fds.pop(0) if request.has_netns else -1
            terminal = request.spec.process.terminal
        else:
            terminal = request.process.terminal
        listener_fds, attach_fds = fds[: len(listeners)], fds[len(listeners):]
        self.hub = Hub(self.poller, request.stdio, terminal=terminal, fork=self.fork_helper,
                       on_stream_end=self._on_stream_end)

        def born(launched: Launched) -> None:
            self._launched = launched
            self._write_state(request, launched)
            launched.prepare_cgroup()
            launched.sync.go()

        try:
            launched = _start(request, self.hub, netns_fd, born, self._ahead)
        finally:
            if self._ahead is not None:
                self._ahead.close()
        # The process is on its way; what follows is done beside it.
        for fd, attach in zip(attach_fds, request.stdio.attach, strict=True):
            self._add_client(fd, attach, self._reply)
        self.hub.open_log()
        self._pidfd = os.pidfd_open(launched.pid)
        if listeners:
            self._ports = ports.Ports(self.poller, self.fork_helper, listeners, listener_fds)
        self.poller.watch(launched.sync.fileno(), READ, lambda _events: self._on_sync())
        self.poller.call_later(request.start_timeout_s, self._on_start_timeout)

    def _watch_children(self) -> None:
        self._wakeup_fds = read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        self.poller.watch(read_fd, READ, lambda _events: self._on_child(read_fd))

    def _write_state(self, request: Request, launched: Launched) -> None:
        path = (request.spec.linux.cgroups_path if isinstance(request, messages.StartContainer)
                else request.cgroups_path)
        state = messages.ShimState(
            id=request.id, shim_pid=self._pid, shim_start_time=self._start_time, pid=launched.pid,
            pid_start_time=launched.start_time, started_at_ns=time.time_ns(),
            cgroups_path=path, cgroup_driver=request.cgroup_driver,
            kill_cgroup=launched.owns_cgroup)
        _write_file("state.json", messages.encoder.encode(state))

    def _listen(self) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.suppress(FileNotFoundError):
            os.unlink("sock")
        # A relative name: the directory's path may be longer than a socket address.
        listener.bind("sock")
        os.chmod("sock", 0o600)
        listener.listen(4)
        listener.setblocking(False)
        self._listener = listener
        self.poller.watch(listener.fileno(), READ, lambda _events: self._on_connect())

    def _await_start(self) -> None:
        while not self._started_at_ns:
            self.poller.turn()
        pid = self._launched.pid if self._launched else 0
        started = messages.Started(pid=pid, shim_pid=os.getpid(),
                                   started_at_ns=self._started_at_ns)
        self._reply.setblocking(False)
        self._send(self._reply, started, [self._pidfd])
        self._answered = True
        self._listen()  # a daemon that comes meanwhile waits for it: see supervisor/reattach.py
        for stream_id, how in self._early_ends:
            self._send(self._reply, messages.AttachEnded(stream_id=stream_id, how=how))
        if self._reply in self._connections:
            self.poller.watch(self._reply.fileno(), READ,
                              lambda events: self._on_control(self._reply, events))

    def _on_sync(self) -> None:
        launched = self._launched
        assert launched is not None
        letter, fd, report = launched.sync.receive()
        if letter == b"N":
            launched.held_fds.append(fd)
        elif letter == b"T":
            self.hub.set_terminal(fd)
        elif letter == b"X":
            # From here on nothing can fail but execve(2) itself, and that is the program's own
            # output and exit status. Its duration, mostly the end of this heap, is not waited for.
            self._started_at_ns = time.time_ns()
        elif letter == b"F" and report is not None and not self._started_at_ns:
            raise StartFailureError(report.message, call=report.call, code=report.code,
                                    path=report.path, plain=report.plain)
        else:
            self.poller.forget(launched.sync.fileno())
            launched.sync.close()
            if not self._started_at_ns:
                raise StartFailureError(_killed_text(launched))

    def _on_start_timeout(self) -> None:
        if not self._started_at_ns:
            message = "error during container init: timed out"
            raise StartFailureError(message)

    def _fail(self, error: Exception) -> None:
        """Undo everything and answer."""
        launched = self._launched
        if launched is not None:
            if self._status is None:
                # Not reaped yet, so the pid is still that process's.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(launched.pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(launched.pid, 0)
            self._close_ports()
            with contextlib.suppress(Exception):
                self._remove_cgroup(launched)
            if launched.on_end is not None:
                launched.on_end()
            for fd in launched.held_fds:
                os.close(fd)
        self._stop_listening()
        for name in ("state.json", "sock"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
        self._send(self._reply, failures.of_start(error, is_container=self._is_container))
        self.hub.abandon()

    # -- service ----------------------------------------------------------------------------------

    def _serve(self) -> None:
        gc.enable()
        kernel.trim_heap()
        while self._status is None:
            self._turn()
        launched = self._launched
        assert launched is not None
        if launched.owns_cgroup and not launched.private_pids and launched.cgroup is not None:
            launched.cgroup.kill_all()
        if not self.hub.drain():
            deadline = time.monotonic() + _DRAIN_S
            self.poller.call_later(_DRAIN_S, lambda: None)
            while not self.hub.drained and time.monotonic() < deadline:
                self._turn()
        self._report_exit(launched)

    def _turn(self) -> None:
        """One turn that survives what it should not meet: the container must not die of it."""
        try:
            self.poller.turn()
        except Exception:
            if self._faults >= _FAULTS_MAX:
                raise
            self._faults += 1
            import traceback

            with contextlib.suppress(OSError), open("error.log", "a") as file:
                traceback.print_exc(file=file)

    def _report_exit(self, launched: Launched) -> None:
        self._close_ports()
        oom = launched.owns_cgroup and launched.cgroup is not None \
            and launched.cgroup.oom_kills() > 0
        status = os.waitstatus_to_exitcode(self._status or 0)
        exited = messages.Exited(
            exit_code=128 - status if status < 0 else status, oom_killed=oom,
            finished_at_ns=time.time_ns())
        if launched.on_end is not None:
            # Works in the directory, which the daemon removes once it knows of the exit.
            launched.on_end()
        self.hub.complete_log()
        # Whoever finds no listener must find the exit: so the file comes first.
        with contextlib.suppress(OSError):
            _write_file("exit", messages.encoder.encode(exited))
        self._stop_listening()
        for connection in list(self._connections):
            self._send(connection, exited)
        # A client that sees its stream end asks the daemon for the exit code: it is there by now.
        self.hub.finish()

    def _let_others_run(self) -> None:
        """Give whoever waits for the exit the processor first: what comes takes a millisecond of it."""
        over: list[bool] = []
        self.poller.call_later(_TEAR_DOWN_DELAY_S, lambda: over.append(True))
        while not over:
            self._turn()

    def _tear_down(self) -> None:
        """What takes time and nobody waits for: the cgroup, and the root's unmount."""
        launched = self._launched
        assert launched is not None
        with contextlib.suppress(OSError):
            self._remove_cgroup(launched)
        for fd in launched.held_fds:
            os.close(fd)
        self.hub.settle_log()
        if not self._connections:
            # Tells a later daemon, which only has the directory, that all of this is done. One
            # that listens may be removing the directory now.
            with contextlib.suppress(OSError):
                os.unlink("sock")
        for connection in list(self._connections):
            self._send(connection, messages.TornDown())

    def _remove_cgroup(self, launched: Launched) -> None:
        if launched.cgroup is not None and launched.owns_cgroup:
            launched.cgroup.kill_all()
            launched.cgroup.delete()

    # -- events -----------------------------------------------------------------------------------

    def _on_child(self, read_fd: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(read_fd, 512)
        launched = self._launched
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if launched is not None and pid == launched.pid:
                self._status = status
                # Its last words, before its end is acted on.
                while not self._started_at_ns:
                    self._on_sync()
            elif self._ports is not None:
                self._ports.reaped(pid)

    def _on_connect(self) -> None:
        if self._listener is None:
            return
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        connection.setblocking(False)
        self._connections.append(connection)
        self.poller.watch(connection.fileno(), READ, lambda events: self._on_control(connection, events))
        pid = self._launched.pid if self._launched else 0
        self._send(connection, messages.Hello(
            id=self._id, pid=pid, shim_pid=os.getpid(), started_at_ns=self._started_at_ns),
            [self._pidfd])

    def _on_control(self, connection: socket.socket, events: int) -> None:
        if events & WRITE:
            self._flush(connection)
        if not events & ~WRITE:
            return
        try:
            received = channel.receive(connection)
        except BlockingIOError:
            return
        except channel.DescriptorsLostError as error:
            error.close()
            received = error.body, []
        except ConnectionError:
            received = None
        if received is None:
            self._drop(connection)
            return
        body, fds = received
        try:
            control = messages.control_decoder.decode(body)
        except msgspec.MsgspecError:
            # A later daemon may know messages that this shim does not.
            for fd in fds:
                os.close(fd)
            return
        self._carry_out(control, fds, connection)

    def _carry_out(self, control: messages.Control, fds: list[int], connection: socket.socket,
                   ) -> None:
        if isinstance(control, messages.AttachClient) and not fds:
            # The client's connection went with its last descriptor.
            self._send(connection, messages.Attached(stream_id=control.attach.stream_id))
            self._send(connection, messages.AttachEnded(stream_id=control.attach.stream_id, how="eof"))
        elif isinstance(control, messages.AttachClient):
            self._add_client(fds.pop(0), control.attach, connection)
            self._send(connection, messages.Attached(stream_id=control.attach.stream_id))
        elif isinstance(control, messages.Resize):
            self.hub.resize(control.height, control.width)
        elif isinstance(control, messages.SignalAll):
            self._signal_all(control.signal)
        else:
            self.hub.close_stdin()
        for fd in fds:
            os.close(fd)

    def _signal_all(self, number: int) -> None:
        launched = self._launched
        if launched is None:
            return
        pids = [launched.pid]
        if launched.cgroup is not None and launched.owns_cgroup:
            pids = launched.cgroup.pids()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _add_client(self, fd: int, attach: messages.Attach, connection: socket.socket) -> None:
        # Stream ids are unique within one daemon only, and clients outlive daemons.
        key = len(self._streams) + 1 if not self._streams else max(self._streams) + 1
        self._streams[key] = (connection, attach.stream_id)
        self.hub.add_client(fd, msgspec.structs.replace(attach, stream_id=key))

    def _on_stream_end(self, key: int, how: Literal["eof", "detached"]) -> None:
        connection, stream_id = self._streams.pop(key)
        if not self._answered:
            # The answer to the start comes first; a client may be gone before it.
            self._early_ends.append((stream_id, how))
        elif connection in self._connections:
            self._send(connection, messages.AttachEnded(stream_id=stream_id, how=how))

    def _send(self, connection: socket.socket, event: messages.Event,
              fds: list[int] | None = None) -> None:
        body = messages.encoder.encode(event)
        if connection in self._backlog:
            self._backlog[connection].append(body)
            return
        try:
            channel.send(connection, body, fds or ())
        except BlockingIOError:
            self._backlog[connection] = [body]
            self.poller.change(connection.fileno(), READ | WRITE)
        except OSError:
            # A daemon that is gone; its successor asks again.
            self._drop(connection)

    def _flush(self, connection: socket.socket) -> None:
        waiting = self._backlog.pop(connection, [])
        while waiting:
            try:
                channel.send(connection, waiting[0])
            except BlockingIOError:
                self._backlog[connection] = waiting
                return
            except OSError:
                self._drop(connection)
                return
            del waiting[0]
        self.poller.change(connection.fileno(), READ)

    def _drop(self, connection: socket.socket) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            self._backlog.pop(connection, None)
            self.poller.forget(connection.fileno())
            connection.close()

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self.poller.forget(self._listener.fileno())
            self._listener.close()
            self._listener = None

    def _close_ports(self) -> None:
        if self._ports is not None:
            self._ports.close()
            self._ports = None

    def fork_helper(self, body: Callable[[], None], keep_fds: Sequence[int] = ()) -> int:
        """Run ``body`` in a child beside the shim that dies with it; return its pid."""
        launch.leave_pid_namespace()
        pid = os.fork()
        if pid:
            return pid
        try:
            kernel.set_parent_death_signal(signal.SIGKILL)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _close_all_but(keep_fds)
            body()
        finally:
            os._exit(0)


def _start(request: Request, hub: Hub, netns_fd: int, born: Callable[[Launched], None],
           ahead: Ahead | None) -> Launched:
    if request.runtime is not None:
        launched = foreign.launch(request, request.runtime, hub, netns_fd)
    elif isinstance(request, messages.StartContainer):
        return launch.container(request, hub, netns_fd, born, ahead)
    else:
        launched = launch.run_exec(request, hub)
    born(launched)
    return launched


def _killed_text(launched: Launched) -> str:
    """Why an init is gone that neither failed nor executed anything."""
    if launched.cgroup is not None and launched.cgroup.oom_kills():
        return "container init was OOM-killed (memory limit too low?)"
    return "container init was killed"


def _write_file(name: str, data: bytes) -> None:
    """Write a file in one step that a reader never sees half done."""
    with open(f"{name}.tmp", "wb", buffering=0) as file:
        file.write(data)
    os.rename(f"{name}.tmp", name)


def _close_all_but(keep_fds: Sequence[int]) -> None:
    first = 3
    for fd in sorted(keep_fds):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def become_shim() -> None:
    """Take on what every shim is, whatever it will serve."""
    os.setsid()
    kernel.become_subreaper()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    null_fd = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null_fd, fd)
    os.close(null_fd)
    kernel.set_name("pallet-shim")


def serve(document: bytes, fds: list[int]) -> None:
    """Start and serve one process to its end. Precondition: ``become_shim``.

    Args:
        document: a start request.
        fds: the daemon's reply socket, then the request's descriptors.
    """
    shim = Shim(socket.socket(fileno=fds.pop(0)))
    shim.run(decode(document), fds)


def decode(document: bytes) -> Request:
    """Decode a start request.

    Raises:
        msgspec.MsgspecError: it is none.
    """
    request: Request = _request_decoder.decode(document)
    return request
