"""``docker buildx build`` over ``/grpc`` and ``/session``: the real plugin builds with palletd."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.plugins import steps
from tests.support.waiting import eventually

if TYPE_CHECKING:

    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli, Result

pytestmark = pytest.mark.needs("root", "overlay", "buildx", "docker_cli")

STAGES = """\
FROM busybox AS build
WORKDIR /w
COPY a /a
RUN echo hi && cat /a
FROM busybox
COPY --from=build /a /b
CMD ["sh"]
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A directory with a file ``a``."""
    (tmp_path / "a").write_text("hello\n")
    return tmp_path


def build(cli: DockerCli, context: Path, dockerfile: str, *args: str, code: int = 0) -> Result:
    """Build ``dockerfile`` in ``context``; plain progress is in ``err``."""
    (context / "Dockerfile").write_text(dockerfile)
    result = cli.run("buildx", "build", "--progress", "plain", *args, str(context))
    assert result.code == code, result.err
    return result


def running(command: str) -> list[str]:
    """Processes whose command line begins with ``command``."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(command.encode()):
                found.append(pid)
    return found


def test_stages_progress_and_cache(buildx: DockerCli, context: Path) -> None:
    """The lines are those of Docker 28 on the same Dockerfile."""
    first = steps(build(buildx, context, STAGES, "-t", "bx-stages").err)
    assert first["[build 4/4] RUN echo hi && cat /a"] == ["hi", "hello", "DONE"]
    assert set(first) == {
        "[internal] load build definition from Dockerfile", "[internal] load .dockerignore",
        "[internal] load metadata for docker.io/library/busybox:latest",
        "[build 1/4] FROM docker.io/library/busybox:latest", "[internal] load build context",
        "[build 2/4] WORKDIR /w", "[build 3/4] COPY a /a", "[build 4/4] RUN echo hi && cat /a",
        "[stage-1 2/2] COPY --from=build /a /b", "exporting to image"}
    assert first["[internal] load build definition from Dockerfile"][0].startswith("transferring dockerfile: ")
    assert buildx.ok("run", "--rm", "--network=none", "bx-stages", "cat", "/b") == "hello"

    again = steps(build(buildx, context, STAGES, "-t", "bx-stages").err)
    for name in ("[build 2/4] WORKDIR /w", "[build 4/4] RUN echo hi && cat /a",
                 "[stage-1 2/2] COPY --from=build /a /b"):
        assert again[name] == ["CACHED"]
    assert again["[internal] load build context"][0].startswith("transferring context: ")


def test_only_what_changed_is_built_again(buildx: DockerCli, context: Path) -> None:
    text = "FROM busybox\nRUN echo one\nCOPY a /a\nRUN cat /a\n"
    build(buildx, context, text)
    (context / "a").write_text("other\n")
    found = steps(build(buildx, context, text).err)
    assert found["[2/4] RUN echo one"] == ["CACHED"]
    assert found["[4/4] RUN cat /a"] == ["other", "DONE"]


def test_a_failed_step_shows_its_lines(buildx: DockerCli, context: Path) -> None:
    result = build(buildx, context, "FROM busybox\nRUN echo oops >&2 && \\\n    false\n", code=1)
    assert result.err.endswith(
        "Dockerfile:2\n--------------------\n   1 |     FROM busybox\n   2 | >>> RUN echo oops >&2 && \\\n"
        "   3 | >>>     false\n   4 |     \n--------------------\n"
        'ERROR: failed to build: failed to solve: process "/bin/sh -c echo oops >&2 &&     false" did not '
        "complete successfully: exit code: 1\n")
    assert " > [2/2] RUN echo oops >&2 &&     false:\n" in result.err


def test_a_broken_dockerfile_shows_its_line(buildx: DockerCli, context: Path) -> None:
    result = build(buildx, context, "FROM busybox\nFOO bar\n", code=1)
    assert "   2 | >>> FOO bar\n" in result.err
    assert result.err.endswith("failed to solve: dockerfile parse error on line 2: unknown instruction: FOO "
                               "(did you mean FROM?)\n")


def test_a_file_that_is_not_there_shows_its_line(buildx: DockerCli, context: Path) -> None:
    result = build(buildx, context, "FROM busybox\nCOPY nofile /a\n", code=1)
    assert "   2 | >>> COPY nofile /a\n" in result.err
    assert '"/nofile": not found' in result.err


def test_secrets_reach_their_step_alone(buildx: DockerCli, context: Path) -> None:
    (context / "s").write_text("s3cret\n")
    text = ("FROM busybox\nRUN --mount=type=secret,id=s cat /run/secrets/s\n"
            "RUN --mount=type=secret,id=s,env=S echo \"got $S.\"\nRUN test ! -s /run/secrets/s\n")
    found = steps(build(buildx, context, text, "--secret", f"id=s,src={context / 's'}").err)
    assert ["s3cret", "DONE"] in found.values()
    assert ["got s3cret", ".", "DONE"] in found.values()


def test_a_required_secret_that_is_not_given_fails(buildx: DockerCli, context: Path) -> None:
    result = build(buildx, context, "FROM busybox\nRUN --mount=type=secret,id=no,required=true true\n", code=1)
    assert "secret no: not found" in result.err


def test_an_agent_is_there_for_its_step(buildx: DockerCli, context: Path, tmp_path: Path) -> None:
    """Bytes through it: tests/unit/api/buildkit and tests/root."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "agent.sock"))
        server.listen()
        text = "FROM busybox\nRUN --mount=type=ssh test -S $SSH_AUTH_SOCK\nRUN test -z \"$SSH_AUTH_SOCK\"\n"
        build(buildx, context, text, "--ssh", f"default={tmp_path / 'agent.sock'}")


def test_control_c_cancels_the_running_step(buildx: DockerCli, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM busybox\nRUN echo begun; sleep 1000\n")
    process = buildx.start("buildx", "build", "--progress", "plain", str(context), stdout=subprocess.DEVNULL)
    assert process.stderr is not None
    for line in process.stderr:
        if line.endswith(" begun\n"):
            break
    process.send_signal(signal.SIGINT)
    assert process.wait(20) != 0
    assert "context canceled" in process.stderr.read()
    eventually(lambda: not running("sleep\x001000"), what="the step is gone")


def test_checks_outline_and_targets(buildx: DockerCli, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM busybox AS One\nARG V=1\n# the last\nFROM busybox AS two\n")
    checked = buildx.run("buildx", "build", "--call=check", str(context))
    assert checked.code == 1
    assert "WARNING: StageNameCasing - https://docs.docker.com/go/dockerfile/rule/stage-name-casing/\n" in checked.out
    assert "Stage name 'One' should be lowercase" in checked.out
    assert buildx.ok("buildx", "build", "--call=targets", str(context)).splitlines()[0].split() == [
        "TARGET", "DESCRIPTION"]
    assert "two (default)" in buildx.ok("buildx", "build", "--call=targets", str(context))
    assert "V" in buildx.ok("buildx", "build", "--call=outline", "--target", "one", str(context))
    good = buildx.run("build", "--check", "-f", "-", str(context), stdin="FROM busybox\n")
    assert (good.code, good.text) == (0, "Check complete, no warnings found.")


def test_lint_warnings_are_counted_after_a_build(buildx: DockerCli, context: Path) -> None:
    err = build(buildx, context, "FROM busybox AS One\n").err
    assert "1 warning found" in err
    assert "StageNameCasing: Stage name 'One' should be lowercase (line 1)" in err


def test_the_dockerfile_may_lie_elsewhere_or_come_from_stdin(buildx: DockerCli, context: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/My").write_text("FROM busybox\nCOPY a /x\n")
    buildx.ok("buildx", "build", "-q", "-f", str(tmp_path / "elsewhere/My"), str(context))
    buildx.ok("buildx", "build", "-q", "-f", "-", str(context), stdin="FROM busybox\nCOPY a /y\n")


def test_a_context_may_be_piped_in(buildx: DockerCli, context: Path, tmp_path: Path) -> None:
    (context / "Dockerfile").write_text("FROM busybox\nCOPY a /piped\n")
    archive = subprocess.run(["tar", "-C", str(context), "-c", "Dockerfile", "a"], capture_output=True, check=True)
    buildx.ok("buildx", "build", "-t", "bx-piped", "-", stdin=archive.stdout)
    assert buildx.ok("run", "--rm", "--network=none", "bx-piped", "cat", "/piped") == "hello"


def test_named_contexts_and_arguments(buildx: DockerCli, context: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more/m").write_text("more\n")
    text = "FROM base\nARG W=none\nCOPY --from=more m /m\nRUN echo $W $(cat /m)\n"
    found = steps(build(buildx, context, text, "--build-context", f"more={tmp_path / 'more'}", "--build-context",
                        "base=docker-image://busybox", "--build-arg", "W=word").err)
    assert ["word more", "DONE"] in found.values()


def test_records_of_builds(buildx: DockerCli, context: Path) -> None:
    build(buildx, context, STAGES)
    rows = [json.loads(line) for line in buildx.ok("buildx", "history", "ls", "--format", "json").splitlines()]
    assert rows[0]["status"] == "Completed"
    reference = rows[0]["ref"].rpartition("/")[2]
    logs = buildx.run("buildx", "history", "logs", reference, check=True)
    assert steps(logs.err + logs.out)["[build 4/4] RUN echo hi && cat /a"][:2] == ["hi", "hello"]
    assert "Build Steps:" in buildx.ok("buildx", "history", "inspect", reference)
    buildx.ok("buildx", "history", "export", "-o", str(context / "exported"), reference)
    assert (context / "exported").stat().st_size > 1000
    buildx.ok("buildx", "history", "rm", reference)
    assert reference not in buildx.ok("buildx", "history", "ls")


def test_the_cache_is_shown_and_pruned(buildx: DockerCli, context: Path) -> None:
    build(buildx, context, STAGES)
    rows = [json.loads(line) for line in buildx.ok("buildx", "du", "--format", "json").splitlines()]
    assert any("RUN echo hi" in json.dumps(row) for row in rows)
    assert "Total:" in buildx.ok("buildx", "prune", "-af")
    assert not [row for row in (buildx.ok("buildx", "du", "--format", "json")).splitlines() if "RUN echo hi" in row]


def test_the_builder_introduces_itself(buildx: DockerCli) -> None:
    listed = buildx.ok("buildx", "ls")
    assert "docker" in listed
    assert "running" in listed
    assert "linux/amd64" in listed or "linux/arm64" in listed
    inspected = buildx.ok("buildx", "inspect")
    assert "org.mobyproject.buildkit.worker.moby.host-gateway-ip" in inspected


def test_without_the_plugin_docker_builds_the_classic_way(docker: DockerCli, buildx: DockerCli, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM busybox\n")
    assert "Step 1/1 : FROM busybox" in docker.ok("build", str(context))
    buildx.env["DOCKER_BUILDKIT"] = "0"
    assert "Step 1/1 : FROM busybox" in buildx.ok("build", str(context))


def test_every_docker_command_line_builds_with_buildkit(any_docker: DockerCli, buildx: DockerCli, context: Path) -> None:
    """The older ones without the plugin, over ``POST /build?version=2`` and a session."""
    if any_docker.argv == buildx.argv:
        any_docker = buildx
    (context / "Dockerfile").write_text("FROM busybox\nCOPY a /a\nRUN cat /a\n")
    any_docker.env["DOCKER_BUILDKIT"] = "1"
    built = any_docker.run("build", "--progress", "plain", "-t", "bx-any", str(context), check=True)
    assert "[2/3] COPY a /a" in built.err + built.out
    assert buildx.ok("run", "--rm", "--network=none", "bx-any", "cat", "/a") == "hello"
    archive = subprocess.run(["tar", "-C", str(context), "-c", "Dockerfile", "a"], capture_output=True, check=True)
    any_docker.ok("build", "-q", "-", stdin=archive.stdout)
    (context / "Dockerfile").write_text("FROM busybox\nRUN exit 7\n")
    failed = any_docker.run("build", str(context))
    assert failed.code == 1
    assert "did not complete successfully: exit code: 7" in failed.err


def connections(engine: Daemon) -> set[str]:
    """Accepted connections on the daemon's socket (proc(5), net/unix: state 03 is connected)."""
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return {row[6] for row in rows if row[-1] == str(engine.socket) and row[5] == "03"}


def test_killed_clients_leave_nothing(buildx: DockerCli, context: Path, engine: Daemon) -> None:
    (context / "Dockerfile").write_text("FROM busybox\nCOPY a /a\nRUN echo begun; sleep 1001\n")
    before = connections(engine)
    for words in ("load build definition", "load metadata", " begun"):
        process = buildx.start("buildx", "build", "--progress", "plain", "--no-cache", str(context),
                               stdout=subprocess.DEVNULL, start_new_session=True)
        assert process.stderr is not None
        for line in process.stderr:
            if words in line:
                break
        assert connections(engine) - before
        os.killpg(process.pid, signal.SIGKILL)  # the plugin is a process of its own
    eventually(lambda: not connections(engine) - before, what="connections are closed")
    eventually(lambda: not running("sleep\x001001"), what="the step is gone")


def test_builds_at_once_share_their_steps(buildx: DockerCli, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM busybox\nRUN date +%N > /stamp; sleep 0.3\n")
    started = [buildx.start("buildx", "build", "-q", str(context)) for _ in range(4)]
    images = {process.communicate(timeout=60)[0].strip() for process in started}
    assert all(process.returncode == 0 for process in started)
    stamps = {buildx.ok("run", "--rm", "--network=none", image, "cat", "/stamp") for image in images}
    assert len(stamps) == 1


