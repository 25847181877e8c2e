"""Containers as clients see them: inspect and list documents.

Engine API ContainerInspect, ContainerList; semantics rows "state values", "filters".
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from msgspec import UNSET

from pallet.engine.status import Status, is_running
from pallet.network import view as network_view
from pallet.spec.engine.container import (
    ContainerInspect,
    ContainerState,
    ContainerSummary,
    DriverData,
    MountPoint,
    SummaryHostConfig,
    SummaryNetworks,
)
from pallet.spec.engine.wire import ZERO_TIME, given, rfc3339_nano

if TYPE_CHECKING:
    from pallet.engine.container import Container, MountRecord
    from pallet.engine.files import ContainerFiles
    from pallet.spec.mounts import RootMount

_MINUTE, _HOUR, _DAY, _WEEK, _MONTH, _YEAR = 60, 3600, 86400, 604800, 2592000, 31536000


def human_duration(seconds: float) -> str:
    """Docker's words for a span: ``Less than a second``, ``About a minute``, ``3 weeks``."""
    whole = int(seconds)
    minutes, hours = whole // _MINUTE, round(seconds / _HOUR)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < _MINUTE:
        return f"{whole} seconds"
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    for limit, unit, name in ((2 * _WEEK, _DAY, "days"), (2 * _MONTH, _WEEK, "weeks"), (2 * _YEAR, _MONTH, "months")):
        if seconds < limit:
            return f"{int(seconds // unit)} {name}"
    return f"{int(seconds // _YEAR)} years"


def status_text(container: Container) -> str:
    """The STATUS column: ``Up 5 minutes (healthy)``, ``Exited (0) 3 seconds ago``."""
    now_ns = time.time_ns()
    up = human_duration((now_ns - container.started_at_ns) / 1e9)
    down = human_duration((now_ns - container.finished_at_ns) / 1e9)
    match container.status:
        case Status.RUNNING:
            health = container.health.summary() if container.health else ""
            return f"Up {up}{health}"
        case Status.PAUSED:
            return f"Up {up} (Paused)"
        case Status.RESTARTING:
            return f"Restarting ({container.exit_code}) {down} ago"
        case Status.REMOVING:
            return "Removal In Progress"
        case Status.DEAD:
            return "Dead"
        case Status.CREATED:
            return "Created"
        case _:
            return f"Exited ({container.exit_code}) {down} ago" if container.started_at_ns else ""


def _time(at_ns: int) -> str:
    return rfc3339_nano(at_ns) if at_ns else ZERO_TIME


def state(container: Container) -> ContainerState:
    """``State`` with Docker's booleans, computed."""
    status = container.status
    return ContainerState(
        status=status.value, running=is_running(status), paused=status is Status.PAUSED,
        restarting=status is Status.RESTARTING, oom_killed=container.oom_killed, dead=status is Status.DEAD,
        pid=container.pid, exit_code=container.exit_code, error=container.error,
        started_at=_time(container.started_at_ns), finished_at=_time(container.finished_at_ns),
        health=container.health.document() if container.health else UNSET)


def mount_point(mount: MountRecord) -> MountPoint:
    """One entry of ``Mounts``."""
    volume = mount.type == "volume"
    return MountPoint(
        type=mount.type, name=mount.name if volume else UNSET, source=mount.source,
        destination=mount.destination, driver=mount.driver if volume else UNSET, mode=mount.mode,
        rw=not mount.read_only, propagation=mount.propagation)


def mount_points(container: Container) -> list[MountPoint]:
    """``Mounts``: volumes and binds, and tmpfs mounts given by ``--mount``."""
    return [mount_point(mount) for mount in container.mounts if mount.type != "tmpfs" or mount.from_mounts]


def driver_data(driver: str, root: RootMount | None) -> DriverData:
    """``GraphDriver``: where the layers are."""
    if root is None:
        return DriverData(name=driver)
    base = root.base_dir
    data = {"LowerDir": ":".join(os.path.join(base, lower) for lower in root.lower)}
    if root.upper is not None and root.work is not None:
        data |= {"MergedDir": "", "UpperDir": f"{base}/{root.upper}", "WorkDir": f"{base}/{root.work}"}
    return DriverData(name=driver, data=data)


def inspect(
    container: Container, files: ContainerFiles, root: RootMount | None, sizes: tuple[int, int] | None
) -> ContainerInspect:
    """The whole document. ``sizes`` is (writable layer, whole root) in bytes when asked for."""
    paths = files.paths(container)
    return ContainerInspect(
        id=container.id, created=_time(container.created_at_ns), path=container.path, args=container.args,
        state=state(container), image=container.image_id, resolv_conf_path=paths.resolv_conf,
        hostname_path=paths.hostname, hosts_path=paths.hosts, log_path=paths.log, name=f"/{container.name}",
        restart_count=container.restart_count, driver=container.driver,
        exec_ids=list(container.exec_ids) or None, host_config=container.host_config,
        graph_driver=driver_data(container.driver, root), mounts=mount_points(container), config=container.config,
        size_rw=sizes[0] if sizes else UNSET, size_root_fs=sizes[1] if sizes else UNSET,
        network_settings=network_view.network_settings(container.endpoint, container.pid))


def command_text(container: Container) -> str:
    """The COMMAND column: words with spaces are quoted as Docker does."""
    words = [container.path, *container.args]
    return " ".join(f"'{word}'" if " " in word else word for word in words)


def summary(container: Container, sizes: tuple[int, int] | None, image: str) -> ContainerSummary:
    """One line of a list. ``image`` is the reference, or the id where the tag has moved on."""
    settings = network_view.network_settings(container.endpoint, container.pid)
    return ContainerSummary(
        id=container.id, names=[f"/{container.name}"], image=image, image_id=container.image_id,
        command=command_text(container), created=container.created_at_ns // 1_000_000_000,
        ports=network_view.port_list(container.endpoint), size_rw=sizes[0] if sizes else UNSET,
        size_root_fs=sizes[1] if sizes else UNSET, labels=container.config.labels or {},
        state=container.status.value, status=status_text(container),
        host_config=SummaryHostConfig(network_mode=container.host_config.network_mode,
                                      annotations=given(container.host_config.annotations) or UNSET),
        network_settings=SummaryNetworks(networks=settings.networks), mounts=mount_points(container))
