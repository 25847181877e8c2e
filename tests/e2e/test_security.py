"""Capabilities, seccomp, privileges, masks, devices, user namespaces of a container's processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.engines import not_on_dockerd
from tests.support.scratch import HOST_TOOLS, PYTHON

if TYPE_CHECKING:
    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "busybox")

WITHHELD = "runc asks for capabilities that this host withholds from everyone"
DEFAULT = 0x00000000A80425FB
NET_ADMIN, CHOWN, NET_RAW = 1 << 12, 1 << 0, 1 << 13


def capabilities(docker: DockerCli, *flags: str) -> dict[str, int]:
    out = docker.ok("run", "--rm", *flags, "busybox", "grep", "Cap", "/proc/self/status")
    return {line.split(":")[0]: int(line.split()[1], 16) for line in out.splitlines()}


def test_default_capabilities(docker: DockerCli) -> None:
    caps = capabilities(docker)
    assert {caps["CapEff"], caps["CapPrm"], caps["CapBnd"]} == {DEFAULT}
    assert {caps["CapInh"], caps["CapAmb"]} == {0}


def test_other_users_have_none(docker: DockerCli) -> None:
    caps = capabilities(docker, "--user", "app")
    assert (caps["CapEff"], caps["CapPrm"], caps["CapBnd"]) == (0, 0, DEFAULT)


def test_add_and_drop(docker: DockerCli) -> None:
    assert capabilities(docker, "--cap-add", "NET_ADMIN")["CapEff"] == DEFAULT | NET_ADMIN
    assert capabilities(docker, "--cap-drop", "chown")["CapEff"] == DEFAULT & ~CHOWN
    assert capabilities(docker, "--cap-drop", "ALL")["CapEff"] == 0
    only = capabilities(docker, "--cap-drop", "ALL", "--cap-add", "CAP_NET_RAW")
    assert only["CapEff"] == NET_RAW


def test_all_but_one(engine: Daemon, docker: DockerCli) -> None:
    not_on_dockerd(engine, WITHHELD)
    everything = capabilities(docker, "--cap-add", "ALL", "--cap-drop", "CHOWN")["CapEff"]
    assert everything & (NET_ADMIN | CHOWN) == NET_ADMIN


def test_unknown_capability(docker: DockerCli) -> None:
    result = docker.run("run", "--rm", "--cap-add", "NOPE", "busybox", "true")
    assert result.code == 125
    assert 'unknown capability: "CAP_NOPE"' in result.err


def seccomp_mode(docker: DockerCli, *flags: str) -> str:
    return docker.ok(
        "run", "--rm", *flags, "busybox", "grep", "Seccomp:", "/proc/self/status"
    ).split()[1]


def test_seccomp_is_on_by_default(docker: DockerCli) -> None:
    assert seccomp_mode(docker) == "2"
    assert seccomp_mode(docker, "--security-opt", "seccomp=unconfined") == "0"


def test_privileged_has_no_filter(engine: Daemon, docker: DockerCli) -> None:
    not_on_dockerd(engine, WITHHELD)
    assert seccomp_mode(docker, "--privileged") == "0"


def test_seccomp_refuses_what_docker_refuses(docker: DockerCli) -> None:
    script = (
        "import ctypes,errno;c=ctypes.CDLL(None,use_errno=True)\n"
        "for n in (272,165,250,248,321,246,175,101):\n"
        " r=c.syscall(n,0,0,0,0,0);print(n,errno.errorcode.get(ctypes.get_errno(),0) if r<0 else r)"
    )
    out = docker.ok("run", "--rm", *HOST_TOOLS, "busybox", PYTHON, "-c", script)
    found = dict(line.split() for line in out.splitlines())
    # unshare mount keyctl add_key bpf kexec_load init_module are refused; ptrace is allowed
    assert {found[n] for n in ("165", "250", "248", "321", "246", "175")} == {"EPERM"}


def test_own_seccomp_profile(docker: DockerCli, tmp_path: Path) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
    }
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(profile))
    result = docker.run(
        "run", "--rm", "--security-opt", f"seccomp={path}", "busybox", "mkdir", "/x"
    )
    assert result.code == 1
    assert "Operation not permitted" in result.err


def test_no_new_privileges(docker: DockerCli) -> None:
    read = ("busybox", "grep", "NoNewPrivs", "/proc/self/status")
    assert docker.ok("run", "--rm", *read).split()[1] == "0"
    flags = ("--security-opt", "no-new-privileges")
    assert docker.ok("run", "--rm", *flags, *read).split()[1] == "1"


def test_masked_paths_are_empty(docker: DockerCli) -> None:
    script = "wc -c < /proc/keys; wc -c < /proc/timer_list; ls -A /sys/firmware | wc -l"
    assert set(docker.ok("run", "--rm", "busybox", "sh", "-c", script).split()) == {"0"}


def test_kernel_settings_are_read_only(docker: DockerCli) -> None:
    script = (
        "echo 1 > /proc/sys/kernel/domainname; cd /sys/fs/cgroup; "
        "[ -d memory ] && mkdir memory/x || mkdir x"
    )
    result = docker.run("run", "--rm", "busybox", "sh", "-c", script)
    assert result.err.count("Read-only file system") in (2, 3)


def test_mount_is_refused(docker: DockerCli) -> None:
    result = docker.run("run", "--rm", "busybox", "mount", "-t", "tmpfs", "none", "/mnt")
    assert result.code != 0
    assert "permission denied" in result.err.lower()


def test_privileged_may_mount_and_sees_devices(engine: Daemon, docker: DockerCli) -> None:
    not_on_dockerd(engine, WITHHELD)
    script = "mkdir /m && mount -t tmpfs none /m && grep -c ' /m ' /proc/mounts; ls /dev/kmsg"
    assert docker.ok("run", "--rm", "--privileged", "busybox", "sh", "-c", script) == "1\n/dev/kmsg"


def test_default_devices(docker: DockerCli) -> None:
    out = docker.ok("run", "--rm", "busybox", "ls", "/dev").split()
    wanted = {"fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr",
              "stdin", "stdout", "tty", "urandom", "zero"}  # fmt: skip
    assert set(out) - {"core"} == wanted
    script = "head -c 4 /dev/zero | wc -c; echo x > /dev/null; echo x > /dev/full || echo full"
    assert docker.ok("run", "--rm", "busybox", "sh", "-c", script).split() == ["4", "full"]


def test_other_devices_are_refused(docker: DockerCli) -> None:
    script = "mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg"
    result = docker.run("run", "--rm", "busybox", "sh", "-c", script)
    assert "Operation not permitted" in result.err


def test_device_is_given(docker: DockerCli) -> None:
    flags = ("--device", "/dev/null:/dev/mine:rw")
    out = docker.ok(
        "run", "--rm", *flags, "busybox", "sh", "-c", "echo x > /dev/mine; ls -l /dev/mine"
    )
    assert out.startswith("crw")
    result = docker.run("run", "--rm", "--device", "/dev/none", "busybox", "true")
    assert result.code in (125, 127)
    assert "/dev/none" in result.err


def test_host_namespaces(docker: DockerCli) -> None:
    import os

    for kind in ("pid", "ipc", "uts"):
        flag = f"--{kind}=host"
        inside = docker.ok("run", "--rm", flag, "busybox", "readlink", f"/proc/self/ns/{kind}")
        assert inside == os.readlink(f"/proc/self/ns/{kind}"), kind
        private = docker.ok("run", "--rm", "busybox", "readlink", f"/proc/self/ns/{kind}")
        assert private != inside, kind


def test_namespaces_of_another_container(docker: DockerCli, name: str) -> None:
    docker.ok("run", "-d", "--ipc", "shareable", "--name", name, "busybox", "sleep", "600")
    for kind in ("pid", "ipc"):
        read = ("readlink", f"/proc/self/ns/{kind}")
        inside = docker.ok("run", "--rm", f"--{kind}=container:{name}", "busybox", *read)
        assert inside == docker.ok("exec", name, *read), kind


def test_sysctl(docker: DockerCli) -> None:
    flags = ("--sysctl", "net.ipv4.ip_forward=1", "--sysctl", "kernel.msgmax=10000")
    script = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax"
    assert docker.ok("run", "--rm", *flags, "busybox", "sh", "-c", script).split() == ["1", "10000"]


def test_low_ports_need_no_capability(docker: DockerCli) -> None:
    script = "httpd -f -p 80 & sleep 0.2; wget -qO- http://127.0.0.1/etc/notexec"
    out = docker.run("run", "--rm", "--user", "app", "--cap-drop", "ALL", "-w", "/", "busybox", "sh",
                     "-c", script)  # fmt: skip
    assert out.text == "data"


@pytest.mark.parametrize(("flags", "words"), [
    (["--net", "host", "--sysctl", "net.ipv4.ip_default_ttl=77"],
     'sysctl "net.ipv4.ip_default_ttl" not allowed in host network namespace'),
    (["--privileged", "--ipc", "host", "--sysctl", "kernel.msgmax=77"],
     'sysctl "kernel.msgmax" is not allowed in the hosts ipc namespace')])
def test_a_container_does_not_set_the_hosts_parameters(docker: DockerCli, flags: list[str], words: str) -> None:
    path = Path("/proc/sys", flags[-1].partition("=")[0].replace(".", "/"))
    before = path.read_text()
    result = docker.run("run", "--rm", *flags, "busybox", "true")
    assert result.code == 125
    assert words in result.err
    assert path.read_text() == before


def test_nor_in_another_ones_host_network(docker: DockerCli, name: str) -> None:
    docker.ok("run", "-d", "--name", name, "--net", "host", "busybox", "sleep", "60")
    result = docker.run("run", "--rm", "--net", f"container:{name}", "--sysctl", "net.ipv4.ip_default_ttl=77", "busybox", "true")
    assert "not allowed in host network namespace" in result.err
    assert docker.run("run", "--rm", "--net", f"container:{name}", "busybox", "true").code == 0
