"""Diagnosis, base image recipes, and how the embedded daemon is found."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from typing import TYPE_CHECKING

import pytest

from pallet.cli.commands.doctor import table
from pallet.cli.errors import CommandError
from pallet.cli.host import build, checks, embedded, recipes
from pallet.cli.host.probe import Host
from pallet.client.errors import ConnectionFailedError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A machine with nothing on it."""
    return Host(str(tmp_path))


def put(host: Host, path: str, text: str = "") -> None:
    full = host.root + path
    os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(full, "w", encoding="utf-8") as file:
        file.write(text)


def level(findings: list[checks.Finding], name: str) -> str:
    return next((one.level for one in findings if one.name == name), "absent")


@pytest.mark.parametrize(("release", "expected"), [
    ("6.1.0-1-amd64", "ok"), ("5.10.0", "note"), ("4.19.0", "fail"), ("", "fail"),
])
def test_kernel(host: Host, release: str, expected: str) -> None:
    put(host, "/proc/sys/kernel/osrelease", release)
    assert level(checks.kernel(host), "kernel") == expected


MOUNT = "30 20 0:1 / {} rw - {} none rw{}\n"


@pytest.mark.parametrize(("mounts", "layout", "lacking"), [
    ([("cgroup2", "/sys/fs/cgroup", "")], "v2", {"cgroup cpuset", "cgroup block io"}),
    ([("cgroup", "/a", ",memory"), ("cgroup", "/b", ",cpu,cpuset"), ("cgroup", "/c", ",pids"),
      ("cgroup", "/d", ",blkio"), ("cgroup", "/e", ",devices")], "v1", set()),
    ([("cgroup", "/a", ",memory"), ("cgroup2", "/u", "")], "v1 with v2 beside it (hybrid)",
     {"cgroup cpuset", "cgroup block io", "cgroup devices"}),
])
def test_cgroups(
    host: Host, mounts: list[tuple[str, str, str]], layout: str, lacking: set[str]
) -> None:
    put(host, "/proc/self/mountinfo", "".join(MOUNT.format(point, kind, options)
                                              for kind, point, options in mounts))
    for _, point, _ in (one for one in mounts if one[0] == "cgroup2"):
        put(host, f"{point}/cgroup.controllers", "memory cpu pids")
    put(host, "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
    findings = checks.cgroups(host)
    assert findings[0].found == layout
    assert {one.name for one in findings[1:]} == lacking


def test_no_cgroups_is_fatal(host: Host) -> None:
    assert level(checks.cgroups(host), "cgroups") == "fail"


def test_overlay(host: Host) -> None:
    assert level(checks.overlay(host), "overlay") == "warn"
    put(host, "/proc/filesystems", "nodev\toverlay\n\text4\n")
    put(host, "/proc/self/mountinfo", MOUNT.format("/", "ext4", ""))
    assert level(checks.overlay(host), "overlay") == "ok"
    put(host, "/proc/self/mountinfo",
        MOUNT.format("/", "ext4", "") + MOUNT.format("/var/lib", "nfs4", ""))
    assert checks.overlay(host)[0].found == "/var/lib/pallet is on nfs4"


@pytest.mark.parametrize(("known", "release", "expected"), [
    ("nodev\toverlay\n\terofs\n", "6.18.1", "ok"), ("\terofs\n", "6.12.0", "note"),
    ("\text4\n", "6.18.1", "note"),
])
def test_erofs(host: Host, known: str, release: str, expected: str) -> None:
    put(host, "/proc/filesystems", known)
    put(host, "/proc/sys/kernel/osrelease", release)
    assert level(checks.erofs(host), "erofs") == expected


def test_capabilities_by_bit(host: Host) -> None:
    put(host, "/proc/self/status", "Name:\tx\nCapEff:\t0000000000200001\n")
    assert host.capabilities() == {"CHOWN", "SYS_ADMIN"}


def test_namespaces_and_seccomp(host: Host) -> None:
    assert level(checks.namespaces(host), "namespaces") == "fail"
    for name in ("mnt", "pid", "net", "ipc", "uts", "user"):
        put(host, f"/proc/self/ns/{name}")
    put(host, "/proc/sys/user/max_user_namespaces", "0")
    findings = checks.namespaces(host)
    assert (findings[0].level, level(findings, "user namespaces")) == ("ok", "warn")
    assert level(checks.seccomp(host), "seccomp") == "warn"
    put(host, "/proc/sys/kernel/seccomp/actions_avail", "kill_process errno allow\n")
    assert level(checks.seccomp(host), "seccomp") == "ok"


def test_modules(host: Host) -> None:
    put(host, "/proc/sys/kernel/osrelease", "6.1")
    assert host.has_module("veth") is None
    put(host, "/lib/modules/6.1/modules.builtin", "kernel/drivers/net/veth.ko\n")
    assert host.has_module("veth") is True
    assert host.has_module("bridge") is False


def test_table_gives_the_verdict() -> None:
    good = checks.Finding("a", "ok", "x")
    bad = checks.Finding("bb", "fail", "y", "no containers", "mend it")
    assert table([good, bad]) == (
        "ok    a   x\nfail  bb  y\n          cost: no containers\n          fix: mend it\n\n"
        "Containers cannot run here until what is marked fail is mended.\n")
    assert "Everything that containers need is here." in table([good])


# -- recipes --------------------------------------------------------------------------------------

BOOKWORM = 'ID=debian\nVERSION_CODENAME=bookworm\n'


@pytest.mark.parametrize(("distribution", "tag", "suite", "slim"), [
    ("debian", "bookworm", "bookworm", False), ("debian", "12-slim", "bookworm", True),
    ("debian", "", "bookworm", False), ("debian", "slim", "bookworm", True),
    ("debian", "sid", "sid", False), ("ubuntu", "24.04", "noble", False), ("ubuntu", "", "noble", False),
])
def test_suites(distribution: str, tag: str, suite: str, slim: bool) -> None:
    assert recipes.suite_of(distribution, tag, BOOKWORM) == (suite, slim)


@pytest.mark.parametrize(("text", "mirror"), [
    ("deb [signed-by=/k] http://m/debian/ bookworm main\n", "http://m/debian"),
    ("Types: deb\n# URIs: http://no/debian\nURIs: http://s/debian-security http://m/debian\n",
     "http://m/debian"),
    ("deb http://m/ubuntu noble main\n", ""),
    ("", ""),
])
def test_mirror_of_the_host(text: str, mirror: str) -> None:
    assert recipes.host_mirror("debian", [text]) == mirror


def test_sources_have_updates_and_security() -> None:
    lines = recipes.sources("debian", "bookworm", "http://m/debian")
    assert [line.split("] ")[-1].removeprefix("deb ") for line in lines] == [
        "http://m/debian bookworm main", "http://m/debian bookworm-updates main",
        "http://m/debian-security bookworm-security main"]
    assert len(recipes.sources("debian", "sid", "http://m/debian")) == 1
    assert recipes.sources("debian", "bookworm", "") == []


def test_mmdebstrap_command() -> None:
    recipe = recipes.Recipe("debian", "bookworm", slim=True, mirrors=["deb http://m/debian b main"],
                            packages=["curl", "git"])
    argv = recipes.mmdebstrap_argv(recipe, quiet=True)
    assert argv[0] == "mmdebstrap"
    assert any(word.startswith("--include=") and word.endswith("curl,git") for word in argv)
    assert "--dpkgopt=path-exclude=/usr/share/man/*" in argv
    assert argv[-3:] == ["bookworm", "-", "deb http://m/debian b main"]
    assert "--quiet" in argv


def test_neither_tool_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    recipe = recipes.Recipe("debian", "bookworm", slim=False, mirrors=["deb http://m b main"],
                            packages=[])
    with pytest.raises(CommandError, match="apt-get install mmdebstrap"):
        build.distribution_tar(recipe, {}, quiet=True)


def test_failing_tool_ends_the_stream_with_an_error() -> None:
    stream = build._stream(["sh", "-c", "echo data; echo trouble >&2; exit 3"],
                           dict(os.environ), quiet=True)
    assert next(stream) == b"data\n"
    with pytest.raises(CommandError, match=r"trouble\nsh failed with exit status 3"):
        next(stream)


def test_tree_is_a_sorted_tar_with_clamped_times(tmp_path: Path) -> None:
    for name in ("b", "a", "proc/1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "dir").mkdir()
    once, again = (b"".join(build.tree_tar(str(tmp_path), 1000)) for _ in range(2))
    assert once == again
    with tarfile.open(fileobj=io.BytesIO(once)) as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == [".", "./a", "./b", "./link", "./dir", "./proc"]
    assert all(member.mtime <= 1000 and member.uname == "" for member in members)


def test_busybox_image_has_its_applets() -> None:
    data = build._busybox_archive(b"program", ["sh", "ls"], 5)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = archive.getnames()
        assert names == sorted(names)
        assert archive.getmember("bin/sh").linkname == "busybox"
        assert archive.getmember("tmp").mode == 0o1777
        assert {member.mtime for member in archive} == {5}


def elf(*kinds: int) -> bytes:
    head = bytearray(64)
    head[:6] = b"\x7fELF\x02\x01"
    head[32:40] = (64).to_bytes(8, "little")
    head[54:56], head[56:58] = (56).to_bytes(2, "little"), len(kinds).to_bytes(2, "little")
    return bytes(head) + b"".join(kind.to_bytes(4, "little") + bytes(52) for kind in kinds)


def test_static_programs_are_told_from_dynamic_ones() -> None:
    assert recipes.is_static_elf(elf(1, 6))
    assert not recipes.is_static_elf(elf(1, 3))
    assert not recipes.is_static_elf(b"#!/bin/sh")


def test_reproducible_epoch() -> None:
    assert build.epoch({}) is None
    assert build.epoch({"SOURCE_DATE_EPOCH": "7"}) == 7
    with pytest.raises(CommandError, match="not a number"):
        build.epoch({"SOURCE_DATE_EPOCH": "x"})


# -- embedded start -------------------------------------------------------------------------------


def test_only_an_absent_daemon_is_started() -> None:
    for error in (ConnectionFailedError("denied", 13), ValueError("x")):
        with pytest.raises(type(error)):
            embedded.start_daemon(error)


def test_palletd_is_looked_for_beside_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "pallet")])
    assert embedded.daemon_argv()[:3] == [sys.executable, "-I", "-S"]
    (tmp_path / "palletd").write_text("#!/bin/sh\n")
    (tmp_path / "palletd").chmod(0o755)
    assert embedded.daemon_argv() == [str(tmp_path / "palletd")]
