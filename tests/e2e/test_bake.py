"""``pallet bake`` end to end: targets at the same time, results as contexts, Compose files, failures."""

from __future__ import annotations

import json
import os
import re
import signal
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.support import leaks

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli")

DEFINITION = """
variable "WORD" {
  default = "hello"
}
group "default" {
  targets = ["web", "other"]
}
target "lib" {
  context = "lib"
  args = { WORD = WORD }
}
target "web" {
  context = "web"
  contexts = { base = "target:lib" }
  tags = ["bake/web:1"]
}
target "other" {
  context = "web"
  contexts = { base = "target:lib" }
  dockerfile-inline = <<EOT
FROM base
COPY f /other
EOT
  tags = ["bake/other:1"]
  labels = { who = "other" }
}
target "top" {
  contexts = { below = "target:web" }
  context = "lib"
  dockerfile-inline = "FROM below\\nCOPY src /top\\nRUN --mount=type=secret,id=s cp /run/secrets/s /s\\n"
  secret = ["type=file,id=s,src=web/f"]
  tags = ["bake/top:1"]
}
target "bad" {
  context = "lib"
  dockerfile-inline = "FROM busybox\\nRUN exit 3\\n"
}
target "long" {
  context = "lib"
  dockerfile-inline = "FROM busybox\\nRUN echo begun-$((40+2)) && sleep 986\\n"
}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "lib").mkdir()
    (tmp_path / "web").mkdir()
    (tmp_path / "docker-bake.hcl").write_text(DEFINITION)
    (tmp_path / "lib/Dockerfile").write_text(
        "FROM busybox\nARG WORD\nENV LIB=yes\nCOPY src /src\n"
        "RUN echo $WORD > /word && cat /proc/sys/kernel/random/uuid > /id\n")
    (tmp_path / "lib/src").write_text("source\n")
    (tmp_path / "web/Dockerfile").write_text("FROM base\nCOPY f /f\nRUN test $LIB = yes && cat /word /src\n")
    (tmp_path / "web/f").write_text("file\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_targets_share_the_work_of_one_they_build_on(pallet_cli: DockerCli, project: Path) -> None:
    found = pallet_cli.run("bake", "--metadata-file", "meta.json", "--set", "lib.args.WORD=shared")
    assert found.code == 0, found.err
    assert re.search(r"^#\d+ \[web 1/\d\] COPY f /f$", found.err, re.MULTILINE)
    assert re.search(r"^#\d+ \[other 1/\d\] COPY f /other$", found.err, re.MULTILINE)
    assert "#1 [internal] load local bake definitions" in found.err
    ids = {pallet_cli.ok("run", "--rm", image, "cat", "/word", "/id", path) for image, path in (
        ("bake/web:1", "/f"), ("bake/other:1", "/other"))}
    assert len(ids) == 1  # the step below ran once
    assert ids.pop().startswith("shared\n")
    assert pallet_cli.inspect("bake/other:1")["Config"]["Labels"] == {"who": "other"}
    assert "LIB=yes" in pallet_cli.inspect("bake/other:1")["Config"]["Env"]
    meta = json.loads((project / "meta.json").read_text())
    assert set(meta) == {"lib", "web", "other"}
    assert meta["web"]["containerimage.config.digest"] == pallet_cli.inspect("bake/web:1")["Id"]


def test_results_of_results_and_their_contexts(pallet_cli: DockerCli, project: Path) -> None:
    found = pallet_cli.run("bake", "top", "--var", "WORD=deep")
    assert found.code == 0, found.err
    assert pallet_cli.ok("run", "--rm", "bake/top:1", "cat", "/word", "/src", "/f", "/top", "/s") == (
        "deep\nsource\nfile\nsource\nfile")
    (project / "lib/src").write_text("changed\n")
    assert pallet_cli.run("bake", "top", "--var", "WORD=deep").code == 0
    assert pallet_cli.ok("run", "--rm", "bake/top:1", "cat", "/src", "/top") == "changed\nchanged"


def test_a_failure_ends_the_others(pallet_cli: DockerCli, project: Path) -> None:
    found = pallet_cli.run("bake", "bad", "long")
    assert found.code == 1
    assert ">>> RUN exit 3" in found.err
    assert found.err.rstrip().endswith(
        'ERROR: target bad: failed to solve: process "/bin/sh -c exit 3" did not complete successfully: exit code: 3')
    assert pallet_cli.run("bake", "bad").err.rstrip().splitlines()[-1].startswith("ERROR: failed to solve: process")


def test_compose_file_and_outputs(pallet_cli: DockerCli, project: Path) -> None:
    (project / "compose.yaml").write_text(
        "services:\n  one:\n    image: bake/one:${TAG:-x}\n    build: {context: lib, args: {WORD: w}}\n"
        "  two:\n    build:\n      context: web\n      additional_contexts: {base: service:one}\n"
        '      x-bake: {output: ["type=local,dest=out"]}\n'
        "  none: {image: busybox}\n")
    found = pallet_cli.run("bake", "-f", "compose.yaml")
    assert found.code == 0, found.err
    assert (project / "out/f").read_text() == "file\n"
    assert (project / "out/word").read_text() == "w\n"
    assert pallet_cli.ok("run", "--rm", "bake/one:x", "cat", "/word") == "w"


def test_check_and_privileges(pallet_cli: DockerCli, project: Path) -> None:
    good = pallet_cli.run("bake", "--check")
    assert good.code == 0, good.err
    assert good.out.count("Check complete, no warnings found.") == 3
    (project / "bad.hcl").write_text('target "default" {\n  dockerfile-inline = "from busybox AS A\\nRUN true\\n"\n'
                                     '  entitlements = ["network.host"]\n  network = "host"\n}\n')
    refused = pallet_cli.run("bake", "-f", "bad.hcl")
    assert refused.code == 1
    assert refused.err.endswith("ERROR: additional privileges requested\n")
    allowed = pallet_cli.run("bake", "-f", "bad.hcl", "--allow", "network.host", "--set", "*.output=type=cacheonly")
    assert allowed.code == 0, allowed.err
    warned = pallet_cli.run("bake", "-f", "bad.hcl", "--allow", "network.host", "--check")
    assert warned.code == 1
    assert "StageNameCasing" in warned.out


def test_an_interrupt_ends_all_builds(pallet_cli: DockerCli, project: Path, engine: Daemon) -> None:
    (project / "two.hcl").write_text("".join(
        f'target "t{number}" {{\n  dockerfile-inline = "FROM busybox\\nRUN echo begun-$((40+{number})) && '
        f'sleep {leaks.seconds(number)}"\n}}\n' for number in (1, 2)))
    process = pallet_cli.start("bake", "-f", "two.hcl", "t1", "t2")
    assert process.stderr is not None
    begun: set[str] = set()
    for line in process.stderr:
        begun |= set(re.findall(r"begun-4\d", line))
        if len(begun) == 2:
            break
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    for number in (1, 2):
        leaks.assert_gone(partial(leaks.running, "sleep", leaks.seconds(number)), "the step")
    leaks.assert_gone(lambda: set(os.listdir(engine.data_root / "snapshots/c")), "snapshots of steps")
