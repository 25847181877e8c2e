"""The daemon's settings: flags over file over default, parsed once to a frozen ``Config``.

``daemon/options.py`` builds it from argv and ``daemon.json``; everything else receives it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pallet import paths


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """Certificates of a ``tcp://`` listener. ``verify`` demands a client certificate."""

    ca_cert: Path | None
    cert: Path
    key: Path
    verify: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeConfig:
    """The default network. ``name`` "none" disables it, as ``dockerd --bridge none`` does."""

    name: str = "pallet0"
    bip: str | None = None
    """CIDR of the bridge itself, for example ``172.30.0.1/16``; None picks a free pool."""
    fixed_cidr: str | None = None
    default_gateway: str | None = None
    mtu: int = 1500
    icc: bool = True
    ip_masq: bool = True
    ip_forward: bool = True
    firewall: bool = True
    """False leaves nftables alone (``--iptables=false``)."""
    userland_proxy: bool = True
    default_bind_ip: str = "0.0.0.0"
    ipv6: bool = False
    fixed_cidr_v6: str | None = None
    address_pools: tuple[tuple[str, int], ...] = ()
    """``(base CIDR, prefix length)`` pairs; empty means Docker's built-in pools."""
    sandbox_pool: int = 8
    """Network sandboxes kept ready for the next containers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryConfig:
    """How registries are reached."""

    mirrors: tuple[str, ...] = ()
    """``URL`` mirrors Docker Hub; ``HOST=URL`` that registry, ``*=URL`` every one."""
    mirror_auth: tuple[tuple[str, str, str], ...] = ()
    """``(host[:port] of a mirror, user, password)``; without a user it gets the origin's credentials."""
    insecure: tuple[str, ...] = ()
    """Hosts and CIDRs that may speak plain HTTP or an unverified TLS; 127.0.0.0/8 always may."""
    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 5
    max_download_attempts: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeConfig:
    """An OCI runtime: ``path`` None is Pallet's native one."""

    name: str
    path: str | None = None
    args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePrune:
    """What is to go of the build cache: by ``buildx prune`` and ``builder prune``, or by a rule of its collection."""

    all: bool = False
    """Also what images still use, and internal things."""
    filters: tuple[str, ...] = ()
    """containerd's filter expressions, one of which has to match (``id~=…``, ``type==…``, ``until==…``)."""
    keep_duration_ns: int = 0
    reserved_bytes: int = 0
    """Never shrink below this."""
    max_used_bytes: int = 0
    min_free_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BuilderConfig:
    """How the build cache is collected."""

    gc: bool = True
    rules: tuple[CachePrune, ...] | None = None
    """None: Docker's, made with what follows; 0 in all of these means parts of the disk."""
    reserved_bytes: int = 0
    max_used_bytes: int = 0
    min_free_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings of one daemon."""

    data_root: Path = Path(paths.DEFAULT_DATA_ROOT)
    exec_root: Path = Path(paths.DEFAULT_EXEC_ROOT)
    storage_driver: str = "overlay2"
    """``overlay2`` or ``erofs``: what new layers become; old ones are used as they are."""
    hosts: tuple[str, ...] = (f"unix://{paths.DEFAULT_SOCKET}",)
    group: str = "docker"
    pid_file: Path | None = None
    debug: bool = False
    log_level: str = "info"
    tls: TlsConfig | None = None
    bridge: BridgeConfig = field(default_factory=BridgeConfig)
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    runtimes: tuple[RuntimeConfig, ...] = ()
    default_runtime: str = "pallet"
    init: bool = False
    init_path: str | None = None
    cgroup_parent: str | None = None
    cgroup_driver: str = "cgroupfs"
    default_ulimits: tuple[tuple[str, int, int], ...] = ()
    default_shm_size_bytes: int = 64 * 1024 * 1024
    seccomp_profile: str | None = None
    no_new_privileges: bool = False
    selinux: bool = False
    cdi_directories: tuple[str, ...] = ("/etc/cdi", "/var/run/cdi")
    """Where CDI devices are described, the later over the earlier; none where CDI is off."""
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    disk_budget_bytes: int = 0
    """What images may take, blobs and layers; 0 is no limit."""
    builder: BuilderConfig = field(default_factory=BuilderConfig)
    log_driver: str = "json-file"
    log_options: tuple[tuple[str, str], ...] = ()
    live_restore: bool = True
    shutdown_timeout_s: int = 15
    features: tuple[tuple[str, bool], ...] = ()
