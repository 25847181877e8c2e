"""What a build asks of its client travels over the session: trees, secrets, agents, outputs."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import stat
from typing import TYPE_CHECKING, Any

import pytest

from pallet.api.buildkit import filesync, tunnel
from pallet.api.buildkit.filesync import go_mode, unix_mode
from pallet.api.buildkit.grpc import Server
from pallet.api.buildkit.sessionclient import SessionClient
from pallet.api.buildkit.wire.fsutil_pb2 import Packet, Stat
from pallet.build.graph import LocalSource
from pallet.build.progress import StatusEvent
from pallet.build.request import Export
from pallet.errors import DataLossError, InvalidParameterError, NotFoundError
from tests.unit.api.buildkit.clients import SessionServer, World, world

if TYPE_CHECKING:
    from pathlib import Path

DIRECTORY = go_mode(stat.S_IFDIR | 0o755)


def client_of(found: World, session_id: str = "s", attrs: dict[str, str] | None = None) -> SessionClient:
    return SessionClient(found.service.sessions, session_id, attrs or {}, found.builder.contexts)


def directory(path: str) -> Stat:
    return Stat(path=path, mode=DIRECTORY, modTime=10**18)


async def fetch(client: SessionClient, **source: Any) -> tuple[Any, list[StatusEvent]]:
    events: list[StatusEvent] = []
    tree = await client.tree(LocalSource(**{"name": "context", **source}), events.append, "sha256:v")  # type: ignore[arg-type]
    return tree, events


@pytest.mark.parametrize(("unix", "go"), [
    (stat.S_IFREG | 0o644, 0o644), (stat.S_IFDIR | 0o755, 1 << 31 | 0o755), (stat.S_IFLNK | 0o777, 1 << 27 | 0o777),
    (stat.S_IFIFO | 0o600, 1 << 25 | 0o600), (stat.S_IFREG | stat.S_ISUID | 0o755, 1 << 23 | 0o755),
    (stat.S_IFDIR | stat.S_ISVTX | 0o777, 1 << 31 | 1 << 20 | 0o777),
    (stat.S_IFCHR | 0o600, 1 << 26 | 1 << 21 | 0o600), (stat.S_IFBLK | 0o600, 1 << 26 | 0o600)])
def test_modes_are_gos(unix: int, go: int) -> None:
    assert (go_mode(unix), unix_mode(go)) == (go, unix)


async def test_a_tree_comes_here_and_then_only_what_changed(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        served = await found.session(shared_key="key")
        big = os.urandom(3_000_000)
        served.trees["context"] = {
            "a": b"one", "b": big, "empty": b"", "d": directory("d"), "d/c": b"two",
            "link": Stat(path="link", mode=go_mode(stat.S_IFLNK | 0o777), linkname="d/c", modTime=10**18)}
        client = client_of(found)
        tree, events = await fetch(client)
        assert (tmp_path / tree.root / "d/c").read_bytes() == b"two"
        assert (tmp_path / tree.root / "b").read_bytes() == big
        assert os.readlink(f"{tree.root}/link") == "d/c"
        assert sorted(served.sent_files) == ["a", "b", "d/c", "empty"]
        assert events[-1].completed_ns
        assert events[-1].current > len(big)
        assert client.shared_key == "key"
        await client.release(tree)

        served.trees["context"] |= {"a": b"other"}
        del served.trees["context"]["empty"]
        served.sent_files.clear()
        tree, _ = await fetch(client_of(found))
        assert served.sent_files == ["a"]
        assert sorted(os.listdir(tree.root)) == ["a", "b", "d", "link"]
        await client.release(tree)


async def test_filters_travel_as_metadata(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        served = await found.session()
        tree, _ = await fetch(client_of(found), include=("*.c",), exclude=("x", "!y"), follow=("ä/b",))
        assert served.asked[0] == {
            "dir-name": ["context"], "include-patterns": ["*.c"], "exclude-patterns": ["x", "!y"],
            "followpaths-encoded": ["1"], "followpaths": ["%C3%A4%2Fb"]}
        await found.builder.contexts.release(tree)


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a//b", "a/../b", "."])
async def test_paths_that_leave_the_tree_are_refused(tmp_path: Path, path: str) -> None:
    async with world(tmp_path) as found:
        served = await found.session()
        served.trees["context"] = {path: b"boo"}
        with pytest.raises(InvalidParameterError, match="invalid path"):
            await fetch(client_of(found))
        assert not list(tmp_path.glob("x"))


async def test_files_that_nobody_asked_for_end_the_transfer(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        async def pushy(call: Any) -> None:
            await call.send(Packet(type=Packet.PACKET_STAT, stat=Stat(path="a", mode=0o644, size=1)))
            await call.send(Packet(type=Packet.PACKET_STAT))
            await call.read(Packet)
            await call.send(Packet(type=Packet.PACKET_DATA, ID=7, data=b"x"))
            await asyncio.Event().wait()

        await found.session(table={"/moby.filesync.v1.FileSync/DiffCopy": pushy})
        with pytest.raises(DataLossError, match="nobody asked for"):
            await fetch(client_of(found))
        assert not found.builder.contexts.usage()


async def test_an_error_of_the_sender_is_the_builds(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        async def failing(call: Any) -> None:
            await call.send(Packet(type=Packet.PACKET_ERR, data=b"open /x: permission denied"))

        await found.session(table={"/moby.filesync.v1.FileSync/DiffCopy": failing})
        with pytest.raises(DataLossError, match="error from sender: open /x: permission denied"):
            await fetch(client_of(found))


async def test_a_client_that_vanishes_in_a_transfer_fails_it(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        entered = asyncio.Event()

        async def hanging(call: Any) -> None:
            await call.send(Packet(type=Packet.PACKET_STAT, stat=Stat(path="a", mode=0o644, size=1)))
            entered.set()
            await asyncio.Event().wait()

        await found.session(table={"/moby.filesync.v1.FileSync/DiffCopy": hanging})
        transfer = asyncio.ensure_future(fetch(client_of(found)))
        await entered.wait()
        (await found.service.sessions.get("s")).client.connection.abort()
        with pytest.raises(DataLossError, match="connection lost"):
            await transfer
        assert not found.service.sessions._sessions


async def test_the_dockerfile_and_its_ignore_file_come_in_one_call(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        served = await found.session()
        served.trees["dockerfile"] = {"Dockerfile": b"FROM x\n", "Dockerfile.dockerignore": b"y\n"}
        client = client_of(found)
        assert await client.read_file("dockerfile", "Dockerfile", 100) == b"FROM x\n"
        assert await client.read_file("dockerfile", "Dockerfile.dockerignore", 100) == b"y\n"
        assert await client.read_file("context", ".dockerignore", 100) is None
        assert len(served.asked) == 2
        assert client.source_text("Dockerfile") == b"FROM x\n"


async def test_a_dockerfile_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        served = await found.session()
        served.trees["dockerfile"] = {"Dockerfile": b"x" * 101}
        with pytest.raises(InvalidParameterError, match="larger than 100 bytes"):
            await client_of(found).read_file("dockerfile", "Dockerfile", 100)


async def test_names_and_sessions_of_local_mounts_come_from_attributes(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        await found.session("main")
        served = await found.session("other")
        served.trees["dir2"] = {"Dockerfile": b"there"}
        client = client_of(found, "main", {"dockerfilekey": "dir2", "local-sessionid:dir2": "other"})
        assert await client.read_file("dockerfile", "Dockerfile", 100) == b"there"


async def test_a_session_may_come_late(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        asked = asyncio.ensure_future(client_of(found, "late").secret("x"))
        await asyncio.sleep(0)
        await found.session("late")
        assert await asked is None


async def test_a_session_that_never_comes_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pallet.api.buildkit.session._LATE_S", 0.01)
    async with world(tmp_path) as found:
        with pytest.raises(NotFoundError, match="no active session for nobody"):
            await client_of(found, "nobody").secret("x")
        assert not found.service.sessions._arrivals


async def test_a_session_id_is_used_once(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        await found.session("s")
        with pytest.raises(InvalidParameterError, match="already exists"):
            found.service.sessions.claim("s")
        with pytest.raises(InvalidParameterError, match="no session id"):
            found.service.sessions.claim("")


async def test_a_session_may_come_through_a_call(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        client = await found.client()
        here, there = socket.socketpair()
        for end in (here, there):
            end.setblocking(False)
        served = SessionServer()
        served.secrets["s"] = os.urandom(400_000)
        server = Server(served.table())
        await server.serve(here)
        metadata = [("x-docker-expose-session-uuid", "tunnelled"),
                    *(("x-docker-expose-session-grpc-method", method) for method in served.table())]
        async with client.call("/moby.buildkit.v1.Control/Session", metadata) as call:
            relay = asyncio.ensure_future(tunnel._relay(call, there))  # type: ignore[arg-type]
            assert await client_of(found, "tunnelled").secret("s") == served.secrets["s"]
            relay.cancel()
            await asyncio.gather(relay, return_exceptions=True)
        while found.service.sessions._sessions or found.service.server._tasks:
            await asyncio.sleep(0)
        await server.close()
        there.close()


async def test_secrets_agents_and_credentials(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        served = await found.session()
        served.secrets["s"] = b"secret"
        client = client_of(found)
        assert await client.secret("s") == b"secret"
        assert await client.secret("t") is None
        assert await client.credentials("docker.io") == ("me", "word")
        assert await client.credentials("other.io") is None
        assert await client.credentials("token.io") == ("<registrytoken>", "bearer")
        assert await client.ssh_agent("other") is None
        dial = await client.ssh_agent("")
        assert dial is not None
        replies, writer = await dial()
        await writer.write(b"abc")
        assert await anext(aiter(replies)) == b"cba"
        await writer.write(b"")
        assert [data async for data in replies] == []


async def test_what_a_client_does_not_offer_is_not_asked(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        await found.session(table={})
        client = client_of(found)
        assert await client.secret("s") is None
        assert await client.ssh_agent("") is None
        assert await client.credentials("x") is None
        for asked in (client.read_file("context", "x", 1), client.upload("http://buildkit-session/x"),
                      client.blob("s", "d"), client.open_output(Export(kind="tar", id="0"), {}), fetch(client)):
            with pytest.raises(NotFoundError):
                await asked


async def test_uploads_and_layouts_of_the_client(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        served = await found.session()
        served.uploads["/abc"] = [b"x" * 10, b"y"]
        data = os.urandom(2_500_000)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        client = client_of(found)
        assert [piece async for piece in await client.upload("http://buildkit-session/abc")] == [b"x" * 10, b"y"]

        async def pieces() -> Any:
            yield data[:10]
            yield data[10:]

        await client.put_blob("local:/x", digest, len(data), pieces())
        assert served.blobs == {digest: data}
        assert b"".join([piece async for piece in await client.blob("local:/x", digest)]) == data
        with pytest.raises(NotFoundError):
            assert [piece async for piece in await client.blob("local:/x", "sha256:no")]


async def test_outputs_go_to_the_client(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        served = await found.session()
        writer = await client_of(found).open_output(Export(kind="tar", id="3"), {"containerimage.digest": "x"})
        for _ in range(5):
            await writer.write(b"z" * 1_500_000)
        await writer.close()
        assert served.outputs["3"] == b"z" * 7_500_000
        assert served.asked[0]["exporter-md-containerimage.digest"] == ["x"]


async def test_a_tree_goes_to_the_client_in_order_with_links(tmp_path: Path) -> None:
    root = tmp_path / "out"
    (root / "a").mkdir(parents=True)
    (root / "a/f").write_bytes(b"1" * 100_000)
    (root / "a-b").write_bytes(b"")
    os.link(root / "a/f", root / "hard")
    (root / "soft").symlink_to("a/f")
    async with world(tmp_path) as found:
        served = await found.session()
        await client_of(found).send_tree(Export(kind="local", id="tree"), str(root), {})
        assert list(served.received) == ["a", "a/f", "a-b", "hard", "soft"]
        assert served.received["a/f"] == b"1" * 100_000
        for name, target in (("hard", "a/f"), ("soft", "a/f")):
            entry = served.received[name]
            assert isinstance(entry, Stat)
            assert entry.linkname == target


async def test_a_client_that_answers_no_health_check_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pallet.api.buildkit.session._CHECK_EVERY_S", 0.005)
    monkeypatch.setattr("pallet.api.buildkit.session._CHECK_TIMEOUT_S", 0.01)
    async with world(tmp_path) as found:
        async def never(call: Any) -> None:
            await asyncio.Event().wait()

        healthy = await found.session("healthy")
        await found.session("sick", table={"/grpc.health.v1.Health/Check": never})
        sick = await found.service.sessions.get("sick")
        await sick.client.connection.closed
        assert list(found.service.sessions._sessions) == ["healthy"]
        assert isinstance(healthy, SessionServer)
        assert healthy.health_checks > 0


def test_plain_values_travel_as_they_are() -> None:
    assert filesync.filters("n", ["*", "!a b"], [], []) == [
        ("dir-name", "n"), ("include-patterns", "*"), ("include-patterns", "!a b")]
