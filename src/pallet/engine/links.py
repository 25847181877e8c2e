"""Legacy links (``--link NAME:ALIAS``) on the default bridge: names in hosts, variables in the environment.

Engine API HostConfig.Links; semantics row "embedded dns" (the default bridge has links instead).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pallet.engine.status import Status
from pallet.errors import InvalidParameterError, NotFoundError

if TYPE_CHECKING:
    from pallet.engine.container import Container
    from pallet.engine.index import ContainerIndex

_HIDDEN_VARIABLES = frozenset({"PATH", "HOME", "HOSTNAME", "TERM"})


@dataclass(frozen=True, slots=True)
class Link:
    """A running container under another name."""

    alias: str
    target: Container


def parse(text: str) -> tuple[str, str]:
    """``name[:alias]`` → (name, alias); inspect's ``/name:/owner/alias`` too.

    Raises:
        InvalidParameterError: "bad format for links: x".
    """
    name, _, alias = text.partition(":")
    name, alias = name.removeprefix("/"), alias.rpartition("/")[2]
    if not name or (":" in text and not alias) or text.count(":") > 1:
        msg = f"bad format for links: {text}"
        raise InvalidParameterError(msg)
    return name, alias or name


def check(index: ContainerIndex, links: list[str] | None) -> None:
    """Refuse at create what can never be linked.

    Raises:
        InvalidParameterError: the grammar, or a container that does not exist.
    """
    for text in links or ():
        name, _ = parse(text)
        try:
            index.get(name)
        except NotFoundError:
            msg = f"could not get container for {name}: No such container: {name}"
            raise InvalidParameterError(msg) from None


def resolve(index: ContainerIndex, container: Container) -> list[Link]:
    """The links of a container that is about to start.

    Raises:
        InvalidParameterError: a target that does not run.
    """
    found: list[Link] = []
    for text in container.host_config.links or ():
        name, alias = parse(text)
        target = index.get(name)
        if target.status is not Status.RUNNING or target.endpoint is None:
            msg = f"Cannot link to a non running container: /{target.name} AS /{container.name}/{alias}"
            raise InvalidParameterError(msg)
        found.append(Link(alias, target))
    return found


def host_lines(links: list[Link]) -> list[str]:
    """Lines of ``/etc/hosts``: address, alias, the target's host name and name."""
    lines = []
    for link in links:
        names = dict.fromkeys((link.alias, link.target.hostname, link.target.name))
        address = link.target.endpoint.ip if link.target.endpoint else ""
        lines.append(f"{address}\t{' '.join(filter(None, names))}\n")
    return lines


def environment(container: Container, links: list[Link]) -> list[str]:
    """Docker's link variables: ``DB_PORT``, ``DB_PORT_5432_TCP_ADDR``, ``DB_NAME``, ``DB_ENV_X``."""
    variables: list[str] = []
    for link in links:
        endpoint = link.target.endpoint
        prefix = link.alias.upper().replace("-", "_")
        address = endpoint.ip if endpoint else ""
        exposed = sorted(endpoint.exposed if endpoint else (), key=_port_key)
        for position, port in enumerate(exposed):
            number, _, proto = port.partition("/")
            url = f"{proto}://{address}:{number}"
            if position == 0:
                variables.append(f"{prefix}_PORT={url}")
            base = f"{prefix}_PORT_{number}_{proto.upper()}"
            variables += [f"{base}={url}", f"{base}_ADDR={address}", f"{base}_PORT={number}", f"{base}_PROTO={proto}"]
        variables.append(f"{prefix}_NAME=/{container.name}/{link.alias}")
        variables += [f"{prefix}_ENV_{entry}" for entry in link.target.config.env or ()
                      if entry.partition("=")[0] not in _HIDDEN_VARIABLES]
    return variables


def _port_key(port: str) -> tuple[int, str]:
    number, _, proto = port.partition("/")
    return int(number), proto
