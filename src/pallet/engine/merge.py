"""Container config: defaults from the image, and what Docker refuses in a create request.

Pure functions. Semantics rows "merge", "environment", "hostname", "modes".
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

import msgspec

from pallet.engine.restart import RestartPolicy, check_policy
from pallet.errors import InvalidParameterError
from pallet.spec.engine.config import ContainerConfig, HealthConfig
from pallet.spec.engine.wire import given
from pallet.spec.signals import signal_number

if TYPE_CHECKING:
    from pallet.spec.engine.host_config import HostConfig

_HEALTH_FIELDS = ("test", "interval", "timeout", "start_period", "start_interval", "retries")
_MIN_HEALTH_NS = 1_000_000
_LABEL = r"[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?"
_HOSTNAME = re.compile(rf"^{_LABEL}(\.{_LABEL})*$")


def merge_env(image_env: list[str] | None, own: list[str] | None) -> list[str]:
    """Image variables the container does not set, then the container's own, by key."""
    keys = {entry.partition("=")[0] for entry in own or ()}
    inherited = [entry for entry in image_env or () if entry.partition("=")[0] not in keys]
    return [*(own or ()), *inherited]


def _union(image: dict[str, object] | None, own: dict[str, object] | None) -> dict[str, object] | None:
    if not image:
        return own
    return {**image, **(own or {})}


def _merge_health(image: HealthConfig | None, own: HealthConfig | None) -> HealthConfig | None:
    if own is None or image is None:
        return own or image
    values = {name: getattr(own, name) or getattr(image, name) for name in _HEALTH_FIELDS}
    return HealthConfig(**values)


def merge(config: ContainerConfig, image: ContainerConfig | None) -> ContainerConfig:
    """Return ``config`` with everything it leaves open taken from the image's config.

    Raises:
        InvalidParameterError: "no command specified".
    """
    entrypoint, cmd = config.entrypoint, config.cmd
    if image is not None:
        if not entrypoint:
            if not cmd:
                cmd = image.cmd
            if entrypoint is None or entrypoint == []:
                entrypoint = image.entrypoint
        exposed = _union(given(image.exposed_ports), given(config.exposed_ports))  # type: ignore[arg-type]
        health = _merge_health(given(image.healthcheck), given(config.healthcheck))
        config = msgspec.structs.replace(
            config,
            user=config.user or image.user,
            env=merge_env(image.env, config.env),
            exposed_ports=msgspec.UNSET if exposed is None else exposed,
            volumes=_union(image.volumes, config.volumes),  # type: ignore[arg-type]
            working_dir=config.working_dir or image.working_dir,
            labels={**(image.labels or {}), **(config.labels or {})},
            stop_signal=config.stop_signal or image.stop_signal,
            stop_timeout=config.stop_timeout if config.stop_timeout is not msgspec.UNSET else image.stop_timeout,
            healthcheck=msgspec.UNSET if health is None else health,
            shell=config.shell or image.shell,
        )
    if entrypoint == [""]:
        entrypoint = None
    if not entrypoint and not cmd:
        msg = "no command specified"
        raise InvalidParameterError(msg)
    return msgspec.structs.replace(config, entrypoint=entrypoint, cmd=cmd, labels=config.labels or {},
                                   env=config.env or [])


def overlay_env(base: dict[str, str], entries: list[str] | None) -> list[str]:
    """``base`` with ``entries`` over it, as ``KEY=value`` words; an entry without "=" removes."""
    merged = dict(base)
    for entry in entries or ():
        key, equals, value = entry.partition("=")
        if equals:
            merged[key] = value
        else:
            merged.pop(key, None)
    return [f"{key}={value}" for key, value in merged.items()]


def environment(config: ContainerConfig) -> list[str]:
    """The process's environment: PATH, HOSTNAME and TERM defaults, then ``Config.Env``.

    An entry without "=" removes the variable.
    """
    merged = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME": config.hostname,
    }
    if config.tty:
        merged["TERM"] = "xterm"
    return overlay_env(merged, config.env)


def check(config: ContainerConfig, host: HostConfig) -> None:
    """Refuse what Docker refuses before anything is made.

    Raises:
        InvalidParameterError: in Docker's words.
    """
    if config.working_dir and not posixpath.isabs(config.working_dir):
        msg = f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
        raise InvalidParameterError(msg)
    if stop_signal := given(config.stop_signal):
        signal_number(stop_signal)
    for entry in config.env or ():
        if not entry.partition("=")[0]:
            msg = f"invalid environment variable: {entry}"
            raise InvalidParameterError(msg)
    _check_health(given(config.healthcheck))
    _check_hostname(config, host)
    check_policy(RestartPolicy(name=host.restart_policy.name,
                               maximum_retry_count=host.restart_policy.maximum_retry_count),
                 auto_remove=host.auto_remove)
    for extra in host.extra_hosts or ():
        _check_extra_host(extra)
    _check_modes(config, host)


def _check_hostname(config: ContainerConfig, host: HostConfig) -> None:
    name = config.hostname
    if name and (len(name) > 63 or not _HOSTNAME.match(name)):
        msg = f"invalid hostname format: {name}"
        raise InvalidParameterError(msg)
    if name and host.uts_mode == "host":
        msg = "conflicting options: hostname and the UTS mode"
        raise InvalidParameterError(msg)


def _check_extra_host(text: str) -> None:
    name, sep, address = text.partition(":")
    if not sep or not name or not address:
        msg = f"bad format for add-host: \"{text}\""
        raise InvalidParameterError(msg)


def _check_health(health: HealthConfig | None) -> None:
    if health is None:
        return
    for name, label in (("interval", "Interval"), ("timeout", "Timeout"), ("start_period", "StartPeriod"),
                        ("start_interval", "StartInterval")):
        value: int = given(getattr(health, name)) or 0
        if value and value < _MIN_HEALTH_NS:
            msg = f"{label} in Healthcheck cannot be less than 1ms"
            raise InvalidParameterError(msg)
    if (given(health.retries) or 0) < 0:
        msg = "Retries in Healthcheck cannot be negative"
        raise InvalidParameterError(msg)


def _check_modes(config: ContainerConfig, host: HostConfig) -> None:
    for failed, message in (*_container_mode_conflicts(config, host), *_unknown_modes(host)):
        if failed:
            raise InvalidParameterError(message)


def _container_mode_conflicts(config: ContainerConfig, host: HostConfig) -> list[tuple[bool, str]]:
    """What does not go with another's network namespace, and links with host's; (refused, words)."""
    undefined = " type networking can't be used with links. This would result in undefined behavior"
    if host.network_mode == "host":
        return [(bool(host.links), f"conflicting options: host{undefined}")]
    kind, _, donor = host.network_mode.partition(":")
    if kind != "container":
        return []
    conflict = "conflicting options: "
    publishing = f"{conflict}port publishing and the container type network mode"
    return [
        (not donor, "invalid network mode: invalid container format container:<name|id>"),
        (bool(host.links), f"{conflict}container{undefined}"),
        (bool(config.hostname), f"{conflict}hostname and the network mode"),
        (bool(host.dns), f"{conflict}dns and the network mode"),
        (bool(host.extra_hosts), f"{conflict}custom host-to-IP mapping and the network mode"),
        (bool(given(config.mac_address)), f"{conflict}mac-address and the network mode"),
        (bool(host.port_bindings) or host.publish_all_ports, publishing),
        (bool(given(config.exposed_ports)), f"{conflict}port exposing and the container type network mode"),
    ]


def _unknown_modes(host: HostConfig) -> list[tuple[bool, str]]:
    """Modes and numbers outside Docker's; (refused, words)."""
    ipc = {"", "none", "private", "shareable", "host"}
    return [
        (not _known_mode(host.ipc_mode, ipc), f"invalid IPC mode: {host.ipc_mode}"),
        (not _known_mode(host.pid_mode, {"", "host"}), f"invalid PID mode: {host.pid_mode}"),
        (host.uts_mode not in {"", "host"}, f"invalid UTS mode: {host.uts_mode}"),
        (host.cgroupns_mode not in {"", "host", "private"}, f"invalid cgroup namespace mode: {host.cgroupns_mode}"),
        (host.userns_mode not in {"", "host"}, f"invalid user namespace mode: {host.userns_mode}"),
        (host.isolation not in {"", "default"},
         f'invalid isolation "{host.isolation}": only "default" is supported on linux'),
        (host.shm_size < 0, "SHM size can not be less than 0"),
        (not -1000 <= host.oom_score_adj <= 1000,
         f"invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]"),
    ]


def _known_mode(mode: str, known: set[str]) -> bool:
    return mode in known or (mode.startswith("container:") and mode != "container:")
