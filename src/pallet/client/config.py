"""The client's ``config.json``: read when a command needs something from it."""

from __future__ import annotations

from pallet.client import wire
from pallet.client.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


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
