"""Devices of steps: which ones a wish means, and whether the client has allowed them.

Owns   the rule of BuildKit's entitlement ``device``.
Runs   anywhere; pure.
Spec   Dockerfile reference "RUN --device"; BuildKit's annotations of CDI devices.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Protocol

from pallet.aio import run_blocking
from pallet.build.cachekey import in_order
from pallet.build.graph import RunOp
from pallet.errors import InvalidParameterError, NotFoundError
from pallet.spec.dockerfile import devices
from pallet.spec.dockerfile.devices import DeviceWish

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pallet.build.graph import Vertex
    from pallet.build.job import Job
    from pallet.cdi.registry import Catalog

ENTITLEMENT = "device"
CLASS_ANNOTATION = "org.mobyproject.buildkit.device.class"
ALLOWED_ANNOTATION = "org.mobyproject.buildkit.device.autoallow"
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})


class Devices(Protocol):
    """Where devices come from: ``cdi.registry.DeviceRegistry``."""

    def look(self) -> Catalog:
        """What there is now. Blocking."""
        ...


def grant(texts: Iterable[str], entitlements: Iterable[str], catalog: Catalog) -> list[str]:
    """Names of the devices that a step gets.

    Args:
        texts: values of ``RUN --device``.

    Raises:
        NotFoundError: a required one is not there.
        InvalidParameterError: one is not allowed. Both in BuildKit's words.
    """
    wishes = [devices.parse(text) for text in texts]
    allowed, everything = _allowed(entitlements)
    if everything:
        return list(dict.fromkeys(name for wish in wishes for name in find(wish, catalog)))
    aliased = [DeviceWish(allowed[wish.name], wish.required) for wish in wishes if allowed.get(wish.name)]
    plain = [wish for wish in wishes if not allowed.get(wish.name)]
    wanted = list(dict.fromkeys(name for wish in plain for name in find(wish, catalog)))
    if wanted:
        given = {name for each in allowed for name in find(DeviceWish(each, required=True), catalog)}
        refused = [name for name in wanted if name not in given and not is_allowed_always(name, catalog)]
        if refused:
            raise InvalidParameterError(_refusal(refused))
    return list(dict.fromkeys([*(name for wish in aliased for name in find(wish, catalog)), *wanted]))


async def check_devices(targets: Sequence[Vertex], job: Job, registry: Devices) -> None:
    """Refuse what steps may not have, before anything runs.

    Raises:
        NotFoundError: as ``grant``.
        InvalidParameterError: as ``grant``.
    """
    _allowed(job.options.entitlements)
    wanted = [vertex.op.devices for vertex in in_order(targets) if isinstance(vertex.op, RunOp) and vertex.op.devices]
    if not wanted:
        return
    catalog = await run_blocking(registry.look)
    try:
        for texts in wanted:
            grant(texts, job.options.entitlements, catalog)
    except (InvalidParameterError, NotFoundError) as error:
        raise type(error)(f"failed to load LLB: {error}") from error


def find(wish: DeviceWish, catalog: Catalog) -> list[str]:
    """Names of the devices that a wish means; none where it can do without.

    Raises:
        NotFoundError: it cannot.
    """
    from pallet.cdi.validation import is_qualifier  # few builds want devices

    kind, _, name = wish.name.partition("=")
    found: list[str] = []
    if is_qualifier(kind):
        found = ([each for each in catalog.devices if each.startswith(f"{kind}=")] if name in ("", "*")
                 else [each for each in catalog.devices if each == wish.name])
        if not name:
            found = found[:1]
    if not found:
        found = [each for each, known in catalog.devices.items()
                 if known.annotations.get(CLASS_ANNOTATION) == wish.name]
    if not found and wish.required:
        message = f'required device "{wish.name}" is not registered'
        raise NotFoundError(message)
    return found


def is_allowed_always(name: str, catalog: Catalog) -> bool:
    """The device's document gives it to every build."""
    return catalog.devices[name].annotations.get(ALLOWED_ANNOTATION, "") in _TRUE


def _allowed(entitlements: Iterable[str]) -> tuple[dict[str, str], bool]:
    """What is allowed: name -> "", or an alias -> the device that it stands for; and whether all are.

    Raises:
        InvalidParameterError: a malformed ``device=NAME[,alias=OTHER]``; in BuildKit's words.
    """
    found: dict[str, str] = {}
    everything = False
    for text in entitlements:
        entitlement, equals, value = text.partition("=")
        if entitlement != ENTITLEMENT:
            continue
        if not equals or not value:
            everything = True
            continue
        name, *fields = next(csv.reader([value]))
        alias = ""
        for field in fields:
            key, equals, alias = field.partition("=")
            if not equals:
                message = f'invalid device config "{field}"'
                raise InvalidParameterError(message)
            if key != "alias":
                message = f'unknown device config key "{key}"'
                raise InvalidParameterError(message)
        found.update({alias: name} if alias else {name: ""})
    return found, everything


def _refusal(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"device {names[0]} is requested by the build but not allowed"
    return f"devices {', '.join(names)} are requested by the build but not allowed"
