"""The client's ``config.json``: read when a command needs something from it."""

from __future__ import annotations

from pallet.client import wire
from pallet.client.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


# Key of a ``proxies`` entry and the variable it sets, which containers get in both cases.
_PROXY_VARIABLES = (
    ("httpProxy", "HTTP_PROXY"), ("httpsProxy", "HTTPS_PROXY"), ("noProxy", "NO_PROXY"),
    ("ftpProxy", "FTP_PROXY"), ("allProxy", "ALL_PROXY"))


def proxy_environment(config: dict[str, Any], host: str, given: list[str]) -> list[str]:
    """Return ``K=V`` entries that ``proxies`` of config.json adds to new containers.

    Args:
        config: the document.
        host: URL of the daemon; its own entry wins over ``default``.
        given: the container's entries; a variable named there is left alone.
    """
    proxies = config.get("proxies")
    if not isinstance(proxies, dict):
        return []
    entry = proxies.get(host) or proxies.get("default") or {}
    known = {text.partition("=")[0] for text in given}
    return [f"{name}={entry[key]}" for key, upper in _PROXY_VARIABLES if entry.get(key)
            for name in (upper, upper.lower()) if name not in known]


def load_config(directory: str) -> dict[str, Any]:
    """Return the document, empty when there is no file.

    Raises:
        UsageError: it is not a JSON object.
    """
    path = f"{directory}/config.json"
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return {}
    if not data.strip():
        return {}
    try:
        value = wire.decode(data)
    except wire.WireError as error:
        raise UsageError(f"loading config file: {path}: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"loading config file: {path}: not a JSON object")
    return value
