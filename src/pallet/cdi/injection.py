"""What devices do to a container's configuration.

Owns   the order and the meaning of the edits.
Runs   blocking: it looks at the host's nodes.
Spec   CDI SPEC.md "containerEdits"; a device's document comes before the device, once; a variable that is
       there is replaced.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgspec

from pallet.errors import NotImplementedApiError, SystemFailureError
from pallet.spec import runtime as oci

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pallet.cdi.registry import KnownDevice
    from pallet.spec.cdi import DeviceNode, Edits, Hook

T = TypeVar("T")

_KINDS = {"b": stat.S_ISBLK, "c": stat.S_ISCHR, "p": stat.S_ISFIFO}
_ATTRIBUTES = {field.encode_name: field.name for field in msgspec.structs.fields(oci.Hooks)}
_FAILED = "CDI device injection failed: failed to inject devices: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Injected:
    """A configuration with devices."""

    spec: oci.Spec
    groups: tuple[str, ...]
    """Further groups of the process, as numbers."""


def inject(spec: oci.Spec, devices: Iterable[KnownDevice]) -> Injected:
    """Put ``devices`` into ``spec``.

    Raises:
        SystemFailureError: a node that is not there, in the words of dockerd.
        NotImplementedApiError: cache allocation (``intelRdt``).
    """
    edits = list(_in_order(devices))
    if any(each.intel_rdt is not None for each in edits):
        message = f"{_FAILED}intelRdt is not supported"
        raise NotImplementedApiError(message)
    nodes = [_node(node, spec) for each in edits for node in each.device_nodes]
    mounts = [oci.Mount(destination=mount.container_path, type=mount.type, source=mount.host_path,
                        options=_options(mount.type, mount.options)) for each in edits for mount in each.mounts]
    linux, process = spec.linux, spec.process
    limits = linux.resources or oci.LinuxResources()
    linux = msgspec.structs.replace(
        linux, devices=_over(linux.devices, [device for device, _ in nodes], key=lambda device: device.path),
        resources=msgspec.structs.replace(limits, devices=[*limits.devices, *(rule for _, rule in nodes if rule)]))
    found = msgspec.structs.replace(
        spec, linux=linux,
        process=msgspec.structs.replace(
            process, env=_over(process.env, [entry for each in edits for entry in each.env],
                               key=lambda entry: entry.partition("=")[0])),
        mounts=_with_mounts(spec.mounts, mounts),
        hooks=_with_hooks(spec.hooks, (hook for each in edits for hook in each.hooks)))
    # 0 is what Go makes of a group that is not said.
    return Injected(spec=found, groups=tuple(dict.fromkeys(
        str(gid) for each in edits for gid in each.additional_gids if gid)))


def _in_order(devices: Iterable[KnownDevice]) -> Iterator[Edits]:
    seen: set[str] = set()
    for known in devices:
        if known.path not in seen:
            seen.add(known.path)
            yield known.document.container_edits
        yield known.device.container_edits


def _node(node: DeviceNode, spec: oci.Spec) -> tuple[oci.Device, oci.DeviceRule | None]:
    host = node.host_path or node.path
    kind, major, minor = node.type, node.major, node.minor
    if not kind or (not major and kind != "p"):
        found, number = _look(host)
        if kind and kind != found:
            message = f'{_FAILED}CDI device ("{node.path}", "{host}"), host type mismatch ({kind}, {found})'
            raise SystemFailureError(message)
        kind = found
        if not major and kind != "p":
            major, minor = os.major(number), os.minor(number)
    user = spec.process.user
    device = oci.Device(
        path=node.path, type=kind, major=major, minor=minor, file_mode=node.file_mode,
        uid=node.uid if node.uid is not None else user.uid or None,
        gid=node.gid if node.gid is not None else user.gid or None)
    if kind not in {"b", "c"}:
        return device, None
    return device, oci.DeviceRule(allow=True, type=kind, major=major, minor=minor, access=node.permissions or "rwm")


def _look(path: str) -> tuple[str, int]:
    try:
        found = os.lstat(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SystemFailureError(f'{_FAILED}failed to stat CDI host device "{path}": {reason}') from error
    for kind, is_one in _KINDS.items():
        if is_one(found.st_mode):
            return kind, found.st_rdev
    raise SystemFailureError(f'{_FAILED}failed to stat CDI host device "{path}": not a device node')


def _options(kind: str, options: list[str]) -> list[str]:
    """A mount without a type can only be a bind; NVIDIA's and others' documents leave that out."""
    if kind or {"bind", "rbind"} & set(options):
        return options
    return ["rbind", *options]


def _over(have: list[T], more: list[T], *, key: Callable[[T], str]) -> list[T]:
    """``have`` with ``more`` in the places of those with the same key, or behind them."""
    found = {key(item): item for item in have}
    return list((found | {key(item): item for item in more}).values())


def _with_mounts(have: list[oci.Mount], more: list[oci.Mount]) -> list[oci.Mount]:
    """Mounts from shallow to deep, so that none is covered by another."""
    if not more:
        return have
    replaced = {mount.destination for mount in more}
    return sorted([*(mount for mount in have if mount.destination not in replaced), *more],
                  key=lambda mount: os.path.normpath(mount.destination).count("/") if mount.destination != "/" else 0)


def _with_hooks(have: oci.Hooks | None, hooks: Iterable[Hook]) -> oci.Hooks | None:
    found: dict[str, list[oci.Hook]] = {}
    for hook in hooks:
        found.setdefault(_ATTRIBUTES[hook.hook_name], []).append(oci.Hook(
            path=hook.path, args=hook.args, env=hook.env, timeout=hook.timeout))
    if not found:
        return have
    given = have or oci.Hooks()
    return msgspec.structs.replace(given, **{name: [*getattr(given, name), *more] for name, more in found.items()})
