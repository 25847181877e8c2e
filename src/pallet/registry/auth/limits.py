"""Rates: token buckets by user or address, shared by the worker processes of one registry.

Owns   the buckets.
Runs   in any thread of any worker; microseconds, so also on a loop.
Needs  to be made before workers are forked: the table is an anonymous map that they share.
Spec   RFC 6585 (429); Docker Hub's ``RateLimit-Limit``, ``RateLimit-Remaining``, ``Docker-RateLimit-Source``.

The table has a fixed number of slots: each bucket may be in one of eight places, and where all are taken the
one that has been quiet longest makes way, which is the one nearest to being full again. An attacker with many
addresses can so make others' limits forgotten, never make others refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import ipaddress
import math
import mmap
import os
import secrets
import struct
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from pallet.registry.auth.settings import Rate, parse_rate
from pallet.registry.codes import RegistryHttpError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pallet.registry.auth.settings import LimitsConfig

_SLOT = struct.Struct("=8sdd")
"""Key, tokens taken, when (monotonic seconds). All zero: free."""
_WAYS: Final = 8
_SETS: Final = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Outcome of taking from a bucket."""

    allowed: bool
    remaining: int
    retry_s: float
    """Until the next one is allowed; 0 when this was."""


class Buckets:
    """Levels by key."""

    def __init__(self, *, sets: int = _SETS, now: Callable[[], float] = time.monotonic) -> None:
        self._sets = sets
        self._now = now
        self._map = mmap.mmap(-1, sets * _WAYS * _SLOT.size)
        self._salt = secrets.token_bytes(16)
        self._thread_lock = threading.Lock()
        # POSIX record locks are a process's: workers exclude each other, and a killed one holds none.
        self._lock_fd = os.memfd_create("pallet-limits", os.MFD_CLOEXEC)

    def take(self, kind: str, subject: str, rate: Rate, *, amount: int = 1) -> Taken:
        """Take ``amount`` (0 looks only) from the bucket of ``subject``; nothing when there is not enough."""
        digest = hashlib.blake2b(f"{kind}\0{subject}".encode("utf-8", "surrogatepass"), key=self._salt,
                                 digest_size=16).digest()
        key, first = digest[:8], int.from_bytes(digest[8:]) % self._sets * _WAYS * _SLOT.size
        with self._thread_lock:
            fcntl.lockf(self._lock_fd, fcntl.LOCK_EX)
            try:
                return self._take(key, first, rate, amount)
            finally:
                fcntl.lockf(self._lock_fd, fcntl.LOCK_UN)

    def _take(self, key: bytes, first: int, rate: Rate, amount: int) -> Taken:
        now, speed = self._now(), rate.count / rate.period_s
        place, used = first, 0.0
        oldest = math.inf
        for offset in range(first, first + _WAYS * _SLOT.size, _SLOT.size):
            found, level, at = _SLOT.unpack_from(self._map, offset)
            if found == key:
                place, used = offset, max(0.0, level - (now - at) * speed)
                break
            if at < oldest:
                oldest, place = at, offset
        # The tolerance is for rounding: a bucket that refilled for exactly one period is full.
        allowed = used + amount <= rate.count + 1e-6
        if allowed and amount:
            used += amount
            _SLOT.pack_into(self._map, place, key, used, now)
        remaining = max(0, math.floor(rate.count - used + 1e-6))
        return Taken(allowed=allowed, remaining=remaining,
                     retry_s=0.0 if allowed else (used + amount - rate.count) / speed)

    def __del__(self) -> None:
        """Let go of the lock; the map does so by itself."""
        if hasattr(self, "_lock_fd"):
            os.close(self._lock_fd)


class Limits:
    """The rates of ``[limits]``."""

    def __init__(self, config: LimitsConfig, buckets: Buckets | None = None) -> None:
        """Read the rates (InvalidParameterError); ``buckets`` go on with what earlier settings counted."""
        self._requests = parse_rate(config.requests, "requests")
        self._anonymous_requests = parse_rate(config.anonymous_requests, "anonymous_requests")
        self._pulls = parse_rate(config.pulls, "pulls")
        self._anonymous_pulls = parse_rate(config.anonymous_pulls, "anonymous_pulls")
        self._failures = parse_rate(config.login_failures, "login_failures")
        self.buckets = buckets or Buckets()

    @property
    def concern_pulls(self) -> bool:
        """Whether replies to pulls tell how many are left."""
        return self._pulls is not None or self._anonymous_pulls is not None

    @property
    def concern_requests(self) -> bool:
        """Whether anything but wrong passwords is limited."""
        return self.concern_pulls or self._requests is not None or self._anonymous_requests is not None

    def request(self, user: str, peer: str) -> None:
        """Count a request.

        Raises:
            RegistryHttpError: TOOMANYREQUESTS.
        """
        rate = self._requests if user else self._anonymous_requests
        if rate is not None:
            kind, subject = _subject(user, peer)
            taken = self.buckets.take(f"request-{kind}", subject, rate)
            if not taken.allowed:
                raise _too_many("too many requests", taken, {})

    def pull(self, user: str, peer: str, *, counted: bool) -> dict[str, str]:
        """Count a manifest's GET (a HEAD is free), and tell what is left.

        Raises:
            RegistryHttpError: TOOMANYREQUESTS, in Docker Hub's words.
        """
        rate = self._pulls if user else self._anonymous_pulls
        if rate is None:
            return {}
        kind, subject = _subject(user, peer)
        taken = self.buckets.take(f"pull-{kind}", subject, rate, amount=int(counted))
        window = f";w={math.ceil(rate.period_s)}"
        headers = {"RateLimit-Limit": f"{rate.count}{window}",
                   "RateLimit-Remaining": f"{taken.remaining}{window}",
                   "Docker-RateLimit-Source": quote(subject, safe=" :/@+")}
        if not taken.allowed:
            more = "" if user else " You may increase the limit by authenticating."
            raise _too_many(f"You have reached your {'' if user else 'unauthenticated '}pull rate limit.{more}",
                            taken, headers)
        return headers

    def may_log_in(self, peer: str) -> None:
        """Refuse an address that tried too many wrong passwords (TOOMANYREQUESTS)."""
        if self._failures is not None:
            taken = self.buckets.take("login", _network(peer), self._failures, amount=0)
            if taken.remaining < 1:
                raise _too_many("too many failed logins", Taken(
                    allowed=False, remaining=0, retry_s=self._failures.period_s / self._failures.count), {})

    def login_failed(self, peer: str) -> None:
        """Count a wrong password."""
        if self._failures is not None:
            self.buckets.take("login", _network(peer), self._failures)


def _subject(user: str, peer: str) -> tuple[str, str]:
    return ("user", user) if user else ("address", _network(peer))


def _network(peer: str) -> str:
    """What one client has for itself: an IPv4 address, or the first 64 bits of an IPv6 one."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    return str(address)


def _too_many(message: str, taken: Taken, headers: dict[str, str]) -> RegistryHttpError:
    return RegistryHttpError("TOOMANYREQUESTS", message=message, headers={
        **headers, "Retry-After": str(max(1, math.ceil(taken.retry_s)))})
