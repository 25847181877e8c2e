"""Hostile contexts, archives, Dockerfiles and clients: what they try stays inside, and nothing is left."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import tarfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import leaks
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli")

LIST = b"FROM busybox\nCOPY . /ctx\nRUN cat /ctx/x; find /ctx | sort\n"
Entry = tuple[str, bytes, object]


def archive(*entries: Entry) -> bytes:
    """A tar of (name, type, content, link target or device)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, value in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755
            if isinstance(value, bytes):
                info.size = len(value)
            elif isinstance(value, str):
                info.linkname = value
            elif isinstance(value, tuple):
                info.devmajor, info.devminor = value
            tar.addfile(info, io.BytesIO(value) if isinstance(value, bytes) else None)
    return buffer.getvalue()


FILE, LINK, HARD, DIRECTORY = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE


def build(engine: Daemon, context: bytes, query: str = "") -> tuple[int, str]:
    """Post a classic build."""
    reply = engine.api.call("POST", f"/build?version=1{query}", context, {"Content-Type": "application/x-tar"})
    return reply.status, reply.body.decode()


@pytest.mark.parametrize(("entries", "status", "words"), [
    ([("../evil", FILE, b"x")], 400, "is outside of"),
    ([("a/../../evil", FILE, b"x")], 400, "is outside of"),
    ([("x", HARD, "../../../../etc/passwd")], 400, "invalid hardlink"),
    ([("l", LINK, "/etc"), ("x", HARD, "l/passwd")], 500, "no such file"),
    ([("x", LINK, "@"), ("x/evil", FILE, b"x")], 200, "/ctx/x"),
    ([("x", LINK, "@"), ("x", DIRECTORY, None), ("x/evil", FILE, b"x")], 200, "/ctx/x/evil"),
    ([("@/evil", FILE, b"x")], 200, "/ctx"),
    ([("Dockerfile", tarfile.CHRTYPE, (1, 5))], 400, "Dockerfile is no regular file"),
    ([("Dockerfile", tarfile.FIFOTYPE, None)], 400, "Dockerfile is no regular file"),
    ([("Dockerfile", LINK, "/etc/passwd")], 400, "Cannot locate"),
    ([("d/.wh..wh..opq", FILE, b""), (".wh.ctx", FILE, b"")], 200, "/ctx/d"),
])
def test_contexts_stay_inside(engine: Daemon, tmp_path: Path, entries: list[Entry], status: int, words: str) -> None:
    """``@`` is a directory of the host."""
    outside = tmp_path / "outside"
    outside.mkdir()
    where = str(outside)
    own = [(name.replace("@", where), kind, value.replace("@", where) if isinstance(value, str) else value)
           for name, kind, value in entries]
    found, text = build(engine, archive(*([] if entries[0][0] == "Dockerfile" else [("Dockerfile", FILE, LIST)]), *own))
    assert (found, words in text) == (status, True), text
    assert os.listdir(outside) == []
    assert os.listdir(engine.data_root / "build/contexts") == []


def test_archives_stay_inside(engine: Daemon, tmp_path: Path) -> None:
    """ADD unpacks zip-slips, links that are written through and whiteouts inside its destination."""
    (outside := tmp_path / "outside").mkdir()
    evil = archive(("up", LINK, "../../../.."), ("up/tmp/one", FILE, b"1"), ("abs", LINK, str(outside)),
                   ("abs/two", FILE, b"2"), (".wh.kept", FILE, b""), ("dev", LINK, "/proc"), ("dev/three", FILE, b"3"))
    context = archive(("Dockerfile", FILE, b"FROM busybox\nRUN mkdir /to && echo kept > /to/kept\n"
                       b"ADD a.tar /to/\nRUN find /to | sort; cat /to/kept\n"), ("a.tar", FILE, evil))
    status, text = build(engine, context)
    assert status == 200 and "Successfully built" in text, text
    assert r"kept\n" in text
    assert os.listdir(outside) == []
    assert not os.path.exists("/tmp/one")
    for name in ("../evil", "a/../../evil"):
        status, text = build(engine, archive(
            ("Dockerfile", FILE, b"FROM busybox\nADD a.tar /to/\n"), ("a.tar", FILE, archive((name, FILE, b"x")))))
        assert "is outside of" in text, text


def test_mounts_through_links_stay_inside(pallet_cli: DockerCli, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox AS evil\nRUN ln -s /etc /a && ln -s ../../../../../etc /b && mkdir /c && ln -s /proc/1/root /d "
        "&& echo mine > /etc/here\n"
        "FROM busybox\nRUN ln -s / /up && ln -s ../../../../tmp /t && mkdir -p /etc/x\n"
        "RUN --mount=from=evil,source=/a,target=/m cat /m/here\n"
        "RUN --mount=from=evil,source=/b,target=/m cat /m/here\n"
        "RUN --mount=type=cache,id=s1,target=/t/../up/cc touch /cc/f && ls /cc\n"
        "RUN --mount=type=cache,id=s1,target=/t/c ls /tmp/c\n"
        "RUN --mount=type=cache,id=../../../etc,target=/e touch /e/owned\n"
        "RUN --mount=type=cache,id=../../../etc,source=../../../../etc,from=evil,target=/e cat /e/here\n")
    done = pallet_cli.run("build", "--no-cache", str(tmp_path))
    assert done.code == 0, done.err
    assert done.err.count("mine") >= 3, done.err
    assert not os.path.exists("/etc/owned")
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox AS evil\nRUN ln -s /proc/1/root /d\n"
        "FROM busybox\nRUN --mount=from=evil,source=/d/etc,target=/m cat /m/passwd\n")
    done = pallet_cli.run("build", "--no-cache", str(tmp_path))
    assert done.code != 0
    assert "root:" not in done.err


def test_trees_of_any_depth_leave_nothing(fresh_palletd: Callable[..., Daemon]) -> None:
    """Deeper than recursion goes: contexts, steps, caches; also what a killed daemon left of them."""
    daemon = fresh_palletd()
    deep = ("/".join(["d"] * 1100), DIRECTORY, None)
    status, text = build(daemon, archive(("Dockerfile", FILE, LIST), deep))
    assert status == 200 and "nested too deeply" in text, text
    assert os.listdir(daemon.data_root / "build/contexts") == []
    status, text = build(daemon, archive(("Dockerfile", FILE, (
        f"FROM busybox\nRUN mkdir -p /q/{'d/' * 1100}\nFROM busybox\nCOPY --from=0 /q /r\n"
        "RUN --mount=type=cache,target=/c touch /c/f\nRUN find /r -type d | wc -l\n").encode())))
    assert status == 200 and "Successfully built" in text, text
    assert r"1101\n" in text, text
    caches, contexts = daemon.data_root / "build/caches", daemon.data_root / "build/contexts"
    assert os.listdir(caches)
    daemon.kill()
    _deepen(caches / "stray")  # of steps that nothing is known of any more
    _deepen(contexts / "once-1")
    daemon.start()
    eventually(lambda: "stray" not in os.listdir(caches) and not os.listdir(contexts), what="they are swept")
    daemon.stop()
    subprocess.run(["rm", "-rf", daemon.data_root], check=True)  # deeper than Python's own rmtree goes


def _deepen(directory: Path) -> None:
    directory.mkdir(parents=True)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


def test_a_file_of_terabytes_does_not_hold_the_daemon(engine: Daemon) -> None:
    """Who goes away gives its thread back, whatever is being read; builds of others go on meanwhile."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data, headers in (
            ("Dockerfile", b"FROM busybox\nCOPY huge /huge\n", {}),
            ("GNUSparseFile.0/huge", b"0\n".ljust(512, b"\0"), {
                "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "huge",
                "GNU.sparse.realsize": str(4 << 40)}),
        ):
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(data), headers
            tar.addfile(info, io.BytesIO(data))
    contexts = engine.data_root / "build/contexts"
    with ExitStack() as clients:
        for _ in range(3):
            clients.enter_context(_begin(engine, buffer.getvalue()))
        eventually(lambda: len(list(contexts.glob("once-*/*/huge"))) == 3, what="three builds read")
        status, text = build(engine, archive(("Dockerfile", FILE, LIST), ("x", FILE, b"beside")))
        assert status == 200 and "beside" in text, text
        assert len(os.listdir(contexts)) == 3
    eventually(lambda: not os.listdir(contexts), what="their contexts are gone")


def _begin(engine: Daemon, context: bytes) -> socket.socket:
    """Begin a classic build; closing what is returned ends it."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(engine.socket))
    client.sendall(b"POST /build?version=1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-tar\r\n"
                   b"Content-Length: %d\r\n\r\n" % len(context) + context)
    return client


BOMB = "bomb() { bomb | bomb & }; bomb; sleep 1; bomb; echo still-$((40+2))"


@pytest.fixture
def few_processes() -> Iterator[str]:
    """A cgroup whose children may have 64 processes together."""
    place = Path("/sys/fs/cgroup/pids") if Path("/sys/fs/cgroup/pids").is_dir() else Path("/sys/fs/cgroup")
    group = place / f"t-few-{os.getpid()}"
    group.mkdir()
    (group / "pids.max").write_text("64")
    yield f"/{group.name}"
    for path in Path("/sys/fs/cgroup").glob(f"**/{group.name}"):
        path.rmdir()


@pytest.mark.needs("limits")
@pytest.mark.parametrize("user", ["root", "1000"])
def test_a_fork_bomb_ends_with_its_step(pallet_cli: DockerCli, tmp_path: Path, few_processes: str, user: str) -> None:
    """Under a parent's limit, and another user's under ``--ulimit nproc``: it hits that, and nothing of it is left."""
    (tmp_path / "Dockerfile").write_text(f"FROM busybox\nUSER {user}\nRUN {BOMB}\n")
    words = ["--cgroup-parent", few_processes] if user == "root" else ["--ulimit", "nproc=64"]
    done = pallet_cli.run("build", "--no-cache", "--progress", "plain", *words, str(tmp_path))
    assert "t fork" in done.err, done.err
    assert not bombs()
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo peace\n")
    assert "peace" in pallet_cli.run("build", "--no-cache", "--progress", "plain", *words, str(tmp_path), check=True).err


def bombs() -> list[str]:
    """Processes of a bomb."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if b"bomb()" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


@pytest.mark.needs("limits")
def test_a_step_may_have_a_share_of_the_hosts_processes(pallet_cli: DockerCli, tmp_path: Path) -> None:
    """A fork bomb without any limit of the client's meets this one."""
    sleep = ("sleep", leaks.seconds(6))
    (tmp_path / "Dockerfile").write_text(
        f"FROM busybox\nRUN --mount=type=cache,target=/c echo at-$((40+2)); {' '.join(sleep)}\n")
    process = pallet_cli.start("build", "--progress", "plain", str(tmp_path))
    try:
        assert process.stderr is not None
        assert any("at-42" in line for line in process.stderr)
        [pid] = leaks.running(*sleep)
        paths = dict(line.split(":", 2)[1:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
        top = "/sys/fs/cgroup/pids" if "pids" in paths else "/sys/fs/cgroup"
        limit = int(Path(top + paths.get("pids", paths.get("", "")), "pids.max").read_text())
        most = [int(Path("/proc/sys/kernel", name).read_text()) for name in ("pid_max", "threads-max")]
        assert limit == min(most) // 4
    finally:
        pallet_cli.end_started()
    eventually(lambda: not leaks.running(*sleep))
