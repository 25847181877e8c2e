"""``make vm-test``: run tests in a Debian virtual machine with systemd and cgroups v2.

Development machines mount their controllers on cgroup v1; users' machines mostly on v2 under systemd. This
builds a small Debian (mmdebstrap) with its cloud kernel, copies this checkout with its virtual
environment to the same path, boots it with qemu (software emulation; ``--accelerator kvm`` where that
works) and runs pytest as a service. Nothing is mounted; the machine has no network. The image is kept under
``build-out/vm`` and made again when its package list changes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build-out" / "vm"
PACKAGES = (
    "linux-image-cloud-amd64", "systemd-sysv", "dbus", "python3", "libseccomp2", "busybox-static", "tini",
    "docker.io", "runc", "crun", "nftables", "iptables", "iproute2", "procps", "openssl", "docker-registry",
    "skopeo", "ca-certificates", "util-linux", "git", "openssh-server", "qemu-user-static",
)
SELECTION = ["tests/root", "tests/contract", "tests/e2e/test_run.py", "tests/e2e/test_exit_codes.py",
             "tests/e2e/test_exec.py", "tests/e2e/test_limits.py", "tests/e2e/test_security.py",
             "tests/e2e/test_network.py", "tests/e2e/test_mounts.py"]  # fmt: skip
MARK = "pallet-vm-test ended with"
UNIT = """\
[Unit]
Description=Pallet's tests
After=multi-user.target
[Service]
Type=oneshot
Delegate=yes
ExecStart=/bin/sh /pallet-test.sh
[Install]
WantedBy=default.target
"""
SCRIPT = """\
exec >/dev/ttyS0 2>&1 </dev/null
cd {root}
mount -o remount,rw /
export PYTHONPATH=/ PALLET_PATIENCE=10 PALLET_REQUIRE="{require}" LANG=C.UTF-8
stat -fc %T /sys/fs/cgroup; cat /sys/fs/cgroup/cgroup.controllers
.venv/bin/python -m pytest -v --color=no -p no:cacheprovider -p pallet_at_once --timeout 900 \\
  -o faulthandler_timeout=890 {tests}
echo "{mark} $?"
sync
poweroff -f
"""


AT_ONCE = """\
def pytest_runtest_logreport(report):
    if report.failed:
        print("", report.nodeid, report.when, report.longreprtext, sep="\\n", flush=True)
"""
"""A plugin that shows a failure when it happens: a machine that is ended early has told what it found."""


def run(*argv: str | Path, **options: str) -> None:
    """Run a command to its end; a failure ends this program with its output."""
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        sys.exit(f"{argv[0]}: exit {done.returncode}\n{done.stdout}{done.stderr}")


def base_tar() -> Path:
    """The distribution's tree, made once for a package list."""
    key = hashlib.sha256(" ".join(PACKAGES).encode()).hexdigest()[:12]
    path = BUILD / f"debian-{key}.tar"
    if not path.exists():
        print("building the machine's Debian (some minutes)", flush=True)
        BUILD.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        run("mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", "--format=tar",
            "bookworm", partial)  # fmt: skip
        partial.rename(path)
    return path


def make_tree(tests: list[str]) -> Path:
    """Unpack the base, add this checkout and the unit that runs its tests."""
    tree = BUILD / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    run("tar", "-xf", base_tar(), "-C", tree, "--numeric-owner")
    target = tree / ROOT.relative_to("/")
    shutil.copytree(ROOT, target, symlinks=True,
                    ignore=shutil.ignore_patterns("vm", "__pycache__", "*_cache", ".hypothesis"))  # fmt: skip
    (tree / "pallet-test.sh").write_text(
        SCRIPT.format(root=ROOT, tests=" ".join(tests), mark=MARK,
                      require=os.environ.get("PALLET_REQUIRE", ""))
    )  # fmt: skip
    (tree / "pallet_at_once.py").write_text(AT_ONCE)
    units = tree / "etc/systemd/system"
    (units / "pallet-test.service").write_text(UNIT)
    for unit in ("docker.service", "docker.socket", "containerd.service", "docker-registry.service",
                 "serial-getty@.service"):
        (units / unit).symlink_to("/dev/null")
    link = units / "default.target.wants" / "pallet-test.service"
    link.parent.mkdir(exist_ok=True)
    link.symlink_to("/etc/systemd/system/pallet-test.service")
    (tree / "etc/fstab").write_text("/dev/vda / ext4 rw 0 0\n")
    return tree


def boot(tree: Path, memory_mb: int, accelerator: str) -> int:
    """Make the disk, boot it, copy its console here; returns the tests' exit code."""
    disk = BUILD / "disk.img"
    disk.unlink(missing_ok=True)
    run("mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=1", "-d", tree, disk, "8G")
    boot_dir = tree / "boot"
    kernel, initrd = next(boot_dir.glob("vmlinuz-*")), next(boot_dir.glob("initrd.img-*"))
    argv = [
        "qemu-system-x86_64", "-machine", f"q35,accel={accelerator}", "-cpu", "max", "-smp", "2", "-m", str(memory_mb),
        "-nographic", "-no-reboot", "-nic", "none", "-kernel", str(kernel), "-initrd", str(initrd),
        "-append", "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=no systemd.unified_cgroup_hierarchy=1",
        "-drive", f"file={disk},if=virtio,format=raw,cache=unsafe",
    ]  # fmt: skip
    code = 1
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace")
    assert process.stdout
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            if match := re.search(rf"{MARK} (\d+)", line):
                code = int(match[1])
        process.wait(60)
    finally:
        process.kill()
        process.wait()
        disk.unlink(missing_ok=True)
    return code


def main() -> int:
    """Build, boot, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tests", nargs="*", default=SELECTION, help="what to hand to pytest")
    parser.add_argument("--memory-mb", type=int, default=3072)
    parser.add_argument("--accelerator", default="tcg",
                        help="qemu's; a /dev/kvm that exists may still not work (default: emulation)")  # fmt: skip
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root: the machine's tree has devices and other users' files")
    for command, package in (("qemu-system-x86_64", "qemu-system-x86"), ("mmdebstrap", "mmdebstrap"),
                             ("mke2fs", "e2fsprogs")):  # fmt: skip
        if not shutil.which(command):
            sys.exit(f"{command} is missing: apt-get install {package}")
    tree = make_tree(options.tests)
    try:
        return boot(tree, options.memory_mb, options.accelerator)
    finally:
        shutil.rmtree(tree, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
