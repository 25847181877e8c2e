"""What targets may do only where the user allows it.

Owns   ``--allow``: entitlements of builds; for a definition from elsewhere also files outside of the working directory.
Spec   docker buildx bake --allow.
"""

from __future__ import annotations

import os

from pallet.cli.bake.remote import FIXED, HERE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from pallet.cli.bake.remote import Remote

_ENTITLEMENTS = {"network.host": "Running build containers that can access host network",
                 "security.insecure": "Running privileged containers that can make system changes"}
_DEVICES = "device"
_AGENT = "ssh"
_EVERYWHERE = "*"


def problem(targets: Mapping[str, Mapping[str, Any]], allowed: Sequence[str], *, remote: Remote | None,
            environment: Mapping[str, str]) -> str:
    """What has to be granted yet, in buildx's words; "" for nothing.

    Args:
        remote: where the definition is that is somebody else's: the files that it names are asked for.
        environment: ``BUILDX_BAKE_ENTITLEMENTS_FS`` turns that off.
    """
    missing = [(name, _meaning(name)) for name in sorted(_entitlements(targets) - set(allowed))
               if not (_is_device(name) and _DEVICES in allowed)]
    if remote is not None and environment.get("BUILDX_BAKE_ENTITLEMENTS_FS", "1") not in ("0", "false"):
        missing += _of_files([remote.located(target) for target in targets.values()], allowed)
    if not missing:
        return ""
    lines = ["Your build is requesting privileges for following possibly insecure capabilities:", ""]
    lines += [f" - {text}" for _, text in missing]
    options = " ".join(f"--allow={name}" for name, _ in missing)
    return "\n".join([*lines, "", f'Pass "{options}" to grant requested privileges.'])


def _entitlements(targets: Mapping[str, Mapping[str, Any]]) -> set[str]:
    wanted = {one for target in targets.values() for one in (
        *target.get("entitlements", ()), *(["network.host"] if target.get("network") == "host" else []))}
    return {one for one in wanted if one in _ENTITLEMENTS or _is_device(one)}


def _is_device(entitlement: str) -> bool:
    return entitlement.partition("=")[0] == _DEVICES


def _meaning(entitlement: str) -> str:
    if not _is_device(entitlement):
        return _ENTITLEMENTS[entitlement]
    name = entitlement.partition("=")[2].partition(",")[0]
    return f"Access to device {name}" if name else "Access to CDI devices"


def _of_files(targets: Any, allowed: Sequence[str]) -> list[tuple[str, str]]:
    wanted: dict[tuple[str, str], None] = {}
    for target in targets:
        for kind, path in _paths(target):
            if not _is_allowed(kind, path, allowed):
                wanted[kind, path] = None
    found = []
    for kind, path in sorted(wanted):
        if kind == _AGENT:
            found.append((_AGENT, "Forwarding default SSH agent socket"))
        else:
            found.append((f"fs.{kind}={path}", f"{kind.capitalize()} access to path {path}"))
    return list(dict.fromkeys(found))


def _paths(target: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What of this host a target reads, writes or forwards."""
    for path in (target["context"], *target.get("contexts", {}).values()):
        if path.startswith("oci-layout://"):
            yield "read", path.removeprefix("oci-layout://").partition("@")[0]
        elif not path.startswith(FIXED) and path != "-":
            yield "read", path.removeprefix(HERE) or "."
    dockerfile = target.get("dockerfile", "")
    if dockerfile.startswith(HERE):
        yield "read", dockerfile.removeprefix(HERE)
    elif not target["context"].startswith(FIXED):
        context = os.path.normpath(target["context"].removeprefix(HERE) or ".")
        path = os.path.normpath(os.path.join(context, dockerfile))
        if not _holds(os.path.abspath(context), os.path.abspath(path)):  # what is in the context was told
            yield "read", path
    for entry in target.get("secret", ()):
        if entry.get("src"):
            yield "read", entry["src"]
    for entry in target.get("ssh", ()):
        yield from [("read", path) for path in entry.get("paths", ())] or [(_AGENT, "")]
    for entry in target.get("cache-from", ()):
        if entry.get("type") == "local":
            yield "read", entry.get("src", "")
    for entry in (*target.get("cache-to", ()), *target.get("output", ())):
        if entry.get("dest") and entry.get("type") != "registry":
            yield "write", entry["dest"]


def _is_allowed(kind: str, path: str, allowed: Sequence[str]) -> bool:
    if kind == _AGENT:
        return _AGENT in allowed
    real = os.path.realpath(path)
    given = [text.partition("=")[2] for text in allowed if text.partition("=")[0] in ("fs", f"fs.{kind}")]
    return _EVERYWHERE in given or any(_holds(os.path.realpath(place), real) for place in (".", *given) if place)


def _holds(directory: str, path: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")
