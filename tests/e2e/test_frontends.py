"""Front ends that are images: ``# syntax=`` names one, buildx and ``pallet build`` drive it, and it drives the builder.

The front end is ``tests/support/frontend``: its own small language, over gRPC on its standard input and output. What
it prints and comes to is what dockerd 28.5.2 makes of the same image and files.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import pallet_command
from tests.support.frontend.image import changes, frontend_tar
from tests.support.plugins import steps, with_plugins
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli, Result

pytestmark = pytest.mark.needs("root", "overlay", "buildx", "docker_cli")

INNER = "FROM busybox\nRUN echo hi > /hi\nLABEL a=b\nCOPY a.txt /a\n"


@pytest.fixture(scope="module", autouse=True)
def front_end(engine: Daemon) -> None:
    """The front end's image."""
    load(engine)


def load(daemon: Daemon) -> None:
    """Give a daemon the front end's image."""
    reply = daemon.api.call("POST", f"/images/create?fromSrc=-&repo=fe&tag=latest{changes()}", frontend_tar(),
                            {"Content-Type": "application/x-tar"})
    assert reply.status == 200, reply.body


@pytest.fixture
def buildx(engine: Daemon) -> Iterator[DockerCli]:
    """buildx; the images stay, as the front end is one."""
    cli = with_plugins(engine)
    yield cli
    cli.end_started()


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A context with two files."""
    found = tmp_path / "context"
    found.mkdir()
    (found / "a.txt").write_text("hello\n")
    (found / "Inner").write_text(INNER)
    return found


def write(context: Path, *lines: str, name: str = "Dockerfile") -> None:
    """A file of the front end's language."""
    (context / name).write_text("\n".join(("# syntax=fe", *lines, "")))


def build(cli: DockerCli, context: Path, *args: str, code: int = 0) -> Result:
    """Build it into the directory ``out`` beside the context, if it is not to go elsewhere."""
    result = cli.run("buildx", "build", "--progress", "plain", *args, str(context))
    assert result.code == code, result.err
    return result


def out(context: Path) -> tuple[str, str]:
    """``-o`` and where to."""
    return "-o", str(context.parent / "out")


def test_it_plans_steps_files_and_reads_them(buildx: DockerCli, context: Path) -> None:
    write(context, "say hello from the front end", "exec echo built > /out/f; ls / | wc -l >> /out/f",
          "exec cat /out/f > /out/g", "file /h one", "read /g", "env")
    first = steps(build(buildx, context, *out(context), "--build-arg", "X=1").err)
    assert "hello from the front end" in first["[internal] run front end docker.io/library/fe:latest"]
    assert first["step cat /out/f > /out/g"] == ["DONE"]
    assert "mkfile /h" in first
    made = context.parent / "out"
    assert (made / "f").read_text().startswith("built\n")
    assert (made / "g").read_bytes() == (made / "f").read_bytes()
    assert (made / "read").read_text() == f"{(made / 'g').read_text()}9 0o644 f g h\n"
    shown = dict(line.partition("=")[::2] for line in (made / "env").read_text().splitlines())
    options = {value for key, value in shown.items() if key.startswith("BUILDKIT_FRONTEND_OPT_")}
    assert {"cmdline=fe", "source=fe", "build-arg:X=1", "filename=Dockerfile"} <= options
    assert shown["BUILDKIT_EXPORTEDPRODUCT"] == "docker"
    assert shown["BUILDKIT_SESSION_ID"]
    assert json.loads(shown["BUILDKIT_WORKERS"])[0]["platforms"][0]["os"] == "linux"

    again = steps(build(buildx, context, *out(context)).err)
    assert again["step cat /out/f > /out/g"] == ["CACHED"]


def test_its_config_and_history_are_the_images(buildx: DockerCli, context: Path) -> None:
    write(context, "exec echo hi > /out/f", "file /z more", "config a=b")
    build(buildx, context, "-t", "fe-own")
    (image,) = json.loads(buildx.ok("image", "inspect", "fe-own"))
    assert image["Config"]["Labels"] == {"a": "b", "base.env": "IMAGE_VAR=yes"}
    assert buildx.ok("history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Comment}}", "fe-own").splitlines() == [
        "mkfile /z|buildkit.exporter.image.v0",
        "mount /out from exec /bin/sh -c echo hi > /out/f|buildkit.exporter.image.v0"]


def test_the_built_in_front_end_works_for_it(buildx: DockerCli, context: Path) -> None:
    """Its plan is built on; lines of the history stay, and what comes on top is told."""
    write(context, "inner Inner", "config k=v", "on", "file /last 1", "read /hi")
    build(buildx, context, "-t", "fe-inner")
    history = buildx.ok("history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Comment}}", "fe-inner").splitlines()
    assert history[:5] == [
        "mkfile /read|buildkit.exporter.image.v0", "mkfile /last|buildkit.exporter.image.v0",
        "COPY a.txt /a # buildkit|buildkit.dockerfile.v0", "LABEL a=b|buildkit.dockerfile.v0",
        "RUN /bin/sh -c echo hi > /hi # buildkit|buildkit.dockerfile.v0"]
    assert buildx.ok("run", "--rm", "--network=none", "fe-inner", "cat", "/read").startswith("hi\n3 0o644 a ")
    (image,) = json.loads(buildx.ok("image", "inspect", "fe-inner"))
    assert image["Config"]["Labels"] == {"a": "b", "k": "v"}


def test_steps_are_shared_with_dockerfiles(buildx: DockerCli, context: Path) -> None:
    (context / "Inner").write_text("FROM busybox\nRUN echo shared > /shared\n")
    build(buildx, context, "-f", str(context / "Inner"), "-t", "fe-shared")
    write(context, "inner Inner", "on")
    assert steps(build(buildx, context, *out(context)).err)["[2/2] RUN echo shared > /shared"] == ["CACHED"]


@pytest.mark.parametrize(("lines", "inner", "ending"), [
    (["fail this is wrong"], "", """\
Dockerfile:1
--------------------
   1 | >>> # syntax=fe
   2 |     fail this is wrong
   3 |     \n--------------------
ERROR: failed to build: failed to solve: this is wrong"""),
    (["failing echo oops; exit 3"], "", """\
Dockerfile:1
--------------------
   1 | >>> # syntax=fe
   2 |     failing echo oops; exit 3
   3 |     \n--------------------
ERROR: failed to build: failed to solve: process "/bin/sh -c echo oops; exit 3" did not complete successfully: exit code: 3"""),
    (["crash 4"], "", """\
Dockerfile:1
--------------------
   1 | >>> # syntax=fe
   2 |     crash 4
   3 |     \n--------------------
ERROR: failed to build: failed to solve: exit code: 4"""),
    (["inner Inner"], "FROM busybox\nRUN false\n", """\
Inner:2
--------------------
   1 |     FROM busybox
   2 | >>> RUN false
   3 |     \n--------------------
ERROR: failed to build: failed to solve: process "/bin/sh -c false" did not complete successfully: exit code: 1"""),
    (["inner Inner"], "FROM busybox\nFOO bar\n", """\
Inner:2
--------------------
   1 |     FROM busybox
   2 | >>> FOO bar
   3 |     \n--------------------
ERROR: failed to build: failed to solve: dockerfile parse error on line 2: unknown instruction: FOO (did you mean FROM?)"""),
])
def test_failures_are_told_as_buildkit_tells_them(buildx: DockerCli, context: Path, lines: list[str], inner: str,
                                                  ending: str) -> None:
    write(context, *lines)
    (context / "Inner").write_text(inner)
    told = build(buildx, context, *out(context), code=1).err
    assert told.rstrip().endswith(ending)


def test_an_image_that_is_no_front_end(buildx: DockerCli, context: Path) -> None:
    (context / "Dockerfile").write_text("# syntax=busybox\nFROM busybox\n")
    told = build(buildx, context, *out(context), code=1).err
    assert '1 | >>> # syntax=busybox' in told
    assert 'exec: "/run": stat /run: no such file or directory' in told or "/run" in told.splitlines()[-1]


def test_the_file_may_be_given_to_it_from_outside(buildx: DockerCli, context: Path) -> None:
    """BUILDKIT_SYNTAX goes before what the file says, and the built-in one can be asked for so, too."""
    (context / "Dockerfile").write_text("# a comment\nfile /x y\n")
    build(buildx, context, *out(context), "--build-arg", "BUILDKIT_SYNTAX=fe")
    assert (context.parent / "out/x").read_text() == "y\n"
    (context / "Dockerfile").write_text("# syntax=fe\nFROM scratch\nCOPY a.txt /\n")
    build(buildx, context, *out(context), "--build-arg", "BUILDKIT_SYNTAX=docker/dockerfile:1")
    assert (context.parent / "out/a.txt").read_text() == "hello\n"


def test_subrequests_go_to_it(buildx: DockerCli, context: Path) -> None:
    write(context, "fail nobody builds")
    told = build(buildx, context, "--call", "anything")
    assert told.out.strip() == "asked frontend.anything"


def test_it_asks_for_itself_once_more(buildx: DockerCli, context: Path) -> None:
    write(context, "again fe")
    write(context, "file /deep 1", "config from=again", name="Again")
    build(buildx, context, *out(context))
    assert (context.parent / "out/deep").read_text() == "1\n"


def test_results_for_several_platforms_are_an_index(buildx: DockerCli, context: Path) -> None:
    write(context, "file /x y", "config a=b", "platforms linux/amd64 linux/arm64")
    target = context.parent / "layout"
    build(buildx, context, "--platform", "linux/amd64,linux/arm64", "-o", f"type=oci,dest={target},tar=false",
          "--provenance=false")

    def blob(descriptor: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((target / "blobs" / descriptor["digest"].replace(":", "/")).read_bytes())
        return found

    (index,) = json.loads((target / "index.json").read_bytes())["manifests"]
    manifests = blob(index)["manifests"]
    assert [one["platform"]["architecture"] for one in manifests] == ["amd64", "arm64"]
    configs = [blob(blob(one)["config"]) for one in manifests]
    assert [config["architecture"] for config in configs] == ["amd64", "arm64"]
    assert configs[0]["rootfs"]["diff_ids"][0] == configs[1]["rootfs"]["diff_ids"][0]
    assert configs[0]["rootfs"]["diff_ids"][1] != configs[1]["rootfs"]["diff_ids"][1]


def test_its_warnings_are_the_builds(buildx: DockerCli, context: Path) -> None:
    write(context, "warn look out", "file /x y")
    assert "- look out" in build(buildx, context, *out(context)).err


def test_provenance_names_it(buildx: DockerCli, context: Path) -> None:
    write(context, "exec true")
    told = context.parent / "metadata.json"
    build(buildx, context, "--build-arg", "A=b", "--metadata-file", str(told))
    provenance = json.loads(told.read_bytes())["buildx.build.provenance"]
    assert provenance["invocation"]["parameters"] == {
        "frontend": "gateway.v0", "args": {"build-arg:A": "b", "cmdline": "fe", "source": "fe"},
        "locals": [{"name": "dockerfile"}]}
    assert [one["uri"] for one in provenance["materials"]] == [
        "pkg:docker/busybox@latest?platform=linux%2Famd64", "pkg:docker/fe@latest?platform=linux%2Famd64"]


def test_results_of_other_targets_are_its_inputs(buildx: DockerCli, context: Path) -> None:
    write(context, "input base", "file /new 1")
    (context / "bake.hcl").write_text('target "base" {\n  dockerfile = "Inner"\n}\ntarget "top" {\n'
                                      '  contexts = { base = "target:base" }\n}\n')
    target = str(context.parent / "baked")
    result = buildx.run("buildx", "bake", "-f", str(context / "bake.hcl"), "--progress", "plain", "top", "--allow", "fs=*",
                        "--set", f"*.context={context}", "--set", f"top.output=type=local,dest={target}")
    assert result.code == 0, result.err
    assert {"hi", "a", "new", "bin"} <= set(os.listdir(target))


def test_pallet_build_runs_it(engine: Daemon, context: Path) -> None:
    cli = engine.cli(pallet_command())
    write(context, "context /a.txt", "exec cp /out/a.txt /out/b.txt")
    assert cli.run("build", *out(context), str(context)).code == 0
    assert (context.parent / "out/b.txt").read_text() == "hello\n"
    write(context, "fail in its own words")
    result = cli.run("build", *out(context), str(context))
    assert result.code != 0
    assert "1 | >>> # syntax=fe" in result.err
    assert "in its own words" in result.err
    assert "no warnings" in cli.ok("build", "--check", str(context))  # it was asked: what it is told is no Dockerfile
    piped = cli.run("build", "-f", "-", *out(context), str(context), stdin="# syntax=fe\nfile /piped y\n")
    assert piped.code == 0, piped.err
    assert (context.parent / "out/piped").read_text() == "y\n"


def test_a_client_that_goes_ends_it(engine: Daemon, buildx: DockerCli, context: Path) -> None:
    write(context, "say waiting", "hang")
    started = buildx.start("buildx", "build", "--progress", "plain", *out(context), str(context))
    shims = engine.exec_root / "shims"
    eventually(_programs)
    started.send_signal(signal.SIGINT)
    started.wait()
    eventually(lambda: not _programs() and not any(shims.iterdir()))


def _programs() -> list[str]:
    """Front ends that run, in roots of their own."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            root = os.stat(f"/proc/{pid}/root/app/program.pyc")
        except OSError:
            continue
        if b"/app/program.pyc" in line and root.st_size:
            found.append(pid)
    return found


def test_the_daemons_end_is_its_end(fresh_palletd: Callable[..., Daemon], context: Path) -> None:
    """And the client hears why."""
    daemon = fresh_palletd()
    load(daemon)
    cli = with_plugins(daemon)
    write(context, "hang")
    started = cli.start("buildx", "build", "--progress", "plain", *out(context), str(context))
    eventually(_programs)
    daemon.stop()
    _, told = started.communicate()
    assert not _programs()
    assert "the daemon is shutting down" in told
