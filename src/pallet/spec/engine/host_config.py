"""``HostConfig``: the half of a container's settings that concerns this host.

Spec   Engine API HostConfig, Resources, Mount, RestartPolicy, DeviceMapping, DeviceRequest.
"""

from __future__ import annotations

from msgspec import UNSET, Struct, field

from pallet.spec.engine.network import PortBinding
from pallet.spec.engine.wire import Maybe


class WeightDevice(Struct, frozen=True, kw_only=True, rename="pascal"):
    """blkio weight of one block device."""

    path: str = ""
    weight: int = 0


class ThrottleDevice(Struct, frozen=True, kw_only=True, rename="pascal"):
    """blkio rate of one block device, bytes or operations a second."""

    path: str = ""
    rate: int = 0


class DeviceMapping(Struct, frozen=True, kw_only=True, rename="pascal"):
    """``--device``: a host device node in the container; permissions a subset of ``rwm``."""

    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(Struct, frozen=True, kw_only=True, rename="pascal"):
    """``--gpus`` and CDI devices."""

    driver: str = ""
    count: int = 0
    device_ids: list[str] | None = field(name="DeviceIDs", default=None)
    capabilities: list[list[str]] | None = None
    options: dict[str, str] | None = None


class Ulimit(Struct, frozen=True, kw_only=True, rename="pascal"):
    """One resource limit, ``name`` without ``RLIMIT_`` in lower case; -1 is unlimited."""

    name: str = ""
    hard: int = 0
    soft: int = 0


class RestartPolicy(Struct, frozen=True, kw_only=True, rename="pascal"):
    """``name``: "", no, always, unless-stopped or on-failure."""

    name: str = ""
    maximum_retry_count: int = 0


class LogConfig(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Log driver of a container; an empty ``type`` takes the daemon's."""

    type: str = ""
    config: dict[str, str] | None = None


class BindOptions(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Options of a mount of type bind."""

    propagation: Maybe[str] = UNSET
    non_recursive: Maybe[bool] = UNSET
    create_mountpoint: Maybe[bool] = UNSET
    read_only_non_recursive: Maybe[bool] = UNSET
    read_only_force_recursive: Maybe[bool] = UNSET


class VolumeDriverConfig(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Driver that makes the volume if it does not exist."""

    name: Maybe[str] = UNSET
    options: Maybe[dict[str, str]] = UNSET


class VolumeOptions(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Options of a mount of type volume."""

    no_copy: Maybe[bool] = UNSET
    labels: Maybe[dict[str, str]] = UNSET
    subpath: Maybe[str] = UNSET
    driver_config: Maybe[VolumeDriverConfig] = UNSET


class ImageOptions(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Options of a mount of type image."""

    subpath: Maybe[str] = UNSET


class TmpfsOptions(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Options of a mount of type tmpfs; ``mode`` is the permission bits as a plain number."""

    size_bytes: Maybe[int] = UNSET
    mode: Maybe[int] = UNSET
    options: Maybe[list[list[str]]] = UNSET


class Mount(Struct, frozen=True, kw_only=True, rename="pascal"):
    """``--mount``: ``type`` is bind, volume, tmpfs, image, cluster or npipe."""

    type: Maybe[str] = UNSET
    source: Maybe[str] = UNSET
    target: Maybe[str] = UNSET
    read_only: Maybe[bool] = UNSET
    consistency: Maybe[str] = UNSET
    bind_options: Maybe[BindOptions] = UNSET
    volume_options: Maybe[VolumeOptions] = UNSET
    image_options: Maybe[ImageOptions] = UNSET
    tmpfs_options: Maybe[TmpfsOptions] = UNSET


class Resources(Struct, frozen=True, kw_only=True, rename="pascal"):
    """cgroup limits and devices. Memory in bytes, cpu periods and quotas in microseconds.

    0 means "not set" except where None does: ``memory_swappiness``, ``oom_kill_disable`` and
    ``pids_limit`` (0 and -1 are both "unlimited" there).
    """

    cpu_shares: int = 0
    memory: int = 0
    nano_cpus: int = 0
    cgroup_parent: str = ""
    blkio_weight: int = 0
    blkio_weight_device: list[WeightDevice] | None = None
    blkio_device_read_bps: list[ThrottleDevice] | None = None
    blkio_device_write_bps: list[ThrottleDevice] | None = None
    blkio_device_read_iops: list[ThrottleDevice] | None = field(
        name="BlkioDeviceReadIOps", default=None)
    blkio_device_write_iops: list[ThrottleDevice] | None = field(
        name="BlkioDeviceWriteIOps", default=None)
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: list[DeviceMapping] | None = None
    device_cgroup_rules: list[str] | None = None
    device_requests: list[DeviceRequest] | None = None
    kernel_memory: Maybe[int] = UNSET
    kernel_memory_tcp: Maybe[int] = field(name="KernelMemoryTCP", default=UNSET)
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    pids_limit: int | None = None
    ulimits: list[Ulimit] | None = None
    cpu_count: int = 0
    cpu_percent: int = 0
    io_maximum_iops: int = field(name="IOMaximumIOps", default=0)
    io_maximum_bandwidth: int = field(name="IOMaximumBandwidth", default=0)


class HostConfig(Resources, frozen=True, kw_only=True, rename="pascal"):
    """Everything about a container that depends on this host; includes ``Resources``.

    ``masked_paths`` and ``readonly_paths``: None takes the defaults, ``[]`` none at all.
    """

    binds: list[str] | None = None
    container_id_file: str = field(name="ContainerIDFile", default="")
    log_config: LogConfig = LogConfig()
    network_mode: str = ""
    port_bindings: dict[str, list[PortBinding] | None] | None = None
    restart_policy: RestartPolicy = RestartPolicy()
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: list[str] | None = None
    console_size: tuple[int, int] = (0, 0)
    """Height, width of the first terminal; (0, 0) is unknown."""
    annotations: Maybe[dict[str, str]] = UNSET
    cap_add: list[str] | None = None
    cap_drop: list[str] | None = None
    cgroupns_mode: str = ""
    dns: list[str] | None = None
    dns_options: list[str] | None = None
    dns_search: list[str] | None = None
    extra_hosts: list[str] | None = None
    group_add: list[str] | None = None
    ipc_mode: str = ""
    cgroup: str = ""
    links: list[str] | None = None
    oom_score_adj: int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] | None = None
    storage_opt: Maybe[dict[str, str]] = UNSET
    tmpfs: Maybe[dict[str, str]] = UNSET
    uts_mode: str = field(name="UTSMode", default="")
    userns_mode: str = ""
    shm_size: int = 0
    sysctls: Maybe[dict[str, str]] = UNSET
    runtime: Maybe[str] = UNSET
    isolation: str = ""
    mounts: Maybe[list[Mount]] = UNSET
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None
    init: Maybe[bool] = UNSET


class UpdateConfig(Resources, frozen=True, kw_only=True, rename="pascal"):
    """Body of container update."""

    restart_policy: RestartPolicy = RestartPolicy()
