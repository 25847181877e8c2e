"""``docker run``: output, streams, identity of the process, configuration merged from the image."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.terminal import PROMPT
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "busybox")


def test_rm_prints_and_leaves_no_container(any_docker: DockerCli, name: str) -> None:
    result = any_docker.run("run", "--rm", "--name", name, "busybox", "echo", "hello")
    assert (result.code, result.out, result.err) == (0, "hello\n", "")
    assert name not in any_docker.ok("ps", "-a", "--format", "{{.Names}}")


def test_streams_stay_apart(docker: DockerCli) -> None:
    result = docker.run("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2")
    assert (result.out, result.err) == ("out\n", "err\n")


def test_stdin_is_piped_and_its_end_is_seen(any_docker: DockerCli) -> None:
    result = any_docker.run("run", "--rm", "-i", "busybox", "cat", stdin="one\ntwo\n")
    assert (result.code, result.out) == (0, "one\ntwo\n")


def test_output_after_stdin_ended_still_arrives(docker: DockerCli) -> None:
    script = "cat >/dev/null; sleep 0.2; echo after"
    assert (
        docker.run("run", "--rm", "-i", "busybox", "sh", "-c", script, stdin="x").out == "after\n"
    )


def test_large_output_is_complete(docker: DockerCli) -> None:
    script = "head -c 5000000 /dev/zero | tr '\\0' x"
    result = docker.run("run", "--rm", "busybox", "sh", "-c", script)
    assert len(result.out) == 5_000_000


def test_large_input_is_complete(docker: DockerCli) -> None:
    data = b"0123456789abcdef" * 200_000
    result = docker.run("run", "--rm", "-i", "busybox", "wc", "-c", stdin=data)
    assert result.text == str(len(data))


def test_without_interactive_stdin_is_empty(docker: DockerCli) -> None:
    assert docker.run("run", "--rm", "busybox", "sh", "-c", "cat; echo end").out == "end\n"


def test_detached_prints_the_full_id(docker: DockerCli, name: str) -> None:
    container_id = docker.ok("run", "-d", "--name", name, "busybox", "sleep", "60")
    assert len(container_id) == 64
    assert (
        docker.ok("ps", "--no-trunc", "--format", "{{.ID}} {{.Names}}") == f"{container_id} {name}"
    )


def test_default_command_comes_from_the_image(docker: DockerCli) -> None:
    assert docker.run("run", "--rm", "-i", "busybox", stdin="echo from $0\n").out == "from sh\n"


def test_entrypoint_and_its_arguments(docker: DockerCli) -> None:
    result = docker.ok("run", "--rm", "--entrypoint", "/bin/echo", "busybox", "a", "b")
    assert result == "a b"


def test_environment_is_merged(docker: DockerCli) -> None:
    args = ("-e", "MINE=1", "-e", "IMAGE_VAR=changed", "--hostname", "box")
    lines = docker.ok("run", "--rm", *args, "busybox", "env").splitlines()
    environment = dict(line.split("=", 1) for line in lines)
    assert environment["MINE"] == "1"
    assert environment["IMAGE_VAR"] == "changed"
    assert environment["HOSTNAME"] == "box"
    assert environment["HOME"] == "/root"
    assert environment["PATH"].startswith("/usr/local/sbin:")
    assert "TERM" not in environment


def test_image_variable_is_removed_by_its_bare_name(docker: DockerCli) -> None:
    lines = docker.ok("run", "--rm", "-e", "IMAGE_VAR", "busybox", "env").splitlines()
    assert not [line for line in lines if line.startswith("IMAGE_VAR=")]


def test_env_file(docker: DockerCli, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("env") / "file"
    path.write_text("# comment\nA=1\nB=two words\n")
    out = docker.ok("run", "--rm", "--env-file", str(path), "busybox", "sh", "-c", 'echo "$A-$B"')
    assert out == "1-two words"


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", "uid=0(root) gid=0(root) groups=0(root),10(wheel)"),
        ("app", "uid=1000(app) gid=1000(app) groups=10(wheel),44(video),1000(app)"),
        ("1000", "uid=1000(app) gid=1000(app) groups=10(wheel),44(video),1000(app)"),
        ("1000:10", "uid=1000(app) gid=10(wheel) groups=10(wheel)"),
        ("app:video", "uid=1000(app) gid=44(video) groups=44(video)"),
        ("4321", "uid=4321 gid=0(root) groups=0(root)"),
        ("4321:8765", "uid=4321 gid=8765 groups=8765"),
    ],
)
def test_user(docker: DockerCli, user: str, expected: str) -> None:
    args = ("--user", user) if user else ()
    shown = docker.ok("run", "--rm", *args, "busybox", "id")
    if not user:
        expected = "uid=0(root) gid=0(root) groups=0(root)"
    assert shown.split(" ")[:2] == expected.split(" ")[:2]
    assert set(shown.split("groups=")[1].split(",")) == set(expected.split("groups=")[1].split(","))


def test_group_add(docker: DockerCli) -> None:
    args = ("--user", "1000:1000", "--group-add", "video", "--group-add", "777")
    shown = docker.ok("run", "--rm", *args, "busybox", "id", "-G").split()
    assert set(shown) == {"1000", "44", "777"}


def test_home_follows_the_user(docker: DockerCli) -> None:
    script = "echo $HOME; pwd"
    assert (
        docker.ok("run", "--rm", "--user", "app", "busybox", "sh", "-c", script) == "/home/app\n/"
    )


def test_unknown_user_is_refused(docker: DockerCli) -> None:
    result = docker.run("run", "--rm", "--user", "nobodyknows", "busybox", "true")
    assert result.code in (125, 126)
    message = "unable to find user nobodyknows: no matching entries in passwd file"
    assert message in result.err


def test_workdir_is_made(docker: DockerCli) -> None:
    script = "pwd; stat -c %a:%u /new/deep"
    out = docker.ok("run", "--rm", "--workdir", "/new/deep", "--user", "app", "busybox", "sh", "-c",
                    script)  # fmt: skip
    assert out.split() == ["/new/deep", "755:0"]


def test_hostname_and_domainname(docker: DockerCli) -> None:
    args = ("--hostname", "box", "--domainname", "example.test")
    out = docker.ok("run", "--rm", *args, "busybox", "sh", "-c", "hostname; cat /etc/hostname")
    assert out.split()[0] == "box"
    default = docker.ok("run", "--rm", "busybox", "hostname")
    assert len(default) == 12


def test_process_one_is_alone(docker: DockerCli) -> None:
    out = docker.ok("run", "--rm", "busybox", "ps", "-o", "pid,args").splitlines()
    assert [line.split()[0] for line in out] == ["PID", "1"]


def test_init_reaps_and_forwards(docker: DockerCli, name: str) -> None:
    docker.ok("run", "-d", "--init", "--name", name, "busybox", "sh", "-c",
              "(sleep 0.1 & exec true) ; exec sleep 60")  # fmt: skip
    first = docker.ok("exec", name, "cat", "/proc/1/comm")
    assert "init" in first or first == "tini"

    def no_zombie() -> bool:
        return " Z" not in docker.ok("exec", name, "ps", "-o", "stat")

    eventually(no_zombie)
    docker.ok("stop", "-t", "5", name)
    assert docker.inspect(name)["State"]["ExitCode"] == 143


def test_labels_annotations_and_cidfile(
    docker: DockerCli, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cid") / "cid"
    args = ("-l", "a=1", "--label", "b", "--cidfile", str(path))
    shown = docker.ok("run", "-d", "--name", name, *args, "busybox", "sleep", "60")
    assert path.read_text().strip() == shown
    assert docker.inspect(name)["Config"]["Labels"] == {"a": "1", "b": ""}


def test_standard_input_of_a_tty_needs_one(docker: DockerCli) -> None:
    result = docker.run("run", "--rm", "-it", "busybox", "true")
    assert result.code == 1
    assert "not a TTY" in result.err or "not a terminal" in result.err


def test_terminal_is_one(any_docker: DockerCli) -> None:
    with any_docker.terminal("run", "--rm", "-it", "busybox", rows=33, columns=101) as terminal:
        terminal.expect(PROMPT)
        terminal.type("tty; echo $TERM; while ! stty size | grep '33 101'; do sleep 0.1; done\n")
        terminal.expect("/dev/pts/0")
        terminal.expect("\nxterm")
        terminal.expect("\n33 101")
        terminal.type("exit 7\n")
        assert terminal.wait() == 7


def test_resize_reaches_the_container(any_docker: DockerCli) -> None:
    script = "while :; do stty size 2>/dev/null; sleep 0.1; done"
    with any_docker.terminal("run", "--rm", "-it", "busybox", "sh", "-c", script) as terminal:
        terminal.expect("24 80")

        def resized() -> object:
            # Again and again: the command line may not be listening for SIGWINCH yet.
            terminal.resize(49, 132)
            terminal.resize(50, 132)
            return terminal.expect("50 132", timeout_s=1)

        eventually(resized)
        terminal.type("\x03")
        assert terminal.wait() == 130


def test_control_c_interrupts_the_foreground(docker: DockerCli) -> None:
    with docker.terminal("run", "--rm", "-it", "busybox") as terminal:
        terminal.expect(PROMPT)
        terminal.type("sleep 50; echo rc=$?\n")
        terminal.expect("sleep 50")

        def interrupted() -> object:
            # Again: the shell may not yet have given the terminal to sleep.
            terminal.type("\x03")
            return terminal.expect(PROMPT, timeout_s=1)

        eventually(interrupted)
        terminal.type("exit\n")
        terminal.wait()


def test_signals_are_proxied(docker: DockerCli, name: str) -> None:
    script = "trap 'echo got; exit 9' TERM; echo ready; while true; do sleep 0.1; done"
    process = docker.start("run", "--name", name, "busybox", "sh", "-c", script)
    assert process.stdout and process.stdin and process.stderr
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    out, _ = process.communicate(timeout=15)
    assert (process.returncode, out) == (9, "got\n")


def test_many_at_once(docker: DockerCli) -> None:
    started = [
        docker.start("run", "--rm", "busybox", "echo", str(n), stdin=subprocess.DEVNULL)
        for n in range(12)
    ]
    outputs = [process.communicate(timeout=60) for process in started]
    assert [out for out, _ in outputs] == [f"{n}\n" for n in range(12)]
    assert {process.returncode for process in started} == {0}
