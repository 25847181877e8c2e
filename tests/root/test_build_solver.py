"""The solver with real layers, workers and steps: what runs, what is cached, what is left."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pallet.build import graph
from pallet.build.cachestore import CacheStore
from pallet.build.errors import BuildError
from pallet.build.usage import CachePrune
from pallet.errors import NotFoundError
from pallet.http.streams import Deframer
from pallet.image.lazyblobs import LazyBlobs
from pallet.types import Digest
from tests.root.buildlab import BuildLab, Client, Told, build_lab, context, copy, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.needs("root", "overlay")


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[BuildLab]:
    """A daemon with busybox; nothing of a step may be left at the end."""
    async with build_lab(tmp_path) as started:
        yield started
        started.daemon.snapshotter.drain()
        assert started.leftovers() == []


async def test_steps_make_layers(lab: BuildLab, tmp_path: Path) -> None:
    """Each RUN and COPY is one layer; output is told; a second build runs nothing."""
    tree = tmp_path / "context"
    tree.mkdir()
    (tree / "a").write_text("one")
    lab.client.root = str(tree)

    def graph_of() -> graph.Vertex:
        made = run(lab.image(), "echo hello; echo oops >&2; mkdir /made; echo x > /made/file")
        return run(copy(made, context(), "a", dest="/made/"), "cat /made/a /made/file > /both")

    target = graph_of()
    (solved,) = await lab.solve(target)
    assert lab.told.output() == b"hello\n"
    assert lab.told.output(2) == b"oops\n"
    assert len(solved.layers) == len(lab.base.diff_ids) + 3
    assert lab.read(solved.layers, "both") == b"onex\n"
    assert lab.told.cached() == ["FROM busybox"]
    assert sorted(lab.view(solved.layers[-1:])) == ["both"]
    (again,) = await lab.solve(graph_of())
    assert again.layers == solved.layers
    assert lab.told.ran() == ["[internal] load build context"]
    (tree / "a").write_text("two")
    (other,) = await lab.solve(graph_of())
    assert other.layers[:-2] == solved.layers[:-2]
    assert lab.read(other.layers, "both") == b"twox\n"


async def test_failure(lab: BuildLab) -> None:
    """A command that fails ends the build with BuildKit's words, and nothing of it is left."""
    with pytest.raises(BuildError, match='process "/bin/sh -c exit 7" did not complete successfully: exit code: 7') as e:
        await lab.solve(run(lab.image(), "exit 7"))
    assert e.value.exit_code == 7
    assert e.value.classic == "The command '/bin/sh -c exit 7' returned a non-zero code: 7"


async def test_a_copy_out_of_a_changed_stage_is_cached_by_content(lab: BuildLab) -> None:
    """A stage that runs again but makes the same file there does not take the COPY's cache away."""
    def target(number: int) -> graph.Vertex:
        stage = run(lab.image(), f"echo {number} > /noise; echo same > /out; touch -d @1 /out", name="stage")
        return run(copy(lab.image(), stage, "/out", dest="/"), "cat /out > /end", name="end")

    (first,) = await lab.solve(target(1))
    (second,) = await lab.solve(target(2))
    assert second.layers == first.layers
    assert lab.told.ran() == ["stage"]
    assert {"COPY /out /", "end"} <= set(lab.told.cached())


async def test_the_definition_finds_what_its_inputs_have_lost(lab: BuildLab) -> None:
    """A target is cached although the stages that it came from are gone from the cache."""
    def target() -> graph.Vertex:
        stage = run(lab.image(), "cat /proc/sys/kernel/random/uuid > /out", name="stage")
        return copy(lab.image(), stage, "/out", dest="/")

    (first,) = await lab.solve(target())
    keeper = lab.daemon.solving.keeper
    gone = await keeper.prune(CachePrune(filters=("description==stage",)))
    assert [usage.description for usage in gone] == ["stage"]
    (second,) = await lab.solve(target())
    assert second.layers == first.layers
    assert lab.told.ran() == []


async def test_what_is_not_to_be_cached_runs_and_the_rest_follows_its_content(lab: BuildLab) -> None:
    """``ignore_cache``: it runs; what is on it runs again only where it came out differently."""
    def target(*, ignore_cache: bool = False) -> graph.Vertex:
        same = run(lab.image(), "true", name="same", ignore_cache=ignore_cache)
        above = run(same, "cat /proc/sys/kernel/random/uuid > /a", name="above")
        return run(run(above, "cat /proc/sys/kernel/random/uuid > /b", name="new", ignore_cache=ignore_cache), "true", name="last")

    await lab.solve(target())
    await lab.solve(target())
    assert lab.told.ran() == []
    await lab.solve(target(ignore_cache=True))
    assert lab.told.ran() == ["same", "new", "last"]


async def test_results_of_all_vertices_are_known(lab: BuildLab) -> None:
    """Layers and times of every step are there for the history, cached or not."""
    steps = [lab.image()]
    for number in range(3):
        steps.append(run(steps[-1], f"echo {number} > /{number}"))
    for _ in range(2):
        async with lab.job() as job:
            await lab.solver.solve([steps[-1]], job)
            assert [len(job.results[step].layers) for step in steps] == [1, 2, 3, 4]
            times = [job.results[step].created_ns for step in steps]
            assert times == sorted(times)


async def test_concurrent_builds_share_what_runs(lab: BuildLab) -> None:
    """One command for two builds; the end of the one does not end it; both hear its output."""
    mount = graph.RunMount(kind="cache", target="/c", id="go", readonly=False)
    step = run(lab.image(), "echo begun; echo x >> /c/runs; while [ ! -e /c/go ]; do usleep 10000; done; echo ended",
               mounts=[mount])
    caches = lab.daemon.data.build / "caches"
    async with lab.job() as first, lab.job() as second, lab.job() as third:
        told = []
        for job in (first, second, third):
            told.append(Told())
            job.watch = told[-1]
        tasks = [lab.begin([step], job) for job in (first, second)]
        await lab.until(lambda: told[0].output() and told[1].output())
        tasks[0].cancel()
        await asyncio.wait({tasks[0]})
        late = lab.begin([step], third)
        await lab.until(told[2].output)
        (cache,) = caches.iterdir()
        (cache / "go").touch()
        assert (await tasks[1])[0].layers == (await late)[0].layers
        assert told[1].output() == told[2].output() == b"begun\nended\n"
        assert (cache / "runs").read_text() == "x\n"


async def test_what_others_wait_for_keeps_what_it_works_with(lab: BuildLab, tmp_path: Path) -> None:
    """The build that began a step is gone; its tree and its layers are let go of when the step has ended."""
    (tmp_path / "c").mkdir()
    mounts = [graph.RunMount(kind="cache", target="/c", id="go", readonly=False),
              graph.RunMount(kind="bind", target="/m", input=1)]
    step = run(lab.image(), "echo begun; while [ ! -e /c/go ]; do usleep 10000; done", mounts=mounts, inputs=(context(),))
    clients = [Client(root=str(tmp_path / "c")), Client(root=str(tmp_path / "c"))]
    async with lab.job(clients[1]) as second:
        async with lab.job(clients[0]) as first:
            tasks = []
            for job in (first, second):
                told = job.watch = Told()
                tasks.append(lab.begin([step], job))
                await lab.until(told.output)
            assert [len(job.begun) for job in (first, second)] == [1, 0]
            tasks[0].cancel()
            await asyncio.wait({tasks[0]})
        assert [client.held for client in clients] == [1, 1]
        (cache,) = (lab.daemon.data.build / "caches").iterdir()
        (cache / "go").touch()
        await tasks[1]
    await lab.until(lambda: not any(client.held for client in clients))
    assert lab.daemon.metadata.leases() == {}


async def test_cancelling_kills_the_command(lab: BuildLab) -> None:
    """A build whose client goes away leaves no process, whatever it was doing."""
    async with lab.job() as job:
        task = lab.begin([run(lab.image(), "echo $$; sleep 1000 & sleep 1000")], job)
        await lab.until(lab.told.output)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not _sleepers()


async def test_the_layer_of_a_step_that_was_cancelled_is_collected(
        lab: BuildLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that puts a layer in its place cannot be stopped: nothing names that layer then."""
    images, snapshotter = lab.daemon.images, lab.daemon.snapshotter
    entered, released = threading.Event(), threading.Event()
    commit = snapshotter.commit_snapshot

    def late(*args: Any, **options: Any) -> None:
        commit(*args, **options)
        entered.set()
        assert released.wait(60)

    monkeypatch.setattr(snapshotter, "commit_snapshot", late)
    collected = asyncio.Event()

    async def collect() -> None:
        assert any(images.unreachable())  # and nothing holds it any more
        images.collect()
        collected.set()

    async with lab.job(afterwards=collect) as job:
        task = lab.begin([run(lab.image(), "echo cancelled > /x")], job)
        await lab.until(entered.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        released.set()
    await lab.until(collected.is_set)
    assert not any(images.unreachable())


async def test_the_end_of_the_daemon_ends_steps(lab: BuildLab) -> None:
    """Builds that wait for one fail with the reason, no process stays, and nothing begins any more."""
    step = run(lab.image(), "echo begun; sleep 1000 & sleep 1000")
    async with lab.job() as first, lab.job() as second:
        told = [Told(), Told()]
        first.watch, second.watch = told
        tasks = [lab.begin([step], first), lab.begin([step], second)]
        await lab.until(lambda: told[0].output() and told[1].output())
        await lab.daemon.end_steps()
        assert not _sleepers()
        for task in tasks:
            with pytest.raises(BuildError, match=r"^the daemon is shutting down$"):
                await task
        with pytest.raises(BuildError, match=r"^the daemon is shutting down$"):
            await lab.solver.solve([run(lab.image(), "true")], second)
    assert lab.leftovers() == []


async def test_what_a_failed_test_has_begun_ends_with_its_job(lab: BuildLab) -> None:
    """The lab's own promise."""
    step = run(lab.image(), "echo begun; sleep 1000 & sleep 1000")
    with pytest.raises(LookupError):
        async with lab.job() as job:
            task = lab.begin([step], job)
            await lab.until(lab.told.output)
            raise LookupError
    assert task.cancelled()
    assert not _sleepers()


def _sleepers() -> list[Path]:
    return [line for line in Path("/proc").glob("[0-9]*/cmdline") if _cmdline(line) == b"sleep\x001000\x00"]


def _cmdline(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


async def test_independent_steps_run_at_the_same_time_and_a_failure_ends_the_others(lab: BuildLab) -> None:
    mount = graph.RunMount(kind="cache", target="/c", id="meet", readonly=False)
    meet = "touch /c/{0}; while [ ! -e /c/{1} ]; do usleep 10000; done"
    a = run(lab.image(), meet.format("a", "b"), mounts=[mount])
    b = run(lab.image(), meet.format("b", "a"), mounts=[mount])
    await lab.solve(a, b)
    with pytest.raises(BuildError, match="exit code: 3"):
        await lab.solve(run(lab.image(), "sleep 1000"), run(lab.image(), "exit 3"))


async def test_limits_and_identity(lab: BuildLab) -> None:
    """What a step runs as and with; a command killed for want of memory says so."""
    vertex = run(lab.image(), "id -u; pwd; hostname; echo $A; ulimit -n", user="app", cwd="/made/here", env=("A=b",))
    await lab.solve(vertex, ulimits=(("nofile", 123, 123),))
    assert lab.told.output() == b"1000\n/made/here\nbuildkitsandbox\nb\n123\n"
    with pytest.raises(BuildError, match="cannot allocate memory"):
        await lab.solve(run(lab.image(), "x=$(head -c 64000000 /dev/zero | tr '\\0' a); echo ${#x}"),
                        resources={"memory": 16 << 20, "memswap": 16 << 20})
    with pytest.raises(BuildError, match="no such file"):
        await lab.solve(graph.Vertex(op=graph.RunOp(args=("/no/such",)), inputs=(lab.image(),), name="RUN /no/such"))


async def test_merged_layers_cost_nothing(lab: BuildLab, tmp_path: Path) -> None:
    """A linked COPY is a layer of its own that any base can carry."""
    (tmp_path / "c").mkdir()
    (tmp_path / "c/f").write_text("linked")
    lab.client.root = str(tmp_path / "c")
    action = graph.CopyAction(input=0, paths=("f",), dest="/x/f")
    layer = graph.Vertex(op=graph.FileOp(actions=(action,), has_base=False), inputs=(context(),), name="COPY --link")
    bases = [lab.image(), run(lab.image(), "echo other > /other")]
    found = await lab.solve(*(graph.Vertex(op=graph.MergeOp(), inputs=(base, layer), name="LINK") for base in bases))
    assert found[0].layers[-1] == found[1].layers[-1]
    assert lab.told.ran().count("COPY --link") == 1
    assert lab.read(found[1].layers, "x/f") == b"linked"


async def test_what_a_killed_daemon_leaves_is_swept(lab: BuildLab) -> None:
    """Snapshots, shims and caches without a record are gone after the next start; the cache still serves."""
    step = run(lab.image(), "echo x > /x")
    (solved,) = await lab.solve(step)
    daemon = lab.daemon
    daemon.snapshotter.prepare("0" * 64, solved.layers)
    (daemon.data.build / "caches/stray").mkdir(parents=True)
    daemon.files.prepare("0" * 64)
    await daemon.restorer._sweep(set())
    daemon.solving.caches.sweep()
    daemon.snapshotter.drain()
    assert lab.leftovers() == []
    assert daemon.files.known() == []
    assert list((daemon.data.build / "caches").iterdir()) == []
    store = CacheStore(daemon.metadata, daemon.snapshotter)
    assert len(store.all()) == 1
    assert daemon.images.collect() == 0
    (again,) = await lab.solve(run(lab.image(), "echo x > /x"))
    assert again.layers == solved.layers
    assert lab.told.ran() == []


async def test_prune(lab: BuildLab) -> None:
    """Leaves go before what they stand on; what images have, and what is used, stays; layers go with records."""
    base = run(lab.image(), "head -c 100000 /dev/zero > /base", name="base")
    await lab.solve(run(base, "head -c 200000 /dev/zero > /top", name="top"), run(base, "true", name="side"))
    keeper = lab.daemon.solving.keeper
    assert [usage.size_bytes for usage in keeper.usage()] == [200_000, 100_000, 0]
    gone = await keeper.prune(CachePrune(max_used_bytes=150_000))
    assert "top" in {usage.description for usage in gone} <= {"top", "side"}
    await lab.solve(run(base, "true", name="side"))
    async with lab.job() as job:
        await lab.solver.solve([base], job)
        assert [usage.description for usage in await keeper.prune(CachePrune(all=True))] == ["side"]
    assert [usage.description for usage in await keeper.prune(CachePrune())] == ["base"]
    assert keeper.usage() == []
    assert len(lab.daemon.snapshotter.layers()) == 1
    await lab.solve(base)
    assert lab.told.ran() == ["base"]


async def test_tars_of_layers_come_again_as_they_were(lab: BuildLab) -> None:
    """Removals, replaced directories, sockets and links: the tar of the layer has the layer's DiffID."""
    first = run(lab.image(), "mkdir -p /d/e /gone; echo 1 > /d/f; ln /d/f /d/g; echo 2 > /d/e/h; touch /gone/x /.wh.odd")
    second = run(first, "rm /d/g; rm -r /d/e; mkdir /d/e; touch /d/e/new; rm -r /gone; chmod 700 /; mkfifo /p; "
                        "mkdir /only && rm -r /only && mkdir /only; rm /etc/mtab 2>/dev/null; true")
    (solved,) = await lab.solve(second)
    blobs = LazyBlobs(lab.daemon.images, lab.daemon.supervisor)
    for layer in solved.layers[1:]:
        made = blobs.made(layer)
        assert made is not None
        assert await blobs.digest(made) == layer
        with lab.daemon.images.lease() as lease:
            assert await blobs.ensure(Digest(layer), lease)
        assert lab.daemon.content.size(Digest(layer)) == made.tar_bytes
    assert b".wh.g\0" in lab.daemon.content.read(Digest(solved.layers[-1]))


async def test_a_failed_step_is_kept_for_a_shell(lab: BuildLab) -> None:
    """The shell finds what the command left, its environment, user and mounts; nothing stays after ``drop``."""
    mount = graph.RunMount(kind="secret", target="/run/s", id="s", uid=1000)
    vertex = run(lab.image(), "echo half > /tmp/half; exit 4", user="app", env=("A=b",), mounts=[mount])
    with pytest.raises(BuildError) as caught:
        await lab.solve(vertex, debug=True, client=Client(secrets={"s": b"hush"}))
    failed, state = lab.daemon.solving.failed, caught.value.state
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    shell = lab.beside(failed.shell(
        state, ["/bin/sh", "-c", "cat /tmp/half /run/s; echo $A; id -u; read x; exit $x"], theirs, tty=False))
    await asyncio.get_running_loop().sock_sendall(ours, b"9\n")
    deframer, told = Deframer(), b""
    while data := await asyncio.get_running_loop().sock_recv(ours, 1000):
        told += b"".join(payload for _, payload in deframer.feed(data))
    ours.close()
    assert await shell == 9
    assert told == b"half\nhushb\n1000\n"
    await failed.drop(state)
    with pytest.raises(NotFoundError):
        await failed.shell(state, ["/bin/sh"], theirs, tty=True)


@pytest.mark.parametrize("driver", ["vfs", pytest.param("erofs", marks=pytest.mark.needs("erofs"))])
async def test_other_storage_drivers(tmp_path: Path, driver: str) -> None:
    """Copies of whole trees, and layers as images below: the same results, no mount points in layers."""
    (tmp_path / "c").mkdir()
    (tmp_path / "c/f").write_text("sent")
    async with build_lab(tmp_path, storage_driver=driver) as lab:
        lab.client.root = str(tmp_path / "c")
        first = run(lab.image(), "echo 1 > /a; rm -r /srv; mkdir /srv", name="first")
        second = copy(first, context(), "f", dest="/etc/f")
        mounts = [graph.RunMount(kind="bind", target="/m/x", input=1, source="/etc"),
                  graph.RunMount(kind="bind", target="/w", input=1, source="/", readonly=False)]
        third = run(second, "cat /m/x/f /a; ls /srv; echo 2 > /w/a; echo end > /end", mounts=mounts, inputs=(second,))
        (solved,) = await lab.solve(third)
        assert lab.told.output() == b"sent1\n"
        assert lab.read(solved.layers, "end") == b"end\n"
        lab.daemon.images.collect()
        (again,) = await lab.solve(third)
        assert again.layers == solved.layers
        assert lab.told.ran() == ["[internal] load build context"]
        lab.daemon.snapshotter.drain()
        assert lab.leftovers() == []
        if driver == "vfs":
            assert sorted(lab.view(solved.layers[-1:])) == ["end"]


async def test_the_disk_budget_takes_what_was_not_used_for_longest(lab: BuildLab) -> None:
    """Records go until the budget is kept, the older one first; the image stays."""
    for name in ("old", "new"):
        await lab.solve(run(lab.image(), f"head -c 300000 /dev/zero > /{name}", name=name))
    budget = lab.daemon._budget
    budget.limit_bytes = budget.size() - 100_000
    assert await budget.enforce() == 1
    assert [usage.description for usage in lab.daemon.solving.keeper.usage()] == ["new"]
    assert budget.size() <= budget.limit_bytes
    assert lab.daemon.images.get(lab.base.id).id == lab.base.id
