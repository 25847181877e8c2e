"""CDI devices of containers and steps: what requests name becomes part of the configuration.

Runs   on the loop; documents are read on a worker.
Spec   Engine API DeviceRequest with the driver ``cdi``; the words are dockerd's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pallet.aio import run_blocking
from pallet.errors import SystemFailureError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.cdi.injection import Injected
    from pallet.cdi.registry import Catalog
    from pallet.spec.engine.host_config import DeviceRequest
    from pallet.spec.runtime import Spec

_DRIVER = "cdi"


class Devices(Protocol):
    """The host's devices: ``cdi.registry.DeviceRegistry``."""

    directories: tuple[str, ...]

    def look(self) -> Catalog:
        """What there is now. Blocking."""
        ...


def requested(requests: Sequence[DeviceRequest] | None, devices: Devices) -> list[str]:
    """Names of the devices that a container wants.

    Raises:
        SystemFailureError: a driver that is not there, or a request that CDI cannot fulfil.
    """
    names: list[str] = []
    for request in requests or ():
        if request.driver != _DRIVER or not devices.directories:
            sets = " ".join(f"[{' '.join(capabilities)}]" for capabilities in request.capabilities or ())
            message = f'could not select device driver "{request.driver}" with capabilities: [{sets}]'
            raise SystemFailureError(message)
        if request.count:
            message = "unexpected count in CDI device request"
            raise SystemFailureError(message)
        if request.options:
            message = "unexpected options in CDI device request"
            raise SystemFailureError(message)
        names += request.device_ids or []
    return names


async def give(spec: Spec, names: Sequence[str], devices: Devices) -> Injected:
    """``spec`` with the devices of these names.

    Raises:
        SystemFailureError: one is not there, or its nodes are not.
    """
    def injected() -> Injected:
        from pallet.cdi.injection import inject  # few containers have such devices

        return inject(spec, devices.look().resolve(names))

    return await run_blocking(injected)
