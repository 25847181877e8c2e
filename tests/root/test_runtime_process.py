"""What a container's process is: exit status, identity, limits, privileges, environment."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from pallet.errors import SystemFailureError
from pallet.spec import runtime as oci
from pallet.supervisor.failures import InvalidCommandError, StartError
from pallet.zygote import messages
from tests.root.runtimelab import read_until

if TYPE_CHECKING:
    from tests.root.runtimelab import Lab

pytestmark = pytest.mark.needs("root", "overlay")


@pytest.mark.parametrize(("script", "code"), [
    ("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137), ("kill -15 $$", 143)])
async def test_exit_code(lab: Lab, script: str, code: int) -> None:
    # A pid namespace's process 1 ignores signals without a handler, so a child of it is asked.
    wanted, _ = await lab.run("sh", "-c", f"sh -c '{script}'; exit $?")
    assert wanted == code


async def test_death_by_signal_is_128_plus_its_number(lab: Lab) -> None:
    shim = await lab.start("sleep", "100")
    assert shim.running
    assert shim.kill(signal.SIGKILL)
    ended = await asyncio.wait_for(shim.exited, 5)
    assert (ended.exit_code, ended.oom_killed, ended.error) == (137, False, "")
    assert ended.finished_at_ns > shim.started_at_ns
    assert not shim.kill(signal.SIGKILL)


@pytest.mark.parametrize(("args", "code", "words"), [
    (["nope"], 127, 'exec: "nope": executable file not found in $PATH'),
    ([""], 127, 'exec: "": executable file not found in $PATH'),
    (["/nope"], 127, 'exec: "/nope": stat /nope: no such file or directory'),
    (["/etc"], 126, 'exec: "/etc": permission denied'),
    (["/etc/file"], 126, 'exec: "/etc/file": permission denied'),
    (["/etc/file/x"], 127, 'exec: "/etc/file/x": stat /etc/file/x: not a directory'),
])
async def test_command_that_cannot_run(
    lab: Lab, args: list[str], code: int, words: str
) -> None:
    with pytest.raises(InvalidCommandError) as caught:
        await lab.start(*args)
    assert caught.value.exit_code == code
    assert str(caught.value).startswith(
        "failed to create task for container: failed to create shim task: OCI runtime create "
        f"failed: unable to start container process: {words}: unknown")


@pytest.mark.parametrize(("program", "words"), [
    ("garbage", "exec /bin/garbage: exec format error\n"),
    ("badint", "exec /bin/badint: no such file or directory\n")])
async def test_failing_exec_is_the_containers_own_output(
    lab: Lab, program: str, words: str
) -> None:
    assert await lab.run(program) == (255, words)


@pytest.mark.parametrize(("user", "add", "expected"), [
    ("", [], "uid=0(root) gid=0(root) groups=0(root),10(wheel) /root"),
    ("bob", [], "uid=1000(bob) gid=1001(bob) groups=10(wheel),1001(bob) /home/bob"),
    ("1000", [], "uid=1000(bob) gid=1001(bob) groups=10(wheel),1001(bob) /home/bob"),
    ("bob:wheel", [], "uid=1000(bob) gid=10(wheel) groups=10(wheel) /home/bob"),
    ("bob:55", ["wheel"], "uid=1000(bob) gid=55(extra) groups=10(wheel),55(extra) /home/bob"),
    ("7", [], "uid=7 gid=0(root) groups=0(root) /"),
    ("7:8", ["extra", "99"], "uid=7 gid=8 groups=8,55(extra),99 /"),
])
async def test_user(lab: Lab, user: str, add: list[str], expected: str) -> None:
    code, output = await lab.run(
        "sh", "-c", "echo $(id) $HOME", extra={"user": user, "group_add": add})
    assert (code, output.strip()) == (0, expected)


@pytest.mark.parametrize(("user", "add", "words"), [
    ("carol", [], "unable to find user carol: no matching entries in passwd file"),
    ("bob:nogroup", [], "unable to find group nogroup: no matching entries in group file"),
    ("bob", ["nogroup"], "Unable to find group nogroup: no matching entries in group file"),
    ("4294967295", [], "uids and gids must be in range 0-2147483647"),
])
async def test_unknown_user(lab: Lab, user: str, add: list[str], words: str) -> None:
    with pytest.raises(SystemFailureError) as caught:
        await lab.start("true", extra={"user": user, "group_add": add})
    assert str(caught.value) == words


async def test_user_database_that_is_a_fifo_does_not_block(lab: Lab) -> None:
    os.unlink(lab.base / "lower/etc/passwd")
    os.mkfifo(lab.base / "lower/etc/passwd")
    code, output = await lab.run("sh", "-c", "echo $HOME", extra={"user": "7"})
    assert (code, output) == (0, "/\n")


async def test_home_of_the_environment_wins(lab: Lab) -> None:
    _, output = await lab.run("sh", "-c", "echo $HOME", process_env=["PATH=/bin", "HOME=/x"])
    assert output == "/x\n"


async def test_working_directory_is_made_and_owned_by_root(lab: Lab) -> None:
    code, output = await lab.run("sh", "-c", "pwd; stat -c '%u %g %a' .", extra={"user": "bob"},
                                 process_cwd="/made/for/me")
    assert (code, output) == (0, "/made/for/me\n0 0 755\n")


async def test_working_directory_that_is_a_file(lab: Lab) -> None:
    with pytest.raises(SystemFailureError) as caught:
        await lab.start("true", process_cwd="/etc/file")
    assert str(caught.value) == "Cannot mkdir: /etc/file is not a directory"


async def test_capabilities_of_root_and_of_a_user(lab: Lab) -> None:
    show = ("sh", "-c", "grep -E 'Cap|NoNew' /proc/self/status")
    _, root = await lab.run(*show)
    _, user = await lab.run(*show, extra={"user": "bob"}, process_no_new_privileges=True)
    assert root.split() == [
        "CapInh:", "0" * 16, "CapPrm:", "00000000a80425fb", "CapEff:", "00000000a80425fb",
        "CapBnd:", "00000000a80425fb", "CapAmb:", "0" * 16, "NoNewPrivs:", "0"]
    assert user.split() == [
        "CapInh:", "0" * 16, "CapPrm:", "0" * 16, "CapEff:", "0" * 16,
        "CapBnd:", "00000000a80425fb", "CapAmb:", "0" * 16, "NoNewPrivs:", "1"]


async def test_ambient_capabilities_reach_a_user(lab: Lab) -> None:
    names = ["CAP_NET_BIND_SERVICE"]
    _, output = await lab.run(
        "grep", "Cap", "/proc/self/status", extra={"user": "bob"},
        process_capabilities=oci.Capabilities(bounding=names, effective=names, permitted=names,
                                              inheritable=names, ambient=names))
    assert [line.split()[1] for line in output.splitlines()] == ["0000000000000400"] * 5


async def test_rlimits(lab: Lab) -> None:
    code, output = await lab.run("sh", "-c", "ulimit -n; ulimit -Hn", process_rlimits=[
        oci.Rlimit(type="RLIMIT_NOFILE", soft=100, hard=200)])
    assert (code, output) == (0, "100\n200\n")


@pytest.mark.needs("limits")
async def test_rlimit_that_may_not_be_raised(lab: Lab) -> None:
    with pytest.raises(StartError) as caught:
        await lab.start("true", process_rlimits=[
            oci.Rlimit(type="RLIMIT_NOFILE", soft=99999999, hard=99999999)])
    assert ("error setting rlimits for ready process: error setting rlimit type 7: "
            "operation not permitted") in str(caught.value)
    assert caught.value.exit_code == 128


async def test_oom_score_and_umask(lab: Lab) -> None:
    _, output = await lab.run("sh", "-c", "cat /proc/self/oom_score_adj; umask",
                              process_oom_score_adj=300)
    assert output == "300\n0022\n"


async def test_signals_are_the_programs_own(lab: Lab) -> None:
    """Nothing that Python or the shim ignores or blocks reaches the program."""
    _, output = await lab.run("grep", "-E", "SigBlk|SigIgn", "/proc/self/status")
    assert [line.split()[1] for line in output.splitlines()] == ["0" * 16] * 2


async def test_no_descriptor_leaks_into_the_container(lab: Lab) -> None:
    _, output = await lab.run("sh", "-c", "exec ls /proc/self/fd")
    assert output.split() == ["0", "1", "2", "3"]
    _, links = await lab.run("readlink", "/proc/self/fd/0")
    assert links == "/dev/null\n"


@pytest.mark.needs("cgroup1")
async def test_oom_kill_is_noticed(lab: Lab) -> None:
    limit = 16 * 1024 * 1024
    shim = await lab.start(
        "sh", "-c", "a=x; while true; do a=$a$a; done",
        linux_resources=oci.LinuxResources(
            memory=oci.MemoryResources(limit=limit), devices=[]))
    ended = await asyncio.wait_for(shim.exited, 20)
    assert (ended.exit_code, ended.oom_killed) == (137, True)


@pytest.mark.parametrize("init", ["", "/usr/bin/tini-static"])
async def test_init_reaps_and_forwards(lab: Lab, init: str) -> None:
    """``--init``: process 1 is the init, SIGTERM ends a program without a handler."""
    if init and not os.path.exists(init):
        init = "/usr/bin/tini"
    code, output = await lab.run(
        "sh", "-c", "echo $$; (sleep 0.01 &); sleep 0.1; cat /proc/[0-9]*/stat | grep -c ') Z'; exit 9",
        extra={"init": init})
    assert code == 9
    first, zombies = output.split()
    assert (int(first) > 1, zombies) == (True, "0")
    ours, theirs = socket.socketpair()
    with ours:
        shim = await lab.start(
            "sh", "-c", "echo up; exec sleep 100", extra={"init": init}, clients=[theirs],
            attach=[messages.Attach(stream_id=1, stdout=True, mux=False)])
        # tini ignores what comes before it has blocked its signals, as every process 1 does.
        await read_until(ours, b"up")
    shim.kill(signal.SIGTERM)
    ended = await asyncio.wait_for(shim.exited, 5)
    assert ended.exit_code == 143


async def test_host_namespaces(lab: Lab) -> None:
    kinds = ("uts", "ipc", "net", "pid")
    own = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in kinds}
    _, output = await lab.run(
        "sh", "-c", " && ".join(f"readlink /proc/self/ns/{kind}" for kind in kinds),
        linux_namespaces=[oci.Namespace(type="mount")], hostname="")
    assert output.split() == list(own.values())
    _, output = await lab.run(
        "sh", "-c", " && ".join(f"readlink /proc/self/ns/{kind}" for kind in kinds))
    assert not set(output.split()) & set(own.values())


async def test_container_dies_with_everything_in_a_host_pid_namespace(lab: Lab) -> None:
    kinds = [oci.Namespace(type=kind) for kind in ("mount", "network")]
    code, output = await lab.run("sh", "-c", "sleep 1000 & echo $!", linux_namespaces=kinds,
                                 hostname="")
    assert code == 0
    for _ in range(100):
        if not os.path.exists(f"/proc/{int(output)}"):
            return
        await asyncio.sleep(0.02)
    pytest.fail("the background process outlived its container")


async def test_joins_another_containers_namespaces(lab: Lab) -> None:
    first = await lab.start("sleep", "100")
    joined = [oci.Namespace(type="mount"), *(
        oci.Namespace(type=kind, path=f"/proc/{first.pid}/ns/{name}")
        for kind, name in (("pid", "pid"), ("ipc", "ipc"), ("network", "net"), ("uts", "uts")))]
    code, output = await lab.run("sh", "-c", "hostname; ps | grep -c 'sleep 100'",
                                 linux_namespaces=joined, hostname="")
    assert (code, output.split()[0]) == (0, "box")
    assert int(output.split()[1]) >= 1
    first.kill(signal.SIGKILL)
    await first.gone


async def test_sysctl(lab: Lab) -> None:
    code, output = await lab.run("cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start",
                                 linux_sysctl={"net.ipv4.ip_unprivileged_port_start": "0"})
    assert (code, output) == (0, "0\n")
    with pytest.raises(InvalidCommandError) as caught:
        await lab.start("true", linux_sysctl={"net.nothing.here": "1"})
    assert "open /proc/sys/net/nothing/here: no such file or directory" in str(caught.value)


async def test_apparmor_profile_without_apparmor(lab: Lab) -> None:
    if os.path.exists("/sys/module/apparmor/parameters/enabled"):
        pytest.skip("this kernel has AppArmor")
    with pytest.raises(StartError, match='apparmor profile "x" is set but apparmor is not enabled'):
        await lab.start("true", process_apparmor_profile="x")


async def test_own_init_cannot_be_looked_into(lab: Lab) -> None:
    """Its executable is the host's interpreter, which the container's root must not reach."""
    code, output = await lab.run("sh", "-c", "exec 2>&1; readlink /proc/1/exe; cat /proc/1/environ; "
                                 "ls /proc/1/fd; ls /proc/1/root", extra={"init": ""})
    assert code == 1
    assert "python" not in output
    assert output.count("Permission denied") == 2
