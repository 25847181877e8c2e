"""Checking passwords against an htpasswd file.

Owns   the file's present content, and which passwords were right a while ago.
Runs   in any thread; ``remembers`` also on a loop.
Needs  the ``bcrypt`` package.

bcrypt takes a tenth of a second on purpose and basic authentication comes with every request. A password that was
right is remembered for some minutes, a wrong one for seconds, as an HMAC of user, hash and password under a
key that dies with the process; a changed hash is another entry, so a changed password counts at once.
Requests with the same password at the same time wait for one computation, and only so many run at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
import secrets
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError
from pallet.registry.auth import htpasswd
from pallet.registry.codes import RegistryHttpError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

logger = logging.getLogger(__name__)

_REMEMBER_S = 300.0
_REMEMBER_WRONG_S = 10.0
_REMEMBERED = 4096
_MAX_PASSWORD_BYTES = 4096
_SETTLED_NS = 100_000_000
"""A file changed more recently may change again within a tick of the clock that stamps it."""
_WAITING = 16
"""Checks under way or waiting, beyond which clients are told to come again."""


class Passwords:
    """Users of an htpasswd file, or of a mapping from names to hashes.

    Args:
        source: a path, read now (InvalidParameterError) and whenever it changes.
    """

    def __init__(self, source: Path | Mapping[str, str], *, now: Callable[[], float] = time.monotonic) -> None:
        self._path = source if isinstance(source, Path) else None
        self._now = now
        self._stamp: tuple[int, ...] | None = None
        if isinstance(source, Path):
            self._stamp = self._stat()
        self._hashes: Mapping[str, str] = (
            htpasswd.read(source) if isinstance(source, Path) else dict(source))
        self._reading = threading.Lock()
        self._problem = ""
        self._key = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, tuple[bool, float]] = OrderedDict()
        self._lock = threading.Lock()
        self._flights: dict[bytes, threading.Lock] = {}
        self._slots = threading.BoundedSemaphore(max(1, (os.cpu_count() or 1) // 2))
        self._decoy = ""

    def knows(self, name: str) -> bool:
        """Whether there is such a user just now."""
        return name in self._current()

    def fingerprint(self, name: str) -> str:
        """Something that changes with the user's password; "" when there is no such user."""
        hashed = self._current().get(name)
        return hashlib.sha256(f"{name}\0{hashed}".encode()).hexdigest()[:32] if hashed else ""

    def remembers(self, name: str, password: str) -> bool:
        """Whether this was found right lately; never slow."""
        hashed = self._current().get(name)
        return hashed is not None and self._answer(self._mac(name, hashed, password)) is True

    def check(self, name: str, password: str) -> bool:
        """Whether the password is right; an unknown name takes as long as a wrong password.

        Raises:
            RegistryHttpError: TOOMANYREQUESTS, when too many checks are waiting.
        """
        data = password.encode("utf-8", "surrogatepass")
        if not data or len(data) > _MAX_PASSWORD_BYTES or b"\0" in data:
            return False  # no hash was made of such; what it is is no secret
        hashed = self._current().get(name)
        mac = self._mac(name, hashed or "", password)
        if self._answer(mac):
            return True
        with self._flight(mac):
            known = self._answer(mac)
            if known is not None:
                return known
            with self._slots:
                right = _matches(data, hashed or self._some_hash()) and hashed is not None
            self._remember(mac, right=right)
            return right

    def _answer(self, mac: bytes) -> bool | None:
        with self._lock:
            right, until = self._known.get(mac, (False, 0.0))
            return right if until > self._now() else None

    @contextlib.contextmanager
    def _flight(self, mac: bytes) -> Iterator[None]:
        with self._lock:
            if len(self._flights) >= _WAITING and mac not in self._flights:
                raise RegistryHttpError(
                    "TOOMANYREQUESTS", message="too many logins at once", headers={"Retry-After": "1"})
            flight = self._flights.setdefault(mac, threading.Lock())
        with flight:
            try:
                yield
            finally:
                with self._lock:
                    self._flights.pop(mac, None)

    def _remember(self, mac: bytes, *, right: bool) -> None:
        with self._lock:
            self._known[mac] = (right, self._now() + (_REMEMBER_S if right else _REMEMBER_WRONG_S))
            self._known.move_to_end(mac)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)

    def _mac(self, name: str, hashed: str, password: str) -> bytes:
        text = f"{name}\0{hashed}\0{password}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, text, "sha256")

    def _some_hash(self) -> str:
        """One that takes as long as the users' own."""
        found = next(iter(self._hashes.values()), "")
        if found:
            return found
        if not self._decoy:
            self._decoy = htpasswd.hash_password(secrets.token_hex(16))
        return self._decoy

    def _stat(self) -> tuple[int, ...]:
        """What changes with the file; () when there is none."""
        assert self._path is not None
        try:
            status = os.stat(self._path)
        except OSError:
            return ()
        if time.time_ns() - status.st_mtime_ns < _SETTLED_NS:
            return status.st_mtime_ns, status.st_ino, status.st_size, time.monotonic_ns()
        return status.st_mtime_ns, status.st_ino, status.st_size

    def _current(self) -> Mapping[str, str]:
        """The users, read again when the file is another one; a file that is wrong changes nothing."""
        if self._path is None:
            return self._hashes
        stamp = self._stat()
        if stamp == self._stamp:
            return self._hashes
        with self._reading:
            if stamp == self._stamp:
                return self._hashes
            self._stamp = stamp
            try:
                self._hashes = htpasswd.read(self._path)
            except InvalidParameterError as error:
                if str(error) != self._problem:
                    logger.error("the users stay as they were: %s", error)  # noqa: TRY400 - no traceback wanted
                self._problem = str(error)
            else:
                self._problem = ""
                logger.debug("read %d users from %s", len(self._hashes), self._path)
        return self._hashes


def _matches(data: bytes, hashed: str) -> bool:
    import bcrypt
    # What htpasswd(1) makes of a longer password is the hash of its first 72 bytes.
    return bcrypt.checkpw(data[:htpasswd.MAX_PASSWORD_BYTES], hashed.encode())
