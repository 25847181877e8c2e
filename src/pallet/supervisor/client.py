"""The daemon's handle of the zygote: everything that needs a new process goes through here.

Owns   the zygote process and the connection to it.
Runs   on the event loop; no call blocks it.
Needs  to be started before or after the daemon has threads: the zygote is executed, not forked.
Spec   docs/dev/seams.md "supervisor".
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import logging
import os
import socket
from typing import TYPE_CHECKING, TypeVar

import msgspec

from pallet.errors import SystemFailureError
from pallet.supervisor import failures, launch
from pallet.supervisor.reattach import Lost, find, has_state
from pallet.supervisor.shims import Exit, Shim
from pallet.zygote import channel, messages

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

logger = logging.getLogger(__name__)

Reply = TypeVar("Reply")

_SPARES = 2
"""Shims forked ahead: a start then waits for neither forks nor their first page faults."""
_SPARES_KEPT = 4
"""Shims whose container has ended are kept up to this number."""
_TOP_UP_DELAY_S = 0.015
"""After a start; the shim of a container that has ended by then comes back by itself."""
_SETTLE_S = 2.0
_SETTLE_INTERVAL_S, _SETTLE_LOOKS = 0.002, 1000
_START_ATTEMPTS = 2 + _SPARES


class Supervisor:
    """Starts containers, execs and workers. One per daemon."""

    def __init__(self) -> None:
        self._zygote: launch.Zygote | None = None
        self._sending = asyncio.Lock()
        self._tokens = itertools.count(1)
        self._spares: collections.deque[socket.socket] = collections.deque()
        """Connections to shims forked ahead, which wait for their request."""
        self._topping_up: asyncio.TimerHandle | None = None
        self._shims: dict[str, Shim] = {}
        """By ``shim_dir``, until everything of it is taken down."""
        self._connected: set[Shim] = set()
        self._clean_ups: set[asyncio.Task[None]] = set()
        self._closed = False

    # -- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Execute the zygote; it imports while the daemon goes on.

        Raises:
            OSError: the interpreter cannot be executed.
        """
        self._zygote = launch.spawn()
        asyncio.get_running_loop().add_reader(self._zygote.sock.fileno(), self._on_zygote_end)
        self._top_up()

    async def close(self) -> None:
        """Stop the zygote and its workers. Containers go on running."""
        self._closed = True
        if self._clean_ups:
            await asyncio.wait(self._clean_ups)
        if self._topping_up is not None:
            self._topping_up.cancel()
        for spare in self._spares:
            spare.close()
        self._spares.clear()
        for shim in list(self._connected):
            shim.close()
        self._connected.clear()
        zygote, self._zygote = self._zygote, None
        if zygote is not None:
            self._drop(zygote)
            await asyncio.get_running_loop().run_in_executor(None, zygote.reap)

    async def settle(self) -> None:
        """Wait until what has ended is taken down, too: its cgroup is gone then, as are those made ahead.

        Shims that wait are ended; no start may come any more.
        """
        leaving: set[asyncio.Future[None]] = {
            shim.gone for shim in self._shims.values() if not shim.running and not shim.gone.done()}
        if leaving:
            await asyncio.wait(leaving, timeout=_SETTLE_S)
        for _ in range(_SETTLE_LOOKS):  # those that are about to come back
            if all(shim.running for shim in self._connected):
                break
            await asyncio.sleep(_SETTLE_INTERVAL_S)
        self._closed = True
        ending = {asyncio.ensure_future(_end_spare(spare)) for spare in self._spares}
        self._spares.clear()
        if ending:
            await asyncio.wait(ending, timeout=_SETTLE_S)

    @property
    def zygote_pid(self) -> int:
        """Process id of the present zygote; -1 without one."""
        return self._zygote.pid if self._zygote else -1

    def _drop(self, zygote: launch.Zygote) -> None:
        with contextlib.suppress(ValueError):
            asyncio.get_running_loop().remove_reader(zygote.sock.fileno())
        zygote.sock.close()

    def _on_zygote_end(self) -> None:
        """The zygote never speaks on this socket: readable means that it is gone."""
        zygote = self._zygote
        if zygote is None or self._closed:
            return
        logger.warning("zygote %d is gone; starting another one", zygote.pid)
        self._drop(zygote)
        zygote.reap()
        self._zygote = launch.spawn()
        asyncio.get_running_loop().add_reader(self._zygote.sock.fileno(), self._on_zygote_end)

    async def _request(
        self, request: messages.Request, fds: Iterable[int], payload: bytes = b"",
    ) -> socket.socket:
        """Send a request; return our end of the pair its child answers on."""
        ours, theirs = channel.pair()
        ours.setblocking(False)
        body = channel.join(messages.encoder.encode(request), payload)
        try:
            await self._send(body, [theirs.fileno(), *fds])
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    async def _send(self, body: bytes, fds: Sequence[int]) -> None:
        async with self._sending:
            while True:
                if self._zygote is None:
                    message = "the supervisor is not running"
                    raise failures.StartError(message, 128)
                sock = self._zygote.sock
                try:
                    channel.send(sock, body, fds)
                except BlockingIOError:
                    await _writable(sock)
                except ConnectionError:
                    self._on_zygote_end()
                else:
                    return

    # -- containers and execs ---------------------------------------------------------------------

    async def start_container(
        self, request: messages.StartContainer, *, netns_fd: int | None = None,
        listener_fds: Sequence[int] = (), attach_sockets: Sequence[socket.socket] = (),
    ) -> Shim:
        """Start a container: the answer comes after its process was executed.

        Args:
            request: ``has_netns``, ``listeners`` and ``stdio.attach`` match the descriptors.
            netns_fd: joined by the container; the caller closes its copy.
            listener_fds: reservations of published ports, held by the shim; caller closes its own.
            attach_sockets: clients attached before the start; closed here, in every case. Ask
                ``Shim.streams`` for their futures, by ``stream_id``.

        Raises:
            InvalidCommandError: the command cannot be run (exit code 126, 127).
            StartError: anything else of the runtime (exit code 128).
            PalletError: an unknown user or group, as the kind Docker gives it.
        """
        fds = [] if netns_fd is None else [netns_fd]
        fds += listener_fds
        return await self._start(request, fds, attach_sockets)

    async def start_exec(
        self, request: messages.StartExec, *, attach_sockets: Sequence[socket.socket] = (),
    ) -> Shim:
        """Start one more process in a running container; as ``start_container``."""
        return await self._start(request, [], attach_sockets)

    async def _start(
        self, request: messages.StartContainer | messages.StartExec, fds: Sequence[int],
        attach_sockets: Sequence[socket.socket],
    ) -> Shim:
        try:
            if (earlier := self._shims.get(request.shim_dir)) is not None:
                # Its last run's cgroup and overlay may still be on their way out.
                await asyncio.wait({earlier.gone})
            control, answer = await self._ask_for_start(
                request, [*fds, *(sock.fileno() for sock in attach_sockets)])
        finally:
            for sock in attach_sockets:
                sock.close()
        body, received = answer
        event = messages.event_decoder.decode(body)
        if not isinstance(event, messages.Started):
            control.close()
            if isinstance(event, messages.Failure):
                raise failures.start_error(event)
            message = f"the container's shim answered a start with {type(event).__name__}"
            raise failures.StartError(message, 128)
        shim = Shim(
            shim_id=request.id, pid=event.pid, shim_pid=event.shim_pid,
            started_at_ns=event.started_at_ns, shim_dir=request.shim_dir, pidfd=received[0],
            control=control, on_close=self._on_shim_close, on_idle=self._on_shim_idle,
            streams=[attach.stream_id for attach in request.stdio.attach])
        self._adopt(shim)
        return shim

    async def _ask_for_start(
        self, request: messages.StartContainer | messages.StartExec, fds: Sequence[int],
    ) -> tuple[socket.socket, tuple[bytes, list[int]]]:
        """Send a start and return its control connection and the answer.

        A zygote that was killed just now takes requests along that it had not read yet: without
        ``state.json`` nothing has run, and the start is sent once more.
        """
        for _ in range(_START_ATTEMPTS):
            control = self._ask_spare(request, fds) or await self._request(request, fds)
            try:
                answer = await _receive(control)
            except BaseException:
                control.close()
                raise
            self._top_up_soon()
            if answer is not None:
                return control, answer
            control.close()
            started = has_state(request.shim_dir)
            await self._clean_up(request.shim_dir)
            if started:
                break
        message = "the container's shim died while it was started"
        raise failures.StartError(message, 128)

    def _ask_spare(
        self, request: messages.StartContainer | messages.StartExec, fds: Sequence[int],
    ) -> socket.socket | None:
        """Send a start to a spare shim; None when there is none."""
        body = b""
        while self._spares:
            spare = self._spares.popleft()
            body = body or channel.join(messages.encoder.encode(request))
            try:
                channel.send(spare, body, fds)
            except OSError:
                # Somebody killed it, or the request is larger than its socket takes.
                spare.close()
            else:
                return spare
        return None

    def _top_up_soon(self) -> None:
        """Have spares made once this start is out of the way: a fork beside it slows it down."""
        if self._topping_up is None and len(self._spares) < _SPARES and not self._closed:
            self._topping_up = asyncio.get_running_loop().call_later(
                _TOP_UP_DELAY_S, self._top_up)

    def _top_up(self) -> None:
        self._topping_up = None
        if self._zygote is None or self._closed or self._sending.locked():
            return
        body = channel.join(messages.encoder.encode(messages.MakeSpare()))
        while len(self._spares) < _SPARES:
            ours, theirs = channel.pair()
            ours.setblocking(False)
            try:
                channel.send(self._zygote.sock, body, [theirs.fileno()])
            except OSError:
                # Full or just gone: the next start asks again.
                ours.close()
                return
            finally:
                theirs.close()
            self._spares.append(ours)

    def _adopt(self, shim: Shim) -> None:
        self._connected.add(shim)
        self._shims[shim.shim_dir] = shim
        shim.gone.add_done_callback(lambda _: self._forget(shim))

    def _forget(self, shim: Shim) -> None:
        if self._shims.get(shim.shim_dir) is shim:
            del self._shims[shim.shim_dir]

    async def reattach(self, shim_dir: str) -> Shim | Exit | None:
        """Find what became of a shim that an earlier daemon started.

        Returns:
            A live ``Shim``; the ``Exit`` of one that ended, or that was killed and whose container
            has therefore been killed here; None when ``shim_dir`` holds no trace of a start.
        """
        found = await find(shim_dir, self._on_shim_close)
        if isinstance(found, Shim):
            self._adopt(found)
            return found
        if isinstance(found, Lost):
            await self._clean_up(shim_dir)
            return found.exit
        return found

    def _on_shim_idle(self, control: socket.socket) -> None:
        """A shim is free again. It is warm, so it comes before those that were only forked."""
        if self._closed or len(self._spares) >= _SPARES_KEPT:
            control.close()
        else:
            self._spares.appendleft(control)

    def _on_shim_close(self, shim: Shim) -> None:
        """A shim ended; without an exit it was killed, and its container must not go on unowned."""
        self._connected.discard(shim)
        if not shim.running:
            return
        logger.warning("shim %d of %s was lost; killing what it left", shim.shim_pid, shim.id)
        shim.kill(9)
        task = asyncio.get_running_loop().create_task(self._finish_lost(shim))
        self._clean_ups.add(task)
        task.add_done_callback(self._clean_ups.discard)

    async def _finish_lost(self, shim: Shim) -> None:
        found = await find(shim.shim_dir, self._on_shim_close)
        if isinstance(found, Lost):
            try:
                await self._clean_up(shim.shim_dir)
            except Exception:
                logger.exception("clean-up after the lost shim of %s failed", shim.id)
            found = found.exit
        if not isinstance(found, Exit):
            found = Lost.now().exit
        shim.resolve_lost(found)

    async def _clean_up(self, shim_dir: str) -> None:
        await self.run_raw_worker("shim.cleanup", os.fsencode(shim_dir))

    # -- workers ----------------------------------------------------------------------------------

    async def new_netns(self) -> tuple[int, int]:
        """Make a network namespace with its loopback down.

        Returns:
            Descriptors of the namespace and of a NETLINK_ROUTE socket in it; the caller closes both.
        """
        _, fds = await self._worker(messages.NewNetns(), ())
        return fds[0], fds[1]

    async def run_worker(
        self, kind: str, request: msgspec.Struct, fds: Iterable[int] = (), *,
        reply_type: type[Reply],
    ) -> Reply:
        """Run worker ``kind`` in a child; both documents travel as JSON.

        Cancelling kills the child. The caller keeps its copies of ``fds``.

        Raises:
            PalletError: as raised by the worker, same kind and text.
            WorkerError: the worker failed otherwise or was killed.
        """
        reply, received = await self.run_raw_worker(kind, messages.encoder.encode(request), fds)
        for fd in received:
            os.close(fd)
        return msgspec.json.decode(reply, type=reply_type)

    async def run_raw_worker(
        self, kind: str, request: bytes, fds: Iterable[int] = (),
    ) -> tuple[bytes, list[int]]:
        """Run worker ``kind``; return its reply and descriptors, which the caller closes."""
        token = next(self._tokens)
        return await self._worker(messages.RunWorker(kind=kind, token=token), fds, request, token)

    async def _worker(
        self, request: messages.NewNetns | messages.RunWorker, fds: Iterable[int],
        payload: bytes = b"", token: int | None = None,
    ) -> tuple[bytes, list[int]]:
        sock = await self._request(request, fds, payload)
        try:
            answer = await _receive(sock)
        except asyncio.CancelledError:
            if token is not None and self._zygote is not None:
                cancel = messages.encoder.encode(messages.Cancel(token=token))
                with contextlib.suppress(OSError):
                    channel.send(self._zygote.sock, channel.join(cancel))
            raise
        finally:
            sock.close()
        if answer is None:
            message = f"worker {request!r} was killed"
            raise failures.WorkerError(message)
        document, reply = channel.split(answer[0])
        event = messages.event_decoder.decode(document)
        if isinstance(event, messages.Failure):
            raise failures.worker_error(event)
        return reply, answer[1]


async def _writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(sock.fileno(), ready.set_result, None)
    try:
        await ready
    finally:
        loop.remove_writer(sock.fileno())


async def _end_spare(spare: socket.socket) -> None:
    """Tell a shim that waits to end, and wait until it has."""
    try:
        spare.shutdown(socket.SHUT_WR)
        while await asyncio.get_running_loop().sock_recv(spare, 4096):
            pass
    except OSError:
        return
    finally:
        spare.close()


async def _receive(sock: socket.socket) -> tuple[bytes, list[int]] | None:
    """Wait for one message on a socket that has no reader yet."""
    loop = asyncio.get_running_loop()
    while True:
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_reader(sock.fileno(), _set_ready, ready)
        try:
            await ready
        finally:
            loop.remove_reader(sock.fileno())
        try:
            return channel.receive(sock)
        except BlockingIOError:
            continue
        except channel.DescriptorsLostError as error:
            error.close()
            raise SystemFailureError(str(error)) from error
        except ConnectionError:
            return None


def _set_ready(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
