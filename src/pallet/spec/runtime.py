"""The OCI runtime configuration, as far as Pallet uses it.

Owns   the documents of config.json; no I/O. ``pallet.runtime`` carries them out, ``runc`` and
       ``crun`` get the same text, so a field missing here is a feature Pallet does not use.
Runs   anywhere.
Spec   runtime-spec config.md, config-linux.md, version 1.2.
"""

from __future__ import annotations

import msgspec

OCI_VERSION = "1.0.2"


class _Document(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of all documents here: camel-case names, absent where default."""


class Box(_Document, frozen=True, kw_only=True):
    """Size of a terminal in characters."""

    height: int = 0
    width: int = 0


class User(_Document, frozen=True, kw_only=True):
    """Who the process runs as; resolved numbers (runtime-spec config.md#user)."""

    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: list[int] = []


class Capabilities(_Document, frozen=True, kw_only=True):
    """Names with their ``CAP_`` prefix (config.md#linux-process)."""

    bounding: list[str] = []
    effective: list[str] = []
    inheritable: list[str] = []
    permitted: list[str] = []
    ambient: list[str] = []


class Rlimit(_Document, frozen=True, kw_only=True):
    """One resource limit; ``type`` is the kernel's ``RLIMIT_NOFILE`` form."""

    type: str
    hard: int
    soft: int


class Process(_Document, frozen=True, kw_only=True):
    """What runs in the container (config.md#process)."""

    terminal: bool = False
    console_size: Box | None = None
    user: User = User()
    args: list[str] = []
    env: list[str] = []
    cwd: str = msgspec.field(default_factory=lambda: "/")
    """Always written out: config.md#process demands it, so no omittable default."""
    capabilities: Capabilities | None = None
    rlimits: list[Rlimit] = []
    no_new_privileges: bool = False
    apparmor_profile: str = ""
    oom_score_adj: int | None = None
    selinux_label: str = ""


class Root(_Document, frozen=True, kw_only=True):
    """The container's root (config.md#root)."""

    path: str
    readonly: bool = False


class Mount(_Document, frozen=True, kw_only=True):
    """One further mount (config.md#mounts), mounted in the order of the list."""

    destination: str
    type: str = ""
    source: str = ""
    options: list[str] = []


class Namespace(_Document, frozen=True, kw_only=True):
    """``type`` is pid, network, mount, ipc, uts, user or cgroup.

    A type that is absent shares the host's namespace; ``path`` joins an existing one, and without
    a path a new one is made (config-linux.md#namespaces).
    """

    type: str
    path: str = ""


class IdMapping(_Document, frozen=True, kw_only=True):
    """One range of a user namespace (config-linux.md#user-namespace-mappings)."""

    container_id: int = msgspec.field(name="containerID")
    host_id: int = msgspec.field(name="hostID")
    size: int


class Device(_Document, frozen=True, kw_only=True):
    """One device node (config-linux.md#devices); ``type`` is c, b, u or p."""

    path: str
    type: str
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class DeviceRule(_Document, frozen=True, kw_only=True):
    """One rule of the device cgroup; None is "all" (config-linux.md#allowed-device-list)."""

    allow: bool
    type: str = ""
    major: int | None = None
    minor: int | None = None
    access: str = ""


class MemoryResources(_Document, frozen=True, kw_only=True):
    """Memory limits in bytes; -1 is unlimited (config-linux.md#memory)."""

    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    """Memory plus swap."""
    kernel: int | None = None
    kernel_tcp: int | None = msgspec.field(name="kernelTCP", default=None)
    swappiness: int | None = None
    disable_oom_killer: bool | None = msgspec.field(name="disableOOMKiller", default=None)


class CpuResources(_Document, frozen=True, kw_only=True):
    """CPU limits; quota, period and realtime values in microseconds (config-linux.md#cpu)."""

    shares: int | None = None
    quota: int | None = None
    burst: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str = ""
    mems: str = ""
    idle: int | None = None


class PidsResources(_Document, frozen=True, kw_only=True):
    """Number of tasks; 0 or less is unlimited (config-linux.md#pids)."""

    limit: int


class WeightDevice(_Document, frozen=True, kw_only=True):
    """Block I/O weight of one device."""

    major: int
    minor: int
    weight: int | None = None
    leaf_weight: int | None = None


class ThrottleDevice(_Document, frozen=True, kw_only=True):
    """Bytes or operations a second on one device."""

    major: int
    minor: int
    rate: int


class BlockIOResources(_Document, frozen=True, kw_only=True):
    """Block I/O (config-linux.md#block-io)."""

    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: list[WeightDevice] = []
    throttle_read_bps_device: list[ThrottleDevice] = []
    throttle_write_bps_device: list[ThrottleDevice] = []
    throttle_read_iops_device: list[ThrottleDevice] = msgspec.field(
        name="throttleReadIOPSDevice", default_factory=list
    )
    throttle_write_iops_device: list[ThrottleDevice] = msgspec.field(
        name="throttleWriteIOPSDevice", default_factory=list
    )


class HugepageLimit(_Document, frozen=True, kw_only=True):
    """Bytes of one huge page size, named as the kernel does, for example ``2MB``."""

    page_size: str
    limit: int


class LinuxResources(_Document, frozen=True, kw_only=True):
    """Limits of the container's cgroup (config-linux.md#control-groups)."""

    devices: list[DeviceRule] = []
    memory: MemoryResources | None = None
    cpu: CpuResources | None = None
    pids: PidsResources | None = None
    block_io: BlockIOResources | None = msgspec.field(name="blockIO", default=None)
    hugepage_limits: list[HugepageLimit] = []
    unified: dict[str, str] = {}


class Linux(_Document, frozen=True, kw_only=True):
    """The Linux part of the configuration (config-linux.md)."""

    namespaces: list[Namespace] = []
    uid_mappings: list[IdMapping] = []
    gid_mappings: list[IdMapping] = []
    devices: list[Device] = []
    cgroups_path: str = ""
    resources: LinuxResources | None = None
    rootfs_propagation: str = ""
    seccomp: msgspec.Raw = msgspec.Raw()
    """OCI seccomp document for foreign runtimes; the native one loads a compiled filter."""
    sysctl: dict[str, str] = {}
    masked_paths: list[str] = []
    readonly_paths: list[str] = []
    mount_label: str = ""


class Hook(_Document, frozen=True, kw_only=True):
    """A program to run at a point of the lifecycle; ``timeout`` in seconds."""

    path: str
    args: list[str] = []
    env: list[str] = []
    timeout: int | None = None


class Hooks(_Document, frozen=True, kw_only=True):
    """config.md#posix-platform-hooks; each list in the order of its calls."""

    prestart: list[Hook] = []
    create_runtime: list[Hook] = []
    create_container: list[Hook] = []
    start_container: list[Hook] = []
    poststart: list[Hook] = []
    poststop: list[Hook] = []


class Spec(_Document, frozen=True, kw_only=True):
    """config.json (runtime-spec config.md)."""

    oci_version: str = msgspec.field(default_factory=lambda: OCI_VERSION)
    """Always written out, as config.md#specification-version demands."""
    process: Process
    root: Root | None = None
    hostname: str = ""
    domainname: str = ""
    mounts: list[Mount] = []
    hooks: Hooks | None = None
    annotations: dict[str, str] = {}
    linux: Linux = Linux()


def namespace(spec: Spec, kind: str) -> Namespace | None:
    """The entry of namespace ``kind``, None where the host's is shared."""
    return next((entry for entry in spec.linux.namespaces if entry.type == kind), None)
