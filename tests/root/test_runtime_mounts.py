"""A container's file systems: hidden and read-only paths, binds, tmpfs, devices, the root."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pallet.linux import mount as m
from pallet.spec import runtime as oci
from pallet.spec.mounts import RootMount
from pallet.supervisor.failures import InvalidCommandError, StartError
from tests.root.runtimelab import default_mounts

if TYPE_CHECKING:
    from pathlib import Path

    from tests.root.runtimelab import Lab

pytestmark = pytest.mark.needs("root", "overlay")


def bind(source: Path | str, destination: str, *options: str) -> oci.Mount:
    return oci.Mount(destination=destination, type="bind", source=str(source),
                     options=list(options) or ["rbind", "rprivate"])


async def test_root_is_the_overlay_and_nothing_of_the_host(lab: Lab) -> None:
    code, output = await lab.run("cat", "/proc/self/mountinfo")
    assert code == 0
    points = [line.split()[4] for line in output.splitlines()]
    assert points[0] == "/"
    assert not [point for point in points if not point.startswith(("/proc", "/sys", "/dev"))][1:]


async def test_writes_stay_in_the_upper_layer(lab: Lab) -> None:
    name = lab.new_id()
    shim = await lab.supervisor.start_container(lab.request(
        name, "sh", "-c", "echo new > /etc/file; rm /bin/garbage"))
    assert (await shim.exited).exit_code == 0
    await shim.gone
    assert (lab.base / name / "upper/etc/file").read_text() == "new\n"
    assert stat.S_ISCHR((lab.base / name / "upper/bin/garbage").lstat().st_mode)
    assert (lab.base / "lower/etc/file").read_text() == "plain\n"
    assert not os.listdir(lab.shim_dir(name)) or "bundle" not in os.listdir(lab.shim_dir(name))


async def test_mounts_of_a_container_are_invisible_to_the_host(lab: Lab) -> None:
    def mounts() -> list[str]:
        with open("/proc/self/mountinfo") as file:
            return [line for line in file if "t-lab" in line]

    before = mounts()
    shim = await lab.start("sleep", "100")
    assert mounts() == before
    shim.kill(9)
    await shim.gone


async def test_masked_and_readonly_paths(lab: Lab) -> None:
    version1 = Path("/sys/fs/cgroup/memory")
    cgroups = version1 if version1.is_dir() else version1.parent
    code, output = await lab.run("sh", "-c", "wc -c < /proc/keys; ls /sys/firmware | wc -l; "
                                 f"echo 1 > /proc/sys/kernel/panic; echo x > /sys/x; mkdir {cgroups}/x")
    assert output.splitlines()[:2] == ["0", "0"]
    assert output.count("Read-only file system") == 3
    assert code == 1
    _, free = await lab.run("sh", "-c", "cat /proc/self/mountinfo | grep -c ' /proc/'",
                            linux_masked_paths=[], linux_readonly_paths=[])
    assert free == "0\n"


async def test_readonly_root(lab: Lab) -> None:
    # One stream: what a process writes to two pipes comes in no order.
    _, output = await lab.run("sh", "-c", "exec 2>&1; touch /x; touch /tmp/y && echo tmp; "
                              "touch /dev/shm/z && echo shm",
                              root=oci.Root(path="rootfs", readonly=True),
                              mounts=[*default_mounts(), oci.Mount(
                                  destination="/tmp", type="tmpfs", source="tmpfs",
                                  options=["noexec", "nosuid", "nodev", "size=1m"])])
    assert output == "touch: /x: Read-only file system\ntmp\nshm\n"


async def test_layers_without_a_writable_one(lab: Lab) -> None:
    root = RootMount(base_dir=str(lab.base), lower=["lower"])
    code, output = await lab.run("sh", "-c", "touch /x", extra={"root": root}, mounts=default_mounts())
    assert (code, output) == (1, "touch: /x: Read-only file system\n")


async def test_default_devices(lab: Lab) -> None:
    _, output = await lab.run("sh", "-c", "for d in null zero full random urandom tty; do "
                              "stat -c '%n %t:%T %a' /dev/$d; done; for l in fd stdin stdout "
                              "stderr ptmx; do readlink /dev/$l; done; ls /dev")
    assert output.split("\n")[:11] == [
        "/dev/null 1:3 666", "/dev/zero 1:5 666", "/dev/full 1:7 666", "/dev/random 1:8 666",
        "/dev/urandom 1:9 666", "/dev/tty 5:0 666", "/proc/self/fd", "/proc/self/fd/0",
        "/proc/self/fd/1", "/proc/self/fd/2", "pts/ptmx"]
    core = ["core"] if Path("/proc/kcore").exists() else []  # as the kernel has it or not
    assert output.split("\n")[11:-1] == [*core, "fd", "full", "mqueue", "null", "ptmx", "pts",
                                   "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom",
                                   "zero"]


async def test_further_device(lab: Lab) -> None:
    _, output = await lab.run(
        "sh", "-c", "stat -c '%t:%T %a %u:%g' /dev/deep/fuse", linux_devices=[oci.Device(
            path="/dev/deep/fuse", type="c", major=10, minor=229, file_mode=0o640, uid=3, gid=4)])
    assert output == "a:e5 640 3:4\n"


async def test_binds(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_text("data\n")
    code, output = await lab.run(
        "sh", "-c", "exec 2>&1; cat /new/dir/f /new/file /etc/file; echo more >> /new/dir/f; "
        "echo no >> /new/file; grep -c . /new/dir/f",
        mounts=[*default_mounts(), bind(tmp_path / "d", "/new/dir"),
                bind(tmp_path / "d/f", "/new/file", "rbind", "ro"),
                bind(tmp_path / "d/f", "/etc/file")])
    assert code == 0
    assert output == "data\ndata\ndata\nsh: can't create /new/file: Read-only file system\n2\n"
    assert (tmp_path / "d/f").read_text() == "data\nmore\n"


@pytest.mark.parametrize(("options", "below"), [
    (["rbind", "ro"], "wrote"), (["rbind", "ro", "rro"], "Read-only"), (["bind"], "no sub")])
async def test_what_a_bind_does_to_mounts_below(
    lab: Lab, tmp_path: Path, options: list[str], below: str
) -> None:
    (tmp_path / "sub").mkdir()
    m.mount("tmpfs", str(tmp_path / "sub"), "tmpfs")
    try:
        (tmp_path / "sub/mark").touch()
        _, output = await lab.run(
            "sh", "-c", "test -e /b/sub/mark || echo no sub; echo x > /b/sub/f && echo wrote",
            mounts=[*default_mounts(), bind(tmp_path, "/b", *options)])
    finally:
        m.unmount(str(tmp_path / "sub"))
    assert below in output


async def test_propagation_of_later_host_mounts(lab: Lab, tmp_path: Path) -> None:
    m.mount("tmpfs", str(tmp_path), "tmpfs")
    m.set_attributes(str(tmp_path), propagation=m.MS_SHARED)
    try:
        (tmp_path / "sub").mkdir()
        slave = await lab.start("sleep", "100", mounts=[
            *default_mounts(), bind(tmp_path, "/b", "rbind", "rslave")])
        private = await lab.start("sleep", "100", mounts=[
            *default_mounts(), bind(tmp_path, "/b", "rbind", "rprivate")])
        m.mount("tmpfs", str(tmp_path / "sub"), "tmpfs")
        (tmp_path / "sub/late").touch()
        try:
            assert os.path.exists(f"/proc/{slave.pid}/root/b/sub/late")
            assert not os.path.exists(f"/proc/{private.pid}/root/b/sub/late")
        finally:
            m.unmount(str(tmp_path / "sub"))
        for shim in (slave, private):
            shim.kill(9)
            await shim.gone
    finally:
        m.unmount(str(tmp_path), m.MNT_DETACH)


async def test_tmpfs_with_copy_up(lab: Lab) -> None:
    code, output = await lab.run(
        "sh", "-c", "cat /etc/passwd | wc -l; stat -c '%a' /etc; echo x > /etc/new; "
        "grep ' /etc ' /proc/mounts",
        mounts=[*default_mounts(), oci.Mount(destination="/etc", type="tmpfs", source="tmpfs",
                                             options=["nosuid", "size=2m", "tmpcopyup"])])
    assert code == 0
    assert output.replace(",inode64", "").splitlines() == [  # later kernels say that
        "2", "755", "tmpfs /etc tmpfs rw,nosuid,relatime,size=2048k,mode=755 0 0"]


async def test_destination_through_the_images_links_stays_inside(lab: Lab, tmp_path: Path) -> None:
    """An absolute or climbing link in the image leads within the container, not on the host."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (lab.base / "lower/absolute").symlink_to(outside)
    (lab.base / "lower/climbing").symlink_to("../../../../../../.." + str(outside))
    (tmp_path / "src").mkdir()
    for link in ("/absolute", "/climbing"):
        with pytest.raises((StartError, InvalidCommandError)):
            await lab.start("true", mounts=[*default_mounts(), bind(tmp_path / "src", link)])
    assert not os.listdir(outside)
    (lab.base / "lower" / str(outside).lstrip("/")).mkdir(parents=True)
    code, _ = await lab.run("touch", "/absolute/f", mounts=[
        *default_mounts(), bind(tmp_path / "src", "/absolute")])
    assert code == 0
    assert os.listdir(tmp_path / "src") == ["f"]
    assert not os.listdir(outside)


async def test_proc_on_a_link_is_refused(lab: Lab) -> None:
    (lab.base / "lower/proc").rmdir()
    (lab.base / "lower/proc").symlink_to("/tmp")
    with pytest.raises(StartError, match="must be mounted on ordinary directory"):
        await lab.start("true")


@pytest.mark.parametrize(("destination", "words"), [
    ("/tmp", "not a directory"), ("/proc", "cannot be mounted because it is not of type proc")])
async def test_bind_that_does_not_fit(
    lab: Lab, tmp_path: Path, destination: str, words: str
) -> None:
    source = tmp_path if destination == "/proc" else tmp_path / "file"
    (tmp_path / "file").touch()
    with pytest.raises((StartError, InvalidCommandError)) as caught:
        await lab.start("true", mounts=[*default_mounts(), bind(source, destination)])
    assert words in str(caught.value)
    if destination == "/tmp":
        assert str(caught.value).endswith(
            ": unknown: Are you trying to mount a directory onto a file (or vice-versa)? "
            "Check if the specified host path exists and is the expected type")


async def test_bind_of_a_missing_source(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(InvalidCommandError, match="no such file or directory") as caught:
        await lab.start("true", mounts=[*default_mounts(), bind(tmp_path / "none", "/x")])
    assert caught.value.exit_code == 127


async def test_cgroup_namespace(lab: Lab) -> None:
    kinds = ("mount", "uts", "pid", "ipc", "network", "cgroup")
    code, output = await lab.run(
        "sh", "-c", "cat /proc/self/cgroup; ls /sys/fs/cgroup/*/cgroup.procs | head -1",
        linux_namespaces=[oci.Namespace(type=kind) for kind in kinds])
    assert code == 0
    lines = [line for line in output.splitlines() if ":memory:" in line or line.startswith("0::")]
    assert any(line.endswith(":/") for line in lines)


async def test_volatile_root_after_an_unclean_end(lab: Lab) -> None:
    name = lab.new_id()
    root = lab.root(name, "volatile")
    (lab.base / name / "work/work/incompat/volatile").mkdir(parents=True)
    code, _ = await lab.run("true", extra={"root": root})
    assert code == 0


@pytest.mark.needs("userns")
async def test_user_namespace(lab: Lab) -> None:
    ids = [oci.IdMapping(container_id=0, host_id=0, size=1),
           oci.IdMapping(container_id=1, host_id=100000, size=65535)]
    kinds = ("user", "mount", "uts", "pid", "ipc", "network")
    code, output = await lab.run(
        "sh", "-c", "id -u; cat /proc/self/uid_map; stat -c '%t:%T' /dev/null; ps | wc -l; "
        "echo w > /w && cat /w; hostname",
        linux_namespaces=[oci.Namespace(type=kind) for kind in kinds],
        linux_uid_mappings=ids, linux_gid_mappings=ids)
    assert code == 0
    lines = output.splitlines()
    assert lines[0] == "0"
    assert [line.split() for line in lines[1:3]] == [["0", "0", "1"], ["1", "100000", "65535"]]
    assert lines[3] == "1:3"
    assert lines[-2:] == ["w", "box"]


async def test_rw_does_not_lift_what_the_host_made_read_only(lab: Lab, tmp_path: Path) -> None:
    m.mount("tmpfs", str(tmp_path), "tmpfs")
    m.set_attributes(str(tmp_path), attr_set=m.Attr.RDONLY)
    try:
        code, output = await lab.run("touch", "/b/f", mounts=[
            *default_mounts(), bind(tmp_path, "/b", "rbind", "rw", "rprivate")])
    finally:
        m.unmount(str(tmp_path))
    assert (code, output) == (1, "touch: /b/f: Read-only file system\n")
