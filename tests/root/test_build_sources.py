"""Downloads and checkouts as sources of builds."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from pallet.build import graph
from pallet.build.errors import BuildError
from pallet.build.ports import FrontendOptions
from pallet.build.request import BuildRequest
from tests.root.buildlab import BuildLab, Client, build_lab, copy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from pallet.build.remote import RemoteContext

pytestmark = pytest.mark.needs("root", "overlay")


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[BuildLab]:
    """A daemon with busybox; nothing of a step may be left at the end."""
    async with build_lab(tmp_path) as started:
        yield started
        started.daemon.snapshotter.drain()
        assert started.leftovers() == []


class Web:
    """What a small server gives, and what it was asked."""

    def __init__(self) -> None:
        self.data = b"hello"
        self.asked: list[str] = []
        self.url = ""


@contextmanager
def serving(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server on a free port of this host, for the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def web() -> Iterator[Web]:
    """One file with an ETag."""
    found = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            tag = f'"{hashlib.md5(found.data).hexdigest()}"'
            found.asked.append(self.headers.get("If-None-Match") or "")
            if self.path != "/file":
                self.send_error(404)
            elif self.headers.get("If-None-Match") == tag:
                self.send_response(304)
                self.end_headers()
            else:
                self.send_response(200)
                self.send_header("ETag", tag)
                self.send_header("Last-Modified", "Tue, 14 Nov 2023 22:13:20 GMT")
                self.send_header("Content-Length", str(len(found.data)))
                self.end_headers()
                self.wfile.write(found.data)

        def log_message(self, *args: object) -> None:
            """Quiet."""

    with serving(Handler) as url:
        found.url = f"{url}/file"
        yield found


def download(lab: BuildLab, url: str, checksum: str = "") -> graph.Vertex:
    """ADD of a URL."""
    source = graph.Vertex(op=graph.HttpSource(url=url, filename="file", checksum=checksum), name=url)
    return copy(lab.image(), source, "/file", dest="/file")


async def test_download(lab: BuildLab, web: Web) -> None:
    """A file of a URL has mode 0600 and the server's time; it is fetched again once it has changed."""
    (solved,) = await lab.solve(download(lab, web.url))
    assert lab.read(solved.layers, "file") == b"hello"
    status = lab.view(solved.layers)["file"]
    assert (status.st_mode & 0o7777, status.st_mtime) == (0o600, 1_700_000_000)
    (again,) = await lab.solve(download(lab, web.url))
    assert again.layers == solved.layers
    assert lab.told.ran() == []
    assert [bool(tag) for tag in web.asked] == [False, True]
    web.data = b"other"
    (other,) = await lab.solve(download(lab, web.url))
    assert lab.read(other.layers, "file") == b"other"


async def test_download_with_a_checksum(lab: BuildLab, web: Web) -> None:
    """Another file is refused, in BuildKit's words; the right one is asked for once."""
    right = f"sha256:{hashlib.sha256(b'hello').hexdigest()}"
    wrong = f"sha256:{'0' * 64}"
    with pytest.raises(BuildError, match=f"digest mismatch {right}: {wrong}"):
        await lab.solve(download(lab, web.url, wrong))
    await lab.solve(download(lab, web.url, right))
    asked = len(web.asked)
    await lab.solve(download(lab, web.url, right))
    assert len(web.asked) == asked
    with pytest.raises(BuildError, match="invalid response status 404"):
        await lab.solve(download(lab, f"{web.url}/no"))


class DockerfileClient(Client):
    """A client with a Dockerfile and nothing else."""

    async def read_file(self, source: str, path: str, limit_bytes: int) -> bytes | None:
        text = b"FROM busybox\nRUN mkdir -p /d/e && echo hello > /d/f && chown 3:4 /d/f && chmod 640 /d/f && ln -s f /d/l\n"
        return text if (source, path) == ("dockerfile", "Dockerfile") else None


async def test_files_of_a_result(lab: BuildLab) -> None:
    """What clients read of a reference: files, directories, links."""
    request = BuildRequest(ref="r", options=FrontendOptions())
    builder = lab.daemon.build.builder

    async def look(see: Callable[[RemoteContext], Awaitable[Any]]) -> Any:
        return await builder.files(request, DockerfileClient(), lambda _: None, see, source=False)  # type: ignore[arg-type]

    assert await look(lambda tree: tree.read("/d/f", 100)) == b"hello\n"
    assert await look(lambda tree: tree.read("d/no", 100)) is None
    own, directory, file, link = await look(lambda tree: tree.entries("/d"))
    assert (own.name, directory.name, file.name, link.name) == ("", "e", "f", "l")
    assert (file.status.st_uid, file.status.st_gid, file.status.st_mode & 0o777, file.status.st_size) == (3, 4, 0o640, 6)
    assert link.link == "f"
    (alone,) = await look(lambda tree: tree.entries("d/f"))
    assert alone.status.st_size == 6
    assert await look(lambda tree: tree.entries("no")) is None


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A repository served over plain HTTP: its URL and the first commit."""
    work, environment = tmp_path / "work", {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b", "GIT_AUTHOR_DATE": "1700000000 +0000",
        "GIT_COMMITTER_DATE": "1700000000 +0000"}

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=work, env=environment, check=True, capture_output=True,
                              text=True).stdout.strip()

    (work / "sub/deep").mkdir(parents=True)
    (work / "sub/deep/file").write_text("one")
    (work / "top").write_text("top")
    git("init", "-q", "-b", "main", ".")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    first = git("rev-parse", "HEAD")
    git("tag", "-a", "v1", "-m", "v1")
    (work / "sub/deep/file").write_text("two")
    git("commit", "-q", "-a", "-m", "two")
    git("clone", "-q", "--bare", ".", str(tmp_path / "served/repo.git"))
    subprocess.run(["git", "update-server-info"], cwd=tmp_path / "served/repo.git", env=environment, check=True)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Quiet."""

    with serving(partial(Quiet, directory=str(tmp_path / "served"))) as url:
        yield f"{url}/repo.git", first


async def test_checkout(lab: BuildLab, repository: tuple[str, str]) -> None:
    """A branch, a tag, a part of the tree, with and without git's own files; a commit is fetched once."""
    remote, first = repository

    def checkout(**fields: object) -> graph.Vertex:
        source = graph.Vertex(op=graph.GitSource(remote=remote, **fields), name=remote)  # type: ignore[arg-type]
        return copy(lab.image(), source, "/", dest="/src/", wildcards=False)

    (solved,) = await lab.solve(checkout())
    assert lab.read(solved.layers, "src/sub/deep/file") == b"two"
    assert "src/.git" not in lab.view(solved.layers)
    (tagged,) = await lab.solve(checkout(ref="v1", subdirectory="sub", mtime="commit"))
    assert lab.read(tagged.layers, "src/deep/file") == b"one"
    assert lab.view(tagged.layers)["src/deep/file"].st_mtime == 1_700_000_000
    (kept,) = await lab.solve(checkout(ref="refs/tags/v1", keep_git_dir=True, checksum=first))
    assert "src/.git" in lab.view(kept.layers)
    (again,) = await lab.solve(checkout(ref="v1", subdirectory="sub", mtime="commit"))
    assert again.layers == tagged.layers
    assert lab.told.ran() == []
    with pytest.raises(BuildError, match="expected checksum to match"):
        await lab.solve(checkout(ref="main", checksum=first))
    with pytest.raises(BuildError, match="repository does not contain ref nope"):
        await lab.solve(checkout(ref="nope"))
