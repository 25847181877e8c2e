"""The one door to the network package: connect a container, release it, list networks.

Owns   the default bridge network and the ``host`` and ``none`` networks, their members, the pool
       of ready sandboxes.
Runs   on the daemon's event loop; kernel calls that may wait for the kernel's link lock run on
       the blocking pool.
Needs  CAP_NET_ADMIN in the daemon's network namespace; nf_tables if there is to be NAT.
Spec   Engine API NetworkInspect; libnetwork's bridge driver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pallet.config import BridgeConfig
    from pallet.network.model import (
        ConnectRequest,
        LiveEndpoint,
        Member,
        NetnsSource,
        NetworkRecord,
        NetworkStore,
        Sandbox,
    )


class NetworkController:
    """Networks of one daemon."""

    def __init__(self, config: BridgeConfig, *, store: NetworkStore, netns: NetnsSource) -> None:
        self._config = config
        self._store = store
        self._netns = netns
        self.warnings: list[str] = []
        """What does not work on this host, one sentence each; for ``info`` and ``doctor``."""

    async def start(self, live: Mapping[str, LiveEndpoint]) -> None:
        """Create or repair the bridge, its table and the built-in networks' records.

        Args:
            live: container id to endpoint of each container that runs on; every other endpoint
                of an earlier daemon is taken down (links, map elements, addresses).

        Raises:
            SystemFailureError: the bridge cannot be made, or no free address pool is left.
        """
        raise AssertionError

    async def connect(self, container_id: str, request: ConnectRequest) -> Sandbox:
        """Give a container its network: address, sandbox, published ports.

        Raises:
            NotFoundError: ``network x not found``.
            InvalidParameterError: addresses or ports that cannot be.
            SystemFailureError: a port is taken, the pool is exhausted, the kernel refuses.
        """
        raise AssertionError

    async def release(self, container_id: str) -> None:
        """Forget a container's endpoint and ports; harmless for an unknown one."""
        raise AssertionError

    async def close(self, *, keep: bool) -> None:
        """Empty the pool; with ``keep`` False and no member left remove bridge and table."""
        raise AssertionError

    def rename(self, container_id: str, name: str) -> None:
        """Note a container's new name (without slash)."""
        raise AssertionError

    def list(self) -> list[NetworkRecord]:
        """Every network, by name."""
        raise AssertionError

    def get(self, name_or_id: str) -> NetworkRecord:
        """Find a network by full id, name, or unique id prefix.

        Raises:
            NotFoundError: ``network x not found``.
            InvalidParameterError: several networks have this id prefix.
        """
        raise AssertionError

    def members(self, network_id: str) -> list[Member]:
        """Containers connected to a network."""
        raise AssertionError
