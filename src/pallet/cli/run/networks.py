"""``--network`` and its companions to NetworkMode and EndpointsConfig. Pure.

Spec   docker CLI: short options (``--ip``, ``--network-alias``, ``--link``…) belong to the first
       network named; ``--network name=…,ip=…`` carries its own.
"""

from __future__ import annotations

from pallet.cli.errors import CommandError
from pallet.cli.flags import go_quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pallet.cli.flags import Flags

    Document = dict[str, Any]

_BUILTIN = frozenset(("", "default", "bridge", "host", "none", "nat"))


def is_user_defined(name: str) -> bool:
    """Return whether ``name`` is a network of the user's own."""
    return name not in _BUILTIN and not name.startswith("container:")


def network_config(flags: Flags) -> tuple[str, dict[str, Document]]:
    """Return NetworkMode and EndpointsConfig.

    Raises:
        CommandError: options contradict each other.
    """
    wishes: list[Document] = [dict(wish) for wish in flags["network"]]
    mode = wishes[0]["Target"] if wishes else "default"
    short = any(name in flags for name in (
        "network-alias", "ip", "ip6", "mac-address", "link-local-ip"))
    if not wishes:
        if not short:
            return mode, {}
        wishes = [{"Target": "default"}]
    endpoints: dict[str, Document] = {}
    own = foreign = False
    for index, wish in enumerate(wishes):
        target = wish.pop("Target")
        if not target:
            raise CommandError("no name set for network")
        if is_user_defined(target):
            own = True
        else:
            foreign = True
        if index == 0:
            _apply_short(wish, flags, user_defined=is_user_defined(target))
        if wish.get("Aliases") and not is_user_defined(target):
            raise CommandError(
                "network-scoped aliases are only supported for user-defined networks")
        if target in endpoints:
            raise CommandError(f"network {go_quote(target)} is specified multiple times")
        endpoints[target] = _endpoint(wish)
    if own and foreign:
        raise CommandError("conflicting options: cannot attach both user-defined and "
                           "non-user-defined network-modes")
    if len(endpoints) == 1 and not short and not any(endpoints.values()):
        return mode, {}
    return mode, endpoints


def _apply_short(wish: Document, flags: Flags, *, user_defined: bool) -> None:
    for option, field, words in (
        ("network-alias", "Aliases", "--network-alias and per-network alias"),
        ("ip", "IPv4Address", "--ip and per-network IPv4 address"),
        ("ip6", "IPv6Address", "--ip6 and per-network IPv6 address"),
        ("mac-address", "MacAddress", "--mac-address and per-network MAC address"),
        ("link-local-ip", "LinkLocalIPs",
         "--link-local-ip and per-network link-local IP addresses"),
    ):
        if option not in flags:
            continue
        if wish.get(field):
            raise CommandError(f"conflicting options: cannot specify both {words}")
        wish[field] = flags[option]
    if "mac-address" in flags:
        check_mac(flags["mac-address"])
        wish["MacAddress"] = flags["mac-address"].strip()
    if "link" in flags and user_defined:
        wish["Links"] = flags["link"]


def check_mac(text: str) -> None:
    """Refuse what is no MAC address: six bytes with colons, hyphens or in dotted groups.

    Raises:
        CommandError: "x is not a valid mac address".
    """
    compact = text.strip().replace("-", ":").lower()
    if "." in compact:
        digits = "".join(compact.split("."))
        compact = ":".join(digits[at:at + 2] for at in range(0, len(digits), 2))
    parts = compact.split(":")
    good = len(parts) in (6, 8, 20) and all(
        len(part) == 2 and not set(part) - set("0123456789abcdef") for part in parts)
    if not good:
        raise CommandError(f"{text} is not a valid mac address")


def _endpoint(wish: Document) -> Document:
    endpoint: Document = {key: wish[key] for key in (
        "Aliases", "DriverOpts", "GwPriority", "Links", "MacAddress") if wish.get(key)}
    ipam = {key: wish[key] for key in ("IPv4Address", "IPv6Address", "LinkLocalIPs")
            if wish.get(key)}
    if ipam:
        endpoint["IPAMConfig"] = ipam
    return endpoint
