"""``pallet build`` end to end: what travels, what comes out, what is shown, what is left."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.support import leaks
from tests.support.daemon import pallet_command
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli
    from tests.support.registry import Registry

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli")

BASE = "FROM busybox\n"


def write(context: Path, dockerfile: str, **files: str) -> str:
    """Write a context; ``__`` in a name is a slash, ``DOT`` a dot."""
    (context / "Dockerfile").write_text(dockerfile)
    for name, text in files.items():
        path = context / name.replace("__", "/").replace("DOT", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(context)


def test_only_what_changed_travels_and_runs(pallet_cli: DockerCli, context: Path) -> None:
    where = write(context, BASE + "COPY a /a\nRUN cat /a\nCOPY b /b\nRUN cat /b\n", a="A" * 5000, b="B")
    first = pallet_cli.run("build", "-t", "own:1", where)
    assert first.code == 0, first.err
    assert re.search(r"transferring context: \d+(\.\d+)?kB", first.err)
    again = pallet_cli.run("build", "-t", "own:1", where)
    assert again.err.count("CACHED") == 5, again.err
    assert re.search(r"transferring context: done", again.err)
    (context / "b").write_text("C")
    third = pallet_cli.run("build", "-t", "own:1", where)
    assert third.err.count("CACHED") == 3, third.err
    assert re.search(r"transferring context: \d+B ", third.err)
    assert " C\n" in third.err
    assert pallet_cli.ok("run", "--rm", "own:1", "cat", "/b") == "C"


def test_files_are_shared_between_versions_but_not_within_one(pallet_cli: DockerCli, context: Path) -> None:
    where = write(context, BASE + "COPY a /zero\nCOPY --chown=1 . /own\nCOPY . /one\nCOPY . /two\n",
                  a="a", b="b")
    look = "stat -c %h /one/a /two/a; stat -c %d:%i /one/a /two/a | uniq | wc -l; cat /one/b /two/b"
    pallet_cli.run("build", "-q", "-t", "own:1", where, check=True)
    (context / "b").write_text("B")
    pallet_cli.run("build", "-q", "-t", "own:2", where, check=True)
    seen = [pallet_cli.run("run", "--rm", f"own:{tag}", "sh", "-c", look, check=True).out.split() for tag in (1, 2)]
    # In the tree that is kept, and in both versions of one of the two layers.
    assert [sorted(lines[:2]) for lines in seen] == [["1", "3"], ["1", "3"]]
    assert [lines[2:] for lines in seen] == [["2", "bb"], ["2", "BB"]]


def test_ids_and_metadata_are_written(pallet_cli: DockerCli, context: Path, tmp_path: Path) -> None:
    where = write(context, BASE + "LABEL a=b\n")
    image_id = pallet_cli.ok("build", "-q", "-t", "own:meta", "--iidfile", str(tmp_path / "iid"), "--metadata-file",
                             str(tmp_path / "meta"), "--label", "c=d", where)
    assert (tmp_path / "iid").read_text() == image_id
    found = json.loads((tmp_path / "meta").read_text())
    assert found["image.name"] == "docker.io/library/own:meta"
    assert found["containerimage.config.digest"] == image_id
    assert found["containerimage.descriptor"]["digest"] == found["containerimage.digest"]
    assert pallet_cli.inspect("own:meta")["Config"]["Labels"] == {"a": "b", "c": "d"}


def test_outputs(pallet_cli: DockerCli, context: Path, tmp_path: Path) -> None:
    where = write(context, BASE + "RUN mkdir /d && echo hi > /d/f && chmod 600 /d/f && ln -s f /d/l\nFROM scratch\n"
                  "COPY --from=0 /d /d\n")
    for kind, dest in (("local", "dir"), ("tar", "root.tar"), ("oci", "oci.tar"), ("docker", "docker.tar")):
        done = pallet_cli.run("build", "-t", "own:out", "-o", f"type={kind},dest={tmp_path / dest}", where)
        assert done.code == 0, done.err
    assert (tmp_path / "dir/d/f").read_text() == "hi\n"
    assert (tmp_path / "dir/d/f").stat().st_mode & 0o7777 == 0o600
    assert os.readlink(tmp_path / "dir/d/l") == "f"
    with tarfile.open(tmp_path / "root.tar") as archive:
        assert {name.strip("./") for name in archive.getnames()} >= {"d", "d/f", "d/l"}
    pallet_cli.run("rmi", "own:out")
    assert "Loaded image: own:out" in pallet_cli.ok("load", "-i", str(tmp_path / "docker.tar"))
    pallet_cli.ok("rmi", "own:out")
    assert "Loaded image: own:out" in pallet_cli.ok("load", "-i", str(tmp_path / "oci.tar"))
    piped = pallet_cli.run("build", "-o", "-", where)
    assert piped.code == 0
    assert "hi\n" in piped.out


def test_several_outputs_at_once(pallet_cli: DockerCli, context: Path, tmp_path: Path) -> None:
    where = write(context, "FROM scratch\nCOPY a /a\n", a="1")
    pallet_cli.ok("build", "-t", "own:both", "-o", f"type=local,dest={tmp_path / 'x'}", "-o", "type=image", where)
    assert (tmp_path / "x/a").read_text() == "1"
    assert pallet_cli.inspect("own:both")


def test_platforms_go_into_one_index(pallet_cli: DockerCli, context: Path, tmp_path: Path) -> None:
    where = write(context, "FROM scratch\nARG TARGETARCH\nCOPY ${TARGETARCH} /a\n", amd64="x", arm64="y")
    archive = tmp_path / "multi.tar"
    pallet_cli.ok("build", "--platform", "linux/amd64,linux/arm64", "-t", "own:multi", "-o",
                  f"type=oci,dest={archive}", where)
    with tarfile.open(archive) as found:
        def document(name: str) -> dict[str, object]:
            member = found.extractfile(name)
            assert member is not None
            return dict(json.load(member))
        top = document("index.json")["manifests"][0]["digest"]  # type: ignore[index]
        index = document(f"blobs/sha256/{top.partition(':')[2]}")
    assert [entry["platform"]["architecture"] for entry in index["manifests"]] == [  # type: ignore[attr-defined]
        "amd64", "arm64"]
    pallet_cli.ok("build", "--platform", "linux/amd64,linux/arm64", "-t", "own:multi", where)
    assert pallet_cli.inspect("own:multi")["Architecture"] == "amd64"


def test_attestations_lie_beside_the_image(pallet_cli: DockerCli, context: Path, tmp_path: Path) -> None:
    status = "Package: some\nStatus: install ok installed\nVersion: 1.2-3\nArchitecture: amd64\n\n"
    where = write(context, "FROM scratch\nCOPY status /var/lib/dpkg/status\n", status=status)
    archive = tmp_path / "attested.tar"
    pallet_cli.ok("build", "--sbom=true", "--provenance=mode=max", "-t", "own:att", "-o",
                  f"type=oci,dest={archive}", where)
    statements = {}
    with tarfile.open(archive) as found:
        for member in found.getmembers():
            data = found.extractfile(member) if member.isfile() else None
            text = data.read() if data is not None else b""
            if text.startswith(b'{"_type"'):
                statement = json.loads(text)
                statements[statement["predicateType"]] = statement["predicate"]
    assert sorted(statements) == ["https://slsa.dev/provenance/v0.2", "https://spdx.dev/Document"]
    packages = statements["https://spdx.dev/Document"]["packages"]
    assert "pkg:deb/debian/some@1.2-3?arch=amd64" in [
        reference["referenceLocator"] for package in packages for reference in package.get("externalRefs", ())]


@pytest.mark.needs("registry")
def test_attestations_are_files_of_a_directory_and_of_a_tar(
        pallet_cli: DockerCli, context: Path, tmp_path: Path) -> None:
    """Of each platform; a file of their name makes room, a directory does not."""
    where = write(context, "FROM scratch\nCOPY a /x/a\nCOPY a /sbom.spdx.json\n", a="1")
    pallet_cli.ok("build", "--sbom=true", "--provenance=mode=max", "-o", f"type=local,dest={tmp_path / 'one'}",
                  "-o", f"type=tar,attestation-prefix=my-,dest={tmp_path / 'one.tar'}", where)
    subject = {"sha256": hashlib.sha256(b"1").hexdigest()}
    for name, kind in (("provenance.json", "https://slsa.dev/provenance/v0.2"),
                       ("sbom.spdx.json", "https://spdx.dev/Document")):
        statement = json.loads((tmp_path / "one" / name).read_text())
        assert statement["predicateType"] == kind
        assert statement["subject"] == [{"name": "sbom.spdx.json", "digest": subject}, {"name": "x/a", "digest": subject}]
    with tarfile.open(tmp_path / "one.tar") as archive:
        modes = {member.name.strip("./"): member.mode for member in archive if member.isfile()}
    assert modes.keys() == {"x/a", "sbom.spdx.json", "my-sbom.spdx.json", "my-provenance.json"}
    assert modes["my-provenance.json"] == 0o600
    platforms = ("--platform", "linux/amd64,linux/arm64")
    pallet_cli.ok("build", *platforms, "--provenance=mode=min", "-o", f"type=local,dest={tmp_path / 'two'}", where)
    for platform in ("linux/amd64", "linux/arm64"):
        text = (tmp_path / "two" / platform.replace("/", "_") / "provenance.json").read_text()
        assert json.loads(text)["predicate"]["invocation"]["environment"]["platform"] == platform
    for names, text in (("att/", "invalid attestation path name att/provenance.json"),
                        ("x", "cannot overwrite directory xprovenance.json with an attestation")):
        write(context, "FROM scratch\nCOPY a /xprovenance.json/a\n")
        done = pallet_cli.run("build", "--provenance=mode=min", "-o",
                              f"type=local,attestation-prefix={names},dest={tmp_path / 'bad'}", where)
        assert done.code == 1
        assert text in done.err


def test_pushes(pallet_cli: DockerCli, context: Path, registry: Registry) -> None:
    where = write(context, BASE + "RUN echo hi > /f\n")
    name = f"{registry.address}/own/pushed:1"
    pallet_cli.ok("build", "--push", "-t", name, where)
    pallet_cli.ok("rmi", "-f", name)
    pallet_cli.ok("pull", name)
    assert pallet_cli.ok("run", "--rm", name, "cat", "/f") == "hi"
    where = write(context, "FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /${TARGETARCH}\n")
    name = f"{registry.address}/own/multi:1"
    pallet_cli.ok("build", "--push", "--platform", "linux/amd64,linux/arm64", "--provenance", "mode=max", "--sbom",
                  "true", "-t", name, where)
    found = json.loads(pallet_cli.ok("manifest", "inspect", "--insecure", name))["manifests"]
    assert [entry["platform"]["architecture"] for entry in found] == ["amd64", "arm64", "unknown", "unknown"]
    one = f"{name.rpartition(':')[0]}@{found[0]['digest']}"
    image = json.loads(pallet_cli.ok("manifest", "inspect", "--insecure", one))
    assert [layer["mediaType"] for layer in image["layers"]] == ["application/vnd.oci.image.layer.v1.tar+gzip"]


def test_squash_and_rewritten_times(pallet_cli: DockerCli, context: Path) -> None:
    where = write(context, BASE + "RUN touch /a\nRUN rm /a; touch /b; rm /bin/ar\n")
    pallet_cli.ok("build", "--squash", "-t", "own:squash", where)
    base, squashed = (pallet_cli.inspect(name)["RootFS"]["Layers"] for name in ("busybox", "own:squash"))
    assert squashed[:-1] == base
    assert pallet_cli.run("run", "--rm", "own:squash", "test", "-e", "/a").code == 1
    assert pallet_cli.run("run", "--rm", "own:squash", "test", "-e", "/bin/ar").code == 1
    pallet_cli.ok("run", "--rm", "own:squash", "test", "-e", "/b")
    pallet_cli.env["SOURCE_DATE_EPOCH"] = "1000000"
    ids = {pallet_cli.ok("build", "-q", "--no-cache", "-o", "type=image,rewrite-timestamp=true", "-t", "own:epoch", where)
           for _ in range(2)}
    assert len(ids) == 1, "the same sources make the same image"
    assert pallet_cli.ok("run", "--rm", "own:epoch", "stat", "-c", "%Y", "/b") == "1000000"


def test_secrets_come_and_stay_out(pallet_cli: DockerCli, context: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush")
    where = write(context, BASE + "RUN --mount=type=secret,id=s cp /run/secrets/s /tmp/x && wc -c < /tmp/x && rm /tmp/x\n"
                  "RUN test ! -s /run/secrets/s\n")
    done = pallet_cli.run("build", "-t", "own:secret", "--secret", f"id=s,src={tmp_path / 'secret'}", where)
    assert done.code == 0, done.err
    assert " 4\n" in done.err


def test_an_agent_is_there_in_a_step(pallet_cli: DockerCli, context: Path, tmp_path: Path) -> None:
    where = write(context, BASE + "RUN --mount=type=ssh,required test -S $SSH_AUTH_SOCK\n")
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / "agent"))
        agent.listen()
        done = pallet_cli.run("build", "--ssh", f"default={tmp_path / 'agent'}", where)
    assert done.code == 0, done.err
    refused = pallet_cli.run("build", "--no-cache", where)
    assert "unset ssh forward key default" in refused.err


def test_caches_lie_in_a_directory(pallet_cli: DockerCli, context: Path, tmp_path: Path) -> None:
    where = write(context, BASE + "RUN echo kept-$((40+2)) > /kept\n")
    done = pallet_cli.run("build", "-t", "own:cache", "--cache-to", f"type=local,dest={tmp_path / 'cache'},mode=max", where)
    assert done.code == 0, done.err
    pallet_cli.ok("rmi", "own:cache")
    pallet_cli.ok("builder", "prune", "-af")
    done = pallet_cli.run("build", "--cache-from", f"type=local,src={tmp_path / 'cache'}", where)
    assert done.err.count("CACHED") == 2, done.err


def test_errors_point_at_the_line(pallet_cli: DockerCli, context: Path) -> None:
    done = pallet_cli.run("build", write(context, BASE + "ENV A=b\nRUN echo before; exit 3\n"))
    assert done.code == 1
    assert done.err.endswith(
        "--------------------\n   1 |     FROM busybox\n   2 |     ENV A=b\n   3 | >>> RUN echo before; exit 3\n   4 |     \n"
        "--------------------\nERROR: failed to build: failed to solve: process \"/bin/sh -c echo before; exit 3\" did not "
        "complete successfully: exit code: 3\n"), done.err
    done = pallet_cli.run("build", write(context, BASE + "RUX x\n"))
    assert "Dockerfile:2\n" in done.err
    assert "unknown instruction: RUX" in done.err
    done = pallet_cli.run("build", str(context / "none"))
    assert (done.code, done.err) == (
        1, f'unable to prepare context: path "{context}/none" not found\n')


def test_check_fails_where_there_are_warnings(pallet_cli: DockerCli, context: Path) -> None:
    assert pallet_cli.run("build", "--check", write(context, BASE + "RUN true\n")).code == 0
    done = pallet_cli.run("build", "--check", write(context, "from busybox\nRUN true\nENV a b\n"))
    assert done.code == 1
    assert "LegacyKeyValueFormat" in done.out
    assert "build" in pallet_cli.ok("build", "--call=targets", write(context, BASE.replace("\n", " AS build\n")))


def test_a_shell_opens_in_the_failed_step(pallet_cli: DockerCli, context: Path, engine: Daemon) -> None:
    where = write(context, BASE + "ENV Q=r\nWORKDIR /w\nRUN touch /made; exit 3\n")
    done = pallet_cli.run("build", "--debug-shell", where, stdin="ls /made; echo $Q; pwd\n")
    assert done.code == 1
    assert done.out == "/made\nr\n/w\n"
    leaks.assert_gone(lambda: set(os.listdir(engine.data_root / "snapshots/c")), "snapshots of steps")


def test_piped_contexts(pallet_cli: DockerCli, context: Path) -> None:
    assert pallet_cli.run("build", "-", stdin=BASE + "RUN echo piped\n").code == 0
    write(context, BASE + "COPY a /a\n", a="1")
    archive = context.parent / "context.tar"
    with tarfile.open(archive, "w:gz") as found:
        found.add(context, ".")
    done = pallet_cli.run("build", "-t", "own:piped", "-", stdin=archive.read_bytes())
    assert done.code == 0, done.err
    assert pallet_cli.ok("run", "--rm", "own:piped", "cat", "/a") == "1"


def test_ignored_files_do_not_travel(pallet_cli: DockerCli, context: Path) -> None:
    where = write(context, BASE + "COPY . /c\nRUN find /c -type f | sort\n", keep="1", drop__a="1", drop__b="1",
                  DOTdockerignore="drop\n!drop/b\nDockerfile\n")
    done = pallet_cli.run("build", where)
    assert [line.split()[-1] for line in done.err.splitlines() if "/c/" in line and "find" not in line] == [
        "/c/.dockerignore", "/c/drop/b", "/c/keep"]


@pytest.mark.parametrize("dockerfile", ["COPY link/passwd /x\n", "COPY link /x\n", "ADD evil.tar /x/\n"])
def test_hostile_contexts_stay_inside(pallet_cli: DockerCli, context: Path, dockerfile: str) -> None:
    (context / "link").symlink_to("/etc")
    with tarfile.open(context / "evil.tar", "w") as archive:
        info = tarfile.TarInfo("../../../../escaped")
        archive.addfile(info)
        info = tarfile.TarInfo("l")
        info.type, info.linkname = tarfile.SYMTYPE, "/"
        archive.addfile(info)
        archive.addfile(tarfile.TarInfo("l/escaped"))
    done = pallet_cli.run("build", "-t", "own:hostile", write(context, BASE + dockerfile))
    if done.code == 0:
        seen = pallet_cli.run("run", "--rm", "own:hostile", "sh", "-c", "cat /x/passwd /x/etc/passwd /x/*/passwd").out
        assert "root:x:0:0:root:/root:/bin/bash" not in seen
    assert not os.path.lexists("/escaped")


def test_eight_builds_at_once_share_their_steps(pallet_cli: DockerCli, context: Path) -> None:
    where = write(context, BASE + "RUN --mount=type=cache,target=/c echo x >> /c/runs && sleep 0.5\nRUN true\n")
    running = [pallet_cli.start("build", "-t", f"own:at-once-{number}", where) for number in range(8)]
    ended = [(process.communicate(timeout=60), process.returncode) for process in running]
    assert [code for _, code in ended] == [0] * 8, ended
    (context / "Dockerfile").write_text(BASE + "RUN --mount=type=cache,target=/c cat /c/runs && rm /c/runs\n")
    done = pallet_cli.run("build", "--no-cache", where)
    assert len(re.findall(r"#\d+ [\d.]+ x\n", done.err)) == 1, done.err


def test_a_client_that_goes_away_stops_its_build(pallet_cli: DockerCli, context: Path, engine: Daemon) -> None:
    where = write(context, BASE + f"RUN echo begun-$((40+2)) && sleep {leaks.seconds(7)}\n")
    process = pallet_cli.start("build", where)
    assert process.stderr is not None
    for line in process.stderr:
        if "begun-42" in line:
            break
    process.send_signal(signal.SIGKILL)
    leaks.assert_gone(lambda: leaks.running("sleep", leaks.seconds(7)), "the step")
    leaks.assert_gone(lambda: set(os.listdir(engine.data_root / "snapshots/c")), "snapshots of steps")


def test_a_killed_daemon_leaves_a_clean_store_and_its_cache(
    fresh_palletd: Callable[..., Daemon], context: Path,
) -> None:
    daemon = fresh_palletd()
    cli = daemon.cli(pallet_command())
    where = write(context, BASE + f"COPY a /a\nRUN echo one\nRUN echo begun-$((40+2)) && sleep {leaks.seconds(8)}\n", a="1")
    process = cli.start("build", where)
    assert process.stderr is not None
    for line in process.stderr:
        if "begun-42" in line:
            break
    daemon.kill()
    cli.end_started()
    daemon.start()
    assert not os.listdir(daemon.data_root / "snapshots/c")
    assert not os.listdir(daemon.data_root / "snapshots/draft")
    write(context, BASE + "COPY a /a\nRUN echo one\n", a="1")
    done = cli.run("build", "-t", "own:after", where)
    assert done.code == 0, done.err
    assert done.err.count("CACHED") == 3, done.err
    eventually(lambda: cli.run("system", "check").code == 0, what="system check is clean")
