"""Which containers a list shows: options and filters.

Engine API ContainerList; semantics rows "filters".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.engine.status import Status, is_running
from pallet.errors import InvalidParameterError, NotFoundError
from pallet.spec.engine.wire import given

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pallet.engine.container import Container
    from pallet.engine.index import ContainerIndex
    from pallet.spec.engine.filters import Filters
    from pallet.spec.engine.options import ListOptions

_HEALTH = frozenset({"none", "starting", "healthy", "unhealthy"})


def _exit_codes(filters: Filters) -> set[int]:
    codes: set[int] = set()
    for text in filters.get("exited"):
        try:
            codes.add(int(text))
        except ValueError:
            msg = f"invalid filter 'exited={text}'"
            raise InvalidParameterError(msg) from None
    return codes


def _check_words(filters: Filters, key: str, known: Iterable[str]) -> None:
    for word in filters.get(key):
        if word not in known:
            msg = f"invalid filter '{key}={word}'"
            raise InvalidParameterError(msg)


def parse_ports(filters: Filters, key: str) -> set[str]:
    """``80``, ``80/udp``, ``8000-8010/tcp`` → ``port/proto`` forms.

    Raises:
        InvalidParameterError: not a port.
    """
    wanted: set[str] = set()
    for text in filters.get(key):
        span, _, proto = text.partition("/")
        first, _, last = span.partition("-")
        try:
            low, high = int(first), int(last or first)
        except ValueError:
            msg = f"invalid filter '{key}={text}'"
            raise InvalidParameterError(msg) from None
        wanted |= {f"{port}/{proto or 'tcp'}" for port in range(low, high + 1)}
    return wanted


def health_of(container: Container) -> str:
    """``none``, ``starting``, ``healthy`` or ``unhealthy``."""
    return container.health.status if container.health else "none"


def select(
    index: ContainerIndex, options: ListOptions, image_ids: Callable[[str], set[str]]
) -> list[Container]:
    """The containers of a list, newest first.

    Args:
        image_ids: for ``ancestor``: ids of an image and of every image on top of it.

    Raises:
        InvalidParameterError: a value that no container can have.
        NotFoundError: ``before`` or ``since`` name no container.
    """
    filters = options.filters
    _check_words(filters, "status", [status.value for status in Status])
    _check_words(filters, "health", _HEALTH)
    exited = _exit_codes(filters)
    published, exposed = parse_ports(filters, "publish"), parse_ports(filters, "expose")
    ancestors: set[str] = set()
    for name in filters.get("ancestor"):
        ancestors |= image_ids(name)
    before = _edge(index, filters, "before")
    since = _edge(index, filters, "since")
    everything = options.all or options.limit > 0 or before is not None or since is not None \
        or "status" in filters or "exited" in filters
    found: list[Container] = []
    for container in sorted(index, key=lambda c: c.created_at_ns, reverse=True):
        if container.hidden or not (everything or is_running(container.status)):
            continue
        if before is not None and container.created_at_ns >= before.created_at_ns:
            continue
        if since is not None and container.created_at_ns <= since.created_at_ns:
            continue
        if "ancestor" in filters and container.image_id not in ancestors:
            continue
        if exited and (container.exit_code not in exited or is_running(container.status)
                       or not container.started_at_ns):
            continue
        if published and not published & _published(container):
            continue
        if exposed and not exposed & set(given(container.config.exposed_ports) or ()):
            continue
        if _matches(container, filters):
            found.append(container)
            if options.limit > 0 and len(found) == options.limit:
                break
    return found


def _edge(index: ContainerIndex, filters: Filters, key: str) -> Container | None:
    names = filters.get(key)
    if not names:
        return None
    try:
        return index.get(names[-1])
    except NotFoundError:
        msg = f"No such container: {names[-1]}"
        raise NotFoundError(msg) from None


def _published(container: Container) -> set[str]:
    ports = container.endpoint.ports if container.endpoint else ()
    return {f"{port.host_port}/{port.proto}" for port in ports} | {
        f"{port.container_port}/{port.proto}" for port in ports}


def _matches(container: Container, filters: Filters) -> bool:
    return (
        (filters.prefix("id", container.id))
        and (filters.pattern("name", container.name) or filters.pattern("name", f"/{container.name}"))
        and filters.labels(container.config.labels)
        and filters.exact("status", container.status.value)
        and filters.exact("health", health_of(container))
        and filters.exact("isolation", container.host_config.isolation or "default")
        and ("is-task" not in filters or not filters.boolean("is-task", default=False))
        and _in_network(container, filters)
        and _has_volume(container, filters)
    )


def _in_network(container: Container, filters: Filters) -> bool:
    wanted = filters.get("network")
    if not wanted:
        return True
    endpoint = container.endpoint
    names = {container.host_config.network_mode} | ({endpoint.network_name, endpoint.network_id} if endpoint else set())
    return any(name in names or (endpoint is not None and len(name) >= 12 and endpoint.network_id.startswith(name))
               for name in wanted)


def _has_volume(container: Container, filters: Filters) -> bool:
    wanted = filters.get("volume")
    return not wanted or any(
        text in {mount.name, mount.source, mount.destination} for mount in container.mounts for text in wanted)
