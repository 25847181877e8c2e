"""The daemon about itself: info, version, events, disk usage.

``System`` implements ``api.backends.SystemBackend``. Engine API tag System.
"""

from __future__ import annotations

import datetime
import os
import platform
import threading
from typing import TYPE_CHECKING

from msgspec import UNSET

import pallet
from pallet.aio import run_blocking
from pallet.engine import hostinfo, logconfig
from pallet.engine.eventfilter import matcher
from pallet.engine.status import Status
from pallet.spec.engine import system as documents
from pallet.spec.engine.api_version import API_VERSION, MIN_API_VERSION
from pallet.spec.engine.options import EventsOptions, ImageListOptions, ListOptions, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pallet.config import Config
    from pallet.engine.containers import Containers
    from pallet.engine.devices import Devices
    from pallet.engine.events import EventBus
    from pallet.engine.images import Images
    from pallet.engine.index import ContainerIndex
    from pallet.engine.volumes import Volumes
    from pallet.image.store import ImageStore
    from pallet.spec.engine.build import BuildCacheRecord
    from pallet.spec.engine.event import EventMessage
    from pallet.storage.snapshot import Snapshotter

COMPATIBLE_VERSION = "28.3.0"
"""The Docker Engine whose API this speaks; clients compare it, so it comes first in ``version``."""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


def go_arch(machine: str) -> str:
    """``x86_64`` → ``amd64``."""
    return _ARCHITECTURES.get(machine, machine)


class System:
    """The system half of the Engine API."""

    def __init__(
        self, *, config: Config, daemon_id: str, host: hostinfo.HostInfo, index: ContainerIndex, events: EventBus,
        images: ImageStore, snapshotter: Snapshotter, containers: Containers, image_api: Images, volumes: Volumes,
        cdi: Devices, warnings: Callable[[], list[str]],
    ) -> None:
        self._config = config
        self._id = daemon_id
        self._host = host
        self._index = index
        self._events = events
        self._images = images
        self._snapshotter = snapshotter
        self._containers = containers
        self._image_api = image_api
        self._volumes = volumes
        self._cdi = cdi
        self._warnings = warnings
        self.build_cache: Callable[[], Sequence[BuildCacheRecord]] = list
        """Rows of what builds keep: set by who has a builder."""

    async def version(self) -> documents.SystemVersion:
        """See ``SystemBackend.version``."""
        python = f"python{platform.python_version()}"
        details = {
            "ApiVersion": API_VERSION, "Arch": go_arch(self._host.machine), "BuildTime": "", "Experimental": "false",
            "GitCommit": pallet.__version__, "GoVersion": python, "KernelVersion": self._host.kernel,
            "MinAPIVersion": MIN_API_VERSION, "Os": "linux"}
        return documents.SystemVersion(
            platform=documents.PlatformName(name=f"Pallet {pallet.__version__}"),
            components=[documents.ComponentVersion(name="Engine", version=COMPATIBLE_VERSION, details=details)],
            version=COMPATIBLE_VERSION, api_version=API_VERSION, min_api_version=MIN_API_VERSION,
            git_commit=pallet.__version__, go_version=python, arch=go_arch(self._host.machine),
            kernel_version=self._host.kernel)

    async def info(self) -> documents.SystemInfo:
        """See ``SystemBackend.info``."""
        config, host = self._config, self._host
        states = [container.status for container in self._index if not container.hidden]
        running = sum(status in {Status.RUNNING, Status.RESTARTING} for status in states)
        paused = states.count(Status.PAUSED)
        devices = await run_blocking(self._cdi.look)
        fds, tasks = await run_blocking(lambda: (len(os.listdir("/proc/self/fd")), threading.active_count()))
        return documents.SystemInfo(
            id=self._id, containers=len(states), containers_running=running, containers_paused=paused,
            containers_stopped=len(states) - running - paused, images=len(self._images.list()),
            driver=self._snapshotter.name,
            driver_status=[["Backing Filesystem", await run_blocking(_file_system, str(config.data_root))],
                           ["Supports d_type", "true"], ["Native Overlay Diff", "true"]],
            plugins=documents.PluginsInfo(volume=["local"], network=["bridge", "host", "null"], authorization=None,
                                          log=list(logconfig.DRIVERS)),
            memory_limit="memory" in host.controllers, swap_limit=host.swap_limit,
            cpu_cfs_period="cpu" in host.controllers, cpu_cfs_quota="cpu" in host.controllers,
            cpu_shares="cpu" in host.controllers, cpu_set="cpuset" in host.controllers,
            pids_limit="pids" in host.controllers, ipv4_forwarding=hostinfo.collect().ipv4_forwarding,
            debug=config.debug, nfd=fds, oom_kill_disable=not host.cgroup_v2, ngoroutines=tasks,
            system_time=datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z"),
            logging_driver=config.log_driver, cgroup_driver=config.cgroup_driver,
            cgroup_version="2" if host.cgroup_v2 else "1", nevents_listener=self._events.listeners,
            kernel_version=host.kernel, operating_system=host.os_name, os_version=host.os_version,
            architecture=host.machine, registry_config=self._registries(), ncpu=host.cpus,
            mem_total=host.memory_bytes, docker_root_dir=str(config.data_root), http_proxy=_proxy("HTTP_PROXY"),
            https_proxy=_proxy("HTTPS_PROXY"), no_proxy=_proxy("NO_PROXY"), name=host.hostname,
            labels=list(config.labels), server_version=COMPATIBLE_VERSION, runtimes=self._runtimes(),
            default_runtime=config.default_runtime, live_restore_enabled=config.live_restore,
            init_binary="docker-init", security_options=self._security(),
            warnings=[*self._warnings(), *devices.warnings()] or None,
            cdi_spec_dirs=list(config.cdi_directories), discovered_devices=[
                documents.DeviceInfo(source="cdi", id=name) for name in devices.devices] or UNSET,
            default_address_pools=[documents.AddressPoolInfo(base=base, size=size)
                                   for base, size in config.bridge.address_pools] or UNSET)

    def _registries(self) -> documents.RegistryServiceConfig:
        registry = self._config.registry
        cidrs = [entry for entry in registry.insecure if "/" in entry]
        hosts = [entry for entry in registry.insecure if "/" not in entry]
        hub, others = _mirrors(registry.mirrors)
        index = {"docker.io": documents.IndexInfo(name="docker.io", mirrors=hub, secure=True, official=True)}
        index |= {host: documents.IndexInfo(name=host, mirrors=others.get(host, []), secure=host not in hosts,
                                            official=False) for host in (*hosts, *others)}
        return documents.RegistryServiceConfig(
            insecure_registry_cidrs=["::1/128", "127.0.0.0/8", *cidrs], index_configs=index,
            mirrors=hub or None)

    def _runtimes(self) -> dict[str, documents.Runtime]:
        known = {"pallet": documents.Runtime(path="pallet")}
        for runtime in self._config.runtimes:
            if runtime.path:
                known[runtime.name] = documents.Runtime(path=runtime.path, runtime_args=list(runtime.args) or UNSET)
        return known

    def _security(self) -> list[str]:
        found = ["name=apparmor"] if self._host.apparmor else []
        if self._host.seccomp:
            profile = self._config.seccomp_profile or "builtin"
            found.append(f"name=seccomp,profile={profile}")
        if self._config.no_new_privileges:
            found.append("name=no-new-privileges")
        if self._host.cgroup_v2:
            found.append("name=cgroupns")
        return found

    async def events(self, options: EventsOptions) -> Stream[EventMessage]:
        """See ``SystemBackend.events``."""
        return self._events.subscribe(since_ns=options.since_ns, until_ns=options.until_ns,
                                      wanted=matcher(options.filters))

    async def disk_usage(self, kinds: frozenset[str]) -> documents.DiskUsage:
        """See ``SystemBackend.disk_usage``."""
        def wanted(kind: str) -> bool:
            return not kinds or kind in kinds

        layers = {layer for image in self._images.list() for layer in image.diff_ids}
        return documents.DiskUsage(
            layers_size=sum(map(self._snapshotter.layer_size, layers)) if wanted("image") else UNSET,
            images=list(await self._image_api.list(ImageListOptions(shared_size=True))) if wanted("image") else UNSET,
            containers=list(await self._containers.list(ListOptions(all=True, size=True)))
            if wanted("container") else UNSET,
            volumes=list(await self._volumes.usage()) if wanted("volume") else UNSET,
            build_cache=list(self.build_cache()) if wanted("build-cache") else UNSET)


def _mirrors(configured: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """URLs of Docker Hub's mirrors, and those of other registries by host (``*`` is every one)."""
    hub: list[str] = []
    others: dict[str, list[str]] = {}
    for text in configured:
        host, equals, url = text.partition("=")
        if not equals or "/" in host:
            host, url = "docker.io", text
        if host in {"docker.io", "*"}:
            hub.append(url)
        if host != "docker.io":
            others.setdefault(host, []).append(url)
    return hub, others


def _proxy(name: str) -> str:
    return os.environ.get(name) or os.environ.get(name.lower()) or ""


def _file_system(path: str) -> str:
    """The type of the file system ``path`` is on, from the deepest mount above it."""
    best, kind = "", "unknown"
    real = os.path.realpath(path)
    with open("/proc/self/mounts", encoding="utf-8") as handle:
        for line in handle:
            _, target, this_kind, *_ = line.split()
            inside = real == target or real.startswith(target.rstrip("/") + "/")
            if inside and len(target) >= len(best):
                best, kind = target, this_kind
    return {"ext4": "extfs", "ext3": "extfs", "ext2": "extfs"}.get(kind, kind)
