"""Network sandboxes: a pool of namespaces whose ``eth0`` is already on the bridge.

Owns   the pool. Zygote children make the sandboxes (``zygote/netsandbox.py``); a sandbox exists
       only through its descriptor.
Runs   on the loop.
Needs  the zygote.
Spec   libnetwork's sandbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from pallet.errors import PalletError, SystemFailureError
from pallet.zygote.netsandbox import MakeSandboxes, Plan

if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Callable, Sequence

    from pallet.network.model import SandboxSource

logger = logging.getLogger(__name__)

REFILL_DELAY_S = 0.004
"""A start's own work goes before the next sandboxes."""
BATCH_MAX = 4
"""Sandboxes of one fork: more would keep those who wait for the first of them."""
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """Addresses and names of one sandbox."""

    endpoint_id: str
    sandbox_id: str
    link: str
    """Name of the host's end."""
    mac: str
    address: ipaddress.IPv4Interface
    gateway: ipaddress.IPv4Address
    address6: ipaddress.IPv6Interface | None = None
    gateway6: ipaddress.IPv6Address | None = None

    def plan(self) -> Plan:
        """The part that the worker needs."""
        return Plan(
            link=self.link, mac=self.mac, address=str(self.address), gateway=str(self.gateway),
            address6=str(self.address6 or ""), gateway6=str(self.gateway6 or ""))


@dataclass(frozen=True, slots=True)
class Ready:
    """A sandbox; whoever holds it closes ``netns_fd``."""

    netns_fd: int
    wiring: Wiring


@dataclass(frozen=True, slots=True, kw_only=True)
class PortFlags:
    """How bridge ports are made."""

    bridge: int
    """Index of the bridge."""
    mtu: int
    isolated: bool = False
    hairpin: bool = False


def new_identity() -> tuple[str, str]:
    """Return a fresh endpoint id and sandbox id, 64 hex digits each."""
    both = secrets.token_hex(64)
    return both[:64], both[64:]


def link_name(endpoint_id: str) -> str:
    """Name of the host's end of an endpoint's veth pair, in Docker's form."""
    return f"veth{endpoint_id[:7]}"


class SandboxPool:
    """Sandboxes made ahead of need, by one task that also serves those who find none."""

    def __init__(
        self, *, size: int, source: SandboxSource, port: PortFlags,
        wire: Callable[[], Wiring], unwire: Callable[[Wiring], None],
    ) -> None:
        """``wire`` takes addresses for a new sandbox, ``unwire`` gives them back."""
        self._size = size
        self._low = size // 2
        self._source = source
        self._port = port
        self._wire = wire
        self._unwire = unwire
        self._ready: list[Ready] = []
        self._waiting: list[asyncio.Future[Ready]] = []
        self._wanted = asyncio.Event()
        """Someone waits: cuts the filler's pause short."""
        self._filler: asyncio.Task[None] | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._ready)

    async def take(self) -> Ready:
        """Return a sandbox; waits for one to be made if none is ready.

        Raises:
            SystemFailureError: it cannot be made.
        """
        if self._ready:
            ready = self._ready.pop(0)
            self.refill()
            return ready
        waiter: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._wanted.set()
        self.refill()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._discard(waiter.result())
            raise

    async def make(self, wirings: Sequence[Wiring]) -> list[Ready]:
        """Make sandboxes outside of the pool; gives their addresses back if that fails.

        Raises:
            SystemFailureError: the kernel refused one of them; none is left.
        """
        port = self._port
        request = MakeSandboxes(
            bridge=port.bridge, mtu=port.mtu, isolated=port.isolated, hairpin=port.hairpin,
            plans=[wiring.plan() for wiring in wirings])
        try:
            _reply, fds = await self._source.run_raw_worker(
                "network.sandboxes", _encoder.encode(request))
        except BaseException as error:
            for wiring in wirings:
                self._unwire(wiring)
            if isinstance(error, (PalletError, OSError)):
                message = f"failed to create endpoint on network bridge: {error}"
                raise SystemFailureError(message) from error
            raise
        return [Ready(fd, wiring) for fd, wiring in zip(fds, wirings, strict=True)]

    def refill(self) -> None:
        """Start making sandboxes in the background if few are left or someone waits."""
        if self._closed or (len(self._ready) > self._low and not self._waiting):
            return
        if len(self._ready) >= self._size and not self._waiting:
            return
        if self._filler is None or self._filler.done():
            self._filler = asyncio.get_running_loop().create_task(self._fill())

    async def _fill(self) -> None:
        while self._waiting or len(self._ready) < self._size:
            if not self._waiting and self._ready:
                await self._pause()
            count = len(self._waiting) or self._size - len(self._ready)
            port = self._port
            try:
                made = await self.make(self._wired(min(count, BATCH_MAX)))
            except (PalletError, OSError) as error:
                if not self._failed(error):
                    return
                continue
            for ready in made:
                self._hand_out(ready, port)

    def _wired(self, count: int) -> list[Wiring]:
        wirings: list[Wiring] = []
        try:
            while len(wirings) < count:
                wirings.append(self._wire())
        except PalletError:
            if not wirings:  # one that is wanted now is worth more than a full batch
                raise
        return wirings

    async def _pause(self) -> None:
        self._wanted.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REFILL_DELAY_S):
                await self._wanted.wait()

    def _failed(self, error: PalletError | OSError) -> bool:
        """Tell those who waited for this batch; False if nobody did."""
        waiting, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
        for waiter in waiting:
            if not waiter.done():
                waiter.set_exception(error)
        if not waiting:
            # The next start that finds the pool empty tries for itself and reports the reason.
            logger.warning("cannot make network sandboxes ahead of need: %s", error)
        return bool(waiting)

    def _hand_out(self, ready: Ready, port: PortFlags) -> None:
        if port is not self._port or self._closed:
            # The bridge was made anew meanwhile: this one hangs in the air.
            self._discard(ready)
            return
        while self._waiting:
            waiter = self._waiting.pop(0)
            if not waiter.done():
                waiter.set_result(ready)
                return
        self._ready.append(ready)

    def _discard(self, ready: Ready) -> None:
        os.close(ready.netns_fd)
        self._unwire(ready.wiring)

    def use(self, port: PortFlags) -> None:
        """Attach what is made from now on to another bridge, and drop what is ready."""
        self._port = port
        self.drop_all()

    async def close(self) -> None:
        """Stop filling and drop every sandbox."""
        self._closed = True
        if self._filler is not None:
            self._filler.cancel()
            await asyncio.gather(self._filler, return_exceptions=True)
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(SystemFailureError("the daemon is shutting down"))
        self.drop_all()

    def drop_all(self) -> None:
        """Drop every sandbox that is ready."""
        while self._ready:
            self._discard(self._ready.pop())
