"""Network sandboxes: a namespace whose ``eth0`` is already on the bridge, and a pool of them.

Owns   the pool. A sandbox exists only through descriptors: when the last is closed, by whatever
       death, the kernel removes namespace and veth pair.
Runs   the pool on the loop, ``furnish`` on the blocking pool.
Needs  CAP_NET_ADMIN; the zygote for new namespaces.
Spec   libnetwork's sandbox; veth(4).
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pallet import aio
from pallet.errors import SyscallError, SystemFailureError
from pallet.linux import netlink

if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Callable

    from pallet.network.model import NetnsSource

logger = logging.getLogger(__name__)

REFILL_DELAY_S = 0.004
"""A start's own work goes before the next sandbox, unless the pool is empty."""
_RETRY_S = 1.0
LOOPBACK = 1
"""Index of ``lo`` in every namespace."""


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


@dataclass(frozen=True, slots=True)
class Ready:
    """A furnished sandbox; whoever holds it closes ``netns_fd``."""

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


class Plumber:
    """Furnishes namespaces: one netlink socket on the host side, one user at a time."""

    def __init__(self, host: netlink.Netlink) -> None:
        self._host = host
        self.lock = threading.Lock()
        """Held around every use of the host's socket."""

    def furnish(self, netns_fd: int, netlink_fd: int, wiring: Wiring, port: PortFlags) -> None:
        """Make the veth pair, set addresses and routes. Takes over ``netlink_fd``.

        Raises:
            SyscallError: the kernel refused; the pair, if any, dies with the namespace.
        """
        with self.lock, netlink.Netlink(fd=netlink_fd) as inside:
            messages = [netlink.veth_add(
                wiring.link, master=port.bridge, mtu=port.mtu, peer_name="eth0",
                peer_netns_fd=netns_fd, peer_mac=wiring.mac)]
            if port.isolated or port.hairpin:
                messages.append(netlink.bridge_port_set(
                    wiring.link, isolated=port.isolated, hairpin=port.hairpin))
            self._host.request(*messages)
            found = netlink.find_link(inside, "eth0")
            if found is None:
                raise SyscallError("get link", 19, "eth0")
            number = found.number
            messages = [netlink.link_up(LOOPBACK)]
            if wiring.address6 is None:
                messages.append(netlink.link_without_ipv6_address(number))
            messages += [netlink.link_up(number), netlink.address_add(number, wiring.address),
                         netlink.default_route_add(number, wiring.gateway)]
            if wiring.address6 is not None and wiring.gateway6 is not None:
                messages += [netlink.address_add(number, wiring.address6),
                             netlink.default_route_add(number, wiring.gateway6)]
            inside.request(*messages)


class SandboxPool:
    """Sandboxes made ahead of need."""

    def __init__(
        self, *, size: int, netns: NetnsSource, plumber: Plumber, port: PortFlags,
        wire: Callable[[], Wiring], unwire: Callable[[Wiring], None],
    ) -> None:
        """``wire`` takes addresses for a new sandbox, ``unwire`` gives them back."""
        self._size = size
        self._netns = netns
        self._plumber = plumber
        self._port = port
        self._wire = wire
        self._unwire = unwire
        self._ready: list[Ready] = []
        self._refill: asyncio.Task[None] | None = None
        self._working: set[asyncio.Future[None]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._ready)

    async def take(self) -> Ready:
        """Return a sandbox, made now if none is ready.

        Raises:
            SystemFailureError: it cannot be made.
        """
        ready = self._ready.pop(0) if self._ready else await self.make(self._wire())
        self.refill()
        return ready

    async def make(self, wiring: Wiring) -> Ready:
        """Make a sandbox for ``wiring``; gives the addresses back if that fails.

        Raises:
            SystemFailureError: as above.
        """
        try:
            return Ready(await self._furnished(wiring), wiring)
        except BaseException:
            self._unwire(wiring)
            raise

    async def _furnished(self, wiring: Wiring) -> int:
        netns_fd, netlink_fd = await self._netns.new_netns()
        # In a thread that goes on when the caller is cancelled: it then still owns both fds.
        work = asyncio.ensure_future(aio.run_blocking(
            self._plumber.furnish, netns_fd, netlink_fd, wiring, self._port))
        self._working.add(work)
        work.add_done_callback(self._working.discard)
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            def discard(done: asyncio.Future[None]) -> None:
                if not done.cancelled():
                    done.exception()
                os.close(netns_fd)

            work.add_done_callback(discard)
            raise
        except SyscallError as error:
            os.close(netns_fd)
            message = f"failed to create endpoint on network bridge: {error}"
            raise SystemFailureError(message) from error
        return netns_fd

    def refill(self) -> None:
        """Start filling the pool up in the background."""
        if self._closed or len(self._ready) >= self._size:
            return
        if self._refill is None or self._refill.done():
            self._refill = asyncio.get_running_loop().create_task(self._fill())

    async def _fill(self) -> None:
        while len(self._ready) < self._size:
            if self._ready:
                await asyncio.sleep(REFILL_DELAY_S)
            port = self._port
            try:
                ready = await self.make(self._wire())
            except (SystemFailureError, OSError) as error:
                # A start that needs one meanwhile tries for itself and reports the reason.
                logger.warning("cannot make a network sandbox ahead of need: %s", error)
                await asyncio.sleep(_RETRY_S)
                continue
            if port is self._port and not self._closed:
                self._ready.append(ready)
            else:  # the bridge was made anew meanwhile: this one hangs in the air
                os.close(ready.netns_fd)
                self._unwire(ready.wiring)

    def use_bridge(self, number: int) -> None:
        """Attach what is made from now on to another bridge."""
        self._port = replace(self._port, bridge=number)

    async def close(self) -> None:
        """Stop filling and drop every sandbox."""
        self._closed = True
        if self._refill is not None:
            self._refill.cancel()
            await asyncio.gather(self._refill, return_exceptions=True)
        # A thread that was furnishing a sandbox still uses the host's socket.
        await asyncio.gather(*self._working, return_exceptions=True)
        self.drop_all()

    def drop_all(self) -> None:
        """Drop every sandbox that is ready."""
        while self._ready:
            ready = self._ready.pop()
            os.close(ready.netns_fd)
            self._unwire(ready.wiring)
