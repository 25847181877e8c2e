"""The daemon about itself: version, info and disk usage.

Spec   Engine API SystemVersion, SystemInfo, SystemDataUsage.
"""

from __future__ import annotations

from msgspec import UNSET, Struct, field

from pallet.spec.engine.build import BuildCacheRecord
from pallet.spec.engine.container import ContainerSummary
from pallet.spec.engine.image import ImageSummary
from pallet.spec.engine.volume import Volume
from pallet.spec.engine.wire import Maybe


class PlatformName(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Name of the product."""

    name: str


class ComponentVersion(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Version of one part of the product."""

    name: str
    version: str
    details: Maybe[dict[str, str]] = UNSET


class SystemVersion(Struct, frozen=True, kw_only=True, rename="pascal"):
    """``docker version``, server half."""

    platform: PlatformName
    components: list[ComponentVersion]
    version: str
    api_version: str
    min_api_version: str = field(name="MinAPIVersion")
    git_commit: str = ""
    go_version: str = ""
    os: str = "linux"
    arch: str
    kernel_version: str
    experimental: Maybe[bool] = UNSET
    build_time: Maybe[str] = UNSET


class PluginsInfo(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Drivers by kind."""

    volume: list[str] | None = None
    network: list[str] | None = None
    authorization: list[str] | None = None
    log: list[str] | None = None


class IndexInfo(Struct, frozen=True, kw_only=True, rename="pascal"):
    """How one registry is reached."""

    name: str
    mirrors: list[str] = []
    secure: bool
    official: bool


class RegistryServiceConfig(Struct, frozen=True, kw_only=True):
    """Registry settings of the daemon."""

    insecure_registry_cidrs: list[str] = field(name="InsecureRegistryCIDRs", default_factory=list)
    index_configs: dict[str, IndexInfo] = field(name="IndexConfigs", default_factory=dict)
    mirrors: list[str] | None = field(name="Mirrors", default_factory=list)


class Runtime(Struct, frozen=True, kw_only=True):
    """An OCI runtime the daemon can use."""

    path: Maybe[str] = UNSET
    runtime_args: Maybe[list[str]] = field(name="runtimeArgs", default=UNSET)
    runtime_type: Maybe[str] = field(name="runtimeType", default=UNSET)
    status: Maybe[dict[str, str]] = UNSET


class Commit(Struct, frozen=True, kw_only=True):
    """Revision of a helper program."""

    id: str = field(name="ID", default="")


class SwarmInfo(Struct, frozen=True, kw_only=True):
    """Swarm state of a daemon that is not in one."""

    node_id: str = field(name="NodeID", default="")
    node_addr: str = field(name="NodeAddr", default="")
    local_node_state: str = field(name="LocalNodeState", default="inactive")
    control_available: bool = field(name="ControlAvailable", default=False)
    error: str = field(name="Error", default="")
    remote_managers: None = field(name="RemoteManagers", default=None)


class AddressPoolInfo(Struct, frozen=True, kw_only=True, rename="pascal"):
    """A pool networks take their subnets from."""

    base: str
    size: int


class FirewallInfo(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Which firewall the networks use."""

    driver: str
    info: Maybe[list[list[str]]] = UNSET


class DeviceInfo(Struct, frozen=True, kw_only=True, rename="pascal"):
    """A device that containers can ask for; ``source`` is the driver."""

    source: str
    id: str = field(name="ID")


class SystemInfo(Struct, frozen=True, kw_only=True, rename="pascal"):
    """``docker info``, server half. Memory in bytes."""

    id: str = field(name="ID")
    containers: int
    containers_running: int
    containers_paused: int
    containers_stopped: int
    images: int
    driver: str
    driver_status: list[list[str]] = []
    plugins: PluginsInfo
    memory_limit: bool
    swap_limit: bool
    cpu_cfs_period: bool
    cpu_cfs_quota: bool
    cpu_shares: bool = field(name="CPUShares")
    cpu_set: bool = field(name="CPUSet")
    pids_limit: bool
    ipv4_forwarding: bool = field(name="IPv4Forwarding")
    debug: bool
    nfd: int = field(name="NFd")
    oom_kill_disable: bool
    ngoroutines: int = field(name="NGoroutines")
    system_time: str
    logging_driver: str
    cgroup_driver: str
    cgroup_version: Maybe[str]
    nevents_listener: int = field(name="NEventsListener")
    kernel_version: str
    operating_system: str
    os_version: str = field(name="OSVersion")
    os_type: str = field(name="OSType", default="linux")
    architecture: str
    index_server_address: str = "https://index.docker.io/v1/"
    registry_config: RegistryServiceConfig | None
    ncpu: int = field(name="NCPU")
    mem_total: int
    generic_resources: None = None
    docker_root_dir: str
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    name: str
    labels: list[str] | None
    experimental_build: bool = False
    server_version: str
    runtimes: dict[str, Runtime]
    default_runtime: str
    swarm: SwarmInfo = SwarmInfo()
    live_restore_enabled: bool
    isolation: str = ""
    init_binary: str
    containerd_commit: Commit = Commit()
    runc_commit: Commit = Commit()
    init_commit: Commit = Commit()
    security_options: list[str]
    product_license: Maybe[str] = UNSET
    default_address_pools: Maybe[list[AddressPoolInfo]] = UNSET
    firewall_backend: Maybe[FirewallInfo] = UNSET
    cdi_spec_dirs: list[str] = field(name="CDISpecDirs", default_factory=list)
    discovered_devices: Maybe[list[DeviceInfo]] = UNSET
    warnings: list[str] | None = None


class DiskUsage(Struct, frozen=True, kw_only=True, rename="pascal"):
    """``docker system df``; a part that was not asked for is absent. Sizes in bytes."""

    layers_size: Maybe[int] = UNSET
    images: Maybe[list[ImageSummary]] = UNSET
    containers: Maybe[list[ContainerSummary]] = UNSET
    volumes: Maybe[list[Volume]] = UNSET
    build_cache: Maybe[list[BuildCacheRecord]] = UNSET
