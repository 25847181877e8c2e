"""Containers: create, inspect, list and wait documents.

Spec   Engine API ContainerCreate, ContainerInspect, ContainerList, ContainerWait.
"""

from __future__ import annotations

from msgspec import UNSET, Struct, field

from pallet.spec.engine.config import ContainerConfig
from pallet.spec.engine.host_config import HostConfig
from pallet.spec.engine.network import EndpointSettings, NetworkingConfig, NetworkSettings
from pallet.spec.engine.oci import Descriptor
from pallet.spec.engine.wire import ZERO_TIME, Maybe


class ContainerCreateRequest(ContainerConfig, frozen=True, kw_only=True, rename="pascal"):
    """Body of container create: the config's fields, with the other two beside them."""

    host_config: Maybe[HostConfig] = UNSET
    networking_config: Maybe[NetworkingConfig] = UNSET


class ContainerCreateResponse(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Reply of container create; ``warnings`` is sent as ``[]`` when there are none."""

    id: str
    warnings: list[str] = []


class WaitError(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Why a wait could not give a status."""

    message: str


class ContainerWaitResponse(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Exit code of the container, 128+n for a death by signal n."""

    status_code: int
    error: Maybe[WaitError] = UNSET


class HealthcheckResult(Struct, frozen=True, kw_only=True, rename="pascal"):
    """One probe."""

    start: str
    end: str
    exit_code: int
    output: str


class Health(Struct, frozen=True, kw_only=True, rename="pascal"):
    """``status``: none, starting, healthy or unhealthy; the last five probes."""

    status: str
    failing_streak: int = 0
    log: list[HealthcheckResult] | None = None


class ContainerState(Struct, frozen=True, kw_only=True, rename="pascal"):
    """State of a container with the booleans Docker keeps beside ``status``."""

    status: str
    running: bool = False
    paused: bool = False
    restarting: bool = False
    oom_killed: bool = field(name="OOMKilled", default=False)
    dead: bool = False
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    started_at: str = ZERO_TIME
    finished_at: str = ZERO_TIME
    health: Maybe[Health] = UNSET


class DriverData(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Storage driver of a container or image and where its parts are."""

    data: dict[str, str] | None = None
    name: str = ""


class MountPoint(Struct, frozen=True, kw_only=True, rename="pascal"):
    """A mount a container has; ``name`` and ``driver`` only for volumes."""

    type: Maybe[str] = UNSET
    name: Maybe[str] = UNSET
    source: str = ""
    destination: str = ""
    driver: Maybe[str] = UNSET
    mode: str = ""
    rw: bool = field(name="RW", default=True)
    propagation: str = ""


class ContainerInspect(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Everything about one container. ``name`` has its leading slash.

    ``size_rw`` and ``size_root_fs`` (bytes) only when the client asked for sizes.
    """

    id: str
    created: str
    path: str
    args: list[str]
    state: ContainerState
    image: str
    resolv_conf_path: str = ""
    hostname_path: str = ""
    hosts_path: str = ""
    log_path: str = ""
    name: str
    restart_count: int = 0
    driver: str
    platform: str = "linux"
    mount_label: str = ""
    process_label: str = ""
    app_armor_profile: str = ""
    exec_ids: list[str] | None = field(name="ExecIDs", default=None)
    host_config: HostConfig
    graph_driver: DriverData
    size_rw: Maybe[int] = UNSET
    size_root_fs: Maybe[int] = UNSET
    mounts: list[MountPoint] = []
    config: ContainerConfig
    network_settings: NetworkSettings
    image_manifest_descriptor: Maybe[Descriptor] = UNSET


class Port(Struct, frozen=True, kw_only=True):
    """A port in a container list; one entry a host address."""

    ip: Maybe[str] = field(name="IP", default=UNSET)
    private_port: int = field(name="PrivatePort")
    public_port: Maybe[int] = field(name="PublicPort", default=UNSET)
    type: str = field(name="Type")


class SummaryHostConfig(Struct, frozen=True, kw_only=True, rename="pascal"):
    """What a list tells of the host config."""

    network_mode: str = ""
    annotations: Maybe[dict[str, str]] = UNSET


class SummaryNetworks(Struct, frozen=True, kw_only=True, rename="pascal"):
    """What a list tells of the networks."""

    networks: dict[str, EndpointSettings] = {}


class ContainerSummary(Struct, frozen=True, kw_only=True, rename="pascal"):
    """One container of a list; ``created`` in seconds, ``status`` is text for people."""

    id: str
    names: list[str]
    image: str
    image_id: str = field(name="ImageID")
    command: str
    created: int
    ports: list[Port] = []
    size_rw: Maybe[int] = UNSET
    size_root_fs: Maybe[int] = UNSET
    labels: dict[str, str] = {}
    state: str
    status: str
    host_config: SummaryHostConfig = SummaryHostConfig()
    network_settings: SummaryNetworks | None = None
    mounts: list[MountPoint] = []
    image_manifest_descriptor: Maybe[Descriptor] = UNSET
