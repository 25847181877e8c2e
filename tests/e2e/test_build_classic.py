"""``docker build`` by the classic endpoint, held against dockerd's own classic builder."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import load_images
from tests.support.networkless import beside

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon
    from tests.support.dockercli import Result

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli")

BASE = "FROM busybox\n"
CASES: dict[str, tuple[dict[str, str], list[str]]] = {
    "plain": ({"Dockerfile": BASE + "ENV A=b\nWORKDIR /w\nCOPY a /a\nRUN echo hi\nLABEL x=y\nUSER 1\nCMD [\"cat\"]\n",
               "a": "1"}, ["-t", "side:plain"]),
    "stages": ({"Dockerfile": "ARG V=latest\nFROM busybox:$V AS one\nRUN echo a > /one\n\nFROM busybox AS two\n"
                "COPY --from=one /one /two\nENTRYPOINT /x\n"}, ["--label", "q=r", "--label", "a=b c"]),
    "arguments": ({"Dockerfile": BASE + "ARG X=1\nRUN echo $X\n"}, ["--build-arg", "X=2"]),
    "unused argument": ({"Dockerfile": BASE + "RUN true\n"}, ["--build-arg", "NOPE=2", "--build-arg", "ALSO=1"]),
    "target": ({"Dockerfile": "FROM busybox AS a\nRUN true\nFROM busybox AS b\nRUN false\n"}, ["--target", "a"]),
    "no such target": ({"Dockerfile": "FROM busybox AS a\nRUN true\n"}, ["--target", "zz"]),
    "failing command": ({"Dockerfile": BASE + "RUN echo x && exit 7\nRUN true\n"}, []),
    "quiet": ({"Dockerfile": BASE + "RUN echo x\n"}, ["-q"]),
    "quiet failure": ({"Dockerfile": BASE + "RUN echo x; exit 4\n"}, ["-q"]),
    "no instructions": ({"Dockerfile": "# nothing\n"}, []),
    "nothing to copy": ({"Dockerfile": BASE + "COPY nope /\n"}, []),
    "bad tag": ({"Dockerfile": BASE}, ["-t", "BAD:x"]),
    "no FROM": ({"Dockerfile": "RUN true\n"}, []),
    "from scratch": ({"Dockerfile": "FROM scratch\nLABEL a=b\n"}, []),
    "continued lines": ({"Dockerfile": BASE + "RUN echo a && \\\n  # inner\n  echo b\n"}, []),
    "no file of a pattern": ({"Dockerfile": BASE + "COPY q* /x/\n"}, []),
    "no directory of a pattern": ({"Dockerfile": BASE + "ADD nope/* /x/\n"}, []),
    "one pattern of two": ({"Dockerfile": BASE + "COPY a nope/* /x/\nRUN ls /x\n", "a": "1"}, []),
    "no file in an image": ({"Dockerfile": BASE + "COPY --from=busybox /nope /x/\n"}, []),
    "checks are comments": ({"Dockerfile": f"# check=x=y;error=true\n{BASE}WORKDIR a\n"}, []),
    "ignored": ({"Dockerfile": BASE + "COPY . /ctx\nRUN ls /ctx\n", "a": "1", "b": "2", ".dockerignore": "b\n"}, []),
}
UNUSED = re.compile(r"(?<=build-args )\[(.*)\]")
RUN_ID, IMAGE_ID = re.compile(r"\b[0-9a-f]{12}\b"), re.compile(r"sha256:[0-9a-f]{64}")


@pytest.fixture(scope="module")
def pair(engine: Daemon) -> Iterator[tuple[Daemon, Daemon]]:
    """palletd and dockerd with the same base image, neither with a build cache."""
    with beside(engine) as both:
        load_images(both[1])
        engine.api.call("POST", "/build/prune?all=1")  # both begin without a cache
        yield both


def build(daemon: Daemon, context: Path, *args: str, stdin: bytes | None = None) -> Result:
    cli = daemon.cli()
    cli.env["DOCKER_BUILDKIT"] = "0"
    return cli.run("build", *args, str(context), stdin=stdin)


def shown(done: Result) -> tuple[str, str, int]:
    """What a build printed, with ids made equal and without docker's words on its own future."""
    errors = [line for line in done.err.splitlines()
              if not any(word in line for word in ("DEPRECATED", "BuildKit", "environment-variable"))]
    def plain(text: str) -> str:
        # dockerd tells arguments in any order.
        text = UNUSED.sub(lambda found: f"[{' '.join(sorted(found[1].split()))}]", text)
        return IMAGE_ID.sub("SHA", RUN_ID.sub("ID", text)).strip()
    return plain(done.out), plain("\n".join(errors)), done.code


def write(context: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (context / name).write_text(text)


@pytest.mark.needs("dockerd")
@pytest.mark.parametrize("case", CASES)
def test_output_is_that_of_dockerd(pair: tuple[Daemon, Daemon], context: Path, case: str) -> None:
    files, args = CASES[case]
    write(context, files)
    ours, theirs = (shown(build(daemon, context, *args)) for daemon in pair)
    assert ours == theirs
    if case == "plain":  # and the second time, from the cache
        again = [shown(build(daemon, context, *args)) for daemon in pair]
        assert again[0] == again[1]
        assert again[0][0].count("Using cache") == 7


@pytest.mark.needs("dockerd")
def test_history_and_config_are_those_of_dockerd(pair: tuple[Daemon, Daemon], context: Path) -> None:
    write(context, {"Dockerfile": BASE + "ENV A=b\nRUN echo hi > /x\nLABEL x=y\nVOLUME /v\nEXPOSE 80\nUSER 1\n"
                    "STOPSIGNAL SIGINT\nMAINTAINER me\nENTRYPOINT [\"cat\"]\n"})
    found = []
    for daemon in pair:
        assert build(daemon, context, "-t", "side:history", "--label", "b=x y", "--label", "a=1").code == 0
        image = daemon.api.call("GET", "/images/side:history/json").json
        kept = ("Env", "ArgsEscaped", "Cmd", "Labels", "Volumes", "ExposedPorts", "User", "StopSignal", "Entrypoint", "OnBuild")
        steps = daemon.api.call("GET", "/images/side:history/history").json
        found.append(({key: image["Config"].get(key) for key in kept},
                      [step["CreatedBy"] for step in steps if "EXPOSE" not in step["CreatedBy"]]))
    assert found[0] == found[1]


def test_the_stream_is_json_with_aux_and_error(engine: Daemon, context: Path) -> None:
    def messages(dockerfile: str, query: str = "") -> tuple[int, list[dict[str, Any]]]:
        reply = engine.api.call("POST", f"/v1.41/build?{query}", tar({"Dockerfile": dockerfile.encode()}),
                                {"Content-Type": "application/x-tar"})
        return reply.status, [json.loads(line) for line in reply.body.splitlines() if line]

    status, found = messages(BASE + "RUN echo out\n", "t=stream:1&t=stream:2&rm=1")
    assert status == 200
    assert [message["aux"]["ID"] for message in found if "aux" in message]
    assert [message.get("stream") for message in found][-2:] == [
        "Successfully tagged stream:1\n", "Successfully tagged stream:2\n"]
    status, found = messages(BASE + "RUN exit 9\n")
    text = "The command '/bin/sh -c exit 9' returned a non-zero code: 9"
    assert (status, found[-1]) == (200, {"errorDetail": {"code": 9, "message": text}, "error": text})
    assert messages("FROM a b c\n")[0] == 400
    assert messages(BASE, "buildargs=%7B")[0] == 400
    assert messages(BASE, "securityopt=a")[0] == 400
    assert messages(BASE, "t=UPPER")[0] == 400
    assert engine.api.call("POST", "/v1.41/build/cancel").status == 400
    assert engine.api.call("POST", "/v1.41/build/cancel?id=none").status == 200


def tar(files: dict[str, bytes], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_contexts_come_compressed(engine: Daemon, mode: str) -> None:
    body = tar({"Dockerfile": (BASE + "COPY a /a\nRUN test -s /a\n").encode(), "a": os.urandom(5000)}, mode)
    reply = engine.api.call("POST", "/v1.41/build", body, {"Content-Type": "application/x-tar"})
    assert b"Successfully built" in reply.body, reply.body


@pytest.mark.parametrize("name", ["../escape", "/../../escape", "a/../../escape"])
def test_contexts_stay_inside(engine: Daemon, name: str) -> None:
    body = tar({"Dockerfile": BASE.encode(), name: b"x"})
    reply = engine.api.call("POST", "/v1.41/build", body, {"Content-Type": "application/x-tar"})
    assert not list(engine.data_root.rglob("escape"))
    assert reply.status == 400 or b"Successfully built" in reply.body


def test_a_dockerfile_is_piped_in(engine: Daemon, context: Path) -> None:
    cli = engine.cli()
    cli.env["DOCKER_BUILDKIT"] = "0"
    done = cli.run("build", "-", stdin=BASE + "RUN echo piped\n")
    assert done.code == 0, done.err
    assert "piped\n" in done.out
    (context / "a").write_text("1")
    done = cli.run("build", "-f", "-", str(context), stdin=BASE + "COPY a /\n")
    assert done.code == 0, done.err


def test_a_base_alone_is_that_image(engine: Daemon) -> None:
    docker = engine.cli()
    docker.env["DOCKER_BUILDKIT"] = "0"
    base = docker.ok("image", "inspect", "-f", "{{.Id}}", "busybox")
    built = docker.run("build", "-t", "side:base", "-", stdin="FROM busybox\n", check=True)
    assert f"Successfully built {base[7:19]}\n" in built.out
    assert docker.ok("image", "inspect", "-f", "{{.Id}}", "side:base") == base
    labelled = docker.ok("build", "-q", "--label", "a=b", "-", stdin="FROM busybox\n")
    assert labelled != base
    # docker lists the names of one image in any order, which other tests would stumble over.
    docker.ok("rmi", "side:base", labelled)


def test_no_cache_and_build_args_reach_the_steps(engine: Daemon, context: Path) -> None:
    write(context, {"Dockerfile": BASE + "ARG WHO=nobody\nRUN echo hello $WHO\n"})
    assert "hello nobody" in build(engine, context).out
    assert "hello you" in build(engine, context, "--build-arg", "WHO=you").out
    cached = build(engine, context, "--build-arg", "WHO=you")
    assert "hello you" not in cached.out
    assert "hello you" in build(engine, context, "--build-arg", "WHO=you", "--no-cache").out


@pytest.mark.parametrize("source", [".", "d"])
def test_what_changed_in_an_archive_is_copied_anew(engine: Daemon, context: Path, source: str) -> None:
    """Nothing but the files themselves tells two archives apart."""
    (context / "d").mkdir()
    file = "/c/d/a" if source == "." else "/c/a"
    for text in ("first", "second"):
        write(context, {"Dockerfile": f"{BASE}COPY {source} /c\nRUN cat {file}\n", "d/a": f"{text} {source}\n"})
        assert f"{text} {source}\n" in build(engine, context).out
