"""Docker contexts: ``<config>/contexts/meta/<sha256 of the name>/meta.json`` and its TLS files."""

from __future__ import annotations

import os

from pallet.client import wire
from pallet.client.endpoint import Endpoint, TlsFiles, complete
from pallet.client.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def current_context(directory: str) -> str:
    """Return ``currentContext`` of ``directory``'s config.json, empty if there is none."""
    try:
        with open(directory + "/config.json", "rb") as file:
            data = file.read()
        if b'"currentContext"' not in data:
            return ""
        value = wire.decode(data)
    except (OSError, wire.WireError):
        return ""  # a broken file is reported by whoever needs its contents
    name = value.get("currentContext", "") if isinstance(value, dict) else ""
    return name if isinstance(name, str) else ""


def list_contexts(directory: str) -> list[dict[str, Any]]:
    """Return the stored contexts' metadata documents, sorted by name."""
    root = directory + "/contexts/meta"
    found: list[dict[str, Any]] = []
    try:
        entries = os.listdir(root)
    except OSError:
        return found
    for entry in entries:
        document = _read_meta(f"{root}/{entry}/meta.json")
        if document is not None:
            found.append(document)
    return sorted(found, key=lambda document: str(document.get("Name", "")))


def load_context(directory: str, name: str) -> Endpoint:
    """Return the endpoint of context ``name``.

    Raises:
        UsageError: there is no such context, or it has no usable docker endpoint.
    """
    import hashlib

    key = hashlib.sha256(name.encode()).hexdigest()
    document = _read_meta(f"{directory}/contexts/meta/{key}/meta.json")
    if document is None:
        message = (f'Failed to initialize: unable to resolve docker endpoint: context "{name}": '
                   f"context not found: open {directory}/contexts/meta/{key}/meta.json: "
                   "no such file or directory")
        raise UsageError(message)
    docker = document.get("Endpoints", {}).get("docker", {})
    host = docker.get("Host", "")
    if not host:
        message = f'context "{name}" has no docker endpoint'
        raise UsageError(message)
    tls = None
    folder = f"{directory}/contexts/tls/{key}/docker"
    if os.path.isdir(folder):
        parts = [path if os.path.exists(path) else None
                 for path in (f"{folder}/{part}.pem" for part in ("ca", "cert", "key"))]
        tls = TlsFiles(parts[0], parts[1], parts[2], verify=not docker.get("SkipTLSVerify", False))
    return Endpoint(complete(host, tls=tls is not None), tls=tls, context=name)


def _read_meta(path: str) -> dict[str, Any] | None:
    try:
        with open(path, "rb") as file:
            value = wire.decode(file.read())
    except (OSError, wire.WireError):
        return None
    return value if isinstance(value, dict) else None
