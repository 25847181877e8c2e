"""``ContainerConfig``: the portable half of a container's settings, and its health check.

Spec   Engine API ContainerConfig, HealthConfig.
"""

from __future__ import annotations

from msgspec import UNSET, Struct, field

from pallet.spec.engine.wire import Empty, Maybe


class HealthConfig(Struct, frozen=True, kw_only=True, rename="pascal"):
    """A health check; durations in nanoseconds, 0 and UNSET inherit from the image.

    ``test`` is ``[]`` (inherit), ``["NONE"]``, ``["CMD", ...]`` or ``["CMD-SHELL", "..."]``.
    """

    test: Maybe[list[str]] = UNSET
    interval: Maybe[int] = UNSET
    timeout: Maybe[int] = UNSET
    start_period: Maybe[int] = UNSET
    start_interval: Maybe[int] = UNSET
    retries: Maybe[int] = UNSET


class ContainerConfig(Struct, frozen=True, kw_only=True, rename="pascal"):
    """What runs in the container, independent of the host.

    ``cmd`` and ``entrypoint`` also arrive as a bare string (Go's StrSlice); the decoder makes it a
    list of one. ``stop_timeout`` is in seconds, -1 waits for ever.
    """

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: Maybe[dict[str, Empty]] = UNSET
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] | None = None
    cmd: list[str] | None = None
    healthcheck: Maybe[HealthConfig] = UNSET
    args_escaped: Maybe[bool] = UNSET
    image: str = ""
    volumes: dict[str, Empty] | None = None
    working_dir: str = ""
    entrypoint: list[str] | None = None
    network_disabled: Maybe[bool] = UNSET
    mac_address: Maybe[str] = UNSET
    on_build: list[str] | None = None
    labels: dict[str, str] | None = None
    stop_signal: Maybe[str] = UNSET
    stop_timeout: Maybe[int] = UNSET
    shell: Maybe[list[str]] = UNSET


class ImageConfig(Struct, frozen=True, kw_only=True, rename="pascal"):
    """The ``Config`` of an image inspect: what an image presets for its containers."""

    user: str = ""
    exposed_ports: Maybe[dict[str, Empty]] = UNSET
    env: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    volumes: dict[str, Empty] | None = None
    working_dir: str = ""
    labels: dict[str, str] | None = None
    stop_signal: Maybe[str] = UNSET
    args_escaped: Maybe[bool] = UNSET
    healthcheck: Maybe[HealthConfig] = UNSET
    on_build: list[str] | None = None
    shell: Maybe[list[str]] = UNSET


class IdResponse(Struct, frozen=True, kw_only=True):
    """Reply of calls that make one object (exec create, commit)."""

    id: str = field(name="Id")
