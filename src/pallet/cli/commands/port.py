"""``pallet port``."""

from __future__ import annotations

from pallet.cli.errors import CommandError
from pallet.cli.run.ports import parse_range
from pallet.cli.session import out
from pallet.cli.stream.foreground import container_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

PORT_FLAGS: Table = ()


def port(session: Session, flags: Flags) -> int:
    """``pallet port``: all mappings, or the host addresses of one port."""
    name = flags.args[0]
    info = session.engine.json("GET", f"{container_path(name)}/json")
    known = info["NetworkSettings"].get("Ports") or {}
    if len(flags.args) > 1:
        return _one(name, flags.args[1], known)
    lines = [(int(key.partition("/")[0]), f"{key} -> {_address(binding)}")
             for key, bindings in known.items() for binding in bindings or ()]
    for _, line in sorted(lines):
        out(line)
    return 0


def _one(name: str, wanted: str, known: dict[str, list[dict[str, str]] | None]) -> int:
    number, _, proto = wanted.partition("/")
    try:
        parse_range(number)
    except ValueError as error:
        raise CommandError(f"Error: invalid port ({number}): {error}") from None
    bindings = known.get(f"{number}/{proto or 'tcp'}")
    if not bindings:
        raise CommandError(f"no public port '{wanted}' published for {name}")
    for binding in bindings:
        out(_address(binding))
    return 0


def _address(binding: dict[str, str]) -> str:
    host = binding.get("HostIp", "")
    return f"[{host}]:{binding['HostPort']}" if ":" in host else f"{host}:{binding['HostPort']}"
