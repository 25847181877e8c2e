"""Reads a container create request and settles what depends on the client's API version.

Spec   Engine API ContainerCreate and its version gates; semantics "config".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET

from pallet.api.backends import CreateOptions
from pallet.errors import InvalidParameterError
from pallet.spec.engine import decode
from pallet.spec.engine.config import ContainerConfig
from pallet.spec.engine.container import ContainerCreateRequest
from pallet.spec.engine.host_config import HostConfig
from pallet.spec.engine.network import EndpointSettings, NetworkingConfig

if TYPE_CHECKING:
    from pallet.http.messages import Request

_CONFIG_FIELDS: Final = msgspec.structs.fields(ContainerConfig)
_CONFIG_KEYS: Final = frozenset(field.encode_name.lower() for field in _CONFIG_FIELDS)
_EMPTY: Final = "config cannot be empty in order to create a container"
_MAC_WARNING: Final = (
    "The container-wide MacAddress field is now deprecated. "
    "It should be specified in EndpointsConfig instead."
)


def read_create(request: Request, raw: bytes) -> tuple[CreateOptions, list[str]]:
    """Decode the request; return what to create and warnings for the reply.

    Raises:
        InvalidParameterError: no config, not JSON, wrong types, or contradictions that only
            the API can see.
    """
    if not raw.strip():
        raise InvalidParameterError(_EMPTY)
    value = decode.load_json(raw)
    if not isinstance(value, dict) or not any(
        part is not None and key.lower() in _CONFIG_KEYS for key, part in value.items()
    ):
        raise InvalidParameterError(_EMPTY)
    body = decode.from_value(ContainerCreateRequest, value)
    config = ContainerConfig(**{field.name: getattr(body, field.name) for field in _CONFIG_FIELDS})
    host_config = HostConfig() if body.host_config is UNSET else body.host_config
    networking = NetworkingConfig() if body.networking_config is UNSET else body.networking_config
    host_config = _settle_host_config(request.version, host_config)
    config = _settle_config(request.version, config)
    config, networking, warnings = _settle_mac(request.version, config, host_config, networking)
    _check_endpoints(request.version, networking)
    platform = request.query.get("platform") if request.version >= (1, 41) else ""
    return CreateOptions(
        name=request.query.get("name"), config=config, host_config=host_config,
        networking=networking, platform=platform), warnings


def _settle_config(version: tuple[int, int], config: ContainerConfig) -> ContainerConfig:
    health = config.healthcheck
    if version < (1, 44) and health is not UNSET and health.start_interval:
        config = msgspec.structs.replace(
            config, healthcheck=msgspec.structs.replace(health, start_interval=UNSET))
    return config


def _settle_host_config(version: tuple[int, int], host: HostConfig) -> HostConfig:
    changes: dict[str, Any] = {}
    if not host.network_mode:
        changes["network_mode"] = "default"
    if version < (1, 42):
        changes["console_size"] = (0, 0)
    else:
        changes["kernel_memory"] = UNSET
    if version < (1, 43):
        changes["annotations"] = UNSET
    if version < (1, 40) and not host.ipc_mode:
        changes["ipc_mode"] = "shareable"
    if host.pids_limit is not None and host.pids_limit <= 0:
        changes["pids_limit"] = None  # 0 and every negative number mean "no limit"
    if host.memory_swappiness == -1:
        changes["memory_swappiness"] = None  # what older clients send for "not set"
    if host.mounts:
        _check_mounts(version, host)
    return msgspec.structs.replace(host, **changes)


def _check_mounts(version: tuple[int, int], host: HostConfig) -> None:
    for mount in host.mounts or ():
        if mount.volume_options and mount.volume_options.subpath and version < (1, 45):
            msg = "VolumeOptions.Subpath needs API version 1.45 or newer"
            raise InvalidParameterError(msg)
        if mount.type == "image" and version < (1, 48):
            msg = "mount type image needs API version 1.48 or newer"
            raise InvalidParameterError(msg)


def _settle_mac(
    version: tuple[int, int], config: ContainerConfig, host: HostConfig, net: NetworkingConfig
) -> tuple[ContainerConfig, NetworkingConfig, list[str]]:
    """Move the container-wide MAC address to the endpoint of the container's network."""
    address = config.mac_address
    if not address:
        return config, net, []
    mode = host.network_mode
    if mode in ("none", "host") or mode.startswith("container:"):
        msg = "conflicting options: mac-address and the network mode"
        raise InvalidParameterError(msg)
    endpoints = dict(net.endpoints_config or {})
    key = mode
    if mode in ("default", "bridge", ""):
        key = next((name for name in ("default", "bridge") if name in endpoints), mode)
    endpoint = endpoints.get(key) or EndpointSettings()
    if endpoint.mac_address and endpoint.mac_address != address:
        msg = (f"the container-wide MAC address must match the endpoint-specific MAC address for "
               f"the main network, or be left empty: {address} != {endpoint.mac_address}")
        raise InvalidParameterError(msg)
    endpoints[key] = msgspec.structs.replace(endpoint, mac_address=address)
    warnings = [_MAC_WARNING] if version >= (1, 44) else []
    return config, msgspec.structs.replace(net, endpoints_config=endpoints), warnings


def _check_endpoints(version: tuple[int, int], net: NetworkingConfig) -> None:
    names = sorted(net.endpoints_config or {})
    if version < (1, 44) and len(names) > 1:
        msg = ("Container cannot be created with multiple network endpoints: "
               + ", ".join(names))
        raise InvalidParameterError(msg)
