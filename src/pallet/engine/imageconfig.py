"""What an image presets for its containers, in the Engine API's form.

image-spec config.md; Engine API ContainerCreate ``platform``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from pallet.errors import NotFoundError
from pallet.spec import platform as platforms
from pallet.spec.engine.config import ContainerConfig, HealthConfig
from pallet.spec.engine.wire import Empty, given
from pallet.spec.image import Healthcheck, RunConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pallet.image.model import Image

_CACHE_SIZE = 256


def container_config(run: RunConfig) -> ContainerConfig:
    """Image presets as a container's config."""
    health = run.healthcheck
    return ContainerConfig(
        user=run.user,
        exposed_ports={port: Empty() for port in run.exposed_ports} if run.exposed_ports else UNSET,
        env=run.env, entrypoint=run.entrypoint, cmd=run.cmd,
        volumes={path: Empty() for path in run.volumes} if run.volumes else None,
        working_dir=run.working_dir, labels=run.labels, on_build=run.on_build,
        stop_signal=run.stop_signal or UNSET,
        stop_timeout=UNSET if run.stop_timeout is None else run.stop_timeout,
        shell=run.shell or UNSET,
        healthcheck=UNSET if health is None else HealthConfig(
            test=health.test or UNSET, interval=health.interval or UNSET, timeout=health.timeout or UNSET,
            start_period=health.start_period or UNSET, start_interval=health.start_interval or UNSET,
            retries=health.retries or UNSET))


def run_config(config: ContainerConfig) -> RunConfig:
    """What of a container's config an image can hold."""
    health = given(config.healthcheck)
    stop_timeout = given(config.stop_timeout)
    return RunConfig(
        user=config.user, env=config.env, entrypoint=config.entrypoint, cmd=config.cmd,
        exposed_ports=_set(given(config.exposed_ports)), volumes=_set(config.volumes),
        working_dir=config.working_dir, labels=config.labels, on_build=config.on_build,
        stop_signal=given(config.stop_signal) or "", stop_timeout=stop_timeout,
        shell=given(config.shell),
        healthcheck=None if health is None else Healthcheck(
            test=given(health.test), interval=given(health.interval) or 0,
            timeout=given(health.timeout) or 0, start_period=given(health.start_period) or 0,
            start_interval=given(health.start_interval) or 0, retries=given(health.retries) or 0))


def _set(names: Iterable[str] | None) -> dict[str, Any] | None:
    return {name: {} for name in names} if names is not None else None


class ImageDefaults:
    """Image configs as container configs, converted once an image."""

    def __init__(self) -> None:
        self._known: dict[str, ContainerConfig] = {}

    def of(self, image: Image) -> ContainerConfig | None:
        """The presets of ``image``; None when its config has none."""
        if image.config.config is None:
            return None
        known = self._known.get(image.id)
        if known is None:
            if len(self._known) >= _CACHE_SIZE:
                self._known.clear()
            known = self._known[image.id] = container_config(image.config.config)
        return known

    @staticmethod
    def check_platform(image: Image, wanted: str, reference: str) -> None:
        """Refuse an image that is not of the platform the client asked for.

        Raises:
            NotFoundError: so that the client pulls the right one.
        """
        if not wanted:
            return
        asked = platforms.parse(wanted)
        config = image.config
        if (config.os or asked.os) != asked.os or (config.architecture or asked.architecture) != asked.architecture:
            msg = (f"image with reference {reference} was found but does not match the specified platform: "
                   f"wanted {wanted}, actual: {config.os}/{config.architecture}")
            raise NotFoundError(msg)


def platform_warnings(image: Image, wanted: str) -> list[str]:
    """Docker's warning of an image for another platform that the client did not ask for by name."""
    config = image.config
    if wanted or not (config.os and config.architecture) or platforms.matches(platforms.host(), config.platform):
        return []
    from pallet.supervisor.platforms import native

    return [f"The requested image's platform ({config.platform}) does not match the detected host platform "
            f"({native()[-1]}) and no specific platform was requested"]
