"""Starts, ends and removals that meet each other or fail half-way; what a new daemon makes of the rest."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pallet.daemon.app import Daemon
from pallet.engine import wait
from pallet.engine.attach import Attacher
from pallet.engine.container import Container, MountRecord, PendingAttach, decode
from pallet.engine.containers import Containers
from pallet.engine.exec import ExecInstances
from pallet.engine.exits import ExitWatcher
from pallet.engine.health import HealthMonitor, HealthMonitors, Plan
from pallet.engine.index import ContainerIndex
from pallet.engine.mountplan import MountPlanner
from pallet.engine.probe import _read_frames
from pallet.engine.restore import Restorer
from pallet.engine.start import Starter
from pallet.engine.status import Status
from pallet.engine.stop import Stopper
from pallet.engine.store import ContainerStore
from pallet.engine.tasks import Tasks
from pallet.engine.volumes import Volumes
from pallet.errors import ConflictError, NotFoundError, SystemFailureError
from pallet.paths import DataPaths, ExecPaths
from pallet.spec.engine.config import ContainerConfig
from pallet.spec.engine.exec import ExecConfig
from pallet.spec.engine.filters import Filters
from pallet.spec.engine.host_config import HostConfig, RestartPolicy
from pallet.spec.engine.options import AttachOptions, ExecStartOptions
from pallet.spec.mounts import RootMount
from pallet.storage.metadata import Metadata
from pallet.supervisor.shims import Exit
from pallet.types import ContainerId, ImageId

if TYPE_CHECKING:
    from pathlib import Path

ID = "ab" * 32
END = Exit(exit_code=3, oom_killed=False, finished_at_ns=20)


class Rows:
    """The metadata's container rows; a full disk on demand."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[str, bytes]] = {}
        self.full = False
        self.writes = 0

    def put_container(self, container_id: str, name: str, record: bytes) -> None:
        if self.full:
            raise SystemFailureError("database or disk is full")
        self.writes += 1
        self.rows[container_id] = (name, record)

    def delete_container(self, container_id: str) -> None:
        self.rows.pop(container_id, None)

    def containers(self) -> list[tuple[str, str, bytes]]:
        return [(key, *row) for key, row in self.rows.items()]


class World:
    """The parts that every test needs; the others are stand-ins."""

    def __init__(self, root: Path) -> None:
        self.rows = Rows()
        self.index = ContainerIndex()
        self.events: list[str] = []
        self.store = ContainerStore(self.index, self.rows, self)  # type: ignore[arg-type]  # stand-ins
        self.tasks = Tasks()
        self.paths = ExecPaths(root)
        self.released: list[str] = []
        self.launch: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.network_error: Exception | None = None

    def emit(self, kind: str, action: str, actor_id: str, attributes: object) -> None:
        self.events.append(action)

    def container(self, status: Status = Status.CREATED, **host: Any) -> Container:
        made = Container(
            id=ContainerId(ID), name="web", created_at_ns=1, image_id=ImageId("sha256:1"), image_ref="app", layers=(),
            config=ContainerConfig(cmd=["sh"]), host_config=HostConfig(network_mode="none", **host),
            driver="overlay2", status=status)
        self.index.add(made)
        self.store.save(made)
        return made

    # The network.

    async def connect(self, _container_id: str, _request: object) -> Any:
        if self.network_error is not None:
            raise self.network_error
        return SimpleNamespace(endpoint=None, netns_fd=None, listeners=(), close=lambda: None)

    async def release(self, container_id: str) -> None:
        self.released.append(container_id)
        if self.network_error is not None:
            raise self.network_error

    def rename(self, _container_id: str, _name: str) -> None:
        raise AssertionError

    # The supervisor.

    async def start_container(self, *_: object, **__: object) -> Any:
        return await self.launch

    async def start_exec(self, *_: object, **__: object) -> Any:
        return await self.launch

    # Everything else.

    def starter(self, monkeypatch: pytest.MonkeyPatch) -> Starter:
        joins = SimpleNamespace(resolve=lambda _: {}, donor=lambda *_: None)
        made = Starter(config=None, exec_paths=self.paths, facts=None, store=self.store, snapshotter=None,  # type: ignore[arg-type]
                       network=self, supervisor=self, files=None, joins=joins, filters=None, cdi=None)  # type: ignore[arg-type]

        async def request(*_: object) -> object:
            self.paths.shim(ID).mkdir(parents=True)
            return object()

        monkeypatch.setattr(made, "_request", request)
        return made

    def execs(self, monkeypatch: pytest.MonkeyPatch) -> ExecInstances:
        made = ExecInstances(config=None, exec_paths=self.paths, store=self.store, supervisor=self,  # type: ignore[arg-type]
                             filters=None, tasks=self.tasks)  # type: ignore[arg-type]

        async def request(*_: object) -> object:
            return object()

        monkeypatch.setattr(made, "_request", request)
        return made

    def watcher(self) -> ExitWatcher:
        health = SimpleNamespace(stop=lambda _: None, start=lambda _: None)
        return ExitWatcher(store=self.store, network=self, starter=None, tasks=self.tasks, health=health,  # type: ignore[arg-type]
                           remove=None)  # type: ignore[arg-type]


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


def pend(container: Container) -> tuple[socket.socket, PendingAttach]:
    """A client that attached before the start: its end of the stream, and what the engine keeps."""
    client, ours = socket.socketpair()
    attach = PendingAttach(ours, AttachOptions(), asyncio.get_running_loop().create_future())
    container.pending.append(attach)
    return client, attach


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def _forever() -> None:
    await asyncio.get_running_loop().create_future()


async def test_a_start_that_fails_before_the_shim_ends_attached_clients(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = world.container()
    client, attach = pend(container)
    world.network_error = SystemFailureError("port is already allocated")
    with pytest.raises(SystemFailureError, match="already allocated"):
        await world.starter(monkeypatch).start(container)
    with client:
        client.settimeout(5)
        assert client.recv(1) == b""
    assert attach.done.result() == "eof"
    assert container.pending == []


async def test_a_start_cut_off_by_the_daemons_end_is_left_to_the_next_daemon(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = world.container()
    task = asyncio.create_task(world.starter(monkeypatch).start(container))
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.paths.shim(ID).exists(), "the shim is found by it"
    assert world.released == []


async def test_a_start_whose_record_cannot_be_written_is_watched(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    container = world.container()
    watched: list[Container] = []
    starter = world.starter(monkeypatch)
    starter.on_start = lambda started, _shim: watched.append(started)
    task = asyncio.create_task(starter.start(container))
    await turns()
    world.rows.full = True
    world.launch.set_result(SimpleNamespace(pid=7, started_at_ns=10))
    await task
    assert watched == [container]
    world.store.flush()
    assert decode(world.rows.rows[ID][1]).status is Status.CREATED, "the disk is full"
    world.rows.full = False
    world.store.flush()
    assert decode(world.rows.rows[ID][1]).status is Status.RUNNING, "it is not given up"


async def test_a_start_and_an_exit_are_written_once_and_the_shims_directory_goes_after(world: World) -> None:
    container = world.container(Status.RUNNING)
    world.rows.writes = 0
    gone: list[Status] = []
    world.store.note_soon(container)
    async with container.lock:
        await world.watcher().finish(
            container, END, then=lambda: gone.append(decode(world.rows.rows[ID][1]).status))
    assert not gone, "the next daemon would know of the exit from nowhere"
    world.store.flush()
    assert gone == [Status.EXITED]
    assert world.rows.writes == 1
    world.store.flush()
    assert world.rows.writes == 1


async def test_what_was_put_off_comes_by_itself(world: World) -> None:
    container = world.container(Status.RUNNING)
    written = asyncio.Event()
    container.exit_code = 9
    world.store.note_soon(container, written.set)
    await written.wait()
    assert decode(world.rows.rows[ID][1]).exit_code == 9


async def test_a_record_that_was_put_off_does_not_come_back_after_a_removal(world: World) -> None:
    container = world.container(Status.RUNNING)
    gone: list[str] = []
    world.store.note_soon(container, lambda: gone.append("directory"))
    world.store.delete(container)
    assert gone == ["directory"]
    world.store.flush()
    assert world.rows.rows == {}


async def test_an_end_is_told_whatever_else_fails(world: World) -> None:
    container = world.container(Status.RUNNING)
    waiting = wait.subscribe(container, "not-running")
    world.network_error, world.rows.full = OSError("netlink"), True
    async with container.lock:
        await world.watcher().finish(container, END)
    assert (await waiting.result()).status_code == 3
    assert container.ended.is_set()
    assert container.status is Status.EXITED


async def test_an_attach_during_the_start_goes_to_the_shim(world: World) -> None:
    container = world.container()
    client, ours = socket.socketpair()
    served: list[socket.socket] = []

    async def attach(sock: socket.socket, **_: object) -> asyncio.Future[str]:
        served.append(sock)
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        done.set_result("eof")
        return done

    async def opened(*, multiplexed: bool) -> socket.socket:
        assert multiplexed
        return ours

    attacher = Attacher(world.store, None, world.tasks)  # type: ignore[arg-type]  # no logs are asked for
    async with container.lock:
        task = asyncio.create_task(attacher.attach(container, AttachOptions(stream=True, stdout=True), opened))
        await turns()
        container.status, container.shim = Status.RUNNING, SimpleNamespace(attach=attach)  # type: ignore[assignment]
    await task
    assert served == [ours]
    container.removed, container.shim = True, None
    await attacher.attach(container, AttachOptions(stream=True, stdout=True), opened)
    with client:
        assert client.recv(1) == b"", "nothing will ever come of a removed container"
    assert container.pending == []


async def test_a_rename_that_waited_for_the_removal_brings_nothing_back(world: World) -> None:
    container = world.container(Status.EXITED)
    nothing: Any = None
    api = Containers(store=world.store, images=nothing, snapshotter=nothing, files=nothing, network=world,  # type: ignore[arg-type]
                     creator=nothing, starter=nothing, stopper=nothing, remover=nothing, attacher=nothing,
                     logs=nothing, tasks=world.tasks)
    async with container.lock:
        task = asyncio.create_task(api.rename("web", new_name="other"))
        await turns()
        world.store.delete(container)
        container.removed = True
    with pytest.raises(NotFoundError, match="No such container: web"):
        await task
    assert world.rows.rows == {}
    assert not world.index.is_taken("other")


async def test_a_restart_by_hand_begins_the_count_again(world: World) -> None:
    container = world.container(Status.EXITED)
    container.restart_count, container.restart_delay_s = 4, 30.0
    seen: list[tuple[int, float]] = []

    async def start(started: Container) -> None:
        seen.append((started.restart_count, started.restart_delay_s))

    await Stopper(world.store, SimpleNamespace(start=start)).restart(container, signal=None, timeout_s=None)  # type: ignore[arg-type]
    assert seen == [(0, 0.0)]


async def test_the_daemons_end_uses_the_stop_signal_and_brings_no_record_back(world: World) -> None:
    container = world.container(Status.RUNNING)
    container.config = ContainerConfig(cmd=["sh"], stop_signal="SIGINT")
    signals: list[int] = []

    async def end(ended: Container, number: int, _timeout_s: int) -> None:
        signals.append(number)
        ended.status = Status.REMOVING  # AutoRemove was quicker
        world.store.delete(ended)

    daemon = SimpleNamespace(stopper=SimpleNamespace(end=end), config=SimpleNamespace(shutdown_timeout_s=1),
                             store=world.store)
    await Daemon._end(daemon, container)  # type: ignore[arg-type]
    assert signals == [2]
    assert world.rows.rows == {}


async def test_an_exec_whose_caller_gives_up_is_still_watched(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    container = world.container(Status.RUNNING)
    container.shim = SimpleNamespace()  # type: ignore[assignment]
    execs = world.execs(monkeypatch)
    instance = execs.make(container, ExecConfig(cmd=["true"]))
    caller = asyncio.create_task(execs.run(instance, None, None))
    await turns()
    caller.cancel()
    await turns()
    exited: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
    world.launch.set_result(SimpleNamespace(pid=9, exited=exited, shim_dir=str(world.paths.shim(instance.id))))
    await turns()
    assert instance.running
    exited.set_result(END)
    await turns()
    assert instance.exit_code == 3
    assert container.exec_ids == []
    assert world.events[-1] == "exec_die"


async def test_an_exec_without_a_client_has_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    container = world.container(Status.RUNNING)
    container.shim = SimpleNamespace()  # type: ignore[assignment]
    execs = world.execs(monkeypatch)

    async def gone(*, multiplexed: bool) -> socket.socket:
        raise ConnectionResetError

    instance = execs.make(container, ExecConfig(cmd=["true"]))
    with pytest.raises(ConnectionResetError):
        await execs.start(instance.id, ExecStartOptions(tty=False, console_size=None), gone)
    assert instance.exit_code == 126
    assert container.exec_ids == []
    container.shim = None  # ended, and its end is being recorded
    with pytest.raises(ConflictError, match="is not running"):
        execs.make(container, ExecConfig(cmd=["true"]))


async def test_execs_of_a_removed_container_that_never_ran_are_forgotten(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = world.container(Status.RUNNING)
    container.shim = SimpleNamespace()  # type: ignore[assignment]
    execs = world.execs(monkeypatch)
    never, ended = (execs.make(container, ExecConfig(cmd=["true"])) for _ in range(2))
    ended.started = True
    execs.forget(container)
    with pytest.raises(NotFoundError):
        await execs.inspect(never.id)
    assert (await execs.inspect(ended.id)).id == ended.id


async def test_a_stopped_container_is_unhealthy(world: World) -> None:
    container = world.container(Status.RUNNING)
    monitors = HealthMonitors(execs=None, store=world.store, tasks=world.tasks)  # type: ignore[arg-type]
    monitor = container.health = HealthMonitor(Plan(
        command=("true",), interval_s=60, timeout_s=1, start_period_s=0, start_interval_s=5, retries=3))
    monitor.status = "healthy"
    task = monitor.task = asyncio.create_task(_forever())
    monitors.stop(container)
    assert monitor.status == "unhealthy"
    await turns()
    assert task.cancelled()


async def test_what_a_probe_writes_is_cut() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    frame = b"\x01\0\0\0\0\0\x04\0" + b"x" * 1024
    with ours, theirs:
        theirs.sendall(frame * 40)
        theirs.shutdown(socket.SHUT_WR)
        assert await _read_frames(ours) == "x" * 4096 + "..."


class Leftovers:
    """Snapshots, directories and removals of a restore."""

    def __init__(self, known: list[str]) -> None:
        self.snapshots = list(known)
        self.removed: list[str] = []
        self.found: Exit | None = None

    def keys(self) -> list[str]:
        return list(self.snapshots)

    def remove(self, key: str) -> None:
        self.snapshots.remove(key)

    def known(self) -> list[str]:
        return []

    async def start(self, _live: object) -> None:
        pass

    async def reattach(self, shim_dir: str) -> Exit | None:
        return self.found if shim_dir.endswith(ID) else None

    async def remove_after_exit(self, container: Container) -> None:
        assert container.status is Status.EXITED or container.status is Status.CREATED
        self.removed.append(container.id)


def restorer(world: World, left: Leftovers) -> Restorer:
    return Restorer(exec_paths=world.paths, store=world.store, metadata=world.rows, supervisor=left, network=left,  # type: ignore[arg-type]
                    snapshotter=left, files=left, watcher=world.watcher(), starter=None, remover=left)  # type: ignore[arg-type]


@pytest.mark.parametrize(("status", "auto_remove", "goes"), [
    (Status.EXITED, True, True), (Status.CREATED, True, True), (Status.REMOVING, False, True),
    (Status.EXITED, False, False)])
async def test_removals_that_a_killed_daemon_owed(
    world: World, status: Status, *, auto_remove: bool, goes: bool
) -> None:
    world.container(status, auto_remove=auto_remove)
    left = Leftovers([ID])
    assert await restorer(world, left).restore() == []
    assert left.removed == ([ID] if goes else [])


@pytest.mark.parametrize(("recorded", "policy", "starts"), [
    (Status.CREATED, "always", True), (Status.EXITED, "always", True), (Status.RUNNING, "unless-stopped", True),
    (Status.EXITED, "no", False)])
async def test_an_exit_that_had_not_been_written_yet(
    world: World, recorded: Status, policy: str, *, starts: bool
) -> None:
    container = world.container(recorded, restart_policy=RestartPolicy(name=policy))
    container.finished_at_ns = 5  # of the run before
    world.store.save(container)
    left = Leftovers([ID])
    left.found = Exit(exit_code=3, oom_killed=False, finished_at_ns=20, started_at_ns=12)
    started = await restorer(world, left).restore()
    restored = decode(world.rows.rows[ID][1])
    assert (restored.status, restored.exit_code, restored.started_at_ns, restored.finished_at_ns) == (
        Status.EXITED, 3, 12, 20)
    assert "die" in world.events
    assert bool(started) is starts


async def test_a_record_that_cannot_be_read_keeps_what_is_its(world: World) -> None:
    world.rows.rows[ID] = ("web", b'{"status":"of a later version"}')
    left = Leftovers([ID, "orphan"])
    assert await restorer(world, left).restore() == []
    assert left.snapshots == [ID]
    assert world.index.is_taken("web")


async def test_an_inherited_anonymous_volume_goes_with_the_last_container_that_has_it(world: World) -> None:
    nothing: Any = None
    donor = world.container(Status.EXITED)
    donor.mounts = [MountRecord(type="volume", source="/v", destination="/v", name="n", anonymous=True)]
    heir = replace(donor, id=ContainerId("cd" * 32), name="heir", mounts=[], host_config=HostConfig(volumes_from=["web"]))
    planner = MountPlanner(volumes=nothing, index=world.index, snapshotter=nothing, supervisor=nothing)
    assert [record.anonymous for record in planner._inherited(heir)] == [True]


async def test_a_volume_of_a_container_that_is_being_made_stays(world: World, tmp_path: Path) -> None:
    paths = DataPaths(tmp_path)
    metadata = Metadata(paths.database)
    volumes = Volumes(paths, metadata, world.index, world)
    copying, copied = asyncio.Event(), asyncio.Event()

    async def copy_up(*_: object, **__: object) -> Any:
        copying.set()
        await copied.wait()
        return SimpleNamespace(result=lambda: None)

    nothing: Any = SimpleNamespace(root_mount_of_layers=lambda _: RootMount(base_dir="/", lower=["x"]))
    supervisor: Any = SimpleNamespace(run_worker=copy_up)
    planner = MountPlanner(volumes=volumes, index=world.index, snapshotter=nothing, supervisor=supervisor)
    container = world.container()
    world.index.discard(container)
    container.config = ContainerConfig(cmd=["sh"], volumes={"/data": {}})
    task = asyncio.create_task(planner.plan(container, SimpleNamespace(diff_ids=())))  # type: ignore[arg-type]
    await copying.wait()
    assert (await volumes.prune(Filters({}), all_unused=True)).volumes_deleted == []
    copied.set()
    container.mounts = await task
    planner.settle(container.id)
    assert len((await volumes.prune(Filters({}), all_unused=False)).volumes_deleted) == 1
    metadata.close()
