"""CDI devices in containers and in builds, through docker's and Pallet's own command lines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import Palletd, assert_clean, pallet_command
from tests.support.engines import load_images, not_on_dockerd
from tests.support.plugins import with_plugins

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "buildx", "docker_cli")

KIND = "vendor.com/thing"


def hook(name: str, script: str, **more: object) -> dict[str, object]:
    return {"hookName": name, "path": "/bin/sh", "args": ["sh", "-c", script], **more}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of two kinds, and what their hooks write."""
    found = tmp_path_factory.mktemp("cdi")
    given = {
        "full": {"env": ["DEVICE=full", "PATH=/bin"], "additionalGids": [77],
                 "deviceNodes": [{"path": "/dev/thing", "hostPath": "/dev/loop-control", "uid": 5, "permissions": "r"}],
                 "mounts": [{"hostPath": str(found / "shared"), "containerPath": "/shared", "options": ["ro"]}],
                 "hooks": [hook("createContainer", f"cat > {found}/state; cd dev && chmod 0640 thing; echo made > ../made")]},
        "failing": {"hooks": [hook("createContainer", "echo out; echo err >&2; exit 3")]},
        "slow": {"hooks": [hook("createContainer", "exec sleep 60", timeout=1)]},
        "last": {"hooks": [hook("startContainer", "echo started > /started")]},
        "elsewhere": {"hooks": [hook("poststop", "true")]},
    }
    (found / "shared").mkdir()
    (found / "shared/file").write_text("shared\n")
    (found / "thing.json").write_text(json.dumps({
        "cdiVersion": "0.7.0", "kind": KIND, "containerEdits": {"env": ["COMMON=1"]},
        "devices": [{"name": name, "containerEdits": edits} for name, edits in given.items()]}))
    (found / "free.yaml").write_text(
        "cdiVersion: 0.6.0\nkind: free.com/thing\nannotations:\n  org.mobyproject.buildkit.device.autoallow: true\n"
        "devices:\n- name: one\n  annotations:\n    org.mobyproject.buildkit.device.class: fast\n"
        "  containerEdits:\n    env: [FREE=1]\n")
    (found / "broken.json").write_text("{}")
    return found


@pytest.fixture(scope="module")
def daemon(engine: Daemon, directory: Path) -> Iterator[Daemon]:
    not_on_dockerd(engine, "it is 20.10 and knows no CDI")
    made = Palletd(flags=["--cdi-spec-dir", str(directory)])
    made.start()
    load_images(made)
    yield made
    assert_clean([made])


@pytest.fixture(params=["docker", "pallet"])
def cli(request: pytest.FixtureRequest, daemon: Daemon) -> DockerCli:
    return daemon.cli() if request.param == "docker" else daemon.cli(pallet_command())


def test_a_container_gets_all_of_a_device(cli: DockerCli, directory: Path) -> None:
    script = ("id -G; stat -c '%u %a %t,%T' /dev/thing; (: < /dev/thing) && echo readable; (: > /dev/thing) || echo refused; "
              "cat /shared/file /made; touch /shared/x || echo readonly; echo $DEVICE $COMMON $PATH")
    found = cli.ok("run", "--rm", "--network", "none", "--device", f"{KIND}=full", "busybox", "/bin/sh", "-c", script)
    lines = found.splitlines()
    assert lines[0].split()[-1] == "77"
    assert [line for line in lines[1:] if "can't create" not in line and "Read-only" not in line] == [
        "5 640 a,ed", "readable", "refused", "shared", "made", "readonly", "full 1 /bin"]
    state = json.loads((directory / "state").read_text())
    assert state["status"] == "creating"
    assert state["pid"] == 1


@pytest.mark.parametrize(("name", "problem"), [
    ("absent", f"CDI device injection failed: unresolvable CDI devices {KIND}=absent"),
    ("failing", "error during container init: error running hook #0: error running hook: exit status 3, "
                "stdout: out, stderr: err"),
    ("slow", "error during container init: error running hook #0: hook ran past specified timeout of 1.0s"),
    ("elsewhere", "hook /bin/sh: poststop hooks need a runtime program such as runc")])
def test_what_fails_says_why(daemon: Daemon, name: str, problem: str) -> None:
    failed = daemon.cli().run("run", "--rm", "--network", "none", "--device", f"{KIND}={name}", "busybox", "true")
    assert problem in failed.err
    assert failed.code == (127 if "no such file" in problem else 125)


def test_a_hook_in_the_container(daemon: Daemon) -> None:
    assert daemon.cli().ok("run", "--rm", "--network", "none", "--device", f"{KIND}=last", "busybox",
                           "cat", "/started") == "started"


def test_what_there_is(daemon: Daemon, directory: Path) -> None:
    info = daemon.api.get("/info")
    assert info["CDISpecDirs"] == [str(directory)]
    assert [device["ID"] for device in info["DiscoveredDevices"]] == [
        "free.com/thing=one", *(f"{KIND}={name}" for name in ("elsewhere", "failing", "full", "last", "slow"))]
    assert {device["Source"] for device in info["DiscoveredDevices"]} == {"cdi"}
    assert any(str(directory / "broken.json") in warning for warning in info["Warnings"])
    assert "DiscoveredDevices" not in daemon.api.get("/v1.49/info")
    shown = with_plugins(daemon).ok("buildx", "inspect")
    assert "free.com/thing=one\n Automatically allowed: true" in shown
    assert f"{KIND}=full\n Automatically allowed: false" in shown


@pytest.mark.parametrize("own", [False, True], ids=["buildx", "pallet"])
def test_builds(daemon: Daemon, tmp_path: Path, *, own: bool) -> None:
    """dockerfile.tsv "RUN flag --device"; the entitlement is BuildKit's."""
    build = (daemon.cli(pallet_command()), "build") if own else (with_plugins(daemon), "buildx", "build")

    def run(step: str, *args: str) -> str:
        (tmp_path / "Dockerfile").write_text(f"FROM busybox\n{step}\n")
        done = build[0].run(*build[1:], "--no-cache", "--progress", "plain", *args, str(tmp_path))
        return done.out + done.err if not done.code else f"failed: {done.err}"

    full = f"RUN --device={KIND}=full,required /bin/id -G; echo $DEVICE $COMMON; ls /shared"
    refused = run(full)
    assert refused.startswith("failed")
    assert f"failed to load LLB: device {KIND}=full is requested by the build but not allowed" in refused
    for allow in ("device", f"device={KIND}=full"):
        shown = run(full, "--allow", allow)
        assert " full 1\n" in shown
        assert " 77\n" in shown
    assert " alias 1\n" in run("RUN --device=mine,required echo alias $COMMON", "--allow", f"device={KIND}=last,alias=mine")
    assert " free 1\n" in run("RUN --device=free.com/thing echo free $FREE")
    assert " class 1\n" in run("RUN --device=fast,required echo class $FREE")
    assert " without\n" in run("RUN --device=absent.com/thing=1 echo without")
    absent = run("RUN --device=absent.com/thing=1,required true", "--allow", "device")
    assert 'failed to load LLB: required device "absent.com/thing=1" is not registered' in absent
