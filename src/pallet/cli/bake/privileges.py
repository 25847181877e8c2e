"""What targets may do only where the user allows it.

Owns   ``--allow``: entitlements of builds; for a definition from elsewhere also files outside of the working directory.
Spec   docker buildx bake --allow.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

_ENTITLEMENTS = {"network.host": "Running build containers that can access host network",
                 "security.insecure": "Running privileged containers that can make system changes"}
_AGENT = "ssh"
_EVERYWHERE = "*"


def problem(targets: Mapping[str, Mapping[str, Any]], allowed: Sequence[str], *, remote: bool,
            environment: Mapping[str, str]) -> str:
    """What has to be granted yet, in buildx's words; "" for nothing.

    Args:
        remote: the definition is somebody else's: the files that it names are asked for.
        environment: ``BUILDX_BAKE_ENTITLEMENTS_FS`` turns that off.
    """
    missing = [(name, _ENTITLEMENTS[name]) for name in sorted(_entitlements(targets) - set(allowed))]
    if remote and environment.get("BUILDX_BAKE_ENTITLEMENTS_FS", "1") not in ("0", "false"):
        missing += _of_files(targets.values(), allowed)
    if not missing:
        return ""
    lines = ["Your build is requesting privileges for following possibly insecure capabilities:", ""]
    lines += [f" - {text}" for _, text in missing]
    options = " ".join(f"--allow={name}" for name, _ in missing)
    return "\n".join([*lines, "", f'Pass "{options}" to grant requested privileges.'])


def _entitlements(targets: Mapping[str, Mapping[str, Any]]) -> set[str]:
    wanted = {one for target in targets.values() for one in (
        *target.get("entitlements", ()), *(["network.host"] if target.get("network") == "host" else []))}
    return wanted & _ENTITLEMENTS.keys()


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
    for path in (target["context"], target.get("dockerfile", ""), *target.get("contexts", {}).values()):
        if path.startswith("cwd://"):
            yield "read", path.removeprefix("cwd://") or "."
        elif path.startswith("oci-layout://"):
            yield "read", path.removeprefix("oci-layout://").partition("@")[0]
        elif "://" not in path and os.path.isabs(path):
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
