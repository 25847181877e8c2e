"""Older shapes of replies, made from the newest.

Owns   every difference between API versions that shows in a reply. Backends know the newest only.
Spec   Engine API version history; the ``version_gates`` of each call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from pallet.spec.engine.container import ContainerInspect, ContainerSummary
    from pallet.spec.engine.image import ImageInspect, ImageSummary
    from pallet.spec.engine.network import NetworkSummary
    from pallet.spec.engine.system import DiskUsage, SystemInfo

Version = tuple[int, int]

_OLD_IMAGE_CONFIG: Final[dict[str, Any]] = {
    "AttachStderr": False, "AttachStdin": False, "AttachStdout": False, "Domainname": "",
    "Hostname": "", "Image": "", "OpenStdin": False, "StdinOnce": False, "Tty": False,
}
"""Container settings that image configs repeated before 1.50."""


def _plain(document: msgspec.Struct) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(document)
    return plain


def container_summary(version: Version, document: ContainerSummary) -> Any:
    """Shape one container of a list."""
    if version >= (1, 48):
        return document
    plain = _plain(document)
    plain.pop("ImageManifestDescriptor", None)
    if version < (1, 46):
        plain["HostConfig"].pop("Annotations", None)
    for endpoint in (plain["NetworkSettings"] or {}).get("Networks", {}).values():
        _old_endpoint(version, endpoint)
    return plain


def container(version: Version, document: ContainerInspect) -> Any:
    """Shape a container inspect."""
    if version >= (1, 48):
        return document
    plain = _plain(document)
    plain.pop("ImageManifestDescriptor", None)
    short_id = document.id[:12]
    for endpoint in plain["NetworkSettings"]["Networks"].values():
        _old_endpoint(version, endpoint)
        if version < (1, 45) and document.host_config.network_mode not in ("default", "bridge"):
            _old_aliases(endpoint, short_id, document.config.hostname)
    host_config = plain["HostConfig"]
    if version < (1, 43):
        host_config.pop("Annotations", None)
    if version < (1, 41):
        host_config.pop("CgroupnsMode", None)
    return plain


def _old_endpoint(version: Version, endpoint: dict[str, Any]) -> None:
    if version < (1, 48):
        endpoint.pop("GwPriority", None)
    if version < (1, 44):
        endpoint.pop("DNSNames", None)


def _old_aliases(endpoint: dict[str, Any], short_id: str, hostname: str) -> None:
    aliases = endpoint["Aliases"] or []
    for name in (short_id, hostname):
        if name and name not in aliases:
            aliases.append(name)
    endpoint["Aliases"] = aliases


def image_summary(version: Version, document: ImageSummary) -> Any:
    """Shape one image of a list."""
    if version >= (1, 51):
        return document
    plain = _plain(document)
    plain["Containers"] = -1
    if version < (1, 48):
        plain.pop("Descriptor", None)
    if version < (1, 44):
        plain["VirtualSize"] = document.size
    if version < (1, 43):
        # Clients of that time printed these two as they were.
        nameless = not document.repo_tags and not document.repo_digests
        if not document.repo_tags:
            plain["RepoTags"] = ["<none>:<none>"] if nameless else None
        if not document.repo_digests:
            plain["RepoDigests"] = ["<none>@<none>"] if nameless else None
    return plain


def image(version: Version, document: ImageInspect) -> Any:
    """Shape an image inspect."""
    if version >= (1, 50):
        return document
    plain = _plain(document)
    config = plain["Config"]
    if config is not None:
        plain["Config"] = _OLD_IMAGE_CONFIG | config
    if version < (1, 48):
        plain.pop("Descriptor", None)
    if version < (1, 44):
        plain["VirtualSize"] = document.size
        if "Created" not in plain:
            plain["Created"] = "0001-01-01T00:00:00Z"
    if version < (1, 45):
        plain["Container"] = ""
        plain["ContainerConfig"] = _OLD_IMAGE_CONFIG | {
            "Cmd": None, "Entrypoint": None, "Env": None, "Labels": None, "OnBuild": None,
            "User": "", "Volumes": None, "WorkingDir": "",
        }
    return plain


def network(version: Version, document: NetworkSummary) -> Any:
    """Shape a network."""
    if version >= (1, 48):
        return document
    plain = _plain(document)
    plain.pop("EnableIPv4", None)
    return plain


def info(version: Version, document: SystemInfo) -> Any:
    """Shape the daemon's description."""
    if version >= (1, 50):
        return document
    plain = _plain(document)
    plain["BridgeNfIptables"] = False
    plain["BridgeNfIp6tables"] = False
    plain.pop("DiscoveredDevices", None)
    if version < (1, 49):
        plain.pop("FirewallBackend", None)
        for commit in ("ContainerdCommit", "RuncCommit", "InitCommit"):
            plain[commit]["Expected"] = plain[commit]["ID"]
    if version < (1, 44):
        for runtime in plain["Runtimes"].values():
            runtime.pop("status", None)
    if version < (1, 42):
        plain["KernelMemory"] = False
        plain["KernelMemoryTCP"] = False
    return plain


def disk_usage(version: Version, document: DiskUsage) -> Any:
    """Shape the disk usage."""
    if version >= (1, 48):
        return document
    plain = _plain(document)
    if document.images:
        # Here, unlike in lists, containers were counted in every version.
        plain["Images"] = [image_summary(version, item) | {"Containers": item.containers}
                           for item in document.images]
    if document.containers:
        plain["Containers"] = [container_summary(version, item) for item in document.containers]
    if version < (1, 42):
        plain["BuilderSize"] = 0
    return plain
