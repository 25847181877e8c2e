"""Networks, endpoints and port bindings.

Spec   Engine API Network, EndpointSettings, NetworkingConfig, PortMap.
"""

from __future__ import annotations

from msgspec import UNSET, Struct, field

from pallet.spec.engine.wire import Maybe


class PortBinding(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Where a container port is published; an empty ``host_port`` takes a free one."""

    host_ip: str = ""
    host_port: str = ""


PortMap = dict[str, list[PortBinding] | None]
"""``"80/tcp"`` to its bindings; None is an exposed port that is not published."""


class EndpointIPAMConfig(Struct, frozen=True, kw_only=True):
    """Addresses a client asks for."""

    ipv4_address: Maybe[str] = field(name="IPv4Address", default=UNSET)
    ipv6_address: Maybe[str] = field(name="IPv6Address", default=UNSET)
    link_local_ips: Maybe[list[str]] = field(name="LinkLocalIPs", default=UNSET)


class EndpointSettings(Struct, frozen=True, kw_only=True, rename="pascal"):
    """A container's place in one network: what was asked for and what it got."""

    ipam_config: EndpointIPAMConfig | None = field(name="IPAMConfig", default=None)
    links: list[str] | None = None
    aliases: list[str] | None = None
    mac_address: str = ""
    driver_opts: dict[str, str] | None = None
    gw_priority: int = 0
    network_id: str = field(name="NetworkID", default="")
    endpoint_id: str = field(name="EndpointID", default="")
    gateway: str = ""
    ip_address: str = field(name="IPAddress", default="")
    ip_prefix_len: int = field(name="IPPrefixLen", default=0)
    ipv6_gateway: str = field(name="IPv6Gateway", default="")
    global_ipv6_address: str = field(name="GlobalIPv6Address", default="")
    global_ipv6_prefix_len: int = field(name="GlobalIPv6PrefixLen", default=0)
    dns_names: list[str] | None = field(name="DNSNames", default=None)


class NetworkingConfig(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Networks of a container at its creation, by name or id; None lets the mode decide."""

    endpoints_config: dict[str, EndpointSettings | None] | None = None


class Address(Struct, frozen=True, kw_only=True, rename="pascal"):
    """A secondary address."""

    addr: str = ""
    prefix_len: int = 0


class NetworkSettings(Struct, frozen=True, kw_only=True, rename="pascal"):
    """``NetworkSettings`` of a container inspect.

    The fields after ``ports`` repeat the default bridge's endpoint for clients older than 1.52.
    """

    bridge: str = ""
    sandbox_id: str = field(name="SandboxID", default="")
    sandbox_key: str = ""
    ports: PortMap = {}
    hairpin_mode: bool = False
    link_local_ipv6_address: str = field(name="LinkLocalIPv6Address", default="")
    link_local_ipv6_prefix_len: int = field(name="LinkLocalIPv6PrefixLen", default=0)
    secondary_ip_addresses: list[Address] | None = field(
        name="SecondaryIPAddresses", default=None)
    secondary_ipv6_addresses: list[Address] | None = field(
        name="SecondaryIPv6Addresses", default=None)
    endpoint_id: str = field(name="EndpointID", default="")
    gateway: str = ""
    global_ipv6_address: str = field(name="GlobalIPv6Address", default="")
    global_ipv6_prefix_len: int = field(name="GlobalIPv6PrefixLen", default=0)
    ip_address: str = field(name="IPAddress", default="")
    ip_prefix_len: int = field(name="IPPrefixLen", default=0)
    ipv6_gateway: str = field(name="IPv6Gateway", default="")
    mac_address: str = ""
    networks: dict[str, EndpointSettings] = {}


class IPAMPool(Struct, frozen=True, kw_only=True, rename="pascal"):
    """One address pool of a network (``IPAM.Config[]``)."""

    subnet: Maybe[str] = UNSET
    ip_range: Maybe[str] = field(name="IPRange", default=UNSET)
    gateway: Maybe[str] = UNSET
    auxiliary_addresses: Maybe[dict[str, str]] = UNSET


class IPAM(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Address management of a network."""

    driver: str = "default"
    options: dict[str, str] | None = None
    config: list[IPAMPool] | None = None


class ConfigReference(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Network that provides another's configuration."""

    network: str = ""


class EndpointResource(Struct, frozen=True, kw_only=True):
    """A container in a network inspect; addresses in CIDR form."""

    name: str = field(name="Name", default="")
    endpoint_id: str = field(name="EndpointID", default="")
    mac_address: str = field(name="MacAddress", default="")
    ipv4_address: str = field(name="IPv4Address", default="")
    ipv6_address: str = field(name="IPv6Address", default="")


class NetworkSummary(Struct, frozen=True, kw_only=True, rename="pascal"):
    """One network of a list, and of an inspect (which fills ``containers``)."""

    name: str
    id: str
    created: str
    scope: str = "local"
    driver: str = "bridge"
    enable_ipv4: bool = field(name="EnableIPv4", default=True)
    enable_ipv6: bool = field(name="EnableIPv6", default=False)
    ipam: IPAM = field(name="IPAM", default_factory=IPAM)
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_from: ConfigReference = ConfigReference()
    config_only: bool = False
    containers: dict[str, EndpointResource] = {}
    options: dict[str, str] | None = {}
    labels: dict[str, str] | None = {}


class NetworkCreateRequest(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Body of ``POST /networks/create``; user-defined networks add the rest."""

    name: str = ""


class NetworkCreateResponse(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Reply of ``POST /networks/create``."""

    id: str
    warning: str = ""


class NetworkPruneResponse(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Names of the networks that a prune removed; null when there were none."""

    networks_deleted: list[str] | None = None


NetworkInspect = NetworkSummary
