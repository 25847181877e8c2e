"""``--publish`` and ``--expose`` to ExposedPorts and PortBindings. Pure.

Spec   ``[[IP:][HOST[-END]]:]CONTAINER[-END][/PROTO]``, IPv6 addresses in brackets, and the
       long form ``published=8080,target=80,protocol=tcp,host_ip=…``.
"""

from __future__ import annotations

from pallet.cli.errors import CommandError
from pallet.cli.flags import go_quote
from pallet.cli.values import is_ip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Bindings = dict[str, list[dict[str, str]]]


def parse_range(text: str) -> tuple[int, int]:
    """Return first and last port of ``80`` or ``80-90``.

    Raises:
        ValueError: with the reason as Docker words it.
    """
    if not text:
        raise ValueError("empty string specified for ports")
    first, dash, last = text.partition("-")
    start = _port(first)
    end = _port(last) if dash else start
    if end < start:
        raise ValueError(f"invalid range specified for port: {text}")
    return start, end


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"strconv.ParseUint: parsing {go_quote(text)}: invalid syntax")
    value = int(text)
    if value > 65535:
        raise ValueError(f"strconv.ParseUint: parsing {go_quote(text)}: value out of range")
    return value


def publish(specs: Iterable[str]) -> tuple[set[str], Bindings]:
    """Return exposed ports (``80/tcp``) and bindings for ``--publish`` values.

    Raises:
        CommandError: a value is malformed.
    """
    exposed: set[str] = set()
    bindings: Bindings = {}
    for spec in specs:
        short = _long_form(spec) if "=" in spec else spec
        for port, binding in _parse_spec(short):
            exposed.add(port)
            bindings.setdefault(port, []).append(binding)
    return exposed, bindings


def expose(specs: Iterable[str]) -> set[str]:
    """Return the ports of ``--expose`` values.

    Raises:
        CommandError: a value is malformed.
    """
    found: set[str] = set()
    for spec in specs:
        if ":" in spec:
            raise CommandError(f"invalid port format for --expose: {spec}")
        text, _, proto = spec.partition("/")
        try:
            start, end = parse_range(text)
        except ValueError as error:
            raise CommandError(
                f"invalid range format for --expose: {spec}, error: {error}") from None
        found.update(f"{port}/{(proto or 'tcp').lower()}" for port in range(start, end + 1))
    return found


def _long_form(spec: str) -> str:
    fields = dict(part.partition("=")[::2] for part in spec.split(","))
    if "target" not in fields:
        raise CommandError(f"invalid publish opts format (should be name=value but got '{spec}')"
                           if "published" not in fields else "no port specified: <empty>")
    host = fields.get("published", "")
    address = fields.get("host_ip", "")
    target = f"{fields['target']}/{fields.get('protocol', 'tcp')}"
    if address:
        address = f"[{address}]" if ":" in address else address
        return f"{address}:{host}:{target}"
    return f"{host}:{target}" if host else target


def _split(spec: str) -> tuple[str, str, str]:
    head, _, container = spec.rpartition(":")
    address, _, host = head.rpartition(":")
    return address, host, container


def _parse_spec(spec: str) -> list[tuple[str, dict[str, str]]]:
    address, host, container = _split(spec)
    container, _, proto = container.partition("/")
    proto = (proto or "tcp").lower()
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    if address and not is_ip(address):
        raise CommandError(f"invalid IP address: {address}")
    if not container:
        raise CommandError(f"no port specified: {spec}<empty>")
    try:
        start, end = parse_range(container)
    except ValueError:
        raise CommandError(f"invalid containerPort: {container}") from None
    host_start = host_end = 0
    if host:
        try:
            host_start, host_end = parse_range(host)
        except ValueError:
            raise CommandError(f"invalid hostPort: {host}") from None
        if end - start != host_end - host_start and end != start:
            raise CommandError("invalid ranges specified for container and host Ports: "
                               f"{container} and {host}")
    if proto not in ("tcp", "udp", "sctp"):
        raise CommandError(f"invalid proto: {proto}")
    found = []
    for offset in range(end - start + 1):
        host_port = str(host_start + offset) if host else ""
        if host and start == end and host_start != host_end:
            host_port = f"{host_start}-{host_end}"
        found.append((f"{start + offset}/{proto}", {"HostIp": address, "HostPort": host_port}))
    return found
