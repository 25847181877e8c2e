"""What of the Dockerfile language only whole builds show: which files count, what images keep."""

from __future__ import annotations

import io
import json
import os
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli")

BASE = "FROM busybox\n"


def write(context: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = context / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(context)


def image(cli: DockerCli, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(cli.ok("image", "inspect", name))[0]
    return found


def test_a_dockerfiles_own_ignore_file_comes_first(pallet_cli: DockerCli, context: Path) -> None:
    where = write(context, {"a": "1", "b": "2", "sub/my.Dockerfile": BASE + "COPY . /c\n", ".dockerignore": "a\n",
                            "sub/my.Dockerfile.dockerignore": "b\nsub\n.dockerignore\n", "Dockerfile": BASE + "COPY . /c\n"})
    pallet_cli.ok("build", "-t", "df:own", "-f", str(context / "sub/my.Dockerfile"), where)
    assert pallet_cli.ok("run", "--rm", "--network=none", "df:own", "ls", "-A", "/c").split() == ["Dockerfile", "a"]
    pallet_cli.ok("build", "-t", "df:root", where)
    assert "a" not in pallet_cli.ok("run", "--rm", "--network=none", "df:root", "ls", "-A", "/c").split()


def test_a_dockerfile_in_lower_case_is_found(pallet_cli: DockerCli, context: Path) -> None:
    pallet_cli.ok("build", "-t", "df:lower", write(context, {"dockerfile": BASE + "LABEL found=yes\n"}))
    assert image(pallet_cli, "df:lower")["Config"]["Labels"] == {"found": "yes"}  # type: ignore[index]


def test_copied_files_keep_their_times(pallet_cli: DockerCli, context: Path) -> None:
    where = write(context, {"a": "1", "Dockerfile": BASE + "COPY a /a\nRUN echo > /b\n"})
    os.utime(context / "a", (10**9, 10**9))
    pallet_cli.ok("build", "-t", "df:times", where)
    times = pallet_cli.ok("run", "--rm", "--network=none", "df:times", "stat", "-c", "%Y", "/a", "/b").split()
    assert int(times[0]) == 10**9
    assert int(times[1]) > 10**9


def test_here_documents_variables_and_owners(pallet_cli: DockerCli, context: Path) -> None:
    dockerfile = BASE + """ARG NAME=world
ENV WHERE=/srv
WORKDIR $WHERE
COPY --chown=7:8 --chmod=640 <<greeting <<'raw' ./
hello ${NAME}
greeting
$NAME
raw
RUN <<'script'
#!/bin/sh
echo "$NAME" > from-script
script
RUN <<END
stat -c '%u:%g %a' greeting > owner
END
"""
    pallet_cli.ok("build", "-t", "df:here", "--build-arg", "NAME=you", write(context, {"Dockerfile": dockerfile}))
    shown = pallet_cli.ok("run", "--rm", "--network=none", "df:here", "cat", "greeting", "raw", "from-script", "owner")
    assert shown.split("\n") == ["hello you", "$NAME", "you", "7:8 640"]


def test_triggers_run_in_the_next_build(pallet_cli: DockerCli, context: Path) -> None:
    pallet_cli.ok("build", "-t", "df:parent", write(context, {
        "Dockerfile": BASE + "WORKDIR /app\nONBUILD COPY data .\nONBUILD RUN wc -c < data > size\n", "data": "12345"}))
    assert image(pallet_cli, "df:parent")["Config"]["OnBuild"] == ["COPY data .", "RUN wc -c < data > size"]  # type: ignore[index]
    pallet_cli.ok("build", "-t", "df:child", write(context, {"Dockerfile": "FROM df:parent\n"}))
    assert pallet_cli.ok("run", "--rm", "--network=none", "df:child", "cat", "size") == "5"
    assert not image(pallet_cli, "df:child")["Config"].get("OnBuild")  # type: ignore[attr-defined]


def test_an_image_tells_how_it_was_made(pallet_cli: DockerCli, context: Path) -> None:
    pallet_cli.ok("build", "-t", "df:history", write(context, {
        "a": "1", "Dockerfile": BASE + "ARG A=1\nRUN true\nCOPY a /\nUSER 1\nCMD [\"x\"]\n"}))
    shown = pallet_cli.ok("history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Comment}}", "df:history").splitlines()
    assert shown[:5] == [f"{text}|buildkit.dockerfile.v0" for text in (
        'CMD ["x"]', "USER 1", "COPY a / # buildkit", "RUN |1 A=1 /bin/sh -c true # buildkit", "ARG A=1")]


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a word."""

    def log_message(self, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A directory and the URL where its files are."""
    found = tmp_path / "served"
    found.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(found)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield found, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_contexts_at_urls(pallet_cli: DockerCli, served: tuple[Path, str]) -> None:
    directory, url = served
    (directory / "text").write_text(BASE + "LABEL from=text\n")
    pallet_cli.ok("build", "-t", "df:text", f"{url}/text")
    assert image(pallet_cli, "df:text")["Config"]["Labels"] == {"from": "text"}  # type: ignore[index]
    with tarfile.open(directory / "context.tar.gz", "w:gz") as archive:
        for name, text in (("sub/Dockerfile", BASE + "COPY sub/a /a\n"), ("sub/a", "packed")):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    pallet_cli.ok("build", "-t", "df:packed", "-f", "sub/Dockerfile", f"{url}/context.tar.gz")
    assert pallet_cli.ok("run", "--rm", "--network=none", "df:packed", "cat", "/a") == "packed"
