"""Blobs on their way from upstream: one fetch each, however many clients wait for it.

Owns   the threads that fetch, and reading from a file that still grows.
Runs   each fetch in a thread of its own; readers in the server's threads, in every worker process:
       those that do not fetch follow the file of the one that does.
Needs  ``spool``, on a local file system.

Nobody gets the last byte before the digest is right, so no client takes a damaged blob for whole.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pallet.errors import CancelledRequestError
from pallet.registry.mirror.spool import Spool, locked, recorded_size
from pallet.spec import digest as digests
from pallet.transfer.cancellation import Cancellation
from pallet.transfer.failures import BadContentError, RefusedError, RegistryError
from pallet.transfer.fetch import fetch
from pallet.transfer.retry import Retries, RetryPolicy
from pallet.transfer.transport import CHUNK_BYTES, abandon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from urllib3.response import HTTPResponse

    from pallet.types import Digest

logger = logging.getLogger(__name__)

_FOLLOW_S = 0.05
"""Between looks at a file that another process writes."""
_PATIENCE_S = 1.0


class FlightError(Exception):
    """The fetch failed; ``__cause__`` is why."""


class Flight:
    """One blob on its way. Readers hold it by ``enter`` and ``leave``.

    ``names`` are the repositories that get the blob: upstream said that they have it.
    """

    def __init__(self, path: Path, digest: Digest, name: str) -> None:
        self.digest = digest
        self.path = path
        self.names = {name}
        self.size: int | None = None
        self.failure: BaseException | None = None
        self.landed = False
        """The store has it."""
        self._fds: list[int] = []
        self._have = 0
        self._changed = threading.Condition()
        self._users = 1

    # --- the thread that fetches or follows

    def opened(self, fd: int) -> None:
        """Read from ``fd``, which is closed with the last user."""
        with self._changed:
            self._fds.append(fd)

    def is_of(self, status: os.stat_result) -> bool:
        """Whether what readers have seen, if anything, came from this file."""
        with self._changed:
            return not self._fds or os.path.samestat(os.fstat(self._fds[-1]), status)

    def note(self, have: int, size: int | None = None) -> None:
        """Tell readers how far it is."""
        with self._changed:
            self._have = have
            self.size = self.size if size is None else size
            self._changed.notify_all()

    def follow(self) -> None:
        """Tell readers how far the file is that another process writes."""
        with self._changed:
            fd = self._fds[-1] if self._fds else -1
        if fd >= 0:
            self.note(os.fstat(fd).st_size)

    def end(self, failure: BaseException | None) -> None:
        """Tell readers that nothing more comes, or that all is there and right."""
        self._tell(failure)
        self.leave()

    def abort(self) -> None:
        """Tell readers not to wait any longer, while the thread may still wait for upstream."""
        self._tell(CancelledRequestError("the registry is stopping"))

    def _tell(self, failure: BaseException | None) -> None:
        with self._changed:
            if not self.ended:
                self.failure = failure
                self.landed = failure is None
                self._changed.notify_all()

    # --- readers

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self.landed or self.failure is not None

    def enter(self) -> bool:
        """Become a user; False when it is over."""
        with self._changed:
            if self.ended:
                return False
            self._users += 1
            return True

    def leave(self) -> None:
        """Let go; the last one closes the file."""
        with self._changed:
            self._users -= 1
            if self._users:
                return
            fds, self._fds = self._fds, []
        for fd in fds:
            os.close(fd)

    def wait_for_size(self) -> int | None:
        """The blob's size; None when it landed before anybody knew.

        Raises:
            FlightError: the fetch failed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.size is not None or self.ended)
            if self.failure is not None:
                raise FlightError(str(self.failure)) from self.failure
            return None if self.landed else self.size

    def wait(self) -> None:
        """Wait until the store has it.

        Raises:
            FlightError: the fetch failed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.ended)
            if self.failure is not None:
                raise FlightError(str(self.failure)) from self.failure

    def read(self, offset: int, length: int) -> Iterator[bytes]:
        """A part of the blob, as it arrives.

        Raises:
            FlightError: the fetch failed.
        """
        at, end = offset, offset + length
        while at < end:
            with self._changed:
                while not self.ended and self._readable() <= at:
                    self._changed.wait()
                if self.failure is not None:
                    raise FlightError(str(self.failure)) from self.failure
                until, fd = min(end, self._readable()), self._fds[-1]
            piece = os.pread(fd, min(CHUNK_BYTES, until - at), at)
            if not piece:
                message = f"{self.path}: shorter than expected"
                raise FlightError(message)
            at += len(piece)
            yield piece

    def _readable(self) -> int:
        if self.landed and self.size is not None:
            return self.size
        return min(self._have, (self.size or 1) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How a repository gets a blob."""

    name: str
    open_at: Callable[[int], HTTPResponse]
    """Opens it upstream at an offset."""
    verify: Callable[[], int]
    """The size, 0 if it is not told. Raises unless upstream lets the repository have it: before it takes
    part in another's flight."""
    land: Callable[[set[str], Path, int], None]
    """Moves the file of so many bytes, which is the blob, into the store for these repositories."""
    has_landed: Callable[[], bool]
    """Whether the store has it; the repository has it too then."""


class Flights:
    """Every blob on its way."""

    def __init__(self, directory: Path, most: int) -> None:
        """``most`` fetches run at once; further ones wait."""
        self._directory = directory
        self._directory.mkdir(parents=True, exist_ok=True)
        self._slots = threading.BoundedSemaphore(most)
        self._cancel = Cancellation()
        self._lock = threading.Lock()
        self._flights: dict[Digest, tuple[Flight, threading.Thread]] = {}
        self._policy = RetryPolicy(attempts=4, base_s=0.5)

    def board(self, digest: Digest, route: Route) -> Flight:
        """Join the flight of a blob, or start it; call ``leave`` on what is returned.

        Raises:
            what ``route.verify`` raises.
        """
        with self._lock:
            found = self._flights.get(digest)
            strange = found is not None and route.name not in found[0].names
        if strange:
            route.verify()
        with self._lock:
            found = self._flights.get(digest)
            if found is not None and (strange or route.name in found[0].names) and found[0].enter():
                found[0].names.add(route.name)
                return found[0]
            stem = f"{digests.algorithm(digest)}-{digests.encoded(digest)}"
            flight = Flight(self._directory / f"{stem}.part", digest, route.name)
            flight.enter()
            thread = threading.Thread(target=self._fly, args=(flight, route), daemon=True,
                                      name="pallet-registry-fetch")
            self._flights[digest] = (flight, thread)
            thread.start()
            return flight

    def cancel(self) -> None:
        """Tell every fetch to end; what has arrived stays for the next one."""
        self._cancel.cancel()
        with self._lock:
            flights = [flight for flight, _ in self._flights.values()]
        for flight in flights:
            flight.abort()

    def stop(self) -> None:
        """End every fetch, and wait a moment for it."""
        self.cancel()
        with self._lock:
            threads = [thread for _, thread in self._flights.values()]
        for thread in threads:
            thread.join(_PATIENCE_S)

    # --- a flight's thread

    def _fly(self, flight: Flight, route: Route) -> None:
        failure: BaseException | None = None
        try:
            with self._slots:
                self._travel(flight, route)
        except CancelledRequestError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - told to everybody who waits
            logger.warning("fetching %s for %s failed: %s", flight.digest, route.name, error)
            failure = error
        finally:
            with self._lock:
                if self._flights.get(flight.digest, (None,))[0] is flight:
                    del self._flights[flight.digest]
            flight.end(failure)

    def _travel(self, flight: Flight, route: Route) -> None:
        lock_path = flight.path.with_suffix(".lock")
        lock_fd = self._follow(flight, route, lock_path)
        try:
            if not route.has_landed():
                self._fetch(flight, route, lock_fd)
                assert flight.size is not None
                with self._lock:
                    names = set(flight.names)
                route.land(names, flight.path, flight.size)
                flight.path.unlink(missing_ok=True)
            lock_path.unlink(missing_ok=True)
        finally:
            os.close(lock_fd)

    def _follow(self, flight: Flight, route: Route, lock_path: Path) -> int:
        """Wait for the lock, telling readers how far the process is that has it."""
        woken = threading.Event()
        verified = False
        self._cancel.add(woken.set)
        try:
            while (lock_fd := locked(lock_path)) is None:
                self._cancel.check()
                if not verified:
                    route.verify()
                    verified = True
                with suppress(OSError, ValueError):
                    if flight.size is None:
                        size = int(lock_path.read_text(encoding="ascii"))
                        flight.opened(os.open(flight.path, os.O_RDONLY | os.O_CLOEXEC))
                        flight.note(0, size)
                    flight.follow()
                woken.wait(_FOLLOW_S)
        finally:
            self._cancel.discard(woken.set)
        return lock_fd

    def _fetch(self, flight: Flight, route: Route, lock_fd: int) -> None:
        """Bring the blob into the file and verify it.

        Raises:
            BadContentError: it is not what its digest says; the file is gone then.
        """
        self._cancel.check()
        fd = os.open(flight.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if not flight.is_of(os.fstat(fd)):
            os.close(fd)
            message = f"{flight.digest}: what was followed turned out to be something else"
            raise BadContentError(message)
        flight.opened(fd)
        spool = Spool(fd, digests.algorithm(flight.digest), flight.note)
        try:
            self._fill(spool, flight, route, lock_fd)
        except OSError as error:
            if error.errno == errno.ENOSPC:  # gives back the room, which may be what there was too little of
                flight.path.unlink(missing_ok=True)
            raise
        if spool.digest != flight.digest:
            flight.path.unlink(missing_ok=True)
            message = f"what upstream sent for {flight.digest} is something else"
            raise BadContentError(message)

    def _fill(self, spool: Spool, flight: Flight, route: Route, lock_fd: int) -> None:
        retries = Retries(self._policy, self._cancel)
        if spool.size and spool.size == recorded_size(lock_fd):
            flight.note(spool.size, spool.size)
            return
        first = self._first_response(spool, route, retries)
        size = _whole_size(first, spool.size)
        if size is None and not (size := route.verify()):
            abandon(first)
            message = f"upstream does not say how large {flight.digest} is"
            raise BadContentError(message)
        os.ftruncate(lock_fd, 0)
        os.pwrite(lock_fd, b"%d" % size, 0)
        flight.note(spool.size, size)
        waiting = [first]
        try:
            fetch(lambda offset: waiting.pop() if waiting else route.open_at(offset), size, spool,
                  retries=retries, cancel=self._cancel, on_bytes=lambda _have: None)
        finally:
            for response in waiting:
                abandon(response)

    def _first_response(self, spool: Spool, route: Route, retries: Retries) -> HTTPResponse:
        while True:
            try:
                return route.open_at(spool.size)
            except RegistryError as error:
                if isinstance(error, RefusedError) and error.status == 416 and spool.size:
                    spool.reset()
                    continue
                retries.failed(error, progressed=False)


def _whole_size(response: HTTPResponse, offset: int) -> int | None:
    """Size of the blob that a reply from ``offset`` belongs to."""
    if response.status == 206:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
        if total.isdigit():
            return int(total)
    length = response.headers.get("Content-Length", "")
    if not length.isdigit() or response.headers.get("Content-Encoding", "identity") != "identity":
        return None
    return int(length) + (offset if response.status == 206 else 0)
