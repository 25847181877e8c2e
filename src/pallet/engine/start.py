"""Starting a container: network, files, configuration, one message to the zygote.

Engine API ContainerStart. Each step is undone here when a later one fails; what a killed daemon
leaves is finished by ``engine/restore.py``.
"""

from __future__ import annotations

import logging
import os
import select
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from pallet.engine import devices, links, oci, security
from pallet.engine.attach import detach_keys_of
from pallet.engine.container import at_rest
from pallet.engine.logconfig import log_sink
from pallet.engine.status import Change, Status, advance
from pallet.errors import ConflictError, NotModifiedError, PalletError, SystemFailureError
from pallet.network.model import ConnectRequest, Sandbox
from pallet.spec.engine.wire import given
from pallet.storage import stubs
from pallet.zygote import messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from pallet.config import Config
    from pallet.engine.container import Container
    from pallet.engine.files import ContainerFiles
    from pallet.engine.joins import Joins
    from pallet.engine.seccomp import SeccompFilters
    from pallet.engine.store import ContainerStore
    from pallet.network.controller import NetworkController
    from pallet.paths import ExecPaths
    from pallet.storage.snapshot import Snapshotter
    from pallet.supervisor.client import Supervisor
    from pallet.supervisor.shims import Shim

logger = logging.getLogger(__name__)

_UNKNOWN_EXIT = 128


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What of this kernel matters for a start; looked up once at the daemon's start."""

    recursive_read_only: bool
    has_mqueue: bool
    """The host has /dev/mqueue, to be shared with ``--ipc host``."""


def check_startable(container: Container) -> None:
    """Refuse a start that the status forbids.

    Raises:
        NotModifiedError: it runs.
        ConflictError: paused, dead, or being removed.
    """
    status = container.status
    if status is Status.PAUSED:
        msg = "cannot start a paused container, try unpause instead"
        raise ConflictError(msg)
    if status in {Status.RUNNING, Status.RESTARTING}:
        msg = f"container {container.id} is already running"
        raise NotModifiedError(msg)
    if status in {Status.REMOVING, Status.DEAD} or container.hidden:
        msg = "container is marked for removal and cannot be started"
        raise ConflictError(msg)


class Starter:
    """Starts containers. ``on_start`` takes over the running container's shim."""

    def __init__(
        self, *, config: Config, exec_paths: ExecPaths, facts: HostFacts, store: ContainerStore,
        snapshotter: Snapshotter, network: NetworkController, supervisor: Supervisor, files: ContainerFiles,
        joins: Joins, filters: SeccompFilters, cdi: devices.Devices,
    ) -> None:
        self._config = config
        self._exec_paths = exec_paths
        self._facts = facts
        self._store = store
        self._snapshotter = snapshotter
        self._network = network
        self._supervisor = supervisor
        self._files = files
        self._joins = joins
        self._filters = filters
        self._cdi = cdi
        self.on_start: Callable[[Container, Shim], None] = lambda _container, _shim: None

    async def start(self, container: Container) -> None:
        """Start it and return when its process was executed.

        Preconditions: ``container.lock`` is held and ``check_startable`` passed.

        Raises:
            InvalidParameterError: its command cannot be run; the exit code says 126 or 127.
            SystemFailureError: network, mounts or the runtime refused.
        """
        container.error = ""
        try:
            shim = await self._launch(container)
        except PalletError as error:
            self._failed(container, error, getattr(error, "exit_code", _UNKNOWN_EXIT))
            raise
        except OSError as error:
            self._failed(container, error, _UNKNOWN_EXIT)
            raise SystemFailureError(str(error)) from error
        container.status = advance(container.status, Change.START)
        container.shim = shim
        container.pid = shim.pid
        container.exit_code = 0
        container.oom_killed = False
        container.started_at_ns = shim.started_at_ns
        container.ended.clear()
        container.restart_cancelled.clear()
        # First of all: whatever fails from here on, a process that runs has somebody who sees its end.
        self.on_start(container, shim)
        self._store.note_soon(container)
        self._store.emit(container, "start")

    def _failed(self, container: Container, error: Exception, exit_code: int) -> None:
        logger.info("start of %s failed: %s", container.id, error)
        container.status = advance(container.status, Change.START_FAILED)
        container.error = str(error)
        container.exit_code = exit_code
        container.pid = 0
        container.endpoint = at_rest(container.endpoint)
        for attach in container.pending:
            attach.finish("eof")
        container.pending.clear()
        self._store.note(container)

    async def _launch(self, container: Container) -> Shim:
        joined = self._joins.resolve(container)
        self._share_names(container)
        _forget_gone(container)
        sandbox = await self._connect(container)
        shim_dir = os.fspath(self._exec_paths.shim(container.id))
        try:
            container.endpoint = sandbox.endpoint
            self._store.save(container)  # the intent: a killed daemon finds address and shim by it
            self._store.emit_volumes(container, "mount")
            self._store.emit_network(container, "connect")
            request = await self._request(container, sandbox, joined, shim_dir)
            pending, container.pending = container.pending, []
            try:
                shim = await self._supervisor.start_container(
                    request, netns_fd=sandbox.netns_fd,
                    listener_fds=[listener.fd for listener in sandbox.listeners],
                    attach_sockets=[attach.sock for attach in pending])
            except BaseException:
                for attach in pending:
                    attach.finish("eof")
                raise
            for stream_id, attach in enumerate(pending, 1):
                attach.follow(shim.streams[stream_id])
        except Exception:
            # Not when the daemon's end cancels this: the shim may come up yet, and the next daemon
            # finds it by its directory and the record.
            shutil.rmtree(shim_dir, ignore_errors=True)
            await self._network.release(container.id)
            self._store.emit_network(container, "disconnect")
            self._store.emit_volumes(container, "unmount")
            raise
        finally:
            sandbox.close()
        return shim

    def _share_names(self, container: Container) -> None:
        """In ``--net container:ID`` mode the host and domain names are the donor's."""
        donor = self._joins.donor(container, "network")
        if donor is not None:
            container.config = msgspec.structs.replace(
                container.config, hostname=donor.config.hostname, domainname=donor.config.domainname)

    async def _connect(self, container: Container) -> Sandbox:
        host, config = container.host_config, container.config
        request = ConnectRequest(
            container_name=container.name,
            network_mode="none" if given(config.network_disabled) else host.network_mode,
            mac=container.mac or None,
            port_bindings=host.port_bindings or {},
            exposed=tuple(given(config.exposed_ports) or ()),
            publish_all=host.publish_all_ports)
        return await self._network.connect(container.id, request)

    async def _request(
        self, container: Container, sandbox: Sandbox, joined: dict[str, str], shim_dir: str
    ) -> messages.StartContainer:
        host = container.host_config
        options = security.parse_security_opts(
            host.security_opt or [], no_new_privileges=self._config.no_new_privileges)
        around = oci.Surroundings(
            config=self._config, joined=joined,
            files=self._files.write(container, sandbox.endpoint),
            private_network=sandbox.netns_fd is not None or host.network_mode == "none",
            recursive_read_only=self._facts.recursive_read_only, has_mqueue=self._facts.has_mqueue)
        spec = oci.build(container, around, options)
        linked = links.resolve(self._store.index, container) if host.links else []
        if linked:
            spec = oci.with_environment(spec, links.environment(container, linked))
        groups = host.group_add or []
        if names := devices.requested(host.device_requests, self._cdi):
            given_devices = await devices.give(spec, names, self._cdi)
            spec, groups = given_devices.spec, [*groups, *given_devices.groups]
        names = spec.process.capabilities.bounding if spec.process.capabilities else []
        seccomp = await self._filters.select(options, names, privileged=host.privileged)
        runtime = self._foreign_runtime(container)
        if runtime is not None and seccomp.path is not None:
            spec = oci.with_seccomp(spec, seccomp.document)
        os.makedirs(shim_dir, mode=0o700, exist_ok=True)
        return messages.StartContainer(
            id=container.id, spec=spec,
            root=stubs.under(self._snapshotter.root_mount(container.id, volatile=host.auto_remove)),
            user=container.config.user, group_add=groups,
            stdio=messages.Stdio(
                open_stdin=container.config.open_stdin, stdin_once=container.config.stdin_once,
                log=log_sink(container, self._config, self._files.log_path(container.id)),
                attach=[messages.Attach(
                    stream_id=number, stdin=attach.options.stdin, stdout=attach.options.stdout,
                    stderr=attach.options.stderr, mux=not container.config.tty,
                    detach_keys=detach_keys_of(container, attach.options))
                    for number, attach in enumerate(container.pending, 1)]),
            shim_dir=shim_dir, init=self._init(container), runtime=runtime, seccomp_path=seccomp.path,
            seccomp_flags=seccomp.flags, has_netns=sandbox.netns_fd is not None,
            listeners=[messages.Listener(proto=listener.proto,  # type: ignore[arg-type]  # tcp or udp
                                         target_ip=listener.target_ip,
                                         target_port=listener.target_port) for listener in sandbox.listeners],
            cgroup_driver=self._config.cgroup_driver, cgroup_ahead=not host.cgroup_parent)

    def _init(self, container: Container) -> str | None:
        wanted = given(container.host_config.init)
        if not (self._config.init if wanted is None else wanted):
            return None
        return self._config.init_path or shutil.which("docker-init") or shutil.which("tini-static") \
            or shutil.which("tini") or ""

    def _foreign_runtime(self, container: Container) -> messages.ForeignRuntime | None:
        name = given(container.host_config.runtime) or self._config.default_runtime
        for runtime in self._config.runtimes:
            if runtime.name == name and runtime.path:
                return messages.ForeignRuntime(path=runtime.path, args=list(runtime.args))
        return None


def _forget_gone(container: Container) -> None:
    """Drop clients that attached and went away before the start: their end is not the end of stdin."""
    for attach in list(container.pending):
        poller = select.poll()
        poller.register(attach.sock, 0)  # POLLHUP and POLLERR are always told; a half-close is neither
        if poller.poll(0):
            container.pending.remove(attach)
            attach.finish("eof")
