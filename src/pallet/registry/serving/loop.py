"""The loop: polls every connection of a worker, answers what needs no waiting, hands on the rest.

Owns   the poll, listeners, deadlines and the threads.
Runs   in the thread that calls ``run``; ``run_later``, ``post`` and ``stop`` from any.
Needs  epoll. asyncio spends more on a request than all of this does.
Spec   epoll(7), level-triggered.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import select
import socket
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from pallet.registry.serving.accesslog import Served
from pallet.registry.serving.connection import Connection, State
from pallet.registry.serving.metrics import route_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from pallet.http.strict import StrictHead
    from pallet.registry.config import HttpConfig
    from pallet.registry.messages import RequestBody
    from pallet.registry.serving.accesslog import AccessLog
    from pallet.registry.serving.metrics import Metrics
    from pallet.registry.serving.replies import Reply

logger = logging.getLogger(__name__)

_QUICK_THREADS: Final = 32
_LOGIN_THREADS: Final = max(1, (os.cpu_count() or 1) // 2)
_LOGIN_NICE: Final = 10
_TICK_S: Final = 1.0
_ACCEPTS: Final = 32
_UNSENT_BYTES: Final = 64 << 10
"""Queued in the kernel beyond what is on its way: enough until the loop comes by again. With megabytes in
each queue a gigabyte to 16 clients took 1.07 s of processor time, so it takes 0.68."""
_READ: Final = select.EPOLLIN
_WRITE: Final = select.EPOLLOUT
_UNPOLLED: Final = -1
_RWF_NOWAIT: Final = getattr(os, "RWF_NOWAIT", 0)
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


class Service(Protocol):
    """What answers the requests of a listener."""

    tls: ssl.SSLContext | None
    """Of new connections; may be replaced at any time."""
    counted: bool
    """Whether its requests are logged and counted."""

    def quick(self, head: StrictHead, peer: str) -> Reply | None:
        """Answer at once, on the loop; None when that takes a thread."""
        ...

    def respond(self, head: StrictHead, body: RequestBody, peer: str, request_id: str) -> Reply:
        """Answer in a thread; refusals and failures are replies too.

        Raises:
            BrokenRequestError: the client went away with its body.
        """
        ...

    def waits(self, head: StrictHead) -> bool:
        """Whether ``respond`` may wait for something but the disk and the database; on the loop."""
        ...

    def logs_in(self, head: StrictHead) -> bool:
        """Whether ``respond`` would hash a password; on the loop."""
        ...

    def log_in(self, head: StrictHead, peer: str) -> None:
        """Hash it before, in a thread for that."""
        ...

    def client(self, head: StrictHead, peer: str) -> str:
        """Address of whoever made the request, for the log; on the loop."""
        ...

    def version(self) -> int | None:
        """The content's version before ``respond``; on the loop."""
        ...

    def keep(self, head: StrictHead, reply: Reply) -> None:
        """Consider ``reply`` for the next ``quick``; on the loop."""
        ...


class Loop:
    """One worker's connections."""

    def __init__(self, settings: HttpConfig, metrics: Metrics, log: AccessLog) -> None:
        self.settings = settings
        self.metrics = metrics
        self.log = log
        self.stopping = False
        self._poll = select.epoll()
        self._wake_lock = threading.RLock()  # ``stop`` may come from a signal handler
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._wake_fd, _READ)
        self._posted: deque[tuple[Connection | None, Callable[[], None]]] = deque()
        self._connections: dict[int, Connection] = {}
        self._lent: set[Connection] = set()
        self._listeners: dict[int, tuple[socket.socket, Service]] = {}
        self._accepting = True
        self._quick = ThreadPoolExecutor(_QUICK_THREADS, "pallet-registry")
        self._slow = ThreadPoolExecutor(settings.max_uploads, "pallet-registry-upload")
        # Whoever tries passwords keeps those waiting who do the same, and nobody else.
        self._login = ThreadPoolExecutor(_LOGIN_THREADS, "pallet-registry-login", _step_back)
        self._drain_until = 0.0
        self._assumed = (-1, -1)
        self._can_probe = True
        self._name = secrets.token_hex(6)
        self._requests = 0

    # --- from any thread

    def post(self, action: Callable[[], None], connection: Connection | None = None) -> None:
        """Run ``action`` on the loop; if it fails, ``connection`` is closed."""
        self._posted.append((connection, action))
        with self._wake_lock, suppress(BlockingIOError):
            if self._wake_fd >= 0:  # the action itself may have ended the loop
                os.eventfd_write(self._wake_fd, 1)

    def stop(self, drain_s: float) -> None:
        """Accept nothing more, finish the requests in work for so long, then end ``run``."""
        self.post(lambda: self._begin_stop(drain_s))

    # --- for connections

    def run_in_thread(self, work: Callable[[], None], *, may_wait: bool, logs_in: bool = False) -> None:
        """Run ``work`` in a thread.

        Args:
            may_wait: it may take as long as a client likes.
            logs_in: it may compute for long.
        """
        pool = self._login if logs_in else self._slow if may_wait else self._quick
        pool.submit(_guarded, work)

    def want_read(self, connection: Connection) -> None:
        """Poll for input."""
        self._want(connection, _READ)

    def want_write(self, connection: Connection) -> None:
        """Poll for room to write."""
        self._want(connection, _WRITE)

    def mute(self, connection: Connection) -> None:
        """Poll for nothing."""
        if connection.mask > 0:
            self._want(connection, 0)
        elif connection.mask == 0:  # a reset shows all the same, again and again
            connection.mask = _UNPOLLED
            self._poll.unregister(connection.sock)

    def _want(self, connection: Connection, mask: int) -> None:
        if connection.mask == _UNPOLLED:
            self._poll.register(connection.sock, mask)
        elif connection.mask != mask:
            self._poll.modify(connection.sock, mask)
        connection.mask = mask

    def lend(self, connection: Connection) -> None:
        """Leave the socket to a thread."""
        if connection.mask != _UNPOLLED:
            self._poll.unregister(connection.sock)
        self._lent.add(connection)

    def take_back(self, connection: Connection) -> None:
        """Poll a socket again that a thread had."""
        self._lent.discard(connection)
        connection.mask = _READ
        self._poll.register(connection.sock, _READ)

    def forget(self, connection: Connection) -> None:
        """Drop a connection that is about to be closed."""
        fd = connection.sock.fileno()
        if self._connections.pop(fd, None) is not None:
            with suppress(OSError):
                self._poll.unregister(fd)
            self.metrics.set("connections", len(self._connections))
        self._accept_again()

    def request_id(self, given: str) -> str:
        """The client's name for its request, or a new one."""
        if given and _REQUEST_ID.fullmatch(given):
            return given
        self._requests += 1
        return f"{self._name}{self._requests:08x}"

    def is_cached(self, fd: int, offset: int, length: int) -> bool:
        """Whether the file's part can be sent without waiting for the disk."""
        if self._assumed == (fd, offset) or not self._can_probe:
            self._assumed = (-1, -1)
            return True
        try:
            buffer = bytearray(1)
            os.preadv(fd, [buffer], offset, _RWF_NOWAIT)
            os.preadv(fd, [buffer], offset + length - 1, _RWF_NOWAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:
                raise
            self._can_probe = False  # a file system in memory, for one
        return True

    def assume_cached(self, fd: int, offset: int) -> None:
        """Believe once that a part is in memory: it was just read."""
        self._assumed = (fd, offset)

    def served(self, connection: Connection, head: StrictHead | None, status: int, sent: int,
               received: int, seconds: float) -> None:
        """Count and log a request."""
        if not connection.service.counted:
            return
        method = head.method if head is not None else "-"
        path = head.target.partition("?")[0] if head is not None else ""
        self.metrics.served(method, route_of(path), status, seconds, sent)
        if received:
            self.metrics.add("received_bytes_total", received)
        headers = head.headers if head is not None else {}
        if status in {401, 403} and "authorization" in headers:
            self.metrics.add("auth_failures_total")
        if self.log.on:
            self.log.add(Served(
                remote=connection.peer if head is None else connection.service.client(head, connection.peer),
                user="" if status == 401 else _user(headers), method=method,
                target=head.target if head is not None else "-", status=status, sent=sent,
                received=received, seconds=seconds, agent=headers.get("user-agent", ""),
                referer=headers.get("referer", ""), request_id=connection.request_id))

    # --- listeners

    def listen(self, sock: socket.socket, service: Service) -> None:
        """Accept connections for ``service``; before ``run`` or on the loop."""
        sock.setblocking(False)
        self._listeners[sock.fileno()] = (sock, service)
        self._poll.register(sock, _READ)

    def _accept(self, listener: socket.socket, service: Service) -> None:
        for _ in range(_ACCEPTS):
            full = len(self._connections) >= self.settings.max_connections
            idle = self._idlest() if full else None
            if full and idle is None:
                self._pause()
                return
            try:
                sock, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                logger.warning("cannot accept a connection: %s", error)
                self._pause()  # no descriptors or memory; the next tick tries again
                return
            if idle is not None:
                idle.close()
            self._admit(sock, str(address[0]), service)

    def _admit(self, sock: socket.socket, peer: str, service: Service) -> None:
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
            if service.tls is not None:
                sock = service.tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except OSError as error:
            logger.debug("connection from %s: %s", peer, error)
            sock.close()
            return
        connection = Connection(self, service, sock, peer)
        connection.mask = _READ
        self._connections[sock.fileno()] = connection
        self._poll.register(sock, _READ)
        self.metrics.set("connections", len(self._connections))

    def _idlest(self) -> Connection | None:
        """The connection that has been idle for longest, to make room for a new one."""
        return min((one for one in self._connections.values() if one.idle),
                   key=lambda one: one.deadline, default=None)

    def _pause(self) -> None:
        if self._accepting:
            self._accepting = False
            for listener, _ in self._listeners.values():
                self._poll.modify(listener, 0)

    def _accept_again(self) -> None:
        if not self._accepting:
            self._accepting = True
            for listener, _ in self._listeners.values():
                self._poll.modify(listener, _READ)

    # --- the loop

    def run(self) -> None:
        """Serve until ``stop``."""
        tick_s = min(_TICK_S, self.settings.head_s / 2, self.settings.idle_s / 2, self.settings.stall_s / 2)
        next_tick = time.monotonic() + tick_s
        try:
            while not (self.stopping and not self._connections):
                for fd, _mask in self._poll.poll(max(next_tick - time.monotonic(), 0)):
                    connection = self._connections.get(fd)
                    if connection is not None:
                        self._step(connection, connection.ready)
                    elif fd in self._listeners:
                        self._accept(*self._listeners[fd])
                    elif fd == self._wake_fd:
                        with suppress(BlockingIOError):
                            os.eventfd_read(self._wake_fd)
                while self._posted:
                    self._step(*self._posted.popleft())
                now = time.monotonic()
                if now >= next_tick:
                    next_tick = now + tick_s
                    self._tick(now)
                self.log.flush()
        finally:
            self._close()

    def _step(self, connection: Connection | None, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception:
            logger.exception("connection from %s failed", connection.peer if connection else "-")
            if connection is not None and connection.state is not State.AWAY:
                connection.close()

    def _tick(self, now: float) -> None:
        for connection in [one for one in self._connections.values() if one.deadline <= now]:
            self._step(connection, connection.expire)
        self._accept_again()
        if self.stopping and now >= self._drain_until:
            for connection in list(self._connections.values()):
                connection.kick()
                if connection not in self._lent:
                    connection.close()

    def _begin_stop(self, drain_s: float) -> None:
        self.stopping = True
        self._drain_until = time.monotonic() + drain_s
        for listener, _ in self._listeners.values():
            self._poll.unregister(listener)
            listener.close()
        self._listeners.clear()
        for connection in list(self._connections.values()):
            connection.last = True
            if connection.idle:
                connection.close()
        if drain_s <= 0:
            self._tick(time.monotonic())

    def _close(self) -> None:
        self._quick.shutdown(wait=True, cancel_futures=True)
        self._slow.shutdown(wait=True, cancel_futures=True)
        self._login.shutdown(wait=True, cancel_futures=True)
        self._poll.close()
        with self._wake_lock:
            os.close(self._wake_fd)
            self._wake_fd = -1
        self.log.flush()


def _step_back() -> None:
    """Let this thread's processor go to whoever serves."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOGIN_NICE)


def _guarded(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception:
        logger.exception("a request's thread failed")


def _user(headers: dict[str, str]) -> str:
    """Name in the credentials of a request that was not refused for them."""
    from pallet.registry.serving.claims import claimed_user

    header = headers.get("authorization", "")
    return claimed_user(header) if header else ""
