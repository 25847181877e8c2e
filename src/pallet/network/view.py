"""Endpoints as the Engine API shows them, and what a create request may ask of a network.

Owns   pure functions.
Runs   anywhere.
Spec   Engine API NetworkSettings, EndpointSettings, PortSummary, EndpointResource.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError
from pallet.network import portmap
from pallet.spec.engine.container import Port
from pallet.spec.engine.network import (
    EndpointResource,
    EndpointSettings,
    NetworkSettings,
    PortBinding,
)
from pallet.spec.engine.wire import given

if TYPE_CHECKING:
    from pallet.network.model import Endpoint
    from pallet.spec.engine.config import ContainerConfig
    from pallet.spec.engine.host_config import HostConfig
    from pallet.spec.engine.network import PortMap


def endpoint_settings(endpoint: Endpoint) -> EndpointSettings:
    """One entry of ``NetworkSettings.Networks``."""
    return EndpointSettings(
        mac_address=endpoint.mac, network_id=endpoint.network_id,
        endpoint_id=endpoint.endpoint_id, gateway=endpoint.gateway, ip_address=endpoint.ip,
        ip_prefix_len=endpoint.prefix_len, ipv6_gateway=endpoint.gateway6,
        global_ipv6_address=endpoint.ip6, global_ipv6_prefix_len=endpoint.prefix_len6)


def network_settings(endpoint: Endpoint | None, pid: int) -> NetworkSettings:
    """``NetworkSettings`` of a container inspect.

    Args:
        endpoint: what the container has or, stopped, had last; None before its first start and
            in ``container:ID`` mode.
        pid: of its init process, 0 if it does not run. ``SandboxKey`` leads through it: the
            namespace is held by the container itself and not mounted anywhere.
    """
    if endpoint is None:
        return NetworkSettings()
    networks = {endpoint.network_name: endpoint_settings(endpoint)}
    sandbox_key = f"/proc/{pid}/ns/net" if pid and endpoint.sandbox_id else ""
    if endpoint.network_name != "bridge":
        return NetworkSettings(
            sandbox_id=endpoint.sandbox_id, sandbox_key=sandbox_key, ports=port_map(endpoint),
            networks=networks)
    return NetworkSettings(
        sandbox_id=endpoint.sandbox_id, sandbox_key=sandbox_key, ports=port_map(endpoint),
        endpoint_id=endpoint.endpoint_id, gateway=endpoint.gateway,
        global_ipv6_address=endpoint.ip6, global_ipv6_prefix_len=endpoint.prefix_len6,
        ip_address=endpoint.ip, ip_prefix_len=endpoint.prefix_len, ipv6_gateway=endpoint.gateway6,
        mac_address=endpoint.mac, networks=networks)


def port_map(endpoint: Endpoint) -> PortMap:
    """``NetworkSettings.Ports``: exposed ports that are not published have None."""
    found: PortMap = dict.fromkeys(endpoint.exposed)
    for port in endpoint.ports:
        bindings = found.setdefault(f"{port.container_port}/{port.proto}", None) or []
        bindings.append(PortBinding(host_ip=port.host_ip, host_port=str(port.host_port)))
        found[f"{port.container_port}/{port.proto}"] = bindings
    return found


def port_list(endpoint: Endpoint | None) -> list[Port]:
    """``Ports`` of a container list; empty unless the container runs."""
    if endpoint is None:
        return []
    found = []
    for key, bindings in port_map(endpoint).items():
        number, proto = portmap.parse_port(key)
        if bindings is None:
            found.append(Port(private_port=number, type=proto))
            continue
        found += [Port(ip=one.host_ip, private_port=number, public_port=int(one.host_port),
                       type=proto) for one in bindings]
    return found


def endpoint_resource(endpoint: Endpoint, name: str) -> EndpointResource:
    """One entry of a network inspect's ``Containers``."""
    return EndpointResource(
        name=name, endpoint_id=endpoint.endpoint_id, mac_address=endpoint.mac,
        ipv4_address=f"{endpoint.ip}/{endpoint.prefix_len}" if endpoint.ip else "",
        ipv6_address=f"{endpoint.ip6}/{endpoint.prefix_len6}" if endpoint.ip6 else "")


def check_request(
    config: ContainerConfig, host: HostConfig, settings: EndpointSettings | None,
) -> None:
    """Refuse at create what its network could never give a container.

    Raises:
        InvalidParameterError: in Docker's words.
    """
    for key, bindings in (host.port_bindings or {}).items():
        portmap.parse_port(key)
        for binding in bindings or ():
            portmap.parse_host_port(binding.host_port)
    for key in given(config.exposed_ports) or ():
        portmap.parse_port(key)
    mode = host.network_mode
    if settings is None or mode not in {"", "default", "bridge", "host", "none"}:
        return
    name = "bridge" if mode in {"", "default"} else mode
    reason = _refusal(settings)
    if reason:
        message = f"invalid config for network {name}: invalid endpoint settings:\n{reason}"
        raise InvalidParameterError(message)


def _refusal(settings: EndpointSettings) -> str:
    wanted = settings.ipam_config
    if wanted is not None and (
            wanted.ipv4_address or wanted.ipv6_address or wanted.link_local_ips):
        return "user specified IP address is supported on user defined networks only"
    if settings.aliases:
        return "network-scoped aliases are only supported for user-defined networks"
    return ""
