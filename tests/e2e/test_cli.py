"""The ``pallet`` command line as a person meets it: terminals, signals, contexts, base images."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import pallet_command
from tests.support.scratch import busybox_tar
from tests.support.terminal import PROMPT
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli
    from tests.support.registry import Registry

pytestmark = pytest.mark.needs("root", "overlay", "busybox")


def test_a_session_at_a_terminal(pallet_cli: DockerCli, name: str) -> None:
    with pallet_cli.terminal("run", "-it", "--name", name, "busybox", rows=30, columns=99) as screen:
        screen.expect(PROMPT)
        screen.type("stty size\n")
        screen.expect("30 99")
        screen.resize(40, 120)
        screen.type("sleep 0.1; stty size\n")
        screen.expect("40 120")
        screen.type("\x10\x11")
        assert screen.wait() == 0
    with pallet_cli.terminal("attach", name) as screen:
        screen.type("echo still $((40 + 2))\n")
        screen.expect("still 42")
        screen.type("\x10\x11")
        screen.expect("read escape sequence")
        assert screen.wait() == 1
    with pallet_cli.terminal("exec", "-it", name, "sh", rows=33, columns=77) as screen:
        screen.expect(PROMPT)
        screen.type("stty size; exit 5\n")
        screen.expect("33 77")
        assert screen.wait() == 5


def test_terminal_is_restored_and_ctrl_c_belongs_to_the_container(
    pallet_cli: DockerCli, name: str
) -> None:
    command = " ".join([*pallet_cli.argv, "run", "-it", "--rm", "--name", name, "busybox", "sh"])
    shell = type(pallet_cli)(["sh", "-c", f"before=$(stty -g); {command}; "
                              'test "$before" = "$(stty -g)" && echo same settings'],
                             pallet_cli.host, pallet_cli.config)
    with shell.terminal() as screen:
        screen.expect(PROMPT)
        screen.type("trap 'echo caught' INT\n")
        screen.expect(PROMPT)
        screen.type("sleep 1\n\x03")
        screen.expect(PROMPT)
        screen.type("exit\n")
        screen.expect("same settings")
        assert screen.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_signals_are_passed_on(pallet_cli: DockerCli, name: str, number: signal.Signals) -> None:
    short = number.name.removeprefix("SIG")
    script = f"trap 'echo got {short}; exit 9' {short}; echo ready; while :; do sleep 0.05; done"
    process = pallet_cli.start("run", "--rm", "--name", name, "busybox", "sh", "-c", script)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.stdout.read() == f"got {short}\n"
    assert process.wait(10) == 9


def test_without_proxy_the_client_dies_and_the_container_stays(
    pallet_cli: DockerCli, name: str
) -> None:
    process = pallet_cli.start("run", "--sig-proxy=false", "--name", name, "busybox", "sh", "-c",
                               "echo ready; sleep 600")
    assert process.stdout
    process.stdout.readline()
    process.terminate()
    assert process.wait(10) == -signal.SIGTERM
    assert pallet_cli.inspect(name)["State"]["Running"]


@pytest.mark.parametrize("size", [0, 1, 1 << 20])
def test_stdin_goes_through_whole_and_ends(pallet_cli: DockerCli, size: int) -> None:
    data = os.urandom(size)
    done = subprocess.run(
        [*pallet_cli.argv, "run", "-i", "--rm", "busybox", "cat"], input=data, env=pallet_cli.env,
        capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == data


def test_reader_that_goes_away_ends_the_command_quietly(pallet_cli: DockerCli) -> None:
    command = shutil.which(pallet_cli.argv[0]) or pallet_cli.argv[0]
    done = subprocess.run(
        ["sh", "-c", f"{command} run --rm busybox seq 100000 | head -1"], env=pallet_cli.env,
        capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr) == ("1\n", "")
    eventually(lambda: not pallet_cli.ok("ps", "-q"))


def test_two_removals_of_one_container_at_once(pallet_cli: DockerCli, name: str) -> None:
    pallet_cli.ok("create", "--name", name, "busybox")
    both = [pallet_cli.start("rm", "-f", name) for _ in range(2)]
    # As with docker, the second hears that it is gone, or that a removal is in progress.
    assert 0 in [process.wait(20) for process in both]
    assert pallet_cli.run("inspect", name).code == 1


@pytest.mark.parametrize("rm", [(), ("--rm",)])
def test_foreground_survives_the_daemon(
    fresh_palletd: Callable[..., Daemon], name: str, rm: tuple[str, ...]
) -> None:
    daemon = fresh_palletd()
    cli = daemon.cli(pallet_command())
    process = cli.start("run", "-i", *rm, "--name", name, "busybox", "sh", "-c",
                        "echo before; read line; echo $line; exit 7")
    assert process.stdout
    assert process.stdin
    assert process.stdout.readline() == "before\n"
    daemon.kill()
    process.stdin.write("after\n")
    process.stdin.flush()
    assert process.stdout.readline() == "after\n"
    daemon.start()
    code = process.wait(20)
    # With --rm the next daemon removes what has ended, and its exit code with it.
    assert code == 7 if not rm else code in (7, 125)
    cli.end_started()


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "en_US.ISO-8859-1"])
def test_output_is_utf8_in_every_locale(pallet_cli: DockerCli, name: str, locale: str) -> None:
    pallet_cli.ok("create", "--name", name, "busybox", "a command that is too long for a column")
    pallet_cli.env["LC_ALL"] = locale
    assert "…" in pallet_cli.ok("ps", "-a", "--format", "{{.Command}}")


def test_configured_proxies_headers_and_broken_files(pallet_cli: DockerCli, tmp_path: Path) -> None:
    pallet_cli.env["DOCKER_CONFIG"] = str(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({
        "proxies": {"default": {"httpProxy": "http://p:1", "noProxy": "x"}},
        "HttpHeaders": {"X-Test": "1"}, "psFormat": "table {{.ID}}"}))
    printed = pallet_cli.ok("run", "--rm", "-e", "NO_PROXY=mine", "busybox", "env")
    assert {"HTTP_PROXY=http://p:1", "http_proxy=http://p:1", "NO_PROXY=mine", "no_proxy=x"} <= set(
        printed.splitlines())
    assert pallet_cli.ok("ps") == "CONTAINER ID"
    (tmp_path / "config.json").write_text("{")
    result = pallet_cli.run("ps", "-q")
    assert (result.code, result.out) == (0, "")
    assert result.err.startswith("WARNING: Error loading config file: ")


# -- images ---------------------------------------------------------------------------------------


def test_bootstrap_busybox_is_reproducible(pallet_cli: DockerCli) -> None:
    try:
        ids = [pallet_cli.ok("image", "bootstrap", "busybox", "-t", f"t-bb:{n}") for n in (1, 2)]
        layers = [pallet_cli.inspect(image)["RootFS"] for image in ids]
        assert layers[0] == layers[1]
        assert pallet_cli.ok("run", "--rm", "t-bb:1", "sh", "-c", "id -un; stat -c %a /tmp") == (
            "root\n1777")
        assert "pallet image bootstrap: busybox from the package" in pallet_cli.ok(
            "history", "--no-trunc", "t-bb:1")
    finally:
        pallet_cli.run("rmi", "-f", "t-bb:1", "t-bb:2")


@pytest.fixture
def fake_tool(tmp_path: Path, pallet_cli: DockerCli) -> Callable[[str], None]:
    """Put a script in mmdebstrap's place."""
    (tmp_path / "root.tar").write_bytes(busybox_tar())

    def install(script: str) -> None:
        path = tmp_path / "mmdebstrap"
        path.write_text(f"#!/bin/sh\nif [ $1 = --version ]; then echo mmdebstrap 9; exit; fi\n{script}\n"
                        .replace("TAR", str(tmp_path / "root.tar")))
        path.chmod(0o755)
        pallet_cli.env["PATH"] = f"{tmp_path}:{pallet_cli.env['PATH']}"

    return install


def test_bootstrap_streams_what_the_tool_writes(
    pallet_cli: DockerCli, fake_tool: Callable[[str], None]
) -> None:
    fake_tool("cat TAR")
    try:
        pallet_cli.ok("image", "bootstrap", "-q", "debian:bookworm-slim", "-t", "t-deb:1")
        assert pallet_cli.ok("run", "--rm", "t-deb:1", "echo", "x") == "x"
        assert pallet_cli.inspect("t-deb:1")["Config"]["Cmd"] == ["bash"]
        history = pallet_cli.ok("history", "--no-trunc", "t-deb:1")
        assert "debian bookworm minimal base (slim) by mmdebstrap 9" in history
    finally:
        pallet_cli.run("rmi", "-f", "t-deb:1")


def test_failed_bootstrap_leaves_no_image(
    pallet_cli: DockerCli, fake_tool: Callable[[str], None]
) -> None:
    fake_tool("head -c 100000 TAR; echo cannot reach the mirror >&2; exit 25")
    before = pallet_cli.ok("images", "-aq")
    result = pallet_cli.run("image", "bootstrap", "-q", "debian:bookworm", "-t", "t-broken:1")
    assert result.code == 1
    assert result.err == "cannot reach the mirror\nmmdebstrap failed with exit status 25\n"
    assert pallet_cli.ok("images", "-aq") == before


@pytest.mark.needs("registry")
def test_login_push_pull_logout(pallet_cli: DockerCli, auth_registry: Registry) -> None:
    address = auth_registry.address
    image = f"{address}/t/login:1"
    pallet_cli.ok("tag", "busybox", image)
    try:
        refused = pallet_cli.run("push", image)
        assert refused.code == 1
        wrong = pallet_cli.run("login", "-u", "user", "--password-stdin", address, stdin="no\n")
        assert wrong.code == 1
        assert "unauthorized" in wrong.err.lower()
        done = pallet_cli.run("login", "-u", "user", "--password-stdin", address, stdin="secret\n",
                              check=True)
        assert done.out.endswith("Login Succeeded\n")
        stored = json.loads((pallet_cli.config / "config.json").read_text())
        assert list(stored["auths"]) == [address]
        pallet_cli.ok("push", image)
        pallet_cli.ok("rmi", image)
        assert pallet_cli.ok("pull", image).endswith(image)
        assert pallet_cli.ok("pull", "-q", image) == image
        assert f"Removing login credentials for {address}" in pallet_cli.ok("logout", address)
        assert pallet_cli.ok("logout", address) == f"Removing login credentials for {address}"
        assert pallet_cli.run("pull", image).code == 1
    finally:
        pallet_cli.run("rmi", "-f", image)
        (pallet_cli.config / "config.json").unlink(missing_ok=True)


@pytest.mark.needs("registry")
def test_run_pulls_what_is_missing(pallet_cli: DockerCli, registry: Registry) -> None:
    image = f"{registry.address}/t/missing:1"
    pallet_cli.ok("tag", "busybox", image)
    pallet_cli.ok("push", image)
    pallet_cli.ok("rmi", image)
    try:
        result = pallet_cli.run("run", "--rm", image, "echo", "pulled", check=True)
        assert result.out == "pulled\n"
        assert result.err.startswith(f"Unable to find image '{image}' locally\n1: Pulling from t/missing\n")
        assert pallet_cli.run("run", "--rm", "--pull", "never", f"{image}0", "true").code == 125
        pallet_cli.ok("rmi", image)
        quiet = pallet_cli.run("run", "--rm", "-q", image, "echo", "x", check=True)
        assert (quiet.out, quiet.err) == ("x\n", "")
    finally:
        pallet_cli.run("rmi", "-f", image)


# -- ways to a daemon -----------------------------------------------------------------------------


def test_contexts(pallet_cli: DockerCli, tmp_path: Path) -> None:
    import hashlib

    folder = tmp_path / "contexts" / "meta" / hashlib.sha256(b"here").hexdigest()
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps({
        "Name": "here", "Metadata": {"Description": "this one"},
        "Endpoints": {"docker": {"Host": pallet_cli.host}}}))
    env = {**pallet_cli.env, "DOCKER_CONFIG": str(tmp_path)}
    del env["DOCKER_HOST"]

    def run(*words: str) -> str:
        return subprocess.run([*pallet_cli.argv, *words], env=env, capture_output=True, text=True,
                              check=True).stdout

    assert run("--context", "here", "version", "--format", "{{.Client.Context}}") == "here\n"
    (tmp_path / "config.json").write_text('{"currentContext": "here"}')
    assert run("context", "show") == "here\n"
    assert "here *    this one" in run("context", "ls")
    assert "busybox" in run("images")


def test_ssh_host(pallet_cli: DockerCli, tmp_path: Path) -> None:
    """A stand-in for ssh runs the remote command here, with pallet as the remote's docker."""
    launcher = pallet_command()[0]
    (tmp_path / "ssh").write_text(
        '#!/bin/sh\nfor last; do :; done\n'
        f'exec env PATH="{tmp_path}/remote:$PATH" DOCKER_HOST={pallet_cli.host} sh -c "$last"\n')
    (tmp_path / "ssh").chmod(0o755)
    (tmp_path / "remote").mkdir()
    (tmp_path / "remote" / "docker").symlink_to(launcher)
    env = {**pallet_cli.env, "DOCKER_HOST": "ssh://someone@somewhere",
           "PATH": f"{tmp_path}:{pallet_cli.env['PATH']}"}
    done = subprocess.run([*pallet_cli.argv, "run", "-i", "--rm", "busybox", "cat"], input="over ssh",
                          env=env, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("over ssh", "", 0)


STARTS = """
set -e
for place in /run /var/log; do mount -t tmpfs none $place; done
mkdir -p /var/lib/pallet; mount -t tmpfs none /var/lib/pallet
for n in 1 2 3; do {pallet} ps -q >/run/out.$n 2>/run/err.$n & pids="$pids $!"; done
for pid in $pids; do wait $pid; done
cat /run/err.* >&2
{pallet} version --format '{{{{.Server.Version}}}}'
kill $(cat /run/pallet/palletd.pid)
n=0; while [ -e /run/pallet/palletd.pid ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n+1)); done
test ! -e /run/pallet/palletd.pid
"""


def test_first_command_starts_the_daemon_once(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "DOCKER_CONFIG": str(tmp_path)}
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", STARTS.format(pallet=pallet_command()[0])], env=env,
        capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("pallet: started palletd (pid ") == 1
    assert done.stdout.strip()


def test_daemon_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    script = ("for place in /run /var/log /etc/pallet; do mkdir -p $place; mount -t tmpfs none $place; done;"
              f"echo '{{' > /etc/pallet/daemon.json; {pallet_command()[0]} ps")
    made = not os.path.exists("/etc/pallet")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False, timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "DOCKER_CONFIG": str(tmp_path)})
    if made:
        os.rmdir("/etc/pallet")
    assert done.returncode == 1
    assert "palletd did not start:\n" in done.stderr
    assert "daemon.json" in done.stderr


def test_nobody_starts_a_daemon_at_a_named_place(tmp_path: Path) -> None:
    done = subprocess.run(
        [*pallet_command(), "-H", f"unix://{tmp_path}/none.sock", "ps"], capture_output=True, text=True,
        check=False, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Cannot connect to the Docker daemon at unix://{tmp_path}/none.sock")


def test_doctor_names_what_this_machine_lacks(pallet_cli: DockerCli) -> None:
    result = pallet_cli.run("doctor", "--format", "json")
    findings = {one["Name"]: one for one in json.loads(result.out)}
    assert findings["daemon"]["Level"] == "ok"
    assert result.code == int(any(one["Level"] == "fail" for one in findings.values()))
    assert findings["python"]["Found"].startswith(".".join(map(str, sys.version_info[:2])))
    text = pallet_cli.run("doctor").out
    assert all(one["Fix"] in text for one in findings.values())


def test_everyday_commands(pallet_cli: DockerCli, name: str) -> None:
    assert pallet_cli.ok("create", "--name", name, "busybox", "sh", "-c", "echo one; exec sleep 600")
    assert pallet_cli.ok("start", name) == name
    eventually(lambda: pallet_cli.ok("logs", name) == "one")
    assert pallet_cli.ok("rename", name, f"{name}-2") == ""
    assert pallet_cli.ok("stop", "-t", "0", f"{name}-2") == f"{name}-2"
    assert pallet_cli.ok("wait", f"{name}-2") == "137"
    assert pallet_cli.ok("rm", f"{name}-2") == f"{name}-2"
