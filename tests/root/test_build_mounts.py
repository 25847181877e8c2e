"""RUN --mount: what a step sees, and what of it gets into its layer."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from pallet.build import graph
from pallet.build.errors import BuildError
from tests.root.buildlab import BuildLab, Client, build_lab, context, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.needs("root", "overlay")


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[BuildLab]:
    """A daemon with busybox; nothing of a step may be left at the end."""
    async with build_lab(tmp_path) as started:
        yield started
        started.daemon.snapshotter.drain()
        assert started.leftovers() == []


async def test_mount_points_stay_out_of_the_layer(lab: BuildLab, tmp_path: Path) -> None:
    """Whatever is mounted, the layer holds what the command wrote beside it and nothing else."""
    tree = tmp_path / "context"
    tree.mkdir()
    (tree / "file").write_text("sent")
    lab.client.root = str(tree)
    stage = run(lab.image(), "mkdir -p /out/sub; echo built > /out/sub/tool")
    mounts = [
        graph.RunMount(kind="bind", target="/from/stage", input=1, source="/out/sub"),
        graph.RunMount(kind="bind", target="/one", input=1, source="/out/sub/tool"),
        graph.RunMount(kind="bind", target="/from/context", input=2, source="/", readonly=False),
        graph.RunMount(kind="tmpfs", target="/scratch/tmp", size_bytes=1 << 20),
        graph.RunMount(kind="cache", target="/root/.cache/x", id="x", readonly=False),
        graph.RunMount(kind="secret", target="/run/secrets/s", id="s", uid=1000, mode=0o440),
        graph.RunMount(kind="secret", target="", id="s", env="TOKEN"),
    ]
    lab.client.secrets["s"] = b"hush"
    command = (
        "cat /from/stage/tool /one /from/context/file /run/secrets/s; echo \" $TOKEN\"; "
        "stat -c '%a %u' /run/secrets/s; echo new > /from/context/new; echo t > /scratch/tmp/t; "
        "echo kept > /root/.cache/x/kept; echo mine > /root/.cache/mine; "
        "touch /from/stage/no 2>/dev/null || echo readonly")
    (solved,) = await lab.solve(run(lab.image(), command, mounts=mounts, inputs=(stage, context())))
    assert lab.told.output() == b"built\nbuilt\nsenthush hush\n440 1000\nreadonly\n"
    assert sorted(lab.view(solved.layers[-1:])) == ["root", "root/.cache", "root/.cache/mine"]
    assert [path.name for path in tree.iterdir()] == ["file"]
    everything = b"".join(path.read_bytes() for root in lab.trees(solved.layers)
                          for path in root.rglob("*") if path.is_file() and path.stat().st_size < 1000)
    assert b"hush" not in everything


async def test_cache_mounts_last_and_are_shared_as_asked(lab: BuildLab) -> None:
    """``shared`` at the same time, ``locked`` one after the other, ``private`` each its own."""
    def step(number: int, sharing: str, command: str) -> graph.Vertex:
        mount = graph.RunMount(kind="cache", target="/c", id=sharing, readonly=False,
                               sharing=sharing)  # type: ignore[arg-type]
        return run(lab.image(), f"{command} #{number}", mounts=[mount])

    await lab.solve(step(0, "shared", "echo one > /c/f"))
    await lab.solve(step(1, "shared", "cat /c/f"))
    assert lab.told.output() == b"one\n"
    meet = ("touch /c/$N; i=0; while [ $(ls /c | grep -v f | wc -l) -lt 2 ] && [ $i -lt 500 ]; "
            "do usleep 10000; i=$((i+1)); done; [ $i -lt 500 ]")
    await lab.solve(step(2, "shared", f"N=a; {meet}"), step(3, "shared", f"N=b; {meet}"))
    alone = "mkdir /c/busy && usleep 100000 && rmdir /c/busy"
    await lab.solve(step(4, "locked", alone), step(5, "locked", alone))
    await lab.solve(step(6, "private", alone), step(7, "private", alone))
    kinds = {usage.kind for usage in lab.daemon.solving.keeper.usage()}
    assert kinds == {"regular", "exec.cachemount"}


async def test_required_secrets_and_entitlements(lab: BuildLab) -> None:
    """What the client does not give fails in BuildKit's words; what is not required is left out."""
    missing = graph.RunMount(kind="secret", target="/run/secrets/s", id="s", required=True)
    with pytest.raises(BuildError, match="secret s: not found"):
        await lab.solve(run(lab.image(), "true", mounts=[missing]))
    optional = graph.RunMount(kind="secret", target="/run/secrets/s", id="s")
    await lab.solve(run(lab.image(), "[ ! -e /run/secrets/s ]", mounts=[optional]))
    with pytest.raises(BuildError, match="unset ssh forward key default"):
        await lab.solve(run(lab.image(), "true", mounts=[
            graph.RunMount(kind="ssh", target="/agent", required=True)]))
    with pytest.raises(BuildError, match=r"security\.insecure is not allowed"):
        await lab.solve(run(lab.image(), "true", security="insecure"))
    with pytest.raises(BuildError, match=r"network\.host is not allowed"):
        await lab.solve(run(lab.image(), "true", network="host"))
    await lab.solve(run(lab.image(), "mount -t tmpfs none /mnt || mount -t tmpfs none /srv", security="insecure"),
                    entitlements=frozenset({"security.insecure"}))


async def test_agent(lab: BuildLab) -> None:
    """A connection to the socket that a step sees is one to the client's agent."""
    class Agent:
        def __init__(self) -> None:
            self.answers: asyncio.Queue[bytes] = asyncio.Queue()

        async def write(self, data: bytes) -> None:
            await self.answers.put(data.upper())

        async def read(self) -> AsyncIterator[bytes]:
            while data := await self.answers.get():
                yield data

    async def dial() -> tuple[AsyncIterator[bytes], Agent]:
        agent = Agent()
        return agent.read(), agent

    async def ask() -> bytes:
        """Connect as the step could; busybox has no client for such sockets."""
        found = await lab.until(lambda: list(lab.daemon.run.shims.glob("*/step/*.sock")))
        directory = os.open(found[0].parent, os.O_PATH)
        try:
            reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{directory}/{found[0].name}")
        finally:
            os.close(directory)
        writer.write(b"ping")
        answer = await reader.read(100)
        writer.close()
        return answer

    client = Client(agent=dial)
    mounts = [graph.RunMount(kind="ssh", target="/run/agent.sock", uid=1000),
              graph.RunMount(kind="cache", target="/c", id="go", readonly=False)]
    command = "stat -c '%u %F' /run/agent.sock; while [ ! -e /c/go ]; do usleep 10000; done"
    async with lab.job(client) as job:
        asking = lab.beside(ask())
        solving = lab.begin([run(lab.image(), command, mounts=mounts)], job)
        assert await asking == b"PING"
        (cache,) = (lab.daemon.data.build / "caches").iterdir()
        (cache / "go").touch()
        await solving
    assert lab.told.output() == b"1000 socket\n"


async def test_here_documents(lab: BuildLab) -> None:
    """Files of here-documents are under /dev/pipes and can be executed."""
    (solved,) = await lab.solve(run(
        lab.image(), "/dev/pipes/EOF", heredocs=(("EOF", "#!/bin/sh\necho from a document\n"),)))
    assert lab.told.output() == b"from a document\n"
    assert lab.view(solved.layers[-1:]) == {}


async def test_devices(lab: BuildLab) -> None:
    """A host without CDI devices: what can do without one does, what requires one is told."""
    await lab.solve(run(lab.image(), "true", devices=("vendor.com/gpu=all", "name=vendor.com/x=0,required=false")))
    for text in ("vendor.com/gpu=all,required", "required=true,name=vendor.com/gpu=all"):
        with pytest.raises(BuildError, match=r'^required device "vendor.com/gpu=all" is not registered$'):
            await lab.solve(run(lab.image(), "true", devices=(text,)))
