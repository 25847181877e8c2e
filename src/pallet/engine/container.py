"""The container entity: what is known of one container, in memory and on disk.

``ContainerRecord`` is the disk document (one row in ``meta.db``); ``Container`` is the one mutable
object the engine works on, guarded by its ``lock``. Runs on the loop.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from pallet.engine.status import Status
from pallet.network.model import Endpoint
from pallet.spec.engine.config import ContainerConfig
from pallet.spec.engine.host_config import HostConfig
from pallet.types import ContainerId, DiffID, ImageId

if TYPE_CHECKING:
    import socket

    from pallet.engine.health import HealthMonitor
    from pallet.spec.engine.options import AttachOptions
    from pallet.supervisor.shims import AttachResult, Shim


class MountRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A mount the container has: ``MountPoint`` of inspect and what the runtime needs."""

    type: str
    source: str
    destination: str
    name: str = ""
    driver: str = ""
    read_only: bool = False
    recursive_read_only: bool = False
    non_recursive: bool = False
    propagation: str = ""
    mode: str = ""
    tmpfs_options: str = ""
    anonymous: bool = False
    """A volume that was made for this container and goes with it (``rm -v``, ``--rm``)."""
    from_mounts: bool = False


class ContainerRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One container on disk. Times in nanoseconds since the epoch; 0 is never."""

    id: str
    name: str
    created_at_ns: int
    image_id: str
    image_ref: str
    layers: list[str]
    config: ContainerConfig
    host_config: HostConfig
    driver: str
    mac: str = ""
    """The MAC address the user fixed."""
    mounts: list[MountRecord] = []
    status: Status = Status.CREATED
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_at_ns: int = 0
    finished_at_ns: int = 0
    restart_count: int = 0
    stopped_by_hand: bool = False
    endpoint: Endpoint | None = None
    hidden: bool = False
    """Half made or half removed: the next daemon finishes the removal."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(ContainerRecord)


@dataclass(slots=True)
class PendingAttach:
    """A client that attached before the start; its socket goes to the shim with the start.

    ``done`` resolves to "eof" or "detached" when its stream is over.
    """

    sock: socket.socket
    options: AttachOptions
    done: asyncio.Future[AttachResult]

    def finish(self, how: AttachResult) -> None:
        """End the stream before a shim had it."""
        self.sock.close()
        if not self.done.done():
            self.done.set_result(how)

    def follow(self, stream: asyncio.Future[AttachResult]) -> None:
        """The shim has it: its end is ours."""
        stream.add_done_callback(self._ended)

    def _ended(self, stream: asyncio.Future[AttachResult]) -> None:
        if not self.done.done():
            self.done.set_result(stream.result())


@dataclass(slots=True)
class ExitResult:
    """What a waiter gets."""

    exit_code: int
    error: str = ""


@dataclass(slots=True)
class Waiters:
    """Futures of ``/wait`` callers, by condition."""

    not_running: set[asyncio.Future[ExitResult]] = field(default_factory=set)
    next_exit: set[asyncio.Future[ExitResult]] = field(default_factory=set)
    removed: set[asyncio.Future[ExitResult]] = field(default_factory=set)

    @staticmethod
    def resolve(waiting: set[asyncio.Future[ExitResult]], result: ExitResult) -> None:
        """Give ``result`` to everyone in ``waiting`` and empty it."""
        for future in waiting:
            if not future.done():
                future.set_result(result)
        waiting.clear()


@dataclass(slots=True, kw_only=True)
class Container:
    """One container. Fields below ``status`` change only while ``lock`` is held."""

    id: ContainerId
    name: str
    """Without the slash."""
    created_at_ns: int
    image_id: ImageId
    image_ref: str
    layers: tuple[DiffID, ...]
    config: ContainerConfig
    host_config: HostConfig
    driver: str
    mac: str = ""
    mounts: list[MountRecord] = field(default_factory=list)

    status: Status = Status.CREATED
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_at_ns: int = 0
    finished_at_ns: int = 0
    restart_count: int = 0
    stopped_by_hand: bool = False
    endpoint: Endpoint | None = None
    hidden: bool = False

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiters: Waiters = field(default_factory=Waiters)
    pending: list[PendingAttach] = field(default_factory=list)
    shim: Shim | None = None
    exec_ids: list[str] = field(default_factory=list)
    health: HealthMonitor | None = None
    restart_delay_s: float = 0.0
    removed: bool = False
    """Nothing of it is left but this object."""
    keep_once: bool = False
    """The next exit does not remove it in spite of AutoRemove: it is being restarted."""
    restart_cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while the init process does not run: what ``stop`` and ``remove`` wait for."""

    @property
    def path(self) -> str:
        """The program that init runs: first word of entrypoint and command."""
        words = [*(self.config.entrypoint or ()), *(self.config.cmd or ())]
        return words[0] if words else ""

    @property
    def args(self) -> list[str]:
        """The words after ``path``."""
        return [*(self.config.entrypoint or ()), *(self.config.cmd or ())][1:]

    @property
    def hostname(self) -> str:
        """The name in its UTS namespace."""
        return self.config.hostname

    def attributes(self, **more: str) -> dict[str, str]:
        """Event attributes: every label, then image and name, then ``more``."""
        return {**(self.config.labels or {}), **more, "image": self.image_ref, "name": self.name}

    def result(self) -> ExitResult:
        """What a waiter of this container gets now."""
        return ExitResult(self.exit_code, self.error)

    def encode(self) -> bytes:
        """The record as stored."""
        return _encoder.encode(ContainerRecord(
            id=self.id, name=self.name, created_at_ns=self.created_at_ns, image_id=self.image_id,
            image_ref=self.image_ref, layers=list(self.layers), config=self.config,
            host_config=self.host_config, driver=self.driver, mac=self.mac, mounts=self.mounts, status=self.status,
            pid=self.pid, exit_code=self.exit_code, error=self.error, oom_killed=self.oom_killed,
            started_at_ns=self.started_at_ns, finished_at_ns=self.finished_at_ns,
            restart_count=self.restart_count, stopped_by_hand=self.stopped_by_hand,
            endpoint=self.endpoint, hidden=self.hidden))


def decode(raw: bytes) -> Container:
    """Rebuild a container from its stored record.

    Raises:
        msgspec.MsgspecError: not a record of this version.
    """
    record = _decoder.decode(raw)
    return Container(
        id=ContainerId(record.id), name=record.name, created_at_ns=record.created_at_ns,
        image_id=ImageId(record.image_id), image_ref=record.image_ref,
        layers=tuple(DiffID(layer) for layer in record.layers), config=record.config,
        host_config=record.host_config, driver=record.driver, mac=record.mac, mounts=list(record.mounts),
        status=record.status, pid=record.pid, exit_code=record.exit_code, error=record.error,
        oom_killed=record.oom_killed, started_at_ns=record.started_at_ns,
        finished_at_ns=record.finished_at_ns, restart_count=record.restart_count,
        stopped_by_hand=record.stopped_by_hand, endpoint=record.endpoint, hidden=record.hidden)


def at_rest(endpoint: Endpoint | None) -> Endpoint | None:
    """What stays of an endpoint while its container does not run: the network, no addresses."""
    if endpoint is None:
        return None
    return Endpoint(network_name=endpoint.network_name, network_id=endpoint.network_id, endpoint_id="")
