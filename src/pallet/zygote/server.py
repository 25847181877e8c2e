"""The zygote: one loop that receives requests and forks.

Owns   nothing but the connection to its daemon and the list of its workers; it neither decodes the
       requests of shims nor waits for children.
Runs   as a process of its own, executed by the daemon, single-threaded, its heap frozen.
Spec   style.md section 7.3; zygote/messages.py.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING, NoReturn

from pallet.linux import caps, cgroupfs, namespaces
from pallet.linux import process as kernel
from pallet.zygote import channel, failures, messages, shim, spare
from pallet.zygote.workers import HEAVY, WORKERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_START_PREFIXES = (b'{"type":"StartContainer"', b'{"type":"StartExec"')
"""msgspec writes the tag first, so a start is told from the rest without decoding it here."""

_WORKSHOP = "pallet-workshop"
_LIBC_SIGNALS = (32, 33)


class Zygote:
    """The loop's state."""

    def __init__(self, sock: socket.socket, title: kernel.Title) -> None:
        self._sock = sock
        self._title = title
        self._workers: dict[int, tuple[int, int]] = {}
        """Token to (pid, pidfd)."""
        self._workshop: socket.socket | None = None
        """Connection to the process that forks heavy workers, once there is one."""
        self._poll = select.poll()
        self._poll.register(sock.fileno(), select.POLLIN)

    def run(self) -> None:
        """Serve until the daemon is gone; then take the workers along."""
        own_fd = self._sock.fileno()
        while True:
            for fd, _ in self._poll.poll():
                if fd != own_fd:
                    self._forget(fd)
                    continue
                try:
                    received = channel.receive(self._sock)
                except channel.DescriptorsLostError as error:
                    _refuse(error)
                    continue
                except ConnectionError:
                    received = None
                if received is None:
                    self._kill_workers()
                    return
                body, fds = received
                self._handle(body, fds)
                for received_fd in fds:
                    os.close(received_fd)

    def _handle(self, body: bytes, fds: list[int]) -> None:
        document, payload = channel.split(body)
        if document.startswith(_START_PREFIXES):
            self._fork(lambda: self._be_shim(document, fds))
            return
        request = messages.request_decoder.decode(document)
        if isinstance(request, messages.MakeSpare):
            self._fork(lambda: self._be_spare(fds))
        elif isinstance(request, messages.Cancel):
            self._cancel(request.token, body)
        elif isinstance(request, messages.NewNetns):
            self._fork(lambda: _answer(fds, lambda _fds: _new_netns()))
        elif isinstance(request, messages.RunWorker):
            if request.kind in HEAVY and not self._is_workshop:
                self._hand_to_workshop(body, fds)
            else:
                self._start_worker(request, payload, fds)

    def _start_worker(self, request: messages.RunWorker, payload: bytes, fds: list[int]) -> None:
        pid = self._fork(lambda: self._be_worker(request, payload, fds))
        # Children are reaped by the kernel: a quick one may be gone before we look.
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            self._workers[request.token] = (pid, pidfd)
            self._poll.register(pidfd, select.POLLIN)

    @property
    def _is_workshop(self) -> bool:
        return self._title.text == _WORKSHOP

    def _hand_to_workshop(self, body: bytes, fds: list[int]) -> None:
        """Have a heavy worker forked from a process that has its modules."""
        for attempt in range(2):
            if self._workshop is None:
                ours, theirs = channel.pair()
                channel.enlarge(ours)
                self._fork(lambda: self._be_workshop(ours, theirs, fds))  # noqa: B023 - run at once
                theirs.close()
                self._workshop = ours
            try:
                channel.send(self._workshop, body, fds)
            except OSError:
                # Somebody killed it; a new one is made once.
                self._workshop.close()
                self._workshop = None
                if attempt:
                    raise
            else:
                return

    def _be_workshop(self, ours: socket.socket, theirs: socket.socket, fds: list[int]) -> None:
        ours.close()
        # The first request's: a pipe that stays open here would never end for its reader.
        for fd in (*fds, *(pidfd for _, pidfd in self._workers.values())):
            os.close(fd)
        self._title.set(_WORKSHOP)
        kernel.set_name(_WORKSHOP)
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        _import_workers(HEAVY)
        gc.collect()
        gc.freeze()
        Zygote(theirs, self._title).run()

    def _fork(self, body: Callable[[], None]) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            self._sock.close()
            if self._workshop is not None:
                self._workshop.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            body()
        except BaseException:  # noqa: BLE001 - a forked child has nobody above it
            _print_traceback()
            os._exit(70)
        os._exit(0)

    def _be_shim(self, document: bytes, fds: list[int]) -> None:
        self._title.set("pallet-shim")
        shim.become_shim()
        shim.serve(document, fds)

    def _be_spare(self, fds: list[int]) -> None:
        self._title.set("pallet-shim")
        spare.wait(socket.socket(fileno=fds[0]))

    def _be_worker(self, request: messages.RunWorker, payload: bytes, fds: list[int]) -> None:
        os.setsid()
        kernel.set_name("pallet-worker")
        self._title.set(f"pallet-worker {request.kind}")
        gc.enable()
        module, function = WORKERS[request.kind]
        run = getattr(importlib.import_module(module), function)
        _answer(fds, lambda rest: run(payload, rest))

    def _cancel(self, token: int, body: bytes) -> None:
        if (worker := self._workers.get(token)) is not None:
            _kill_group(*worker)
        elif self._workshop is not None:
            with contextlib.suppress(OSError):
                channel.send(self._workshop, body)

    def _forget(self, pidfd: int) -> None:
        self._poll.unregister(pidfd)
        os.close(pidfd)
        self._workers = {token: worker for token, worker in self._workers.items()
                         if worker[1] != pidfd}

    def _kill_workers(self) -> None:
        for worker in self._workers.values():
            _kill_group(*worker)


def _kill_group(pid: int, pidfd: int) -> None:
    """Kill a worker and its own helpers; setsid(2) made it the leader of their group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.killpg(pid, signal.SIGKILL)


def _new_netns() -> tuple[bytes, list[int]]:
    namespaces.unshare(namespaces.CLONE_NEWNET)
    netns_fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC,
                            socket.NETLINK_ROUTE)
    return b"", [netns_fd, netlink.detach()]


def _answer(
    fds: list[int], run: Callable[[list[int]], bytes | tuple[bytes, list[int]]],
) -> None:
    """Call ``run`` with the descriptors behind the reply socket and send what comes of it."""
    reply = socket.socket(fileno=fds[0])
    out: list[int] = []
    try:
        result = run(fds[1:])
        payload, out = result if isinstance(result, tuple) else (result, [])
        event: messages.Event = messages.WorkerDone()
    except Exception as error:  # noqa: BLE001 - every failure is answered as data
        event, payload = failures.of_worker(error), b""
        if event.kind == "SystemFailureError" and not isinstance(error, OSError):
            _print_traceback()
    with contextlib.suppress(BrokenPipeError, ConnectionError):
        channel.send(reply, channel.join(messages.encoder.encode(event), payload), out)


def _refuse(error: channel.DescriptorsLostError) -> None:
    """Answer a request that cannot be served; whoever's reply socket is lost as well finds it closed."""
    sys.stderr.write(f"zygote: {error}\n")
    if error.fds:
        with socket.socket(fileno=error.fds.pop(0)) as reply, contextlib.suppress(OSError):
            channel.send(reply, channel.join(messages.encoder.encode(failures.of_loss(error))))
    error.close()


def _print_traceback() -> None:
    import traceback

    traceback.print_exc()


def _reset_signals() -> None:
    """Start from the default dispositions, whatever the daemon's parent had ignored."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals():
        if number in {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ}:
            continue
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    for reserved in _LIBC_SIGNALS:
        kernel.reset_signal(reserved)
    # Nobody waits for a zygote's children: they answer on their own sockets.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _import_workers(kinds: Iterable[str]) -> None:
    for module in sorted({WORKERS[kind][0] for kind in kinds}):
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            sys.stderr.write(f"zygote: no worker module {module}: {error}\n")


def _warm_up() -> None:
    """Do once what every child would do again."""
    _import_workers(WORKERS.keys() - HEAVY)
    cgroupfs.detect()
    caps.available()
    caps.last_cap()


def main(socket_fd: int) -> NoReturn:
    """Be the zygote.

    Args:
        socket_fd: the connection to the daemon.
    """
    os.setsid()
    # Descriptors of the daemon's own parent that are not close-on-exec: containers must not see
    # them, and this process would keep them open.
    os.closerange(socket_fd + 1, os.sysconf("SC_OPEN_MAX"))
    title = kernel.Title()
    title.set("pallet-zygote")
    kernel.set_name("pallet-zygote")
    os.set_inheritable(socket_fd, False)
    sock = socket.socket(fileno=socket_fd)
    channel.enlarge(sock)
    _reset_signals()
    _warm_up()
    gc.disable()
    gc.collect()
    gc.freeze()
    Zygote(sock, title).run()
    os._exit(0)
