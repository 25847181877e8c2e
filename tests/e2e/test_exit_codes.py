"""Exit codes of ``docker run``: the command's own, 125, 126, 127 and 128 plus a signal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "busybox")


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_command_s_own(docker: DockerCli, code: int) -> None:
    assert docker.run("run", "--rm", "busybox", "sh", "-c", f"exit {code}").code == code


@pytest.mark.parametrize(("signal", "code"), [("KILL", 137), ("TERM", 143), ("USR1", 138)])
def test_death_by_signal(docker: DockerCli, name: str, signal: str, code: int) -> None:
    docker.ok("run", "-d", "--init", "--name", name, "busybox", "sleep", "60")
    docker.ok("kill", "-s", signal, name)
    assert docker.ok("wait", name) == str(code)
    assert docker.inspect(name)["State"]["ExitCode"] == code


def test_unknown_command_is_127(any_docker: DockerCli) -> None:
    result = any_docker.run("run", "--rm", "busybox", "no-such-command")
    assert result.code == 127
    assert 'exec: "no-such-command": executable file not found in $PATH' in result.err


def test_unknown_path_is_127(any_docker: DockerCli) -> None:
    result = any_docker.run("run", "--rm", "busybox", "/no/such/file")
    assert result.code == 127
    assert "no such file or directory" in result.err


def test_directory_is_126(any_docker: DockerCli) -> None:
    result = any_docker.run("run", "--rm", "busybox", "/etc")
    assert result.code == 126
    assert "permission denied" in result.err or "is a directory" in result.err


def test_file_without_execute_bit_is_126(any_docker: DockerCli) -> None:
    result = any_docker.run("run", "--rm", "busybox", "/etc/notexec")
    assert result.code == 126
    assert "permission denied" in result.err


def test_file_as_directory_says_so(docker: DockerCli) -> None:
    result = docker.run("run", "--rm", "busybox", "/etc/passwd/x")
    assert result.code in (125, 126, 127)
    assert "not a directory" in result.err


def test_missing_image_is_125(docker: DockerCli) -> None:
    result = docker.run("run", "--rm", "--pull", "never", "no-such-image", "true")
    assert result.code == 125
    assert "No such image: no-such-image:latest" in result.err


def test_unreachable_registry_is_125(docker: DockerCli) -> None:
    result = docker.run("run", "--rm", "127.0.0.1:1/no/image", "true")
    assert result.code == 125
    assert "Unable to find image '127.0.0.1:1/no/image:latest' locally" in result.err


def test_bad_reference_is_125(docker: DockerCli) -> None:
    result = docker.run("run", "--rm", "Upper", "true")
    assert result.code == 125
    assert "invalid reference format: repository name" in result.err
    assert "must be lowercase" in result.err


def test_bad_option_is_125(docker: DockerCli) -> None:
    assert docker.run("run", "--rm", "-m", "1k", "busybox", "true").code == 125


def test_name_in_use_is_125(docker: DockerCli, name: str) -> None:
    first = docker.ok("create", "--name", name, "busybox")
    result = docker.run("run", "--name", name, "busybox", "true")
    assert result.code == 125
    assert f'The container name "/{name}" is already in use by container "{first}"' in result.err


def test_failed_start_leaves_the_container_created(docker: DockerCli, name: str) -> None:
    docker.run("run", "--name", name, "busybox", "no-such-command")
    state = docker.inspect(name)["State"]
    assert state["Status"] == "created"
    assert state["ExitCode"] == 127
    assert "executable file not found" in state["Error"]


def test_failed_start_with_rm_leaves_none(docker: DockerCli, name: str) -> None:
    assert docker.run("run", "--rm", "--name", name, "busybox", "no-such-command").code == 127
    assert docker.run("inspect", name).code == 1


def test_start_reports_a_bad_command(docker: DockerCli, name: str) -> None:
    docker.ok("create", "--name", name, "busybox", "no-such-command")
    result = docker.run("start", name)
    assert result.code == 1
    assert "executable file not found" in result.err
